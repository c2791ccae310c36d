"""The configuration: one dictionary per sample, checked against the schema, defaults filled in.

Every problem is one sentence that names the key, the value and the remedy. The module needs the
standard library, PyYAML and jsonschema, which come with Snakemake.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from terareg.atlas.brainglobe import atlas_keys, find_atlas
from terareg.core.errors import AtlasError, ConfigError, few
from terareg.core.extents import aligned_channel, registered_channels
from terareg.core.orientation import check_orientation
from terareg.derived.section import check_section, entries_of
from terareg.execution.installation import home
from terareg.exports.settings import ExportSettings, bids_label
from terareg.storage.foreign import boundary, decode_text, read_bytes, short, shorten
from terareg.storage.store import Store

SCHEMA = home() / "workflow" / "schemas" / "config.schema.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LARGEST_TILE_VOXEL_UM = 200
_MOST_YAML_BYTES = 2**18
_MOST_NODES, _MOST_DEPTH, _MOST_BITS = 100_000, 50, 64
# how channels are identified, by kind of input
_CHANNEL_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "colm": (int, "channel number; write the number in the file names"),
    "terastitcher": (str, 'folder; write the folder of its tiles, or "." for input.path itself'),
    "table": ((int, str), "channel of a table; write what the column channel says"),
}
# stands for the images of a sample that has none
_ANY_INPUT = {"path": ".", "orientation": "SAR", "channels": {"none": 0}}
#: sections that need images of the sample's own
_OF_IMAGES = ("atlases", "points", "fiducials", "sample_labels")
_RENAMED = {"intensity.shadows": "intensity.destriping"}
# keys of an atlas that is given by its files, not by its name
_OF_FILES = (
    "template", "annotation", "ontology", "orientation", "spacing_um", "hemispheres",
    "hemisphere_values",
)  # fmt: skip
_KEYS_OF_KIND = {
    "view": ("colm", "VW0"),
    "first_level": ("terastitcher", "V"),
    "table": ("table", None),
    "grid": ("table", None),
}


def load_samples(config: Mapping[str, Any], folder: str | Path = ".") -> dict[str, dict[str, Any]]:
    """Return {sample name: complete configuration}.

    Parameters
    ----------
    config : mapping
        Either the configuration of one sample (key ``sample``) or a cohort: ``cohort`` lists
        sample files, and every other key is a default for all of them. Neither: no samples.
    folder : path
        Paths of a cohort's files are relative to it.

    Raises
    ------
    ConfigError
        For anything that the schema or the checks below do not allow.
    """
    _check_size(config, "the configuration")
    own = copy.deepcopy(dict(config))
    files = own.pop("cohort", None)
    if files is None:
        parts = [("the configuration", own)] if "sample" in own else []
        if not parts and own.get("derived"):
            raise ConfigError(
                "derived: the configuration has no key sample, whose folder the derived volumes go "
                "to; set sample: to a name"
            )
        if not parts:
            check(own | {"sample": "none", "input": copy.deepcopy(_ANY_INPUT)})
    else:
        if "sample" in own:
            raise ConfigError(
                "the configuration has both sample: and cohort:; move the sample into a file of "
                "its own and list it under cohort:"
            )
        if not isinstance(files, list) or not files:
            raise ConfigError(f"cohort: {short(files)} must be a list of sample files")
        parts = [(str(f), merge(own, read_yaml(Path(folder) / str(f)))) for f in files]
    samples: dict[str, dict[str, Any]] = {}
    for source, part in parts:
        if "sample" not in part:
            raise ConfigError(f"{source}: key sample is missing; give the brain a name")
        complete = check(part)
        name = complete["sample"]
        if name in samples:
            raise ConfigError(
                f"sample {name!r} is described twice (second time in {source}); "
                "two samples may not share a name, since they would share a folder"
            )
        samples[name] = complete
    for key in ("results",):
        values = sorted({s[key] for s in samples.values()})
        if len(values) > 1:
            raise ConfigError(f"{key}: the samples of one run must agree, found {few(values)}")
    return samples


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations key by key; ``over`` wins, lists are replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise ConfigError(
                        f"line {line}: key {shorten(key.value, 60)} is there twice (first on line "
                        f"{seen[key.value]}); remove one of them"
                    )
                seen[key.value] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises
    ------
    ConfigError
        If it cannot be read, has a key twice, or is larger or deeper than any real configuration.
    """
    with boundary(str(path), ConfigError, "correct the path or the file"):
        text = decode_text(read_bytes(path, _MOST_YAML_BYTES))
        try:
            data = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
        except ConfigError as error:
            raise ConfigError(f"{path} {error}") from error
        except yaml.YAMLError as error:
            line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
            raise ConfigError(
                f"{path} is not valid YAML (line {line}); correct it there"
            ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no settings; it must be a mapping of keys to values")
    _check_size(data, str(path))
    return data


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    return schema


def _check_size(data: Any, name: str) -> None:
    """Raise if a configuration is deeper or larger than any real one, or contains itself.

    Aliases of YAML cost nothing to read, but walking through them may never end.
    """
    left, stack = _MOST_NODES, [(data, 0)]
    while stack:
        value, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _MOST_DEPTH:
            how = f"more than {_MOST_DEPTH} levels" if left >= 0 else f"over {_MOST_NODES} values"
            raise ConfigError(
                f"{name} has {how}, through its aliases (&, *); write it without them"
            )
        if isinstance(value, Mapping):
            stack += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, (list, tuple)):
            stack += [(part, depth + 1) for part in value]


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with all defaults, or raise :class:`ConfigError` for the first problem."""
    with boundary("the configuration", ConfigError, "correct it"):
        return _checked(config)


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    schema = _schema()
    _check_size(config, "the configuration")
    complete = copy.deepcopy(dict(config))
    _check_plain(complete, "")
    alone = "input" not in complete and "derived" in complete
    if alone:
        complete["input"] = copy.deepcopy(_ANY_INPUT)
    asked = asked_of(complete)
    if "input.orientation" in asked:
        raise ConfigError(f"input.orientation is left blank; {asked['input.orientation']}")
    _fill_atlases(complete)
    _fill_defaults(complete, schema)
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(complete),
        key=lambda e: (list(map(str, e.absolute_path)), e.validator or ""),
    )
    if errors:
        raise ConfigError(_sentence(jsonschema.exceptions.best_match(errors)))
    if alone:
        complete["input"] |= {"kind": "none", "path": None, "channels": {}}
        _check_alone(complete)
    else:
        _check_meaning(complete)
    check_section(complete)
    return complete


def asked_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that a sample leaves blank although only its owner can fill them in, and how to."""
    source = config.get("input")
    if not isinstance(source, Mapping):
        return {}
    asked = {}
    if "orientation" in source and source["orientation"] is None:
        asked["input.orientation"] = (
            "write three letters, for the axes z (planes), y (rows) and x (columns) the direction "
            "in which each index grows (R or L, A or P, S or I), for example SAR; no program can "
            "see it, and config/README.md shows how to find it"
        )
    if source.get("kind") in ("terastitcher", "table") and source.get("spacing_um") is None:
        asked["input.spacing_um"] = (
            "give the voxel size [z, y, x] in micrometres, which no file of the tiles says"
        )
    return asked


