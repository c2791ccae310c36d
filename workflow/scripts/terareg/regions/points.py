"""Points: CSV files and Neuroglancer annotations, both ways through a transform.

Inside the library points are micrometres in a :class:`~terareg.core.frames.Frame`, order z, y, x,
with the centre of the first voxel at the frame's origin. Every reader, transform and writer keeps
the number and the order of the points.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import PointsError, few
from terareg.core.frames import Frame
from terareg.core.table_cells import to_cell
from terareg.regions.labels import regions_at
from terareg.regions.point_files import (
    AXES,
    FAR_UM,
    MOST_BYTES,
    RESULT_COLUMNS,
    Listed,
    PointForm,
    read_listed,
)
from terareg.storage.foreign import boundary, load_json, read_bytes, short
from terareg.storage.store import write_atomic

if TYPE_CHECKING:
    from terareg.atlas.prepare import Atlas
    from terareg.registration.transform import Transform

logger = logging.getLogger(__name__)

SIDE_NAMES = ("", "left", "right")

_AT_ONCE = 1 << 17  # points carried together
_METRE_PREFIXES_UM = {
    "": 1e6, "c": 1e4, "m": 1e3, "u": 1.0, "µ": 1.0, "μ": 1.0, "n": 1e-3, "p": 1e-6,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Points:
    """Named points.

    Attributes
    ----------
    names : tuple of str
        May be empty strings.
    position_um : numpy.ndarray of float64, shape (n, 3)
        Order z, y, x.
    region_ids : numpy.ndarray of uint32, shape (n,), or None
        0 outside every region.
    acronyms : tuple of str or None
    hemispheres : tuple of str or None
        "left", "right", or empty outside the atlas.
    further : dict of str to tuple of str
        Other columns of the file that they were read from.
    in_volume : numpy.ndarray of bool, shape (n,), or None
        Whether they lie in the volume that they were given in.
    """

    names: tuple[str, ...]
    position_um: np.ndarray
    region_ids: np.ndarray | None = None
    acronyms: tuple[str, ...] | None = None
    hemispheres: tuple[str, ...] | None = None
    further: dict[str, tuple[str, ...]] = field(default_factory=dict)
    in_volume: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


def check_inside(points: Points, frame: Frame, what: str) -> None:
    """Raise :class:`PointsError` if points lie outside the outer faces of ``frame``.

    ``what`` names the file and the volume, for example "cells.csv against the sample".
    """
    if not frame.contains(points.position_um).all():
        raise PointsError(_outside(points, frame, what))


def marked_outside(points: Points, frame: Frame, what: str, advice: str = "") -> Points:
    """Mark the points that lie outside the outer faces of ``frame``, and say so in the log.

    ``advice`` is said as well if all of them do.

    Raises
    ------
    PointsError
        If all do, since then the unit or the order of the axes is wrong.
    """
    inside = frame.contains(points.position_um)
    if not inside.any():
        raise PointsError("; ".join(filter(None, (_outside(points, frame, what), advice))))
    if not inside.all():
        logger.warning("%s", _outside(points, frame, what))
    return replace(points, in_volume=inside)


def _outside(points: Points, frame: Frame, what: str) -> str:
    outside = np.flatnonzero(~frame.contains(points.position_um))
    first = int(outside[0])
    low = frame.to_um(np.full(3, -0.5))
    high = frame.to_um(np.array(frame.shape) - 0.5)
    return (
        f"{what}: {outside.size} of {len(points)} points lie outside the volume, the first being "
        f"number {first + 1} ({points.names[first]!r}) at z, y, x = "
        f"{_triple(points.position_um[first])} um while the volume extends from {_triple(low)} to "
        f"{_triple(high)} um; check units, axis order and voxel size"
    )


def transform_points(points: Points, transform: Transform, *, to: str) -> Points:
    """Carry points from the atlas to the sample or back.

    Parameters
    ----------
    points : Points
        In atlas space if ``to`` is "sample", in sample space if it is "atlas".
    transform : Transform
        Maps atlas points to sample points.
    to : {"sample", "atlas"}

    Returns
    -------
    Points
        As many, in the same order, with the same names and labels.
    """
    if to not in ("sample", "atlas"):
        raise PointsError(f"points can be transformed to 'sample' or 'atlas', not to {to!r}")
    if not len(points):
        return points
    carry = transform.to_sample if to == "sample" else transform.to_atlas
    return replace(points, position_um=np.asarray(carry(points.position_um), float))


def label_points(points: Points, atlas_position_um: np.ndarray, atlas: Atlas) -> Points:
    """Add region id, acronym and hemisphere, looked up at the positions of the points in the atlas.

    Parameters
    ----------
    points : Points
        In any space.
    atlas_position_um : numpy.ndarray, shape (n, 3)
        The same points in atlas space.
    atlas : Atlas
    """
    ids, sides = regions_at(atlas, np.asarray(atlas_position_um, float).reshape(-1, 3).T)
    if points.in_volume is not None:
        # beyond the volume the transform is a guess
        ids[~points.in_volume], sides[~points.in_volume] = 0, 0
    return replace(
        points,
        region_ids=ids,
        acronyms=tuple(atlas.ontology[i].acronym if i else "" for i in ids.tolist()),
        hemispheres=tuple(SIDE_NAMES[s] for s in sides.tolist()),
    )


def located_in_atlas(
    position_um: np.ndarray, transform: Transform, atlas: Atlas
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Carry any number of sample positions, shape (n, 3), into the atlas.

    Returns
    -------
    position_um : numpy.ndarray of float64, shape (n, 3)
        In the atlas.
    region_ids : numpy.ndarray of uint32, shape (n,)
        0 outside every region.
    hemispheres : list of str
        "left", "right", or empty outside the atlas.
    """
    carried = np.empty((len(position_um), 3))
    ids = np.empty(len(position_um), np.uint32)
    sides: list[str] = []
    for first in range(0, len(position_um), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        carried[part] = transform.to_atlas(position_um[part])
        ids[part], of_part = regions_at(atlas, carried[part].T)
        sides += [SIDE_NAMES[side] for side in of_part.tolist()]
    return carried, ids, sides


def carry_points(points: Points, transform: Transform, atlas: Atlas, *, to: str) -> Points:
    """Transform points and label them, see :func:`transform_points` and :func:`label_points`."""
    carried = transform_points(points, transform, to=to)
    in_atlas = carried if to == "atlas" else points
    return label_points(carried, in_atlas.position_um, atlas)


def read_points(
    path: str | os.PathLike,
    frame: Frame,
    *,
    layer: str | None = None,
    form: PointForm | None = None,
) -> Points:
    """Read points from a table, XML, or, if the name ends in ``.json``, a Neuroglancer state.

    See :mod:`terareg.regions.point_files` and :func:`read_neuroglancer_points`.
    """
    return read_with_listing(path, frame, layer=layer, form=form)[0]


def read_with_listing(
    path: str | os.PathLike,
    frame: Frame,
    *,
    layer: str | None = None,
    form: PointForm | None = None,
) -> tuple[Points, Listed | None]:
    """Read points as :func:`read_points` does, and what the file lists.

    The latter is None for a Neuroglancer state, which states axes and units.
    """
    if Path(path).suffix.lower() == ".json":
        return read_neuroglancer_points(path, layer=layer), None
    listed = read_listed(path, form)
    return Points(listed.names, listed.position_um(frame), further=listed.further), listed


def point_names(
    path: str | os.PathLike,
    *,
    layer: str | None = None,
    form: PointForm | None = None,
) -> tuple[str, ...]:
    """Check a file as :func:`read_points` does, without a volume; return the names."""
    if Path(path).suffix.lower() == ".json":
        return read_neuroglancer_points(path, layer=layer).names
    return read_listed(path, form).names


# ---------------------------------------------------------------------- CSV
def write_points_csv(path: str | os.PathLike, points: Points) -> None:
    """Write points as CSV: name, z_um, y_um, x_um and, as far as known, labels and other columns.

    Coordinates have four decimals (0.1 nm). Labels are region_id, acronym and hemisphere;
    in_volume is 1, or 0 for points outside the volume that they were given in.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    added: list[Sequence[Any]] = []
    header = ["name", *(f"{a}_um" for a in AXES)]
    if points.region_ids is not None:
        header += RESULT_COLUMNS[:3]
        added += [points.region_ids.tolist(), points.acronyms or (), points.hemispheres or ()]
    if points.in_volume is not None:
        header.append(RESULT_COLUMNS[3])
        added.append(points.in_volume.astype(int).tolist())
    # a column of the file that is called like one written here keeps its values under another name
    header += [to_cell(f"{c}_given" if c.lower() in header else c) for c in points.further]
    added += [[to_cell(v) for v in values] for values in points.further.values()]
    writer.writerow(header)
    for n, (name, position) in enumerate(zip(points.names, points.position_um)):
        row: list[Any] = [to_cell(name), *(f"{v:.4f}" for v in position)]
        writer.writerow(row + [column[n] for column in added])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


# ---------------------------------------------------------------------- Neuroglancer
def read_neuroglancer_points(
    path: str | os.PathLike,
    *,
    layer: str | None = None,
    offset_um: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Points:
    """Read the point annotations of a Neuroglancer state.

    Points are in the input dimensions of the layer's source, or in its output dimensions if the
    state gives no input dimensions, or in those of the whole state if the source is a plain string.
    The linear part of a source's matrix acts on lengths, its last column is in output dimensions,
    as in Neuroglancer. The name of a point is its description, or else its id.

    Parameters
    ----------
    path : path
        JSON state of the viewer, or of one layer.
    layer : str, optional
        Name of the layer; not needed if the state has one layer with annotations.
    offset_um : tuple of float
        Added to every point (z, y, x). In terareg's own states positions in the viewer are those of
        the frame. If a precomputed layer was shown without a translation, so that positions count
        from voxel corners, give minus half its voxel.

    Raises
    ------
    PointsError
        If the file is not a state, the layer is missing, it has no annotations or annotations that
        are not points, or its dimensions x, y, z are not lengths.
    """
    path = Path(path)
    with boundary(f"points {path}", PointsError, "save the viewer's state", "JSON"):
        return _points_of_state(load_json(read_bytes(path, MOST_BYTES)), path, layer, offset_um)


def _points_of_state(
    state: Any, path: Path, layer: str | None, offset_um: tuple[float, float, float]
) -> Points:
    if not isinstance(state, dict):
        raise PointsError(
            f"points {path} is not a Neuroglancer state; save the state of the viewer as JSON"
        )
    chosen = _annotation_layer(state, layer, path)
    where = f"points {path}, layer {short(chosen.get('name', ''))}"
    to_um = _layer_transform(chosen, state, where)
    names, rows = [], []
    for number, item in enumerate(chosen.get("annotations", []), 1):
        kind = item.get("type", "point") if isinstance(item, dict) else item
        if kind != "point" or not isinstance(item.get("point"), list):
            raise PointsError(
                f"{where}: annotation {number} is {short(kind)}, not a point; remove it or put "
                "the points in a layer of their own"
            )
        point = item["point"]
        if len(point) != to_um.shape[1] - 1 or not _are_numbers(point):
            raise PointsError(
                f"{where}: annotation {number} has point {_shown(point)}, but the layer has "
                f"{to_um.shape[1] - 1} dimensions; save the viewer's state again"
            )
        names.append(str(item.get("description") or item.get("id") or ""))
        rows.append(point)
    if not rows:
        raise PointsError(
            f"{where}: the state contains no annotations of this layer; copy them to a local "
            "layer (source local://annotations) and save the viewer's state"
        )
    homogeneous = np.ones((len(rows), to_um.shape[1]))
    homogeneous[:, :-1] = rows
    found = homogeneous @ to_um.T + np.array(offset_um, float)
    far = np.flatnonzero(~(np.abs(found) <= FAR_UM).all(axis=1))
    if far.size:
        first = int(far[0])
        raise PointsError(
            f"{where}: annotation {first + 1} has point {_shown(rows[first])}, which is not a "
            "finite position; remove it or correct the dimensions of the layer"
        )
    return Points(tuple(names), found)


def annotation_layer(points: Points, name: str, *, colour: str = "#ffff00") -> dict[str, Any]:
    """Neuroglancer layer of points as local annotations, in micrometres, order x, y, z.

    Labelled points carry their region as the property ``region_id``.
    """
    entries = []
    for number, (label, position) in enumerate(zip(points.names, points.position_um), 1):
        entry: dict[str, Any] = {
            "type": "point",
            "id": str(number),
            "point": [round(float(v), 4) for v in position[::-1]],
        }
        if label:
            entry["description"] = label
        if points.region_ids is not None:
            entry["props"] = [int(points.region_ids[number - 1])]
        entries.append(entry)
    layer: dict[str, Any] = {
        "type": "annotation",
        "name": name,
        "source": {
            "url": "local://annotations",
            "transform": {"outputDimensions": _dimensions()},
        },
        "annotationColor": colour,
        "annotations": entries,
    }
    if points.region_ids is not None:
        layer["annotationProperties"] = [{"id": "region_id", "type": "uint32", "default": 0}]
    return layer


def write_neuroglancer_points(path: str | os.PathLike, points: Points, *, name: str) -> None:
    """Write a Neuroglancer state with one layer of points, see :func:`annotation_layer`."""
    state = {"dimensions": _dimensions(), "layers": [annotation_layer(points, name)]}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # in Neuroglancer the order of dimensions matters, so keys are not sorted here
    write_atomic(path, (json.dumps(state, indent=1, ensure_ascii=False) + "\n").encode())


def _dimensions() -> dict[str, list]:
    return {axis: [1e-6, "m"] for axis in reversed(AXES)}


def _annotation_layer(state: dict, wanted: str | None, path: Path) -> dict:
    layers = state.get("layers", [state] if "annotations" in state else [])
    if isinstance(layers, dict):  # in the oldest states layers are an object with names as keys
        layers = [{"name": key, **value} for key, value in layers.items()]
    found = [x for x in layers if isinstance(x, dict) and x.get("type") == "annotation"]
    if wanted is not None:
        named = [x for x in found if x.get("name") == wanted]
    else:
        named = [x for x in found if x.get("annotations")] or found
    if len(named) != 1:
        listed = few(short(x.get("name", "")) for x in found) or "none"
        what = "there are several annotation layers" if named else "there is no annotation layer"
        asked = f" named {wanted!r}" if wanted is not None else ""
        raise PointsError(f"points {path}: {what}{asked} (found: {listed}); name one of them")
    if not isinstance(named[0].get("annotations", []), list):
        raise PointsError(
            f"points {path}: the annotations of the layer are not a list; save the state of the "
            "viewer again"
        )
    return named[0]


def _layer_transform(layer: dict, state: dict, where: str) -> np.ndarray:
    """Matrix, shape (3, n + 1), from homogeneous annotation coordinates to z, y, x in um."""
    source = layer.get("source")
    if isinstance(source, list):
        local = [s for s in source if _source_url(s).startswith("local://")]
        source = local[0] if local else (source[0] if source else None)
    transform = source.get("transform") if isinstance(source, dict) else None
    transform = transform or {}
    if not isinstance(transform, dict):
        raise PointsError(
            f"{where}: the transform of the source is a {type(transform).__name__}, as in old "
            "versions of Neuroglancer; open the state in a current one and save it again"
        )
    output = transform.get("outputDimensions") or state.get("dimensions")
    if not isinstance(output, dict):
        raise PointsError(f"{where}: the state has no dimensions; save the viewer's state again")
    names = list(output)
    absent = [axis for axis in reversed(AXES) if axis not in names]
    if absent:
        raise PointsError(
            f"{where}: dimensions {few(map(short, names))} do not include {', '.join(absent)}; "
            "name the axes x, y and z"
        )
    given = list((transform.get("inputDimensions") or output).values())
    matrix = transform.get("matrix")
    if matrix is None:
        matrix = np.eye(len(names), len(given) + 1)
    matrix = np.array(matrix, float)
    if matrix.shape != (len(names), len(given) + 1):
        raise PointsError(
            f"{where}: the matrix of the source has shape {matrix.shape} for {len(given)} input "
            f"and {len(names)} output dimensions; save the viewer's state again"
        )
    rows = [names.index(axis) for axis in AXES]
    # an axis that x, y and z do not depend on (time, channel) needs no unit of length
    used = np.any(matrix[rows, :-1] != 0, axis=0)
    input_um = [_length_um(d, where) if u else 0.0 for d, u in zip(given, used)]
    output_um = [_length_um(output[axis], where) for axis in AXES]
    result = matrix[rows]
    result[:, :-1] *= input_um
    result[:, -1] *= output_um
    return result


def _source_url(source: Any) -> str:
    return str(source.get("url", "")) if isinstance(source, dict) else str(source)


def _length_um(dimension: Any, where: str) -> float:
    """Micrometres of one step of a dimension such as ``[4e-9, "m"]``."""
    if isinstance(dimension, list) and len(dimension) == 2 and _are_numbers(dimension[:1]):
        match = re.fullmatch(r"(.?)m", str(dimension[1]))
        if match and match[1] in _METRE_PREFIXES_UM and dimension[0] > 0:
            return dimension[0] * _METRE_PREFIXES_UM[match[1]]
    raise PointsError(
        f"{where}: dimension {dimension!r} is not a length; x, y and z must be [scale, 'm']"
    )


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max
        for v in values
    )


def _shown(point: Sequence[Any]) -> str:
    return f"[{', '.join(short(v, 30) for v in point[:5])}]"


def _triple(values: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in values) + ")"
