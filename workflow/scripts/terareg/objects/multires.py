"""Meshes at several levels of detail, in Neuroglancer's ``neuroglancer_multilod_draco`` form.

Space is divided into cells; a cell of level l is 2^l cells of level 0 wide along each axis, and
holds the part of the level's surface that lies in it. Above level 0 no triangle crosses the planes
that halve a cell, so that a viewer can draw an eighth of it. Vertices are integers between two
faces of their cell, and those on a face are equal in both cells beside it: nothing gapes.
Specification: meshes.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

from dataclasses import dataclass

import DracoPy
import numpy as np

BITS = 16
_TOP = (1 << BITS) - 1
_COMPRESSION = 7
_FRAGMENT_TRIANGLES = 20_000


@dataclass(frozen=True)
class Cells:
    """The division of space of one object.

    Attributes
    ----------
    origin_nm : tuple of float
        Corner of cell (0, 0, 0), x, y, z.
    shape_nm : tuple of float
        Extent of a cell of level 0, x, y, z.
    """

    origin_nm: tuple[float, float, float]
    shape_nm: tuple[float, float, float]


@dataclass(frozen=True)
class Detail:
    """A surface of one level of detail: vertices (n, 3) in nanometres x, y, z, and triangles."""

    vertices_nm: np.ndarray
    faces: np.ndarray
    scale_nm: float


def cells_of(details: list[Detail], fragment_triangles: int) -> Cells:
    """Cells for an object, of which one of level 0 holds about so many triangles.

    Cells are cubes: the object lies within a cube of 2^k of them along each axis, where k is the
    number of levels but one, or less if it has few triangles.
    """
    low = np.min([d.vertices_nm.min(0) for d in details], axis=0)
    high = np.max([d.vertices_nm.max(0) for d in details], axis=0)
    extent = float((high - low).max())
    # a surface in a cube of n^3 cells lies in about n^2 of them
    along = max(1.0, np.sqrt(len(details[0].faces) / fragment_triangles))
    halvings = min(len(details) - 1, int(np.ceil(np.log2(along))))
    # a little more than the object, so that none of it lies on the last face
    edge = float(np.float32(extent * (1 + 1e-4) / 2**halvings))
    edge = edge or 1.0
    x, y, z = (float(np.nextafter(np.float32(v), np.float32(-np.inf))) for v in low)
    return Cells((x, y, z), (edge, edge, edge))


def encode_whole(details: list[Detail]) -> tuple[bytes, bytes]:
    """As :func:`encode_object`, in cells that are found for the object."""
    return encode_object(details, cells_of(details, _FRAGMENT_TRIANGLES))


def encode_object(details: list[Detail], cells: Cells) -> tuple[bytes, bytes]:
    """Manifest and fragments of an object, see :func:`decode_manifest`.

    Parameters
    ----------
    details : list of Detail
        Finest first.
    cells : Cells
    """
    origin, shape = (np.array(v, np.float32) for v in (cells.origin_nm, cells.shape_nm))
    per_level: list[dict[tuple[int, int, int], bytes]] = []
    for level, detail in enumerate(details):
        places = (detail.vertices_nm - origin.astype(float)) / (shape.astype(float) * 2**level)
        found = _fragments(places, detail.faces, halved=level > 0)
        for x, y, z in per_level[-1] if per_level else ():
            # a viewer goes down from parents, which therefore must exist
            found.setdefault((x // 2, y // 2, z // 2), b"")
        per_level.append(dict(sorted(found.items(), key=lambda item: _z_order(item[0]))))
    head = [
        shape.astype("<f4").tobytes(), origin.astype("<f4").tobytes(),
        np.array([len(details)], "<u4").tobytes(),
        np.array([d.scale_nm for d in details], "<f4").tobytes(),
        np.zeros((len(details), 3), "<f4").tobytes(),
        np.array([len(found) for found in per_level], "<u4").tobytes(),
    ]  # fmt: skip
    for found in per_level:
        head.append(np.array(list(found), "<u4").reshape(-1, 3).T.tobytes())
        head.append(np.array([len(data) for data in found.values()], "<u4").tobytes())
    return b"".join(head), b"".join(data for found in per_level for data in found.values())


def _fragments(
    places: np.ndarray, faces: np.ndarray, *, halved: bool
) -> dict[tuple[int, int, int], bytes]:
    """Encoded part of a surface in each cell; places are in cells of this level."""
    for axis in range(3):
        places, faces = _cut(places, faces, axis, 0.5 if halved else 1.0)
    if not len(faces):
        return {}
    middle = places[faces].mean(axis=1)
    last = np.maximum(places.max(0), 0)
    cell = np.clip(np.floor(middle), 0, np.floor(last)).astype(np.int64)
    _, first, inverse = np.unique(_code(cell), return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse))
    found = {}
    for start, stop, one in zip(np.append(0, ends[:-1]), ends, first):
        x, y, z = cell[one].tolist()
        data = _encode(places, faces[order[start:stop]], cell[one])
        if data:
            found[x, y, z] = data
    return found


def _code(triples: np.ndarray) -> np.ndarray:
    """Triples of numbers below 2^21 as one number each, in the same order."""
    return triples[:, 0] << 42 | triples[:, 1] << 21 | triples[:, 2]


def _encode(places: np.ndarray, faces: np.ndarray, cell: np.ndarray) -> bytes:
    """Draco mesh of triangles in a cell; vertices that they do not have are left out."""
    if len(faces) > len(places):  # faster, if most are used
        mask = np.zeros(len(places), bool)
        mask[faces] = True
        used, faces = np.flatnonzero(mask), (np.cumsum(mask) - 1)[faces]
    else:
        used, faces = np.unique(faces, return_inverse=True)
    steps = np.clip(np.floor((places[used] - cell) * _TOP + 0.5), 0, _TOP).astype(np.int64)
    _, first, same = np.unique(_code(steps), return_index=True, return_inverse=True)
    steps, faces = steps[first], same[faces]
    a, b, c = (steps[faces[:, n]] for n in range(3))
    whole = np.cross(b - a, c - a).any(axis=1)
    if not whole.any():
        return b""
    if not whole.all():
        used, faces = np.unique(faces[whole], return_inverse=True)
        steps = steps[used]
    return DracoPy.encode(
        steps.astype(np.float32),
        faces.reshape(-1, 3).astype(np.uint32),
        quantization_bits=BITS,
        quantization_range=_TOP,
        quantization_origin=[0.0, 0.0, 0.0],
        compression_level=_COMPRESSION,
        create_metadata=False,
    )


def _cut(
    places: np.ndarray, faces: np.ndarray, axis: int, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cut triangles so that none crosses a multiple of ``step`` along an axis."""
    # what is nearer to a plane than a step of the integers is on it
    near = np.rint(places[:, axis] / step) * step
    places = places.copy()
    on = np.abs(places[:, axis] - near) < 0.5 / _TOP
    places[on, axis] = near[on]
    done = []
    while len(faces):
        along = places[faces, axis]
        plane = (np.floor(along.min(1) / step) + 1) * step
        crossing = along.max(1) > plane
        done.append(faces[~crossing])
        places, below, faces = _split(places, faces[crossing], axis, plane[crossing])
        done.append(below)
    return places, np.concatenate(done) if done else faces


