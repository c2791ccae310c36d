"""Block statistics of tiles and overlaps, and smooth series and lines over such blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.polynomial import legendre

from terareg.core.errors import IntensityError
from terareg.intensity.sums import SIDES, BlockLayout

_DARK = 0.05  # of what the others show, up to which a tile is blank
_LEAST_BLOCKS = 8  # in which they show tissue
_SURE = 2.0  # standard errors of the noise, below which a step is none
# relative standard error of a variance that is found from the median of n values: this / sqrt(n)
_MEDIAN_ERROR = 2.33


@dataclass(frozen=True)
class Overlap:
    """Block statistics of all overlaps on one side: float32 (pairs, slabs, blocks y, blocks x).

    ``mean``, ``error`` and ``edges`` are given for the first and for the second tile of each pair;
    edges are (pairs, blocks + 1) along y and along x, pixels of that tile.
    """

    first: np.ndarray  # tile indices (pairs,)
    second: np.ndarray
    mean: tuple[np.ndarray, np.ndarray]
    error: tuple[np.ndarray, np.ndarray]
    edges: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    valid: np.ndarray  # bool (pairs, slabs): the same planes were averaged in both tiles

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along y and x."""
        return self.mean[0].shape[2], self.mean[0].shape[3]


@dataclass(frozen=True)
class BlockData:
    """Block statistics as the solver needs them: float32 (tiles, slabs, blocks y, blocks x)."""

    mean: np.ndarray
    error: np.ndarray
    valid: np.ndarray  # bool (tiles, slabs)
    edges: tuple[np.ndarray, np.ndarray]
    overlaps: tuple[Overlap, ...]
    floor_error: float = 1.0  # counts; uncertainty of the level without tissue
    blank: tuple[int, ...] = ()  # tiles without light; their overlaps are not valid

    @classmethod
    def of(cls, stats: Mapping[str, np.ndarray], overlaps: bool = True) -> BlockData:
        """Take the statistics of :func:`terareg.intensity.sums.merge_sums`."""
        valid = stats["planes"] > 0
        if not valid.any():
            raise IntensityError(
                f"none of {len(valid)} tiles has signal (every plane is constant); check the "
                "channel and its exposure"
            )
        edges = stats["edges_y"], stats["edges_x"]
        data = cls(
            stats["mean"], stats["error"], valid, edges, _overlaps(stats) if overlaps else ()
        )
        blank = data._blank()
        if not blank:
            return data
        lit = tuple(
            replace(
                part,
                valid=part.valid
                & ~(np.isin(part.first, blank) | np.isin(part.second, blank))[:, None],
            )
            for part in data.overlaps
        )
        return replace(data, overlaps=lit, blank=blank)

    def _blank(self) -> tuple[int, ...]:
        """Tiles that show nothing where their neighbours show tissue.

        No gain explains them (a shutter that was closed, a file that holds zeros). As one of almost
        0 it would tell the solution that gains differ by any amount.
        """
        dark = self.lowest()
        bright = max(1.0, float(np.quantile(self.mean[self.valid] - dark, 0.99)))
        shares: list[list[np.ndarray]] = [[] for _ in self.mean]
        for overlap in self.overlaps:
            both = [mean - np.float32(dark) for mean in overlap.mean]
            for own, other, tiles in zip(both, both[::-1], (overlap.first, overlap.second)):
                seen = (other > 0.1 * bright) & overlap.valid[..., None, None]
                for tile, mine, theirs, where in zip(tiles.tolist(), own, other, seen):
                    shares[tile].append(mine[where] / theirs[where])
        joined = (np.concatenate(parts or [np.zeros(0)]) for parts in shares)
        return tuple(
            tile
            for tile, share in enumerate(joined)
            if share.size >= _LEAST_BLOCKS
            and np.median(share) < _DARK
            # stray light, which every tile has, may be brighter on one side of a seam
            and np.quantile(self.mean[tile][self.valid[tile]] - dark, 0.99) < _DARK * bright
        )

    def less(self, image: np.ndarray, floor_error: float) -> BlockData:
        """The data minus an additive image (y, x), which is known to ``floor_error`` counts."""
        whole = block_means(image, *(edges[None] for edges in self.edges)).astype(np.float32)
        overlaps = tuple(
            replace(
                overlap,
                mean=tuple(
                    mean - block_means(image, *edges)[:, None].astype(np.float32)
                    for mean, edges in zip(overlap.mean, overlap.edges)
                ),
            )
            for overlap in self.overlaps
        )
        return replace(
            self, mean=self.mean - whole, overlaps=overlaps, floor_error=max(1.0, floor_error)
        )

    def lowest(self) -> float:
        """Level of the darkest blocks, the dark offset if nothing better is known."""
        return float(max(0.0, np.quantile(self.mean[self.valid], 0.002)))

    def check_signal(self, background: float) -> None:
        """Raise where no block is brighter than the background by more than its noise."""
        signal = self.mean[self.valid] - background
        if np.mean(signal > 10 * self.error[self.valid]) < 1e-3:
            raise IntensityError(
                f"none of {len(self.mean)} tiles has signal above the background of "
                f"{background:.4g} counts; check the channel and its exposure, or lower "
                "intensity.flatfield.background"
            )

    def tissue_fraction(self, background: float) -> float:
        """Fraction of the blocks that are brighter than a tenth of the brightest."""
        return float(self._tissue(background)[self.valid].mean())

    def tissue_by_tile(self, background: float) -> list[float]:
        """The same of every tile; 0 for one without valid planes."""
        tissue = self._tissue(background)
        return [
            float(blocks[seen].mean()) if seen.any() else 0.0
            for blocks, seen in zip(tissue, self.valid)
        ]

    def _tissue(self, background: float) -> np.ndarray:
        signal = self.mean - background
        found: np.ndarray = signal > 0.1 * np.quantile(signal[self.valid], 0.99)
        return found


