"""Tiles that are distorted within themselves: where their voxels lie, and how they are read.

What such a tile shows at row y and column x lies where index ``(y, x) + field(y, x)`` of a tile
without distortion would; the field is the same in all planes. It is given at the nodes of a
lattice over the tile and is linear between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader
    from terareg.volumes.tile_boxes import Box, Growth

_FINER = 4  # nodes of the inverse for each of the field, along both axes
_STEPS = 8  # of the iteration that inverts it, each of which leaves a tenth of the error or less
_TOLERANCE = 1e-6
_BAND_VOXELS = 1 << 16  # of a plane, interpolated at once


@dataclass(frozen=True)
class Warp:
    """The field of a tile, in the tile of the alignment channel or in that of another channel.

    Attributes
    ----------
    nodes : array of float, (2, rows, columns)
        Field along y and x, voxels, at nodes evenly spread from the first pixel of the tile to the
        last.
    size : tuple of int
        Of the tile along y and x.
    moved : tuple of float
        (z, y, x); index c of the channel's tile shows what index ``inverse(bent) @ c + moved`` of
        the alignment channel's shows.
    bent : array, (3, 3), or None
        None: the identity.
    """

    nodes: np.ndarray
    size: tuple[int, int]
    moved: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bent: np.ndarray | None = None

    @cached_property
    def reach(self) -> int:
        """Voxels, at least, by which the field moves anything."""
        return math.ceil(float(np.abs(self.nodes).max()) + 1e-9)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """What is to be taken from a place to find the index, at the nodes of a finer lattice.

        It goes beyond the tile by what the field may move.
        """
        rows, columns = ((n - 1) * _FINER + 1 for n in self.nodes.shape[1:])
        y, x = np.meshgrid(
            *(
                np.linspace(-self.reach, n - 1 + self.reach, k)
                for n, k in zip(self.size, (rows, columns))
            ),
            indexing="ij",
        )
        found = np.zeros((2, rows, columns))
        for _ in range(_STEPS):
            found = on_lattice(self.nodes, self.size, y - found[0], x - found[1])
        return found

    def bend(self, index: np.ndarray) -> np.ndarray:
        """Indices (n, 3) of the channel's tile, as they would be if the tile were straight."""
        inside = self._of_alignment(*index.T)
        field = on_lattice(self.nodes, self.size, inside[1], inside[2])
        return index + np.stack(self._of_channel(*field), axis=1)

    def straighten(self, z, y, x) -> list[np.ndarray]:
        """Inverse of :meth:`bend`, for arrays of indices along z, y and x of any one shape."""
        inside = self._of_alignment(z, y, x)
        around = [n + 2 * self.reach for n in self.size]
        y_at, x_at = (np.asarray(at) + self.reach for at in inside[1:])
        field = on_lattice(self._inverse, around, y_at, x_at)
        return [a - b for a, b in zip((z, y, x), self._of_channel(*field))]

    def _of_alignment(self, z, y, x) -> list:
        if self.bent is None:
            return [a + by for a, by in zip((z, y, x), self.moved)]
        back = np.linalg.inv(self.bent)
        return [row[0] * z + row[1] * y + row[2] * x + by for row, by in zip(back, self.moved)]

    def _of_channel(self, y: np.ndarray, x: np.ndarray) -> list:
        if self.bent is None:
            return [np.zeros_like(y), y, x]
        return [row[1] * y + row[2] * x for row in self.bent]

    def border(self) -> np.ndarray:
        """Indices (y, x) of pixels at the border of the tile, (n, 2), closer than its nodes."""
        rows, columns = ((n - 1) * _FINER + 1 for n in self.nodes.shape[1:])
        y, x = np.linspace(0, self.size[0] - 1, rows), np.linspace(0, self.size[1] - 1, columns)
        sides = [np.column_stack([y, np.full(rows, e)]) for e in (x[0], x[-1])]
        sides += [np.column_stack([np.full(columns, e), x]) for e in (y[0], y[-1])]
        return np.concatenate(sides)


