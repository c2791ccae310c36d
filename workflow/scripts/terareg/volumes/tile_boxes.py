"""Tiles in the volume: their boxes, and the voxels of those that are more than moved."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from terareg.core.errors import StitchingError
from terareg.volumes.growths import Box, Growth, Origin
from terareg.volumes.share_maps import ShareMap
from terareg.volumes.warps import Warp, warped_box

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader

#: keeps the ends of ramps above zero, so that the last tile at a voxel always has a weight
LEAST_WEIGHT = 1e-9
_TOLERANCE = 1e-6  # voxels by which a box may exceed the outermost centres of a tile


@dataclass(frozen=True)
class PlacedTile:
    """A tile of one side of a channel in the volume.

    Attributes
    ----------
    name : str
    side : int
        Number of the side; 0 for channels that have one.
    start, stop : tuple of int
        Its box (z, y, x), voxels of the volume.
    origin : tuple of float
        See :class:`terareg.volumes.sides.Side`.
    matrix : array or None
    growth : Growth or None
        See there.
    blank : frozenset of int
        Planes of the volume without data.
    ramps : tuple of array
        Weights along y and x, float64, one for each voxel.
    share : array or None
        Weights of its side along the light's axis, float64; None in channels that have one side.
    warp : Warp or None
        See :class:`terareg.volumes.sides.Side`.
    content : (ShareMap, tuple of float) or None
        Where each of its sides counts by what it shows, instead of ``share``: at a voxel of the
        volume less these (z, y, x).
    """

    name: str
    side: int
    start: Box
    stop: Box
    origin: Origin
    matrix: np.ndarray | None
    growth: Growth | None
    blank: frozenset[int]
    ramps: tuple[np.ndarray, np.ndarray]
    share: np.ndarray | None = None
    warp: Warp | None = None
    content: tuple[ShareMap, Origin] | None = None

    @property
    def key(self) -> tuple[int, str]:
        """What tells it from other tiles of the channel."""
        return self.side, self.name


def affine_box(
    name: str,
    origin: Sequence[float],
    matrix: np.ndarray,
    shape: Sequence[int],
    growth: Growth | None = None,
    warp: Warp | None = None,
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Voxels of the volume [start, stop) that lie within a tile at each of their corners.

    Voxel v shows the tile at index ``matrix @ (v - origin)``, with ``growth`` undone before and
    ``warp`` after. A tile that leans fills no box; of what sticks out of the box nothing is used,
    so that no voxel is made up.

    Raises
    ------
    StitchingError
        If no voxel is left; it names the tile.
    """
    start: Sequence[int]
    stop: Sequence[int]
    if warp is not None:
        start, stop = warped_box(shape, origin, matrix, growth, warp)
    else:
        start, stop = _straight_box(shape, origin, matrix, growth)
    if any(low >= high for low, high in zip(start, stop)):
        raise StitchingError(
            f"tile {name} of {tuple(shape)} voxels leans or is distorted so much that it fills no "
            f"box of the volume (matrix {np.round(matrix, 4).tolist()}); check its figures in the "
            "report, and set stitching.model: translation or stitching.channel_shift: none"
        )
    return tuple(start), tuple(stop)


def _straight_box(shape, origin, matrix: np.ndarray, growth: Growth | None):
    back = np.linalg.inv(matrix)
    last = np.array(shape, float) - 1
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    places = np.asarray(origin, float) + (corners * last) @ back.T
    if growth is not None:
        places = growth.done(places)
    start, stop = [], []
    for axis in range(3):
        start.append(math.ceil(places[corners[:, axis] == 0, axis].max() - _TOLERANCE))
        stop.append(math.floor(places[corners[:, axis] == 1, axis].min() + _TOLERANCE) + 1)
    return start, stop


def resample(
    source: TileReader,
    name: str,
    pose: tuple[Sequence[float], np.ndarray, Growth | None],
    ranges: Sequence[tuple[int, int]],
) -> np.ndarray:
    """A tile's voxels in ranges (z, y, x) of the volume, interpolated linearly, float32.

    ``pose`` is origin, matrix and growth, see :func:`affine_box`; the ranges lie within its box.
    """
    origin, matrix, growth = np.asarray(pose[0], float), pose[1], pose[2]
    corners = np.array(list(itertools.product(*((low, high - 1) for low, high in ranges))), float)
    if growth is not None:
        corners = growth.undone(corners)
    inside = (corners - origin) @ matrix.T
    size = np.array(source.acquisition.tile_shape)
    first = np.clip(np.floor(inside.min(axis=0) + _TOLERANCE).astype(int), 0, size - 1)
    last = np.clip(np.ceil(inside.max(axis=0) - _TOLERANCE).astype(int) + 1, first + 1, size)
    (z0, y0, x0), (z1, y1, x1) = first.tolist(), last.tolist()
    data = source.read(name, z0, z1, slice(y0, y1), slice(x0, x1)).astype(np.float32)
    begin = np.array([low for low, _ in ranges], float)
    depth, height, width = (high - low for low, high in ranges)
    shape = (depth, height, width)
    if growth is not None:
        out = np.empty(shape, np.float32)
        for k, plane in enumerate(out):
            corner = growth.undone(begin[None] + (k, 0, 0))[0]
            scale = 1 / float(growth.factors(begin[0] + k))
            of_plane = matrix * (1, scale, scale)
            ndimage.affine_transform(
                data, of_plane, matrix @ (corner - origin) - first, (1, height, width),
                plane[None], order=1, mode="nearest",
            )  # fmt: skip
        return out
    offset = matrix @ (begin - origin) - first
    if np.array_equal(matrix[:, 1:], np.eye(3)[:, 1:]) and matrix[0, 0] == 1:
        return _moved_planes(data, offset, matrix[1:, 0], shape)
    resampled: np.ndarray = ndimage.affine_transform(
        data, matrix, offset, shape, np.float32, order=1, mode="nearest"
    )
    return resampled


def _moved_planes(
    data: np.ndarray, offset: np.ndarray, slope: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """The same where planes are only moved within themselves, which is five times as fast.

    Plane z of the result shows ``data`` at plane ``offset[0] + z``, from row and column
    ``offset[1:] + slope z`` on.
    """
    out = np.empty(shape, np.float32)
    for z, plane in enumerate(out):
        image = _between(data, offset[0] + z, 1)[0]
        for axis, (place, n) in enumerate(zip(offset[1:] + slope * z, shape[1:])):
            image = np.moveaxis(_between(np.moveaxis(image, axis, 0), place, n), 0, axis)
        plane[...] = image
    return out


def _between(image: np.ndarray, place: float, count: int) -> np.ndarray:
    """``count`` entries along the first axis from a fractional place on, interpolated linearly."""
    whole = math.floor(place + _TOLERANCE)
    fraction = np.float32(max(0.0, place - whole))
    whole = min(max(whole, 0), len(image) - count)
    part = image[whole : whole + count]
    if fraction < _TOLERANCE or whole + count == len(image):
        return part
    return part + fraction * (image[whole + 1 : whole + count + 1] - part)
