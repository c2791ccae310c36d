"""Check the raw data of a sample and describe its acquisition."""

from collections.abc import Mapping

from terareg.acquisition.indexing import IndexSettings, index_acquisition
from terareg.acquisition.layout_kinds import open_layout
from terareg.execution.job import run_job
from terareg.storage.records import write_json


def second_sides(sides: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The second side of every channel, and the first one."""
    return {second: first for first, second in map(tuple, sides.values())}


def main() -> None:
    source = snakemake.params.settings
    settings = IndexSettings(
        snakemake.wildcards.sample,
        source["orientation"],
        source["missing_planes"],
        second_sides=second_sides(source["sides"]),
        missing_sides=source["missing_sides"],
    )
    acquisition = index_acquisition(open_layout(source), settings)
    write_json(snakemake.output.acquisition, acquisition.to_json())


run_job(snakemake, main)
