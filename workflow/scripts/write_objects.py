"""Join and write the meshes or skeletons of one batch of labels."""

from terareg.core.parallel import batch_range
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.execution.job import run_job
from terareg.storage.array_files import read_arrays
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    sample, settings = snakemake.wildcards.sample, snakemake.params
    entry, store = Entry.from_json(settings.entry), Store(settings.store)
    tool = make_tool(open_view(store, sample, entry, settings.address), entry)
    shards = batch_range(tool.shards.count, int(snakemake.wildcards.batch), settings.batches)
    where = store, f"{sample}/{entry.key}/{tool.folder}"
    measured = read_arrays(snakemake.input.measured)
    write_json(snakemake.output.batch, tool.write_objects(measured, where, shards))


run_job(snakemake, main)
