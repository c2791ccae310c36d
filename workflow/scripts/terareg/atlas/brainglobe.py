"""BrainGlobe atlases that are installed on this machine, by name or by folder.

Two layouts are read. The older one is a folder ``NAME_vX.Y`` with ``metadata.json``,
``structures.json``, ``reference.tiff``, ``annotation.tiff`` and, unless the atlas is symmetric,
``hemispheres.tiff``. The newer one (brainglobe-atlasapi 3) is
``brainglobe-atlasapi/atlases/NAME/X_Y/manifest.json``, which names the folders of OME-Zarr images
and of a table of regions (``terminology.csv``).

BrainGlobe names the axes of arrays by the side at which the index **starts** ("asr": from anterior,
from superior, from right); terareg by that to which it grows ("PIL"). Left is 1 and right 2 in an
image of hemispheres. Standard library only: the workflow asks while it is being loaded.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terareg.core.errors import AtlasError, few
from terareg.core.orientation import check_orientation, opposite
from terareg.storage.foreign import boundary, load_json, read_bytes, short
from terareg.volumes.headers import describe_image
from terareg.volumes.ome_metadata import ome_axes, ome_scale, um_factors

FOLDER_VARIABLE = "BRAINGLOBE_DIR"
#: what a download leaves in the folder of an atlas: address, and SHA-256 of every file
DOWNLOAD_RECORD = "terareg_download.json"
_METADATA, _MANIFEST = "metadata.json", "manifest.json"
_API_FOLDER = "brainglobe-atlasapi"
_IN_FOLDER = re.compile(r"(?P<name>.+)_v(?P<version>\d+(?:\.\d+)*)")
_VERSION = re.compile(r"\d+(?:[._]\d+)*")
_TEMPLATE, _ANNOTATION = "template.ome.zarr", "annotations_compressed.ome.zarr"
_HEMISPHERES, _TERMINOLOGY = "hemispheres.ome.zarr", "terminology.csv"


@dataclass(frozen=True)
class InstalledAtlas:
    """An atlas on this machine.

    Attributes
    ----------
    name, version : str
        "allen_mouse_25um", "1.2".
    file : Path
        Its metadata.json or manifest.json.
    """

    name: str
    version: str
    file: Path

    @property
    def folder(self) -> Path:
        """Folder of the metadata."""
        return self.file.parent


def brainglobe_folder() -> Path:
    """Where BrainGlobe keeps atlases: BRAINGLOBE_DIR, its own configuration, or ~/.brainglobe."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).expanduser()
    settings = Path(
        os.environ.get("BRAINGLOBE_CONFIG_DIR", Path.home() / ".config" / "brainglobe"),
        "bg_config.conf",
    )
    if settings.is_file():
        parser = configparser.ConfigParser()
        with boundary(str(settings), AtlasError, "correct it, or set BRAINGLOBE_DIR"):
            parser.read(settings, encoding="utf-8")
        found = parser.get("default_dirs", "brainglobe_dir", fallback=None)
        if found:
            return Path(found).expanduser()
    return Path.home() / ".brainglobe"


def installed_atlases(folder: Path | None = None) -> list[InstalledAtlas]:
    """Atlases in a folder (:func:`brainglobe_folder`), by name and version, oldest first."""
    folder = folder or brainglobe_folder()
    found = []
    for file in folder.glob(f"*_v*/{_METADATA}"):
        if match := _IN_FOLDER.fullmatch(file.parent.name):
            found.append(InstalledAtlas(match["name"], match["version"], file))
    for file in folder.glob(f"{_API_FOLDER}/atlases/*/*/{_MANIFEST}"):
        if _VERSION.fullmatch(file.parent.name):
            version = file.parent.name.replace("_", ".")
            found.append(InstalledAtlas(file.parents[1].name, version, file))
    return sorted(found, key=lambda a: (a.name, _numbers(a.version)))


def find_atlas(name: str, version: str | None = None) -> InstalledAtlas:
    """An installed atlas by its name, the newest version by default, or by its folder.

    Raises
    ------
    AtlasError
        If it is not on this machine.
    """
    if "/" in name or name.startswith("."):
        return _in_folder(Path(name).expanduser())
    folder = brainglobe_folder()
    found = installed_atlases(folder)
    named = [a for a in found if a.name == name]
    chosen = [a for a in named if version in (None, a.version)]
    if chosen:
        return chosen[-1]
    get = f"terareg atlas get {name}" + (f" --version {version}" if version else "")
    if named:
        there = ", ".join(a.version for a in named)
        raise AtlasError(
            f"{folder} has atlas {name} in version {there}, not {version}; download it with: {get}"
        )
    near = difflib.get_close_matches(name, {a.name for a in found}, 1, 0.6)
    hint = f"did you mean {near[0]}? Otherwise " if near else ""
    raise AtlasError(f"atlas {name} is not in {folder}; {hint}download it with: {get}")


def _in_folder(folder: Path) -> InstalledAtlas:
    for name in (_METADATA, _MANIFEST):
        file = folder / name
        if file.is_file():
            with boundary(str(file), AtlasError, "install the atlas again"):
                data = _read(file)
                resolution = f"_{data['resolution'][0]:g}um" if data.get("resolution") else ""
            known = _IN_FOLDER.fullmatch(folder.name)
            called = known["name"] if known else f"{data.get('name', folder.name)}{resolution}"
            return InstalledAtlas(called, str(data.get("version", "?")).replace("_", "."), file)
    raise AtlasError(
        f"{folder} contains no BrainGlobe atlas ({_METADATA} or {_MANIFEST}); correct the path"
    )


