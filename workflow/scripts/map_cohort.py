"""Compare a map in the atlas voxel by voxel: means, spread and standardised difference."""

from pathlib import Path

from terareg.atlas.prepare import load_frame
from terareg.cohort.maps import common_frame, compare_maps, log_ratio
from terareg.cohort.model import design_of
from terareg.cohort.table import read_cohort, used_cohort
from terareg.execution.job import run_job
from terareg.storage.nrrd import write_scalar
from terareg.storage.records import read_table


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    images = dict(zip((member.sample for member in cohort.members), snakemake.input.images))
    cohort = used_cohort(cohort, read_table(snakemake.input.samples))
    paths = {member.sample: images[member.sample] for member in cohort.members}
    # maps of cells lie on the grid of the atlas, which their files do not name
    is_ratio = snakemake.wildcards.map == "log_jacobian"
    frame = common_frame(paths) if is_ratio else load_frame(Path(snakemake.input.atlas).parent)
    made = compare_maps(
        list(paths.values()), frame, design_of(cohort), log_ratio if is_ratio else None
    )
    for name, image in made.items():
        write_scalar(snakemake.output[name], image, frame)


run_job(snakemake, main)
