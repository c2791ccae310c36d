"""Look at one batch of blocks of the source of a tool."""

from terareg.core.parallel import map_items, share_heap
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import check_unchanged, open_view
from terareg.execution.job import run_job
from terareg.storage.array_files import write_arrays
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan


def main() -> None:
    share_heap()
    settings = snakemake.params
    entry = Entry.from_json(settings.entry)
    view = open_view(Store(settings.store), snakemake.wildcards.sample, entry, settings.address)
    tool = make_tool(view, entry, snakemake.input.get("own", []))
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    blocks = plan.batch(int(snakemake.wildcards.batch), settings.batches)
    what = f"{plan.name}: measured blocks"
    found = tool.gathered(map_items(tool.measure, blocks, workers=snakemake.threads, what=what))
    check_unchanged(settings.address, settings.source_state)
    write_arrays(snakemake.output.part, found)


run_job(snakemake, main)
