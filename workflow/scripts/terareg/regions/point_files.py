"""Lists of points as terareg and other programs write them: tables, and markers in XML.

What a file calls its coordinates decides what they are:

========================================  =================  ======================
columns                                   axes               unit
========================================  =================  ======================
``z_um, y_um, x_um`` (mm, nm, vox)        as named           as named
``x, y, z``                               ``xyz``            must be given
``Position X, Position Y, ...`` (Imaris)  ``xyz``            its column Unit
``axis-0, axis-1, axis-2`` (napari)       ``zyx``            voxels
``coordinate_raw_axis_0, ...`` and        ``zyx``            voxels
``coordinate_atlas_axis_0, ...``
(cellfinder's all_points.csv)
``MarkerX, ...`` (cellfinder's XML)       ``xyz``            voxels
========================================  =================  ======================

Axes and unit can be given where a program wrote others.
"""

from __future__ import annotations

import os
import re
from array import array
from dataclasses import dataclass
from pathlib import Path

import defusedxml.ElementTree
import numpy as np

from terareg.core.errors import PointsError, few
from terareg.core.frames import Frame
from terareg.storage.foreign import (
    OpenTable,
    boundary,
    check_xml,
    decode_text,
    open_table,
    read_bytes,
    short,
)

AXES = ("z", "y", "x")
MOST_BYTES = 256 * 2**20
FAR_UM = 1e12
#: micrometres per unit; the size of a voxel comes from the frame
UNITS_UM = {"um": 1.0, "mm": 1000.0, "nm": 0.001, "vox": None}
#: columns that terareg itself adds to points; they are not read back
RESULT_COLUMNS = ("region_id", "acronym", "hemisphere", "in_volume")

_HELP = "use name (optional) and z_um, y_um, x_um, or z_vox, y_vox, x_vox"
# of other programs: columns of the coordinates, their axes, their unit (None: must be given)
_FOREIGN = {
    "cellfinder": (("coordinate_{space}_axis_0", "coordinate_{space}_axis_1",
                    "coordinate_{space}_axis_2"), "zyx", "vox"),
    "imaris": (("position x", "position y", "position z"), "xyz", "um"),
    "napari": (("axis-0", "axis-1", "axis-2"), "zyx", "vox"),
    "plain": (("x", "y", "z"), "xyz", None),
}  # fmt: skip
_MARKERS = ("MarkerX", "MarkerY", "MarkerZ")


@dataclass(frozen=True)
class PointForm:
    """What a user says of a list of points beyond what stands in it.

    Attributes
    ----------
    axes : str or None
        Axes of the volume that the file's coordinates (x, y, z, or first, second, third) run
        along, "zyx" or another order of these letters.
    units : str, tuple of float or None
        "um", "mm", "nm", "vox" (voxels of the volume), or the voxel size (z, y, x) in micrometres
        of another image of the same field of view, whose voxels the coordinates count.
    types : tuple of int or None
        Types of markers that count, in XML of cellfinder.
    space : {"sample", "atlas"}
        Which of two sets of coordinates is read, where a file has both.
    """

    axes: str | None = None
    units: str | tuple[float, float, float] | None = None
    types: tuple[int, ...] | None = None
    space: str = "sample"

    @classmethod
    def from_config(cls, settings: dict) -> PointForm:
        """From an entry of the section ``points``."""
        units, types = settings["units"], settings["types"]
        return cls(
            settings["axes"],
            tuple(map(float, units)) if isinstance(units, list) else units,
            None if types is None else tuple(types),
            settings["space"],
        )


@dataclass(frozen=True, eq=False)
class Listed:
    """Points as a file lists them.

    Attributes
    ----------
    names : tuple of str
        May be empty strings.
    values : numpy.ndarray of float64, shape (n, 3)
        Order z, y, x.
    unit : str or tuple of float
        See :class:`PointForm`.
    further : dict of str to tuple of str
        Other columns, as they are.
    """

    names: tuple[str, ...]
    values: np.ndarray
    unit: str | tuple[float, float, float]
    further: dict[str, tuple[str, ...]]

    def position_um(self, frame: Frame) -> np.ndarray:
        """Places in a volume, micrometres, shape (n, 3)."""
        if not isinstance(self.unit, str):
            size = np.array(self.unit)
            face = np.array(frame.origin_um) - np.array(frame.spacing_um) / 2
            return face + (self.values + 0.5) * size
        scale = UNITS_UM[self.unit]
        return frame.to_um(self.values) if scale is None else self.values * scale


def read_listed(path: str | os.PathLike, form: PointForm | None = None) -> Listed:
    """Read a list of points, see the module's docstring.

    Raises
    ------
    PointsError
        If the file cannot be read or has no points, its coordinates are of no known kind, their
        unit is not known or given twice, or a value is not a number.
    """
    path, form = Path(path), form or PointForm()
    if path.suffix.lower() == ".xml":
        with boundary(f"points {path}", PointsError, "give cellfinder's XML", "XML"):
            return _read_markers(path, form)
    with boundary(f"points {path}", PointsError, "give a CSV file"):
        data, skipped = _without_preamble(read_bytes(path, MOST_BYTES))
        return _read_table(open_table(data), path, form, skipped)


