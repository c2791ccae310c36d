"""Arithmetic that integer images need: round, clip, cast, and say what was clipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clipped:
    """Voxels that a cast had to clip: below and above the range of the integer type."""

    low: int = 0
    high: int = 0

    def __add__(self, other: Clipped) -> Clipped:
        return Clipped(self.low + other.low, self.high + other.high)


def to_integer(values: np.ndarray, dtype: np.dtype | type) -> tuple[np.ndarray, Clipped]:
    """Round floating-point values half to even and clip them into an integer type.

    Parameters
    ----------
    values : numpy.ndarray of float
        Any shape. Not a number counts as 0 and as clipped low.
    dtype : numpy integer type
        Type of the result.

    Returns
    -------
    array : numpy.ndarray of ``dtype``
    clipped : Clipped
        How many values lay outside the type's range.
    """
    info = np.iinfo(dtype)
    rounded = np.rint(values)
    invalid = int(np.count_nonzero(np.isnan(rounded)))
    if invalid:
        rounded = np.nan_to_num(rounded, nan=float(info.min), posinf=np.inf, neginf=-np.inf)
    low = int(np.count_nonzero(rounded < info.min)) + invalid
    # the largest integer may not exist in float32: compare with the next value above it
    high = int(np.count_nonzero(rounded >= float(info.max) + 1.0))
    top = np.nextafter(np.array(float(info.max) + 1.0, rounded.dtype), 0, dtype=rounded.dtype)
    top = min(float(info.max), float(top))
    return np.clip(rounded, info.min, top).astype(dtype), Clipped(low, high)
