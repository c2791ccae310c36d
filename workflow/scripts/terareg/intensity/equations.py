"""Equations for profile, gains and dark offset from block means, and their solution.

The unknowns are the coefficients c of ``log profile = P c`` (P: products of Legendre polynomials on
the tile), a log gain of each tile and slab, and, unless it is given, the dark offset b. Within a
tile an equation is the difference of two log block means, ``y = (P(u) - P(v)) c + tissue``. In the
overlap of two tiles it compares counts, so that blocks without tissue help to find the dark
offset::

    (x_a - b) exp(-h / 2) - (x_b - b) exp(h / 2) = noise
    h = (P(u) - P(v)) c + gain_a - gain_b + stripe of the line

linearised around the last solution and divided by the mean signal, so that both kinds are
differences of logarithms. They are solved by iteratively reweighted least squares; the precision of
the roughness prior and the spreads of gains and stripes are re-estimated after each step (empirical
Bayes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from terareg.intensity.blocks import Basis, BlockData, LinePatterns, Overlap

_LAGS = (1, 2, 4, 8)  # blocks between the two pixels of a difference within a tile
# weight of one difference within a tile: these are not independent of each other
_TISSUE_WEIGHT = 0.02
_CERTAIN = 0.01  # largest variance of the logarithms from which the scatter is estimated
_LEAST_LINE = 0.05  # largest standard error of the lines from which stripes are estimated
_LARGE_SHADOW = 0.01  # standard deviation of logarithms
_DEEPEST_STRIPE = 0.3  # standard deviation of logarithms
RELATIVE_FLOOR = 0.004  # smallest relative error of a block mean
_LEAST_SIGNAL = 0.5  # counts; logarithms of less are not taken
_STILL = 0.02  # counts; a smaller change of the dark offset is ignored
_LEAST_SHARE = 0.01  # of what a step of the dark offset asks for that is left after the next one
_FREE_AFTER = 3  # steps of the solution after which the dark offset is no longer held


@dataclass(frozen=True)
class _Stripes:
    """Log stripes in one overlap: what all blocks of a line share, beyond profile and gains.

    Dirt and bubbles in the path of the light-sheet darken whole lines of a tile, different ones in
    each plane. The blocks of a line are therefore not independent and are weighted together.
    """

    axis: int  # along which the lines run: -1 (rows of blocks) or -2 (columns)
    values: np.ndarray  # (pairs, slabs, lines)
    spread: float  # their standard deviation

    def of_blocks(self) -> np.ndarray:
        """The stripes, broadcastable to (pairs, slabs, blocks y, blocks x)."""
        return np.expand_dims(self.values, self.axis)


@dataclass(frozen=True)
class Fit:
    """Solution of a :class:`ShadingProblem`, and the variances that were estimated with it."""

    coefficients: np.ndarray  # of the log profile
    gains: np.ndarray  # logarithms (tiles, slabs)
    background: float  # counts
    background_error: float = 0.0  # standard error if blocks are independent, 0 where it is given
    background_scatter: float = 0.0  # standard error from the scatter of pairs and tiles
    roughness: float = 1.0  # prior precision of a coefficient is roughness * degree ** 6
    tile_spread: float = 0.02  # standard deviation of log gains: of tiles,
    slab_spread: float = 0.02  # and of the slabs of a tile around it
    stripes: tuple[_Stripes, ...] = ()  # of the overlaps, in their order


@dataclass(frozen=True)
class ShadingProblem:
    """Data and prior knowledge of the estimate.

    Attributes
    ----------
    data : BlockData
    basis : Basis
    lines : LinePatterns
        Fixed line patterns, known.
    background : float
        Dark offset in counts: given, or the mean of its prior.
    spread : float
        Standard deviation of that prior, counts; 0 where the offset is given.
    highest : float
        Largest offset that is considered.
    """

    data: BlockData
    basis: Basis
    lines: LinePatterns
    background: float
    spread: float = 0.0
    highest: float = np.inf

    @cached_property
    def smooth(self) -> list[np.ndarray]:
        """Change of the basis across each overlap, (terms, pairs, blocks y, blocks x)."""
        return [
            self.basis.over(overlap.edges[0]) - self.basis.over(overlap.edges[1])
            for overlap in self.data.overlaps
        ]

    @cached_property
    def fixed(self) -> list[np.ndarray]:
        """Change of the fixed lines across each overlap, (pairs, blocks y, blocks x)."""
        return [
            self.lines.over(overlap.edges[0]) - self.lines.over(overlap.edges[1])
            for overlap in self.data.overlaps
        ]

    def ratio(self, fit: Fit, index: int) -> np.ndarray:
        """Log of the first tile's sensitivity over the second's: (pairs, slabs, blocks y, x)."""
        overlap = self.data.overlaps[index]
        smooth = np.tensordot(fit.coefficients, self.smooth[index], 1) + self.fixed[index]
        gains = fit.gains[overlap.first] - fit.gains[overlap.second]
        total = smooth[:, None] + gains[..., None, None]
        return total + fit.stripes[index].of_blocks() if fit.stripes else total


@dataclass(frozen=True)
class Equations:
    """Differences of log intensity, within tiles or in the overlaps on one side.

    ``value = basis @ coefficients``, in overlaps ``+ gain first - gain second + stripe
    + offset * background``. ``value``, ``variance`` and ``offset`` are float32 (a, slabs, blocks),
    ``basis`` is (terms, b, blocks). Within tiles a is tiles and b is 1; in overlaps both are pairs.
    Within tiles ``value`` falls by ``offset`` per count of the dark offset, of which they tell
    nothing: without any offset tissue would differ least.
    """

    value: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    axis: int = 0  # along which blocks of a tile are compared
    far: bool = True  # whether no distance along that axis is more than twice as large
    overlap: Overlap | None = None
    index: int = 0  # of the overlap among those of the data
    offset: np.ndarray | None = None

    def of_all(self, weights: np.ndarray) -> np.ndarray:
        """Sum of weights (a, slabs, blocks) over the equations that share a column of the basis."""
        axes = 1 if self.overlap is not None else (0, 1)
        return weights.sum(axes, dtype=np.float64).ravel()


def within_tiles(problem: ShadingProblem, background: float) -> list[Equations]:
    """Equations of nearby blocks of the same tile."""
    data, basis = problem.data, problem.basis
    signal = data.mean - np.float32(background)
    usable = (signal > 3 * data.error) & data.valid[..., None, None]
    signal = np.where(usable, np.maximum(signal, np.float32(_LEAST_SIGNAL)), np.float32(1))
    error = (data.error**2 + np.float32(data.floor_error**2)) / signal**2
    error = np.where(usable, error, np.float32(np.inf))
    lines = problem.lines.over(tuple(edges[None] for edges in data.edges))[0]
    log = np.log(signal) - lines.astype(np.float32)
    inverse = np.where(usable, 1 / signal, np.float32(0))
    found = []
    everything = slice(None)
    for axis in (0, 1):
        lags = [lag for lag in _LAGS if lag < log.shape[axis + 2]]
        for lag in lags:
            a, b = [everything, everything], [everything, everything]
            a[axis], b[axis] = slice(lag, None), slice(None, -lag)
            one, two = (..., a[0], a[1]), (..., b[0], b[1])
            change = (basis.blocks[one] - basis.blocks[two])[:, None]
            parts = _flat(log[one] - log[two], error[one] + error[two], change)
            follows = (inverse[one] - inverse[two]).reshape(parts[0].shape)
            found.append(Equations(*parts, axis=axis, far=2 * lag >= lags[-1], offset=follows))
    return found


def _in_overlaps(problem: ShadingProblem, fit: Fit) -> list[Equations]:
    """Equations of coinciding blocks, linearised around a fit."""
    found = []
    background = np.float32(fit.background)
    for index, overlap in enumerate(problem.data.overlaps):
        smooth = problem.smooth[index]
        total = problem.ratio(fit, index).astype(np.float32)
        scale = np.exp(0.5 * total)
        a, b = (overlap.mean[0] - background) / scale, (overlap.mean[1] - background) * scale
        signal = np.maximum(0.5 * (a + b), np.float32(_LEAST_SIGNAL))
        noise = (overlap.error[0] / scale) ** 2 + (overlap.error[1] * scale) ** 2
        noise += np.float32(problem.data.floor_error**2)
        variance = np.where(overlap.valid[..., None, None], noise / signal**2, np.float32(np.inf))
        # without stripes: found from the same blocks, they would bias the offset by their errors
        even = np.exp(0.5 * problem.ratio(replace(fit, stripes=()), index).astype(np.float32))
        offset = (1 / even - even) / signal
        value = (a - b) / signal + total - problem.fixed[index][:, None].astype(np.float32)
        value += offset * background
        value, variance, offset = (
            part.reshape(*part.shape[:2], -1) for part in (value, variance, offset)
        )
        smooth = smooth.reshape(*smooth.shape[:2], -1)
        variance = variance + np.float32(RELATIVE_FLOOR**2)
        found.append(
            Equations(value, variance, smooth, overlap=overlap, index=index, offset=offset)
        )
    return found


def _flat(
    value: np.ndarray, variance: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments with all blocks on one axis, and the smallest variance added."""
    value, variance, basis = (
        part.reshape(*part.shape[:2], -1) for part in (value, variance, basis)
    )
    return value, variance + np.float32(RELATIVE_FLOOR**2), basis


