"""Normalised cross-correlation of two boxes of voxels, and the peaks of its map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

MIN_OVERLAP = 4  # coarse pixels that must overlap, per axis, for a correlation to count


def correlate(
    a: np.ndarray, b: np.ndarray, low: Sequence[int], high: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation of the overlap of ``a`` and ``b`` for every lag.

    With lag l, ``a[i]`` meets ``b[i - l]``; low <= l <= high per axis, both inclusive. Returns
    (score, ncc), shape high - low + 1: the score is the correlation times the square root of the
    share of voxels that overlap, so that small overlaps do not win by chance.
    """
    lags = [np.arange(lo, hi + 1) for lo, hi in zip(low, high)]
    size = [
        fft.next_fast_len(int(max(na - lo, nb + hi, na, nb)), real=(k == 2))
        for k, (na, nb, lo, hi) in enumerate(zip(a.shape, b.shape, low, high))
    ]
    spectrum = fft.rfftn(a, size)
    spectrum *= np.conj(fft.rfftn(b, size))
    cross = fft.irfftn(spectrum, size)
    cross = cross[np.ix_(*(lag % n for lag, n in zip(lags, size)))].astype(np.float64)
    spans_a = [
        (np.maximum(0, lag), np.minimum(na, nb + lag))
        for lag, na, nb in zip(lags, a.shape, b.shape)
    ]
    spans_b = [(lo - lag, hi - lag) for (lo, hi), lag in zip(spans_a, lags)]
    counts = [np.maximum(hi - lo, 0) for lo, hi in spans_a]
    count = counts[0][:, None, None] * counts[1][:, None] * counts[2].astype(np.float64)
    sum_a, sum_b = _box_sums(a, spans_a), _box_sums(b, spans_b)
    square_a, square_b = _box_sums(a * a, spans_a), _box_sums(b * b, spans_b)
    enough = np.ones(count.shape, bool)
    for axis, (c, na, nb) in enumerate(zip(counts, a.shape, b.shape)):
        need = min(MIN_OVERLAP, na, nb)
        enough &= np.expand_dims(c >= need, [k for k in range(3) if k != axis])
    n = np.maximum(count, 1)
    cov = cross - sum_a * sum_b / n
    var = (square_a - sum_a**2 / n) * (square_b - sum_b**2 / n)
    floor = 1e-6 * square_a.max() * square_b.max() + 1e-30
    enough &= var > floor
    ncc = np.where(enough, cov / np.sqrt(np.where(enough, var, 1)), 0)
    ncc = np.clip(ncc, -1, 1)
    return ncc * np.sqrt(count / max(count.max(), 1)), ncc


def _box_sums(image: np.ndarray, spans) -> np.ndarray:
    """Sums over all boxes formed by the spans [low, high) of each axis."""
    order = sorted(range(3), key=lambda k: len(spans[k][0]) / image.shape[k])
    total = image
    for axis in order:
        low, high = (np.clip(span, 0, image.shape[axis]) for span in spans[axis])
        high = np.maximum(high, low)
        ends = np.unique(np.concatenate([low, high]))  # only the ends of boxes matter
        part = [slice(None)] * 3
        part[axis] = slice(ends[0], ends[-1])
        sums = np.add.reduceat(total[tuple(part)], ends[:-1] - ends[0], axis, dtype=np.float64)
        none = np.zeros([1 if k == axis else n for k, n in enumerate(total.shape)])
        sums = np.cumsum(np.concatenate([none, sums], axis), axis)
        first, last = np.searchsorted(ends, low), np.searchsorted(ends, high)
        total = sums.take(last, axis) - sums.take(first, axis)
    return total


def best_peak(score: np.ndarray, ncc: np.ndarray):
    """Index of the highest local maximum inside the map, its correlation and that of the next."""
    local = score == ndimage.maximum_filter(score, size=[min(3, n) for n in score.shape])
    for axis, n in enumerate(score.shape):
        if n > 2:  # a maximum on the border belongs to a peak outside the search range
            edge: list[slice | int] = [slice(None)] * 3
            for end in (0, -1):
                edge[axis] = end
                local[tuple(edge)] = False
    places = np.argwhere(local & (score > 0))
    if not len(places):
        return tuple(n // 2 for n in score.shape), 0.0, 0.0
    values = score[tuple(places.T)]
    order = np.argsort(-values, kind="stable")
    best = places[order[0]]
    far = [p for p in places[order[1:64]] if np.abs(p - best).max() > 2]
    second = float(ncc[tuple(far[0])]) if far else 0.0
    return tuple(int(v) for v in best), float(ncc[tuple(best)]), second


def fits_best_at_limit(score: np.ndarray, peak: float) -> bool:
    """Whether a displacement at the limit of the search scores more than ``peak``, and than 0."""
    inside = tuple(slice(1, -1) if n > 2 else slice(None) for n in score.shape)
    rest = score.copy()
    rest[inside] = -np.inf
    return bool(rest.max() > max(0.0, peak))


def share_at_limit(shape: Sequence[int]) -> float:
    """Share of the displacements searched that lie at the limit of the search."""
    return 1 - float(np.prod([(n - 2) / n for n in shape if n > 2]))


def subvoxel(values: np.ndarray, index) -> np.ndarray:
    """Position of the maximum near ``index`` of the cubic spline through ``values``."""
    place = np.array(index, float)
    axes = [k for k, n in enumerate(values.shape) if n >= 3]
    spline = ndimage.spline_filter(values, order=3, mode="mirror")
    step = 0.5
    for _ in range(8):
        points = [place]
        for k in axes:
            for sign in (-1, 1):
                point = place.copy()
                point[k] += sign * step
                points.append(point)
        f = ndimage.map_coordinates(
            spline, np.array(points).T, order=3, mode="mirror", prefilter=False
        )
        for j, k in enumerate(axes):
            before, after = f[1 + 2 * j], f[2 + 2 * j]
            curve = before - 2 * f[0] + after
            if curve < 0:
                place[k] += float(np.clip(0.5 * step * (before - after) / curve, -step, step))
        step = max(0.05, step / 1.6)
    return np.clip(place, np.array(index) - 1.0, np.array(index) + 1.0)
