"""Voxels of another grid chosen among those of a volume, for labels, which cannot be averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from terareg.core.frames import Frame
from terareg.volumes.reader import Levels

_ALIKE = 1e-6
# votes per axis; the product over three axes fits into 63 bits
_VOTES = 2**16
_BALLOT = 2**22  # votes that are counted at once


def nearest(source: Levels, level: int, part: Frame) -> np.ndarray:
    """The voxel of a level that holds the centre of each voxel of a grid.

    Of two at the same distance, the later one; outside of the level the nearest that there is.
    """
    grid = source.level_frame(level)
    index = []
    for axis in range(3):
        centre = (part.axes_um()[axis] - grid.origin_um[axis]) / grid.spacing_um[axis]
        # positions on the face between two voxels belong to the later one, whatever the rounding
        index.append(np.clip(np.floor(centre + 0.5 + _ALIKE), 0, grid.shape[axis] - 1).astype(int))
    start, stop = [i[0] for i in index], [i[-1] + 1 for i in index]
    voxels = source.read(level, start, stop)
    return voxels[np.ix_(*(i - a for i, a in zip(index, start)))]


@dataclass(frozen=True)
class _Shares:
    """Voxels of the source that each voxel of the export covers along one axis, and their shares.

    ``index`` and ``votes`` have shape (voxels of the export, largest number covered); where fewer
    are covered, the last is repeated without a vote.
    """

    index: np.ndarray
    votes: np.ndarray

    @classmethod
    def along(cls, source: Levels, grid: Frame, part: Frame, axis: int) -> _Shares:
        face = source.frame.origin_um[axis] - source.frame.spacing_um[axis] / 2
        edges = face + grid.spacing_um[axis] * np.arange(grid.shape[axis] + 1)
        # the last voxel of an odd axis holds what lies inside the volume
        edges[-1] = face + source.frame.extent_um[axis]
        step = part.spacing_um[axis]
        low = part.axes_um()[axis] - step / 2
        low, high = np.maximum(low, edges[0]), np.minimum(low + step, edges[-1])
        slack = _ALIKE * step
        most = grid.shape[axis] - 1
        first = np.clip(np.searchsorted(edges, low + slack, "right") - 1, 0, most)
        last = np.clip(np.searchsorted(edges, high - slack, "left") - 1, first, most)
        index = first[:, None] + np.arange(int((last - first).max()) + 1)
        covered = index <= last[:, None]
        index = np.minimum(index, last[:, None])
        begin = np.maximum(edges[index], low[:, None])
        end = np.minimum(edges[index + 1], high[:, None])
        votes = np.where(covered, np.rint((end - begin) / step * _VOTES), 0)
        return cls(index, votes.astype(np.int64))


def elected(source: Levels, level: int, part: Frame) -> np.ndarray:
    """The id that fills most of each voxel of a grid; of equal shares the smallest id.

    Parameters
    ----------
    source : Levels
    level : int
        Of the source, which is read.
    part : Frame
        Grid within the outer faces of the source.
    """
    grid = source.level_frame(level)
    shares = [_Shares.along(source, grid, part, axis) for axis in range(3)]
    start = [int(s.index.min()) for s in shares]
    voxels = source.read(level, start, [int(s.index.max()) + 1 for s in shares])
    index = [s.index - a for s, a in zip(shares, start)]
    least, most = voxels, voxels
    for axis, covered in enumerate(index):
        least = _reduced(np.minimum, least, covered, axis)
        most = _reduced(np.maximum, most, covered, axis)
    result = least
    mixed = np.nonzero(least != most)
    count = math.prod(i.shape[1] for i in index)
    size = max(1, _BALLOT // count)
    for begin in range(0, len(mixed[0]), size):
        at = [m[begin : begin + size] for m in mixed]
        z, y, x = (i[a] for i, a in zip(index, at))
        vz, vy, vx = (s.votes[a] for s, a in zip(shares, at))
        ids = voxels[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
        votes = vz[:, :, None, None] * vy[:, None, :, None] * vx[:, None, None, :]
        result[tuple(at)] = _winners(ids.reshape(-1, count), votes.reshape(-1, count))
    return result


def _reduced(function: np.ufunc, values: np.ndarray, covered: np.ndarray, axis: int) -> np.ndarray:
    result = np.take(values, covered[:, 0], axis)
    for column in covered.T[1:]:
        function(result, np.take(values, column, axis), out=result)
    return result


def _winners(ids: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """The id with most votes of every row; of equal ones the smallest."""
    order = np.argsort(ids, axis=1, kind="stable")
    ids, votes = (np.take_along_axis(a, order, 1) for a in (ids, votes))
    first = np.ones(ids.shape, bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    runs = np.flatnonzero(first)
    sums = np.add.reduceat(votes.reshape(-1), runs)
    totals = np.zeros(ids.shape, np.int64)
    totals.reshape(-1)[runs] = sums
    # argmax takes the first of equal sums, which has the smallest id
    best = np.argmax(np.where(first, totals, -1), axis=1)
    winners: np.ndarray = ids[np.arange(len(ids)), best]
    return winners