def solve(
    problem: ShadingProblem, start: Fit | None = None, line_power: Sequence[float] = (0.0, 0.0)
) -> Fit:
    """Reweighted least squares, from wide to narrow weights unless ``start`` is given."""
    basis, data = problem.basis, problem.data
    fit = start or Fit(np.zeros(len(basis.orders)), np.zeros(data.valid.shape), problem.background)
    within, used, pull = [], np.nan, None
    for step in range(12 if start else 30):
        blur = 0.0 if start else 0.3 * 0.5**step
        free = problem.spread > 0 and (start is not None or step >= _FREE_AFTER)
        if not abs(fit.background - used) < _STILL:
            within, used = within_tiles(problem, fit.background), fit.background
        equations = within + _in_overlaps(problem, fit)
        normal = _normal_equations(data, basis, equations, fit, blur)
        prior = (step >= 2 or bool(start), free)
        old, (fit, pull) = fit, _step(problem, normal, fit, line_power, prior)
        if step >= 2 or start:
            fit = replace(fit, stripes=_find_stripes(equations, fit))
        change = np.tensordot(fit.coefficients - old.coefficients, basis.blocks, 1)
        moved = abs(fit.background - old.background) > _STILL
        if np.abs(change).max() < 2e-4 and not moved and step >= (1 if start else 10):
            break
    if pull is not None:
        last = fit.background - old.background
        fit = replace(fit, background_scatter=_offset_error(equations, fit, pull, last))
    return fit


