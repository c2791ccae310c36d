"""Draw the error of every fiducial."""

import csv

from terareg.execution.job import run_job
from terareg.storage.store import write_atomic
from terareg.views.figures.regions import fiducial_errors


def main() -> None:
    with open(snakemake.input.table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    write_atomic(snakemake.output.picture, fiducial_errors(rows))


run_job(snakemake, main)
