"""Write a volume, labels or a map as files of planes or tiles, in the store."""

from pathlib import Path

from terareg.core.numeric import Clipped
from terareg.execution.job import run_job
from terareg.exports.export import (
    clipped_facts,
    export_record,
    label_table,
    open_origin,
    prepare_export,
)
from terareg.exports.files import write_planes
from terareg.exports.settings import TILES, ExportSettings
from terareg.exports.tiles import write_tiles
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    name, given = snakemake.wildcards.export, snakemake.input
    store, sample = Store(snakemake.params.store), snakemake.wildcards.sample
    settings = ExportSettings.from_config(snakemake.params.settings, f"export.{name}")
    source = open_origin(settings.origin, store, sample, given.get("image"))
    table = label_table(settings, Path(given.get("atlas", ".")).parent)
    clipped: list[Clipped] = []
    picture, slabs = prepare_export(settings, source, table, name, snakemake.threads, clipped)
    key = f"{sample}/exports/{name}"
    if settings.format == TILES:
        facts = write_tiles(store, key, settings, source, name, snakemake.threads)
    else:
        facts = write_planes(store, key, settings.format, picture, slabs, snakemake.threads)
    write_json(
        snakemake.output.record,
        export_record(settings, source, picture, facts | clipped_facts(clipped)),
    )


run_job(snakemake, main)
