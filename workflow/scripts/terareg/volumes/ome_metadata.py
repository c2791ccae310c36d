"""What the metadata of OME-Zarr state: axes, units, voxel sizes (standard library only).

Specification: https://ngff.openmicroscopy.org/0.5/, and RFC-4 for the orientation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from terareg.core.errors import VolumeError
from terareg.storage.foreign import boundary, load_json, read_object, short
from terareg.storage.store import Store

#: micrometres per unit, by the names that files use
UM_PER = {
    "angstrom": 1e-4, "nanometer": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micron": 1.0,
    "microns": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "millimeter": 1e3, "mm": 1e3,
    "centimeter": 1e4, "meter": 1e6, "m": 1e6, "inch": 25400.0,
    "nanometre": 1e-3, "nanometers": 1e-3, "nanometres": 1e-3, "micrometre": 1.0,
    "micrometers": 1.0, "micrometres": 1.0, "millimetre": 1e3, "millimeters": 1e3,
    "millimetres": 1e3,
}  # fmt: skip
# where an axis of OME-Zarr leads
_TOWARDS = {
    "left-to-right": "R", "right-to-left": "L", "posterior-to-anterior": "A",
    "anterior-to-posterior": "P", "inferior-to-superior": "S", "superior-to-inferior": "I",
}  # fmt: skip
_MOST_LEVELS = 64


def read_json_object(store: Store, name: str) -> Any:
    """JSON that others wrote, from a store; :class:`FileNotFoundError` if there is none."""
    try:
        data = read_object(store, name)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except (OSError, ValueError) as error:
        with boundary(store.address(name), VolumeError, "check that the volume is complete"):
            raise error
    with boundary(store.address(name), VolumeError, "check that the volume is complete"):
        return load_json(data)


def size_of(value: Any) -> int:
    """A number of voxels that metadata state; :class:`ValueError` if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 40:
        raise ValueError(f"a size of {short(value)}")
    return value


def check_levels(levels: Sequence) -> None:
    """Raise :class:`ValueError` if the number of levels is impossible for a pyramid."""
    if not 1 <= len(levels) <= _MOST_LEVELS:
        raise ValueError(f"{len(levels)} levels of resolution, not 1 to {_MOST_LEVELS}")


def ome_axes(image: Mapping[str, Any]) -> tuple[list[str], dict[str, str | None]]:
    """Names of the axes of an OME-Zarr image in order, and their units by name.

    Axes of channels and of time are called c and t, whatever name they have beside their type.
    """
    axes = image.get("axes", "tczyx")  # version 0.3 and earlier: only names, or no axes
    names = [_axis_name(a) if isinstance(a, dict) else a for a in axes]
    return names, {_axis_name(a): a.get("unit") for a in axes if isinstance(a, dict)}


def _axis_name(axis: Mapping[str, Any]) -> str:
    return {"channel": "c", "time": "t"}.get(str(axis.get("type")), axis["name"].lower())


def ome_orientation(image: Mapping[str, Any]) -> str | None:
    """Code (z, y, x) of the anatomical orientation of the axes (RFC-4 of OME-NGFF), if stated."""
    letters = {}
    for axis in image.get("axes", ()):
        stated = axis.get("orientation") if isinstance(axis, dict) else None
        if isinstance(stated, dict) and stated.get("type") == "anatomical":
            letters[axis["name"].lower()] = _TOWARDS.get(str(stated.get("value")), "?")
    code = "".join(letters.get(name, "?") for name in "zyx")
    pairs = sorted(code.translate(str.maketrans("LPI", "RAS")))
    return code if pairs == ["A", "R", "S"] else None


def check_other_axes(name: str, sizes: Mapping[str, int]) -> None:
    """Raise :class:`VolumeError` for an axis beside channels and space along which there are more.

    ``sizes`` are those of all axes by name.
    """
    for axis, size in sizes.items():
        if axis not in "czyx" and size != 1:
            what = "time points" if axis == "t" else f"images along its axis {short(axis)}"
            raise VolumeError(
                f"{name} contains {size} {what}; give one volume with three dimensions"
            )


def check_names(name: str, axes: Sequence[str], array: Mapping[str, Any]) -> None:
    """Raise :class:`VolumeError` if an array (``zarr.json``) names its axes in another order."""
    own = [str(n).lower() for n in array.get("dimension_names") or () if n is not None]
    own = [n for n in own if n in ("z", "y", "x")]
    stated = [a for a in axes if a in "zyx"]
    if sorted(own) == ["x", "y", "z"] and own != stated:
        raise VolumeError(
            f"{name} has the axes {', '.join(stated)} in its multiscales, but its array names them "
            f"{', '.join(own)} (dimension_names); correct the one that is wrong"
        )


def um_factors(units: Mapping[str, str | None]) -> list[float] | None:
    """Micrometres per unit of the axes z, y and x; None if one unit is unknown."""
    found = [UM_PER.get(str(units.get(a)).lower()) for a in "zyx"]
    known = [factor for factor in found if factor is not None]
    return known if len(known) == 3 else None


def unknown_unit(units: Mapping[str, str | None]) -> str | None:
    """The first unit of the axes z, y and x that none knows; None if all lack one or are known."""
    stated = (str(units[a]) for a in "zyx" if units.get(a))
    return next((unit for unit in stated if unit.lower() not in UM_PER), None)


def ome_scale(image: Mapping, dataset: Mapping, axes: int) -> list[float] | None:
    """Voxel size along every axis of a level, in the axis' unit; None if not in the metadata."""
    scale = None
    for part in (image, dataset):
        for transform in part.get("coordinateTransformations", []):
            if transform["type"] == "scale":
                factors = transform["scale"]
                if len(factors) != axes:
                    raise VolumeError(
                        f"level {dataset['path']} of an OME-Zarr image has {len(factors)} scales "
                        f"for {axes} axes; correct its coordinateTransformations"
                    )
                scale = [a * b for a, b in zip(scale or [1.0] * axes, factors)]
    return scale


def zarr_type(code: str) -> str:
    """NumPy name of a type code of Zarr 2, for example "<u2"."""
    return f"{ {'u': 'uint', 'i': 'int', 'f': 'float', 'b': 'bool'}[code[1]] }{8 * int(code[2:])}"


def ome_translation(image: Mapping, dataset: Mapping, axes: int) -> list[float] | None:
    """Place of a level's first voxel along every axis, in the axis' unit; None if not stated."""
    place: list[float] | None = None
    for part in (dataset, image):
        for transform in part.get("coordinateTransformations", []):
            values = transform.get(transform["type"])
            if transform["type"] == "scale" and place is not None:
                place = [a * b for a, b in zip(place, values, strict=True)]
            if transform["type"] == "translation":
                place = [a + b for a, b in zip(place or [0.0] * axes, values, strict=True)]
    return place


def ome_attributes(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of ``zarr.json`` (0.5) or ``.zattrs`` (0.4) that is about OME-Zarr."""
    attributes = metadata.get("attributes", {}) if "zarr_format" in metadata else metadata
    found: Mapping[str, Any] = attributes.get("ome", attributes)
    return found
