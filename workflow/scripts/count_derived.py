"""Write the tables of labels that were counted."""

from terareg.derived.section import Entry
from terareg.derived.tools import make_tool
from terareg.derived.view import open_view
from terareg.execution.job import run_job
from terareg.storage.array_files import read_arrays
from terareg.storage.records import write_table
from terareg.storage.store import Store


def main() -> None:
    settings = snakemake.params
    entry = Entry.from_json(settings.entry)
    view = open_view(Store(settings.store), snakemake.wildcards.sample, entry, settings.address)
    counts, regions = make_tool(view, entry).tables(read_arrays(snakemake.input.measured))
    write_table(snakemake.output.counts, counts)
    write_table(snakemake.output.regions, regions)


run_job(snakemake, main)
