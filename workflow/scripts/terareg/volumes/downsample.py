"""One level of downsampling: means, most frequent labels, extremes, or every second voxel.

A mean may leave out the voxels that are 0 ("sparse"), for images in which 0 means no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from terareg.core.errors import VolumeError

_BAND_VOXELS = 1 << 17  # of a plane, summed at once


def downsample(array: np.ndarray, step: Sequence[int], mode: str = "mean") -> np.ndarray:
    """Halve axes of a volume.

    Parameters
    ----------
    array : numpy.ndarray, shape (z, y, x)
    step : sequence of int
        1 or 2 per axis. At the end of an odd axis, the mean or mode of the voxels that exist.
    mode : str
        "mean" (integers are rounded, half up), "sparse" (the same of the voxels that are not 0, or
        0), "mode" (the most frequent value; of equally frequent ones the smallest), "max", "min",
        or "stride" (the first voxel).

    Returns
    -------
    numpy.ndarray of the same type, sizes ``ceil(n / step)``
    """
    step = tuple(step)
    if not set(step) <= {1, 2} or array.ndim != 3:
        raise VolumeError(f"downsampling by {step} is impossible; use 1 or 2")
    if mode not in _REDUCE and mode != "stride":
        known = ", ".join([*_REDUCE, "stride"])
        raise VolumeError(f"downsampling mode {mode!r} is unknown; use one of {known}")
    if step == (1, 1, 1):
        return array
    if mode == "stride":
        return np.ascontiguousarray(array[:: step[0], :: step[1], :: step[2]])
    made = np.empty([-(-n // s) for n, s in zip(array.shape, step)], array.dtype)
    out = made
    if step[0] == 1 and array.flags.c_contiguous and not array.shape[1] % step[1]:
        # rows of all planes, one after the other: planes may be too small for one call each
        array, out = array.reshape(1, -1, array.shape[2]), made.reshape(1, -1, made.shape[2])
    reduce = _REDUCE[mode]
    rows = max(1, _BAND_VOXELS // max(1, array.shape[2]))
    for z in range(out.shape[0]):
        planes = array[z * step[0] : (z + 1) * step[0]]
        for y in range(0, out.shape[1], rows):
            # a few rows at a time, so that the wide sums stay in the processor's cache
            band = planes[:, y * step[1] : (y + rows) * step[1]]
            odd = [(0, -n % s) for n, s in zip(band.shape, step)]
            if any(more for _, more in odd):
                # repeating the last voxel gives the mean or mode of the voxels that exist
                band = np.pad(band, odd, mode="edge")
            reduce(band, step, out[z, y : y + rows])
    return made


def _mean_rows(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
    if planes.dtype.kind == "f":
        _mean_of_floats(planes, step, out)
        return
    if step[2] == 2:
        # two neighbours are read as one integer of twice the size, and its halves are added
        wide = np.dtype(f"u{2 * planes.itemsize}")
        pairs = np.ascontiguousarray(planes).view(wide)
        bits = 8 * planes.itemsize
        total = pairs & wide.type((1 << bits) - 1)
        pairs = pairs >> wide.type(bits)
        total += pairs
    else:
        total = planes.astype(np.uint32)
    total = total[0] + total[1] if step[0] == 2 else total[0]
    if step[1] == 2:
        total = total[0::2] + total[1::2]
    count = step[0] * step[1] * step[2]
    total += total.dtype.type(count // 2)
    total >>= total.dtype.type(count.bit_length() - 1)
    out[...] = total


def _mean_of_floats(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
    total = planes[0].astype(np.float32)
    for plane in planes[1:]:
        total += plane
    if step[1] == 2:
        total = total[0::2] + total[1::2]
    if step[2] == 2:
        total = total[:, 0::2] + total[:, 1::2]
    np.multiply(total, np.float32(1 / math.prod(step)), out=out)


def _mode_rows(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
    cells = np.stack(
        [plane[y :: step[1], x :: step[2]] for plane in planes
         for y in range(step[1]) for x in range(step[2])]
    )  # fmt: skip
    out[...] = cells[0]
    mixed = np.nonzero((cells != cells[0]).any(axis=0))
    if not len(mixed[0]):
        return
    values = np.sort(cells[:, mixed[0], mixed[1]], axis=0)
    best, most = values[0], np.zeros(values.shape[1], np.uint8)
    for candidate in values:
        count = (values == candidate).sum(axis=0, dtype=np.uint8)
        better = count > most
        best = np.where(better, candidate, best)
        most = np.maximum(most, count)
    out[mixed] = best


def _sparse_rows(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
    # the last voxel of an odd axis is there twice and counts twice, which leaves its mean as it is
    wide = np.float64 if planes.dtype.kind == "f" else np.uint64
    total, count = np.zeros(out.shape, wide), np.zeros(out.shape, np.uint8)
    for plane in planes:
        for y in range(step[1]):
            for x in range(step[2]):
                part = plane[y :: step[1], x :: step[2]]
                total += part
                count += part != 0
    np.maximum(count, 1, out=count)
    if planes.dtype.kind == "f":
        out[...] = total / count
    else:
        out[...] = np.floor_divide(total + count // 2, count)


def _extreme_rows(
    extreme: np.ufunc, planes: np.ndarray, step: tuple[int, ...], out: np.ndarray
) -> None:
    found = extreme.reduce(planes, axis=0)
    if step[1] == 2:
        found = extreme(found[0::2], found[1::2])
    if step[2] == 2:
        found = extreme(found[:, 0::2], found[:, 1::2])
    out[...] = found


_REDUCE: dict[str, Callable[[np.ndarray, tuple[int, ...], np.ndarray], None]] = {
    "mean": _mean_rows,
    "sparse": _sparse_rows,
    "mode": _mode_rows,
    "max": partial(_extreme_rows, np.maximum),
    "min": partial(_extreme_rows, np.minimum),
}