def lattice_parts(place: np.ndarray, extent: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the node before each place, and the part of the step to the next, 0 to 1.

    ``count`` nodes are spread from pixel 0 to pixel ``extent - 1``; places beyond count as those.
    """
    share = np.clip(np.asarray(place, float) / max(extent - 1, 1), 0, 1) * (count - 1)
    low = np.minimum(share.astype(np.intp), count - 2)
    return low, share - low


def on_lattice(nodes: np.ndarray, size: Sequence[int], y, x) -> np.ndarray:
    """Values (2, ...) of a field (2, rows, columns) at places y and x, linear between nodes."""
    (low_y, part_y), (low_x, part_x) = (
        lattice_parts(place, extent, count)
        for place, extent, count in zip((y, x), size, nodes.shape[1:])
    )
    upper = nodes[:, low_y, low_x] * (1 - part_x) + nodes[:, low_y, low_x + 1] * part_x
    lower = nodes[:, low_y + 1, low_x] * (1 - part_x) + nodes[:, low_y + 1, low_x + 1] * part_x
    values: np.ndarray = upper * (1 - part_y) + lower * part_y
    return values


def warped_box(
    shape: Sequence[int], origin: Sequence[float], matrix: np.ndarray, growth: Growth | None,
    warp: Warp,
) -> tuple[Box, Box]:  # fmt: skip
    """Voxels of the volume [start, stop) at which the tile is known, whatever the other axes.

    Voxel v, with ``growth`` undone, shows the tile at ``warp.straighten(matrix @ (v - origin))``.
    """
    border = warp.border()
    last = np.array(shape, float) - 1
    index = np.concatenate([np.column_stack([np.full(len(border), z), border])
                            for z in (0.0, last[0])])  # fmt: skip
    places = np.asarray(origin, float) + warp.bend(index) @ np.linalg.inv(matrix).T
    if growth is not None:
        places = growth.done(places)
    start, stop = [], []
    for axis in range(3):
        start.append(math.ceil(places[index[:, axis] == 0, axis].max() - _TOLERANCE))
        stop.append(math.floor(places[index[:, axis] == last[axis], axis].min() + _TOLERANCE) + 1)
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def resample_warped(
    source: TileReader,
    name: str,
    pose: tuple[Sequence[float], np.ndarray, Growth | None, Warp],
    ranges: Sequence[tuple[int, int]],
) -> np.ndarray:
    """A tile's voxels in ranges (z, y, x) of the volume, interpolated linearly, float32.

    ``pose`` is as in :func:`warped_box`, within which the ranges lie. Every voxel is computed from
    its own place alone, so that the bytes do not depend on the ranges.
    """
    origin, matrix, growth, warp = pose
    size = np.array(source.acquisition.tile_shape)
    corners = np.array(list(itertools.product(*((low, high - 1) for low, high in ranges))), float)
    if growth is not None:
        corners = growth.undone(corners)
    inside = (corners - np.asarray(origin, float)) @ np.asarray(matrix).T
    margin = np.array([0 if warp.bent is None else 1, warp.reach + 1, warp.reach + 1])
    first = np.clip(np.floor(inside.min(axis=0) + _TOLERANCE).astype(int) - margin, 0, size - 1)
    last = np.ceil(inside.max(axis=0) - _TOLERANCE).astype(int) + 1 + margin
    last = np.clip(last, first + 1, size)
    (z0, y0, x0), (z1, y1, x1) = first.tolist(), last.tolist()
    data = source.read(name, z0, z1, slice(y0, y1), slice(x0, x1))
    out = np.empty(tuple(high - low for low, high in ranges), np.float32)
    straight = growth is None and np.array_equal(matrix, np.eye(3))
    x = np.arange(*ranges[2], dtype=float)[None]
    rows = max(1, _BAND_VOXELS // out.shape[2])
    for low in range(0, out.shape[1], rows):
        band = slice(low, min(low + rows, out.shape[1]))
        y = np.arange(ranges[1][0] + band.start, ranges[1][0] + band.stop, dtype=float)[:, None]
        terms: list[tuple[np.ndarray, np.ndarray]] = []
        for k, plane in enumerate(out[:, band]):
            z = float(ranges[0][0] + k)
            if not straight or not terms or warp.bent is not None:
                index = warp.straighten(*_indices((z, y, x), origin, matrix, growth))
                if straight and warp.bent is None:
                    index = index[1:]
                terms = list(_terms(index, first[-len(index):], data.shape[-len(index):],
                                    size[-len(index):]))  # fmt: skip
            if straight and warp.bent is None:
                image = _plane(data, z - origin[0], z0)
            else:
                image = data.ravel()
            flat = image.ravel()
            plane[...] = 0
            for at, weight in terms:
                plane += flat.take(at) * weight
    return out


def _indices(voxel, origin, matrix, growth: Growth | None) -> list[np.ndarray]:
    """Indices of the straight tile at voxels (z, y, x), each computed alone."""
    z, y, x = voxel
    if growth is not None:
        factor = float(growth.factors(np.array([z]))[0])
        y = (y - growth.centre[1]) / factor + growth.centre[1]
        x = (x - growth.centre[2]) / factor + growth.centre[2]
    away = [at - float(o) for at, o in zip((z, y, x), origin)]
    if np.array_equal(matrix, np.eye(3)):
        return [np.broadcast_to(a, (y.shape[0], x.shape[1])) for a in away]
    return [row[0] * away[0] + row[1] * away[1] + row[2] * away[2] for row in np.asarray(matrix)]


def _terms(
    index: Sequence[np.ndarray], first: np.ndarray, shape: Sequence[int], size: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places in the flat array that was read, and weights, of the corners around each index."""
    lows, parts = [], []
    for place, n in zip(index, size):
        inside = np.clip(place, 0, n - 1)
        low = np.minimum(np.floor(inside + _TOLERANCE).astype(np.intp), n - 1)
        lows.append(low)
        parts.append(np.maximum(inside - low, 0).astype(np.float32))
    for corner in itertools.product((0, 1), repeat=len(shape)):
        at: np.ndarray | int = 0
        weight: np.ndarray | np.float32 = np.float32(1)
        for up, low, part, begin, count in zip(corner, lows, parts, first, shape):
            at = at * count + np.clip(low + up - begin, 0, count - 1)
            weight = weight * (part if up else 1 - part)
        yield np.asarray(at), np.asarray(weight)


def _plane(data: np.ndarray, place: float, first: int) -> np.ndarray:
    """A plane at a fractional place, interpolated linearly; ``data`` begins at plane ``first``."""
    low = math.floor(place + _TOLERANCE)
    part = np.float32(max(0.0, place - low))
    lower = data[min(max(low - first, 0), len(data) - 1)]
    if part < _TOLERANCE:
        return lower
    upper = data[min(max(low + 1 - first, 0), len(data) - 1)]
    return lower + part * (upper.astype(np.float32) - lower)