def _offset_error(equations: list[Equations], fit: Fit, pull: np.ndarray, last: float) -> float:
    """Standard error of the dark offset, from what single pairs and tiles ask for.

    The covariance of the solution takes blocks as independent, which they are not where tiles are
    misplaced or lean; the contributions of whole pairs and tiles are, and scatter as they do
    (Liang and Zeger, Biometrika 73:13, 1986, with the correction for their number). It also
    takes the differences within tiles as known, but these follow the offset. A profile that follows
    as much as the overlaps ask for leaves the offset open: where tissue is equally bright
    everywhere, any will do. What is left of a step after that (a rank-one change of the equations;
    Sherman and Morrison, Ann. Math. Stat. 21:124, 1950) divides the error, and the last step.

    Parameters
    ----------
    equations : list of Equations
    fit : Fit
        Their solution.
    pull : numpy.ndarray, shape (terms + tiles,)
        Row of the covariance of the solution that belongs to the dark offset.
    last : float
        Change of the offset in the last step, counts.
    """
    orders = len(fit.coefficients)
    follows = np.zeros(orders)
    of_tiles, of_pairs = np.zeros(len(fit.gains)), []
    for part in equations:
        weight = _weights(part, fit, 0.0)
        column = np.tensordot(pull[:orders], part.basis, 1)[:, None]
        if part.overlap is None:
            columns = part.basis.reshape(orders, -1)
            follows += columns @ part.of_all(weight * part.offset)
        else:
            gains = pull[orders + 1 :]
            gains = gains[part.overlap.first] - gains[part.overlap.second]
            column = column + part.offset * pull[orders] + gains[:, None, None]
        left = weight * _beside_stripes(part, fit)
        scores = np.sum(left * column, axis=(1, 2), dtype=np.float64)
        if part.overlap is None:
            of_tiles += scores
        else:
            of_pairs.append(scores)
    variance = sum(
        float(np.sum(each**2)) * len(each) / max(len(each) - 1, 1)
        for each in (of_tiles, np.concatenate(of_pairs))
    )
    share = max(_LEAST_SHARE, 1 + float(pull[:orders] @ follows))
    return math.hypot(max(fit.background_error, math.sqrt(variance)), last) / share


