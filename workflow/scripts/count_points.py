"""Count a set of points in the regions and hemispheres of its atlas."""

import csv
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.counts import count_table
from terareg.storage.records import read_table, write_table


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    with open(snakemake.input.points, newline="", encoding="utf-8") as stream:
        lines = [(int(row["region_id"]), row["hemisphere"]) for row in csv.DictReader(stream)]
    ids = np.array([region for region, _ in lines], np.uint32)
    sides = [side for _, side in lines]
    rows = count_table(ids, sides, read_table(snakemake.input.regions), atlas.ontology)
    write_table(snakemake.output.table, rows)


run_job(snakemake, main)
