"""Points of all seams in arrays, with the noise of each, for solutions over all tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.stitching.pairs import PairResult

LEAST_POINTS = 4  # of a link, from which its points are used
_NOISE_VOX = 0.1  # standard deviation of points, at least
_UNKNOWN_VOX = 0.25  # the same where no pair has enough of them to tell
_SPREAD = 0.05  # of the tile, over which points must be spread to tell a slope from their noise


@dataclass(frozen=True)
class SeamTable:
    """Points of all pairs, one after the other.

    Attributes
    ----------
    first : array of float, (points, 3)
        Places (z, y, x) in tile a, voxels.
    displ : array of float, (points, 3)
        Displacements there.
    owner : array of int, (points,)
        Numbers of their pairs, ascending.
    noise : array of float, (points,)
        Standard deviations, voxels.
    """

    first: np.ndarray
    displ: np.ndarray
    owner: np.ndarray
    noise: np.ndarray

    def of_pair(self, number: int) -> slice:
        """Those of a pair, which follow each other."""
        first, last = np.searchsorted(self.owner, (number, number + 1))
        return slice(int(first), int(last))


def seam_table(pairs: Sequence[PairResult], size: Sequence[int]) -> SeamTable:
    """Points of the pairs that were measured, in tiles of ``size`` (z, y, x).

    A pair with too few of them stands with its displacement, four times, in the middle of its
    overlap.
    """
    first, displ, owner, noise = [], [], [], []
    extents = np.array(size, float)
    for k, pair in enumerate(pairs):
        if pair.status != "ok":
            continue
        places = np.array([p.at_vox for p in pair.points], float).reshape(-1, 3)
        values = np.array([p.displ_vox for p in pair.points], float).reshape(-1, 3)
        scatter = np.nan
        if len(places) < LEAST_POINTS:
            low = np.maximum(0, pair.displ_vox)
            high = extents - 1 + np.minimum(0, pair.displ_vox)
            places = np.tile((low + high) / 2, (LEAST_POINTS, 1))
            values = np.tile(np.array(pair.displ_vox, float), (LEAST_POINTS, 1))
        else:
            # how well points agree, whatever the shapes of the tiles
            flat = places / extents
            flat = np.column_stack([np.ones(len(flat)), flat[:, np.ptp(flat, axis=0) > _SPREAD]])
            if len(flat) > 2 * flat.shape[1]:
                left = np.abs(values - flat @ np.linalg.lstsq(flat, values, rcond=None)[0])
                free = len(flat) / (len(flat) - flat.shape[1])
                scatter = 1.4826 * math.sqrt(free) * float(np.median(left, axis=0).max())
        first.append(places)
        displ.append(values)
        owner += [k] * len(places)
        noise += [scatter] * len(places)
    # pairs with few points are taken to be as noisy as the others
    level = np.array(noise, float)
    known = level[np.isfinite(level)]
    level[~np.isfinite(level)] = np.median(known) if len(known) else _UNKNOWN_VOX
    return SeamTable(
        np.concatenate(first) if first else np.zeros((0, 3)),
        np.concatenate(displ) if displ else np.zeros((0, 3)),
        np.array(owner, int),
        np.maximum(level, _NOISE_VOX),
    )
