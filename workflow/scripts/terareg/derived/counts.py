"""How often values occur, exactly for integers, gathered over blocks; percentiles of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terareg.derived.tool import Measured


def count_values(voxels: np.ndarray, planes: Sequence[int]) -> dict[str, np.ndarray]:
    """Count the values of each plane of a block.

    Parameters
    ----------
    voxels : numpy.ndarray, shape (z, y, x)
        Unsigned integers of at most 16 bits, each counted exactly; or float32, whose finite values
        are cut to 8 significant bits (steps of 0.4 to 0.8 %, towards 0) first.
    planes : sequence of int
        Number under which each plane is counted; equal ones are counted together.

    Returns
    -------
    dict of numpy.ndarray
        ``plane``, ``value`` and ``count`` of those that occur, ascending by plane and value.
    """
    parts = []
    numbers = np.asarray(planes)
    if voxels.dtype.kind == "u":
        for number in np.unique(numbers):
            total = np.zeros(0, np.int64)
            for at in np.flatnonzero(numbers == number):
                found = np.bincount(voxels[at].reshape(-1), minlength=total.size)
                found[: total.size] += total
                total = found
            values = np.flatnonzero(total)
            parts.append(_columns(np.full(values.shape, number), values, total[values]))
    else:
        for number, plane in zip(planes, voxels, strict=True):
            bits = plane[np.isfinite(plane)].astype(np.float32).view(np.uint32) & 0xFFFF0000
            found, counts = np.unique(bits, return_counts=True)
            values = found.view(np.float32)
            parts.append(_columns(np.full(values.shape, number), values, counts))
    return add_counts(parts)


def add_counts(parts: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Add counts of :func:`count_values`."""
    if not parts:
        return _columns(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.int64))
    plane, value, count = (
        np.concatenate([part[key] for part in parts]) for key in ("plane", "value", "count")
    )
    if not plane.size:
        return _columns(plane, value, count)
    key = _order(plane, value)
    if (key[1:] > key[:-1]).all():  # as parts of different planes are
        return _columns(plane, value, count)
    order = np.argsort(key)
    plane, value, count, key = plane[order], value[order], count[order], key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    return _columns(plane[first], value[first], np.add.reduceat(count, first))


def _order(plane: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Numbers that are in the order of planes and values, which 32 bits hold."""
    # -0 becomes 0; bits of negative numbers are in the reverse order
    bits = (value + 0.0).astype(np.float32).view(np.int32)
    return (plane.astype(np.int64) << 32) + np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def percentiles(counts: Measured, percent: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Planes that have values, and percentiles of each.

    Returns
    -------
    planes : numpy.ndarray of int32, shape (n,)
    values : numpy.ndarray of float64, shape (n, len(percent))
        The smallest value that at least ``percent`` of the voxels of the plane do not exceed
        (``inverted_cdf`` of :func:`numpy.percentile`).
    """
    planes, first = np.unique(counts["plane"], return_index=True)
    ends = [*first[1:].tolist(), counts["plane"].size]
    result = np.empty((planes.size, len(percent)))
    for row, (begin, end) in enumerate(zip(first.tolist(), ends)):
        total = np.cumsum(counts["count"][begin:end])
        for column, share in enumerate(percent):
            at = int(np.searchsorted(total, share / 100 * total[-1]))
            result[row, column] = counts["value"][begin + min(at, total.size - 1)]
    return planes, result


def _columns(plane: np.ndarray, value: np.ndarray, count: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "plane": plane.astype(np.int32),
        "value": value.astype(np.float64),
        "count": count.astype(np.int64),
    }
