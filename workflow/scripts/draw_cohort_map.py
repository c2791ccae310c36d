"""Draw a map of a comparison in three planes of the atlas."""

from terareg.cohort.maps import MAPS
from terareg.execution.job import run_job
from terareg.storage.nrrd import read_scalar
from terareg.storage.store import write_atomic
from terareg.views.figures.cohort import voxel_maps


def main() -> None:
    read = {name: read_scalar(snakemake.input[name]) for name in MAPS}
    _, frame = read["cohens_d"]
    maps = {name: image for name, (image, _) in read.items()}
    title = snakemake.wildcards.map.replace("_", " ")
    rows = {"mean_reference": "reference", "mean_compared": "compared", "sd": "spread",
            "cohens_d": "Cohen's d"}  # fmt: skip
    write_atomic(snakemake.output.picture, voxel_maps(maps, rows, frame, title))


run_job(snakemake, main)
