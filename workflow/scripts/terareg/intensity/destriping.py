"""Destriping: one gain for each line of each plane of each tile.

Dirt, bubbles and dense tissue in the path of the light-sheet darken whole lines of a plane. Which
lines differs from tile to tile. Where two tiles overlap the tissue is the same, so the ratio of
their means over a line is the ratio of the two gains::

    log mean_a(l) - log mean_b(l - d) = g_a(l) - g_b(l - d) + error

with d the displacement of the tiles across the lines; for a fraction of a line, means are
interpolated linearly. The log gains of a plane are the least-squares solution, weighted by the
scatter of the ratio along the line, with a prior around 0 whose width is estimated from the ratios.
The ratios of one overlap share an error, and what all overlaps on the same side of a tile have in
common is not a stripe but an error of the flat-field, as far as tiles of different gains do not
have as much in common by chance. Without these two terms, errors of the flat-field would add up
along a row of tiles. A gain that all tiles of a row share cannot be seen in
overlaps and is not corrected.

The computation is one pass over the tiles (:mod:`terareg.intensity.lines`), which keeps a hundredth
of the data, and a sparse system for each plane (:mod:`terareg.intensity.line_system`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorstore
from scipy import ndimage

from terareg.acquisition.line_gains import gains_spec
from terareg.intensity.blocks import median_percent, step_beyond
from terareg.intensity.line_system import LineSystem
from terareg.intensity.lines import PARTS, LineLayout, LineMeans, LinePair, common_planes
from terareg.storage.arrays import array_spec, write_error
from terareg.storage.records import content_hash, is_done, remove_record, write_record
from terareg.storage.store import ARRAY_ERRORS, Store

logger = logging.getLogger(__name__)

_LEAST_SIGNAL = 0.5  # counts, that every part of a line must exceed
_SMOOTH = 33  # lines over which the scatter along lines is averaged
_UNUSUAL = 3.0  # times that scatter; a line that scatters more is weighted by its own scatter
# standard error of the median of four normal values, per median absolute deviation
_MEDIAN_ERROR = 1.1
_FLOOR = 0.002  # smallest standard error of a log ratio
_CERTAIN = 0.05  # largest error of the log ratios from which spread and common part are estimated
_KNOWN = 4  # fewest such lines in a plane of an overlap
_LEAST_SPREAD, _LARGEST_SPREAD = 0.003, 0.3  # of log gains
_FLATFIELD = 0.03  # deviation of the log ratios that errors of the flat-field leave at a side
_SPREADS = np.geomspace(0.001, 0.5, 12)  # that gains of whole tiles may have
_DEEPEST = 1.0  # largest log gain
# summary of a channel whose tiles show no stripes
NO_STRIPES = {"lines": "none", "tiles": [], "spread_percent": 0.0, "seam_percent": None}


def estimate_stripes(
    sums: Sequence[str | os.PathLike],
    layout: LineLayout,
    store: Store,
    key: str,
    fingerprint: str,
) -> dict[str, Any]:
    """Find the gains of all lines and write them into a store, unless that has been done.

    A slab of planes is a shard with its own record, so that a job that was killed resumes there.

    Parameters
    ----------
    sums : sequence of path
        Files of :func:`terareg.intensity.lines.sum_lines`, of all tiles.
    layout : LineLayout
        That of the sums.
    store : Store
        Of the sample; receives the array of :class:`terareg.acquisition.line_gains.LineGains` under
        ``key`` and, last, its record at ``key + ".json"``.
    key : str
    fingerprint : str
        Hash of all that the gains depend on.

    Returns
    -------
    dict
        The record, which :func:`terareg.acquisition.line_gains.load_line_gains` reads: ``key``,
        ``lines``, ``tiles`` (``name``, ``bottom``, ``spread_percent``: standard deviation of its
        gains), ``sha256``, ``objects``, ``fingerprint``, ``spread_percent`` (of all), and
        ``seam_percent`` (``before``, ``after``: difference of lines with signal in overlaps,
        median of a slab and mean over slabs, percent of one tile, in one half of the parts of these
        lines with gains found from the other half; ``noise``: what of it the halves do not share,
        and ``beyond`` that; None without such lines).

    Raises
    ------
    IntensityError
        Sums that lack an overlap or belong to other positions.
    StoreError
        If the store cannot be written.
    """
    record_key = f"{key}.json"
    done = is_done(store, record_key, fingerprint)
    if done is not None:
        logger.info("%s is already complete", store.address(key))
        store.delete_folder(f"{key}.slabs")
        return done
    remove_record(store, record_key)
    array = _begin(layout, store, key, fingerprint)
    system = LineSystem.of(layout)
    with LineMeans(sums) as means:
        slabs = [
            _finish_slab(number, means, layout, system, (store, key, fingerprint, array))
            for number in range(len(layout.slabs))
        ]
    squares = np.sum([slab["squares"] for slab in slabs], axis=0)
    spreads = 100 * np.sqrt(squares / (layout.planes * layout.shape[1]))
    seams = [slab for slab in slabs if slab["seam_percent"]]
    record = {
        "key": key,
        "lines": layout.lines,
        "tiles": [
            {"name": name, "bottom": bottom, "spread_percent": spread}
            for (name, bottom), spread in zip(layout.bottoms.items(), spreads.tolist())
        ],
        "sha256": hashlib.sha256("".join(s["xxh3"] for s in slabs).encode()).hexdigest(),
        "objects": {entry.key: entry.size for entry in store.list(key)},
        "fingerprint": fingerprint,
        "spread_percent": math.sqrt(np.mean(spreads**2)),
        "seam_percent": _percent(seams),
    }
    write_record(store, record_key, record)
    store.delete_folder(f"{key}.slabs")
    return record


def _begin(layout: LineLayout, store: Store, key: str, fingerprint: str) -> tensorstore.TensorStore:
    """The array, new unless a job with the same fingerprint has begun to fill it."""
    begun = f"{key}.slabs/begun.json"
    shape = (len(layout.bottoms), layout.planes, layout.shape[1])
    new = is_done(store, begun, fingerprint) is None
    try:
        if not new:
            return tensorstore.open(array_spec(store, key)).result()
        store.delete_folder(f"{key}.slabs")
        store.delete_folder(key)
        array = tensorstore.open(gains_spec(store, key, shape), create=True).result()
    except ARRAY_ERRORS as error:
        raise write_error(store, key, error) from error
    write_record(store, begun, {"fingerprint": fingerprint})
    return array


def _finish_slab(
    number: int, means: LineMeans, layout: LineLayout, system: LineSystem, target: tuple
) -> dict[str, Any]:
    """Write the gains of a slab and its record, unless both exist; return the record."""
    store, key, fingerprint, array = target
    record_key = f"{key}.slabs/{number}.json"
    record = is_done(store, record_key, fingerprint)
    if record is not None:
        return record
    heights = layout.slabs[number]
    gains, seams = solve_slab(means, layout, number, system)
    try:
        array[:, heights.start : heights.stop].write(gains).result()
    except ARRAY_ERRORS as error:
        raise write_error(store, key, error) from error
    shard = f"{key}/c/0/{number}/0"
    medians = [median_percent(part) for part in seams] if seams.size else []
    record = {
        "fingerprint": fingerprint,
        "objects": {shard: store.size(shard)},
        "xxh3": content_hash(gains),
        "squares": np.sum(np.square(gains - 1, dtype=np.float64), axis=(1, 2)).tolist(),
        "seam_percent": medians,
        "seam_lines": seams.shape[1],
    }
    write_record(store, record_key, record)
    logger.info("solved planes up to %d of %d", heights.stop, layout.planes)
    return record


def _percent(slabs: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Means over slabs that have seams; None without any."""
    if not slabs:
        return None
    before, after, noise = np.mean([slab["seam_percent"] for slab in slabs], axis=0).tolist()
    count = sum(slab["seam_lines"] for slab in slabs)
    return {"before": before} | step_beyond(after, noise, (count, count))


