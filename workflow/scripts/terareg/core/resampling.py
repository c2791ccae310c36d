"""Values of one grid at the voxels of another."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from terareg.core.frames import Frame


def resampled(values: np.ndarray, own: Frame, frame: Frame) -> np.ndarray:
    """Values of the grid ``own`` on ``frame``: linear between voxels, continued from the faces.

    Parameters
    ----------
    values : numpy.ndarray, shape ``own.shape``
    own, frame : Frame
        Both in micrometres of one space, with axes that run alike.

    Returns
    -------
    numpy.ndarray of float32, shape ``frame.shape``
    """
    axes = (own.to_index(np.stack([a, a, a], -1))[:, n] for n, a in enumerate(frame.axes_um()))
    index = np.meshgrid(*axes, indexing="ij", sparse=True)
    found: np.ndarray = ndimage.map_coordinates(
        values, np.broadcast_arrays(*index), order=1, mode="nearest"
    )
    return found.astype(np.float32)