def _overlaps(stats: Mapping[str, np.ndarray]) -> tuple[Overlap, ...]:
    """Overlaps of which both tiles are in the statistics, one entry per side."""
    size = int(stats["edges_y"][-1]), int(stats["edges_x"][-1])
    layout = BlockLayout(stats["places"], size, int(stats["blocks"]))
    index = {tuple(cell): i for i, cell in enumerate(stats["grid"].tolist())}
    known: dict[Any, int] = {k: index[cell] for cell, k in layout.cells.items() if cell in index}
    found = []
    for side in SIDES:
        pairs = [p for p in layout.pairs(side) if p[0] in known and p[1] in known]
        if not pairs:
            continue
        first, second = (np.array([known[pair[role]] for pair in pairs]) for role in (0, 1))
        mean, error = (
            (stats[f"{side}_{key}"][first, 0], stats[f"{side}_{key}"][second, 1])
            for key in ("mean", "error")
        )
        edges: Any = tuple(
            tuple(np.stack([pair[2][role][axis] for pair in pairs]) for axis in (0, 1))
            for role in (0, 1)
        )
        planes = stats["planes"][first], stats["planes"][second]
        valid = (planes[0] == planes[1]) & (planes[0] > 0)
        found.append(Overlap(first, second, mean, error, edges, valid))
    return tuple(found)


@dataclass(frozen=True)
class Basis:
    """Products of Legendre polynomials on the tile, total degree 1 to ``degree`` (no constant)."""

    edges: tuple[np.ndarray, np.ndarray]
    degree: int

    @cached_property
    def orders(self) -> list[tuple[int, int]]:
        top = self.degree + 1
        return [(a, b) for a in range(top) for b in range(top - a) if a + b]

    @cached_property
    def axes(self) -> list[np.ndarray]:
        """Polynomials at the pixels, one (degree + 1, pixels) per axis."""
        sizes = [int(edges[-1]) for edges in self.edges]
        grids = [(2 * np.arange(n) + 1) / n - 1 for n in sizes]
        return [legendre.legvander(grid, self.degree).T for grid in grids]

    @cached_property
    def blocks(self) -> np.ndarray:
        """Means over the blocks of a whole tile, float64 (terms, blocks y, blocks x)."""
        return self.over(tuple(edges[None] for edges in self.edges))[:, 0]

    def over(self, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Block means between edges (pairs, blocks + 1): float64 (terms, pairs, blocks y, x)."""
        y, x = (interval_means(values, e) for values, e in zip(self.axes, edges))
        return np.stack([y[a][:, :, None] * x[b][:, None, :] for a, b in self.orders])

    def line_variance(self, power: Sequence[float]) -> np.ndarray:
        """Variance that line patterns with a white spectrum add to each coefficient.

        ``power`` is the mean square of a line pattern, y and x, per cosine coefficient.
        """
        return np.array(
            [
                power[0] * (2 * a + 1) if b == 0 and a > 2 else
                power[1] * (2 * b + 1) if a == 0 and b > 2 else 0.0
                for a, b in self.orders
            ]
        )  # fmt: skip

    def pixels(self, coefficients: np.ndarray) -> np.ndarray:
        """The series at every pixel, float64 (y, x)."""
        matrix = np.zeros((self.degree + 1, self.degree + 1))
        for value, (a, b) in zip(coefficients.tolist(), self.orders):
            matrix[a, b] = value
        y, x = self.axes
        return np.einsum("ay,ax->yx", y, np.einsum("ab,bx->ax", matrix, x))


def interval_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of the last axis of ``values`` between edges (pairs, n + 1): (..., pairs, n)."""
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], axis=-1)
    return np.diff(total[..., edges], axis=-1) / np.diff(edges, axis=-1)


