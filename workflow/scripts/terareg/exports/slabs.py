"""An image on the grid of its export, in slabs of planes: :func:`export_slabs`.

Slabs depend on the size of a plane alone, so that the numbers do not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import coarsest_level
from terareg.core.numeric import Clipped, to_integer
from terareg.exports.settings import slab_planes
from terareg.volumes.choosing import elected, nearest
from terareg.volumes.reader import Levels

_ALIKE = 1e-6

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
            yield first, nearest(source, level, part)
        else:
            yield first, elected(source, level, part)


def _alike(one: Frame, other: Frame) -> bool:
    pairs = zip(
        (*one.spacing_um, *one.origin_um), (*other.spacing_um, *other.origin_um), strict=True
    )
    limit = _ALIKE * min(one.spacing_um)
    return one.shape == other.shape and all(abs(a - b) <= limit for a, b in pairs)


def _list(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
