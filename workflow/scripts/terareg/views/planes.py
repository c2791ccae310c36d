"""Single planes of volumes on square pixels, at a resolution that fits a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.volumes.reader import Levels

# planes of labels read at a time
_SLAB = 32


def plane_frame(
    frame: Frame,
    axis: int,
    place_um: Sequence[float],
    pixel_um: float,
    half_um: float | None = None,
) -> Frame:
    """Grid of one plane through a place, with square pixels.

    Parameters
    ----------
    frame : Frame
        Of the whole volume.
    axis : int
        Array axis perpendicular to the plane.
    place_um : (z, y, x)
        A point of the plane, moved into the volume if it lies outside.
    pixel_um : float
    half_um : float, optional
        Half the side of a square window around the place, which is moved so that it lies in the
        volume; the whole plane if absent.
    """
    shape, origin, spacing = [], [], []
    for a, (count, step, first) in enumerate(zip(frame.shape, frame.spacing_um, frame.origin_um)):
        low, high = first - step / 2, first + (count - 0.5) * step
        if a == axis:
            index = int(np.clip(round((place_um[a] - first) / step), 0, count - 1))
            shape.append(1)
            spacing.append(step)
            origin.append(first + index * step)
            continue
        if half_um is not None and 2 * half_um < high - low:
            low = float(np.clip(place_um[a] - half_um, low, high - 2 * half_um))
            high = low + 2 * half_um
        shape.append(max(1, round((high - low) / pixel_um)))
        spacing.append(pixel_um)
        origin.append(low + pixel_um / 2)
    return replace(frame, shape=tuple(shape), spacing_um=tuple(spacing), origin_um=tuple(origin))


def read_plane(volume: Levels, plane: Frame) -> np.ndarray:
    """Read the plane of a volume that a grid of :func:`plane_frame` describes.

    Only the voxels behind the plane are read, from the coarsest level that is fine enough.

    Returns
    -------
    numpy.ndarray, shape (rows, columns)
        Images are interpolated linearly, float32; of labels the nearest is taken. Labels are 0
        outside their volume, images are continued.
    """
    axis = plane.shape.index(1)
    finest = volume.frame.spacing_um
    level = volume.level_for([max(p, f) for p, f in zip(plane.spacing_um, finest)])
    source = volume.level_frame(level)
    index = [source.to_index(np.array(plane.origin_um))[a] for a in range(3)]
    lines = [
        first + np.arange(count) * step / own
        for first, count, step, own in zip(index, plane.shape, plane.spacing_um, source.spacing_um)
    ]
    start = [max(0, min(int(np.floor(line[0])), n - 1)) for line, n in zip(lines, source.shape)]
    stop = [
        max(a + 1, min(int(np.ceil(line[-1])) + 1, n))
        for a, line, n in zip(start, lines, source.shape)
    ]
    start[axis] = int(np.clip(round(lines[axis][0]), 0, source.shape[axis] - 1))
    stop[axis] = start[axis] + 1
    values = np.take(volume.read(level, start, stop), 0, axis=axis)
    rows, columns = (lines[a] - start[a] for a in range(3) if a != axis)
    if not volume.is_segmentation:
        grid = np.meshgrid(rows, columns, indexing="ij")
        found: np.ndarray = ndimage.map_coordinates(
            values.astype(np.float32), grid, order=1, mode="nearest"
        )
        return found
    near = [np.rint(line).astype(int) for line in (rows, columns)]
    inside = [(line >= 0) & (line < n) for line, n in zip(near, values.shape)]
    picked = values[np.ix_(*(np.clip(line, 0, n - 1) for line, n in zip(near, values.shape)))]
    return np.where(inside[0][:, None] & inside[1][None], picked, 0)


def labelled_centre_um(labels: Levels, voxels: int = 200) -> np.ndarray:
    """Centre of everything that has a label, micrometres (z, y, x); of the volume if nothing has.

    Parameters
    ----------
    labels : Levels
    voxels : int
        The level that is read has at least so many voxels along the longest side.
    """
    finest = labels.frame.spacing_um
    wanted = max(labels.frame.extent_um) / voxels
    level = labels.level_for([max(wanted, f) for f in finest])
    frame = labels.level_frame(level)
    totals, count = np.zeros(3), 0
    for z in range(frame.shape[0]):
        plane = labels.read(level, (z, 0, 0), (z + 1, *frame.shape[1:]))[0] > 0
        if plane.any():
            weight = int(plane.sum())
            down = float((plane.sum(1) * np.arange(plane.shape[0])).sum())
            right = float((plane.sum(0) * np.arange(plane.shape[1])).sum())
            totals += z * weight, down, right
            count += weight
    return frame.to_um(totals / count) if count else frame.centre_um


def spacing_for(frame: Frame, voxels: float) -> tuple[float, float, float]:
    """Voxel size of a grid of at most about ``voxels``, as cubic and as fine as the volume allows.

    Parameters
    ----------
    frame : Frame
        Finest grid of the volume; no axis becomes finer than its own voxels.
    voxels : float
    """
    low, high = min(frame.spacing_um), max(frame.extent_um)

    def spacing(edge: float) -> list[float]:
        return [max(edge, own) for own in frame.spacing_um]

    def count(edge: float) -> float:
        return float(np.prod([n / s for n, s in zip(frame.extent_um, spacing(edge))]))

    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if count(middle) > voxels else (low, middle)
    z, y, x = spacing(float(high))
    return z, y, x


def labels_on(labels: Levels, frame: Frame) -> np.ndarray:
    """Nearest label of every voxel of a grid, (z, y, x), 0 outside; read by a few planes a time."""
    finest = labels.frame.spacing_um
    level = labels.level_for([max(s, f) for s, f in zip(frame.spacing_um, finest)])
    source = labels.level_frame(level)
    near, inside = [], []
    for a, line_um in enumerate(frame.axes_um()):
        line = np.rint((line_um - source.origin_um[a]) / source.spacing_um[a]).astype(int)
        inside.append((line >= 0) & (line < source.shape[a]))
        near.append(np.clip(line, 0, source.shape[a] - 1))
    found = np.zeros(frame.shape, labels.dtype)
    for first in range(0, frame.shape[0], _SLAB):
        part = slice(first, first + _SLAB)
        start, stop = int(near[0][part][0]), int(near[0][part][-1]) + 1
        slab = labels.read(level, (start, 0, 0), (stop, *source.shape[1:]))
        found[part] = slab[np.ix_(near[0][part] - start, near[1], near[2])]
    for a, keep in enumerate(inside):
        np.moveaxis(found, a, 0)[~keep] = 0
    return found
