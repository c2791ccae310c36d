"""Write the viewer's state: channels, labels, fiducials, landmarks, tiles."""

import json

from terareg.acquisition.model import load_acquisition
from terareg.job import run_job
from terareg.regions.points import read_points
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views import neuroglancer
from terareg.volumes.plan import VolumePlan


def main() -> None:
    sample, settings = snakemake.wildcards.sample, snakemake.params
    planned = [read_json(path) for path in snakemake.input.channels]
    plans = [VolumePlan.from_json(p["plan"]) for p in planned]
    frame, form = plans[0].frame, plans[0].settings.formats[0]
    layers = []
    for n, (channel, plan) in enumerate(zip(settings.channels, plans)):
        source = neuroglancer.Source(f"{sample}/{settings.source}/{channel}", form, plan.frame)
        window = read_json(snakemake.input.complete[n])["window"]
        colour = neuroglancer.CHANNEL_COLOURS[n % len(neuroglancer.CHANNEL_COLOURS)]
        layers.append(neuroglancer.image_layer(channel, source, window=window, colour=colour))
    for atlas, path in zip(settings.atlases, snakemake.input.labels):
        plan = VolumePlan.from_json(read_json(path)["plan"])
        # names and meshes come with the precomputed copy
        source = neuroglancer.Source(f"{sample}/labels/{atlas}", "precomputed", plan.frame)
        layers.append(neuroglancer.segmentation_layer(atlas, source))
    for atlas, path in zip(settings.scored, snakemake.input.fiducials):
        points = read_points(path, frame)
        named = dict(zip(points.names, points.position_um))
        layers.append(neuroglancer.point_layer(f"fiducials {atlas}", named))
    for atlas, path in zip(settings.marked, snakemake.input.landmarks):
        pairs = read_json(path)
        named = dict(zip(pairs["names"], pairs["sample_um"]))
        layers.append(neuroglancer.point_layer(f"landmarks {atlas}", named, colour="#d55e00"))
    if "placement" in snakemake.input.keys():
        boxes = neuroglancer.tile_boxes(
            load_placement(snakemake.input.placement).origins(),
            load_acquisition(snakemake.input.acquisition).tile_shape,
            frame,
            planned[0]["offset_vox"],
        )
        layers.append(neuroglancer.box_layer("tiles", boxes))
    state = neuroglancer.build_state(layers, frame, title=sample)
    if settings.viewer["url"]:
        state = neuroglancer.with_store(state, settings.viewer["url"], settings.viewer["cdn"])
    # the order of the dimensions counts: keys are not sorted
    write_atomic(snakemake.output.state, (json.dumps(state, indent=1) + "\n").encode())


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
