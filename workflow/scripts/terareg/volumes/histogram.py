"""Compact histograms that fit into the records of blocks and add up exactly."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# sign, exponent and five bits of the mantissa of a float32: 32 bins per doubling
_SHIFT = 18
_NEGATIVE = 1 << (31 - _SHIFT)
_PLANE_VOXELS = 1 << 20


def histogram(array: np.ndarray) -> dict[int, int]:
    """Count voxels in bins of 3 % relative width.

    The bin of a value is the upper 14 bits of its float32 representation; negative values get
    negative bins. Each integer below 64 has a bin of its own. NaN is left out.

    Returns
    -------
    dict
        Bin to count, bins ascending, no zero counts.
    """
    counter = Counter(array.dtype)
    counter.add(array)
    return counter.histogram()


class Counter:
    """Makes the :func:`histogram` of voxels that are given part by part.

    Parameters
    ----------
    dtype : numpy.dtype or anything that names one
    """

    def __init__(self, dtype: Any) -> None:
        dtype = np.dtype(dtype)
        # how often each integer occurs, up to the largest so far: rows of blocks have one each
        self._values: np.ndarray | None = None
        if dtype in (np.uint8, np.uint16):
            self._integers = np.iinfo(dtype).max + 1
            self._values = np.zeros(0, np.int64)
        self._bins: dict[int, int] = {}

    def add(self, array: np.ndarray) -> None:
        """Count voxels."""
        flat = np.ascontiguousarray(array).reshape(-1)
        for first in range(0, flat.size, _PLANE_VOXELS):
            part = flat[first : first + _PLANE_VOXELS]
            if self._values is not None:
                counts = np.bincount(part, minlength=self._values.size)
                counts[: self._values.size] += self._values
                self._values = counts
                continue
            part = part.astype(np.float32)
            used, numbers = np.unique(_bins(part[~np.isnan(part)]), return_counts=True)
            self._bins = merge([self._bins, dict(zip(used.tolist(), numbers.tolist()))])

    def histogram(self) -> dict[int, int]:
        """What :func:`histogram` says of all voxels so far."""
        if self._values is None:
            return self._bins
        used, where = _bins_of_integers(self._integers)
        totals = np.bincount(where[: self._values.size], self._values).astype(np.int64)
        return {int(b): int(n) for b, n in zip(used, totals) if n}


def merge(histograms: Iterable[dict[int, int]]) -> dict[int, int]:
    """Add histograms."""
    total: dict[int, int] = {}
    for one in histograms:
        for where, count in one.items():
            total[where] = total.get(where, 0) + count
    return dict(sorted(total.items()))


def percentile(counts: dict[int, int], percent: float) -> float:
    """Value below which ``percent`` of the voxels lie, exact to the width of a bin."""
    return float(percentiles(counts, [percent])[0])


def percentiles(counts: dict[int, int], percents: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values below which so many percent of the voxels lie; zeros if there are none."""
    bins = np.array(sorted(counts))
    sizes = np.array([counts[b] for b in bins], np.float64)
    ranks = np.asarray(percents, np.float64) / 100 * sizes.sum()
    if not bins.size:
        return np.zeros(ranks.shape)
    ends = np.cumsum(sizes)
    last = np.minimum(np.searchsorted(ends, ranks), bins.size - 1)
    low, high = np.array([_edges(int(index)) for index in bins]).T
    inside = np.clip((ranks - (ends - sizes)[last]) / sizes[last], 0.0, 1.0)
    return low[last] + inside * (high - low)[last]


def pack(counts: dict[int, int]) -> dict[str, str]:
    """Turn a histogram into two short strings for a JSON record."""
    ordered = sorted(counts.items())
    return {
        "bins": " ".join(str(b) for b, _ in ordered),
        "counts": " ".join(str(n) for _, n in ordered),
    }


def unpack(data: dict[str, str]) -> dict[int, int]:
    """Inverse of :func:`pack`."""
    return {
        int(b): int(n) for b, n in zip(data["bins"].split(), data["counts"].split(), strict=True)
    }


@functools.cache
def _bins_of_integers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bins of the integers from 0, ascending, and which of these each integer has."""
    return np.unique(_bins(np.arange(count)), return_inverse=True)


def _bins(values: np.ndarray) -> np.ndarray:
    bits = np.asarray(values, np.float32).view(np.uint32) >> _SHIFT
    index = bits.astype(np.int64)
    return np.where(index >= _NEGATIVE, -(index - _NEGATIVE) - 1, index)


def _edges(index: int) -> tuple[float, float]:
    """Lowest and highest value of a bin; bins of integers below 64 have no width."""
    magnitude = index if index >= 0 else -index - 1
    ends = (np.array([magnitude, magnitude + 1], np.uint32) << _SHIFT).view(np.float32)
    low, high = float(ends[0]), float(ends[1])
    if high - low <= 1.0 and low.is_integer():
        high = low
    return (low, high) if index >= 0 else (-high, -low)
