"""Files and settings that the jobs of every rule need, given the configuration of their sample.

Functions take the run and what the rule's wildcards say: sample, channel, atlas. They return one
path, a list of paths, or named paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from terareg.core.cost import Count
from terareg.core.errors import ConfigError
from terareg.execution import derived_volumes
from terareg.execution.own_files import followed, point_settings
from terareg.execution.raw_data import file_states, source_state, tracked, untracked_state
from terareg.execution.run import Run
from terareg.execution.sizing import batches_of, volume_batches
from terareg.exports.settings import ENDINGS, MAPS, ExportSettings
from terareg.intensity.cost import tile_batches
from terareg.registration.known_files import known_files
from terareg.stitching.cost import pair_batches
from terareg.volumes import headers

Files = list[str]
NamedFiles = dict[str, str]

ATLAS_SOURCES = ("template", "annotation", "ontology", "hemispheres")
_ATLAS_FILES = {
    "template": "template.nrrd",
    "annotation": "annotation.nrrd",
    "hemispheres": "hemispheres.nrrd",
    "ontology": "ontology.tsv",
    "atlas": "atlas.json",
}
_TRANSFORM_FILES = {
    "affine": "affine.txt",
    "forward": "forward.nrrd",
    "inverse": "inverse.nrrd",
    "transform": "transform.json",
}
#: what a registration writes, by the names that scripts use
REGISTRATION_FILES = _TRANSFORM_FILES | {
    "velocity": "velocity.nrrd",
    "jacobian": "jacobian.nrrd",
    "to_atlas": "sample_to_atlas_displacement.nrrd",
    "to_sample": "atlas_to_sample_displacement.nrrd",
    "contrast": "contrast.nrrd",
    "basis": "contrast.json",
    "posteriors": "posteriors.nrrd",
    "predicted": "predicted.nrrd",
    "energy": "energy.tsv",
    "summary": "summary.json",
    "state": "state.npz",
}
#: what is written where a registration is composed with a known transform
COMPOSED_FILES = _TRANSFORM_FILES | {
    key: REGISTRATION_FILES[key] for key in ("jacobian", "to_atlas", "to_sample", "summary")
}
#: what is written of the errors of a registration, by the names that scripts use
ERROR_FILES = {
    "deviation": "deviation.nrrd",
    "shifts": "shifts.nrrd",
    "volume_ratios": "volume_ratios.nrrd",
    "error_facts": "error_bars.json",
    "volume": "deviation.json",
}
#: what is put before the names of files of a channel's first and second side
SIDE_PREFIXES = ("", "other_")
# keys of the section registration that are read by rules other than `register`
_NOT_OF_REGISTER = (
    "channel", "atlases", "pose", "threads", "landmarks", "landmark_um", "export", "error_bars",
)  # fmt: skip


def batch_files(
    run: Run, sample: str, pattern: str, count: Count, names: Mapping[str, str]
) -> Files:
    """Files of all batches of a stage; ``pattern`` has a {batch}, and the fields in ``names``."""
    number = batches_of(run, sample, count)
    return [run.path(sample, pattern.format_map({**names, "batch": i})) for i in range(number)]


# ------------------------------------------------------------------ input
def index_file(run: Run, sample: str) -> str | Files:
    """The description of a sample's input, on which everything about the sample depends.

    None for a sample that has only volumes derived from others.
    """
    if not run.has_images(sample):
        return []
    return run.path(sample, "input.json" if run.is_imported(sample) else "acquisition.json")


def indexed_settings(run: Run, sample: str) -> dict[str, Any]:
    """Section input, as far as it says what the tiles are.

    What confirms an orientation concerns the registration alone: who follows its advice must not
    have the tiles stitched once more.
    """
    source = run.samples[sample]["input"]
    of_registration = ("orientation_confirmed", "right_side_um")
    return {key: value for key, value in source.items() if key not in of_registration}


def checked_settings(run: Run, sample: str) -> dict[str, Any]:
    """Settings that check_inputs checks: all inputs that they name besides the raw data."""
    config = run.samples[sample]
    keys = ("store", "fiducials", "points", "sample_labels")
    return {key: config[key] for key in keys} | {
        "landmarks": config["registration"]["landmarks"],
        "profile": config["intensity"]["flatfield"]["image"],
        "stitching": {key: config["stitching"][key] for key in ("xml", "tile_configuration")},
    }


# ------------------------------------------------------------------ tiles
def destripes(run: Run, sample: str) -> bool:
    """Whether stripe artefacts are removed, always or if the tiles' statistics call for it."""
    wanted: str = run.option(sample, "intensity.destriping")
    if wanted == "auto":
        wanted = run.option(sample, "intensity.flatfield.method")
        return wanted == "statistics"
    return wanted != "none"


