"""An image on the grid of its export, in slabs of planes: :func:`export_slabs`.

Slabs depend on the size of a plane alone, so that the numbers do not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import coarsest_level
from terareg.core.numeric import Clipped, to_integer
from terareg.exports.settings import slab_planes
from terareg.volumes.reader import Levels

_ALIKE = 1e-6
# votes per axis; the product over three axes fits into 63 bits
_VOTES = 2**16
_BALLOT = 2**22  # votes that are counted at once

#: first voxel (z, y, x) of a box, and the one behind its last
VoxelBox = tuple[Sequence[int], Sequence[int]]
#: makes slabs (first plane, planes) of a grid, all of it or a box
Boxes = Callable[[Frame, VoxelBox | None], Iterator[tuple[int, np.ndarray]]]


def export_frame(
    source: Levels, resolution_um: Sequence[float] | None, isotropic: bool = False
) -> Frame:
    """Grid of an export: the outer faces of the source, at another resolution.

    Parameters
    ----------
    source : Levels
    resolution_um : (z, y, x), optional
        Voxel size; that of the finest level if absent.
    isotropic : bool
        Without a resolution: cubes with the longest edge of the finest voxels.

    Raises
    ------
    VolumeError
        If the resolution is finer than the source along every axis.
    """
    finest = source.frame.spacing_um
    if resolution_um is None:
        if not isotropic or len(set(finest)) == 1:
            return source.frame
        return source.frame.resampled((max(finest),) * 3)
    wanted = tuple(float(r) for r in resolution_um)
    if all(w < f * (1 - _ALIKE) for w, f in zip(wanted, finest)):
        raise VolumeError(
            f"{source.name} has voxels of {_list(finest)} um, so an export at {_list(wanted)} um "
            "would add no detail; raise resolution_um, or leave it out to export the finest level"
        )
    return source.frame.resampled(wanted)


def export_slabs(
    source: Levels,
    frame: Frame,
    interpolation: str,
    workers: int = 1,
    box: VoxelBox | None = None,
    clipped: list[Clipped] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first plane, planes) of a source on another grid.

    Where a level has this very grid, its voxels are given as they are.

    Parameters
    ----------
    source : Levels
    frame : Frame
        Of :func:`export_frame`.
    interpolation : str
        "mean" (:meth:`terareg.volumes.reader.Levels.resampled`; integers are rounded), "nearest"
        (the voxel that holds the centre; of two at the same distance, the later one) or "vote" (the
        id that fills most of the voxel; of equal shares the smallest id). The last two read the
        coarsest level that is fine enough, so regions are those of that level.
    workers : int
        Threads for means.
    box : (start, stop), optional
        Part of ``frame``, in its voxels (z, y, x).
    clipped : list, optional
        Gets, for every slab, how many means the type could not hold: the linear pieces of a mean
        may go a little beyond the values that it is made of.

    Yields
    ------
    first : int
        Plane of ``frame``.
    planes : numpy.ndarray of the source's type, shape (n, y, x)
    """
    equal = [i for i in range(source.levels) if _alike(source.level_frame(i), frame)]
    level = equal[0] if equal else coarsest_level(
        [f.spacing_um for f in source.frames], frame.spacing_um
    ) or 0  # fmt: skip
    grid = source.level_frame(level)
    ratio = max(1.0, frame.spacing_um[0] / grid.spacing_um[0])
    begin, end = ((0, 0, 0), frame.shape) if box is None else box
    share = math.prod((b - a) / n for a, b, n in zip(begin[1:], end[1:], frame.shape[1:]))
    plane = max(
        math.prod(grid.shape[1:]) * ratio * source.dtype.itemsize, 4 * math.prod(frame.shape[1:])
    )
    planes = slab_planes(share * plane)
    for first in range(begin[0], end[0], planes):
        start = (first, *begin[1:])
        stop = (min(first + planes, end[0]), *end[1:])
        part = frame.cropped(start, stop)
        if equal:
            yield first, source.read(level, start, stop)
        elif interpolation == "mean":
            mean, _ = source.resampled(part, workers)
            if source.dtype.kind != "f":
                mean, lost = to_integer(mean, source.dtype)
                if clipped is not None:
                    clipped.append(lost)
            yield first, mean
        elif interpolation == "nearest":
            yield first, _nearest(source, level, part)
        else:
            yield first, _elected(source, level, part)


def _alike(one: Frame, other: Frame) -> bool:
    pairs = zip(
        (*one.spacing_um, *one.origin_um), (*other.spacing_um, *other.origin_um), strict=True
    )
    limit = _ALIKE * min(one.spacing_um)
    return one.shape == other.shape and all(abs(a - b) <= limit for a, b in pairs)


def _nearest(source: Levels, level: int, part: Frame) -> np.ndarray:
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


def _elected(source: Levels, level: int, part: Frame) -> np.ndarray:
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


def _list(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
