"""Channels of the sample, resampled on any grid of the atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.regions.labels import slabs

if TYPE_CHECKING:
    from terareg.registration.transform import Transform

_LEAST_POINTS = 1 << 14  # fewer points are not divided further
_MOST_VOXELS = 32  # voxels read per point, above which points are divided


class BlockReader(Protocol):
    """Source of :func:`channel_block`: an array on a grid that is read by boxes."""

    frame: Frame

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """Return the voxels ``start <= index < stop``."""


class LevelReader:
    """One level of a pyramid as a :class:`BlockReader`.

    Parameters
    ----------
    volume : terareg.volumes.reader.Volume
    level : int
        Choose it with ``volume.level_for(resolution_um)``: levels are area averages, so a level
        about as coarse as the output avoids aliasing.
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
    """Interpolate a channel linearly at every voxel of an atlas block.

    Parameters
    ----------
    transform : Transform
        Maps atlas points to sample points; its ``to_sample_grid`` is used.
    reader : BlockReader
        The channel, at a resolution suitable for the output (see :class:`LevelReader`). Only the
        box to which the block maps is read, a few planes at a time.
    atlas_block_frame : Frame
        Grid of the block in atlas space.
    outside : float
        Value beyond the outer faces of the channel. Between the outermost voxel centres and the
        outer faces the value of the outermost voxel is used.

    Returns
    -------
    numpy.ndarray of float32, shape ``atlas_block_frame.shape``
    """
    result = np.full(atlas_block_frame.shape, outside, np.float32)
    frame = reader.frame
    sizes, origin, spacing = (
        np.array(values)[:, None] for values in (frame.shape, frame.origin_um, frame.spacing_um)
    )
    for first, last in slabs(atlas_block_frame):
        part = atlas_block_frame.cropped((first, 0, 0), (last, *atlas_block_frame.shape[1:]))
        index = transform.to_sample_grid(part).reshape(3, -1).astype(np.float64)
        index -= origin
        index /= spacing
        inside = ((index >= -0.5) & (index <= sizes - 0.5)).all(0)
        if not inside.any():
            continue
        result[first:last].reshape(-1)[inside] = _sampled(reader, index[:, inside])
    return result


def _sampled(reader: BlockReader, index: np.ndarray) -> np.ndarray:
    """Linear interpolation at voxel indices (3, n), float32 (n,)."""
    count = index.shape[1]
    start = np.maximum(0, np.floor(index.min(1))).astype(int)
    stop = np.minimum(index.max(1).astype(int) + 2, reader.frame.shape)
    if count > _LEAST_POINTS and np.prod(stop - start) > _MOST_VOXELS * count:
        # most voxels of the box around an oblique plane are far from the plane
        halves = index[:, : count // 2], index[:, count // 2 :]
        return np.concatenate([_sampled(reader, half) for half in halves])
    values = np.asarray(reader.read(tuple(start.tolist()), tuple(stop.tolist())))
    # subtracting integers is exact, so the result does not depend on where the box begins
    index = index - start[:, None]
    return ndimage.map_coordinates(values, index, np.float32, order=1, mode="nearest")