def shading_files(run: Run, sample: str, channel: str) -> NamedFiles:
    """Files needed to correct a channel's tiles: the flat-field, and gains of lines if wanted."""
    names = {"profile": "flatfield.tif", "info": "flatfield.json"}
    if destripes(run, sample):
        names["stripes"] = "stripes.json"
    return {k: run.path(sample, f"intensity/{channel}/{name}") for k, name in names.items()}


def tile_files(run: Run, sample: str, channel: str) -> dict[str, Any]:
    """Files needed to read a channel's tiles: their shading, or the corrected arrays."""
    files: dict[str, Any] = dict(shading_files(run, sample, channel))
    if run.option(sample, "intensity.corrected_tiles") != "stream":
        files["corrected"] = corrected_batches(run, sample, channel)
    return files


def corrected_batches(run: Run, sample: str, channel: str) -> Files:
    """Batches of the corrected tiles of a channel."""
    pattern = "corrected/{channel}/batches/{batch}.json"
    return batch_files(run, sample, pattern, tile_batches, {"channel": channel})


def temporary_tiles(run: Run) -> bool:
    """Whether corrected tiles are temporary files."""
    kinds = {s["intensity"]["corrected_tiles"] for s in run.samples.values()}
    if kinds >= {"temporary", "keep"}:
        raise ConfigError(
            "intensity.corrected_tiles: the samples of one run mix keep and temporary; "
            "run them separately"
        )
    return "temporary" in kinds


def alignment_tiles(run: Run, sample: str) -> dict[str, Any]:
    """Files needed to read the tiles that are compared, once they are placed."""
    return tile_files(run, sample, run.alignment_side(sample))


def side_tiles(run: Run, sample: str, channel: str) -> dict[str, Any]:
    """Files needed to read and place a channel's tiles; those of its second side are ``other_...``.

    ``match`` says how its sides go together.
    """
    files: dict[str, Any] = {}
    for prefix, side in zip(SIDE_PREFIXES, run.sides_of(sample, channel)):
        own = tile_files(run, sample, side) | channel_shift(run, sample, side)
        files |= {prefix + key: path for key, path in own.items()}
    if channel in run.two_sided(sample):
        files["match"] = run.path(sample, f"stitching/sides/{channel}.json")
    return files


def compared_sides(run: Run, sample: str, channel: str) -> NamedFiles:
    """Files needed to compare the sides of a channel, from the raw planes."""
    first, second = run.sides_of(sample, channel)
    files = shading_files(run, sample, first)
    files |= {f"other_{key}": path for key, path in shading_files(run, sample, second).items()}
    return files | channel_shift(run, sample, second)


def side_ends(run: Run, sample: str, channel: str) -> dict[str, str]:
    """The sides of a channel, and at which end of an axis each is best."""
    ends: dict[str, str] = run.option(sample, "input.sides").get(channel, {})
    return ends


def fusion_settings(run: Run, sample: str) -> dict[str, Any]:
    """Options of the fusion of tiles, without those of sides."""
    return _without(run.option(sample, "fusion"), ("sides",))


def channel_of_side(run: Run, sample: str, side: str) -> str:
    """The last file of the volume that the tiles of a side are fused into."""
    return run.path(sample, f"fused/{run.channel_of(sample, side)}/complete.json")


