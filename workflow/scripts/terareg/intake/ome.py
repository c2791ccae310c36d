"""Voxel size, stage position and channels in the OME-XML of a TIFF file (standard library only).

OME data model 2016-06, as Bio-Formats, Zeiss and Micro-Manager write it, and two elements that
LaVision (Miltenyi) microscopes add in a namespace of their own: ``Offset``, the stage position of
the file in micrometres, and ``xyz-Table_XY_Overlap``, in percent.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_TAG = re.compile(r"<(?:\w+:)?([\w-]+)\b([^>]*)>")
_ATTRIBUTE = re.compile(r"([\w:]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_UM = {
    "": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "micrometer": 1.0, "nm": 1e-3,
    "mm": 1e3, "cm": 1e4, "m": 1e6, "reference frame": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class OmeImage:
    """One image of OME-XML.

    Attributes
    ----------
    name : str
    sizes : dict of str to int
        Of the axes X, Y, Z, C and T, as far as they are stated.
    spacing_um : (z, y, x)
        Voxel size; None where it is not stated.
    position_um : (z, y, x) or None
        Stage position of the first plane.
    channels : tuple of str
        Names of channels, or their excitation wavelengths; empty if there are none.
    files : frozenset of str
        Names of files that hold its planes.
    overlap : float or None
        Overlap of neighbours as a fraction, where the microscope states it.
    unit_stated : bool
        Whether the position has a unit.
    """

    name: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    spacing_um: tuple[float | None, float | None, float | None] = (None, None, None)
    position_um: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()
    overlap: float | None = None
    unit_stated: bool = True


def is_ome(text: str) -> bool:
    """Whether the description of a TIFF file is OME-XML."""
    return re.search(r"<(?:\w+:)?OME\b", text) is not None


def read_ome(text: str, file: str) -> OmeImage | None:
    """The image of OME-XML that a file holds; None if the text describes none.

    Parameters
    ----------
    text : str
        Description of the first page.
    file : str
        Name of the file: text of a set of files describes all of them.
    """
    images = _images(text)
    if not images:
        return None
    own = [image for image in images if file in image.files]
    # a file that was renamed, or that holds a single image
    own = own or [image for image in images if image.name and image.name in file]
    return (own or images)[0]


def _images(text: str) -> list[OmeImage]:
    found: list[dict] = []
    overlap = None
    for tag, inner in (match.groups() for match in _TAG.finditer(text)):
        values = {k: html.unescape(a or b) for k, a, b in _ATTRIBUTE.findall(inner)}
        if tag == "Image":
            found.append({"name": values.get("Name", ""), "channels": [], "files": set()})
        elif tag == "xyz-Table_XY_Overlap":
            overlap = _number(values.get("Value"))
        elif found:
            _note(found[-1], tag, values)
    share = None if overlap is None or not 0 < overlap < 90 else overlap / 100
    return [_image(values, share) for values in found]


def _note(image: dict, tag: str, values: dict[str, str]) -> None:
    if tag == "Pixels":
        image["sizes"] = {
            axis: int(values[f"Size{axis}"])
            for axis in "XYZCT"
            if re.fullmatch(r"\d{1,9}", values.get(f"Size{axis}", ""))
        }
        image["spacing"] = tuple(_length(values, f"PhysicalSize{axis}") for axis in "ZYX")
    elif tag == "Channel":
        name = values.get("Name") or values.get("ExcitationWavelength") or values.get("Fluor", "")
        image["channels"].append(name)
    elif tag == "UUID" and "FileName" in values:
        image["files"].add(values["FileName"])
    elif tag == "Plane" and "position" not in image:
        if values.get("TheZ", "0") == "0" and "PositionX" in values:
            image["unit"] = "PositionXUnit" in values
            image["position"] = tuple(_length(values, f"Position{axis}") for axis in "ZYX")
    elif tag == "StageLabel" and "X" in values:
        image["label"] = tuple(_length(values, axis) for axis in "ZYX")
        image["label_unit"] = "XUnit" in values
    elif tag == "Offset" and "Offset_0" in values:
        image["label"] = tuple(_number(values.get(f"Offset_{axis}")) for axis in (2, 1, 0))
        image["label_unit"] = True


def _image(values: dict, overlap: float | None) -> OmeImage:
    place, unit = values.get("position"), values.get("unit", True)
    if place is None or None in place[1:]:
        place, unit = values.get("label"), values.get("label_unit", True)
    known = None
    if place is not None and None not in place[1:]:
        known = (place[0] or 0.0, place[1], place[2])
    names = tuple(values["channels"]) if all(values["channels"]) else ()
    return OmeImage(
        values["name"],
        values.get("sizes", {}),
        _sizes(values.get("spacing", (None, None, None))),
        known,
        names,
        frozenset(values["files"]),
        overlap,
        unit,
    )


def _sizes(
    spacing: tuple[float | None, float | None, float | None],
) -> tuple[float | None, float | None, float | None]:
    z, y, x = (v if v and v > 0 else None for v in spacing)
    return z, y, x


def _length(values: Mapping[str, str], name: str) -> float | None:
    """A length in micrometres; None if there is none, or its unit is unknown."""
    factor = _UM.get(values.get(f"{name}Unit", "").strip())
    number = _number(values.get(name))
    return None if factor is None or number is None else number * factor


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
