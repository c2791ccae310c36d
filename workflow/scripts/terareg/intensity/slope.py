"""Brightness that falls evenly from tile to tile, told from a profile that slopes.

Where every row (or column) of tiles is darker than the last one by the same share (bleaching, a
lamp that fades), the overlaps agree as well with a profile that slopes: adding ``s (2 u + 1) / n``
to the log profile and taking ``2 s / n`` times the position of a tile from its log gain changes no
overlap. Only brightness within the tiles tells the two apart. Tissue has slopes of its own, which
differ from tile to tile, so that all tiles must show about the same one, and a large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from terareg.intensity.equations import Fit, ShadingProblem, within_tiles

_LEAST_PERCENT = 10.0  # of the profile over a tile: tissue alone made up to 7 % on generated brains
_SURE = 2.5  # standard errors, from the scatter of the tiles
_LEAST_TILES = 6  # that tell of it
_LEAST_WEIGHT = 0.02  # of that of the tile which tells most
_STEPS = 25
_BLUR = 0.3  # standard deviation of logarithms, halved after every step
_SHARP, _STILL = 10, 1e-5  # steps after which nothing is blurred, and the last change of a slope


@dataclass(frozen=True)
class Slope:
    """Slope of the log profile that the overlaps ask for and the tissue within tiles denies.

    Attributes
    ----------
    over_tile : tuple of float
        To be added to the log profile from the first to the last pixel along y and x; 0 along an
        axis along which the tissue does not deny it.
    hidden : tuple of float
        The largest slope along y and x that the tissue would not deny; infinite where too few tiles
        tell of it.
    """

    over_tile: tuple[float, float]
    hidden: tuple[float, float]

    @property
    def found(self) -> bool:
        """Whether the tissue denies the slope along y or x."""
        return any(self.over_tile)


def find_slope(problem: ShadingProblem, fit: Fit) -> Slope:
    """Compare the slope of a fitted profile with that of the brightness within tiles.

    Differences within tiles, weighted as in :func:`terareg.intensity.equations.solve`, are fitted
    by one slope along y and one along x, everything else being held: once of all tiles together,
    and once of every tile.

    Parameters
    ----------
    problem : ShadingProblem
    fit : Fit
        Its solution.

    Returns
    -------
    Slope
        Found along an axis where it is clear: the slope of all tiles, and the mean of their own,
        are more than 10 %, that mean is 2.5 times its standard error, and the profile is flatter
        without the slope that the overlaps ask for: light that is absorbed along its way darkens
        the tissue of all tiles alike, which denies a flat profile.
    """
    (y, least_y), (x, least_x) = (_along(problem, fit, axis) for axis in (0, 1))
    return Slope((y, x), (least_y, least_x))


def _along(problem: ShadingProblem, fit: Fit, axis: int) -> tuple[float, float]:
    """Slope over the tile along an axis that is missing in a fit, 0 if it is not clear; and the
    least that would be."""
    term = problem.basis.orders.index((1, 0) if axis == 0 else (0, 1))
    parts = []
    for part in within_tiles(problem, fit.background):
        if part.axis == axis:
            smooth = np.tensordot(fit.coefficients, part.basis, 1)[:, None].astype(np.float32)
            change = part.basis[term][:, None].astype(np.float32)
            parts.append((part.value - smooth, part.variance, change))
    tiles = len(fit.gains)
    everyone, weight = _slopes(parts, tiles, together=True)
    seen = weight > _LEAST_WEIGHT * weight.max()
    if seen.sum() < _LEAST_TILES:
        return 0.0, math.inf
    own = _slopes(parts, tiles, together=False)[0][seen]
    mean, error = float(own.mean()), float(own.std(ddof=1)) / float(np.sqrt(len(own)))
    slope, least = float(everyone[0]), max(math.log1p(_LEAST_PERCENT / 100), _SURE * error)
    clear = abs(slope) > math.log1p(_LEAST_PERCENT / 100) and abs(mean) > least
    fitted = _rise(problem, fit, axis)
    flatter = abs(fitted + slope) < abs(fitted)
    return slope if clear and slope * mean > 0 and flatter else 0.0, least


def _rise(problem: ShadingProblem, fit: Fit, axis: int) -> float:
    """How much a fitted log profile rises over the tile along an axis: that of a straight line."""
    profile = np.tensordot(fit.coefficients, problem.basis.blocks, 1).mean(1 - axis)
    centred = np.linspace(-0.5, 0.5, len(profile))
    return float(centred @ profile / (centred @ centred))


def _slopes(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], tiles: int, together: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes over the tile of all tiles together, or of each, and the weights of the tiles.

    ``parts`` are differences (tiles, slabs, blocks), their variances, and what a unit of the
    Legendre polynomial of degree 1 changes them by.
    """
    slope, weight = np.zeros(tiles), np.zeros(tiles)
    for step in range(_STEPS):
        pull, weight, before = np.zeros(tiles), np.zeros(tiles), slope
        for residual, variance, change in parts:
            near = residual - slope.astype(np.float32)[:, None, None] * change
            near *= near
            near += variance + np.float32(_BLUR**2 * 0.25**step)
            np.divide(change, near, out=near)
            pull += np.einsum("tsk,tsk->t", near, residual)
            weight += np.einsum("tsk,usk->t", near, change)
        if together:
            pull[:], total = pull.sum(), max(weight.sum(), 1e-12)
            slope = pull / total
        else:
            slope = pull / np.maximum(weight, 1e-12)
        if step >= _SHARP and np.abs(slope - before).max() < _STILL:
            break
    return 2 * slope, weight


def with_slope(
    problem: ShadingProblem, fit: Fit, slope: Slope, positions: np.ndarray
) -> tuple[Fit, tuple[float, float]]:
    """The fit with a slope of its profile changed, and gains of the tiles that make up for it.

    Parameters
    ----------
    problem : ShadingProblem
    fit : Fit
    slope : Slope
    positions : numpy.ndarray, shape (tiles, 2)
        Of the first pixels of the tiles, y and x, pixels.

    Returns
    -------
    fit : Fit
        Explains the overlaps as before.
    per_pixel : tuple of float
        Change of the log gain of tiles per pixel of their position along y and x.
    """
    coefficients, orders = fit.coefficients.copy(), problem.basis.orders
    sizes = [int(edges[-1]) for edges in problem.data.edges]
    for term, value in zip(((1, 0), (0, 1)), slope.over_tile):
        coefficients[orders.index(term)] += value / 2
    y, x = (value / size for value, size in zip(slope.over_tile, sizes))
    ramp = (positions - positions.mean(axis=0)) @ np.array([y, x])
    return replace(fit, coefficients=coefficients, gains=fit.gains + ramp[:, None]), (y, x)
