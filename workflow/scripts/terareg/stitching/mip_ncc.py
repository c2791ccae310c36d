"""TeraStitcher's measure of a displacement: correlation of maximum intensity projections.

The volume in which two tiles overlap is projected along z, y and x. Each of the three pairs of
images is correlated over the search range; two of them show each axis of the displacement. The
sharpness and height of the peak give the reliability of an axis, which is not a probability and
needs a threshold. Bria and Iannello, BMC Bioinformatics 13:316 (2012).

The measure is written from its description and from the results of TeraStitcher on given tiles, not
from its source. Known differences: correlations are exact on a bright background, they are 0 where
fewer than 8 rows or columns overlap, and a tile without contrast has no peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

MIN_OVERLAP = 25  # pixels that must overlap at the ends of the search range
_WIDTH_RANGE = 29  # pixels around the peak, at most, in which its width is measured
_WIDTH_AT = 0.8  # fraction of the height of the peak at which its half-width is measured
_MIN_PEAK = 0.1
_RECENTRED = 1  # times that the neighbourhood of the peak may be moved to a higher one
_LEAST_RANGE = 3  # pixels; no width is measured in less
_UNSTEADY = 3  # pixels next to the peak over which the profile need not fall
_LEAST_FALL = 5  # pixels over which a side must fall to be extrapolated
_MIN_SHARED = 8
_DECIMALS = 6  # of peak and reliability, as in TeraStitcher's files


@dataclass(frozen=True)
class AxisMeasure:
    """Displacement along one axis, with TeraStitcher's attributes.

    Attributes
    ----------
    displ_vox : int
        Displacement, voxels; the nominal one where nothing was measured.
    reliability : float
        ``sqrt(((1 - width / inf_width)^2 + peak^2) / 2)``, 0 to 1; 0 where nothing was measured.
    peak : float
        Correlation.
    width : int
        Half-width of the peak at 80 % of its height, voxels; ``inf_width`` if it has none.
    width_range, inf_width : int
        Range searched for the width, and the width that stands for infinite.
    delay : int
        Half-width of the search range that was asked for, voxels.
    """

    displ_vox: int
    reliability: float
    peak: float
    width: int
    width_range: int
    inf_width: int
    delay: int


def project(slabs: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum intensity projections of a volume that comes in slabs.

    Parameters
    ----------
    slabs : iterable of array, (planes, y, x)
        Consecutive planes; no more than one slab is held.

    Returns
    -------
    tuple of array
        Projections along z (y, x), along y (z, x), along x (z, y).
    """
    along_z: np.ndarray | None = None
    along_y, along_x = [], []
    for slab in slabs:
        top = slab.max(axis=0)
        along_z = top if along_z is None else np.maximum(along_z, top)
        along_y.append(slab.max(axis=1))
        along_x.append(slab.max(axis=2))
    assert along_z is not None, "no slab"
    return along_z, np.concatenate(along_y), np.concatenate(along_x)


def search_ranges(shape: Sequence[int], search: Sequence[int]) -> tuple[int, int, int]:
    """Half-widths (z, y, x) of the search, which leave 25 voxels of the overlap ``shape``."""
    return tuple(max(0, min(int(s), int(n) - MIN_OVERLAP)) for n, s in zip(shape, search))


def measure_axes(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], search: Sequence[int]
) -> tuple[AxisMeasure, AxisMeasure, AxisMeasure]:
    """Displacement of ``second`` against ``first`` from their projections.

    Parameters
    ----------
    first, second : sequence of array
        Projections along z, y, x of the nominal overlap in the two tiles, see :func:`project`.
    search : sequence of int
        Largest displacement (z, y, x) looked for, voxels; less where the overlap is small.

    Returns
    -------
    tuple of AxisMeasure
        For z, y, x. Positive: the content of ``first`` lies at smaller positions in ``second``.
    """
    shape = (first[1].shape[0], *first[0].shape)
    asked = [int(s) for s in search]
    delay = search_ranges(shape, asked)
    spans = [min(d, _WIDTH_RANGE) for d in delay]
    infinite = max(min(s, _WIDTH_RANGE) for s in asked) + 1
    seen: list[list] = [[], [], []]
    for gone in range(3):
        axes = [k for k in range(3) if k != gone]
        place, peak, widths = find_peak(
            first[gone], second[gone], [delay[k] for k in axes], [spans[k] for k in axes], infinite
        )
        for axis, displ, width in zip(axes, place, widths):
            seen[axis].append((displ, peak, width))
    return tuple(
        combined_measure(found, span, infinite, d) for found, span, d in zip(seen, spans, asked)
    )


