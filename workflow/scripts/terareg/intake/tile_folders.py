"""Tiles in two levels of folders: TeraStitcher, and the metadata text of a SmartSPIM."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from terareg.intake.found import PLANE, Found, Look, channel_names
from terareg.storage.foreign import decode_text, read_object

_NUMBER = r"0*-?\d{1,18}"
_PLACE = re.compile(rf"(?:(?P<root>.*)/)?(?P<outer>{_NUMBER})/(?P<inner>{_NUMBER}_{_NUMBER})/[^/]+")
_LASER = re.compile(r"(?:^|/)Ex_\d+_(?:Ch|Em)_?\d+[^/]*$", re.IGNORECASE)
_METADATA = re.compile(r"(?:.*/)?[^/]*metadata[^/]*\.txt", re.IGNORECASE)
_PER_UM = 10


@dataclass(frozen=True)
class _Smart:
    """What the metadata text of a SmartSPIM says: its name, micrometres, outer positions."""

    name: str
    pixel_um: float | None
    step_um: float | None
    x: frozenset[int]
    skewed: bool


def terastitcher(look: Look) -> Found | None:
    """Tiles in TeraStitcher's folders, of one or several channels."""
    roots: dict[str, set[int]] = {}
    example = ""
    for key in look.keys:
        match = _PLACE.fullmatch(key)
        if match is None or not PLANE.fullmatch(key.rpartition("/")[2]):
            continue
        if _value(match["outer"]) != _value(match["inner"].split("_")[0]):
            continue
        roots.setdefault(match["root"] or "", set()).add(_value(match["outer"]))
        example = example or key
    if not roots:
        return None
    smart = _read_smart(look)
    lasers = all(_LASER.search(root) for root in roots)
    title = "tiles of a SmartSPIM" if smart or lasers else "tiles in TeraStitcher's folders"
    why = [f"files are in two levels of folders named by positions, such as {example}"]
    channels = channel_names(root.rpartition("/")[2] or "signal" for root in roots)
    source: dict[str, Any] = {
        "kind": "terastitcher",
        "path": look.store.url,
        "first_level": "V",
        "channels": {name: root or "." for name, root in zip(channels, roots)},
    }
    notes, guesses, asked = {}, {}, {}
    if len(roots) > 1:
        why.append(f"{len(roots)} folders contain such a tree, one for each channel")
    outer = set().union(*roots.values())
    if smart and smart.x and outer <= smart.x:
        source["first_level"] = "H"
        notes["first_level"] = f"outer folders are the X positions in {smart.name}"
    elif smart or lasers:
        source["first_level"] = "H"
        guesses["first_level"] = "a SmartSPIM names the outer folders by x (H); others by y (V)"
    else:
        guesses["first_level"] = "TeraStitcher names the outer folders by y (V); some by x (H)"
    step = _step_of_names(look, example)
    if smart and smart.pixel_um and smart.step_um:
        why.append(f"{smart.name} has the columns of a SmartSPIM")
        source["spacing_um"] = [smart.step_um, smart.pixel_um, smart.pixel_um]
        notes["spacing_um"] = f"z, y, x, from {smart.name}"
        if smart.skewed:
            guesses["spacing_um"] = f"z, y, x; {smart.name} calls the first X/Z step"
    else:
        source["spacing_um"] = None
        known = f"; planes are {step:g} um apart according to their file names" if step else ""
        asked["spacing_um"] = f"voxel size [z, y, x] in micrometres{known}"
    return Found(title, source, tuple(why), notes, guesses, asked)


def _value(text: str) -> int:
    return int(re.sub(r"^0*-", "-", text))


def _step_of_names(look: Look, example: str) -> float | None:
    """Distance of the planes of a tile by the names of their files, unless these merely count."""
    folder = example.rpartition("/")[0] + "/"
    numbers = []
    for key in look.keys:
        match = re.fullmatch(r"(?:.*\D)?(\d+)\.\w+", key.rpartition("/")[2])
        if key.startswith(folder) and match:
            numbers.append(int(match[1]))
    apart = sorted({b - a for a, b in zip(sorted(numbers), sorted(numbers)[1:])})
    return apart[0] / _PER_UM if apart and apart[0] > 1 else None


def _read_smart(look: Look) -> _Smart | None:
    for key in look.keys:
        if key.count("/") <= 1 and _METADATA.fullmatch(key):
            try:
                lines = decode_text(read_object(look.store, key)).splitlines()
            except (OSError, ValueError):
                continue
            found = _smart(key, [line.split("\t") for line in lines])
            if found is not None:
                return found
    return None


def _smart(name: str, rows: Sequence[Sequence[str]]) -> _Smart | None:
    """Table of a SmartSPIM: a line of headings above one of values, then X, Y, Z of every tile."""
    for number, row in enumerate(rows[:-1]):
        headings = [cell.strip().lower() for cell in row]
        # the sign for micro is written in several ways
        pixel = next((i for i, h in enumerate(headings) if h.endswith("m/pix")), None)
        step = next((i for i, h in enumerate(headings) if "z step" in h), None)
        if pixel is None or step is None:
            continue
        values = rows[number + 1]
        skewed = headings[step].startswith("x/z")
        return _Smart(name, _at(values, pixel), _at(values, step), _positions(rows), skewed)
    return None


def _at(values: Sequence[str], column: int) -> float | None:
    try:
        value = float(values[column].replace(",", "."))
    except (IndexError, ValueError):
        return None
    return value if 0.05 <= value <= 200 else None


def _positions(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """X positions of all tiles."""
    for number, row in enumerate(rows):
        headings = [cell.strip().lower() for cell in row[:2]]
        if headings == ["x", "y"]:
            numbers = [r[0].strip() for r in rows[number + 1 :] if len(r) > 1]
            return frozenset(_value(n) for n in numbers if re.fullmatch(_NUMBER, n))
    return frozenset()