def solve_slab(
    means: LineMeans, layout: LineLayout, number: int, system: LineSystem
) -> tuple[np.ndarray, np.ndarray]:
    """Gains (tiles, planes, lines) of a slab, and the differences at seams in one plane (3, n)."""
    slab = _LineSlab.of(means, layout, number)
    ratios = slab.ratio - slab.common
    system = replace(system, spread=_spread(ratios, slab.variance))
    logs = np.zeros((len(ratios), system.matrix.shape[1]), np.float32)
    seams = np.zeros((3, 0), np.float32)
    for k, (ratio, variance) in enumerate(zip(ratios, slab.variance)):
        plane = replace(system, weight=1 / variance.astype(np.float64))
        found = plane.gains(ratio)
        logs[k] = plane.doubting(ratio, found).gains(ratio, found)
        if k == slab.middle and ratio.size:
            seams = _held_out(slab, plane)
    np.clip(logs, -_DEEPEST, _DEEPEST, out=logs)
    np.exp(logs, out=logs)
    gains = logs.reshape(len(logs), len(layout.bottoms), -1).swapaxes(0, 1)
    return np.ascontiguousarray(gains), seams


def _held_out(slab: _LineSlab, plane: LineSystem) -> np.ndarray:
    """Log ratios of one half of each line with signal: raw, corrected by the other half, noise.

    The halves, ``n1`` and ``n2`` their noise, have the same gain. What is left of the second has
    the noise ``n2 - G n1``, where the solution passes on a part G of that of the first; what is
    left of both differs by ``(1 + G) (n2 - n1)``.
    """
    one, two = slab.halves
    left = [
        mine - plane.matrix @ plane.gains(other - slab.common)
        for mine, other in ((two, one), (one, two))
    ]
    bright = slab.signal[slab.middle] > 0.1 * np.quantile(slab.signal, 0.99)
    noise = ((one - two) / np.sqrt(np.float32(2)))[bright]
    spread = np.median(np.abs(left[0] - left[1])[bright]) if bright.any() else 0.0
    alone = max(float(np.median(np.abs(noise))) if bright.any() else 0.0, 1e-12)
    passed = min(max(float(spread) / (math.sqrt(2) * alone) - 1, 0.0), 1.0)
    noise = noise * np.float32(math.sqrt(1 + passed**2))
    return np.stack([two[bright], left[0][bright], noise]).astype(np.float32)