def given_shift(run: Run, sample: str, channel: str) -> list[float] | None:
    """The user's own shift of a channel, micrometres (z, y, x), if it is given."""
    if run.option(sample, "stitching.channel_shift") != "given":
        return None
    shift: list[float] = run.option(sample, "stitching.channel_shift_um")[channel]
    return shift


def channel_shift(run: Run, sample: str, channel: str) -> NamedFiles:
    """Where a channel or side lies beside the one that it is compared with; none for the first."""
    if channel not in run.shifted_channels(sample):
        return {}
    return {"shift": run.path(sample, f"stitching/channels/{channel}.json")}


def chained_shifts(run: Run, sample: str, channel: str) -> NamedFiles:
    """Where a channel or side lies beside the alignment channel.

    ``shift`` is that of the first side, ``other_shift`` that of the second beside the first.
    """
    sides = run.sides_of(sample, run.channel_of(sample, channel))
    files: NamedFiles = {}
    for prefix, side in zip(SIDE_PREFIXES, sides[: sides.index(channel) + 1]):
        shift = channel_shift(run, sample, side)
        files |= {prefix + key: path for key, path in shift.items()}
    return files


def _first_shading(run: Run, sample: str, channel: str) -> NamedFiles:
    """The flat-field of a channel or side that needs no positions."""
    folder = run.path(sample, f"intensity/{channel}/nominal")
    return {"profile": f"{folder}/flatfield.tif", "info": f"{folder}/flatfield.json"}


def unplaced_tiles(run: Run, sample: str) -> NamedFiles:
    """Files needed to read tiles whose positions are not known yet: a first flat-field."""
    return _first_shading(run, sample, run.alignment_side(sample))


def measured_tiles(run: Run, sample: str) -> NamedFiles:
    """The same of all sides on which displacements are measured; the second's are ``other_...``.

    ``other_shift`` says where the second side lies beside the first.
    """
    files: NamedFiles = {}
    for prefix, side in zip(SIDE_PREFIXES, run.measured_sides(sample)):
        own = _first_shading(run, sample, side) | channel_shift(run, sample, side)
        files |= {prefix + key: path for key, path in own.items()}
    return files


def measured_ends(run: Run, sample: str) -> dict[str, str]:
    """The sides on which displacements are measured, and at which end each is best."""
    sides = run.measured_sides(sample)
    ends = side_ends(run, sample, run.alignment_channel(sample))
    return {side: ends[side] for side in sides} if len(sides) > 1 else {}


def tiles_drawn(run: Run, sample: str) -> NamedFiles:
    """Files that the outlines of the tiles are drawn from; a volume has no tiles."""
    if not run.is_tiled(sample):
        return {}
    names = {"acquisition": "acquisition.json", "placement": "stitching/placement.json"}
    return {key: run.path(sample, name) for key, name in names.items()}


def sum_settings(run: Run, sample: str) -> dict[str, Any]:
    """Options of the statistics of tiles, without those that only the estimate reads."""
    options = run.option(sample, "intensity.flatfield")
    return {k: options[k] for k in ("tiles", "planes", "slabs", "blocks")}


def measured_pairs(run: Run, sample: str) -> Files:
    """Batches of measured displacements; none where the user brings displacements or positions."""
    if set(run.option(sample, "stitching.xml")) - {"xml_import"}:
        return []
    return batch_files(run, sample, "stitching/pairs/{batch}.json", pair_batches, {})


# ------------------------------------------------------------------ volumes
def writer_of_volume(run: Run, sample: str, volume: str) -> str:
    """Rule that writes the blocks of a volume."""
    writers = {
        "fused": "import_volume" if run.is_imported(sample) else "fuse_blocks",
        "corrected_volume": "correct_volume",
        "labels": "transform_labels",
        "atlas_space": "transform_volume",
        "derived": "derive_blocks",
    }
    return writers[volume.split("/")[0]]