def reliability(peak: float, width: int, infinite: int) -> float:
    """Reliability of an axis from its peak and width, 0 to 1."""
    return math.sqrt(0.5 * (1 - width / infinite) ** 2 + 0.5 * peak**2)


def most_reliable(measures: Sequence[Sequence[AxisMeasure]]) -> tuple[AxisMeasure, ...]:
    """For each axis (z, y, x) the most reliable of several measures; the first if equal."""
    return tuple(max(axis, key=lambda a: a.reliability) for axis in zip(*measures))


def ncc_map(a: np.ndarray, b: np.ndarray, reach: Sequence[int]) -> np.ndarray:
    """Pearson correlation of the overlap of two images, for every displacement.

    Parameters
    ----------
    a, b : array, 2-D, of one shape
    reach : sequence of int
        Largest displacement along both axes, pixels.

    Returns
    -------
    array of float64, (2 reach[0] + 1, 2 reach[1] + 1)
        At ``[reach[0] + s, reach[1] + t]``, ``a[i, j]`` meets ``b[i - s, j - t]``. 0 where
        one of them is flat or less than 8 rows or columns overlap.
    """
    # the correlation does not depend on the mean, but its rounding errors do
    a, b = (np.asarray(p, np.float64) - np.mean(p, dtype=np.float64) for p in (a, b))
    lags = [np.arange(-r, r + 1) for r in reach]
    size = [fft.next_fast_len(2 * n, real=(k == 1)) for k, n in enumerate(a.shape)]
    cross = fft.irfft2(fft.rfft2(a, size) * np.conj(fft.rfft2(b, size)), size)
    cross = cross[np.ix_(*(lag % n for lag, n in zip(lags, size)))]
    spans_a = [(np.clip(lag, 0, n), np.clip(n + lag, 0, n)) for lag, n in zip(lags, a.shape)]
    spans_b = [(low - lag, high - lag) for (low, high), lag in zip(spans_a, lags)]
    spans_b = [
        (np.clip(low, 0, n), np.clip(high, 0, n)) for (low, high), n in zip(spans_b, a.shape)
    ]
    shared = [np.maximum(high - low, 0) for low, high in spans_a]
    enough = np.logical_and.outer(*(s >= min(_MIN_SHARED, n) for s, n in zip(shared, a.shape)))
    count = np.maximum(np.multiply.outer(*shared), 1).astype(np.float64)
    sum_a, sum_b = _box_sums(a, spans_a), _box_sums(b, spans_b)
    var_a = _box_sums(a * a, spans_a) - sum_a**2 / count
    var_b = _box_sums(b * b, spans_b) - sum_b**2 / count
    # the variance that rounding leaves in a flat part is not structure
    enough &= (var_a > 1e-10 * np.sum(a * a)) & (var_b > 1e-10 * np.sum(b * b))
    ncc = np.zeros(count.shape)
    cov = cross - sum_a * sum_b / count
    ncc[enough] = cov[enough] / np.sqrt(var_a[enough] * var_b[enough])
    return np.clip(ncc, -1, 1).round(9)


def _box_sums(image: np.ndarray, spans) -> np.ndarray:
    """Sums over all boxes formed by the spans [low, high) of rows and columns."""
    table = np.zeros([n + 1 for n in image.shape])
    np.cumsum(np.cumsum(image, axis=0), axis=1, out=table[1:, 1:])
    (top, bottom), (left, right) = spans
    rows = table[np.maximum(top, bottom)] - table[top]
    return rows[:, np.maximum(left, right)] - rows[:, left]


