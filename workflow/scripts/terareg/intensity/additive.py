"""Level of the tiles where they show no tissue, and the additive image that is part of it.

What a camera counts where there is nothing to see is its dark offset, light that reaches it on
other ways (reflections, a glowing mount), and the medium's own light, which passes the same optics
as the tissue's. The first two do not have the profile's shape, and no profile removes them.

At each block the level is the lowest one around which many tiles agree: without tissue they differ
by noise alone, with tissue by as much as it is bright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from terareg.intensity.blocks import BlockData

_LEAST_TILES = 3  # tiles without tissue at a block, so that dust in one is no level
_LEAST_SHARE = 0.6  # of the blocks at which the level must be known
_START = 0.15  # quantile of the tiles at a block where the search for the level starts
_FLANK = 9.0  # spreads above the level up to which there must be fewer blocks
_PEAK = 3.0  # times as many blocks around the level as in the same range above it
_SMOOTH = 0.1  # weight of the second differences, per block


@dataclass(frozen=True)
class Floor:
    """What the tiles hold where they show no tissue.

    Attributes
    ----------
    level : numpy.ndarray of float64, shape (blocks y, blocks x)
        Counts.
    error : numpy.ndarray, same shape
        Its standard error.
    spread : float
        Standard deviation around it, counts: of block means,
    noise : float
        and of pixels.
    share : float
        Part of all blocks that show no tissue.
    tiles : int
        Median number of tiles that the level of a block was found from.
    """

    level: np.ndarray
    error: np.ndarray
    spread: float
    noise: float
    share: float
    tiles: int


def find_floor(data: BlockData) -> Floor | None:
    """Find the level without tissue; None where too few tiles show none.

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
        # a median stays where the peak is when bright blocks fall into the range
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
    """Fill a level where it is not known, and smooth it where it is not certain."""
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
