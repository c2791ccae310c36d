"""Gather what all batches found in the source of a tool."""

from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.execution.job import run_job
from terareg.storage.array_files import read_arrays, write_arrays
from terareg.storage.store import Store


def main() -> None:
    settings = snakemake.params
    entry = Entry.from_json(settings.entry)
    view = open_view(Store(settings.store), snakemake.wildcards.sample, entry, settings.address)
    tool = make_tool(view, entry, snakemake.input.get("own", []))
    parts = (part for path in snakemake.input.parts if (part := read_arrays(path)))
    write_arrays(snakemake.output.measured, tool.finish([tool.gathered(parts)]))


run_job(snakemake, main)