def _fill_atlases(config: dict[str, Any]) -> None:
    """Give atlases that are only named the keys of the installed atlas of that name."""
    described = config.get("atlases")
    for key, atlas in (described if isinstance(described, dict) else {}).items():
        name = atlas.get("name") if isinstance(atlas, dict) else None
        if not isinstance(name, str):
            continue
        where = f"atlases.{key}"
        for other in _OF_FILES:
            if atlas.get(other) is not None:
                raise ConfigError(
                    f"{where}.{other}: {atlas[other]!r} does not go with {where}.name, which says "
                    "it; remove one of them"
                )
        version = atlas.get("version")
        if version is not None and not isinstance(version, str):
            raise ConfigError(
                f'{where}.version: {version!r} is a number to YAML; write it in quotes, "{version}"'
            )
        try:
            found = find_atlas(name, version)
            atlas.update(atlas_keys(found), version=found.version)
        except AtlasError as error:
            raise AtlasError(f"{where}.name: {error}") from error


def _check_plain(value: Any, where: str) -> None:
    """Refuse names that YAML takes for numbers, paths with ~, and numbers that are not finite."""
    if isinstance(value, str) and value.startswith("~"):
        raise ConfigError(f"{where}: {short(value, 120)} begins with ~, write the whole path")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: {short(value)} holds a NUL character; remove it")
    # an infinite window means one polynomial for the whole brain
    endless = where.endswith(".contrast_window_um") and value == math.inf
    if isinstance(value, float) and not math.isfinite(value) and not endless:
        raise ConfigError(f"{where}: {value} is not possible; give a number")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ConfigError(f"{where}: {short(value)} is not possible; give a number")
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ConfigError(
                    f"{where or 'configuration'}: the name {short(key)} is not text; write it in "
                    f'quotes, "{short(key)}"'
                )
            _check_plain(part, f"{where}.{key}" if where else key)
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            _check_plain(part, f"{where}.{number}")


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        return
    for key, part in schema.get("properties", {}).items():
        if key not in value and "default" in part:
            value[key] = copy.deepcopy(part["default"])
        if key in value:
            _fill_defaults(value[key], part)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        for key in value.keys() - schema.get("properties", {}).keys():
            _fill_defaults(value[key], extra)


