"""Draw the regions with most cells."""

from terareg.execution.job import run_job
from terareg.storage.records import read_table
from terareg.storage.store import write_atomic
from terareg.views.figures.regions import region_bars


def main() -> None:
    rows = [row for row in read_table(snakemake.input.table) if row["id"] != "0"]
    picture = region_bars(rows, value="count", label=f"cells {snakemake.wildcards.cells}")
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
