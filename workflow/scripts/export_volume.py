"""Write a volume, labels or a map as one file for other programs."""

from terareg.execution.job import run_job
from terareg.exports.export import Export, make_export
from terareg.exports.files import write_file
from terareg.exports.settings import ExportSettings
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    name = snakemake.wildcards.export
    place = Store(snakemake.params.store), snakemake.wildcards.sample
    settings = ExportSettings.from_config(snakemake.params.settings, f"export.{name}")

    def write(each: Export) -> dict:
        return write_file(
            snakemake.output.image, each.settings.format, each.picture, each.slabs, each.workers
        )

    record = make_export(name, settings, place, snakemake.input, write, snakemake.threads)
    write_json(snakemake.output.record, record)


run_job(snakemake, main)
