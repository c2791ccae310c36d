"""Maps in the atlas of many samples, compared voxel by voxel.

Maps and images on the atlas's own grid are read a few planes at a time from all samples together,
so that memory does not grow with the size of the atlas times the number of samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from terareg.cohort.model import Design, compare_voxels
from terareg.core.errors import CohortError
from terareg.core.frames import Frame
from terareg.core.resampling import resampled
from terareg.storage.nrrd import image_slabs, read_scalar
from terareg.volumes.reader import Levels

#: what is made, and what each map shows
MAPS = {
    "mean_reference": "mean of the reference",
    "mean_compared": "mean of the other group",
    "sd": "standard deviation of the residuals of the linear model",
    "cohens_d": "standardised difference",
}
_SMALLEST_RATIO = 1e-3
_PLANES = 8  # that are compared at once


def log_ratios(paths: Mapping[str, str | os.PathLike[str]]) -> tuple[Frame, list[np.ndarray]]:
    """Logarithms of local volume ratios of all samples, on one grid.

    The grid of a deformation has voxels as large as its details, which differ from sample to
    sample, in a box that the atlas gives. The finest of them is taken, and the others are
    interpolated linearly. Such grids have few voxels, so that all are held.

    Parameters
    ----------
    paths : mapping of str to path
        NRRD image of every sample, by its name.

    Returns
    -------
    tuple
        The frame, and an array of float32 for each sample; folds count as a very small ratio.

    Raises
    ------
    CohortError
        If the boxes of two samples differ.
    """
    read = {sample: read_scalar(path) for sample, path in paths.items()}
    finest = min(read, key=lambda sample: read[sample][1].voxel_volume_um3)
    frame = read[finest][1]
    for sample, (_, own) in read.items():
        if not _one_box(own, frame):
            raise CohortError(
                f"deformations of samples {finest!r} and {sample!r} are in different boxes of the "
                f"atlas ({frame.shape} voxels of {frame.spacing_um} um, {own.shape} of "
                f"{own.spacing_um} um); run both with the same atlas, registration.resolution_um "
                "and registration.margin_um"
            )
    logs = (
        (np.log(np.maximum(ratio, np.float32(_SMALLEST_RATIO))), own)
        for ratio, own in read.values()
    )
    return frame, [log if own == frame else resampled(log, own, frame) for log, own in logs]


def _one_box(one: Frame, other: Frame) -> bool:
    """Whether two frames begin at one place and are equally long, to a voxel."""
    most = np.maximum(one.spacing_um, other.spacing_um)
    begin = np.subtract(one.origin_um, other.origin_um)
    length = np.multiply(one.shape, one.spacing_um) - np.multiply(other.shape, other.spacing_um)
    alike = one.orientation == other.orientation
    return alike and bool(np.all(np.abs(begin) < most) and np.all(np.abs(length) < most))


def in_regions(annotation: str | os.PathLike[str], atlas: Frame, frame: Frame) -> np.ndarray:
    """Which voxels of ``frame`` lie in a region of the atlas, bool, shape ``frame.shape``.

    Around a brain the deformation only continues what is inside; samples hardly vary there, and
    their standardised difference is any number.

    Parameters
    ----------
    annotation : path
        NRRD image of region ids on the grid ``atlas``, 0 for none; read plane by plane.
    atlas, frame : Frame
    """
    index = [
        np.rint((place - origin) / step).astype(np.int64)
        for place, origin, step in zip(frame.axes_um(), atlas.origin_um, atlas.spacing_um)
    ]
    within = [(at >= 0) & (at < n) for at, n in zip(index, atlas.shape)]
    rows, columns = (np.flatnonzero(axis) for axis in within[1:])
    found = np.zeros(frame.shape, bool)
    for start, slab in image_slabs(annotation, atlas):
        for z in np.flatnonzero((index[0] >= start) & (index[0] < start + len(slab))):
            plane = slab[index[0][z] - start]
            found[np.ix_([z], rows, columns)] = plane[np.ix_(index[1][rows], index[2][columns])] > 0
    return found


def in_slabs(image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first plane, planes) of an array, as :func:`terareg.storage.nrrd.image_slabs` does."""
    for start in range(0, len(image), _PLANES):
        yield start, image[start : start + _PLANES]


def volume_slabs(
    volume: Levels, frame: Frame, seen: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first plane, planes) of a volume in the atlas, averaged onto a grid.

    Parameters
    ----------
    volume : Levels
        In the space of the atlas.
    frame : Frame
        Of the planes, in the orientation of the volume.
    seen : numpy.ndarray of bool, shape ``frame.shape``
        Becomes False where the volume is 0: the sample has not seen that voxel.
    """
    for start in range(0, frame.shape[0], _PLANES):
        stop = min(start + _PLANES, frame.shape[0])
        part = frame.cropped((start, 0, 0), (stop, *frame.shape[1:]))
        planes, _ = volume.resampled(part)
        seen[start:stop] &= planes > 0
        yield start, planes


def compare_maps(
    images: Sequence[Iterable[tuple[int, np.ndarray]]], frame: Frame, design: Design
) -> dict[str, np.ndarray]:
    """Means, spread and standardised difference of every voxel.

    Parameters
    ----------
    images : sequence of iterable of tuple
        Image of every sample in slabs (first plane, planes), cut alike, in the order of the design.
    frame : Frame
        Of all of them.
    design : Design

    Returns
    -------
    dict of str to numpy.ndarray of float32, shape ``frame.shape``
        The :data:`MAPS`; the difference is 0 where the samples do not vary.
    """
    made = {name: np.zeros(frame.shape, np.float32) for name in MAPS}
    second = design.group > 0
    for slabs in zip(*images, strict=True):
        start, shape = slabs[0][0], slabs[0][1].shape
        values = np.stack([slab.reshape(-1) for _, slab in slabs]).astype(np.float64)
        d, sd = compare_voxels(design, values)
        found = (values[~second].mean(axis=0), values[second].mean(axis=0), sd, d)
        for name, part in zip(MAPS, found):
            made[name][start : start + shape[0]] = part.reshape(shape)
    return made