@dataclass(frozen=True)
class _Normal:
    """Normal equations: weighted sums over all equations; the dark offset is the last term.

    ``shape`` (terms, terms) and ``shape_right`` (terms,) belong to the coefficients alone;
    ``links`` (slabs, tiles, terms + tiles) and ``links_right`` (slabs, tiles) are the rows of the
    gains, which couple to the coefficients and to other tiles of the same slab.
    """

    shape: np.ndarray
    shape_right: np.ndarray
    links: np.ndarray
    links_right: np.ndarray


def _normal_equations(
    data: BlockData, basis: Basis, equations: list[Equations], fit: Fit, blur: float
) -> _Normal:
    terms = len(basis.orders) + 1
    tiles, slabs = data.valid.shape
    normal = _Normal(
        np.zeros((terms, terms)), np.zeros(terms),
        np.zeros((slabs, tiles, terms + tiles)), np.zeros((slabs, tiles)),
    )  # fmt: skip
    for part in equations:
        weight = _weights(part, fit, blur)
        weighted = weight * part.value
        columns = part.basis.reshape(terms - 1, -1)
        normal.shape[:-1, :-1] += (columns * part.of_all(weight)) @ columns.T
        normal.shape_right[:-1] += columns @ part.of_all(weighted)
        if part.overlap is None:
            continue
        turned = weight * part.offset
        mixed = columns @ part.of_all(turned)
        normal.shape[:-1, -1] += mixed
        normal.shape[-1, :-1] += mixed
        normal.shape[-1, -1] += (turned * part.offset).sum(dtype=np.float64)
        normal.shape_right[-1] += (turned * part.value).sum(dtype=np.float64)
        against = np.concatenate(
            [
                np.einsum("psk,ipk->psi", weight.astype(np.float64), part.basis),
                turned.sum(2, dtype=np.float64)[..., None],
            ],
            axis=2,
        )
        sums = weight.sum(2, dtype=np.float64)
        values = weighted.sum(2, dtype=np.float64)
        if fit.stripes:
            _leave_to_stripes(part, weight, fit, normal, (against, sums, values))
        pairs = zip(part.overlap.first.tolist(), part.overlap.second.tolist())
        for pair, (i, j) in enumerate(pairs):
            normal.links[:, i, :terms] += against[pair]
            normal.links[:, j, :terms] -= against[pair]
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                normal.links[:, a, terms + b] += sign * sums[pair]
            normal.links_right[:, i] += values[pair]
            normal.links_right[:, j] -= values[pair]
    return normal


def _by_lines(part: Equations, values: np.ndarray, axis: int) -> np.ndarray:
    """Sums of (..., blocks) over lines that run along ``axis``: (..., lines), float64."""
    grid = values.reshape(*values.shape[:-1], *part.overlap.grid)
    return grid.sum(axis, dtype=np.float64)


