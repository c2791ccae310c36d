"""Check the raw data of a sample and describe its acquisition."""

from terareg.acquisition.colm import IndexSettings, index_colm
from terareg.job import run_job
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    source = snakemake.params.settings
    settings = IndexSettings(
        sample=snakemake.wildcards.sample,
        orientation=source["orientation"],
        channels=[{"name": n, "index": i} for n, i in source["channels"].items()],
        missing_planes=source["missing_planes"],
        spacing_um=source["spacing_um"],
        overlap=source["overlap"],
        view=source["view"],
    )
    acquisition = index_colm(Store(source["path"]), settings)
    write_json(snakemake.output.acquisition, acquisition.to_json())


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
