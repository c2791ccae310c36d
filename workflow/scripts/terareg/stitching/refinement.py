"""Displacement to a fraction of a voxel, from patches at full resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from terareg.stitching.correlation import best_peak, correlate, subvoxel
from terareg.stitching.filters import REACH, prepare
from terareg.stitching.least_squares import Cut, fit

_BELIEVED = 2.0  # standard errors by which a fit may differ from the maximum
_LEAST_SCATTER = 0.1  # voxels; a few patches may agree better than this by chance


@dataclass(frozen=True)
class Patch:
    """Raw pixels of a stretch of the seam in both tiles, their start, and their contrast."""

    pixels: tuple[np.ndarray, np.ndarray]
    start: tuple[tuple[int, ...], tuple[int, ...]]
    levels: tuple[float, float]
    contrast: float
    z: tuple[int, int]


def keep_patches(pair, raw, boxes, coarse, bins, levels, settings) -> list[Patch]:
    """Copy the two stretches of a window that have the most structure in both tiles.

    Where the overlap is wider than ``patch_px`` the stretches are shorter, by half at most, to
    limit the voxels of a patch.
    """
    box_a, box_b = boxes
    first, last = box_a[pair.along]
    wide = (box_a[pair.axis][1] - box_a[pair.axis][0]) / settings.patch_px
    number = max(1, round((last - first) / settings.patch_px * min(max(1, wide), 2)))
    edges = [int(v) for v in np.linspace(first, last, number + 1).round()]
    margin = pair.search[pair.along] + 8
    patches = []
    for low, high in pairwise(edges):
        span_a = (low, high)
        span_b = (
            max(box_b[pair.along][0], low - pair.centre[pair.along] - margin),
            min(box_b[pair.along][1], high - pair.centre[pair.along] + margin),
        )
        if span_b[1] - span_b[0] < 8:
            continue
        contrast = math.inf
        for image, box, span in zip(coarse, boxes, (span_a, span_b)):
            k = bins[pair.along]
            part = slice(
                (span[0] - box[pair.along][0]) // k,
                max(1, (span[1] - box[pair.along][0]) // k),
            )
            cut = [slice(None)] * 3
            cut[pair.along] = part
            contrast = min(contrast, float(np.var(image[tuple(cut)])))
        patches.append((contrast, span_a, span_b))
    patches.sort(key=lambda p: (-p[0], p[1]))
    kept = []
    for contrast, span_a, span_b in patches[:2]:
        pixels, start = [], []
        for image, box, span in zip(raw, boxes, (span_a, span_b)):
            cut = [slice(None)] * 3
            offset = box[pair.along][0]
            cut[pair.along] = slice(span[0] - offset, span[1] - offset)
            origin = [b[0] for b in box]
            origin[pair.along] = span[0]
            pixels.append(image[tuple(cut)].copy())
            start.append(tuple(origin))
        kept.append(Patch(tuple(pixels), tuple(start), levels, contrast, box_a[0]))
    return kept


def choose_patches(patches, number: int):
    """The best patch of every window, then the best of the rest, up to ``number``."""
    best: list[tuple[int, Patch]] = []
    rest: list[tuple[int, Patch]] = []
    seen: set[int] = set()
    for item in sorted(patches, key=lambda p: -p[1].contrast):
        (rest if item[0] in seen else best).append(item)
        seen.add(item[0])
    return sorted((best + rest)[:number], key=lambda p: (p[0], p[1].start))


@dataclass(frozen=True)
class Refined:
    """Result of :func:`refine`.

    Attributes
    ----------
    displ, sigma : array of float
        Displacement (z, y, x) and its standard error, voxels.
    peak : float
        Correlation there, on average of the patches.
    own : list of (array or None)
        Displacement of each patch alone, None where it has no maximum nearby.
    fall : tuple of float
        Distance (z, y, x) at which the correlation has fallen to half, voxels.
    """

    displ: np.ndarray
    sigma: np.ndarray
    peak: float
    own: list[np.ndarray | None]
    fall: tuple[float, float, float]


def cuts_of(patches: Sequence[Patch], coarse: np.ndarray, radius: np.ndarray) -> list[Cut | None]:
    """Prepared voxels of patches around a displacement; None where the tiles do not overlap."""
    return [_cut(patch, coarse, radius) for patch in patches]


def refine(cuts: Sequence[Cut | None], coarse: np.ndarray, radius: np.ndarray) -> Refined | None:
    """Sub-voxel displacement from all patches jointly, see :func:`cuts_of`.

    The least-squares fit over the voxels of all patches starts at the maximum of the sum of their
    correlation maps, which is good to a fraction of a voxel. A fit that ends farther from it than
    the patches scatter is discarded: the edge of the tissue may mislead it.

    None if the sum has no maximum inside the radius.
    """
    maps: list[np.ndarray | None] = []
    total: np.ndarray | float = 0.0
    for cut in cuts:
        if cut is None:
            maps.append(None)
            continue
        lag = coarse - cut.start
        # not the score: its slope would pull the maximum towards the larger overlap
        _, ncc = correlate(cut.a, cut.b, lag - radius, lag + radius)
        total = total + math.sqrt(cut.a.size) * ncc
        maps.append(ncc)
    if not isinstance(total, np.ndarray):
        return None
    index, _, _ = best_peak(total, total)
    if total[index] <= 0 or any(n > 2 and i in (0, n - 1) for i, n in zip(index, total.shape)):
        return None
    origin = coarse - radius
    displ = origin + subvoxel(total, index)
    own = [None if ncc is None else _own_peak(ncc, index) for ncc in maps]
    own = [None if place is None else origin + place for place in own]
    sigma = _scatter([place for place in own if place is not None], displ)
    sigma[np.array(radius) == 0] = 0.0
    axes = [k for k, n in enumerate(total.shape) if n > 1]
    # single planes are distorted more than they are noisy, so their voxels are weighted equally
    fitted = fit([cut for cut in cuts if cut is not None], displ, axes) if len(axes) == 3 else None
    if fitted is not None:
        away = np.abs(fitted[0] - displ)
        if np.all(away <= _BELIEVED * np.maximum(sigma, _LEAST_SCATTER)):
            displ, sigma = fitted
    peak = float(np.mean([m[index] for m in maps if m is not None]))
    return Refined(displ, sigma, peak, own, _fall(total, index))


def _fall(total: np.ndarray, index) -> tuple[float, float, float]:
    """Distance from the maximum at which a map has fallen to half of it, along each axis.

    Between the places of the map linearly, the nearer of both sides; the end of the map where it
    does not fall so far.
    """
    found = []
    for axis, n in enumerate(total.shape):
        line = total[tuple(slice(None) if k == axis else i for k, i in enumerate(index))]
        line = line / line[index[axis]]
        sides = []
        for side in (line[index[axis] :], line[: index[axis] + 1][::-1]):
            low = np.flatnonzero(side <= 0.5)
            if len(low):
                k = int(low[0])
                sides.append(k - (0.5 - side[k]) / max(float(side[k - 1] - side[k]), 1e-9))
        found.append(float(min(sides, default=n // 2)))
    return found[0], found[1], found[2]


def _cut(patch: Patch, coarse: np.ndarray, radius) -> Cut | None:
    """The prepared voxels that overlap at the coarse displacement and its surroundings."""
    start = np.array(patch.start[0]) - np.array(patch.start[1])
    spans_a, spans_b = [], []
    shapes = (pixels.shape for pixels in patch.pixels)
    for na, nb, lag, r in zip(*shapes, coarse - start, radius):
        spans_a.append((max(0, lag - r), min(na, nb + lag + r)))
        spans_b.append((max(0, -lag - r), min(nb, na - lag + r)))
    if any(high <= low for low, high in spans_a + spans_b):
        return None
    a, b = (
        _prepared(pixels, spans, patch.levels)
        for pixels, spans in zip(patch.pixels, (spans_a, spans_b))
    )
    first = tuple(int(at + span[0]) for at, span in zip(patch.start[0], spans_a))
    return Cut(a, b, start + [p[0] - q[0] for p, q in zip(spans_a, spans_b)], first)


def _prepared(pixels: np.ndarray, spans, levels) -> np.ndarray:
    """A box of ``pixels`` filtered by :func:`prepare` with a margin for the filters' reach."""
    around, inside = [], []
    for (low, high), n, reach in zip(spans, pixels.shape, REACH):
        first = max(0, low - reach)
        around.append(slice(first, min(n, high + reach)))
        inside.append(slice(low - first, high - first))
    image, _ = prepare(pixels[tuple(around)].astype(np.float32), levels)
    return image[tuple(inside)].copy()  # the rest is not kept


def _own_peak(ncc: np.ndarray, index) -> np.ndarray | None:
    """Position of a patch's own maximum near the common one, None where it is on the border."""
    near = tuple(slice(max(0, i - 2), i + 3) for i in index)
    local = np.unravel_index(int(np.argmax(ncc[near])), ncc[near].shape)
    at = tuple(int(k + s.start) for k, s in zip(local, near))
    inside = all(n < 3 or 0 < i < n - 1 for i, n in zip(at, ncc.shape))
    return subvoxel(ncc, at) if inside else None


def _scatter(places, displ) -> np.ndarray:
    """Standard error of the displacement, from the displacements of the patches."""
    if len(places) < 2:
        return np.full(3, 0.25)
    spread = 1.4826 * np.median(np.abs(np.array(places) - displ), axis=0)
    return np.maximum(spread / math.sqrt(len(places)), 0.02)
