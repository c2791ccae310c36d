"""Count a set of points in the regions and hemispheres of its atlas."""

import csv
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.counts import count_table
from terareg.regions.drawn_regions import Shifts
from terareg.registration.transform import Transform
from terareg.storage.nrrd import read_scalar
from terareg.storage.records import read_table, write_table


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    with open(snakemake.input.points, newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    ids = np.array([int(row["region_id"]) for row in lines], np.uint32)
    drawn = ()
    if "shifts" in snakemake.input.keys():
        # the file has places in the atlas
        transform = Transform.load(Path(snakemake.input.transform).parent)
        in_atlas = np.array([[float(row[f"{a}_um"]) for a in "zyx"] for row in lines])
        shifts = Shifts(*read_scalar(snakemake.input.shifts))
        drawn = shifts.regions(transform.to_sample(in_atlas.reshape(-1, 3)), transform, atlas)
    located = ids, [row["hemisphere"] for row in lines]
    measured = read_table(snakemake.input.regions)
    rows = count_table(located, measured, atlas.ontology, drawn)
    write_table(snakemake.output.table, rows)


run_job(snakemake, main)
