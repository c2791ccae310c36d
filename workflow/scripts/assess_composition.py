"""Judge and draw the regions of an atlas that the sample reaches through another one."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.composed import labels_before
from terareg.regions.labels import region_block
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


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    files, pictures = snakemake.input, snakemake.output
    atlas = load_atlas(Path(files.atlas).parent)
    composed = Transform.load(Path(files.affine).parent)
    registered = Transform.load(Path(files.base_affine).parent)
    store, channels = Store(snakemake.params.store), {}
    for channel, source in snakemake.params.sources.items():
        volume = Volume(store, f"{sample}/{source}")
        channels[channel], frame = volume.resampled(composed.sample_frame, snakemake.threads)
    summary = read_json(files.summary)
    figures = thresholds.of_registration(summary, name)
    verdicts = thresholds.judge(figures, snakemake.params.thresholds)
    write_json(pictures.verdicts, [asdict(verdict) for verdict in verdicts])
    before = labels_before((composed, registered), read_affine(files.initial), atlas, frame)
    after, sides = region_block(composed, atlas, frame)
    data = next(iter(channels.values()))
    title = f"{sample}, {name} through {summary['through']}"
    overlay = draw.registration_overlay(data, frame, before, after, title=title)
    write_atomic(pictures.overlay, overlay)
    predicted, _ = nrrd.read_scalar(files.predicted)
    posteriors, _ = nrrd.read_scalar(files.posteriors)
    seen = [prepare(Image(d, frame, name=f"channel {c}")).values for c, d in channels.items()]
    jacobian, jacobian_frame = nrrd.read_scalar(files.jacobian)
    fit = FitMaps(
        predicted.reshape(-1, *frame.shape) - np.stack(seen),
        **dict(zip(CLASSES, posteriors)),
        volume_ratio=volume_ratio_on(frame, composed, jacobian, jacobian_frame),
    )
    rows = region_quality(after, sides, frame, fit, atlas.ontology)
    write_table(pictures.quality, rows, ".6g")
    write_atomic(pictures.map, draw.quality_map(rows, after, sides, frame))
    write_atomic(pictures.jacobian, draw.jacobian_map(jacobian, jacobian_frame))


run_job(snakemake, main)
