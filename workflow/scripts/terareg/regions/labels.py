"""Region ids and hemispheres of an atlas on any grid of the sample.

An image of the atlas is pulled back: the label at a sample voxel is that of the atlas voxel to
which it maps, or the one that wins the vote of the eight atlas voxels around that position
(:class:`Vote`). Ids are looked up, never interpolated, so that they remain unchanged; every output
block is computed independently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.frames import Frame

if TYPE_CHECKING:
    from terareg.atlas.prepare import Atlas
    from terareg.registration.transform import Transform

# Positions this close below the face between two voxels count as beyond it. With commensurate grids
# positions fall exactly on faces, and there rounding errors, which depend on the block, must not
# decide.
_FACE_VOX = 1e-4
_SLAB_VOXELS = 2**20
# votes per axis; the product over three axes fits into 64 bits
_VOTES = 2**16


def label_block(transform: Transform, atlas: Atlas, block_frame: Frame) -> np.ndarray:
    """Region id of every voxel of a sample block.

    Parameters
    ----------
    transform : Transform
        Maps atlas points to sample points; its ``to_atlas_planes`` is used.
    atlas : Atlas
    block_frame : Frame
        Grid of the block in sample space.

    Returns
    -------
    numpy.ndarray of uint32, shape ``block_frame.shape``
        The nearest atlas voxel's id, 0 outside the atlas.
    """
    return region_block(transform, atlas, block_frame)[0]


def hemisphere_block(transform: Transform, atlas: Atlas, block_frame: Frame) -> np.ndarray:
    """Hemisphere of every voxel of a sample block, by the side of the atlas it maps to.

    Returns
    -------
    numpy.ndarray of uint8, shape ``block_frame.shape``
        1 left, 2 right, 0 outside the atlas (or neither, if the atlas has an image of hemispheres
        that says so).
    """
    return region_block(transform, atlas, block_frame)[1]


def region_block(
    transform: Transform, atlas: Atlas, block_frame: Frame
) -> tuple[np.ndarray, np.ndarray]:
    """Region ids and hemispheres of a sample block in one pass.

    Returns
    -------
    labels : numpy.ndarray of uint32
        As :func:`label_block`.
    hemispheres : numpy.ndarray of uint8
        As :func:`hemisphere_block`.
    """
    labels = np.empty(block_frame.shape, np.uint32)
    sides = np.empty(block_frame.shape, np.uint8)
    for z, position_um in enumerate(transform.to_atlas_planes(block_frame)):
        labels[z], sides[z] = regions_at(atlas, position_um)
    return labels, sides


def regions_at(atlas: Atlas, position_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Region ids and hemispheres at positions in the atlas.

    Parameters
    ----------
    atlas : Atlas
    position_um : numpy.ndarray, shape (3, ...)
        Positions in atlas space, order z, y, x.

    Returns
    -------
    labels : numpy.ndarray of uint32, shape (...)
        0 outside the outer faces of the atlas and where a position is not finite.
    hemispheres : numpy.ndarray of uint8, shape (...)
        1 left, 2 right, 0 outside.
    """
    frame = atlas.frame
    shape = position_um.shape[1:]
    flat = np.zeros(shape, np.int64)
    inside = np.ones(shape, bool)
    upper: np.ndarray = np.zeros(0, bool)
    for axis, size in enumerate(frame.shape):
        position = np.asarray(position_um[axis], np.float64)
        index = (position - frame.origin_um[axis]) / frame.spacing_um[axis]
        if axis == atlas.midplane.axis:
            upper = index >= atlas.midplane.index - _FACE_VOX
        index += 0.5 + _FACE_VOX
        np.floor(index, out=index)
        inside &= (index >= 0) & (index < size)
        flat *= size
        with np.errstate(invalid="ignore"):
            flat += index.astype(np.int64)  # meaningless outside, and reset below
    flat[~inside] = 0
    labels = atlas.ids[atlas.index.reshape(-1)[flat]]
    labels[~inside] = 0
    if atlas.sides is None:
        plane = atlas.midplane
        sides = np.where(upper, np.uint8(plane.upper), np.uint8(plane.lower))
    else:
        sides = atlas.sides.reshape(-1)[flat]
    sides[~inside] = 0
    return labels, sides


