"""Make the report of a sample."""

from pathlib import Path

from terareg.job import run_job
from terareg.views.report import gather_report, software_versions, write_report


def main() -> None:
    data = gather_report(
        Path(snakemake.input.index).parent,
        sample=snakemake.wildcards.sample,
        provenance=dict(snakemake.params.provenance) | {"software": software_versions()},
        limits=snakemake.params.thresholds,
        store_url=snakemake.params.store,
    )
    write_report(snakemake.output.report, data)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
