"""Compare a map in the atlas voxel by voxel: means, spread and standardised difference."""

from pathlib import Path

from terareg.atlas.prepare import load_frame
from terareg.cohort.maps import compare_maps, in_regions, in_slabs, log_ratios
from terareg.cohort.model import design_of
from terareg.cohort.table import read_cohort, used_cohort
from terareg.execution.job import run_job
from terareg.storage.nrrd import image_slabs, write_scalar
from terareg.storage.records import read_table


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    images = dict(zip((member.sample for member in cohort.members), snakemake.input.images))
    cohort = used_cohort(cohort, read_table(snakemake.input.samples))
    paths = {member.sample: images[member.sample] for member in cohort.members}
    atlas = load_frame(Path(snakemake.input.atlas).parent)
    if snakemake.wildcards.map == "log_jacobian":
        frame, logs = log_ratios(paths)
        maps = [in_slabs(log) for log in logs]
        outside = ~in_regions(snakemake.input.annotation, atlas, frame)
    else:
        # their files do not name their grid, which is that of the atlas
        frame, outside = atlas, None
        maps = [image_slabs(path, frame) for path in paths.values()]
    made = compare_maps(maps, frame, design_of(cohort))
    for name, image in made.items():
        if outside is not None:
            image[outside] = 0
        write_scalar(snakemake.output[name], image, frame)


run_job(snakemake, main)
