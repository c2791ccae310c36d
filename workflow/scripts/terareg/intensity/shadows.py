"""Shadows of the light-sheet: one gain for each line of each plane of each tile.

Dirt, bubbles and dense tissue in the sheet's way darken whole lines of a plane, in every tile
others. Where two tiles overlap the tissue is the same, so the ratio of their means over a line is
the ratio of the two gains::

    log mean_a(l) - log mean_b(l - d) = g_a(l) - g_b(l - d) + error

with d the distance of the tiles across the lines, between whole lines by linear interpolation.
The gains of a plane are the solution of least squares, weighted by the scatter of the ratio along
the line, with a prior around 0 whose width is found from the ratios. What the ratios of an overlap
have in common is known less well than the number of lines suggests, and what the overlaps on a side
of all tiles have in common is no shadow but the flat-field's error: without these two, its errors
would add up along a row of tiles. What all tiles of a row have in common cannot be seen
in overlaps and stays as it is.

It is one pass over the tiles (:func:`sum_lines`), in which they shrink to a hundredth, and a
sparse system for each plane (:func:`estimate_shadows`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from scipy import ndimage, sparse

from terareg.acquisition.shadows import LINES, SLAB_PLANES, gains_spec
from terareg.errors import IntensityError, StoreError
from terareg.parallel import map_items
from terareg.storage.arrays import array_spec
from terareg.storage.records import content_hash, is_done, write_record
from terareg.storage.store import ARRAY_ERRORS, Store, atomic_file, outage

logger = logging.getLogger(__name__)

_SECTIONS = 4  # parts of a line in an overlap, so that a bright spot spoils one of them only
_LEAST_LINES, _LEAST_SECTION = 4, 4  # pixels; smaller overlaps say nothing
_LEAST_SIGNAL = 0.5  # counts, of every part of a line
_SMOOTH = 33  # lines over which the scatter along lines is averaged
_UNUSUAL = 3.0  # times that scatter, from which on a line is judged by itself
# of the median of four normal values, in units of their median distance from it
_MEDIAN_ERROR = 1.1
_FLOOR = 0.002  # error that no ratio falls below
_LEAST_SPREAD, _LARGEST_SPREAD = 0.003, 0.3  # of log gains
_DEEPEST = 1.0  # largest log gain
_SHARED = 0.003  # error that the ratios of an overlap have in common
_CERTAIN = 0.05  # error of a ratio up to which it tells about all others
_TOLERANCE = 1e-4  # of the residual, where the solution of a plane ends
_STEPS = 2000  # of conjugate gradients at most; rows of 50 tiles take some 200


@dataclass(frozen=True)
class LinePair:
    """The overlap of two neighbouring tiles, seen along its lines.

    Attributes
    ----------
    first, second : str
        Names of the tiles.
    side : int
        0 where the second tile lies in the next column of the grid, 1 in the next row.
    planes : range
        Heights of the planes that both have.
    lines : range
        Lines of the first tile that lie between lines of the second.
    shift : float
        Distance of the second tile's first line from the first one's, lines.
    edges : numpy.ndarray of int64
        Where the parts of a line begin in the first tile, and their end; pixels.
    along : int
        Distance of the second tile along the lines, pixels.
    """

    first: str
    second: str
    side: int
    planes: range
    lines: range
    shift: float
    edges: np.ndarray
    along: int

    @property
    def below(self) -> int:
        """Line of the second tile below the first of ``lines``."""
        return math.floor(self.lines.start - self.shift)

    @property
    def fraction(self) -> float:
        """How far the lines of the first tile lie above those of the second."""
        return self.lines.start - self.shift - self.below

    def cut(self, role: int) -> tuple[range, np.ndarray]:
        """Lines and edges in the first tile (0), or in the second (1), there with one line more
        where lines lie between lines."""
        if role == 0:
            return self.lines, self.edges
        stop = self.below + len(self.lines) + (self.fraction > 0)
        return range(self.below, stop), self.edges - self.along


@dataclass(frozen=True)
class LineLayout:
    """Tiles at their positions, and the lines of all overlaps.

    Attributes
    ----------
    lines : str
        "rows" or "columns".
    shape : tuple of int
        Planes, lines and pixels of a line of a tile.
    bottoms : dict of str to int
        Height of the first plane of each tile; the lowest is 0.
    pairs : tuple of LinePair
    """

    lines: str
    shape: tuple[int, int, int]
    bottoms: dict[str, int]
    pairs: tuple[LinePair, ...]

    @classmethod
    def of(cls, acquisition: Any, origins: Mapping[str, Sequence[float]], lines: str) -> LineLayout:
        """Lay out an acquisition at ``origins`` (z, y, x) by tile name, voxels."""
        if lines not in LINES:
            raise IntensityError(f"lines {lines!r} are unknown; use one of {', '.join(LINES)}")
        across, along = (1, 2) if lines == "rows" else (2, 1)
        depth, *size = (int(acquisition.tile_shape[axis]) for axis in (0, across, along))
        heights = {tile.name: round(origins[tile.name][0]) for tile in acquisition.tiles}
        lowest = min(heights.values())
        bottoms = {name: height - lowest for name, height in heights.items()}
        cells = {(tile.row, tile.column): tile.name for tile in acquisition.tiles}
        pairs = []
        for (row, column), first in sorted(cells.items()):
            for side, neighbour in enumerate(((row, column + 1), (row + 1, column))):
                second = cells.get(neighbour)
                if second is None:
                    continue
                shift = [origins[second][a] - origins[first][a] for a in (across, along)]
                low = max(bottoms[first], bottoms[second])
                high = min(bottoms[first], bottoms[second]) + depth
                pair = _pair((first, second, side), range(low, high), shift, size)
                if pair is not None:
                    pairs.append(pair)
        return cls(lines, (depth, *size), bottoms, tuple(pairs))

    @property
    def planes(self) -> int:
        """Planes from the lowest tile's first to the highest one's last."""
        return max(self.bottoms.values()) + self.shape[0]

    @property
    def slabs(self) -> list[range]:
        """Heights of the planes that are solved, and stored, together."""
        starts = range(0, self.planes, SLAB_PLANES)
        return [range(z, min(z + SLAB_PLANES, self.planes)) for z in starts]


def _pair(
    tiles: tuple[str, str, int], planes: range, shift: Sequence[float], size: Sequence[int]
) -> LinePair | None:
    """The overlap of two tiles; None where it is too small."""
    (lines, length), (across, along) = size, (shift[0], round(shift[1]))
    across = round(across, 6)  # a hair is no fraction
    inside = range(max(0, math.ceil(across)), min(lines, math.floor(lines - 1 + across) + 1))
    low, high = max(0, along), min(length, length + along)
    if not planes or len(inside) < _LEAST_LINES or high - low < _SECTIONS * _LEAST_SECTION:
        return None
    edges = low + (high - low) * np.arange(_SECTIONS + 1) // _SECTIONS
    return LinePair(*tiles, planes, inside, across, edges, along)


# ------------------------------------------------------------------ one pass over the tiles
def sum_lines(
    path: str | os.PathLike,
    source: Any,
    tiles: Sequence[str],
    layout: LineLayout,
    workers: int = 1,
) -> None:
    """Write the means of lines of some tiles, in their overlaps with their neighbours.

    Parameters
    ----------
    path : path
        A zip of ``.npy`` files, readable with :func:`numpy.load`: for pair p, role r (0 for its
        first tile, 1 for its second) and slab s the array ``p.r.s``, float32 (planes, 4 parts of
        a line, lines). Equal means give equal bytes; the file appears when it is complete.
    source : TileSource
        With the flat-field.
    tiles : sequence of str
        The file depends on the tiles, not on how others are shared among files.
    layout : LineLayout
    workers : int
        Threads, each with a few planes.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    wanted = [(tile, slab) for tile in tiles for slab in range(len(layout.slabs))]

    def means(item: tuple[str, int]) -> dict[str, np.ndarray]:
        return _line_means(source, item[0], layout, item[1])

    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for found in map_items(means, wanted, workers=workers, what="slabs of lines"):
            for name, array in found.items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)