@dataclass(frozen=True)
class LinePatterns:
    """Log line patterns: one value per pixel along y, and along x."""

    y: np.ndarray
    x: np.ndarray

    def over(self, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Block means between edges (pairs, blocks + 1): float64 (pairs, blocks y, blocks x)."""
        y, x = interval_means(self.y, edges[0]), interval_means(self.x, edges[1])
        return y[:, :, None] + x[:, None, :]

    def pixels(self) -> np.ndarray:
        return self.y[:, None] + self.x[None, :]


def seam_percent(
    data: BlockData, background: float, profile: np.ndarray, gains: np.ndarray | None = None
) -> dict[str, float] | None:
    """Median contrast of tissue in overlaps, percent of one tile, before and after correction.

    Overlaps are those at the positions for which the statistics were gathered, so misplaced tiles
    leave a contrast that no profile can remove.

    Parameters
    ----------
    data : BlockData
    background : float
        Counts.
    profile : numpy.ndarray, shape (y, x)
    gains : numpy.ndarray, shape (tiles, slabs), optional
        Gains that are corrected as well.

    Returns
    -------
    dict or None
        ``before``, ``after``; ``noise``: what of the latter is independent from block to block, and
        ``beyond`` that noise. None without overlaps that hold tissue.
    """
    raw, corrected, noise = [], [], []
    tissue = max(0.0, 0.1 * float(np.quantile(data.mean[data.valid] - background, 0.99)))
    for overlap in data.overlaps:
        x, y = (mean - background for mean in overlap.mean)
        seen = (np.minimum(x, y) > tissue) & overlap.valid[..., None, None]
        ratio = np.log(np.where(seen, x, 1)) - np.log(np.where(seen, y, 1))
        raw.append(ratio[seen])
        shading = [np.log(block_means(profile, *edges)) for edges in overlap.edges]
        ratio = ratio - (shading[0] - shading[1])[:, None]
        if gains is not None:
            gain = np.log(gains[overlap.first]) - np.log(gains[overlap.second])
            ratio = ratio - gain[..., None, None]
        corrected.append(ratio[seen])
        # what blocks of a row share, or of a column, or what changes evenly, is not in these
        four = np.diff(np.diff(np.where(seen, ratio, np.nan), axis=2), axis=3) / 2
        noise.append(four[np.isfinite(four)])
    if not sum(part.size for part in raw):
        return None
    before, after, alone = (np.concatenate(part) for part in (raw, corrected, noise))
    return {"before": median_percent(before)} | beyond_noise(after, alone)


def median_percent(ratios: np.ndarray) -> float:
    """Median absolute value of log ratios of two tiles, percent of one; 0 of none."""
    return 100 * float(np.median(np.abs(ratios))) / np.sqrt(2).item() if ratios.size else 0.0


def beyond_noise(ratios: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """How far log ratios of two tiles are beyond their noise, percent of one tile.

    Parameters
    ----------
    ratios : numpy.ndarray of shape (n,)
    noise : numpy.ndarray of shape (m,)
        Values that are distributed as the noise of ``ratios``.

    Returns
    -------
    dict
        See :func:`step_beyond`.
    """
    return step_beyond(median_percent(ratios), median_percent(noise), (len(ratios), len(noise)))


def step_beyond(after: float, noise: float, counts: Sequence[int]) -> dict[str, float]:
    """A step, its noise, and ``beyond``: the root of the difference of their squares.

    That is 0 where the difference is less than two standard errors; ``counts`` are the numbers of
    values of which the two are medians.
    """
    error = _MEDIAN_ERROR * sum(1 / max(count, 1) for count in counts) ** 0.5
    left = after**2 - noise**2
    beyond = left**0.5 if left > _SURE * error * noise**2 else 0.0
    return {"after": after, "noise": noise, "beyond": beyond}


def block_means(image: np.ndarray, edges_y: np.ndarray, edges_x: np.ndarray) -> np.ndarray:
    """Means of an image (y, x) over blocks of each pair: (pairs, blocks y, blocks x)."""
    total = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    total[1:, 1:] = image.cumsum(0, dtype=np.float64).cumsum(1)
    corners = total[edges_y[:, :, None], edges_x[:, None, :]]
    area = np.diff(edges_y)[:, :, None] * np.diff(edges_x)[:, None, :]
    return np.diff(np.diff(corners, axis=1), axis=2) / area