@dataclass(frozen=True)
class _LineSlab:
    """Measurements of a slab in the overlaps: float32 (planes, equations).

    Attributes
    ----------
    ratio, variance, signal : numpy.ndarray
        Log ratios, their variances (infinite without signal), and the dimmer tile's mean.
    common : numpy.ndarray of float32, (equations,)
        Common part of the log ratios of all overlaps on a side.
    middle : int
        Plane for which ``halves`` (2, equations) holds the log ratios of either half of the parts.
    """

    ratio: np.ndarray
    variance: np.ndarray
    signal: np.ndarray
    common: np.ndarray
    middle: int
    halves: np.ndarray

    @classmethod
    def of(cls, means: LineMeans, layout: LineLayout, number: int) -> _LineSlab:
        heights = layout.slabs[number]
        shape = len(heights), sum(len(pair.lines) for pair in layout.pairs)
        ratio, signal = np.zeros((2, *shape), np.float32)
        variance = np.full(shape, np.inf, np.float32)
        halves, middle = np.zeros((2, shape[1]), np.float32), len(heights) // 2
        start = 0
        for index, pair in enumerate(layout.pairs):
            stop = start + len(pair.lines)
            if planes := common_planes(pair.planes, heights):
                first, second = (
                    means.get(
                        pair,
                        f"{index}.{role}.{number}",
                        (len(planes), PARTS, len(pair.cut(role)[0])),
                    )
                    for role in (0, 1)
                )
                if pair.fraction > 0:
                    weight = np.float32(pair.fraction)
                    second = second[..., :-1] + weight * (second[..., 1:] - second[..., :-1])
                low, high = planes.start - heights.start, planes.stop - heights.start
                logs, seen = _log_ratios(first, second)
                here = slice(low, high), slice(start, stop)
                ratio[here] = np.median(logs, axis=1)
                variance[here] = _variance(logs, ratio[here], seen)
                signal[here] = np.minimum(first, second).mean(1) * seen
                if low <= middle < high:
                    parts = logs[middle - low]
                    halves[:, start:stop] = parts[::2].mean(0), parts[1::2].mean(0)
            start = stop
        common = _common_ratio(layout, ratio, variance)
        return cls(ratio, variance, signal, common, middle, halves)


