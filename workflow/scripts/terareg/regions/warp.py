"""Channels of the sample, seen on any grid of the atlas."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import numpy as np

from terareg.frames import Frame
from terareg.regions.labels import slabs

if TYPE_CHECKING:
    from terareg.registration.transform import Transform


class BlockReader(Protocol):
    """What :func:`channel_block` reads from: an array on a grid, box by box."""

    frame: Frame

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """Return the voxels ``start <= index < stop``."""


class LevelReader:
    """One level of a pyramid as a :class:`BlockReader`.

    Parameters
    ----------
    volume : terareg.volumes.reader.Volume
    level : int
        Choose it with ``volume.level_for(resolution_um)``: levels are area averages, so that a
        level about as coarse as the output does not alias.
    """

    def __init__(self, volume, level: int) -> None:
        self._volume = volume
        self._level = level
        self.frame: Frame = volume.level_frame(level)

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """Return the voxels ``start <= index < stop`` of the level."""
        return self._volume.read(self._level, start, stop)


def channel_block(
    transform: Transform, reader: BlockReader, atlas_block_frame: Frame, *, outside: float = 0.0
) -> np.ndarray:
    """Sample a channel at every voxel of an atlas block, linearly.

    Parameters
    ----------
    transform : Transform
        Maps atlas points to sample points; its ``to_sample_grid`` is used.
    reader : BlockReader
        The channel, at a resolution that suits the output (see :class:`LevelReader`). Only the
        box that the block maps to is read, a few planes at a time.
    atlas_block_frame : Frame
        Grid of the block in atlas space.
    outside : float
        Value beyond the outer faces of the channel. Between the outermost voxel centres and the
        outer faces the outermost voxel counts.

    Returns
    -------
    numpy.ndarray of float32, shape ``atlas_block_frame.shape``
    """
    result = np.full(atlas_block_frame.shape, outside, np.float32)
    for first, last in slabs(atlas_block_frame):
        part = atlas_block_frame.cropped((first, 0, 0), (last, *atlas_block_frame.shape[1:]))
        positions = transform.to_sample_grid(part)
        inside, lower, weight = _cells(positions, reader.frame)
        if not inside.any():
            continue
        start = tuple(int(low.min()) for low in lower)
        stop = tuple(min(int(low.max()) + 2, size) for low, size in zip(lower, reader.frame.shape))
        values = np.asarray(reader.read(start, stop))
        result[first:last][inside] = _interpolate(values, start, lower, weight)
    return result


def _cells(positions: np.ndarray, frame: Frame) -> tuple[np.ndarray, list, list]:
    """Which positions lie inside, and for those the lower voxel and the weight of the upper."""
    index = [
        (np.asarray(positions[a], np.float64) - frame.origin_um[a]) / frame.spacing_um[a]
        for a in range(3)
    ]
    inside = np.ones(positions.shape[1:], bool)
    for axis, size in enumerate(frame.shape):
        inside &= (index[axis] >= -0.5) & (index[axis] <= size - 0.5)
    lower, weight = [], []
    for axis, size in enumerate(frame.shape):
        clamped = np.clip(index[axis][inside], 0, size - 1)
        low = np.minimum(clamped.astype(np.int64), max(size - 2, 0))
        lower.append(low)
        weight.append((clamped - low).astype(np.float32))
    return inside, lower, weight


def _interpolate(values: np.ndarray, start: tuple, lower: list, weight: list) -> np.ndarray:
    """Trilinear interpolation in a box that begins at ``start``."""
    total = np.zeros(lower[0].shape, np.float32)
    low = [axis - first for axis, first in zip(lower, start)]
    for corner in itertools.product((0, 1), repeat=3):
        share = np.ones(lower[0].shape, np.float32)
        at = []
        for axis, upper in enumerate(corner):
            share *= weight[axis] if upper else 1 - weight[axis]
            # an axis of one voxel has no upper neighbour; its weight is 0
            at.append(np.minimum(low[axis] + upper, values.shape[axis] - 1))
        total += share * values[tuple(at)].astype(np.float32)
    return total
