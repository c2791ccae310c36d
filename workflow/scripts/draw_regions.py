"""Draw the volumes of the largest regions."""

import csv

from terareg.execution.job import run_job
from terareg.storage.store import write_atomic
from terareg.views.figures.regions import region_bars


def main() -> None:
    with open(snakemake.input.table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    write_atomic(snakemake.output.picture, region_bars(rows))


run_job(snakemake, main)