def _common_ratio(layout: LineLayout, ratio: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """For each equation what errors of the flat-field add to all overlaps on its side."""
    sides = np.repeat([p.side for p in layout.pairs], [len(p.lines) for p in layout.pairs])
    common = np.zeros(ratio.shape[1], np.float32)
    seen: dict[int, list[tuple[LinePair, float]]] = {0: [], 1: []}
    start = 0
    for pair in layout.pairs:
        stop = start + len(pair.lines)
        known = variance[:, start:stop] < np.float32(_CERTAIN**2)
        medians = [
            float(np.median(values[lines]))
            for values, lines in zip(ratio[:, start:stop], known)
            if lines.sum() >= _KNOWN
        ]
        if medians:
            seen[pair.side].append((pair, float(np.median(medians))))
        start = stop
    for side, found in seen.items():
        if found:
            pairs, values = zip(*found)
            common[sides == side] = shared_part(pairs, np.array(values))
    return common


def shared_part(pairs: Sequence[LinePair], values: np.ndarray) -> float:
    """What the log ratios of overlaps have in common, beyond what gains of tiles may make of them.

    ``values`` are the log ratios, one for each of ``pairs``, which lie on one side of the grid.
    ``value = c + g_first - g_second + e``, all normal around 0: c with the deviation that errors of
    a flat-field have, the gains g of tiles and the rest e with any, averaged by how well they
    explain the values. In a row of tiles the gains of inner ones cancel. So where tiles differ much
    and are few, c is nearly 0, and where they are alike or many, nearly the mean.
    """
    names = {name: k for k, name in enumerate({n: 0 for p in pairs for n in (p.first, p.second)})}
    design = np.zeros((len(pairs), len(names)))
    for row, pair in enumerate(pairs):
        design[row, names[pair.first]], design[row, names[pair.second]] = 1, -1
    power, basis = np.linalg.eigh(design @ design.T)
    ones, turned = basis.sum(axis=0), values @ basis
    of_gains, of_rest = np.meshgrid(_SPREADS, _SPREADS)
    own = np.outer(of_gains.ravel() ** 2, power.clip(0)) + of_rest.ravel()[:, None] ** 2
    known = _FLATFIELD**2 * (ones**2 / own).sum(axis=1) + 1
    part = _FLATFIELD * (ones * turned / own).sum(axis=1)
    fit = np.log(own).sum(axis=1) + np.log(known) + (turned**2 / own).sum(axis=1) - part**2 / known
    weight = np.exp((fit.min() - fit) / 2)
    # rounded, because the last digits of the decomposition depend on the processor
    return round(float((weight * _FLATFIELD * part / known).sum() / weight.sum()), 5)


def _log_ratios(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios of the parts of lines (planes, parts, lines), and lines that have signal."""
    seen = (np.minimum(first, second) > _LEAST_SIGNAL).all(axis=1)
    a, b = (np.log(np.maximum(means, _LEAST_SIGNAL)) for means in (first, second))
    return a - b, seen


def _variance(logs: np.ndarray, ratio: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Variance of the log ratios of lines (planes, lines), from the deviations of their parts.

    Deviations are averaged over neighbouring lines with signal. They are large where there is
    little tissue, or where the two tiles show different tissue. A line whose own parts deviate much
    more is weighted by its own deviations.
    """
    own = np.median(np.abs(logs - ratio[:, None]), axis=1)
    size = min(_SMOOTH, own.shape[-1])
    total, count = (
        ndimage.uniform_filter1d(part, size, axis=-1, mode="nearest")
        for part in (own * seen, seen.astype(np.float32))
    )
    usual = total / np.maximum(count, np.float32(0.5 / size))
    distance = np.maximum(usual, own / _UNUSUAL)
    variance = (_MEDIAN_ERROR * distance) ** 2 + np.float32(_FLOOR**2)
    return np.where(seen, variance, np.float32(np.inf))


def _spread(ratio: np.ndarray, variance: np.ndarray) -> float:
    """Standard deviation of log gains in a slab: the spread of log ratios beyond their errors."""
    known = variance < np.float32(_CERTAIN**2)
    if known.sum() < 32:
        return _LEAST_SPREAD
    excess = np.median(ratio[known] ** 2) / 0.455 - np.median(variance[known])
    spread = math.sqrt(max(0.0, float(excess)) / 2)
    return min(max(spread, _LEAST_SPREAD), _LARGEST_SPREAD)
