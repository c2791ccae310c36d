"""Write the metadata of meshes or skeletons, check that all are there, and list them."""

from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json, write_table
from terareg.storage.store import Store


def main() -> None:
    sample, settings = snakemake.wildcards.sample, snakemake.params
    entry, store = Entry.from_json(settings.entry), Store(settings.store)
    tool = make_tool(open_view(store, sample, entry, settings.address), entry)
    summaries = [read_json(path) for path in snakemake.input.batches]
    where = store, f"{sample}/{entry.key}/{tool.folder}"
    rows, objects = tool.finish_objects(summaries, where)
    write_json(snakemake.output.objects, {"objects": objects})
    write_table(snakemake.output.table, rows)


run_job(snakemake, main)
