"""Write tables of the regions of an export: values, names, colours; also for ITK-SNAP."""

from pathlib import Path

from terareg.execution.job import run_job
from terareg.exports.export import label_table
from terareg.exports.settings import ExportSettings
from terareg.storage.records import write_table
from terareg.storage.store import write_atomic


def main() -> None:
    key = f"export.{snakemake.wildcards.export}"
    settings = ExportSettings.from_config(snakemake.params.settings, key)
    table = label_table(settings, Path(snakemake.input.atlas).parent)
    write_table(snakemake.output.table, table.to_rows())
    write_atomic(snakemake.output.itksnap, table.to_itksnap())


run_job(snakemake, main)
