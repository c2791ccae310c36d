"""Where along z two tiles meet whose displacement lies beyond the search.

A few planes of one tile are compared with sparse planes of the other, strongly binned, plane with
plane: a stack of 16 neighbouring planes holds the partner of one of any planes that lie 16 apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from terareg.stitching.correlation import best_peak
from terareg.stitching.filters import bin_pixels, common_levels, levels_of, prepare

if TYPE_CHECKING:
    from terareg.stitching.strips import Strips

_STACK = 16  # neighbouring planes of tile b
_STEPS = 24  # sparse planes of tile a to either side, each _STACK planes on
_DEPTHS = (0.25, 0.5, 0.75)  # of tile b at which a stack is taken


def find_depth(pair: Strips, bins: np.ndarray, dark: float | None) -> tuple[int, int, int] | None:
    """Displacement (z, y, x) at which sparse planes fit best, whole voxels; None if none does.

    It is a place to look at, good to a bin, and no measurement: it must be measured there.

    Parameters
    ----------
    pair : Strips
        Says where the tiles overlap along y and x, and how far to search there. Bytes are counted
        in it.
    bins : array of int
        Voxels (z, y, x) that are averaged.
    dark : float or None
        Counts of a pixel without light.
    """
    planes = pair.shape[0]
    stack = min(_STACK, planes)
    if planes < 4:
        return None
    steps = np.arange(-_STEPS, _STEPS + 1) * stack
    steps = steps[np.abs(steps) < planes]
    seam = (0, pair.shape[pair.along])
    box_a, box_b = pair.boxes((0, planes), seam)
    total: np.ndarray | None = None
    reach = [-(-pair.search[k] // int(bins[k])) for k in (1, 2)]
    start = [(box_a[k][0] - box_b[k][0]) // int(bins[k]) for k in (1, 2)]
    expected = [round(pair.centre[k] / int(bins[k])) for k in (1, 2)]
    for share in _DEPTHS:
        first = min(max(0, round(share * planes - stack / 2)), planes - stack)
        raw = pair.source.read(pair.names[1], first, first + stack, *_slices(box_b))
        pair.bytes += raw.nbytes
        images = _prepared(raw, bins, dark)
        if images is None:
            continue
        for number, step in enumerate(steps):
            z = first + int(step)
            if not 0 <= z < planes:
                continue
            raw = pair.source.read(pair.names[0], z, z + 1, *_slices(box_a))
            pair.bytes += raw.nbytes
            plane = _prepared(raw, bins, dark)
            if plane is None:
                continue
            lags = [np.arange(e - s - r, e - s + r + 1) for e, s, r in zip(expected, start, reach)]
            found = _correlations(plane[0], images, lags)
            if total is None:
                total = np.zeros((len(steps) * stack, *found.shape[1:]))
            # plane k of the stack lies at first + k: the displacement is step - k
            total[number * stack : (number + 1) * stack] += found[::-1]
    if total is None:
        return None
    index, peak, _ = best_peak(total, total)
    if peak <= 0:
        return None
    z = int(steps[0]) - stack + 1 + index[0]
    y, x = ((e - r + i) * int(k) for e, r, i, k in zip(expected, reach, index[1:], bins[1:]))
    return z, y, x


def _slices(box) -> list[slice]:
    return [slice(*span) for span in box[1:]]


def _prepared(raw: np.ndarray, bins, dark: float | None) -> np.ndarray | None:
    """Planes, each filtered alone and of unit energy; None if none shows structure."""
    levels = common_levels([levels_of(raw)], dark)
    planes, seen = zip(*(prepare(bin_pixels(plane[None], bins), levels) for plane in raw))
    if not any(seen):
        return None
    images = np.concatenate(planes)
    energy = np.sqrt(np.einsum("ijk,ijk->i", images, images, dtype=np.float64))
    scaled: np.ndarray = images / np.maximum(energy, 1e-12)[:, None, None]
    return scaled


def _correlations(plane: np.ndarray, images: np.ndarray, lags) -> np.ndarray:
    """Correlation of a plane with every image; at a lag (y, x) ``plane[i]`` meets ``[i - lag]``."""
    size = [
        fft.next_fast_len(int(max(n + max(0, -lag[0]), m + max(0, lag[-1]))), real=True)
        for n, m, lag in zip(plane.shape, images.shape[1:], lags)
    ]
    spectrum = fft.rfft2(plane, size) * np.conj(fft.rfft2(images, size))
    found = fft.irfft2(spectrum, size)
    rows, columns = (lag % n for lag, n in zip(lags, size))
    picked: np.ndarray = found[:, rows[:, None], columns[None]]
    return picked
