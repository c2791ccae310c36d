"""Compare a map in the atlas voxel by voxel: means, spread and standardised difference."""

from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_frame
from terareg.cohort.maps import compare_maps, in_regions, in_slabs, log_ratios, volume_slabs
from terareg.cohort.model import design_of
from terareg.cohort.table import read_cohort, used_cohort
from terareg.execution.job import run_job
from terareg.storage.nrrd import image_slabs, write_scalar
from terareg.storage.records import read_table
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    given = snakemake.params.settings
    cohort = read_cohort(snakemake.input.table, given["groups"], given["covariates"])
    images = dict(zip((member.sample for member in cohort.members), snakemake.input.images))
    cohort = used_cohort(cohort, read_table(snakemake.input.samples))
    paths = {member.sample: images[member.sample] for member in cohort.members}
    atlas = load_frame(Path(snakemake.input.atlas).parent)
    volumes = snakemake.params.volumes
    if volumes:
        frame, seen = atlas, np.ones(atlas.shape, bool)
        places = (volumes[member.sample] for member in cohort.members)
        maps = [volume_slabs(Volume(Store(url), key), frame, seen) for url, key in places]
    elif snakemake.wildcards.map == "log_jacobian":
        frame, logs = log_ratios(paths)
        maps, seen = [in_slabs(log) for log in logs], True
    else:
        # their files do not name their grid, which is that of the atlas
        frame, seen = atlas, None
        maps = [image_slabs(path, frame) for path in paths.values()]
    made = compare_maps(maps, frame, design_of(cohort))
    if seen is not None:
        outside = ~(seen & in_regions(snakemake.input.annotation, atlas, frame))
    for name, image in made.items():
        if seen is not None:
            image[outside] = 0
        write_scalar(snakemake.output[name], image, frame)


run_job(snakemake, main)
