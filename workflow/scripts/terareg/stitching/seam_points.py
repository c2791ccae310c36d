"""Displacements of parts of a seam, from which it is told how tiles are warped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from terareg.stitching.correlation import best_peak, correlate, subvoxel
from terareg.stitching.least_squares import Cut, fit
from terareg.stitching.pairs import SeamPoint

_PART_PX = 48  # pixels along the seam of a part, at least
_MARGIN = 4  # voxels that a part may lie away from the displacement of the pair
_LEAST_PX = 12  # along every axis of a part, but z
_LEAST_PEAK = 0.15  # correlation below which a part says nothing
_NEAR = 7  # edge of the box in which the structure that both tiles share is measured


def points_of(cuts: Sequence[Cut | None], displ: np.ndarray, along: int) -> tuple[SeamPoint, ...]:
    """Displacements of the parts of patches.

    Parameters
    ----------
    cuts : sequence of Cut or None
        Prepared voxels of patches, with a margin around the displacement.
    displ : array of float
        Displacement (z, y, x) of the pair, voxels; parts differ from it by 4 voxels at most.
    along : int
        The axis along the seam.

    Returns
    -------
    tuple of SeamPoint
        Parts without common structure have none.
    """
    points = []
    for cut in cuts:
        if cut is not None:
            points += [p for part in _parts(cut, displ, along) if (p := _point(part, displ))]
    return tuple(points)


def _parts(cut: Cut, displ: np.ndarray, along: int) -> list[Cut]:
    """Stretches of a patch along the seam; b has a margin."""
    lag = np.rint(displ - cut.start).astype(int)
    low, high = max(0, lag[along]), min(cut.a.shape[along], cut.b.shape[along] + lag[along])
    number = max(1, (high - low) // _PART_PX)
    edges = np.linspace(low, high, number + 1).round().astype(int)
    parts = []
    for first, last in pairwise(edges.tolist()):
        begin = max(0, first - lag[along] - _MARGIN)
        end = min(cut.b.shape[along], last - lag[along] + _MARGIN)
        in_a, in_b = ([slice(None)] * 3 for _ in range(2))
        in_a[along], in_b[along] = slice(first, last), slice(begin, end)
        start, position = np.array(cut.start), list(cut.first)
        start[along] += first - begin
        position[along] += first
        parts.append(Cut(cut.a[tuple(in_a)], cut.b[tuple(in_b)], start, tuple(position)))
    return parts


def _point(part: Cut, displ: np.ndarray) -> SeamPoint | None:
    shape = part.a.shape
    if min(shape[1:]) < _LEAST_PX or min(part.b.shape[1:]) < _LEAST_PX:
        return None
    axes = [k for k in range(3) if k or shape[0] >= _LEAST_PX]
    # single planes are distorted more than they are noisy, see terareg.stitching.refinement
    deep = len(axes) == 3
    found = fit([part], displ, axes) if deep else None
    if found is not None:
        return _located(part, found[0])
    place = _correlated(part, displ)
    if place is None:
        return None
    again = fit([part], place, axes) if deep else None
    return _located(part, place if again is None else again[0])


def _correlated(part: Cut, displ: np.ndarray) -> np.ndarray | None:
    """Displacement of the highest correlation within the margin; None without a maximum."""
    lag = np.rint(displ - part.start).astype(int)
    reach = np.array([_MARGIN if n > 1 else 0 for n in part.a.shape])
    reach[0] = min(reach[0], max(0, part.a.shape[0] // 4))
    score, ncc = correlate(part.a, part.b, lag - reach, lag + reach)
    index, peak, _ = best_peak(score, ncc)
    if peak < _LEAST_PEAK:
        return None
    place: np.ndarray = subvoxel(ncc, index) + lag - reach + part.start
    return place


def _located(part: Cut, displ: np.ndarray) -> SeamPoint | None:
    """The point, where the structure lies that both tiles show at that displacement."""
    lag = np.rint(displ - part.start).astype(int)
    spans = [(max(0, w), min(n, m + w)) for w, n, m in zip(lag, part.a.shape, part.b.shape)]
    if any(high - low < 1 for low, high in spans):
        return None
    a = part.a[tuple(slice(low, high) for low, high in spans)]
    b = part.b[tuple(slice(low - w, high - w) for (low, high), w in zip(spans, lag))]
    product = a * b
    energy = np.sqrt(float(np.mean(a * a)) * float(np.mean(b * b)))
    if energy <= 0 or float(product.mean()) < _LEAST_PEAK * energy:
        return None
    shared = np.maximum(ndimage.uniform_filter(product, _NEAR, mode="nearest"), 0)
    at = []
    for axis, (low, _) in enumerate(spans):
        weight = shared.sum(axis=tuple(k for k in range(3) if k != axis), dtype=np.float64)
        mean = float((weight * np.arange(len(weight))).sum() / weight.sum())
        at.append(part.first[axis] + low + mean)
    return SeamPoint(_rounded(at), _rounded(displ))


def _rounded(values) -> tuple[float, float, float]:
    return tuple(round(float(v), 4) + 0.0 for v in values)