class Vote:
    """Region ids by vote of the eight atlas voxels around a position.

    Each has its weight in linear interpolation; the region with the largest sum wins, and in a tie
    that of the nearest voxel. On grids much finer than the atlas borders are smooth, while nearest
    neighbours would give staircases. Positions outside the atlas vote for 0.

    Parameters
    ----------
    atlas : Atlas
    """

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        index = atlas.index
        # cells between eight voxels of one region need no vote; cell 0 lies before voxel 0
        self._uniform = np.zeros([n + 1 for n in index.shape], bool)
        inner = self._uniform[1:-1, 1:-1, 1:-1]
        inner[:] = True
        low = index[:-1, :-1, :-1]
        for corner in list(np.ndindex(2, 2, 2))[1:]:
            box = tuple(slice(c, n - 1 + c) for c, n in zip(corner, index.shape))
            inner &= index[box] == low

    def block(self, transform: Transform, block_frame: Frame) -> np.ndarray:
        """Region id of every voxel of a sample block, uint32."""
        labels = np.empty(block_frame.shape, np.uint32)
        for z, position_um in enumerate(transform.to_atlas_planes(block_frame)):
            labels[z] = self(position_um)
        return labels

    def __call__(self, position_um: np.ndarray) -> np.ndarray:
        """Region ids, uint32 (...), at positions (3, ...) in atlas um, order z, y, x."""
        labels, _ = regions_at(self.atlas, position_um)
        frame = self.atlas.frame
        positions = np.asarray(position_um, np.float64).reshape(3, -1)
        cell = np.zeros(positions.shape[1], np.int64)
        near = np.ones(positions.shape[1], bool)
        for position, size, step, origin in zip(
            positions, frame.shape, frame.spacing_um, frame.origin_um
        ):
            low = np.floor((position - origin) / step)
            near &= (low >= -1) & (low < size)
            with np.errstate(invalid="ignore"):
                cell = cell * (size + 1) + (low.astype(np.int64) + 1)
        split = np.flatnonzero(near)
        split = split[~self._uniform.reshape(-1)[cell[split]]]
        flat = labels.reshape(-1)
        flat[split] = self._elected(positions[:, split], flat[split])
        return flat.reshape(position_um.shape[1:])

    def _elected(self, positions_um: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        frame = self.atlas.frame
        lows, parts = [], []
        for position, step, origin in zip(positions_um, frame.spacing_um, frame.origin_um):
            index = (position - origin) / step
            low = np.floor(index)
            lows.append(low.astype(np.int64))
            # integers, so that ties are ties in every block
            parts.append(np.rint((index - low) * _VOTES).astype(np.int64))
        votes, weights = [], []
        for corner in np.ndindex(2, 2, 2):
            at = [low + c for low, c in zip(lows, corner)]
            inside = np.logical_and.reduce([(a >= 0) & (a < n) for a, n in zip(at, frame.shape)])
            found = self.atlas.ids[self.atlas.index[tuple(np.where(inside, a, 0) for a in at)]]
            votes.append(np.where(inside, found, 0))
            weights.append(np.prod([p if c else _VOTES - p for p, c in zip(parts, corner)], axis=0))
        best = nearest.copy()
        most = sum((v == nearest) * w for v, w in zip(votes, weights))
        for one in votes:
            support = sum((v == one) * w for v, w in zip(votes, weights))
            better = support > most
            best[better], most = one[better], np.maximum(most, support)
        return best


def slabs(frame: Frame) -> Iterator[tuple[int, int]]:
    """Ranges of planes of a grid that are small enough for temporary arrays."""
    planes = max(1, _SLAB_VOXELS // (frame.shape[1] * frame.shape[2]))
    for start in range(0, frame.shape[0], planes):
        yield start, min(start + planes, frame.shape[0])
