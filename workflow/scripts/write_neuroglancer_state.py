"""Write the viewer's state: channels, labels, derived volumes, points, cells, tiles."""

import json
from pathlib import Path

from terareg.acquisition.model import load_acquisition
from terareg.atlas.prepare import load_ontology
from terareg.derived.section import Entry
from terareg.execution.job import run_job
from terareg.regions.point_files import PointForm
from terareg.regions.points import read_points
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views import neuroglancer
from terareg.views.derived_layers import derived_layer
from terareg.volumes.plan import VolumePlan


def volume_source(key: str, file: str) -> neuroglancer.Source:
    """Source of a volume of the store, in the first of its formats."""
    plan = VolumePlan.from_json(read_json(file)["plan"])
    return neuroglancer.Source(key, plan.settings.formats[0], plan.frame)


def region_colours(ontology: str) -> dict[int, str]:
    """Colours "#rrggbb" of the regions in an atlas's annotation."""
    regions, ids = load_ontology(Path(ontology).parent)
    return {i: f"#{regions[i].colour.lower()}" for i in ids if i}


def main() -> None:
    sample, settings = snakemake.wildcards.sample, snakemake.params
    # without images, what was made of the volumes of others is all there is
    planned = read_json([*snakemake.input.fused, *snakemake.input.get("derived", [])][0])
    frame = VolumePlan.from_json(planned["plan"]).frame
    layers, colours = [], {}
    for kind, suffix in (("fused", ""), ("corrected_volume", " corrected")):
        files = zip(snakemake.input[kind], snakemake.input[f"{kind}_complete"])
        for n, (channel, (plan, complete)) in enumerate(zip(settings.channels, files)):
            layers.append(
                neuroglancer.image_layer(
                    f"{channel}{suffix}",
                    volume_source(f"{sample}/{kind}/{channel}", plan),
                    window=read_json(complete)["window"],
                    colour=neuroglancer.CHANNEL_COLOURS[n % len(neuroglancer.CHANNEL_COLOURS)],
                    visible=not suffix,
                )
            )
    files = (snakemake.input.labels, snakemake.input.meshes, snakemake.input.ontologies)
    labels = zip(settings.atlases, *files)
    for number, (atlas, path, meshes, ontology) in enumerate(labels):
        plan = VolumePlan.from_json(read_json(path)["plan"])
        # names and meshes come with the precomputed copy
        source = neuroglancer.Source(f"{sample}/labels/{atlas}", "precomputed", plan.frame)
        # the outline of the whole brain, of the first atlas
        whole = read_json(meshes)["whole"] if number == 0 else None
        shown = {} if whole is None else {whole: neuroglancer.OUTLINE_COLOUR}
        colours[f"labels/{atlas}"] = region_colours(ontology) | shown
        layer = neuroglancer.segmentation_layer(
            atlas, source, segments=shown, colours=colours[f"labels/{atlas}"]
        )
        layers.append(layer)
    for atlas, path in zip(settings.registered, snakemake.input.deviations):
        key = f"{sample}/registration/{atlas}/deviation"
        window = read_json(path)["window"]
        source = volume_source(key, path)
        name = f"error bars {atlas} (um)"
        layers.append(neuroglancer.image_layer(name, source, window=window, visible=False))
    made = zip(snakemake.input.get("derived", []), snakemake.input.get("derived_done", []))
    for entry, drawn in zip(map(Entry.from_json, settings.derived), made):
        layers.append(derived_layer(entry, sample, drawn, colours))
    if snakemake.input.fused:
        # the orientation of what others made may be unknown
        letters = neuroglancer.letter_lines(frame)
        layers.append(neuroglancer.line_layer("orientation", letters))
    for atlas, path in zip(settings.scored, snakemake.input.fiducials):
        points = read_points(path, frame)
        named = dict(zip(points.names, points.position_um))
        layers.append(neuroglancer.point_layer(f"fiducials {atlas}", named))
    for atlas, path in zip(settings.marked, snakemake.input.landmarks):
        pairs = read_json(path)
        named = dict(zip(pairs["names"], pairs["sample_um"]))
        layers.append(neuroglancer.point_layer(f"landmarks {atlas}", named, colour="#d55e00"))
    for (name, entry), path in zip(settings.points.items(), snakemake.input.points):
        # those of the atlas were carried into the sample, and their file states its columns
        form = PointForm.from_config(entry) if entry["space"] == "sample" else None
        places = read_points(path, frame, form=form).position_um
        layers.append(neuroglancer.some_points(name, places))
    for path in snakemake.input.cells:
        layer = read_json(path)["layer"]
        layers.append(neuroglancer.cell_layer(f"cells {layer.split('/')[-2]}", layer))
    if "placement" in snakemake.input.keys():
        boxes = neuroglancer.tile_boxes(
            load_placement(snakemake.input.placement).origins(),
            load_acquisition(snakemake.input.acquisition).tile_shape,
            frame,
            planned["offset_vox"],
        )
        layers.append(neuroglancer.box_layer("tiles", boxes))
    state = neuroglancer.build_state(layers, frame, title=sample)
    if settings.viewer["url"]:
        state = neuroglancer.with_store(state, settings.viewer["url"], settings.viewer["cdn"])
    # the order of the dimensions matters, so keys are not sorted
    write_atomic(snakemake.output.state, (json.dumps(state, indent=1) + "\n").encode())


run_job(snakemake, main)
