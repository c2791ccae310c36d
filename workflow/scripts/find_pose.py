"""Find the initial pose of the atlas in the sample."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.registration.images import Image
from terareg.registration.landmarks import read_landmarks
from terareg.registration.pose import PoseSettings, initial_affine
from terareg.registration.reading import reading_resolution
from terareg.registration.transform import write_affine
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    settings = PoseSettings(**snakemake.params.pose, threads=snakemake.params.threads)
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    volume = Volume(Store(snakemake.params.store), f"{sample}/{snakemake.params.source}")
    resolution = reading_resolution(atlas.frame, snakemake.params.resolution_um)
    data, frame = volume.resampled(resolution, snakemake.threads)
    affine, info = initial_affine(
        Image(atlas.template, atlas.frame, name=f"atlas {name}"),
        Image(data, frame, name=f"sample {sample}"),
        settings,
        read_landmarks(snakemake.input.get("landmarks")),
        snakemake.params.right_side_um,
    )
    write_affine(snakemake.output.affine, affine)
    write_json(snakemake.output.pose, info)


run_job(snakemake, main)
