"""Register the atlas to the sample."""

from dataclasses import replace
from pathlib import Path

from terareg.atlas.prepare import load_atlas, load_image
from terareg.execution.job import run_job
from terareg.registration.emlddmm import register
from terareg.registration.images import Image
from terareg.registration.landmarks import read_landmarks
from terareg.registration.pose import check_confirmed
from terareg.registration.reading import reading_resolution
from terareg.registration.regions import Regions
from terareg.registration.schedule import Hints
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import read_affine
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    pose = read_json(snakemake.input.pose)
    check_confirmed(pose, snakemake.wildcards.sample, snakemake.params.orientation_confirmed)
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    settings = RegistrationSettings(**snakemake.params.settings)
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    templates = [Image(atlas.template, atlas.frame, name=f"atlas {name}")]
    for key, path in zip(snakemake.params.images, snakemake.input.images):
        image = load_image(path, atlas.frame)
        templates.append(Image(image, atlas.frame, name=f"image {key} of atlas {name}"))
    resolution = reading_resolution(atlas.frame, settings.resolution_um)
    store, channels = Store(snakemake.params.store), []
    for channel, source in snakemake.params.sources.items():
        data, frame = Volume(store, f"{sample}/{source}").resampled(resolution, snakemake.threads)
        channels.append(Image(data, frame, name=f"channel {channel} of sample {sample}"))
    # beside the log, where a killed job's next attempt finds it
    checkpoint = Path(snakemake.log[0]).with_suffix(".checkpoint.npz")
    result = register(
        templates,
        channels,
        replace(settings, threads=snakemake.params.threads),
        read_affine(snakemake.input.affine),
        checkpoint=checkpoint,
        hints=Hints(
            pose["extent"],
            read_landmarks(snakemake.input.get("landmarks")),
            Regions(
                atlas.annotation,
                {item.id: item.parent for item in atlas.ontology},
                {item.id: item.acronym for item in atlas.ontology},
            ),
        ),
        code=snakemake.params.code,
    )
    result.save(Path(snakemake.output.affine).parent)
    checkpoint.unlink(missing_ok=True)


run_job(snakemake, main)