# files that list the objects of a layer, and the rules that write these objects
_OBJECTS = {
    "labels": {"{key}/plan.json": "init_labels", "{key}/meshes.json": "mesh_labels"},
    "derived": {"{key}/objects.json": "write_objects"},
    "cells": {"{key}.json": "gather_cells"},
}


def object_lists(run: Run, sample: str, objects: str) -> Files:
    """Files that say what the objects of a layer (meshes, skeletons, points) are."""
    files = _OBJECTS[objects.partition("/")[0]]
    return [run.path(sample, name.format(key=objects)) for name in files]


def object_writers(run: Run, sample: str, objects: str) -> list[str]:
    """Rules that write the objects of a layer, for each of its lists."""
    return list(_OBJECTS[objects.partition("/")[0]].values())


def blocks_of_volume(run: Run, sample: str, volume: str) -> Files:
    """Batches of the blocks of a volume."""
    count = volume_batches(run, sample, volume)
    return [run.path(sample, f"{volume}/batches/{i}.json") for i in range(count)]


def measured_file(run: Run, sample: str, channel: str, name: str) -> str:
    """A file of the volume of a channel that later stages read."""
    return run.path(sample, f"{run.measured_volume(sample)}/{channel}/{name}")


def every_channel(run: Run, sample: str, name: str) -> Files:
    """A file of the volume that later stages read, for every channel."""
    return run.of_channels(sample, f"{run.measured_volume(sample)}/{{channel}}/{name}")


def images_of_channels(run: Run, sample: str) -> dict[str, Files]:
    """Plans and summaries of the volumes of all channels, before and after bias correction."""
    files: dict[str, Files] = {"corrected_volume": [], "corrected_volume_complete": []}
    for kind in dict.fromkeys(("fused", run.measured_volume(sample))):
        for key, name in ((kind, "plan"), (f"{kind}_complete", "complete")):
            files[key] = run.of_channels(sample, f"{kind}/{{channel}}/{name}.json")
    return files


def bias_settings(run: Run, sample: str) -> dict[str, Any]:
    """Options of the bias estimate, without those of that section that other rules read."""
    return _without(run.option(sample, "intensity.bias"), ("enabled", "volume_um"))


# ------------------------------------------------------------------ derived volumes
def derived_source(run: Run, sample: str, derived: str) -> Files:
    """Plans of the volumes that an entry reads, or files that stand for one elsewhere."""
    entry = derived_volumes.entry(run, sample, derived)
    others = [run.path(sample, f"{volume}/plan.json") for volume in entry.others.values()]
    if entry.volume is not None:
        return [run.path(sample, f"{entry.volume}/plan.json"), *others]
    return [*tracked(headers.image_files(derived_volumes.address_of(run, entry))), *others]


def complete_source(run: Run, sample: str, derived: str) -> NamedFiles:
    """The last files of the volume that an entry is made from, and of others that it reads."""
    entry = derived_volumes.entry(run, sample, derived)
    volumes = {f"complete_{key}": volume for key, volume in entry.others.items()}
    if entry.volume is not None:
        volumes["complete"] = entry.volume
    return {key: run.path(sample, f"{name}/complete.json") for key, name in volumes.items()}


def measured_parts(run: Run, sample: str, derived: str) -> Files:
    """What the batches of an entry found in its source."""
    count = volume_batches(run, sample, f"derived/{derived}")
    return [run.path(sample, f"derived/{derived}/measured/{i}.npz") for i in range(count)]


def object_batches(run: Run, sample: str, derived: str) -> list[str]:
    """What the batches of an entry wrote of the objects of labels."""
    count = volume_batches(run, sample, f"derived/{derived}")
    return [run.path(sample, f"derived/{derived}/objects/{i}.json") for i in range(count)]


def measured_source(run: Run, sample: str, derived: str) -> NamedFiles:
    """What all batches found together, for a tool that needs it."""
    entry = derived_volumes.entry(run, sample, derived)
    if not entry.measures:
        return {}
    return {"measured": run.path(sample, f"{entry.key}/measured.npz")}