def atlas_metadata(atlas: InstalledAtlas) -> dict[str, Any]:
    """What an atlas says about itself: species, citation, resolution, shape and others."""
    return _read(atlas.file)


def atlas_keys(atlas: InstalledAtlas) -> dict[str, Any]:
    """Keys of the configuration that describe an atlas: files, orientation, voxel size.

    Raises
    ------
    AtlasError
        If a file of it is absent, or the metadata and the images contradict each other.
    """
    remedy = "install the atlas again"
    with boundary(str(atlas.file), AtlasError, remedy):
        data = _read(atlas.file)
        spacing = [float(v) for v in data["resolution"]]
        if len(spacing) != 3 or not all(0.01 <= v <= 50_000 for v in spacing):
            raise AtlasError(
                f"{atlas.file}: resolution {short(data['resolution'])} is not three numbers in "
                f"micrometres; {remedy}"
            )
        reader = _older if atlas.file.name == _METADATA else _newer
        files = reader(atlas, data, spacing)
        orientation = _orientation(str(data.get("orientation", "asr")), atlas.file)
        for key, path in files.items():
            if not Path(path).exists():
                raise AtlasError(f"atlas {atlas.name} has no {key} ({path}); {remedy}")
        _check_shapes(atlas, data, files)
    keys = {**files, "orientation": orientation, "spacing_um": spacing}
    return keys | {"hemisphere_values": [1, 2]} if "hemispheres" in files else keys


def _older(atlas: InstalledAtlas, data: Mapping[str, Any], spacing: list[float]) -> dict[str, str]:
    folder = atlas.folder
    files = {
        "template": folder / "reference.tiff",
        "annotation": folder / "annotation.tiff",
        "ontology": folder / "structures.json",
    }
    if not data.get("symmetric", True):
        files["hemispheres"] = folder / "hemispheres.tiff"
    return {key: str(path) for key, path in files.items()}


def _newer(atlas: InstalledAtlas, data: Mapping[str, Any], spacing: list[float]) -> dict[str, str]:
    root = atlas.file.parents[3]

    def at(location: str, name: str) -> Path:
        return root / location.lstrip("/") / name

    annotations = data["annotation_set"]
    files = {
        "template": _level(at(annotations["template"]["location"], _TEMPLATE), spacing),
        "annotation": _level(at(annotations["location"], _ANNOTATION), spacing),
        "ontology": at(data["terminology"]["location"], _TERMINOLOGY),
    }
    if not data.get("symmetric", True):
        files["hemispheres"] = _level(at(annotations["location"], _HEMISPHERES), spacing)
    return {key: str(path) for key, path in files.items()}


def _level(image: Path, spacing: list[float]) -> Path:
    """Folder of the level of an OME-Zarr image that has a voxel size (z, y, x), micrometres."""
    metadata = _read(image / "zarr.json")
    multiscale = metadata["attributes"]["ome"]["multiscales"][0]
    axes, units = ome_axes(multiscale)
    factors = um_factors(units)
    found = []
    for dataset in multiscale["datasets"]:
        scale = ome_scale(multiscale, dataset, len(axes))
        if scale is None or factors is None:
            continue
        own = [scale[axes.index(a)] * f for a, f in zip("zyx", factors)]
        if all(abs(a / b - 1) < 1e-3 for a, b in zip(own, spacing)):
            level = image / str(dataset["path"])
            # the program that installs them fetches voxels when they are first asked for
            if not (level / "c").is_dir():
                raise AtlasError(
                    f"{level} has no voxels yet; open the template, annotation and hemispheres of "
                    "the atlas once with brainglobe-atlasapi, which downloads them"
                )
            return level
        found.append("x".join(f"{v:g}" for v in own))
    raise AtlasError(
        f"{image} has no level with voxels of {spacing} um (z, y, x) but {few(found) or 'none'}; "
        "install the atlas again"
    )


def zarr_level_shape(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Shape (z, y, x) of a level of an OME-Zarr image, the folder of an array; None of others."""
    file = Path(path) / "zarr.json"
    if not file.is_file():
        return None
    with boundary(str(file), AtlasError, "install the atlas again"):
        metadata = _read(file)
        if metadata.get("node_type") != "array":
            return None
        shape = [int(n) for n in metadata["shape"]]
        if len(shape) < 3 or any(n != 1 for n in shape[:-3]):
            raise AtlasError(f"{path} has shape {shape}; give one volume with three dimensions")
        return shape[-3], shape[-2], shape[-1]


def _check_shapes(atlas: InstalledAtlas, data: Mapping[str, Any], files: Mapping[str, str]) -> None:
    stated = data.get("shape")
    for key in ("template", "annotation", "hemispheres"):
        if key not in files or stated is None:
            continue
        shape = zarr_level_shape(files[key]) or describe_image(files[key], believed=False).shape
        if list(shape) != [int(n) for n in stated]:
            raise AtlasError(
                f"{atlas.file} states that the atlas has {stated} voxels but {files[key]} has "
                f"{list(shape)}; install the atlas again"
            )


def _orientation(code: str, file: Path) -> str:
    """Code of terareg for one that names where each axis starts."""
    turned = "".join(opposite(c) if c in "RLAPSI" else c for c in code.upper())
    return check_orientation(turned, f"{file}: orientation")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))


def _read(file: Path) -> dict[str, Any]:
    with boundary(str(file), AtlasError, "install the atlas again", "JSON"):
        data = load_json(read_bytes(file))
        if not isinstance(data, dict):
            raise ValueError(f"it is a {type(data).__name__}")
        return data
