"""What settings must say together, section by section; what one key may say is in the schema."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from terareg.core.errors import ConfigError, StoreError, few
from terareg.core.extents import (
    aligned_channel,
    channel_image,
    channels_of,
    registered_channels,
    sides_of,
)
from terareg.core.orientation import check_orientation
from terareg.derived.section import entries_of
from terareg.execution.sides import check_sides
from terareg.exports.settings import ExportSettings, bids_label
from terareg.registration.known_files import (
    FIELD_ENDINGS,
    TRANSFORM_ENDINGS,
    ending_of,
    is_folder,
)
from terareg.storage.store import Store
from terareg.storage.web import plain_address, store_at

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LARGEST_TILE_VOXEL_UM = 200
# names that samples cannot have, whose folders hold what belongs to no sample
_RESERVED = {"atlases": "prepared atlases", "cohort": "comparisons of groups"}
# how channels are identified, by kind of input
_CHANNEL_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "colm": (int, "channel number; write the channel number in the file names"),
    "terastitcher": (str, 'folder; write the folder of its tiles, or "." for input.path itself'),
    "table": ((int, str), "channel of a table; write the value of the column channel"),
}
#: sections that need images of the sample's own
_OF_IMAGES = ("atlases", "points", "fiducials", "sample_labels")
_KEYS_OF_KIND = {
    "view": ("colm", "VW0"),
    "first_level": ("terastitcher", "V"),
    "table": ("table", None),
    "grid": ("table", None),
}


def check_combinations(config: dict[str, Any]) -> None:
    """Raise :class:`ConfigError` for the first contradiction in a sample that has images."""
    _check_places(config)
    check_sides(config)
    channels = channels_of(config)
    registered = config["registration"]["atlases"] or list(config["atlases"])
    _check_input(config)
    _check_intensity(config["intensity"])
    for key, name in (
        ("stitching.channel", aligned_channel(config)),
        *(("registration.channel", name) for name in registered_channels(config)),
        *((f"cells.{name}.channel", cells["channel"]) for name, cells in config["cells"].items()),
    ):
        if name not in channels:
            raise ConfigError(
                f"{key}: channel {name!r} is not one of input.channels; use one of {few(channels)}"
            )
    _check_stitching(config)
    _check_volume(config["volume"])
    _check_atlases(config["atlases"])
    _check_registration(config)
    _check_points(config, registered)
    _check_resolutions(config)
    _check_exports(config, registered)
    _check_bids(config)
    _check_layers(config, registered)


def check_alone(config: dict[str, Any]) -> None:
    """Check a sample without input, which has only volumes derived from others."""
    _check_places(config)
    for key in _OF_IMAGES:
        if config[key]:
            raise ConfigError(
                f"{key}: this sample has no images for it to apply to; add input: or remove {key}"
            )
    _check_volume(config["volume"])


def _check_places(config: dict[str, Any]) -> None:
    """Names become names of folders; results and store are places that can be written."""
    for what, name in _names(config):
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{what} {name!r} cannot be a folder name; use letters, digits, _ and -"
            )
    if config["sample"] in _RESERVED:
        raise ConfigError(
            f"sample: {config['sample']!r} is reserved for {_RESERVED[config['sample']]}; choose "
            "another name"
        )
    try:
        Store(config["store"])  # raises for any other kind of address
    except StoreError as error:
        raise ConfigError(f"store: {error}") from error
    if not re.fullmatch(r"[^{}:]+", config["results"]):
        raise ConfigError(
            f"results: {config['results']!r} is not a folder that Snakemake can use; give a path "
            "without a colon or braces (volumes may go elsewhere: store)"
        )


def _names(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "sample", config["sample"]
    for key in ("channels", "sides"):
        for name in config["input"][key]:
            yield f"input.{key}:", name
    for name, atlas in config["atlases"].items():
        yield "atlases:", name
        for image in atlas["images"]:
            yield f"atlases.{name}.images:", image
    for name in config["points"]:
        yield "points:", name
    for name in config.get("derived") or ():
        yield "derived:", name
    for name in config["export"]:
        yield "export:", name
    for name in config["cells"]:
        yield "cells:", name
    for name in config["comparisons"]:
        yield "comparisons:", name


def _check_input(config: dict[str, Any]) -> None:
    source = config["input"]
    check_orientation(source["orientation"], "input.orientation")
    if source["kind"] == "volume":
        _check_volume_input(config)
    else:
        _check_tiles_input(source)
    _check_kind_of_keys(source)


def _check_tiles_input(source: dict[str, Any]) -> None:
    if source["path"] is None:
        raise ConfigError(
            "input: key path is missing; give the folder of the raw tiles, or set input.kind: "
            "volume if the channels are volumes already"
        )
    Store(source["path"])
    kind = source["kind"]
    types, what = _CHANNEL_TYPES[kind]
    for name, value in source["channels"].items():
        if not isinstance(value, types):
            raise ConfigError(
                f"input.channels.{name}: {value!r} is not a {what}, or set input.kind: volume for "
                "an image file"
            )
    values = [str(value) for value in source["channels"].values()]
    if len(set(values)) != len(values):
        raise ConfigError(
            f"input.channels: {source['channels']} gives two channels the same "
            f"{what.split(';', maxsplit=1)[0]}"
        )
    if kind != "colm" and source["spacing_um"] is None:
        raise ConfigError(
            f"input: key spacing_um is missing; files of input.kind: {kind} state no voxel size; "
            "give [z, y, x] in micrometres"
        )
    if kind == "table" and source["table"] is None:
        raise ConfigError(
            "input: key table is missing; give the name of the table of tiles below input.path"
        )
    for i, size in enumerate(source["spacing_um"] or ()):
        if size > _LARGEST_TILE_VOXEL_UM:
            raise ConfigError(
                f"input.spacing_um.{i}: {size} must be at most {_LARGEST_TILE_VOXEL_UM}; give the "
                "voxel size of the tiles in micrometres"
            )


def _check_kind_of_keys(source: dict[str, Any]) -> None:
    """Refuse keys that belong to another kind of input."""
    for key, (kind, default) in _KEYS_OF_KIND.items():
        if source["kind"] != kind and source[key] != default:
            raise ConfigError(
                f"input.{key}: {source[key]!r} belongs to input.kind: {kind}, not to "
                f"{source['kind']}; remove it or correct input.kind"
            )


def _check_volume_input(config: dict[str, Any]) -> None:
    source = config["input"]
    for key in ("path", "overlap"):
        if source[key] is not None:
            raise ConfigError(
                f"input.{key}: {source[key]!r} belongs to tiles, not to input.kind: volume; "
                "remove it, and list the images under input.channels"
            )
    for key in ("xml", "tile_configuration"):
        if config["stitching"][key]:
            raise ConfigError(
                f"stitching.{key} belongs to tiles, not to input.kind: volume; remove it, nothing "
                "is stitched"
            )
    if config["intensity"]["destriping"] not in ("auto", "none"):
        raise ConfigError(
            "intensity.destriping belongs to tiles, not to input.kind: volume; remove it, there "
            "are no overlaps to compare"
        )
    for name, image in source["channels"].items():
        if isinstance(image, int):
            raise ConfigError(
                f"input.channels.{name}: {image} is not an image; with input.kind: volume write "
                "its path, for example brain.nii.gz"
            )
        try:
            store_at(plain_address(channel_image(config, name)["path"]))
        except StoreError as error:
            raise ConfigError(f"input.channels.{name}: {error}") from error
    images = [channel_image(config, name) for name in source["channels"]]
    parts = [(image["path"], image["channel"]) for image in images]
    if len(set(parts)) != len(parts):
        raise ConfigError(
            f"input.channels: {source['channels']} gives two channels the same image; give each an "
            "image of its own"
        )


def _check_intensity(intensity: dict[str, Any]) -> None:
    flatfield, key = intensity["flatfield"], "intensity.flatfield"
    method = flatfield["method"]
    stripes_given = intensity["destriping"] not in ("auto", "none")
    if stripes_given and (method, flatfield["background"]) == ("none", None):
        raise ConfigError(
            f"intensity.destriping needs the dark offset of the camera, which {key}.method: none "
            f"does not estimate; set {key}.background"
        )
    if (method == "image") != (flatfield["image"] is not None):
        raise ConfigError(
            f"{key}.image: {flatfield['image']!r} does not match {key}.method: {method}; only "
            "method: image uses an image, and it needs the path of a TIFF"
        )
    if flatfield["tile_gains"] in (True, "depth") and method != "statistics":
        raise ConfigError(
            f"{key}.tile_gains: {flatfield['tile_gains']!r} does not match {key}.method: "
            f"{method}, which estimates no gains; set tile_gains: false or method: statistics"
        )
    if flatfield["tile_gains"] in (True, "depth") and flatfield["tiles"] not in ("all", 1):
        raise ConfigError(
            f"{key}.tile_gains: {flatfield['tile_gains']!r} needs every tile, but {key}.tiles is "
            f"{flatfield['tiles']}; set tiles: all or tile_gains: false"
        )


def _check_stitching(config: dict[str, Any]) -> None:
    stitching = config["stitching"]
    if stitching["tile_configuration"] and "xml_import" in stitching["xml"]:
        raise ConfigError(
            f"stitching.tile_configuration: {stitching['tile_configuration']!r} and "
            f"stitching.xml.xml_import {stitching['xml']['xml_import']!r} both give nominal "
            "positions; remove one of them"
        )
    search = stitching["displacement"]["search_um"]
    if not any(search):
        raise ConfigError(
            f"stitching.displacement.search_um: {search} leaves nothing to search; give how far "
            "(z, y, x) tiles may be from their nominal positions, for example [40, 60, 60]"
        )
    _check_channel_shift(config)


def _check_channel_shift(config: dict[str, Any]) -> None:
    """A shift must be given of every channel but the alignment channel, or of none."""
    stitching = config["stitching"]
    given, mode = stitching["channel_shift_um"], stitching["channel_shift"]
    aligned, channels = sides_of(config, aligned_channel(config))[0], config["input"]["channels"]
    if bool(given) != (mode == "given") and (given or len(channels) > 1):
        raise ConfigError(
            f"stitching.channel_shift_um: {given or 'nothing'} does not match "
            f"stitching.channel_shift: {mode}; give a shift of every channel together with "
            "channel_shift: given, or neither"
        )
    for name in given:
        if name not in channels or name == aligned:
            raise ConfigError(
                f"stitching.channel_shift_um: {name!r} is not a channel other than the alignment "
                f"channel {aligned}; use one of "
                f"{few(c for c in channels if c != aligned) or 'none'}"
            )
    missing = [c for c in channels if c != aligned and c not in given] if given else []
    if missing:
        raise ConfigError(
            f"stitching.channel_shift_um: no shift of channel {missing[0]!r} is given; give that "
            "of every channel, [0, 0, 0] for one that is not shifted"
        )


def _check_atlases(atlases: dict[str, Any]) -> None:
    for name, atlas in atlases.items():
        check_orientation(atlas["orientation"], f"atlases.{name}.orientation")
        files = [atlas["template"], *atlas["images"].values()]
        if len(set(files)) < len(files):
            raise ConfigError(
                f"atlases.{name}.images: {few(files)} contains a file twice, the template "
                "included; give every image once"
            )
        if atlas["annotation"] in files:
            raise ConfigError(
                f"atlases.{name}.annotation: {atlas['annotation']!r} is also the template or an "
                "image; give the annotation a file of its own"
            )
        if atlas["hemispheres"] is None and atlas["hemisphere_values"] != [1, 2]:
            raise ConfigError(
                f"atlases.{name}.hemisphere_values: {atlas['hemisphere_values']} needs the image "
                f"atlases.{name}.hemispheres; give it, or remove the values"
            )
        if atlas["through"] is not None:
            _check_through(name, atlas, atlases)


def _check_through(name: str, atlas: dict[str, Any], atlases: dict[str, Any]) -> None:
    """An atlas is reached through another one, to which samples are registered."""
    through, key = atlas["through"], f"atlases.{name}.through"
    other = through["atlas"]
    described = [a for a in atlases if a != name and atlases[a]["through"] is None]
    if other not in described:
        reached = other in atlases and other != name
        why = "is itself reached through another one" if reached else "is not such an atlas"
        raise ConfigError(
            f"{key}.atlas: {other!r} {why}; name an atlas that the sample is registered to "
            f"({few(described) or 'there are none'})"
        )
    points = through["points_from"]
    if points not in (None, name, other):
        raise ConfigError(
            f"{key}.points_from: {points!r} is neither {name!r} nor {other!r}; name the atlas "
            "whose points the transform maps to the other one"
        )
    if points is None and not is_folder(through["transform"]):
        raise ConfigError(
            f"{key}.points_from is missing; files of ITK and ANTs do not state whose points they "
            f"map to the other atlas; write {name!r} or {other!r} (a transform that brings the "
            f"image of {other} onto the grid of {name} maps points of {name})"
        )
    if isinstance(through["transform"], list):
        for path in through["transform"]:
            if not ending_of(path):
                raise ConfigError(
                    f"{key}.transform: {path!r} has no ending that ITK knows "
                    f"({', '.join((*TRANSFORM_ENDINGS, *FIELD_ENDINGS))}); list files only, a "
                    "folder stands alone"
                )
    if atlas["images"]:
        raise ConfigError(
            f"atlases.{name}.images: images help a registration, but {name} is reached through "
            f"{other}; remove them, or give them to {other}"
        )


def _check_registration(config: dict[str, Any]) -> None:
    section, names = config["registration"], registered_channels(config)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"registration.channel: {few(names)} contains a channel twice; name every channel once"
        )
    for name in section["atlases"] or []:
        if name not in config["atlases"]:
            raise ConfigError(
                f"registration.atlases: atlas {name!r} is not described under atlases: "
                f"({few(config['atlases']) or 'none are'})"
            )
        through = config["atlases"][name]["through"]
        if through is not None and through["atlas"] not in section["atlases"]:
            raise ConfigError(
                f"registration.atlases: {name!r} is reached through {through['atlas']!r}, which is "
                "not listed; add it"
            )
    for name in section["landmarks"]:
        through = config["atlases"].get(name, {}).get("through")
        if through is not None:
            raise ConfigError(
                f"registration.landmarks.{name}: the sample is not registered to {name}, but to "
                f"{through['atlas']}; give landmarks of that one"
            )
    priors = section["priors"]
    if abs(sum(priors) - 1) > 1e-6:
        raise ConfigError(
            f"registration.priors: {priors} sum to {sum(priors):g}; give fractions of matching, "
            "artefact and missing voxels that sum to 1"
        )


def _check_points(config: dict[str, Any], registered: list[str]) -> None:
    """Points, landmarks and labels belong to atlases of the sample, and measure what they may."""
    for name, points in config["points"].items():
        if points["atlas"] not in registered:
            raise ConfigError(
                f"points.{name}.atlas: {points['atlas']!r} is not a registered atlas; use one of "
                f"{few(registered) or 'none'}"
            )
    landmarks = config["registration"]["landmarks"]
    for key, entries in (
        ("fiducials", config["fiducials"]),
        ("registration.landmarks", landmarks),
        ("sample_labels", config["sample_labels"]),
    ):
        for name in sorted(set(entries) - set(config["atlases"])):
            raise ConfigError(f"{key}: atlas {name!r} is not described under atlases:")
    for name, pair in config["fiducials"].items():
        if pair["sample"] == landmarks.get(name, {}).get("sample"):
            raise ConfigError(
                f"fiducials.{name}.sample: {pair['sample']!r} is also in registration.landmarks; "
                "points used by a registration cannot measure its error, so divide them between "
                "two files"
            )


def _check_layers(config: dict[str, Any], registered: list[str]) -> None:
    source = config["input"]
    tiles = () if source["kind"] == "volume" else ("tiles",)
    layers = [*channels_of(config), *registered, *tiles]
    for name in layers:
        if layers.count(name) > 1:
            raise ConfigError(
                f"{name!r} is the name of two viewer layers (channels, atlases, tiles); rename "
                "one of them"
            )


def _check_resolutions(config: dict[str, Any]) -> None:
    """The corrected volume must be as fine as what is made from it."""
    bias = config["intensity"]["bias"]
    if not bias["enabled"] or bias["volume_um"] is None:
        return
    for section, key in (
        ("registration", "resolution_um"),
        ("labels", "resolution_um"),
        ("atlas_space", "resolution_um"),
    ):
        wanted = config[section][key]
        if wanted is not None and wanted < bias["volume_um"]:
            raise ConfigError(
                f"{section}.{key}: {wanted} is finer than the corrected volume that it is made "
                f"from (intensity.bias.volume_um: {bias['volume_um']}); lower that too, or set it "
                "to null for full resolution"
            )


def _check_volume(volume: dict[str, Any]) -> None:
    steps = math.log2(volume["block"] / volume["chunk"])
    if steps < 0 or steps % 1:
        raise ConfigError(
            f"volume.block: {volume['block']} is not volume.chunk times a power of two; give "
            f"{volume['chunk']}, {2 * volume['chunk']}, {4 * volume['chunk']} ..."
        )


def _check_exports(config: dict[str, Any], registered: list[str]) -> None:
    """What is exported must be made in this run."""
    for name, entry in config["export"].items():
        key = f"export.{name}"
        settings = ExportSettings.from_config(entry, key)
        origin = settings.origin
        if origin.channel and origin.channel not in channels_of(config):
            raise ConfigError(
                f"{key}.from: channel {origin.channel!r} is not among input.channels "
                f"({few(channels_of(config))})"
            )
        volumes = [n for n, e in entries_of(config).items() if e.facts.makes]
        if origin.derived and origin.derived not in volumes:
            raise ConfigError(
                f"{key}.from: {origin.derived!r} is not a volume of the section derived, which "
                f"has {few(volumes) or 'none'}; correct the name"
            )
        # a plate, which only its metadata tell, has wells and sites to outline
        if settings.common and config["input"]["kind"] == "volume":
            raise ConfigError(f"{key}.common: the input is a volume, which has no tiles; remove it")
        if settings.is_evened and config["input"]["kind"] != "volume":
            raise ConfigError(
                f"{key}.illumination: the sample is made of tiles, which intensity.flatfield "
                "corrects better; remove illumination"
            )
        atlases = list(config["atlases"]) if origin.kind == "atlases" else registered
        if origin.atlas and origin.atlas not in atlases:
            raise ConfigError(
                f"{key}.from: {origin.atlas!r} is not a registered atlas (there "
                f"{'are' if len(atlases) > 1 else 'is'} {few(atlases) or 'none'}); correct the name"
            )
        for kind, option in (
            ("corrected_volume", "intensity.bias.enabled"),
            ("atlas_space", "atlas_space.enabled"),
        ):
            section: Any = config
            for part in option.split("."):
                section = section[part]
            if origin.kind == kind and not section:
                raise ConfigError(
                    f"{key}.from: {origin.text} is not made while {option} is false; set it to "
                    "true, or export something else"
                )


def _check_bids(config: dict[str, Any]) -> None:
    """Labels of a BIDS data set must differ, and its images are OME-Zarr."""
    section = config["bids"]
    if not section["enabled"]:
        return
    if "ome-zarr" not in config["volume"]["formats"]:
        raise ConfigError(
            f"bids.enabled: true needs OME-Zarr, but volume.formats is "
            f"{config['volume']['formats']}; add ome-zarr"
        )
    if section["published"] and not section["license"]:
        raise ConfigError(
            "bids.published is given without bids.license, but what is published states its "
            "terms; set bids.license, for example to CC-BY-4.0, or remove bids.published"
        )
    if section["subject"] is None:
        bids_label(config["sample"])
    stains: dict[str, str] = {}
    for channel in channels_of(config):
        label = bids_label(channel)
        if label in stains:
            raise ConfigError(
                f"bids.enabled: the channels {stains[label]!r} and {channel!r} would both be "
                f"{label!r} in BIDS, which allows only letters and digits; rename one of them"
            )
        stains[label] = channel
