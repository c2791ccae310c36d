"""Level of the tiles where they show no tissue, and the additive image that is part of it.

Where there is no tissue a camera counts its dark offset, stray light (reflections, a glowing
mount), and the light of the medium, which passes through the same optics as that of the tissue. The
first two do not have the shape of the profile, so dividing by the profile does not remove them.

At each block the level is the lowest value around which many tiles agree: without tissue, tiles
differ only by noise; with tissue, they differ by its brightness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from terareg.intensity.blocks import BlockData

_LEAST_TILES = 3  # tiles without tissue that a block needs, so that dust in one sets no level
_LEAST_SHARE = 0.6  # of the blocks: the level must be known at so many
_START = 0.15  # quantile of the tiles at a block where the search for the level starts
_FLANK = 9.0  # spreads above the level; up to there, blocks must be fewer than around the level
_PEAK = 3.0  # least ratio of the blocks around the level to those above it
_SMOOTH = 0.1  # weight of the second differences, per block


@dataclass(frozen=True)
class Floor:
    """Values of the tiles where they show no tissue.

    Attributes
    ----------
    level : numpy.ndarray of float64, shape (blocks y, blocks x)
        Counts.
    error : numpy.ndarray, same shape
        Its standard error.
    spread : float
        Standard deviation of block means around it, counts.
    noise : float
        Standard deviation of pixels around it, counts.
    share : float
        Fraction of all blocks that show no tissue.
    tiles : int
        Number of tiles from which the level of a block was found, median over blocks.
    """

    level: np.ndarray
    error: np.ndarray
    spread: float
    noise: float
    share: float
    tiles: int


def find_floor(data: BlockData) -> Floor | None:
    """Find the level without tissue; None if too few tiles have blocks without tissue.

    Parameters
    ----------
    data : BlockData
    """
    tile, _ = np.nonzero(data.valid)
    values = data.mean[data.valid].astype(np.float64)  # (n, blocks y, blocks x)
    if len(np.unique(tile)) < 2 * _LEAST_TILES:
        return None
    level = np.quantile(values, _START, axis=0)
    excess = values - level
    spread = float(np.quantile(excess, 0.4)) / 3
    for _ in range(30):
        near = np.abs(excess) < 3 * max(spread, 1e-3)
        if near.mean() < 0.02:
            return None
        # unlike a mean, a median stays at the peak when bright blocks fall into the range
        count = near.sum(0)
        middle = np.nanmedian(np.where(near, values, np.nan)[:, count > 0], axis=0)
        level = level.copy()
        level[count > 0] = middle
        excess = values - level
        old, spread = spread, 1.4826 * float(np.median(np.abs(excess[near]))) * 1.02
        if abs(spread - old) < 0.01 * old:
            break
    near = np.abs(excess) < 3 * spread
    above = (excess >= 3 * spread) & (excess < _FLANK * spread)
    brightest = float(np.quantile(excess, 0.99))
    if spread <= 0 or near.sum() < _PEAK * above.sum() or brightest < _FLANK * spread:
        return None
    owners = np.zeros((int(tile.max()) + 1, *level.shape), bool)
    np.logical_or.at(owners, tile, near)
    tiles = owners.sum(0)
    known = tiles >= _LEAST_TILES
    if known.mean() < _LEAST_SHARE:
        return None
    error = np.where(known, spread / np.sqrt(np.maximum(tiles, 1)), np.inf)
    pixels = np.outer(*(np.diff(edges) for edges in data.edges))
    noise = np.median((data.error[data.valid] * np.sqrt(pixels))[near])
    smooth = _smooth(level, error)
    return Floor(smooth, error, spread, float(noise), float(near.mean()), int(np.median(tiles)))


def _smooth(level: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Fill the level where it is unknown, and smooth it where it is uncertain."""
    height, width = level.shape
    weight = np.where(np.isfinite(error), 1 / np.maximum(error, 1e-3) ** 2, 0.0).ravel()
    weight /= weight.max()
    eyes = [sparse.eye_array(n) for n in (height, width)]
    bends = [
        sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(max(n - 2, 0), n))
        for n in (height, width)
    ]
    penalty = sparse.kron(bends[0].T @ bends[0], eyes[1])
    penalty = penalty + sparse.kron(eyes[0], bends[1].T @ bends[1])
    matrix = sparse.diags_array(weight) + _SMOOTH**2 * penalty
    return linalg.spsolve(sparse.csc_array(matrix), weight * level.ravel()).reshape(level.shape)