def _line_means(source: Any, tile: str, layout: LineLayout, slab: int) -> dict[str, np.ndarray]:
    """Means of a tile in a slab, by name of the array."""
    heights = layout.slabs[slab]
    roles = [
        (f"{index}.{role}.{slab}", planes, *pair.cut(role))
        for index, pair in enumerate(layout.pairs)
        for role, name in enumerate((pair.first, pair.second))
        if name == tile and (planes := _common(pair.planes, heights))
    ]
    found = {
        name: np.zeros((len(planes), _SECTIONS, len(lines)), np.float32)
        for name, planes, lines, _ in roles
    }
    used = [planes for _, planes, _, _ in roles]
    if not used:
        return found
    for height in range(min(r.start for r in used), max(r.stop for r in used)):
        z = height - layout.bottoms[tile]
        plane = source.read(tile, z, z + 1)[0]
        if layout.lines == "columns":
            plane = plane.T
        for name, planes, lines, edges in roles:
            if height in planes:
                box = plane[lines.start : lines.stop, edges[0] : edges[-1]]
                sums = np.add.reduceat(box, edges[:-1] - edges[0], axis=1, dtype=np.float64)
                found[name][height - planes.start] = (sums / np.diff(edges)).T
    return found


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


# ------------------------------------------------------------------ gains of all planes
def estimate_shadows(
    sums: Sequence[str | os.PathLike],
    layout: LineLayout,
    store: Store,
    key: str,
    fingerprint: str,
) -> dict[str, Any]:
    """Find the gains of all lines and write them into a store, unless that has been done.

    A slab of planes is a shard with a record of its own, so that a killed job goes on where it was.

    Parameters
    ----------
    sums : sequence of path
        Files of :func:`sum_lines`, of all tiles.
    layout : LineLayout
        That of the sums.
    store : Store
        Of the sample; receives the array of :class:`terareg.acquisition.shadows.Shadows` under
        ``key`` and, last, its record at ``key + ".json"``.
    key : str
    fingerprint : str
        Hash of all that the gains depend on.

    Returns
    -------
    dict
        The record, which :func:`terareg.acquisition.shadows.load_shadows` reads: ``key``,
        ``lines``, ``tiles`` (``name``, ``bottom``, ``spread_percent``: standard deviation of its
        gains), ``sha256``, ``objects``, ``fingerprint``, ``spread_percent`` (of all), and
        ``seam_percent`` (``before``, ``after``: difference of lines with signal in overlaps,
        median of a slab and mean over slabs, percent of one tile, with gains that were found from
        another part of these lines; None without such lines).

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
        logger.info("%s is complete already", store.address(key))
        return done
    store.delete(record_key)
    array = _begin(layout, store, key, fingerprint)
    system = _Plane.of(layout)
    with _LineMeans(sums) as means:
        slabs = [
            _finish_slab(number, means, layout, system, (store, key, fingerprint, array))
            for number in range(len(layout.slabs))
        ]
    squares = np.sum([slab["squares"] for slab in slabs], axis=0)
    spreads = 100 * np.sqrt(squares / (layout.planes * layout.shape[1]))
    seams = np.array([slab["seam_percent"] for slab in slabs if slab["seam_percent"]])
    record = {
        "key": key,
        "lines": layout.lines,
        "tiles": [
            {"name": name, "bottom": bottom, "spread_percent": spread}
            for (name, bottom), spread in zip(layout.bottoms.items(), spreads.tolist())
        ],
        "sha256": hashlib.sha256("".join(s["sha256"] for s in slabs).encode()).hexdigest(),
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
        raise _write_error(store, key, error) from error
    write_record(store, begun, {"fingerprint": fingerprint})
    return array


def _finish_slab(
    number: int, means: _LineMeans, layout: LineLayout, system: _Plane, target: tuple
) -> dict[str, Any]:
    """Write the gains of a slab and its record, unless they are there; return the record."""
    store, key, fingerprint, array = target
    record_key = f"{key}.slabs/{number}.json"
    record = is_done(store, record_key, fingerprint)
    if record is not None:
        return record
    heights = layout.slabs[number]
    gains, seams = _solve_slab(means, layout, number, system)
    try:
        array[:, heights.start : heights.stop].write(gains).result()
    except ARRAY_ERRORS as error:
        raise _write_error(store, key, error) from error
    shard = f"{key}/c/0/{number}/0"
    median = 100 / math.sqrt(2) * np.median(np.abs(seams), axis=1) if seams.size else np.zeros(0)
    record = {
        "fingerprint": fingerprint,
        "objects": {shard: store.size(shard)},
        "sha256": content_hash(gains),
        "squares": np.sum(np.square(gains - 1, dtype=np.float64), axis=(1, 2)).tolist(),
        "seam_percent": median.tolist(),
    }
    write_record(store, record_key, record)
    logger.info("planes to %d of %d are solved", heights.stop, layout.planes)
    return record


def _percent(seams: np.ndarray) -> dict[str, float] | None:
    """Mean over slabs (n, 2)."""
    return dict(zip(("before", "after"), seams.mean(0).tolist())) if seams.size else None


def _write_error(store: Store, key: str, error: Exception) -> StoreError:
    address = store.address(key)
    return outage(address, error) or StoreError(
        f"cannot write {address} ({error}); check the permissions or point store: elsewhere"
    )


_ZIP_ERRORS = (OSError, ValueError, zipfile.BadZipFile)


class _LineMeans:
    """Arrays of several files of :func:`sum_lines`."""

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        self._paths = paths
        self._open = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> _LineMeans:
        for path in self._paths:
            try:
                archive = self._open.enter_context(np.load(path, allow_pickle=False))
            except _ZIP_ERRORS as error:
                self._open.close()
                raise _unreadable(path, error) from error
            self._where |= dict.fromkeys(archive.files, (path, archive))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def get(self, pair: LinePair, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array by name, checked against the shape that the layout demands."""
        path, archive = self._where.get(name, (None, {name: None}))
        try:
            found = archive[name]
        except _ZIP_ERRORS as error:
            raise _unreadable(path, error) from error
        if found is None or found.shape != shape:
            raise IntensityError(
                f"means of lines of {pair.first} and {pair.second} are missing or of other "
                "positions; run again with -R sum_lines"
            )
        return found


