"""Casting to integer images: round, clip, cast, and count what was clipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def full_scale_bits(value: float) -> int | None:
    """Bits of a camera that gives no more than ``value``, 12 for 4095; None if there is none."""
    return next((bits for bits in range(8, 65) if value == 2**bits - 1), None)


@dataclass(frozen=True)
class Clipped:
    """Voxels that a cast had to clip: below and above the range of the integer type."""

    low: int = 0
    high: int = 0

    def __add__(self, other: Clipped) -> Clipped:
        return Clipped(self.low + other.low, self.high + other.high)


def to_integer(
    values: np.ndarray,
    dtype: np.dtype | type,
    out: np.ndarray | None = None,
    *,
    overwrite: bool = False,
) -> tuple[np.ndarray, Clipped]:
    """Round floating-point values half to even and clip them into an integer type.

    Parameters
    ----------
    values : numpy.ndarray of float
        Any shape. NaN becomes 0 and counts as clipped low. Arrays that fit into the processor's
        cache are converted several times faster than large ones.
    dtype : numpy integer type
        Type of the result.
    out : numpy.ndarray of ``dtype``, optional
        Array of the shape of ``values`` to put the result into.
    overwrite : bool
        Allow ``values`` to be overwritten, which saves a copy.

    Returns
    -------
    array : numpy.ndarray of ``dtype``
        ``out``, if given.
    clipped : Clipped
        How many values lay outside the type's range.
    """
    info = np.iinfo(dtype)
    rounded = np.rint(values, out=values if overwrite else None)
    if out is None:
        out = np.empty(rounded.shape, dtype)
    if not rounded.size:
        return out, Clipped()
    # the largest integer may not exist in float32: compare with the next value above it
    above = float(info.max) + 1.0
    least, most = rounded.min(), rounded.max()  # NaN if any value is NaN
    invalid = low = high = 0
    if np.isnan(least):
        invalid = int(np.count_nonzero(np.isnan(rounded)))
        rounded = np.nan_to_num(rounded, nan=0.0, posinf=np.inf, neginf=-np.inf)
        least, most = rounded.min(), rounded.max()
    if least < info.min:
        low = int(np.count_nonzero(rounded < info.min))
    if most >= above:
        high = int(np.count_nonzero(rounded >= above))
    if low or high:
        top = np.nextafter(np.array(above, rounded.dtype), 0, dtype=rounded.dtype)
        rounded = np.clip(
            rounded, info.min, min(float(info.max), float(top)), out=rounded if overwrite else None
        )
    np.copyto(out, rounded, casting="unsafe")
    return out, Clipped(low + invalid, high)
