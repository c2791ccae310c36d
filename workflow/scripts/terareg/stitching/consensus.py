"""Which windows agree, and the probability that they do by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from terareg.stitching.pairs import WindowResult

_CLEAR_PEAK = 2.0  # ratio to the next highest peak that noise does not reach


@dataclass(frozen=True)
class Consensus:
    """Windows that agree.

    Attributes
    ----------
    members : tuple of int
        Indices of the windows.
    chance : float
        Probability that so many of them agree by chance.
    of : int
        Number of windows that voted; 0 if none could.
    """

    members: tuple[int, ...]
    chance: float
    of: int


def find_consensus(windows: Sequence[WindowResult], tolerance, bins, lags) -> Consensus:
    """Largest group of windows that agree, and the probability that chance made it.

    Empty windows only dilute the vote, but windows of sparse tissue may agree although each looks
    like noise. Which windows vote is decided without the positions of their peaks, so that the
    probability of chance can be computed: of n windows m agree with probability
    C(n, m) (box / lags)^(m - 1), where ``box`` of the ``lags`` displacements lie within the
    tolerance of a given one.

    Parameters
    ----------
    windows : sequence of WindowResult
    tolerance : array of float
        Largest difference of two windows that agree, voxels (z, y, x).
    bins : array of int
        Voxels per displacement searched.
    lags : sequence of int
        Displacements searched per axis.
    """
    usable = [i for i, w in enumerate(windows) if w.peak > 0]
    seen = [i for i in usable if windows[i].signal]
    clear = [i for i in usable if windows[i].peak > _CLEAR_PEAK * windows[i].second]
    electorates = []
    for voters in (seen, clear, usable):
        if len(voters) > 1 and voters not in electorates:
            electorates.append(voters)
    box = np.prod([min(2 * t // k + 1, n) for t, k, n in zip(tolerance, bins, lags)])
    best = Consensus((), 1.0, 0)
    for voters in electorates:
        shifts = np.array([windows[i].displ_vox for i in voters])
        weights = np.array([windows[i].peak for i in voters])
        cluster = [voters[i] for i in largest_cluster(shifts, weights, tolerance)]
        chance = math.comb(len(voters), len(cluster)) * (box / np.prod(lags)) ** (len(cluster) - 1)
        chance *= len(electorates)
        if chance < best.chance:
            best = Consensus(tuple(cluster), float(chance), len(voters))
    return best


def largest_cluster(shifts: np.ndarray, weights: np.ndarray, tolerance) -> list[int]:
    """Indices of the shifts within ``tolerance`` of the shift that has the most others near it."""
    near = np.all(np.abs(shifts[:, None] - shifts[None]) <= np.asarray(tolerance) + 1e-9, axis=2)
    support = near.sum(1) + 1e-3 * (near @ weights) / max(float(weights.sum()), 1e-12)
    return [int(i) for i in np.flatnonzero(near[int(np.argmax(support))])]
