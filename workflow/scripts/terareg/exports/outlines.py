"""Outlines of wells and sites by their names: of a plate, or as the user lists them in a table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.storage.foreign import Table, boundary, parse_table, read_bytes, short
from terareg.volumes.importing import frame_of_input

#: opposite corners (z, y, x) of a box, micrometres
Corners = tuple[Sequence[float], Sequence[float]]
_NUMBERS = ("y_um", "x_um", "height_um", "width_um")
_REMEDY = f"give the columns well and {', '.join(_NUMBERS)}, and plate where there are several"


def read_outlines(path: str | os.PathLike[str], frame: Frame) -> dict[str, Corners]:
    """Boxes of a table, and the boxes around the wells of each plate.

    Parameters
    ----------
    path : path
        Table (CSV, TSV) with a line for each well: ``well``, its name; ``y_um`` and ``x_um``, its
        first corner, in micrometres as the volume counts them (0 is the centre of the first voxel);
        ``height_um`` and ``width_um``; and optionally ``plate``. Wells go through all planes.
    frame : Frame
        Of the volume.

    Returns
    -------
    dict of str to (corner, corner)
        Plates by their names, then wells by "PLATE WELL", or "WELL" without a plate.

    Raises
    ------
    VolumeError
        If the table cannot be read, names a well twice, or none of its wells is inside the volume.
    """
    faces = frame.to_um(np.array([[-0.5] * 3, [n - 0.5 for n in frame.shape]]))
    with boundary(os.fspath(path), VolumeError, _REMEDY):
        wells, plates = _wells(parse_table(read_bytes(path)), faces[:, 0].tolist())
    if not any(_overlap(corners, faces) for corners in wells.values()):
        (_, y, x), (_, bottom, right) = faces.round(1).tolist()
        raise VolumeError(
            f"{os.fspath(path)} lists {len(wells)} wells, of which none is inside the volume (y "
            f"{y:g} to {bottom:g} um, x {x:g} to {right:g} um); give their places in the volume"
        )
    return {
        plate: _around([wells[name] for name in names]) for plate, names in plates.items()
    } | wells


def outlines_of_plate(index: Mapping[str, Any]) -> dict[str, Corners]:
    """Wells and sites of a plate that was imported.

    Parameters
    ----------
    index : mapping
        Content of ``input.json``.

    Returns
    -------
    dict of str to (corner, corner)
    """
    frame = frame_of_input(index)
    found = {}
    for name, (top, left, bottom, right) in index["outlines"].items():
        corners = np.array([[0, top, left], [frame.shape[0], bottom, right]]) - 0.5
        low, high = frame.to_um(corners).tolist()
        found[name] = (low, high)
    return found


def _wells(table: Table, z_um: Sequence[float]) -> tuple[dict[str, Corners], dict[str, list[str]]]:
    """Boxes of the wells by name, from the first to the last z, and those of each plate."""
    names = [column.lower() for column in table.columns]
    missing = [name for name in ("well", *_NUMBERS) if name not in names]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    top, bottom = z_um
    wells: dict[str, Corners] = {}
    plates: dict[str, list[str]] = {}
    for line, row in table.rows:
        cells = dict(zip(names, row))
        numbers = [table.number(cells.get(name, "")) for name in _NUMBERS]
        if not all(map(math.isfinite, numbers)) or min(numbers[2:]) <= 0:
            raise ValueError(
                f"line {line} has {short(tuple(cells.get(name, '') for name in _NUMBERS))} for "
                f"{', '.join(_NUMBERS)}; give numbers, and sizes above 0"
            )
        y, x, height, width = numbers
        plate, well = cells.get("plate", ""), cells["well"]
        name = " ".join(part for part in (plate, well) if part)
        if not well or name in wells:
            state = f"names the well {short(name)} again" if well else "names no well"
            raise ValueError(f"line {line} {state}; give every well a name of its own")
        wells[name] = (top, y, x), (bottom, y + height, x + width)
        if plate:
            plates.setdefault(plate, []).append(name)
    if not wells:
        raise ValueError("it lists no well")
    both = sorted(plates.keys() & wells.keys())
    if both:
        raise ValueError(f"it has a plate and a well of the name {short(both[0])}; rename one")
    return wells, plates


def _around(boxes: Sequence[Corners]) -> Corners:
    corners = np.array(boxes, float)
    return corners[:, 0].min(0).tolist(), corners[:, 1].max(0).tolist()


def _overlap(corners: Corners, faces: np.ndarray) -> bool:
    low, high = np.array(corners, float)
    return bool(np.all((low < faces[1]) & (high > faces[0])))
