"""The configuration: one dictionary per sample, checked against the schema, defaults filled in.

Every problem is one sentence that names the key, the value and the remedy. The module needs the
standard library, PyYAML and jsonschema, which come with Snakemake.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from terareg.atlas.brainglobe import atlas_keys, find_atlas
from terareg.core.errors import AtlasError, ConfigError, few
from terareg.derived.section import check_section, entries_of
from terareg.execution import schema
from terareg.execution.combinations import check_alone, check_combinations
from terareg.execution.yaml_files import check_size, merge, read_yaml
from terareg.registration.known_files import known_files
from terareg.storage.foreign import boundary, short

_MOST_BITS = 64
# stands for the images of a sample that has none
_ANY_INPUT = {"path": ".", "orientation": "SAR", "channels": {"none": 0}}
# keys of an atlas that is given by its files, not by its name
_OF_FILES = (
    "template", "annotation", "ontology", "orientation", "spacing_um", "hemispheres",
    "hemisphere_values",
)  # fmt: skip


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
    check_size(config, "the configuration")
    own = copy.deepcopy(dict(config))
    files = own.pop("cohort", None)
    if files is None:
        parts = [("the configuration", own)] if "sample" in own else []
        if not parts and own.get("derived"):
            raise ConfigError(
                "derived: the configuration has no key sample, which names the folder of the "
                "derived volumes; set sample: to a name"
            )
        if not parts:
            check_shared(own)
    else:
        if "sample" in own:
            raise ConfigError(
                "the configuration has both sample: and cohort:; move the sample to a file of its "
                "own and list it under cohort:"
            )
        if not isinstance(files, list) or not files:
            raise ConfigError(f"cohort: {short(files)} must be a list of sample files")
        for path in (Path(folder) / str(f) for f in files):
            if not path.is_file():
                raise ConfigError(f"cohort: {_not_a_file(path)}; correct the path")
        parts = [(str(f), merge(own, read_yaml(Path(folder) / str(f)))) for f in files]
    samples: dict[str, dict[str, Any]] = {}
    for source, part in parts:
        if "sample" not in part:
            raise ConfigError(f"{source}: key sample is missing; give the brain a name")
        complete = check(part)
        name = complete["sample"]
        if name in samples:
            raise ConfigError(
                f"sample {name!r} is described twice (second time in {source}); rename one, "
                "because samples with the same name would share a folder"
            )
        samples[name] = complete
    for key in ("results",):
        values = sorted({s[key] for s in samples.values()})
        if len(values) > 1:
            raise ConfigError(
                f"{key}: the samples of one run must agree, but they have "
                f"{few(values)}; give one value"
            )
    return samples


def check_shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings that belong to no sample, and return them with all defaults."""
    return check(dict(config) | {"sample": "none", "input": copy.deepcopy(_ANY_INPUT)})


def check(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with all defaults, or raise :class:`ConfigError` for the first problem."""
    with boundary("the configuration", ConfigError, "correct it"):
        return _checked(config)


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    check_size(config, "the configuration")
    complete = copy.deepcopy(dict(config))
    _check_plain(complete, "")
    alone = "input" not in complete and "derived" in complete
    if alone:
        complete["input"] = copy.deepcopy(_ANY_INPUT)
    asked = asked_of(complete)
    if "input.orientation" in asked:
        raise ConfigError(f"input.orientation is left blank; {asked['input.orientation']}")
    _fill_atlases(complete)
    schema.complete(complete)
    if alone:
        complete["input"] |= {"kind": "none", "path": None, "channels": {}}
        check_alone(complete)
    else:
        check_combinations(complete)
    check_section(complete)
    return complete


def asked_of(config: Mapping[str, Any], stated: str | None = None) -> dict[str, str]:
    """Keys that a sample leaves blank although only its owner can fill them in, and how to.

    ``stated`` is the orientation that the header of its image states, if it does.
    """
    source = config.get("input")
    if not isinstance(source, Mapping):
        return {}
    asked = {}
    if "orientation" in source and source["orientation"] is None:
        known = "no file states it"
        if stated:
            known = f"the header states {stated}, which is to be confirmed"
        asked["input.orientation"] = (
            "write three letters for the axes z (planes), y (rows) and x (columns), each the "
            "anatomical direction in which the index increases (R or L, A or P, S or I), for "
            f"example SAR; {known}, and config/README.md shows how to find it"
        )
    if source.get("kind") in ("terastitcher", "table") and source.get("spacing_um") is None:
        asked["input.spacing_um"] = (
            "give the voxel size [z, y, x] in micrometres, which no file of the tiles states"
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
                    f"{where}.{other}: {atlas[other]!r} and {where}.name both define it; remove "
                    "one of them"
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
        raise ConfigError(f"{where}: {short(value, 120)} begins with ~; write the full path")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: {short(value)} contains a NUL character; remove it")
    # an infinite window means one polynomial for the whole brain
    endless = where.endswith(".contrast_window_um") and value == math.inf
    if isinstance(value, float) and not math.isfinite(value) and not endless:
        raise ConfigError(f"{where}: {value} is not a finite number; give one")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ConfigError(f"{where}: {short(value)} is not a finite number; give one")
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


def files_of(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys and paths of all files that a complete configuration names besides the raw data."""
    for name, atlas in config["atlases"].items():
        for key in ("template", "annotation", "ontology", "hemispheres"):
            yield f"atlases.{name}.{key}", atlas[key]
        for image, path in atlas["images"].items():
            yield f"atlases.{name}.images.{image}", path
        if atlas["through"] is not None:
            for path in known_files(atlas["through"]["transform"]):
                yield f"atlases.{name}.through.transform", path
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
    for name, entry in config["cells"].items():
        yield f"cells.{name}.marks", entry["marks"]
    for name, entry in config["export"].items():
        if isinstance(entry["outlines"], str):
            yield f"export.{name}.outlines", entry["outlines"]
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
        folders_too = key.startswith(("sample_labels.", "atlases.")) and ".through." not in key
        if folders_too and Path(path).is_dir():
            continue
        if any(folder in Path(path).absolute().parents for folder in folders):
            continue
        raise ConfigError(f"{key}: {_not_a_file(Path(path))}; correct the path")


def _not_a_file(path: Path) -> str:
    """What is wrong with a path of a file, and which folder it counts from."""
    state = "is not a file" if path.exists() else "does not exist"
    where = "" if path.is_absolute() else f" (relative to {Path.cwd()})"
    return f"{str(path)!r} {state}{where}"
