"""Judge and draw a registration, for the whole brain and for each region."""

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import Atlas, load_atlas
from terareg.core.frames import Frame
from terareg.execution.job import run_job
from terareg.regions.labels import region_block, regions_at
from terareg.regions.quality import FitMaps, region_quality, volume_ratio_on
from terareg.registration.contrast import CLASSES
from terareg.registration.images import Image, prepare
from terareg.registration.transform import Transform, read_affine
from terareg.storage import nrrd
from terareg.storage.records import read_json, write_json, write_table
from terareg.storage.store import Store, write_atomic
from terareg.views import thresholds
from terareg.views.figures import registration as draw
from terareg.volumes.reader import Volume


def labels_by_affine(path: str, atlas: Atlas, frame: Frame) -> np.ndarray:
    """Region of every voxel of the sample by an affine alone."""
    inverse = np.linalg.inv(read_affine(path))
    grid = np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"))
    place = np.einsum("ij,j...->i...", inverse[:3, :3], grid) + inverse[:3, 3, None, None, None]
    return regions_at(atlas, place)[0]


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    transform = Transform.load(Path(snakemake.input.affine).parent)
    store, channels = Store(snakemake.params.store), {}
    for channel, source in snakemake.params.sources.items():
        volume = Volume(store, f"{sample}/{source}")
        channels[channel], frame = volume.resampled(transform.sample_frame, snakemake.threads)
    data = next(iter(channels.values()))
    before = labels_by_affine(snakemake.input.initial, atlas, frame)
    after, sides = region_block(transform, atlas, frame)
    title = f"{sample}, {name}"
    pictures = snakemake.output
    overlay = draw.registration_overlay(data, frame, before, after, title=title)
    write_atomic(pictures.overlay, overlay)
    predicted, _ = nrrd.read_scalar(snakemake.input.predicted)
    seen = {
        c: prepare(Image(data, frame, name=f"channel {c}")).values for c, data in channels.items()
    }
    predicted = predicted.reshape(-1, *frame.shape)
    pairs = dict(zip(seen, zip(seen.values(), predicted)))
    write_atomic(pictures.prediction, draw.prediction(pairs, frame, title=title))
    figures = thresholds.of_registration(read_json(snakemake.input.summary), name)
    verdicts = thresholds.judge(figures, snakemake.params.thresholds)
    write_json(pictures.verdicts, [asdict(verdict) for verdict in verdicts])
    posteriors, _ = nrrd.read_scalar(snakemake.input.posteriors)
    maps = dict(zip(CLASSES, posteriors))
    first = next(iter(seen.values()))
    write_atomic(pictures.posteriors, draw.posterior_maps(maps, frame, first, verdicts))
    with open(snakemake.input.energy, newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    write_atomic(pictures.energy, draw.energy_curve(rows))
    jacobian, jacobian_frame = nrrd.read_scalar(snakemake.input.jacobian)
    fit = FitMaps(
        predicted - np.stack(list(seen.values())),
        **maps,
        volume_ratio=volume_ratio_on(frame, transform, jacobian, jacobian_frame),
    )
    rows = region_quality(after, sides, frame, fit, atlas.ontology)
    write_table(pictures.quality, rows, ".6g")
    write_atomic(pictures.map, draw.quality_map(rows, after, sides, frame))
    write_atomic(pictures.jacobian, draw.jacobian_map(jacobian, jacobian_frame))
    write_atomic(pictures.histogram, draw.jacobian_histogram(jacobian))


run_job(snakemake, main)