def derived_batches(run: Run, sample: str, derived: str) -> int:
    """Number of batches of an entry."""
    return volume_batches(run, sample, f"derived/{derived}")


def derived_entry(run: Run, sample: str, derived: str) -> dict[str, Any]:
    """The settings of an entry, as far as what it makes follows them."""
    return derived_volumes.entry(run, sample, derived).without_table_keys().to_json()


def shown_derived(run: Run, sample: str) -> list[dict[str, Any]]:
    """The settings of the entries that a viewer can show: volumes, meshes, skeletons."""
    found = derived_volumes.entries(run, sample).values()
    return [entry.to_json() for entry in found if entry.facts.makes or entry.facts.shards]


def derived_drawn(run: Run, sample: str) -> dict[str, Files]:
    """Plans and last files of the entries that a viewer can show."""
    shown = [derived_volumes.entry(run, sample, e["name"]) for e in shown_derived(run, sample)]
    return {
        "derived": [run.path(sample, f"{entry.key}/plan.json") for entry in shown],
        "derived_done": [run.path(sample, f"{e.key}/{e.facts.product}") for e in shown],
    }


def derived_address(run: Run, sample: str, derived: str) -> str | None:
    """Address of the source of an entry, if that is not a volume of the sample."""
    entry = derived_volumes.entry(run, sample, derived)
    return None if entry.address is None else derived_volumes.address_of(run, entry)


def signal_source(run: Run, sample: str, derived: str) -> NamedFiles:
    """The last files of a mask of signal, and of the channel whose brightness counts."""
    entry = derived_volumes.entry(run, sample, derived)
    volumes = {"mask": entry.key, "channel": entry.channel}
    return {key: run.path(sample, f"{name}/complete.json") for key, name in volumes.items()}


def signal_channel(run: Run, sample: str, derived: str) -> str:
    """Channel whose brightness counts where there is signal, for example "fused/signal"."""
    return derived_volumes.entry(run, sample, derived).channel


def thickest_um(run: Run, sample: str, derived: str) -> float | None:
    """Diameter of the thickest fibres whose length is measured; None if none is."""
    return derived_volumes.entry(run, sample, derived).thickest_um


def derived_state(run: Run, sample: str, derived: str) -> str:
    """State of the source of an entry, if that is not a volume of the sample."""
    address = derived_address(run, sample, derived)
    return "" if address is None else source_state(address)


# ------------------------------------------------------------------ registration
def registration_volume(run: Run, sample: str, name: str) -> str:
    """A file of the first registered channel, whose grid is that of all channels."""
    return measured_file(run, sample, pose_channel(run, sample), name)


def pose_channel(run: Run, sample: str) -> str:
    """The channel that finds the pose: the first registered one."""
    return run.registration_channels(sample)[0]


def registration_volumes(run: Run, sample: str) -> Files:
    """The last file of every registered channel: the volumes are complete."""
    channels = run.registration_channels(sample)
    return [measured_file(run, sample, channel, "complete.json") for channel in channels]


def registration_sources(run: Run, sample: str) -> dict[str, str]:
    """Volumes of the registered channels, by channel."""
    volume = run.measured_volume(sample)
    return {channel: f"{volume}/{channel}" for channel in run.registration_channels(sample)}


def registration_source(run: Run, sample: str) -> str:
    """Volume of the channel that finds the pose."""
    return next(iter(registration_sources(run, sample).values()))


def registration_settings(run: Run, sample: str) -> dict[str, Any]:
    """Options of the registration itself, without those of that section that other rules read."""
    return _without(run.option(sample, "registration"), _NOT_OF_REGISTER)


def landmark_files(run: Run, sample: str, atlas: str) -> NamedFiles:
    """The paired landmarks that a registration reads, if there are any."""
    if atlas not in run.option(sample, "registration.landmarks"):
        return {}
    return {"landmarks": run.path(sample, f"registration/{atlas}/landmarks.json")}


