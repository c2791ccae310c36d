"""Draw a map of a comparison in three planes of the atlas."""

from terareg.cohort.maps import MAPS
from terareg.cohort.table import read_cohort
from terareg.execution.job import run_job
from terareg.storage.nrrd import read_scalar
from terareg.storage.store import write_atomic
from terareg.views.cohort import map_title
from terareg.views.figures.cohort import voxel_maps


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    reference, other = cohort.groups
    read = {name: read_scalar(snakemake.input[name]) for name in MAPS}
    _, frame = read["cohens_d"]
    maps = {name: image for name, (image, _) in read.items()}
    rows = {"mean_reference": f"mean of {reference}", "mean_compared": f"mean of {other}",
            "sd": "standard deviation", "cohens_d": "Cohen's d"}  # fmt: skip
    title = map_title(snakemake.wildcards.map)
    write_atomic(snakemake.output.picture, voxel_maps(maps, rows, frame, title))


run_job(snakemake, main)
