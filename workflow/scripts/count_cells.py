"""Carry cells into an atlas: region of each, counts and densities of regions, a map."""

from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.counts import count_table
from terareg.regions.drawn_regions import Shifts
from terareg.regions.points import located_in_atlas
from terareg.registration.transform import Transform
from terareg.signal.cells import CELL, load_array, write_cells_csv
from terareg.signal.density import density_map
from terareg.storage.nrrd import read_scalar, write_image
from terareg.storage.records import read_table, write_table


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    cells = load_array(snakemake.input.cells, CELL)
    position_um, ids, sides = located_in_atlas(cells["position_um"], transform, atlas)
    acronyms = {0: ""} | {region.id: region.acronym for region in atlas.ontology}
    labels = (ids.tolist(), [acronyms[i] for i in ids.tolist()], sides)
    write_cells_csv(snakemake.output.table, cells, position_um, labels)
    drawn = ()
    if "shifts" in snakemake.input.keys():
        shifts = Shifts(*read_scalar(snakemake.input.shifts))
        drawn = shifts.regions(cells["position_um"], transform, atlas)
    measured = read_table(snakemake.input.regions)
    rows = count_table((ids, sides), measured, atlas.ontology, drawn)
    write_table(snakemake.output.regions, rows)
    heat_map = density_map(position_um, atlas.frame, snakemake.params.settings["heat_map_um"])
    write_image(snakemake.output.density, np.ascontiguousarray(heat_map), atlas.frame)


run_job(snakemake, main)