def transform_files(run: Run, sample: str, atlas: str) -> NamedFiles:
    """The transform of an atlas: of its registration, or composed."""
    folder = run.path(sample, f"registration/{atlas}")
    return {key: f"{folder}/{name}" for key, name in _TRANSFORM_FILES.items()}


def fit_file(run: Run, sample: str, atlas: str, key: str) -> str:
    """What a registration found beside its transform; for an atlas that is reached through another
    one, that of the other."""
    folder = run.path(sample, f"registration/{run.registered_for(atlas)}")
    return f"{folder}/{REGISTRATION_FILES[key]}"


def initial_file(run: Run, sample: str, atlas: str) -> str:
    """The first affine of that registration."""
    return run.path(sample, f"registration/{run.registered_for(atlas)}/initial_affine.txt")


def base_files(run: Run, sample: str, atlas: str) -> NamedFiles:
    """The transform and summary of the registration that an atlas is reached through."""
    base = run.registered_for(atlas)
    files = {f"base_{key}": path for key, path in transform_files(run, sample, base).items()}
    return files | {"base_summary": fit_file(run, sample, atlas, "summary")}


def through_files(run: Run, atlas: str) -> NamedFiles:
    """The prepared atlas that another one is reached through."""
    through = prepared_atlas(run, run.registered_for(atlas))
    return {f"base_{key}": path for key, path in through.items()}


def known_transform(run: Run, atlas: str) -> Files:
    """The user's files of the transform between the two, if Snakemake can follow all of them."""
    files = known_files(run.atlas(atlas)["through"]["transform"])
    return files if len(tracked(files)) == len(files) else []


def known_state(run: Run, atlas: str) -> list[list[Any]]:
    """Their state otherwise."""
    files = known_files(run.atlas(atlas)["through"]["transform"])
    return [] if known_transform(run, atlas) else file_states(files)


def known_settings(run: Run, atlas: str) -> dict[str, Any]:
    """How an atlas is reached through another one, and the templates of both."""
    through: dict[str, Any] = run.atlas(atlas)["through"]
    names = {"reached": atlas, "through": through["atlas"]}
    return through | {"templates": {k: run.atlas(a)["template"] for k, a in names.items()}}


def base_template(run: Run, atlas: str) -> Files:
    """The template of the atlas that another one is reached through, if it can be followed."""
    return template_source(run, run.registered_for(atlas))


def error_files(run: Run, sample: str, atlas: str) -> NamedFiles:
    """The error bars of a registration, if they are wanted; of a composition there are none."""
    if not run.option(sample, "registration.error_bars") or not run.is_registered(atlas):
        return {}
    folder = run.path(sample, f"registration/{atlas}")
    return {key: f"{folder}/{name}" for key, name in ERROR_FILES.items()}


def deviation_volumes(run: Run, sample: str) -> Files:
    """Plans of the volumes that show the deviation of borders, if they are wanted."""
    if not run.option(sample, "registration.error_bars"):
        return []
    pattern = f"registration/{{atlas}}/{ERROR_FILES['volume']}"
    return run.of_atlases(sample, pattern, run.registered_atlases(sample))


def paired_landmarks(run: Run, sample: str) -> Files:
    """Paired landmarks, of the registered atlases that have some."""
    atlases = run.atlases_with(sample, "registration.landmarks")
    return run.of_atlases(sample, "registration/{atlas}/landmarks.json", atlases)


def atlas_of_points(run: Run, sample: str, points: str) -> NamedFiles:
    """The atlas that a set of points is transformed to or from."""
    return prepared_atlas(run, point_settings(run, sample, points)["atlas"])


def transform_of_points(run: Run, sample: str, points: str) -> NamedFiles:
    """The transform that a set of points goes through."""
    return transform_files(run, sample, point_settings(run, sample, points)["atlas"])


def errors_of_points(run: Run, sample: str, points: str) -> NamedFiles:
    """Transform and error bars, if the regions of a set of points depend on them."""
    settings = point_settings(run, sample, points)
    errors = error_files(run, sample, settings["atlas"])
    if settings["space"] == "atlas" or not errors:
        return {}
    return errors | transform_files(run, sample, settings["atlas"])


