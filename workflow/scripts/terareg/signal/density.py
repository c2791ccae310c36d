"""Cells per volume as an image in the atlas."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame

_REACH = 4.0  # radius of the Gaussian, standard deviations


def density_map(positions_um: np.ndarray, frame: Frame, sd_um: float) -> np.ndarray:
    """Points per cubic millimetre, smoothed by a Gaussian.

    The sum of the map times the volume of a voxel is the number of points inside the frame that lie
    further than four standard deviations from its faces; nearer to them a part lies outside.

    Parameters
    ----------
    positions_um : numpy.ndarray, shape (n, 3)
        In the space of the frame, (z, y, x); those outside its faces, or not finite, do not count.
    frame : Frame
    sd_um : float
        Standard deviation of the Gaussian; 0 for counts in voxels.

    Returns
    -------
    numpy.ndarray of float32, shape ``frame.shape``
    """
    index = frame.to_index(np.asarray(positions_um, float).reshape(-1, 3))
    index = np.floor(index[np.isfinite(index).all(axis=1)] + 0.5)
    inside = np.all((index >= 0) & (index < frame.shape), axis=1)
    flat = np.ravel_multi_index(tuple(index[inside].astype(np.int64).T), frame.shape)
    image = np.bincount(flat, minlength=int(np.prod(frame.shape))).astype(np.float32)
    image = image.reshape(frame.shape) / np.float32(frame.voxel_volume_um3 / 1e9)
    for axis, spacing in enumerate(frame.spacing_um):
        if sd_um:
            image = ndimage.gaussian_filter1d(
                image, sd_um / spacing, axis, mode="constant", truncate=_REACH
            )
    return image