def _split(
    places: np.ndarray, faces: np.ndarray, axis: int, plane: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split triangles at planes: new vertices, triangles below, triangles above."""
    if not len(faces):
        return places, faces, faces
    side = np.sign(places[faces, axis] - plane[:, None]).astype(int)
    below: list[np.ndarray] = []
    above: list[np.ndarray] = []
    # one corner on the plane, one on each side of it
    through = (side == 0).any(axis=1)
    turn = np.where(through, (side == 0).argmax(axis=1), 0)
    # otherwise the corner that is alone on its side
    alone = np.where(side.sum(axis=1) > 0, -1, 1)
    turn = np.where(through, turn, (side == alone[:, None]).argmax(axis=1))
    index = (turn[:, None] + np.arange(3)) % 3
    faces = np.take_along_axis(faces, index, 1)
    side = np.take_along_axis(side, index, 1)
    a, b, c = faces.T
    # corners of the two edges that cross: b-c if a lies on the plane, else a-b and c-a
    first = np.where(through[:, None], np.stack([b, c], 1), np.stack([a, b], 1))
    second = np.stack([c, a], 1)[~through]
    ends = np.concatenate([first, second])
    planes = np.concatenate([plane, plane[~through]])
    places, number = _crossings(places, ends, planes, axis)
    p, q = number[: len(faces)], np.zeros(len(faces), np.int64)
    q[~through] = number[len(faces) :]
    t = through
    for where, one, two in (
        (t & (side[:, 1] < 0), below, above),
        (t & (side[:, 1] > 0), above, below),
    ):
        one.append(np.stack([a, b, p], 1)[where])
        two.append(np.stack([a, p, c], 1)[where])
    for where, one, two in (
        (~t & (side[:, 0] < 0), below, above),
        (~t & (side[:, 0] > 0), above, below),
    ):
        one.append(np.stack([a, p, q], 1)[where])
        two += [np.stack([p, b, c], 1)[where], np.stack([p, c, q], 1)[where]]
    return places, np.concatenate(below), np.concatenate(above)


def _crossings(
    places: np.ndarray, ends: np.ndarray, plane: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add the points where edges cross planes; an edge that two triangles share crosses once."""
    low, high = ends.min(1), ends.max(1)
    table = np.stack([low, high, np.rint(plane * 2).astype(np.int64)], 1)
    table, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    a, b = places[table[:, 0]], places[table[:, 1]]
    at = plane[first]
    share = (at - a[:, axis]) / (b[:, axis] - a[:, axis])
    points = a + share[:, None] * (b - a)
    points[:, axis] = at
    return np.concatenate([places, points]), len(places) + inverse.reshape(-1)


def _z_order(cell: tuple[int, int, int]) -> int:
    """Place of a cell on the Z curve, x lowest."""
    return sum(
        ((value >> bit) & 1) << (3 * bit + axis)
        for axis, value in enumerate(cell)
        for bit in range(21)
    )


def decode_manifest(data: bytes) -> dict:
    """Fields of a manifest by the names of the specification; arrays are one for each level."""
    shape, origin = (np.frombuffer(data, "<f4", 3, start) for start in (0, 12))
    levels = int(np.frombuffer(data, "<u4", 1, 24)[0])
    scales = np.frombuffer(data, "<f4", levels, 28)
    start = 28 + 16 * levels
    counts = np.frombuffer(data, "<u4", levels, start)
    start += 4 * levels
    positions, sizes = [], []
    for count in counts.tolist():
        positions.append(np.frombuffer(data, "<u4", 3 * count, start).reshape(3, count).T)
        sizes.append(np.frombuffer(data, "<u4", count, start + 12 * count))
        start += 16 * count
    return {
        "chunk_shape": shape, "grid_origin": origin, "lod_scales": scales,
        "fragment_positions": positions, "fragment_offsets": sizes,
    }  # fmt: skip


def info_json(sharding: dict | None = None) -> dict:
    """Contents of ``info`` of a folder of such meshes, whose model is in nanometres."""
    info = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": BITS,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
    }
    return info | ({"sharding": sharding} if sharding else {})