def _unreadable(path: str | os.PathLike, error: Exception) -> IntensityError:
    return IntensityError(
        f"{path}: means of lines cannot be read ({error}); delete the file and run again"
    )


def _solve_slab(
    means: _LineMeans, layout: LineLayout, number: int, system: _Plane
) -> tuple[np.ndarray, np.ndarray]:
    """Gains (tiles, planes, lines) of a slab, and the seams of one of its planes (2, n)."""
    slab = _Slab.of(means, layout, number)
    system = replace(system, spread=_spread(slab.ratio, slab.variance))
    logs = np.zeros((len(slab.ratio), system.matrix.shape[1]), np.float32)
    seams = np.zeros((2, 0), np.float32)
    for k, (ratio, variance) in enumerate(zip(slab.ratio - slab.common, slab.variance)):
        plane = replace(system, weight=1 / variance.astype(np.float64))
        found = plane.gains(ratio)
        logs[k] = plane.doubting(ratio, found).gains(ratio, found)
        if k == slab.middle and ratio.size:
            seams = _held_out(slab, plane)
    np.clip(logs, -_DEEPEST, _DEEPEST, out=logs)
    np.exp(logs, out=logs)
    gains = logs.reshape(len(logs), len(layout.bottoms), -1).swapaxes(0, 1)
    return np.ascontiguousarray(gains), seams


