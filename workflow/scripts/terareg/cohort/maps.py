"""Maps in the atlas of many samples, compared voxel by voxel.

Files are read a few planes at a time from all samples together, so that memory does not grow with
the size of the atlas times the number of samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from terareg.cohort.model import Design, compare_voxels
from terareg.core.errors import CohortError
from terareg.core.frames import Frame
from terareg.storage.nrrd import image_slabs, read_frame

#: what is made, and what each map shows
MAPS = {
    "mean_reference": "mean of the reference",
    "mean_compared": "mean of the other group",
    "sd": "standard deviation of the residuals of the linear model",
    "cohens_d": "standardised difference",
}
_SMALLEST_RATIO = 1e-3


def log_ratio(ratio: np.ndarray) -> np.ndarray:
    """Natural logarithm of local volume ratios; folds count as a very small ratio."""
    return np.log(np.maximum(ratio, np.float32(_SMALLEST_RATIO)))


def common_frame(paths: Mapping[str, str | os.PathLike[str]]) -> Frame:
    """The grid of the samples' maps.

    Raises
    ------
    CohortError
        If two samples have different ones.
    """
    frames = {sample: read_frame(path) for sample, path in paths.items()}
    first, frame = next(iter(frames.items()))
    for sample, other in frames.items():
        if other != frame:
            raise CohortError(
                f"maps of sample {first!r} have {frame.shape} voxels of {frame.spacing_um} um, "
                f"but those of {sample!r} have {other.shape} of {other.spacing_um} um; run "
                "both with the same atlas and registration.resolution_um"
            )
    return frame


def compare_maps(
    paths: Sequence[str | os.PathLike[str]],
    frame: Frame,
    design: Design,
    prepared: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Means, spread and standardised difference of every voxel.

    Parameters
    ----------
    paths : sequence of path
        NRRD image of every sample, in the order of the design.
    frame : Frame
        Of all of them.
    design : Design
    prepared : callable, optional
        Applied to the values first.

    Returns
    -------
    dict of str to numpy.ndarray of float32, shape ``frame.shape``
        The :data:`MAPS`; the difference is 0 where the samples do not vary.
    """
    made = {name: np.zeros(frame.shape, np.float32) for name in MAPS}
    second = design.group > 0
    for slabs in zip(*(image_slabs(path, frame) for path in paths), strict=True):
        start, shape = slabs[0][0], slabs[0][1].shape
        values = np.stack([slab.reshape(-1) for _, slab in slabs]).astype(np.float64)
        if prepared is not None:
            values = prepared(values)
        d, sd = compare_voxels(design, values)
        found = (values[~second].mean(axis=0), values[second].mean(axis=0), sd, d)
        for name, part in zip(MAPS, found):
            made[name][start : start + shape[0]] = part.reshape(shape)
    return made
