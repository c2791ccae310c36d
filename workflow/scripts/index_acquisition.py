"""Check the raw data of a sample and describe its acquisition."""

from terareg.acquisition.indexing import IndexSettings, index_acquisition
from terareg.acquisition.layout_kinds import open_layout
from terareg.execution.job import run_job
from terareg.execution.sides import second_sides
from terareg.storage.records import write_json


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
