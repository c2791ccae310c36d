"""Fine structure that an image shows, told from noise and from stripes along the light."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_FINE_PX, _COARSE_PX = 1.0, 3.0  # sigma of the filters between which lies fine structure
_GAIN = 36.0  # of second differences along both axes, squared
_LEAST = 1e-5  # of the squared mean: noise that is always there, for images without any


def band(plane: np.ndarray, axis: int) -> np.ndarray:
    """Band-passed image, float32 (y, x).

    ``axis`` is that of the light. Stripes that it leaves run along it: fine is what changes along
    the light, or in any direction if it comes along z (0).
    """
    plane = plane.astype(np.float32)
    if not axis:
        return ndimage.gaussian_filter(plane, _FINE_PX) - ndimage.gaussian_filter(plane, _COARSE_PX)
    smooth = ndimage.gaussian_filter1d(plane, _FINE_PX, 2 - axis)
    return ndimage.gaussian_filter1d(smooth, _FINE_PX, axis - 1) - ndimage.gaussian_filter1d(
        smooth, _COARSE_PX, axis - 1
    )


def clearness(planes: np.ndarray, axis: int) -> float:
    """Power of the fine structure of two neighbouring planes (2, y, x) over that of their noise.

    Noise is new in every plane, structure is not. Blurred, dim and noisy images have little of it.
    How much noise there is, is seen in what changes from pixel to pixel along both axes (Immerkaer,
    Computer Vision and Image Understanding 64:300, 1996), because structure changes from plane to
    plane as well.
    """
    first, last = (band(plane, axis) for plane in (planes[0], planes[-1]))
    power = max(0.0, float(np.mean(first * last, dtype=np.float64)))
    left = np.diff(planes.astype(np.float32), 2, axis=1)
    left = np.diff(left, 2, axis=2)
    mean = float(np.mean(planes, dtype=np.float64))
    noise = float(np.mean(left * left, dtype=np.float64)) / _GAIN + _LEAST * mean * mean
    return power / noise if noise > 0 else 0.0
