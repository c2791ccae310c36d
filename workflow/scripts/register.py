"""Register the atlas to the sample."""

from dataclasses import replace
from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.job import run_job
from terareg.registration.emlddmm import register
from terareg.registration.images import Image
from terareg.registration.landmarks import read_landmarks
from terareg.registration.reading import reading_resolution
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import read_affine
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    settings = RegistrationSettings(**snakemake.params.settings)
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    volume = Volume(Store(snakemake.params.store), f"{sample}/{snakemake.params.source}")
    resolution = reading_resolution(atlas.frame, settings.resolution_um)
    data, frame = volume.resampled(resolution, snakemake.threads)
    result = register(
        Image(atlas.template, atlas.frame, name=f"atlas {name}"),
        Image(data, frame, name=f"sample {sample}"),
        replace(settings, threads=snakemake.params.threads),
        read_affine(snakemake.input.affine),
        # beside the log, where a killed job's next attempt finds it
        checkpoint=Path(snakemake.log[0]).with_suffix(".checkpoint.npz"),
        extent=read_json(snakemake.input.pose)["extent"],
        landmarks=read_landmarks(snakemake.input.get("landmarks")),
    )
    result.save(Path(snakemake.output.affine).parent)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
