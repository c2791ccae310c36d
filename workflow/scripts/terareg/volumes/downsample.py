"""One step down the pyramid: means of images, most frequent labels of segmentations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terareg.core.errors import VolumeError


def downsample(array: np.ndarray, step: Sequence[int], mode: str = "mean") -> np.ndarray:
    """Halve axes of a volume.

    Parameters
    ----------
    array : numpy.ndarray, shape (z, y, x)
    step : sequence of int
        1 or 2 per axis. An odd end is a smaller cell: the mean or the mode of what exists.
    mode : str
        "mean" (integers are rounded, half up) or "mode" (the most frequent value; of equally
        frequent ones the smallest).

    Returns
    -------
    numpy.ndarray of the same type, sizes ``ceil(n / step)``
    """
    step = tuple(step)
    if not set(step) <= {1, 2} or array.ndim != 3:
        raise VolumeError(f"downsampling by {step} is not a step of the pyramid; use 1 or 2")
    if mode not in ("mean", "mode"):
        raise VolumeError(f"downsampling mode {mode!r} is unknown; use mean or mode")
    if step == (1, 1, 1):
        return array
    # repeating the last voxel of an odd axis gives the mean or mode of the voxels that exist
    padding = [(0, n % s) for n, s in zip(array.shape, step)]
    if any(p[1] for p in padding):
        array = np.pad(array, padding, mode="edge")
    out = np.empty([n // s for n, s in zip(array.shape, step)], array.dtype)
    reduce = _mean_plane if mode == "mean" else _mode_plane
    for z in range(out.shape[0]):
        # plane by plane, so that the wide sums stay in the processor's cache
        reduce(array[z * step[0] : (z + 1) * step[0]], step, out[z])
    return out


def _mean_plane(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
    wide = np.float32 if planes.dtype.kind == "f" else np.uint32
    total = planes[0].astype(wide)
    for plane in planes[1:]:
        total += plane
    if step[1] == 2:
        total = total[0::2] + total[1::2]
    if step[2] == 2:
        total = total[:, 0::2] + total[:, 1::2]
    count = step[0] * step[1] * step[2]
    if wide is np.float32:
        np.multiply(total, np.float32(1 / count), out=out)
    else:
        total += count // 2
        total >>= count.bit_length() - 1
        out[...] = total


def _mode_plane(planes: np.ndarray, step: tuple[int, ...], out: np.ndarray) -> None:
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