def find_peak(a, b, delay, spans, infinite):
    """Position, height and half-widths of the highest correlation of two images.

    The maximum is searched for within ``delay``; its neighbourhood may then be moved once to a
    higher maximum, even outside. There is no peak if the maximum is still not in the centre, or if
    the neighbourhood reaches displacements at which the images do not overlap.

    Parameters
    ----------
    a, b : ndarray
        Images of one shape (2-D).
    delay, spans : sequence of int
        How far, in pixels along each axis, the maximum is searched for and its profile extends.
    infinite : int
        Stands for a width that cannot be told.

    Returns
    -------
    tuple
        Displacement along both axes, height (0 without a peak) and half-width along both axes.
    """
    nothing = (0, 0), 0.0, (infinite, infinite)
    reach = [d + (_RECENTRED + 1) * s for d, s in zip(delay, spans)]
    ncc = ncc_map(a, b, reach)
    place = _highest(ncc, reach, delay)
    for _ in range(_RECENTRED + 1):
        if any(abs(p - r) + s >= n for p, r, s, n in zip(place, reach, spans, a.shape)):
            return nothing
        centre, place = place, _highest(ncc, place, spans)
        if place == centre:
            break
    else:
        return nothing
    peak = float(ncc[place])
    rows, columns = (slice(p - s, p + s + 1) for p, s in zip(place, spans))
    widths = tuple(
        half_width(profile, peak, infinite)
        for profile in (ncc[rows, place[1]], ncc[place[0], columns])
    )
    return tuple(p - r for p, r in zip(place, reach)), peak, widths


def _highest(ncc: np.ndarray, centre, spans) -> tuple[int, int]:
    """Index of the maximum within ``spans`` around ``centre``; the centre wins a tie."""
    low = [c - s for c, s in zip(centre, spans)]
    part = ncc[tuple(slice(first, c + s + 1) for first, c, s in zip(low, centre, spans))]
    if part[tuple(spans)] >= part.max():
        return tuple(centre)
    return tuple(
        int(i) + first for i, first in zip(np.unravel_index(part.argmax(), part.shape), low)
    )


def half_width(profile: np.ndarray, peak: float, infinite: int) -> int:
    """Smallest distance at which the profile has fallen to 80 % of its middle on both sides.

    A side that does not fall so far within the profile is extrapolated by a straight line from
    where it stops falling. A width of one pixel is a noise spike and counts as infinite.
    """
    span = len(profile) // 2
    if span < _LEAST_RANGE:
        return infinite
    sides = np.array([profile[:span][::-1], profile[span + 1 :]])
    low = sides <= _WIDTH_AT * peak
    both = np.flatnonzero(low.all(axis=0))
    if len(both):
        width = int(both[0]) + 1
    else:
        width = max(_continued(side, peak, infinite) for side in sides)
    return infinite if width <= 1 else min(width, infinite)


def _continued(side: np.ndarray, peak: float, infinite: int) -> int:
    """Distance at which one side of a peak, from the middle outwards, falls to 80 % of it."""
    below = np.flatnonzero(side <= _WIDTH_AT * peak)
    if len(below):
        return int(below[0]) + 1
    rises = np.flatnonzero(np.diff(side, prepend=peak) >= 0)
    rises = rises[rises >= _UNSTEADY]
    fall = int(rises[0]) if len(rises) else len(side)
    if fall < _LEAST_FALL or side[fall - 1] >= peak:
        return infinite
    width = math.floor(fall * (1 - _WIDTH_AT) * peak / (peak - float(side[fall - 1])))
    return min(width, infinite - 1)


def combined_measure(found, span: int, infinite: int, delay: int) -> AxisMeasure:
    """One measure of an axis from those of two images, each (displacement, peak, width)."""
    valid = [f for f in found if f[1] >= _MIN_PEAK and f[2] < infinite]
    if not valid:
        return AxisMeasure(0, 0.0, 0.0, infinite, span, infinite, delay)
    displ, peak, width = max(valid, key=lambda f: f[1] / f[2])
    if len(valid) == 2 and abs(valid[0][0] - valid[1][0]) < min(valid[0][2], valid[1][2]):
        displ, peak, _ = np.average(valid, axis=0, weights=[f[1] for f in valid])
        width = max(f[2] for f in valid)
    peak, width = round(float(peak), _DECIMALS), int(width)
    score = round(reliability(peak, width, infinite), _DECIMALS)
    return AxisMeasure(round(float(displ)), score, peak, width, span, infinite, delay)