def _sentence(error: jsonschema.ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "configuration"
    value, schema = error.instance, error.schema
    hint = schema.get("description", "see config/README.md") if isinstance(schema, Mapping) else ""
    shown = short(value, 120)
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = list(schema.get("properties", {}))
        unknown = sorted(set(value) - set(known))[0]
        near = difflib.get_close_matches(unknown[:40], known, 1, 0.6)
        prefix = "" if where == "configuration" else where + "."
        if prefix + unknown in _RENAMED:
            return f"{prefix}{unknown} is called {_RENAMED[prefix + unknown]} now; rename the key"
        advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{prefix}{unknown} is not a known key; {advice}"
    if error.validator == "required":
        missing = re.match(r"'(.*)' is a required", error.message)
        return f"{where}: key {missing.group(1) if missing else '?'} is missing; {hint}"
    if error.validator == "enum":
        near = difflib.get_close_matches(
            str(value)[:40], [str(v) for v in error.validator_value], 1
        )
        options = ", ".join(map(str, error.validator_value))
        advice = f"did you mean {near[0]}? (possible: {options})" if near else f"use {options}"
        return f"{where}: {shown} is not possible; {advice}"
    if error.validator == "type":
        return (
            f"{where}: {shown} is not of type {_words(error.validator_value)}; {hint}"
            + (" (write the number alone, units are fixed by the key's name)"
               if isinstance(value, str) and re.match(r"\s*[\d.]+\s*\S+", value) else "")
        )  # fmt: skip
    limits = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most",
              "exclusiveMaximum": "less than"}  # fmt: skip
    if error.validator in limits:
        return f"{where}: {shown} must be {limits[error.validator]} {error.validator_value}; {hint}"
    return f"{where}: {shown} does not fit; {hint}"


def _words(kind: Any) -> str:
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _check_places(config: dict[str, Any]) -> None:
    """Names become names of folders; results and store are places that can be written."""
    for what, name in _names(config):
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{what} {name!r} would make a bad folder name; use letters, digits, _ and -"
            )
    if config["sample"] == "atlases":
        raise ConfigError("sample: 'atlases' is reserved for prepared atlases; choose another name")
    Store(config["store"])  # raises for any other kind of address
    if not re.fullmatch(r"[^{}:]+", config["results"]):
        raise ConfigError(
            f"results: {config['results']!r} is not a folder that Snakemake can use; give a path "
            "without a colon or braces (volumes may go elsewhere: store)"
        )


def _check_alone(config: dict[str, Any]) -> None:
    """Check a sample without input, which has only volumes derived from others."""
    _check_places(config)
    for key in _OF_IMAGES:
        if config[key]:
            raise ConfigError(
                f"{key}: this sample has no images that they could belong to; add input: or remove "
                f"{key}"
            )
    _check_volume(config["volume"])


def _check_volume(volume: dict[str, Any]) -> None:
    steps = math.log2(volume["block"] / volume["chunk"])
    if steps < 0 or steps % 1:
        raise ConfigError(
            f"volume.block: {volume['block']} is not a power of two times volume.chunk; "
            f"give {volume['chunk']}, {2 * volume['chunk']}, {4 * volume['chunk']} ..."
        )