def regions_of_points(run: Run, sample: str, points: str) -> str:
    """The table of the regions that a set of points is counted in."""
    return run.path(sample, f"regions/{point_settings(run, sample, points)['atlas']}.tsv")


# ------------------------------------------------------------------ cells
def cell_settings(run: Run, sample: str, cells: str) -> dict[str, Any]:
    """What a set of cells is found by, without what only its filter and its counts need."""
    return _without(run.option(sample, "cells")[cells], ("heat_map_um", "marks"))


def cell_source(run: Run, sample: str, cells: str, name: str) -> str:
    """A file of the volume that a set of cells is found in."""
    channel = run.option(sample, "cells")[cells]["channel"]
    return run.path(sample, f"fused/{channel}/{name}")


def heat_map_settings(run: Run, sample: str, cells: str) -> dict[str, Any]:
    """How the map of a set of cells is made."""
    return {"heat_map_um": run.option(sample, "cells")[cells]["heat_map_um"]}


def cell_summaries(run: Run, sample: str) -> Files:
    """Summaries of all sets of cells."""
    return [run.path(sample, f"cells/{name}.json") for name in run.option(sample, "cells")]


def _without(options: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in keys}


# ------------------------------------------------------------------ exports
def export_settings(run: Run, sample: str, export: str) -> dict[str, Any]:
    """Description of an export."""
    settings: dict[str, Any] = run.option(sample, "export")[export]
    return settings


def export_source(run: Run, sample: str, export: str) -> NamedFiles:
    """Files that an export is made from: a complete volume or a map; for regions, their atlas.

    Outlines of the tiles, and what all channels have seen, are found from the placement of the
    tiles and the shifts of the channels, on the grid of the fused volume.
    """
    settings = ExportSettings.from_config(export_settings(run, sample, export))
    origin = settings.origin
    if origin.is_volume:
        folder = run.path(sample, origin.text)
        files = {"plan": f"{folder}/plan.json", "complete": f"{folder}/complete.json"}
    elif origin.kind == "registration":
        file = MAPS[origin.image][0]
        # posteriors are those of the registration, also where it serves another atlas
        composed = file in COMPOSED_FILES.values()
        folder = origin.atlas if composed else run.registered_for(origin.atlas)
        files = {"image": run.path(sample, f"registration/{folder}/{file}")}
    else:
        files = {"image": run.atlas_path(origin.atlas, f"{origin.image}.nrrd")}
    if origin.is_segmentation or origin.kind == "atlases":
        files |= prepared_atlas(run, origin.atlas)
    if settings.common:
        for number, channel in enumerate(run.channels_of(sample)):
            for path in channel_shift(run, sample, run.sides_of(sample, channel)[0]).values():
                files[f"shift_{number}"] = path
    if settings.table is not None:
        files["outlines"] = followed(run, sample, settings.table)
    if settings.of_tiles and run.is_imported(sample):
        files["index"] = run.path(sample, "input.json")
    elif settings.of_tiles:
        grid = run.path(sample, f"fused/{origin.channel}/plan.json")
        files |= tiles_drawn(run, sample) | {"grid": grid}
    return files


def export_atlas(run: Run, sample: str, export: str) -> NamedFiles:
    """The atlas whose regions an export shows."""
    origin = ExportSettings.from_config(export_settings(run, sample, export)).origin
    return prepared_atlas(run, origin.atlas)


def export_files(run: Run, sample: str, export: str) -> Files:
    """Files of an export: its own or the record of its planes, and tables of regions."""
    settings = ExportSettings.from_config(export_settings(run, sample, export))
    name = f"exports/{export}.planes.json"
    if not settings.is_series:
        name = f"exports/{export}.{ENDINGS[settings.format]}"
    files = [run.path(sample, name)]
    if settings.origin.is_segmentation and settings.labels != "rgb":
        files.append(run.path(sample, f"exports/{export}.regions.tsv"))
    return files


