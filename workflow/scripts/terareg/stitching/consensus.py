"""Which windows agree, and the probability that they do by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
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
    electorates = _electorates(windows)
    share = share_within(tolerance, bins, lags)
    best = Consensus((), 1.0, 0)
    for voters in electorates:
        shifts = np.array([windows[i].displ_vox for i in voters])
        weights = np.array([windows[i].peak for i in voters])
        cluster = [voters[i] for i in largest_cluster(shifts, weights, tolerance)]
        chance = math.comb(len(voters), len(cluster)) * share ** (len(cluster) - 1)
        chance *= len(electorates)
        if chance < best.chance:
            best = Consensus(tuple(cluster), float(chance), len(voters))
    return best


def find_line(windows: Sequence[WindowResult], tolerance, bins, lags) -> Consensus:
    """Largest group of windows whose displacements lie on a line over the depth.

    All windows vote, also those far from the displacement on which the others agree: a tile that
    leans shows another displacement at every depth. Two windows make a line, so that m of n lie
    within the tolerance of one by chance with probability C(n, m) (box / lags)^(m - 2).

    Parameters are those of :func:`find_consensus`.
    """
    depths = np.array([sum(w.z) / 2 for w in windows]).reshape(-1, 1)
    return _find_flat(windows, depths, tolerance, bins, lags)


def find_plane(windows: Sequence[WindowResult], tolerance, bins, lags) -> Consensus:
    """Largest group of windows whose displacements lie on a plane over depth and seam.

    As :func:`find_line`, for tiles that are turned or larger than their neighbours: their
    displacement changes along the seam as well. Three windows make a plane.
    """
    places = np.array([(sum(w.z) / 2, sum(w.seam) / 2) for w in windows]).reshape(-1, 2)
    if not np.ptp(places[:, 0], axis=0):
        places = places[:, 1:]  # one depth
    return _find_flat(windows, places, tolerance, bins, lags)


def chance_of_trend(trend: Consensus, flat: Consensus, terms: int, share: float) -> float:
    """Probability that a trend has by chance what it has more than windows that agree.

    With ``terms`` more unknowns it passes through as many windows, whatever they say: of n others
    m more lie within the tolerance by chance with probability C(n, m) share^(m - terms). So windows
    that agree are no trend because a few that hold only noise lie on one with some of them.

    Parameters
    ----------
    trend, flat : Consensus
        Windows on a trend, and those that agree without one.
    terms : int
        1 for a line, 2 for a plane.
    share : float
        See :func:`share_within`.
    """
    more = len(trend.members) - len(flat.members)
    if more <= terms:
        return 1.0
    others = max(more, trend.of - len(flat.members))
    return min(1.0, math.comb(others, more) * share ** (more - terms))


def share_within(tolerance, bins, lags) -> float:
    """Share of the displacements searched that lie within the tolerance of a given one."""
    box = np.prod([min(2 * t // k + 1, n) for t, k, n in zip(tolerance, bins, lags)])
    return float(box / np.prod(lags))


def _find_flat(
    windows: Sequence[WindowResult], places: np.ndarray, tolerance, bins, lags
) -> Consensus:
    """Largest group of windows whose displacements change linearly with their places."""
    share = share_within(tolerance, bins, lags)
    electorates = _electorates(windows)
    terms = places.shape[1] + 1
    best = Consensus((), 1.0, 0)
    for voters in electorates:
        design = np.column_stack([np.ones(len(voters)), places[voters]])
        shifts = np.array([windows[i].displ_vox for i in voters])
        peaks = np.array([windows[i].peak for i in voters])
        most, members = 0.0, np.zeros(len(voters), bool)
        for chosen in combinations(range(len(voters)), terms):
            own = design[list(chosen)]
            if abs(np.linalg.det(own)) < 1e-6:
                continue
            slopes = np.linalg.solve(own, shifts[list(chosen)])
            near = np.all(np.abs(shifts - design @ slopes) <= np.asarray(tolerance) + 1e-9, axis=1)
            # of trends with as many windows the one with the higher peaks, then the flatter one
            support = near.sum() + 1e-3 * peaks[near].sum() / max(float(peaks.sum()), 1e-12)
            support -= 1e-6 * float(np.abs(slopes[1:]).max())
            if support > most:
                most, members = support, near
        count = int(members.sum())
        if count <= terms:
            continue
        chance = math.comb(len(voters), count) * share ** (count - terms)
        chance *= len(electorates)
        if chance < best.chance:
            kept = tuple(i for i, near in zip(voters, members) if near)
            best = Consensus(kept, float(chance), len(voters))
    return best


def _electorates(windows: Sequence[WindowResult]) -> list[list[int]]:
    """Groups of windows that may vote, see :func:`find_consensus`."""
    usable = [i for i, w in enumerate(windows) if w.peak > 0]
    seen = [i for i in usable if windows[i].signal]
    clear = [i for i in usable if windows[i].peak > _CLEAR_PEAK * windows[i].second]
    electorates: list[list[int]] = []
    for voters in (seen, clear, usable):
        if len(voters) > 1 and voters not in electorates:
            electorates.append(voters)
    return electorates


def largest_cluster(shifts: np.ndarray, weights: np.ndarray, tolerance) -> list[int]:
    """Indices of the shifts within ``tolerance`` of the shift that has the most others near it."""
    near = np.all(np.abs(shifts[:, None] - shifts[None]) <= np.asarray(tolerance) + 1e-9, axis=2)
    support = near.sum(1) + 1e-3 * (near @ weights) / max(float(weights.sum()), 1e-12)
    return [int(i) for i in np.flatnonzero(near[int(np.argmax(support))])]
