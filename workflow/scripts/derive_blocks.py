"""Make one batch of blocks of a derived volume."""

from terareg.core.parallel import share_heap
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import check_unchanged, open_view
from terareg.execution.job import run_job
from terareg.storage.array_files import read_arrays
from terareg.storage.records import file_hash, fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import write_blocks


def main() -> None:
    share_heap()
    sample, settings = snakemake.wildcards.sample, snakemake.params
    entry, store = Entry.from_json(settings.entry), Store(settings.store)
    view = open_view(store, sample, entry, settings.address)
    tool = make_tool(view, entry, snakemake.input.get("own", []))
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    complete, measured = snakemake.input.get("complete"), snakemake.input.get("measured")
    source = settings.source_state or read_json(complete)["sha256"]
    found = read_arrays(measured) if measured else {}
    files = [*snakemake.input.get("own", []), *([measured] if measured else [])]
    hashes = [file_hash(file) for file in files]
    state = fingerprint(settings.code, settings.entry, planned, source, hashes)
    summary = write_blocks(
        store,
        f"{sample}/{entry.key}",
        plan,
        plan.batch(int(snakemake.wildcards.batch), settings.batches),
        lambda block: tool.make(block, found),
        fingerprint=state,
        workers=snakemake.threads,
        layers=lambda block: tool.layers(block, plan.chunk[0]),
        notes=(lambda block: {"outside": tool.is_outside(block)}) if entry.mask else lambda _: {},
    )
    check_unchanged(settings.address, settings.source_state)
    write_json(snakemake.output.batch, summary)


run_job(snakemake, main)