def fused_files(run: Run, sample: str, name: str) -> Files:
    """A file of the fused volume of every channel."""
    return run.of_channels(sample, f"fused/{{channel}}/{name}")


# ------------------------------------------------------------------ atlases
def atlas_settings(run: Run, atlas: str) -> dict[str, Any]:
    """Description of an atlas without its further images, which have a rule of their own."""
    settings = run.atlas(atlas)
    known = _without(settings, ("images", "name", "version", "through"))
    if settings["name"] is None:
        return known
    return known | {"origin": f"BrainGlobe {settings['name']} {settings['version']}"}


def atlas_sources(run: Run, atlas: str) -> NamedFiles:
    """The user's files of an atlas."""
    settings = run.atlas(atlas)
    given = {key: settings[key] for key in ATLAS_SOURCES if settings[key]}
    return {key: path for key, path in given.items() if _files_among([path])}


def atlas_data(run: Run, atlas: str) -> Files:
    """Data files of an atlas's images whose headers are detached."""
    if run.remote is not None:
        return []
    settings = run.atlas(atlas)
    images = [settings[key] for key in ATLAS_SOURCES if key != "ontology" and settings[key]]
    images += settings["images"].values()
    found = [headers.data_files(path) for path in images]
    found += [[f"{path}/zarr.json"] for path in _levels_among(images)]
    return sorted({path for paths in found for path in tracked(paths)})


def atlas_state(run: Run, atlas: str) -> list[list[Any]]:
    """State of the files of an atlas that Snakemake cannot follow."""
    settings = run.atlas(atlas)
    images = [settings[key] for key in ATLAS_SOURCES if settings[key]]
    images += settings["images"].values()
    if run.remote is not None:
        return untracked_state(images)
    data = [headers.data_files(path) for path in images]
    levels = [[path, headers.image_state(path)] for path in _levels_among(images)]
    return untracked_state(images + [path for paths in data for path in paths]) + levels


def prepared_atlas(run: Run, atlas: str) -> NamedFiles:
    """Files of an atlas in terareg's form."""
    return {key: run.atlas_path(atlas, name) for key, name in _ATLAS_FILES.items()}


def prepared_atlases(run: Run, sample: str, name: str) -> Files:
    """A file of every atlas of a sample, in terareg's form."""
    return [run.atlas_path(atlas, _ATLAS_FILES[name]) for atlas in run.atlases_of(sample)]


def image_names(run: Run, atlas: str) -> list[str]:
    """Names of the further images of an atlas."""
    return list(run.atlas(atlas)["images"])


def image_path(run: Run, atlas: str, image: str) -> str:
    """The user's file of a further image of an atlas."""
    path: str = run.atlas(atlas)["images"][image]
    return path


def image_source(run: Run, atlas: str, image: str) -> Files:
    """The same, if Snakemake can follow it."""
    return _files_among([image_path(run, atlas, image)])


def template_source(run: Run, atlas: str) -> Files:
    """The user's file of an atlas's template, if Snakemake can follow it."""
    return _files_among([run.atlas(atlas)["template"]])


def _levels_among(paths: Iterable[str]) -> Files:
    """Levels of OME-Zarr images, which are folders."""
    return [path for path in paths if "://" not in path and Path(path).is_dir()]


def _files_among(paths: Iterable[str]) -> Files:
    """Files that Snakemake can follow; a folder is followed by its metadata."""
    levels = set(_levels_among(paths := list(paths)))
    return tracked(path for path in paths if path not in levels)


def prepared_images(run: Run, atlas: str) -> Files:
    """Further images of an atlas, in terareg's form."""
    return [run.atlas_path(atlas, f"images/{name}.nrrd") for name in image_names(run, atlas)]


def image_checksums(run: Run, atlas: str) -> Files:
    """Their checksums."""
    return [run.atlas_path(atlas, f"images/{name}.json") for name in image_names(run, atlas)]