def _leave_to_stripes(
    part: Equations,
    weight: np.ndarray,
    fit: Fit,
    normal: _Normal,
    sums: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Eliminate one stripe per line from the normal equations (Schur complement)."""
    stripes = fit.stripes[part.index]
    against, total, values = sums
    for slab in range(weight.shape[1]):
        w = weight[:, slab].astype(np.float64)
        of_line = _by_lines(part, w, stripes.axis)  # (pairs, lines)
        share = 1 / (stripes.spread**-2 + of_line)
        columns = np.concatenate([part.basis, part.offset[None, :, slab]])
        shape = _by_lines(part, w * columns, stripes.axis)  # (terms, pairs, lines)
        right = _by_lines(part, w * part.value[:, slab], stripes.axis)
        flat = shape.reshape(len(shape), -1)
        normal.shape[:] -= (flat * share.ravel()) @ flat.T
        normal.shape_right[:] -= flat @ (share * right).ravel()
        against[:, slab] -= np.einsum("ipl,pl->pi", shape, share * of_line)
        total[:, slab] -= (share * of_line**2).sum(1)
        values[:, slab] -= (share * of_line * right).sum(1)


def _find_stripes(equations: list[Equations], fit: Fit) -> tuple[_Stripes, ...]:
    """Stripes of the overlaps from the residuals of a fit, along the axis with stronger stripes."""
    parts = [part for part in equations if part.overlap is not None]
    spread, axis = max((_line_spread(parts, fit, axis), axis) for axis in (-1, -2))
    if spread == 0:
        return ()
    found = []
    for part in parts:
        weight = _weights(part, fit, 0.0)
        total = _by_lines(part, weight, axis)
        values = _by_lines(part, weight * _residual(part, fit), axis) / (spread**-2 + total)
        found.append(_Stripes(axis, values, spread))
    return tuple(found)


def _line_spread(parts: list[Equations], fit: Fit, axis: int) -> float:
    """Robust standard deviation of what the blocks of a line along ``axis`` share.

    It is the spread of the means of lines beyond what the scatter within lines explains.
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
    return math.sqrt(min(max(0.0, float(excess)), _DEEPEST_STRIPE**2))


def _blocks_less_lines(
    part: Equations, values: np.ndarray, lines: np.ndarray, axis: int
) -> np.ndarray:
    """Values (pairs, slabs, blocks) minus the value in ``lines`` of the line of each block."""
    grid = values.reshape(*values.shape[:2], *part.overlap.grid)
    shared = _Stripes(axis, lines, 0.0).of_blocks().astype(np.float32)
    return (grid - shared).reshape(values.shape)


def _step(
    problem: ShadingProblem,
    normal: _Normal,
    fit: Fit,
    line_power: Sequence[float],
    free: tuple[bool, bool],
) -> tuple[Fit, np.ndarray | None]:
    """Solve the normal equations under the priors of ``fit``.

    Returns also the row of the covariance that belongs to the dark offset, if it is free.

    The gain of a slab is the gain of its tile plus a deviation. Deviations are eliminated slab by
    slab; coefficients, dark offset and gains of tiles are solved together. ``free`` says whether
    the priors are adapted to the solution, and whether the dark offset is changed.
    """
    basis, tiles = problem.basis, normal.links.shape[1]
    orders, terms = len(basis.orders), len(basis.orders) + 1
    penalty = np.array([float(a + b) ** 6 for a, b in basis.orders])
    lined = basis.line_variance(line_power)
    matrix = np.zeros((terms + tiles, terms + tiles))
    matrix[:terms, :terms] = normal.shape
    matrix[terms:] = normal.links.sum(0)
    matrix[:terms, terms:] = matrix[terms:, :terms].T
    right = np.concatenate([normal.shape_right, normal.links_right.sum(0)])
    prior = np.concatenate(
        [
            1 / (1 / (fit.roughness * penalty) + lined),
            [problem.spread**-2 if free[1] else 1.0],
            np.full(tiles, fit.tile_spread**-2),
        ]
    )
    inverse = np.linalg.inv(normal.links[:, :, terms:] + np.eye(tiles) * fit.slab_spread**-2)
    eliminated = np.einsum("sij,sjk->sik", inverse, normal.links)
    matrix -= np.einsum("sij,sik->jk", normal.links, eliminated)
    right -= np.einsum("sij,si->j", eliminated, normal.links_right)
    if free[1]:
        right[orders] += problem.background * prior[orders]
    else:  # known terms go to the right-hand side
        right -= fit.background * matrix[orders]
        matrix[orders] = matrix[:, orders] = 0
        right[orders] = fit.background
    covariance = np.linalg.inv(matrix + np.diag(prior))
    answer = np.einsum("ij,j->i", covariance, right)
    pull = covariance[orders] if free[1] else None
    deviations = np.einsum("sij,sj->si", inverse, normal.links_right)
    deviations -= np.einsum("sij,j->si", eliminated, answer)
    fit = replace(fit, coefficients=answer[:orders], gains=(answer[terms:] + deviations).T)
    if free[1]:
        fit = replace(
            fit,
            background=float(np.clip(answer[orders], 0, problem.highest)),
            background_error=float(np.sqrt(covariance[orders, orders])),
        )
    if not free[0]:
        return fit, pull
    square = answer**2 + np.diag(covariance)
    rough = np.mean((penalty * square[:orders])[lined == 0])
    adapted = replace(
        fit,
        roughness=float(np.clip(1 / rough, 1e-2, 10)),
        tile_spread=_spread(square[terms:]),
        slab_spread=_spread(deviations**2 + np.einsum("sii->si", inverse)),
    )
    return adapted, pull


def _spread(squares: np.ndarray) -> float:
    return float(np.clip(np.sqrt(np.mean(squares)), 0.002, 0.5))


def _residual(part: Equations, fit: Fit) -> np.ndarray:
    smooth = np.tensordot(fit.coefficients, part.basis, 1)
    residual = part.value - smooth[:, None].astype(np.float32)
    if part.overlap is not None:
        gains = fit.gains[part.overlap.first] - fit.gains[part.overlap.second]
        residual -= gains[..., None].astype(np.float32)
        residual -= part.offset * np.float32(fit.background)
    return residual


def _beside_stripes(part: Equations, fit: Fit) -> np.ndarray:
    """Residuals, in overlaps after the stripes."""
    residual = _residual(part, fit)
    if part.overlap is None or not fit.stripes:
        return residual
    stripes = fit.stripes[part.index]
    return _blocks_less_lines(part, residual, stripes.values, stripes.axis)


def _weights(part: Equations, fit: Fit, blur: float) -> np.ndarray:
    """Robust weights, float32.

    Within tiles the loss is log(variance + residual^2), which needs no scale for the differences
    that tissue makes. In overlaps it is a Cauchy loss of the residuals after the stripes. Its scale
    is the median of these residuals, which misplaced tiles make larger than the noise.
    """
    square = _beside_stripes(part, fit) ** 2
    variance = part.variance + np.float32(blur**2)
    if part.overlap is None:
        if fit.stripes and fit.stripes[0].axis + 2 != part.axis:
            # every line has its own stripe, and errors add up along a chain of neighbouring lines
            if not part.far and fit.stripes[0].spread > _LARGE_SHADOW:
                return np.zeros_like(variance)
            variance = variance + np.float32(fit.stripes[0].spread ** 2)
        return np.float32(_TISSUE_WEIGHT / len(_LAGS)) / (variance + square)
    ratio = square / variance
    seen = ratio[part.variance < _CERTAIN]
    scale = np.float32(max(1.0, float(np.median(seen)) / 0.455) if seen.size else 1.0)
    return 1 / (variance * scale * (1 + ratio / (9 * scale)))
