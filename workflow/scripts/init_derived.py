"""Plan what a tool makes of its source, and write the metadata of its volume."""

from terareg.derived.section import Entry
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import check_unchanged, count_absent, open_view
from terareg.execution.job import run_job
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, settings = snakemake.wildcards.sample, snakemake.params
    entry, store = Entry.from_json(settings.entry), Store(settings.store)
    view = open_view(store, sample, entry, settings.address)
    absent = count_absent(entry, settings.address)
    plan = plan_of(
        make_tool(view, entry, snakemake.input.get("own", [])),
        entry,
        settings.volume,
        f"{sample} {entry.name}",
    )
    check_unchanged(settings.address, settings.source_state)
    if entry.facts.makes:
        metadata = {"derived": entry.to_json()}
        init_volume(store, f"{sample}/{entry.key}", plan, metadata, replace=True)
    source = view.to_json() | {"absent_chunks": absent}
    write_json(snakemake.output.plan, {"plan": plan.to_json(), "source": source})


run_job(snakemake, main)