def _check_meaning(config: dict[str, Any]) -> None:
    _check_places(config)
    source = config["input"]
    check_orientation(source["orientation"], "input.orientation")
    channels = source["channels"]
    if source["kind"] == "volume":
        _check_volume_input(config)
    else:
        _check_tiles_input(source)
    _check_kind_of_keys(source)
    flatfield = config["intensity"]["flatfield"]
    offset = (flatfield["method"], flatfield["background"])
    stripes_given = config["intensity"]["destriping"] not in ("auto", "none")
    if stripes_given and offset == ("none", None):
        raise ConfigError(
            "intensity.destriping needs the dark offset of the camera, which "
            "intensity.flatfield.method: none does not find; give intensity.flatfield.background"
        )
    for key, name in (
        ("stitching.channel", aligned_channel(config)),
        *(("registration.channel", name) for name in registered_channels(config)),
    ):
        if name not in channels:
            raise ConfigError(
                f"{key}: channel {name!r} is not among input.channels ({few(channels)})"
            )
    if len(set(registered_channels(config))) < len(registered_channels(config)):
        raise ConfigError(
            f"registration.channel: {few(registered_channels(config))} names a channel "
            "twice; name every channel once"
        )
    stitching = config["stitching"]
    if stitching["tile_configuration"] and "xml_import" in stitching["xml"]:
        raise ConfigError(
            f"stitching.tile_configuration: {stitching['tile_configuration']!r} and "
            f"stitching.xml.xml_import {stitching['xml']['xml_import']!r} both give nominal "
            "positions; remove one of them"
        )
    for name, atlas in config["atlases"].items():
        check_orientation(atlas["orientation"], f"atlases.{name}.orientation")
        files = [atlas["template"], *atlas["images"].values()]
        if len(set(files)) < len(files):
            raise ConfigError(
                f"atlases.{name}.images: {few(files)} names a file twice, template "
                "included; give every image once"
            )
    for name in config["registration"]["atlases"] or []:
        if name not in config["atlases"]:
            raise ConfigError(
                f"registration.atlases: atlas {name!r} is not described under atlases: "
                f"({few(config['atlases']) or 'none are'})"
            )
    _check_resolutions(config)
    _check_options(config)
    registered = config["registration"]["atlases"] or list(config["atlases"])
    for name, points in config["points"].items():
        if points["atlas"] not in registered:
            raise ConfigError(
                f"points.{name}.atlas: {points['atlas']!r} is not among the registered atlases "
                f"({few(registered) or 'none are'})"
            )
    _check_exports(config, registered)
    _check_bids(config)
    for name, cells in config["cells"].items():
        if cells["channel"] not in channels:
            raise ConfigError(
                f"cells.{name}.channel: {cells['channel']!r} is not among input.channels "
                f"({few(channels)})"
            )
    layers = [*channels, *registered, *(() if source["kind"] == "volume" else ("tiles",))]
    for name in layers:
        if layers.count(name) > 1:
            raise ConfigError(
                f"{name!r} is the name of two layers of the viewer (channels, atlases, tiles); "
                "rename one of them"
            )
    _check_volume(config["volume"])
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
                f"fiducials.{name}.sample: {pair['sample']!r} is among registration.landmarks too; "
                "points that take part in a registration cannot measure its error, so divide them "
                "between two files"
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
                f"from (intensity.bias.volume_um {bias['volume_um']}); lower that as well, or set "
                "it to null for the full resolution"
            )


def _check_channel_shift(config: dict[str, Any]) -> None:
    """A shift must be given of every channel but the alignment channel, or of none."""
    stitching = config["stitching"]
    given, mode = stitching["channel_shift_um"], stitching["channel_shift"]
    aligned, channels = aligned_channel(config), config["input"]["channels"]
    if bool(given) != (mode == "given") and (given or len(channels) > 1):
        raise ConfigError(
            f"stitching.channel_shift_um: {given or 'nothing'} does not go with "
            f"stitching.channel_shift: {mode}; give a shift of every channel together with "
            "channel_shift: given, or neither"
        )
    for name in given:
        if name not in channels or name == aligned:
            raise ConfigError(
                f"stitching.channel_shift_um: {name!r} is not among the channels besides "
                f"{aligned}, whose tiles are compared "
                f"({few(c for c in channels if c != aligned) or 'there are none'})"
            )
    missing = [c for c in channels if c != aligned and c not in given] if given else []
    if missing:
        raise ConfigError(
            f"stitching.channel_shift_um: no shift of channel {missing[0]!r} is given; give that "
            "of every channel, [0, 0, 0] for one that is not shifted"
        )


