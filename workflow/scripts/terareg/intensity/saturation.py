"""Pixels at the upper limit of the camera, also where that is less than what the files can hold.

A camera of 12 bits writes at most 4095 into files of 16 bits. Bright tissue beyond the limit leaves
a plateau: many pixels with exactly the brightest value, and few just below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from terareg.core.numeric import full_scale_bits

#: per cent of the raw pixels above which saturation is told
SATURATED_PERCENT = 0.5
_JUST_BELOW = 64  # part of the brightest value within which pixels are just below it
# pixels of a plateau, at least, and their number relative to those just below
_FULL_SCALE = (20, 0.5)  # at 2^n - 1
_ANYWHERE = (200, 2.0)  # at other values: offsets that were subtracted


def add_peak(peak: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Count the brightest pixels of one more plane.

    Parameters
    ----------
    peak : numpy.ndarray of int64, shape (5,)
        Of the planes before: brightest value, pixels that have it, pixels just below it, all
        pixels, and the largest value that they can have; zeros at first.
    plane : numpy.ndarray, integers
        Raw pixels. Planes of other types are only counted.

    Returns
    -------
    numpy.ndarray of int64, shape (5,)
    """
    read = int(peak[3]) + plane.size
    if plane.dtype.kind not in "ui":
        return np.array([0, 0, 0, read, 0])
    highest = int(np.iinfo(plane.dtype).max)
    top = int(plane.max())
    best, count, below = (int(v) for v in peak[:3])
    if top < best:
        return np.array([best, count, below, read, highest])
    at = int(np.count_nonzero(plane == top))
    near = int(np.count_nonzero(plane >= top - max(1, top // _JUST_BELOW))) - at
    if top > best:
        count = below = 0
    return np.array([top, count + at, below + near, read, highest])


def saturation(peaks: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """Saturated pixels of all tiles.

    Parameters
    ----------
    peaks : sequence of (int, int, int, int, int)
        Of every tile, see :func:`add_peak`.

    Returns
    -------
    dict or None
        ``at`` (counts), ``bits`` (None where it is no full scale) and ``percent`` of the pixels;
        None where nothing is saturated.
    """
    found = np.array(peaks, np.int64).reshape(-1, 5)
    if not len(found):
        return None
    top, highest = int(found[:, 0].max()), int(found[:, 4].max())
    count, below = (int(v) for v in found[found[:, 0] == top, 1:3].sum(axis=0))
    bits = full_scale_bits(top)
    least, share = _FULL_SCALE if bits else _ANYWHERE
    if top <= 0 or (top < highest and (count < least or count < share * below)):
        return None
    percent = 100 * count / max(1, int(found[:, 3].sum()))
    return {"at": top, "bits": bits, "percent": float(f"{percent:.4g}")}
