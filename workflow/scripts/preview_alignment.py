"""Draw the atlas on the sample by the initial pose."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.registration.reading import reading_resolution
from terareg.registration.transform import read_affine
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.registration import preview_alignment
from terareg.volumes.reader import Volume


def main() -> None:
    sample, params = snakemake.wildcards.sample, snakemake.params
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    volume = Volume(Store(params.store), f"{sample}/{params.source}")
    resolution = reading_resolution(atlas.frame, params.resolution_um)
    data, frame = volume.resampled(resolution, snakemake.threads)
    affine = read_affine(snakemake.input.affine)
    picture = preview_alignment(data, frame, atlas.template, atlas.annotation, atlas.frame, affine)
    write_atomic(snakemake.output.preview, picture)


run_job(snakemake, main)