def _check_exports(config: dict[str, Any], registered: list[str]) -> None:
    """What is exported must be made in this run."""
    for name, entry in config["export"].items():
        key = f"export.{name}"
        settings = ExportSettings.from_config(entry, key)
        origin = settings.origin
        if origin.channel and origin.channel not in config["input"]["channels"]:
            raise ConfigError(
                f"{key}.from: channel {origin.channel!r} is not among input.channels "
                f"({few(config['input']['channels'])})"
            )
        atlases = list(config["atlases"]) if origin.kind == "atlases" else registered
        if origin.atlas and origin.atlas not in atlases:
            raise ConfigError(
                f"{key}.from: {origin.atlas!r} is not among the registered atlases "
                f"({few(atlases) or 'none are'})"
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
    if section["subject"] is None:
        bids_label(config["sample"])
    stains: dict[str, str] = {}
    for channel in config["input"]["channels"]:
        label = bids_label(channel)
        if label in stains:
            raise ConfigError(
                f"bids.enabled: the channels {stains[label]!r} and {channel!r} are both {label!r} "
                "in BIDS, which allows letters and digits; rename one of them"
            )
        stains[label] = channel


def _check_options(config: dict[str, Any]) -> None:
    """Check combinations of options that stages need, before their jobs run."""
    search = config["stitching"]["displacement"]["search_um"]
    if not any(search):
        raise ConfigError(
            f"stitching.displacement.search_um: {search} leaves nothing to search; give how far "
            "(z, y, x) tiles may lie from their nominal places, for example [40, 60, 60]"
        )
    _check_channel_shift(config)
    priors = config["registration"]["priors"]
    if abs(sum(priors) - 1) > 1e-6:
        raise ConfigError(
            f"registration.priors: {priors} sum to {sum(priors):g}; give the shares of matching, "
            "artefact and missing voxels, which sum to 1"
        )
    flatfield = config["intensity"]["flatfield"]
    method, key = flatfield["method"], "intensity.flatfield"
    if (method == "image") != (flatfield["image"] is not None):
        raise ConfigError(
            f"{key}.image: {flatfield['image']!r} does not go with {key}.method: {method}; "
            "method image, and no other, needs the path of a TIFF"
        )
    if flatfield["tile_gains"] in (True, "depth") and method != "statistics":
        raise ConfigError(
            f"{key}.tile_gains: {flatfield['tile_gains']!r} does not go with {key}.method: "
            f"{method}, which finds no gains; set tile_gains: false or method: statistics"
        )
    if flatfield["tile_gains"] in (True, "depth") and flatfield["tiles"] not in ("all", 1):
        raise ConfigError(
            f"{key}.tile_gains: {flatfield['tile_gains']!r} needs every tile, but {key}.tiles is "
            f"{flatfield['tiles']}; set tiles: all or tile_gains: false"
        )


def _check_tiles_input(source: dict[str, Any]) -> None:
    if source["path"] is None:
        raise ConfigError(
            "input: key path is missing; give the folder that holds the raw tiles, or set "
            "input.kind: volume where the channels are volumes already"
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
            f"input.channels: {source['channels']} gives two names to one "
            f"{what.split(';', maxsplit=1)[0]}"
        )
    if kind != "colm" and source["spacing_um"] is None:
        raise ConfigError(
            f"input: key spacing_um is missing; files of input.kind: {kind} do not say how large a "
            "voxel is, give [z, y, x] in micrometres"
        )
    if kind == "table" and source["table"] is None:
        raise ConfigError(
            "input: key table is missing; give the name of the table of tiles below input.path"
        )
    for i, size in enumerate(source["spacing_um"] or ()):
        if size > _LARGEST_TILE_VOXEL_UM:
            raise ConfigError(
                f"input.spacing_um.{i}: {size} must be at most {_LARGEST_TILE_VOXEL_UM}; a voxel "
                "size of tiles in micrometres"
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
                f"input.{key}: {source[key]!r} belongs to tiles, not to input.kind: volume; remove "
                "it, images are listed under input.channels"
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
        Store(channel_image(config, name)["path"])
    images = [channel_image(config, name) for name in source["channels"]]
    parts = [(image["path"], image["channel"]) for image in images]
    if len(set(parts)) != len(parts):
        raise ConfigError(f"input.channels: {source['channels']} gives two names to one image")


def files_of(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys and paths of all files that a complete configuration names besides the raw data."""
    for name, atlas in config["atlases"].items():
        for key in ("template", "annotation", "ontology", "hemispheres"):
            yield f"atlases.{name}.{key}", atlas[key]
        for image, path in atlas["images"].items():
            yield f"atlases.{name}.images.{image}", path
    for name, path in config["stitching"]["xml"].items():
        yield f"stitching.xml.{name}", path
    yield "stitching.tile_configuration", config["stitching"]["tile_configuration"]
    yield "intensity.flatfield.image", config["intensity"]["flatfield"]["image"]
    for key, pairs in (
        ("fiducials", config["fiducials"]),
        ("registration.landmarks", config["registration"]["landmarks"]),
    ):
        for name, pair in pairs.items():
            for side in ("sample", "atlas"):
                yield f"{key}.{name}.{side}", pair[side]
    for key in ("points", "sample_labels"):
        for name, entry in config[key].items():
            yield f"{key}.{name}.path", entry["path"]
    for name, derived in entries_of(config).items():
        for key, path in derived.files.items():
            yield f"derived.{name}.{key}", path


def check_files(config: Mapping[str, Any], made: Iterable[str] = ()) -> None:
    """Raise :class:`ConfigError` for the first local file of :func:`files_of` that is not there.

    A file below one of the folders ``made`` may be missing, because the run itself may make it.
    """
    folders = [Path(folder).absolute() for folder in made if "://" not in folder]
    for key, path in files_of(config):
        if path is None or "://" in path or Path(path).is_file():
            continue
        # labels may be a volume, and images of an atlas levels of one, which are folders
        if key.startswith(("sample_labels.", "atlases.")) and Path(path).is_dir():
            continue
        if any(folder in Path(path).absolute().parents for folder in folders):
            continue
        state = "is not a file" if Path(path).exists() else "does not exist"
        where = "" if Path(path).is_absolute() else f" (seen from {Path.cwd()})"
        raise ConfigError(f"{key}: {path!r} {state}{where}; correct the path")


def channel_image(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Image of a channel of an input of kind volume: {"path": address, "channel": number in it}."""
    image = config["input"]["channels"][name]
    return {"path": image, "channel": 0} if isinstance(image, str) else dict(image)


def _names(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "sample", config["sample"]
    for name in config["input"]["channels"]:
        yield "input.channels:", name
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


def describe() -> str:
    """The keys of the configuration as a Markdown table (kept in config/README.md)."""
    schema = _schema()
    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{k}` | {d} | {m} |" for k, d, m in _keys(schema, "")]
    return "\n".join(rows) + "\n"


def settings(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All settings of a complete configuration by dotted key, in the order of the schema.

    Returns
    -------
    dict
        Of each setting ``value``, ``default`` (None where there is none), and ``changed``: whether
        the value is another than the default.
    """
    return dict(_settings(config, _schema(), ""))


def _settings(
    values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, part in schema.get("properties", {}).items():
        if key not in values:
            continue
        name, value, extra = prefix + key, values[key], part.get("additionalProperties")
        if part.get("properties") and isinstance(value, Mapping):
            yield from _settings(value, part, name + ".")
        elif isinstance(extra, Mapping) and extra.get("properties") and value:
            for one, settings in value.items():
                if isinstance(settings, Mapping):
                    yield from _settings(settings, extra, f"{name}.{one}.")
                else:
                    yield f"{name}.{one}", {"value": settings, "default": None, "changed": True}
        else:
            default = part.get("default")
            yield name, {"value": value, "default": default, "changed": value != default}


def _keys(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, part in schema.get("properties", {}).items():
        name = prefix + key
        inner = part.get("properties")
        extra = part.get("additionalProperties")
        if inner:
            yield from _keys(part, name + ".")
            continue
        needed = key in schema.get("required", [])
        default = "required" if needed else f"`{_yaml(part.get('default'))}`"
        yield name, default, " ".join(part.get("description", "").split()).replace("|", "\\|")
        if isinstance(extra, Mapping) and extra.get("properties"):
            yield from _keys(extra, f"{name}.NAME.")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("...").strip()


if __name__ == "__main__":
    import sys

    sys.stdout.write(describe())
