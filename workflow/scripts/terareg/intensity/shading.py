"""The estimate behind :mod:`terareg.intensity.flatfield`: profile, gains and dark offset.

Unknown are the coefficients c of ``log profile = P c`` (Legendre products P on the tile) and a log
gain of each tile and slab. Each equation is the difference of two log block means: of the same
tile, ``y = (P(u) - P(v)) c + tissue``, or of two tiles in their overlap,
``y = (P(u) - P(v)) c + gain_a - gain_b + noise``. They are solved by iteratively reweighted least
squares; the precision of the roughness prior and the spread of the gains are re-estimated on the
way (empirical Bayes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.polynomial import legendre
from scipy.fft import dct, idct
from scipy.optimize import minimize_scalar

from terareg.errors import IntensityError
from terareg.intensity.sums import SIDES, Layout, line_sections

_LAGS = (1, 2, 4)  # blocks between the two pixels of a difference within a tile
_LINE_LAGS = (1, 2, 4, 8)  # pixels
# differences within a tile are not independent of each other: this is what one of them counts
_TISSUE_WEIGHT = 0.02
_CERTAIN = 0.01  # variance of a logarithm up to which it tells about the scatter of others
_LEAST_LINE = 0.05  # standard error of a line's mean from which on it tells about shadows
_DEEPEST_SHADOW = 0.3  # standard deviation of logarithms
_FLOOR = 0.004  # relative error that no block mean falls below
_DARK_ERROR = 1.0  # counts; how well the dark offset can be known


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
    valid: np.ndarray  # bool (pairs, slabs): both averaged the same planes


@dataclass(frozen=True)
class BlockData:
    """Block statistics as the solver wants them: float32 (tiles, slabs, blocks y, blocks x)."""

    mean: np.ndarray
    error: np.ndarray
    valid: np.ndarray  # bool (tiles, slabs)
    edges: tuple[np.ndarray, np.ndarray]
    overlaps: tuple[Overlap, ...]

    @classmethod
    def of(cls, stats: Mapping[str, np.ndarray], overlaps: bool = True) -> BlockData:
        """Take the statistics of :func:`terareg.intensity.sums.merge_sums`."""
        valid = stats["planes"] > 0
        if not valid.any():
            raise IntensityError(
                f"none of {len(valid)} tiles holds signal (every plane is constant); check the "
                "channel and its exposure"
            )
        edges = stats["edges_y"], stats["edges_x"]
        found = _overlaps(stats) if overlaps else ()
        return cls(stats["mean"], stats["error"], valid, edges, found)

    def lowest(self) -> float:
        """Level of the darkest blocks, the fallback for the dark offset."""
        return float(max(0.0, np.quantile(self.mean[self.valid], 0.002)))

    def check_signal(self, background: float) -> None:
        """Raise where no block is brighter than the background by more than its noise."""
        signal = self.mean[self.valid] - background
        if np.mean(signal > 10 * self.error[self.valid]) < 1e-3:
            raise IntensityError(
                f"none of {len(self.mean)} tiles holds signal above the background of "
                f"{background:.4g} counts; check the channel and its exposure, or set a smaller "
                "background"
            )

    def tissue_fraction(self, background: float) -> float:
        """Part of the blocks brighter than a tenth of the brightest."""
        signal = self.mean[self.valid] - background
        return float(np.mean(signal > 0.1 * np.quantile(signal, 0.99)))


def _overlaps(stats: Mapping[str, np.ndarray]) -> tuple[Overlap, ...]:
    """Overlaps of tiles that are both in the statistics, one entry per side."""
    size = int(stats["edges_y"][-1]), int(stats["edges_x"][-1])
    layout = Layout(stats["places"], size, int(stats["blocks"]))
    index = {tuple(cell): i for i, cell in enumerate(stats["grid"].tolist())}
    known = {k: index[cell] for cell, k in layout.cells.items() if cell in index}
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
        edges = tuple(
            tuple(np.stack([pair[2][role][axis] for pair in pairs]) for axis in (0, 1))
            for role in (0, 1)
        )
        planes = stats["planes"][first], stats["planes"][second]
        valid = (planes[0] == planes[1]) & (planes[0] > 0)
        found.append(Overlap(first, second, mean, error, edges, valid))
    return tuple(found)


@dataclass(frozen=True)
class Basis:
    """Legendre products of total degree 1 to ``degree`` on the tile, without the constant."""

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
        """Variance that lines of white spectrum add to each coefficient.

        ``power`` is the mean square of a line, y and x, per cosine coefficient.
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
class _Lines:
    """Log line patterns: one value per pixel along y, and along x."""

    y: np.ndarray
    x: np.ndarray

    def over(self, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Block means between edges (pairs, blocks + 1): float64 (pairs, blocks y, blocks x)."""
        y, x = interval_means(self.y, edges[0]), interval_means(self.x, edges[1])
        return y[:, :, None] + x[:, None, :]

    def pixels(self) -> np.ndarray:
        return self.y[:, None] + self.x[None, :]


@dataclass(frozen=True)
class _Shadows:
    """Log shadows in one overlap: what all blocks of a line share, beyond profile and gains.

    Dirt and bubbles in the sheet's way shade whole lines of a tile, others in every plane. The
    blocks of a line are therefore not independent of each other, and are weighted together.
    """

    axis: int  # 2: rows are shaded, 3: columns
    values: np.ndarray  # (pairs, slabs, lines)
    spread: float  # their standard deviation

    def of_blocks(self) -> np.ndarray:
        """Broadcastable to (pairs, slabs, rows, columns)."""
        return np.expand_dims(self.values, 3 if self.axis == 2 else 2)


@dataclass(frozen=True)
class _Fit:
    """Log profile as coefficients, log gains (tiles, slabs), and the variances found for both."""

    coefficients: np.ndarray
    gains: np.ndarray
    roughness: float = 1.0  # prior precision of a coefficient is roughness * degree ** 6
    tile_spread: float = 0.02  # standard deviation of log gains: of tiles,
    slab_spread: float = 0.02  # and of the slabs of a tile around it
    shadows: tuple[_Shadows, ...] = ()  # of the overlaps, in their order


@dataclass(frozen=True)
class _Equations:
    """Differences of log intensity: ``value = basis @ coefficients (+ gain first - gain second)``.

    ``value`` and ``variance`` are float32 (a, slabs, blocks), ``basis`` is (terms, b, blocks). Of
    equations within tiles a is tiles and b is 1, of those in overlaps both are pairs.
    """

    value: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    overlap: Overlap | None
    index: int = 0  # of the overlap

    def of_all(self, weights: np.ndarray) -> np.ndarray:
        """Sum of weights (a, slabs, blocks) over all that shares a column of the basis."""
        axes = 1 if self.overlap is not None else (0, 1)
        return weights.sum(axes, dtype=np.float64).ravel()


def _logarithm(
    mean: np.ndarray, error: np.ndarray, valid: np.ndarray, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """Log of the signal and its variance, infinite where there is none; float32."""
    signal = mean - np.float32(background)
    usable = (signal > 3 * error) & valid[..., None, None]
    signal = np.where(usable, signal, np.float32(1))
    variance = (error**2 + np.float32(_DARK_ERROR**2)) / signal**2
    return np.log(signal), np.where(usable, variance, np.float32(np.inf))


def _equations(data: BlockData, basis: Basis, background: float, lines: _Lines) -> list[_Equations]:
    log, error = _logarithm(data.mean, data.error, data.valid, background)
    log -= lines.over(tuple(edges[None] for edges in data.edges))[0].astype(np.float32)
    found = []
    everything = slice(None)
    for lag in _LAGS:
        for axis in (0, 1):
            if lag >= log.shape[axis + 2]:
                continue
            a, b = [everything, everything], [everything, everything]
            a[axis], b[axis] = slice(lag, None), slice(None, -lag)
            one, two = (..., *a), (..., *b)
            change = (basis.blocks[one] - basis.blocks[two])[:, None]
            found.append(_flat(log[one] - log[two], error[one] + error[two], change, None))
    for index, overlap in enumerate(data.overlaps):
        sides = [
            _logarithm(mean, error, overlap.valid, background)
            for mean, error in zip(overlap.mean, overlap.error)
        ]
        (log_a, error_a), (log_b, error_b) = sides
        smooth, fixed = (
            part.over(overlap.edges[0]) - part.over(overlap.edges[1]) for part in (basis, lines)
        )
        value = log_a - log_b - fixed[:, None].astype(np.float32)
        part = _flat(value, error_a + error_b, smooth, overlap)
        found.append(replace(part, index=index))
    return found


def _flat(
    value: np.ndarray, variance: np.ndarray, basis: np.ndarray, overlap: Overlap | None
) -> _Equations:
    value, variance, basis = (
        part.reshape(*part.shape[:2], -1) for part in (value, variance, basis)
    )
    return _Equations(value, variance + np.float32(_FLOOR**2), basis, overlap)


def _solve(
    data: BlockData,
    basis: Basis,
    equations: list[_Equations],
    start: _Fit | None = None,
    line_power: Sequence[float] = (0.0, 0.0),
) -> _Fit:
    """Reweighted least squares, from wide to narrow weights unless ``start`` is given.

    A start also keeps its priors, so that fits of different dark offsets can be compared.
    """
    fit = start or _Fit(np.zeros(len(basis.orders)), np.zeros(data.valid.shape))
    for step in range(6 if start else 30):
        blur = 0.0 if start else 0.3 * 0.5**step
        normal = _normal_equations(data, basis, equations, fit, blur)
        old, fit = fit, _step(basis, normal, fit, line_power, adapt=step >= 2 and not start)
        if step >= 2 or start:
            fit = replace(fit, shadows=_find_shadows(equations, fit, adapt=not start))
        change = np.tensordot(fit.coefficients - old.coefficients, basis.blocks, 1)
        if np.abs(change).max() < 2e-4 and (start or step >= 10):
            break
    return fit


@dataclass(frozen=True)
class _Normal:
    """Weighted sums over all equations.

    ``shape`` (terms, terms) and ``shape_right`` (terms,) belong to the coefficients alone;
    ``links`` (slabs, tiles, terms + tiles) and ``links_right`` (slabs, tiles) are the rows of the
    gains, which couple to the coefficients and to other tiles of the same slab.
    """

    shape: np.ndarray
    shape_right: np.ndarray
    links: np.ndarray
    links_right: np.ndarray


def _normal_equations(
    data: BlockData, basis: Basis, equations: list[_Equations], fit: _Fit, blur: float
) -> _Normal:
    terms = len(basis.orders)
    tiles, slabs = data.valid.shape
    normal = _Normal(
        np.zeros((terms, terms)), np.zeros(terms),
        np.zeros((slabs, tiles, terms + tiles)), np.zeros((slabs, tiles)),
    )  # fmt: skip
    for part in equations:
        weight = _weights(part, fit, blur)
        weighted = weight * part.value
        columns = part.basis.reshape(terms, -1)
        normal.shape[:] += (columns * part.of_all(weight)) @ columns.T
        normal.shape_right[:] += columns @ part.of_all(weighted)
        if part.overlap is None:
            continue
        against = np.einsum("psk,ipk->psi", weight.astype(np.float64), part.basis)
        sums = weight.sum(2, dtype=np.float64)
        values = weighted.sum(2, dtype=np.float64)
        if fit.shadows:
            _leave_to_shadows(part, weight, fit, normal, (against, sums, values))
        pairs = zip(part.overlap.first.tolist(), part.overlap.second.tolist())
        for pair, (i, j) in enumerate(pairs):
            normal.links[:, i, :terms] += against[pair]
            normal.links[:, j, :terms] -= against[pair]
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                normal.links[:, a, terms + b] += sign * sums[pair]
            normal.links_right[:, i] += values[pair]
            normal.links_right[:, j] -= values[pair]
    return normal


def _by_lines(part: _Equations, values: np.ndarray, axis: int) -> np.ndarray:
    """Sums over the lines along ``axis`` of (..., blocks): (..., lines), float64."""
    rows, columns = (e.shape[1] - 1 for e in part.overlap.edges[0])
    return values.reshape(*values.shape[:-1], rows, columns).sum(
        -1 if axis == 2 else -2, dtype=np.float64
    )


def _leave_to_shadows(
    part: _Equations,
    weight: np.ndarray,
    fit: _Fit,
    normal: _Normal,
    sums: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Take from the normal equations what a shadow of each line can explain (Schur complement)."""
    shadows = fit.shadows[part.index]
    against, total, values = sums
    for slab in range(weight.shape[1]):
        w = weight[:, slab].astype(np.float64)
        of_line = _by_lines(part, w, shadows.axis)  # (pairs, lines)
        share = 1 / (shadows.spread**-2 + of_line)
        shape = _by_lines(part, w * part.basis, shadows.axis)  # (terms, pairs, lines)
        right = _by_lines(part, w * part.value[:, slab], shadows.axis)
        flat = shape.reshape(len(shape), -1)
        normal.shape[:] -= (flat * share.ravel()) @ flat.T
        normal.shape_right[:] -= flat @ (share * right).ravel()
        against[:, slab] -= np.einsum("ipl,pl->pi", shape, share * of_line)
        total[:, slab] -= (share * of_line**2).sum(1)
        values[:, slab] -= (share * of_line * right).sum(1)


def _find_shadows(equations: list[_Equations], fit: _Fit, adapt: bool) -> tuple[_Shadows, ...]:
    """Shadows of the overlaps by the residuals of a fit; axis and spread too where ``adapt``."""
    parts = [part for part in equations if part.overlap is not None]
    if adapt:
        spread, axis = max((_line_spread(parts, fit, axis), axis) for axis in (3, 2))
    else:
        spread, axis = (fit.shadows[0].spread, fit.shadows[0].axis) if fit.shadows else (0.0, 2)
    if spread == 0:
        return ()
    found = []
    for part in parts:
        weight = _weights(part, fit, 0.0)
        total = _by_lines(part, weight, axis)
        values = _by_lines(part, weight * _residual(part, fit), axis) / (spread**-2 + total)
        found.append(_Shadows(axis, values, spread))
    return tuple(found)


def _line_spread(parts: list[_Equations], fit: _Fit, axis: int) -> float:
    """Standard deviation of what the blocks of a line along ``axis`` share, robust.

    It is the spread of the lines' means less that which the scatter within lines explains.
    """
    squares, expected = [], []
    for part in parts:
        residual = _residual(part, fit)
        weight = np.where(part.variance < _CERTAIN, 1 / part.variance, np.float32(0))
        count = _by_lines(part, (weight > 0).astype(np.float32), axis)
        total = np.maximum(_by_lines(part, weight, axis), 1e-9)
        mean = _by_lines(part, weight * residual, axis) / total
        within = _blocks_less_lines(part, residual, mean, axis) ** 2 * weight
        seen = (count >= 3) & (total > _LEAST_LINE**-2)
        if seen.sum() < 32:
            continue
        freedom = float(np.median(count[seen]))
        scale = float(np.median(within[within > 0])) / 0.455 * freedom / (freedom - 1)
        squares.append(mean[seen] ** 2)
        expected.append(max(1.0, scale) / total[seen])
    if not squares:
        return 0.0
    excess = np.median(np.concatenate(squares)) / 0.455 - np.median(np.concatenate(expected))
    return math.sqrt(min(max(0.0, float(excess)), _DEEPEST_SHADOW**2))


def _blocks_less_lines(
    part: _Equations, values: np.ndarray, lines: np.ndarray, axis: int
) -> np.ndarray:
    """Values (pairs, slabs, blocks) less what is given for the line of each block."""
    rows, columns = (e.shape[1] - 1 for e in part.overlap.edges[0])
    grid = values.reshape(*values.shape[:2], rows, columns)
    shared = _Shadows(axis, lines, 0.0).of_blocks().astype(np.float32)
    return (grid - shared).reshape(values.shape)


def _step(
    basis: Basis, normal: _Normal, fit: _Fit, line_power: Sequence[float], adapt: bool
) -> _Fit:
    """Solve the normal equations under the priors of ``fit``, and adapt these to the solution.

    The gain of a slab is the gain of its tile plus a deviation. Deviations are eliminated slab by
    slab; coefficients and gains of tiles are solved together.
    """
    terms, tiles = len(basis.orders), normal.links.shape[1]
    penalty = np.array([float(a + b) ** 6 for a, b in basis.orders])
    lined = basis.line_variance(line_power)
    matrix = np.zeros((terms + tiles, terms + tiles))
    matrix[:terms, :terms] = normal.shape
    matrix[terms:] = normal.links.sum(0)
    matrix[:terms, terms:] = matrix[terms:, :terms].T
    right = np.concatenate([normal.shape_right, normal.links_right.sum(0)])
    prior = np.concatenate(
        [1 / (1 / (fit.roughness * penalty) + lined), np.full(tiles, fit.tile_spread**-2)]
    )
    inverse = np.linalg.inv(normal.links[:, :, terms:] + np.eye(tiles) * fit.slab_spread**-2)
    eliminated = np.einsum("sij,sjk->sik", inverse, normal.links)
    matrix -= np.einsum("sij,sik->jk", normal.links, eliminated)
    right -= np.einsum("sij,si->j", eliminated, normal.links_right)
    covariance = np.linalg.inv(matrix + np.diag(prior))
    answer = np.einsum("ij,j->i", covariance, right)
    deviations = np.einsum("sij,sj->si", inverse, normal.links_right)
    deviations -= np.einsum("sij,j->si", eliminated, answer)
    fit = replace(fit, coefficients=answer[:terms], gains=(answer[terms:] + deviations).T)
    if not adapt:
        return fit
    square = answer**2 + np.diag(covariance)
    rough = np.mean((penalty * square[:terms])[lined == 0])
    return replace(
        fit,
        roughness=float(np.clip(1 / rough, 1e-2, 10)),
        tile_spread=_spread(square[terms:]),
        slab_spread=_spread(deviations**2 + np.einsum("sii->si", inverse)),
    )


def _spread(squares: np.ndarray) -> float:
    return float(np.clip(np.sqrt(np.mean(squares)), 0.002, 0.5))


def _residual(part: _Equations, fit: _Fit) -> np.ndarray:
    smooth = np.tensordot(fit.coefficients, part.basis, 1)
    residual = part.value - smooth[:, None].astype(np.float32)
    if part.overlap is not None:
        gains = fit.gains[part.overlap.first] - fit.gains[part.overlap.second]
        residual -= gains[..., None].astype(np.float32)
    return residual


def _weights(part: _Equations, fit: _Fit, blur: float) -> np.ndarray:
    """Robust weights, float32.

    Within tiles the loss is log(variance + residual^2), a location estimate that needs no scale
    of the tissue. In overlaps it is a Cauchy loss whose scale, set by misplaced tiles and by
    shadows, is the median of what is found.
    """
    residual = _residual(part, fit)
    if part.overlap is not None and fit.shadows:
        shadows = fit.shadows[part.index]
        residual = _blocks_less_lines(part, residual, shadows.values, shadows.axis)
    square = residual**2
    variance = part.variance + np.float32(blur**2)
    if part.overlap is None:
        return np.float32(_TISSUE_WEIGHT / len(_LAGS)) / (variance + square)
    ratio = square / variance
    seen = ratio[part.variance < _CERTAIN]
    scale = np.float32(max(1.0, float(np.median(seen)) / 0.455) if seen.size else 1.0)
    return 1 / (variance * scale * (1 + ratio / (9 * scale)))


@dataclass(frozen=True)
class Shading:
    """What :func:`fit_shading` finds.

    Attributes
    ----------
    profile : numpy.ndarray of float32, shape (y, x)
        Mean 1.
    background : float
        Dark offset, counts.
    background_from : str
        "given", "overlaps" or "darkest blocks".
    gains : numpy.ndarray of float64, shape (tiles,)
        Relative brightness of the tiles, 1 where overlaps do not tell.
    line_percent : tuple of float
        Standard deviation of the line patterns over rows and over columns.
    seam_percent : dict or None
        See :func:`seam_percent`.
    """

    profile: np.ndarray
    background: float
    background_from: str
    gains: np.ndarray
    line_percent: tuple[float, float]
    seam_percent: dict[str, float] | None


def fit_shading(
    data: BlockData,
    stats: Mapping[str, np.ndarray],
    degree: int,
    *,
    background: float | None = None,
    lines: bool = True,
) -> Shading:
    """Find profile, dark offset and gains.

    Parameters
    ----------
    data : BlockData
    stats : mapping
        The same statistics, of which the means of lines are used.
    degree : int
        Highest total degree of the smooth part.
    background : float, optional
        Dark offset in counts, where it is known.
    lines : bool
        Whether fixed line patterns are looked for.

    Raises
    ------
    IntensityError
        If no tile holds signal.
    """
    basis = Basis(data.edges, degree)
    source = "given"
    if background is None:
        background, source = data.lowest(), "darkest blocks"
        data.check_signal(background)
        searched = _search_background(data, basis, background)
        if searched is not None:
            background, source = searched, "overlaps"
    data.check_signal(background)
    patterns = _Lines(*(np.zeros(int(edges[-1])) for edges in data.edges))
    power = [0.0, 0.0]
    # lines need the smooth part and the smooth part is fitted beside the lines: in turn
    for _ in range(3 if lines else 1):
        equations = _equations(data, basis, background, patterns)
        fit = _solve(data, basis, equations, line_power=power)
        if lines:
            found = [_line(stats, axis, background, basis, fit.coefficients) for axis in (0, 1)]
            patterns, power = _Lines(*(line for line, _ in found)), [value for _, value in found]
    profile = np.exp(basis.pixels(fit.coefficients) + patterns.pixels())
    profile = (profile / profile.mean()).astype(np.float32)
    known = data.valid.sum(1)
    gains = np.exp(np.where(data.valid, fit.gains, 0).sum(1) / np.maximum(known, 1))
    return Shading(
        profile=profile,
        background=float(background),
        background_from=source,
        gains=gains,
        line_percent=(100 * float(patterns.y.std()), 100 * float(patterns.x.std())),
        seam_percent=seam_percent(data, background, profile, fit.gains),
    )


def _search_background(data: BlockData, basis: Basis, highest: float) -> float | None:
    """Dark offset at which bright and dark tissue agree on the profile in the overlaps.

    None where the overlaps do not tell.
    """
    none = _Lines(*(np.zeros(int(edges[-1])) for edges in data.edges))
    start: list[_Fit | None] = [None]

    def cost(background: float) -> float:
        equations = _equations(data, basis, background, none)
        fit = _solve(data, basis, equations, start[0])
        start[0] = start[0] or fit
        return _disagreement(data, background, fit, basis)

    highest += 1.0
    coarse = np.linspace(0.0, highest, 9)[::-1]
    costs = [cost(float(value)) for value in coarse]
    if max(costs) - min(costs) < 1e-3 * max(costs) or max(costs) == 0:
        return None
    best = int(np.argmin(costs))
    low, high = coarse[min(best + 1, 8)], coarse[max(best - 1, 0)]
    found = minimize_scalar(
        cost, bounds=(low, high), method="bounded", options={"xatol": 0.1, "maxiter": 25}
    )
    return float(found.x)


def _disagreement(data: BlockData, background: float, fit: _Fit, basis: Basis) -> float:
    """Robust sum of squares over overlaps, in counts, so that empty blocks count as well."""
    gains = np.exp(fit.gains)[..., None, None]
    total = 0.0
    for index, overlap in enumerate(data.overlaps):
        tiles = overlap.first, overlap.second
        # each side is brought to the geometric mean of both sensitivities
        scales = [
            (gains[t] * np.exp(np.tensordot(fit.coefficients, basis.over(e), 1))[:, None])
            for t, e in zip(tiles, overlap.edges)
        ]
        ratio = np.sqrt(scales[1] / scales[0])
        if fit.shadows:
            ratio = ratio * np.exp(-0.5 * fit.shadows[index].of_blocks())
        ratio = ratio.astype(np.float32)
        x = (overlap.mean[0] - np.float32(background)) * ratio
        y = (overlap.mean[1] - np.float32(background)) / ratio
        variance = (overlap.error[0] * ratio) ** 2 + (overlap.error[1] / ratio) ** 2
        variance += (0.5 * _FLOOR * (x + y)) ** 2
        valid = overlap.valid[..., None, None]
        total += float(np.where(valid, np.log1p((x - y) ** 2 / variance), 0).sum(dtype=np.float64))
    return total


def seam_percent(
    data: BlockData, background: float, profile: np.ndarray, gains: np.ndarray | None = None
) -> dict[str, float] | None:
    """Median contrast of tissue in overlaps, percent of one tile, before and after correction.

    Overlaps are those of the positions at which the statistics were gathered, so misplaced tiles
    set a floor that no profile can lower.

    Parameters
    ----------
    data : BlockData
    background : float
        Counts.
    profile : numpy.ndarray, shape (y, x)
    gains : numpy.ndarray, shape (tiles, slabs), optional
        Logarithms of the gains that are corrected as well.

    Returns
    -------
    dict or None
        ``before``, ``after``; None without overlaps that hold tissue.
    """
    raw, corrected = [], []
    tissue = max(0.0, 0.1 * float(np.quantile(data.mean[data.valid] - background, 0.99)))
    for overlap in data.overlaps:
        x, y = (mean - background for mean in overlap.mean)
        seen = (np.minimum(x, y) > tissue) & overlap.valid[..., None, None]
        ratio = np.log(np.where(seen, x, 1)) - np.log(np.where(seen, y, 1))
        raw.append(ratio[seen])
        shading = [np.log(_block_means(profile, *edges)) for edges in overlap.edges]
        ratio = ratio - (shading[0] - shading[1])[:, None]
        if gains is not None:
            ratio = ratio - (gains[overlap.first] - gains[overlap.second])[..., None, None]
        corrected.append(ratio[seen])
    if not sum(part.size for part in raw):
        return None
    before, after = (
        100 * float(np.median(np.abs(np.concatenate(part)))) / np.sqrt(2)
        for part in (raw, corrected)
    )
    return {"before": float(before), "after": float(after)}


def _block_means(image: np.ndarray, edges_y: np.ndarray, edges_x: np.ndarray) -> np.ndarray:
    """Means of an image (y, x) over blocks of each pair: (pairs, blocks y, blocks x)."""
    total = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    total[1:, 1:] = image.cumsum(0, dtype=np.float64).cumsum(1)
    corners = total[edges_y[:, :, None], edges_x[:, None, :]]
    area = np.diff(edges_y)[:, :, None] * np.diff(edges_x)[:, None, :]
    return np.diff(np.diff(corners, axis=1), axis=2) / area


def _line(
    stats: Mapping[str, np.ndarray],
    axis: int,
    background: float,
    basis: Basis,
    coefficients: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Log line profile along one axis, free of what the smooth part can hold.

    Estimated from each half of the tiles. Octave by octave, what the halves do not share is
    noise: a line that both show is kept with the weight of a Wiener filter, any other dropped.
    """
    values = stats["rows" if axis == 0 else "columns"].astype(np.float64) - background
    seen = (stats["line_planes"] > 0)[..., None, None] & (values > 0)
    smooth = basis.pixels(coefficients)
    cuts = line_sections(smooth.shape[1 - axis])
    means = np.add.reduceat(np.exp(smooth), cuts[:-1], axis=1 - axis)
    model = np.log(means if axis == 1 else means.T)
    tissue = 0.1 * np.quantile(values, 0.99)
    log = np.where(seen & (values > tissue), np.log(np.maximum(values, 1e-3)) - model, np.nan)
    # tiles that are neighbours share tissue, so the halves are two parts of the grid
    middle = len(log) // 2 if len(log) > 1 else None
    halves = (log[:middle], log[middle:]) if middle else (log[:, ::2], log[:, 1::2])
    one, two, both = (
        dct(_robust_line(part.reshape(-1, part.shape[-1]), basis.axes[axis]), norm="ortho")
        for part in (*halves, log)
    )
    start = basis.degree + 1
    while start < len(both):
        band = slice(start, min(2 * start, len(both)))
        power = 0.5 * float(np.sum(one[band] ** 2) + np.sum(two[band] ** 2))
        shared = float(np.sum(one[band] * two[band])) / power if power > 0 else 0.0
        # few coefficients agree by chance more easily than many
        certain = shared > max(0.5, 2.4 / np.sqrt(band.stop - band.start))
        both[band] *= 2 * shared / (1 + shared) if certain else 0.0
        start *= 2
    both[: basis.degree + 1] = 0.0
    lowest = both[basis.degree + 1 : 4 * (basis.degree + 1)]
    return idct(both, norm="ortho"), float(np.mean(lowest**2)) / len(both)


def _robust_line(log: np.ndarray, polynomials: np.ndarray) -> np.ndarray:
    """Line whose differences are the medians of the lines' differences, least squares."""
    size = log.shape[1]
    matrix, right = 1e-6 * np.eye(size), np.zeros(size)
    for lag in _LINE_LAGS:
        if lag >= size:
            continue
        difference = log[:, lag:] - log[:, :-lag]
        enough = np.isfinite(difference).sum(0) >= 4
        median = np.zeros(size - lag)
        if enough.any():
            median[enough] = np.nanmedian(difference[:, enough], axis=0)
        index = np.flatnonzero(enough)
        np.add.at(right, index + lag, median[index])
        np.add.at(right, index, -median[index])
        for i, j, sign in ((0, 0, 1), (lag, lag, 1), (0, lag, -1), (lag, 0, -1)):
            np.add.at(matrix, (index + i, index + j), sign)
    line = np.linalg.solve(matrix, right)
    # Legendre polynomials up to the basis' degree belong to the smooth part
    orthogonal = np.linalg.qr(polynomials.T)[0]
    return line - orthogonal @ (orthogonal.T @ line)