def _read_table(table: OpenTable, path: Path, form: PointForm, skipped: int) -> Listed:
    """Points of a table that begins after ``skipped`` lines of its file."""
    titles = list(table.columns)
    while titles and not titles[-1]:
        titles.pop()
    header = [title.lower() for title in titles]
    columns, unit = _coordinates(header, path, form)
    scale = UNITS_UM[unit] if isinstance(unit, str) else max(unit)
    most = FAR_UM / (scale or 1.0)
    name = header.index("name") if "name" in header else None
    units = header.index("unit") if "position x" in header and "unit" in header else None
    used = {*columns, *(n for n, c in enumerate(header) if c in ("name", *RESULT_COLUMNS))}
    further: dict[int, list[str]] = {
        n: [] for n, title in enumerate(header) if n not in used and title
    }
    names: list[str] = []
    values = array("d")
    for line, row in table.rows:
        if len(row) < len(header) or any(row[len(table.columns) :]):
            raise PointsError(
                f"points {path}, line {line + skipped}: {len(row)} values for {len(header)} "
                "columns; correct the line"
            )
        place = [table.number(row[c]) for c in columns]
        if not all(abs(v) <= most for v in place):
            raise PointsError(
                f"points {path}, line {line + skipped}: {few(short(row[c], 30) for c in columns)} "
                f"are not three numbers (up to {most:g}); correct the line"
            )
        if unit == "um" and units is not None:
            _check_imaris_unit(row[units], path)
        values.extend(place)
        names.append("" if name is None else row[name])
        for n, cells in further.items():
            cells.append(row[n])
    if not names:
        raise PointsError(f"points {path} has no points below its header; add some or remove it")
    return Listed(
        tuple(names),
        np.array(values).reshape(-1, 3),
        unit,
        {titles[n]: tuple(cells) for n, cells in further.items()},
    )


def _coordinates(
    header: list[str], path: Path, form: PointForm
) -> tuple[list[int], str | tuple[float, float, float]]:
    """Positions of z, y, x among the columns, and their unit."""
    if len(set(header)) != len(header):
        raise PointsError(
            f"points {path}: two of the columns have the same name, {_listed(header)}; {_HELP}"
        )
    own = [c for c in header if re.fullmatch(f"[zyx]_({'|'.join(UNITS_UM)})", c)]
    if own:
        units = {c[2:] for c in own}
        if len(units) != 1 or len(own) != len(AXES):
            raise PointsError(
                f"points {path}: columns {_listed(header)} are not exactly one set of three "
                f"coordinates in one unit; {_HELP}"
            )
        if form.axes is not None or form.units is not None:
            raise PointsError(
                f"points {path}: columns {', '.join(own)} already state axes and unit; remove "
                "axes and units from the configuration"
            )
        unit = units.pop()
        return [header.index(f"{a}_{unit}") for a in AXES], unit
    for names, axes, known in _FOREIGN.values():
        space = "atlas" if form.space == "atlas" else "raw"
        wanted = [name.format(space=space) for name in names]
        if all(name in header for name in wanted):
            more = re.sub(r"\d+$", str(len(AXES)), wanted[-1])
            if more != wanted[-1] and more in header:
                raise PointsError(
                    f"points {path}: columns {wanted[0]} to {more} give positions along more than "
                    "three axes (of an image with channels or times); leave out the columns that "
                    "are not z, y and x, and call these axis-0, axis-1, axis-2"
                )
            unit_here = form.units if form.units is not None else known
            if unit_here is None:
                raise PointsError(
                    f"points {path}: columns {', '.join(wanted)} state no unit; call them x_um, "
                    "y_um, z_um (or _vox), or give units in the section points"
                )
            order = form.axes or axes
            return [header.index(wanted[order.index(a)]) for a in AXES], unit_here
    raise PointsError(f"points {path}: no coordinates in the columns {_listed(header)}; {_HELP}")


def _listed(header: list[str]) -> str:
    return few(map(short, header)) or "no header"


def _without_preamble(data: bytes) -> tuple[bytes, int]:
    """A table without the title that Imaris writes above it, and the number of lines left out."""
    if b"Position X" not in data[:4096].replace(b"\0", b""):
        return data, 0
    lines = decode_text(data).splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if "Position X" in line)
    return "".join(lines[first:]).encode(), first


def _check_imaris_unit(unit: str, path: Path) -> None:
    if unit.lower() not in ("um", "µm", "μm", "micron"):
        raise PointsError(
            f"points {path}: column Unit has {short(unit)}, not um; export micrometres, or give "
            "units in the section points"
        )


def _read_markers(path: Path, form: PointForm) -> Listed:
    check_xml(data := read_bytes(path, MOST_BYTES))
    root = defusedxml.ElementTree.fromstring(data, forbid_entities=True, forbid_external=True)
    found: dict[int, list[list[float]]] = {}
    for group in root.iter("Marker_Type"):
        kind = int(group.findtext("Type", ""))
        for marker in group.iter("Marker"):
            found.setdefault(kind, []).append([float(marker.findtext(m, "")) for m in _MARKERS])
    if not found:
        raise PointsError(f"points {path} has no markers; give cellfinder's XML of cells")
    counts = ", ".join(f"{len(found[kind])} of type {kind}" for kind in sorted(found))
    if form.types is None and len(found) > 1:
        raise PointsError(
            f"points {path} has markers of several types ({counts}); choose with types, for "
            "example types: [2] (in files of cellfinder, 2 is a cell and 1 a rejected candidate)"
        )
    chosen = sorted(found) if form.types is None else sorted(set(form.types))
    points = [(kind, at) for kind in chosen for at in found.get(kind, [])]
    if not points:
        raise PointsError(
            f"points {path} has no marker of types {chosen}, only {counts}; correct types"
        )
    order = form.axes or "xyz"
    values = np.array([at for _, at in points], float)[:, [order.index(a) for a in AXES]]
    if not (np.abs(values) <= FAR_UM).all():
        raise PointsError(f"points {path} has a marker without a finite position; correct it")
    kinds = tuple(str(kind) for kind, _ in points)
    unit = "vox" if form.units is None else form.units
    return Listed(("",) * len(points), values, unit, {"type": kinds})
