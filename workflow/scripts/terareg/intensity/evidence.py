"""Why neighbouring tiles differ where they overlap, and which of the causes are corrected.

After correction by profile and dark offset, the log ratio of two tiles in their overlap consists of
the gains of the tiles, their change with depth, and stripe artefacts. Gains are accepted if they
explain the pairs better than the same number of random values would. With more than T - 1 overlaps
between T tiles this can be tested, because gains cancel around any loop of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse, special
from scipy.sparse import csgraph

from terareg.intensity.blocks import BlockData, block_means, median_percent
from terareg.intensity.equations import Fit, ShadingProblem

_LEAST_BLOCKS = 4  # of tissue in a pair and slab
_LEAST_LINES = 32  # pairs of lines needed to look for stripes
_LEAST_PERCENT = 0.5  # of a tile: smaller differences are left as they are
_LEAST_SHADOW = 0.75  # percent of a tile
_EXPLAINED = 0.5  # correlation of the two halves of lines, above which there are stripes
_LEAST_SHARE = 0.25  # of the squared differences that gains must explain, beyond chance
_CHANCE = 1e-3  # probability that random values are explained as well


@dataclass(frozen=True)
class Evidence:
    """Causes of brightness steps, each the median over overlaps in percent of one tile.

    Attributes
    ----------
    gain, depth : float
        Gains of tiles, and their change with depth.
    rows, columns : float
        Stripes of single lines of blocks along x, or along y.
    additive : float
        Additive image, beyond a constant and a multiple of the profile.
    unexplained : float
        Difference that remains after gains, depth and lines.
    gains : bool or "depth"
        Whether the overlaps show gains, or gains that change with depth, clearly enough to correct
        them.
    stripes : str
        "rows", "columns" or "none": the stripes that the overlaps show clearly enough.
    """

    gain: float
    depth: float
    rows: float
    columns: float
    additive: float
    unexplained: float
    gains: bool | str
    stripes: str

    @property
    def percent(self) -> dict[str, float]:
        """The figures, keyed by the name of the cause in reports."""
        return {
            "gain of tiles": self.gain,
            "gain with depth": self.depth,
            "additive image": self.additive,
            "stripes of lines": max(self.rows, self.columns),
            "unexplained": self.unexplained,
        }


@dataclass(frozen=True)
class _Side:
    """Log ratios in the overlaps on one side, after the profile; NaN without tissue."""

    first: np.ndarray
    second: np.ndarray
    ratio: np.ndarray  # (pairs, slabs, blocks y, blocks x)
    added: np.ndarray  # change of the ratios by an additive image, where there is tissue

    def less(self, gains: np.ndarray) -> np.ndarray:
        """Ratios after correction by log gains (tiles, slabs)."""
        return self.ratio - (gains[self.first] - gains[self.second])[..., None, None]

    def medians(self) -> np.ndarray:
        """Median of each pair and slab; NaN where there is too little tissue."""
        flat = self.ratio.reshape(*self.ratio.shape[:2], -1)
        enough = np.isfinite(flat).sum(2) >= _LEAST_BLOCKS
        found = np.full(enough.shape, np.nan)
        found[enough] = np.nanmedian(flat[enough], axis=1)
        return found


def gather_evidence(
    problem: ShadingProblem, fit: Fit, rest: np.ndarray | None = None
) -> Evidence | None:
    """Find the causes of differences between tiles; None without overlaps that hold tissue.

    Parameters
    ----------
    problem : ShadingProblem
    fit : Fit
        Its solution.
    rest : numpy.ndarray, shape (y, x), optional
        Additive image, counts, where it is known.
    """
    sides = _sides(problem, fit, rest)
    if not sides:
        return None
    medians = np.concatenate([side.medians() for side in sides])
    first, second = (
        np.concatenate([getattr(side, name) for side in sides]) for name in ("first", "second")
    )
    of_pair = np.full((len(medians), 1), np.nan)
    some = np.isfinite(medians).any(1)
    of_pair[some, 0] = np.nanmedian(medians[some], axis=1)
    tiles = len(fit.gains)
    distance = [np.abs(side.ratio - side.medians()[..., None, None]).ravel() for side in sides]
    scatter = float(np.nanmedian(np.concatenate(distance)))
    counts = np.concatenate([np.isfinite(s.ratio).sum((2, 3)) for s in sides]).astype(np.float64)
    pairs = first, second
    tile_gains, tiles_share = _explain(of_pair, counts.sum(1, keepdims=True), pairs, tiles, scatter)
    slab_gains, slabs_share = _explain(medians - of_pair, counts, pairs, tiles, scatter)
    sizes = [len(side.first) for side in sides]
    gain, depth = (
        share**0.5 * _typical(gains[first] - gains[second], np.isfinite(medians), sizes)
        for gains, share in (
            (np.broadcast_to(tile_gains, slab_gains.shape), tiles_share),
            (slab_gains, slabs_share),
        )
    )
    left = [side.less(tile_gains + slab_gains) for side in sides]
    lines_axis = {"rows": -1, "columns": -2}
    lines = {name: _lines(left, axis) for name, axis in lines_axis.items()}
    most = max(lines, key=lambda name: lines[name][0])
    shaded = lines[most][0] > _LEAST_SHADOW and lines[most][1] > _EXPLAINED
    believed = (tile_gains if gain else 0 * tile_gains) + (slab_gains if depth else 0 * slab_gains)
    rests = [side.less(believed) for side in sides]
    if shaded:
        rests = [_less_lines(part, lines_axis[most]) for part in rests]
    unexplained = median_percent(np.concatenate([part[np.isfinite(part)] for part in rests]))
    # misplaced tiles show different tissue and differ by any amount
    least = max(_LEAST_PERCENT, 0.5 * unexplained)
    return Evidence(
        gain=gain,
        depth=depth,
        rows=lines["rows"][0],
        columns=lines["columns"][0],
        additive=median_percent(np.concatenate([side.added for side in sides])),
        unexplained=unexplained,
        gains="depth" if depth > least else gain > least,
        stripes=most if shaded else "none",
    )


def _typical(differences: np.ndarray, seen: np.ndarray, sizes: list[int]) -> float:
    """Median of differences (pairs, slabs) where they are seen, percent, on the side with more.

    Tiles that differ from row to row alone do so in half of the overlaps at most, and the median
    over all would be that of the noise. ``sizes`` are the pairs of each side.
    """
    cuts = np.cumsum(sizes)[:-1]
    parts = zip(np.split(differences, cuts), np.split(seen, cuts))
    return max(median_percent(part[there]) for part, there in parts)


def _sides(problem: ShadingProblem, fit: Fit, rest: np.ndarray | None) -> list[_Side]:
    """Log ratios of tissue in the overlaps, and how an additive image changes them."""
    data: BlockData = problem.data
    dark = fit.background
    tissue = max(0.0, 0.1 * float(np.quantile(data.mean[data.valid] - dark, 0.99)))
    found = []
    for index, overlap in enumerate(data.overlaps):
        a, b = (mean.astype(np.float64) - dark for mean in overlap.mean)
        seen = (np.minimum(a, b) > tissue) & overlap.valid[..., None, None]
        if not seen.any():
            continue
        plain = Fit(fit.coefficients, np.zeros_like(fit.gains), dark)
        ratio = np.log(np.where(seen, a, 1)) - np.log(np.where(seen, b, 1))
        ratio -= problem.ratio(plain, index)
        ratio = np.where(seen, ratio, np.nan)
        added = np.zeros(0)
        if rest is not None:
            one, two = (block_means(rest, *edges)[:, None] for edges in overlap.edges)
            added = (one / np.where(seen, a, np.nan) - two / np.where(seen, b, np.nan))[seen]
        found.append(_Side(overlap.first, overlap.second, ratio, added))
    return found


def _explain(
    parts: np.ndarray,
    counts: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    tiles: int,
    scatter: float,
) -> tuple[np.ndarray, float]:
    """Gains (tiles, slabs) from differences of pairs (pairs, slabs), and the share they explain.

    Pairs are weighted by their number of blocks with tissue, ``counts`` (pairs, slabs).

    The share is that of the squared differences beyond what the same number of gains explains of
    random values (adjusted R squared), 0 where it may be chance (F test). Without loops, gains
    explain any differences: there pairs must differ by more than their blocks do, ``scatter``.
    """
    first, second = pairs
    gains = np.zeros((tiles, parts.shape[1]))
    squares, left, number, used = 0.0, 0.0, 0, 0
    for slab, values in enumerate(parts.T):
        seen = np.isfinite(values)
        count = int(seen.sum())
        if not count:
            continue
        rows = np.repeat(np.arange(count), 2)
        columns = np.stack([first[seen], second[seen]], axis=1).ravel()
        signs = np.tile([1.0, -1.0], count)
        matrix = sparse.csr_array((signs, (rows, columns)), shape=(count, tiles)).toarray()
        weight = counts[seen, slab] / counts[seen, slab].mean()
        link = np.einsum("pi,p,pj->ij", matrix, weight, matrix)
        groups = csgraph.connected_components(sparse.csr_array(link))[0]
        right = np.einsum("pi,p,p->i", matrix, weight, values[seen])
        gains[:, slab] = np.linalg.solve(link + 1e-3 * np.eye(tiles), right)
        rest = values[seen] - np.einsum("pi,i->p", matrix, gains[:, slab])
        squares += float(np.sum(weight * values[seen] ** 2))
        left += float(np.sum(weight * rest**2))
        number, used = number + count, used + tiles - groups
    if squares == 0:
        return gains, 0.0
    if number <= used:
        return gains, float(squares / number > (2 * scatter) ** 2)
    noise = left / (number - used)
    share = 1 - noise / (squares / number)
    chance = special.fdtrc(used, number - used, (squares - left) / used / max(noise, 1e-12))
    return gains, float(share) if share > _LEAST_SHARE and chance < _CHANCE else 0.0


def _lines(sides: list[np.ndarray], axis: int) -> tuple[float, float]:
    """Strength of stripes along ``axis``, percent of one tile, and correlation of half lines.

    A stripe runs along the whole line and not into the next one. Both halves of a line therefore
    differ from the next line by the same amount: the covariance of the halves is the variance of
    stripes, and their correlation tells how much of the difference stripes explain.
    """
    both, apart = [], []
    for part in sides:
        lines = np.moveaxis(part, axis, -1)
        half = lines.shape[-1] // 2
        if not half or lines.shape[-2] < 2:
            continue
        one, two = (np.diff(_means(lines[..., cut])) for cut in (slice(half), slice(-half, None)))
        seen = np.isfinite(one) & np.isfinite(two)
        both.append((one + two)[seen])
        apart.append((one - two)[seen])
    if sum(part.size for part in both) < _LEAST_LINES:
        return 0.0, 0.0
    plus, minus = (np.median(np.abs(np.concatenate(p))) ** 2 / 0.455 for p in (both, apart))
    covariance = max(0.0, float(plus - minus) / 4)
    # the difference is that of two lines in two tiles
    return 50 * covariance**0.5, float((plus - minus) / max(plus + minus, 1e-30))


def _less_lines(ratio: np.ndarray, axis: int) -> np.ndarray:
    """Ratios minus the means of lines, scaled up to make good the degree of freedom these take."""
    lines = np.moveaxis(ratio, axis, -1)
    size = lines.shape[-1]
    return (lines - _means(lines)[..., None]) * np.sqrt(size / max(size - 1, 1))


def _means(lines: np.ndarray) -> np.ndarray:
    """Means along the last axis; NaN where half of the blocks or more have no tissue."""
    seen = np.isfinite(lines)
    count = seen.sum(-1)
    total = np.where(seen, lines, 0.0).sum(-1)
    return np.where(2 * count > lines.shape[-1], total / np.maximum(count, 1), np.nan)