def _held_out(slab: _Slab, plane: _Plane) -> np.ndarray:
    """Log ratios of one half of each line with signal, raw and by the gains of the other half."""
    one, two = slab.halves
    left = two - plane.matrix @ plane.gains(one - slab.common)
    bright = slab.signal[slab.middle] > 0.1 * np.quantile(slab.signal, 0.99)
    return np.stack([two, left])[:, bright].astype(np.float32)


@dataclass(frozen=True)
class _Plane:
    """The system of one plane: ``matrix`` takes log gains to log ratios."""

    matrix: sparse.csr_array
    transposed: sparse.csr_array
    squared: sparse.csr_array  # of the transposed, for the preconditioner
    starts: np.ndarray  # first equation of each pair
    weight: np.ndarray  # of the ratios
    spread: float = 1.0  # of the gains

    @classmethod
    def of(cls, layout: LineLayout) -> _Plane:
        matrix = _differences(layout)
        squared = matrix.multiply(matrix).T.tocsr()
        sizes = [len(pair.lines) for pair in layout.pairs]
        starts = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        return cls(matrix, matrix.T.tocsr(), squared, starts, np.zeros(sum(sizes)))

    def doubting(self, ratio: np.ndarray, gains: np.ndarray) -> _Plane:
        """The same with less weight where a ratio agrees with nothing else."""
        error = np.abs(ratio - self.matrix @ gains) * np.sqrt(self.weight)
        known = error[self.weight > 0]
        scale = 3 * max(1.0, 1.4826 * float(np.median(known)) if known.size else 0.0)
        return replace(self, weight=self.weight / (1 + (error / scale) ** 2))

    def gains(self, ratio: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Log gains by preconditioned conjugate gradients.

        SciPy's own adds with BLAS, whose sums depend on the number of threads.
        """
        scale = 1 / (self.squared @ self.weight + self.spread**-2)
        right = self.transposed @ self._weighted(ratio)
        found = np.zeros_like(right) if start is None else start.astype(np.float64)
        rest = right - self._apply(found)
        step = scaled = scale * rest
        # in the preconditioner's norm dim lines count as much as bright ones
        power, end = _dot(rest, scaled), _TOLERANCE**2 * _dot(right, scale * right)
        for _ in range(_STEPS):
            if power <= end:
                return found
            change = self._apply(step)
            length = power / _dot(step, change)
            found += length * step
            rest = rest - length * change
            scaled = scale * rest
            power, old = _dot(rest, scaled), power
            step = scaled + (power / old) * step
        logger.warning("gains of lines are not settled after %d steps", _STEPS)
        return found

    def _apply(self, gains: np.ndarray) -> np.ndarray:
        return self.transposed @ self._weighted(self.matrix @ gains) + self.spread**-2 * gains

    def _weighted(self, ratio: np.ndarray) -> np.ndarray:
        """Inverse covariance of the ratios times ``ratio``; those of a pair share an error."""
        own = self.weight * ratio
        if not len(self.starts):
            return own
        total = np.add.reduceat(self.weight, self.starts)
        shared = np.add.reduceat(own, self.starts) / (_SHARED**-2 + total)
        return own - self.weight * np.repeat(shared, self._sizes)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.diff(np.append(self.starts, len(self.weight)))


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("i,i->", a, b))


def _differences(layout: LineLayout) -> sparse.csr_array:
    """Matrix that takes the log gains of all lines of all tiles to the ratios of all pairs."""
    number = {name: i * layout.shape[1] for i, name in enumerate(layout.bottoms)}
    rows, columns, values, count = [], [], [], 0
    for pair in layout.pairs:
        n, fraction = len(pair.lines), pair.fraction
        equation = count + np.arange(n)
        below = number[pair.second] + pair.below + np.arange(n)
        parts = [(number[pair.first] + pair.lines.start + np.arange(n), 1.0)]
        parts += [(below, fraction - 1.0)] + [(below + 1, -fraction)] * (fraction > 0)
        for column, value in parts:
            rows.append(equation)
            columns.append(column)
            values.append(np.full(n, value))
        count += n
    shape = (count, len(layout.bottoms) * layout.shape[1])
    if not layout.pairs:
        return sparse.csr_array(shape)
    where = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.concatenate(values), where), shape=shape)


@dataclass(frozen=True)
class _Slab:
    """What the overlaps say about a slab: float32 (planes, equations).

    Attributes
    ----------
    ratio, variance, signal : numpy.ndarray
        Log ratios, their variances (infinite without signal), and the dimmer tile's mean.
    common : numpy.ndarray of float32, (equations,)
        What the ratios of all overlaps on a side have in common.
    middle : int
        A plane, of which ``halves`` (2, equations) are the ratios of either half of the parts.
    """

    ratio: np.ndarray
    variance: np.ndarray
    signal: np.ndarray
    common: np.ndarray
    middle: int
    halves: np.ndarray

    @classmethod
    def of(cls, means: _LineMeans, layout: LineLayout, number: int) -> _Slab:
        heights = layout.slabs[number]
        shape = len(heights), sum(len(pair.lines) for pair in layout.pairs)
        ratio, signal = np.zeros((2, *shape), np.float32)
        variance = np.full(shape, np.inf, np.float32)
        halves, middle = np.zeros((2, shape[1]), np.float32), len(heights) // 2
        start = 0
        for index, pair in enumerate(layout.pairs):
            stop = start + len(pair.lines)
            if planes := _common(pair.planes, heights):
                first, second = (
                    means.get(
                        pair,
                        f"{index}.{role}.{number}",
                        (len(planes), _SECTIONS, len(pair.cut(role)[0])),
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
    """For each equation the median over all overlaps on its side, of their medians by plane."""
    sides = np.repeat([p.side for p in layout.pairs], [len(p.lines) for p in layout.pairs])
    common = np.zeros(ratio.shape[1], np.float32)
    medians: dict[int, list[float]] = {0: [], 1: []}
    start = 0
    for pair in layout.pairs:
        stop = start + len(pair.lines)
        known = variance[:, start:stop] < np.float32(_CERTAIN**2)
        for values, seen in zip(ratio[:, start:stop], known):
            if seen.sum() >= _LEAST_LINES:
                medians[pair.side].append(float(np.median(values[seen])))
        start = stop
    for side, values in medians.items():
        common[sides == side] = np.median(values) if values else 0.0
    return common


def _log_ratios(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log ratios of the parts of lines (planes, parts, lines), and lines that have signal."""
    seen = (np.minimum(first, second) > _LEAST_SIGNAL).all(axis=1)
    a, b = (np.log(np.maximum(means, _LEAST_SIGNAL)) for means in (first, second))
    return a - b, seen


def _variance(logs: np.ndarray, ratio: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Variance of the ratios of lines (planes, lines), from the distances of their parts.

    These are averaged over neighbouring lines with signal: they are large where there is little
    tissue, or where it is not the same. A line whose own parts disagree much more counts by these.
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
    """Standard deviation of log gains in a slab: that of the ratios beyond their errors."""
    known = variance < np.float32(_CERTAIN**2)
    if known.sum() < 32:
        return _LEAST_SPREAD
    excess = np.median(ratio[known] ** 2) / 0.455 - np.median(variance[known])
    spread = math.sqrt(max(0.0, float(excess)) / 2)
    return min(max(spread, _LEAST_SPREAD), _LARGEST_SPREAD)
