"""Displacement of neighbouring tiles, measured on their overlap.

The default engine correlates several windows of planes (or, in thin stacks, several stretches of
the seam) independently of each other and believes a displacement only if windows agree. How many
agree, out of how many, over how large a search range, gives the probability that they agree by
chance. The reliability of a pair is 1 minus that probability; the user need not set a threshold.

Conventions: ``displ_vox`` is origin(b) - origin(a) in voxels (z, y, x), TeraStitcher's ``displ``.
"EAST" means that b lies to the right of a (larger x), "SOUTH" that b lies below (larger y).

The other engine, ``mip_ncc``, is TeraStitcher's measure, see :mod:`~terareg.stitching.mip_ncc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from terareg.core.errors import StitchingError
from terareg.core.parallel import map_items
from terareg.stitching.consensus import (
    Consensus,
    chance_of_trend,
    find_consensus,
    find_line,
    find_plane,
    share_within,
)
from terareg.stitching.correlation import (
    MIN_OVERLAP,
    best_peak,
    correlate,
    fits_best_at_limit,
    share_at_limit,
)
from terareg.stitching.depth_search import find_depth
from terareg.stitching.filters import bin_pixels, common_levels, levels_of, prepare
from terareg.stitching.leans import chance_of_lean, lean_of_windows
from terareg.stitching.pairs import DIRECTIONS, SEAM_AXIS, PairResult, SeamPoint, WindowResult
from terareg.stitching.projections import measure_projections
from terareg.stitching.refinement import choose_patches, cuts_of, keep_patches, refine
from terareg.stitching.seam_points import points_of
from terareg.stitching.settings import DisplacementSettings
from terareg.stitching.strips import Strips, binning_of, windows_of
from terareg.stitching.trends import robust_fit

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tiles import TileSource

_LEAST_SIGMA = 0.02  # voxels
_LEAST_SEARCH = 6  # voxels along an axis that is searched: stages err by voxels, however coarse
_NO_CHANCE = 1e-3  # probability that so many windows fit best at the limit, or are on a line
_SLANTING = 2.0  # times the tolerance, within which windows agree with a trend along the seam
_UNMATCHED = ("disagree", "beyond_search")  # states of pairs with structure in their overlap


def measure_pair(
    source: TileSource,
    acquisition: Acquisition,
    tile_a: str,
    tile_b: str,
    direction: str,
    settings: DisplacementSettings | None = None,
) -> PairResult:
    """Measure the displacement of two neighbouring tiles.

    Strips of both tiles, wide enough for every displacement in the search range, are read for a
    few windows only. Every row and column is divided by its median, because patterns fixed in the
    tile (flat-field, stripes) would correlate at displacement 0 along the seam. The logarithm is
    band-pass filtered, and an exact normalised cross-correlation is computed by FFT on pixels
    binned in y and x. Patches at full resolution around the displacement on which the windows agree
    refine it to a fraction of a voxel, by correlation and then by least squares, in which voxels
    with signal have more weight.

    Where windows with structure do not agree, the search goes on along z: sparse planes of the
    whole stack, strongly binned, say where to look. With ``settings.points`` they may also be split
    along the seam, and agree on a displacement that changes with the place: a tile is turned, or
    larger than its neighbour.

    With ``settings.engine`` "mip_ncc" the nominal overlap is measured as TeraStitcher does it, in
    whole voxels; for each axis the most reliable sub-volume is taken.

    Parameters
    ----------
    source : TileSource
        Anything with ``read(tile, z0, z1, y, x)`` that returns (z, y, x) pixels.
    acquisition : Acquisition
        For tile size, voxel size and nominal positions.
    tile_a, tile_b : str
        Names of the tiles, b to the EAST or SOUTH of a.
    direction : str
        "EAST" or "SOUTH".
    settings : DisplacementSettings, optional

    Returns
    -------
    PairResult

    Raises
    ------
    StitchingError
        If the tiles do not overlap even at the limit of the search range, or for mip_ncc not by
        more than 25 voxels on every axis.
    """
    settings = settings or DisplacementSettings()
    expected = expected_step(acquisition, tile_a, tile_b, direction, settings)
    if settings.engine == "mip_ncc":
        return measure_projections(
            source, acquisition, (tile_a, tile_b, direction), expected, settings
        )
    spacing = acquisition.spacing_um
    shape = tuple(int(n) for n in acquisition.tile_shape)
    result: PairResult | None = None
    for factor in (1.0, settings.widen):
        search = [
            math.ceil(factor * max(s / p, min(_LEAST_SEARCH, n / 4)) - 1e-9) if s else 0
            for s, p, n in zip(settings.search_um, spacing, shape)
        ]
        if shape[0] < 4:  # too thin to measure z
            search[0] = 0
        axis = SEAM_AXIS[direction]
        search = [min(s, n // 2) for s, n in zip(search, shape)]
        if expected[axis] - search[axis] > shape[axis] - MIN_OVERLAP:
            raise StitchingError(
                f"{tile_a} and {tile_b} ({direction}) do not overlap: expected step "
                f"{expected[axis]:.0f} of {shape[axis]} pixels; correct input.overlap or the tile "
                "positions, or enlarge stitching.displacement.search_um"
            )
        pair = Strips(source, shape, (tile_a, tile_b), direction, expected, tuple(search))
        attempt = _measure(pair, settings)
        if result is None:
            result = attempt
        else:
            read = result.bytes + attempt.bytes
            result = replace(result if attempt.status == "no_signal" else attempt, bytes=read)
        if result.status in _UNMATCHED and settings.points:
            read = pair.bytes
            attempt = _measure(pair, settings, split=True)
            result = replace(attempt if attempt.status == "ok" else result,
                             bytes=result.bytes + pair.bytes - read)  # fmt: skip
        if result.status not in _UNMATCHED or settings.widen == 1:
            break
    assert result is not None
    if result.status in _UNMATCHED and settings.widen > 1:
        counted = pair.bytes
        place = find_depth(pair, binning_of(pair, settings), settings.dark)
        result = replace(result, bytes=result.bytes + pair.bytes - counted)
        if place is not None and abs(place[0] - pair.centre[0]) > pair.search[0]:
            near = Strips(source, shape, pair.names, direction, place, pair.search)
            attempt = _measure(near, settings)
            read = result.bytes + attempt.bytes
            result = replace(attempt if attempt.status == "ok" else result, bytes=read)
    return result


def measure_batch(
    source: TileSource,
    acquisition: Acquisition,
    pairs: Sequence[tuple[str, str, str]],
    settings: DisplacementSettings | None = None,
    workers: int = 1,
) -> list[PairResult]:
    """Run :func:`measure_pair` over (a, b, direction) tuples; results in the same order."""
    return list(
        map_items(
            lambda pair: measure_pair(source, acquisition, *pair, settings),
            pairs,
            workers=workers,
            what="measured pairs",
        )
    )


def _measure(pair: Strips, settings: DisplacementSettings, split: bool = False) -> PairResult:
    bins = binning_of(pair, settings)
    windows, patches, lags = [], [], [1, 1, 1]
    for z, seam in windows_of(pair, settings, split):
        boxes = pair.boxes(z, seam)
        if all(high > low for low, high in boxes[1]):
            window, lags, kept = _measure_window(pair, boxes, bins, settings)
            windows.append(window)
            patches.append(kept[:1] if split else kept)
    pair.release()
    if split:
        return _slanting(pair, (windows, patches), lags, bins, settings)
    return _result(pair, windows, patches, lags, bins, settings)


def _measure_window(pair: Strips, boxes, bins, settings: DisplacementSettings):
    """Result of one window, the number of displacements searched, and its best patches."""
    raw = [pair.read(which, box) for which, box in enumerate(boxes)]
    levels = common_levels(map(levels_of, raw), settings.dark)
    coarse, signal = zip(*(prepare(bin_pixels(r, bins), levels) for r in raw))
    start = [a[0] - b[0] for a, b in zip(*boxes)]
    low, high = [], []
    for c, s, o, k in zip(pair.centre, pair.search, start, bins):
        first, last = math.floor((c - s - o) / k) - 1, math.ceil((c + s - o) / k) + 1
        low.append(first if s else round((c - o) / k))
        high.append(last if s else round((c - o) / k))
    score, ncc = correlate(coarse[0], coarse[1], low, high)
    lag, peak, second = best_peak(score, ncc)
    displ = [o + (i + first) * k for o, i, first, k in zip(start, lag, low, bins)]
    z, seam = boxes[0][0], boxes[0][pair.along]
    at_limit = fits_best_at_limit(score, float(score[lag]) if peak else 0.0)
    window = WindowResult(
        z, seam, tuple(map(float, displ)), peak, second, all(signal), False, at_limit=at_limit
    )
    kept = keep_patches(pair, raw, boxes, coarse, bins, levels, settings)
    return window, [max(1, n - 2) for n in score.shape], kept


def _result(pair, windows, patches, lags, bins, settings) -> PairResult:
    """Joint result of the windows, refined to a fraction of a voxel where they agree."""
    signal = sum(w.signal for w in windows)
    at_limit = sum(w.signal and w.at_limit for w in windows)
    # as many of them at the limit by chance
    share = share_at_limit([n + 2 for n in lags])
    no_chance = at_limit > 1 and special.bdtrc(at_limit - 1, signal, share) < _NO_CHANCE
    unmatched = "beyond_search" if no_chance else "disagree"
    expected: tuple[float, float, float] = tuple(float(e) for e in pair.expected)
    nothing = PairResult(
        pair.names[0], pair.names[1], pair.direction, unmatched if signal > 1 else "no_signal",
        expected, (0.0, 0.0, 0.0), 0.0, 0.0, 0, signal, expected, pair.search, tuple(windows),
        pair.bytes,
    )  # fmt: skip
    tolerance = np.maximum(settings.tolerance_vox, bins)
    found = find_consensus(windows, tolerance, bins, lags)
    line = find_line(windows, tolerance, bins, lags)
    least = settings.min_reliability
    nothing = replace(nothing, of=found.of or signal)
    radius = np.array([0 if s == 0 else k + 2 for s, k in zip(pair.search, bins)])
    along = pair.along if settings.points else None
    leaning = None
    if 1 - line.chance >= least and len(line.members) > len(found.members):
        # a tile that leans so much that depths do not agree
        of_trend = chance_of_trend(line, found, 1, share_within(tolerance, bins, lags))
        other = _leaning(nothing, (windows, patches), line, pair.shape[0], (radius, along))
        if other.status == "ok" and _is_trend(other, of_trend, pair.shape[0]):
            leaning = other
    members, reliability = found.members, 1 - found.chance
    if len(members) < 2 or reliability < least:
        return leaning or replace(nothing, reliability=reliability, agree=len(members))
    coarse = np.average(
        [windows[i].displ_vox for i in members], axis=0, weights=[windows[i].peak for i in members]
    )
    chosen = choose_patches([(i, p) for i in members for p in patches[i]], settings.patches)
    middle = np.rint(coarse).astype(int)
    cuts = cuts_of([p for _, p in chosen], middle, radius)
    fine = refine(cuts, middle, radius)
    if fine is None:
        return leaning or replace(nothing, status="disagree", reliability=0.0, agree=len(members))
    displ = fine.displ
    result = list(windows)
    for i in members:
        own = [d for (j, _), d in zip(chosen, fine.own) if j == i and d is not None]
        if own:
            shift = np.mean(own, axis=0)
        else:  # farther from the joint displacement than its patches are looked for
            place = np.rint(windows[i].displ_vox).astype(int)
            alone = refine(cuts_of(patches[i], place, radius), place, radius)
            shift = displ if alone is None else alone.displ
        result[i] = replace(windows[i], agrees=True, displ_vox=tuple(float(v) for v in shift))
    nothing = replace(nothing, reliability=reliability, agree=len(members), peak=fine.peak)
    lean = lean_of_windows(result, pair.shape[0])
    if leaning is None and lean and lean[0].clear:
        leaning = _leaning(nothing, (result, patches), found, pair.shape[0], (radius, along))
    if leaning is not None and leaning.status == "ok":
        return replace(leaning, fall_vox=fine.fall)
    return replace(
        nothing,
        status="ok",
        displ_vox=tuple(float(v) for v in displ),
        sigma_vox=tuple(float(v) for v in fine.sigma),
        windows=tuple(result),
        lean_vox=lean and lean[0].vox,
        lean_sigma_vox=lean and lean[0].sigma_vox,
        points=points_of(cuts, displ, pair.along) if settings.points else (),
        fall_vox=fine.fall,
    )


def _leaning(nothing: PairResult, measured, line: Consensus, planes: int, how) -> PairResult:
    """Result of a pair whose displacement changes with depth: of status "ok" if that is likely.

    Windows are refined one by one, each around its own place on the line. ``how`` has the radius
    of the refinement and the axis along the seam if points are asked for, else None.
    """
    radius, along = how
    windows, patches = [replace(w, agrees=False) for w in measured[0]], measured[1]
    depths = np.array([sum(windows[i].z) / 2 for i in line.members])
    design = np.column_stack([np.ones(len(depths)), depths])
    shifts = np.array([windows[i].displ_vox for i in line.members])
    expected = design @ np.linalg.lstsq(design, shifts, rcond=None)[0]
    peaks: list[float] = []
    points: list[SeamPoint] = []
    for i, place in zip(line.members, expected):
        middle_of = np.rint(place).astype(int)
        cuts = cuts_of(patches[i], middle_of, radius)
        fine = refine(cuts, middle_of, radius)
        if fine is not None and np.all(np.abs(fine.displ - place) <= radius):
            shift = tuple(float(v) for v in fine.displ)
            windows[i] = replace(windows[i], agrees=True, displ_vox=shift)
            peaks.append(fine.peak)
            if along is not None:
                points += points_of(cuts, fine.displ, along)
    found = lean_of_windows(windows, planes)
    if found is None or not found[0].likely:
        return nothing
    lean, middle = found
    # the middle of the stack is known as well as the mean of the windows
    sigma = [s / math.sqrt(12) for s in lean.sigma_vox]
    return replace(
        nothing,
        status="ok",
        displ_vox=tuple(float(v) for v in middle),
        sigma_vox=tuple(float(v) for v in np.maximum(sigma, _LEAST_SIGMA)),
        reliability=1 - line.chance,
        peak=float(np.mean(peaks)),
        agree=len(peaks),
        of=line.of,
        windows=tuple(windows),
        lean_vox=lean.vox,
        lean_sigma_vox=lean.sigma_vox,
        points=tuple(points),
    )


def _is_trend(pair: PairResult, chance: float, planes: int) -> bool:
    """Whether windows lie on a line beyond chance.

    Both by their number, with a probability ``chance``, and by how near to it they lie; the
    probabilities are combined as Fisher does.
    """
    both = max(chance * chance_of_lean(pair.windows, planes), 1e-300)
    return both * (1 - math.log(both)) < _NO_CHANCE


def _slanting(pair: Strips, measured, lags, bins, settings: DisplacementSettings) -> PairResult:
    """Result of a pair whose displacement changes along the seam: "ok" if windows say so.

    Short windows may as well agree where long ones, with structure in a part of them, did not.
    """
    windows, patches = list(measured[0]), measured[1]
    tolerance = np.maximum(_SLANTING * settings.tolerance_vox, bins)
    plane = find_plane(windows, tolerance, bins, lags)
    flat = find_consensus(windows, np.maximum(settings.tolerance_vox, bins), bins, lags)
    terms = 2 if len({w.z for w in windows}) > 1 else 1
    chance = chance_of_trend(plane, flat, terms, share_within(tolerance, bins, lags))
    if 1 - flat.chance >= settings.min_reliability and 1 - chance < settings.min_reliability:
        return _result(pair, windows, patches, lags, bins, settings)
    expected: tuple[float, float, float] = tuple(float(e) for e in pair.expected)
    nothing = PairResult(
        pair.names[0], pair.names[1], pair.direction, "disagree", expected, (0.0, 0.0, 0.0),
        0.0, 0.0, len(plane.members), plane.of, expected, pair.search, tuple(windows), pair.bytes,
    )  # fmt: skip
    if 1 - plane.chance < settings.min_reliability:
        return nothing
    members = list(plane.members)
    places = np.array([(sum(w.z) / 2, sum(w.seam) / 2) for w in windows])
    middle = np.array([pair.shape[0], pair.shape[pair.along]]) / 2
    design = np.column_stack([np.ones(len(windows)), places - middle])
    if not np.ptp(places[:, 0]):
        design = design[:, [0, 2]]
    shifts = np.array([w.displ_vox for w in windows])
    at = design @ robust_fit(design[members], shifts[members]).coefficients
    radius = np.array([0 if s == 0 else k + 2 for s, k in zip(pair.search, bins)])
    points: list[SeamPoint] = []
    peaks, falls, good = [], [], []
    for i in members:
        near = np.rint(at[i]).astype(int)
        cuts = cuts_of(patches[i], near, radius)
        fine = refine(cuts, near, radius)
        if fine is not None:
            shifts[i] = fine.displ
            windows[i] = replace(windows[i], agrees=True, displ_vox=tuple(map(float, fine.displ)))
            points += points_of(cuts, fine.displ, pair.along)
            good.append(i)
            peaks.append(fine.peak)
            falls.append(fine.fall)
    if len(good) <= design.shape[1]:
        return nothing
    trend = robust_fit(design[good], shifts[good])
    fall = np.median(falls, axis=0)
    return replace(
        nothing,
        status="ok",
        displ_vox=tuple(float(v) for v in trend.coefficients[0]),
        sigma_vox=tuple(float(v) for v in np.maximum(trend.sigma[0], _LEAST_SIGMA)),
        reliability=1 - plane.chance,
        peak=float(np.mean(peaks)),
        agree=len(good),
        windows=tuple(windows),
        points=tuple(points),
        fall_vox=tuple(float(v) for v in fall),
    )


def expected_step(
    acquisition: Acquisition, a: str, b: str, direction: str, settings: DisplacementSettings
) -> tuple[float, float, float]:
    """Displacement (z, y, x) of a pair about which it is looked for, voxels."""
    if direction not in DIRECTIONS:
        raise StitchingError(f"direction {direction!r} is not one of EAST, SOUTH")
    own = settings.step_east_vox if direction == "EAST" else settings.step_south_vox
    if own is not None:
        return tuple(float(v) for v in own)
    origin = {t.name: t.origin_vox for t in acquisition.tiles}
    for name in (a, b):
        if name not in origin:
            raise StitchingError(f"tile {name} is not in the acquisition; run index_acquisition")
    return tuple(float(q - p) for p, q in zip(origin[a], origin[b]))
