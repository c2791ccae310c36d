"""Displacements that change with depth: of a pair of tiles, and of single tiles.

A stage that tilts, a camera that is not square to it, or a refractive index that changes with depth
move what a tile shows from plane to plane. The lean of a tile is that movement (z, y, x) from the
first plane of its stack to the last, in voxels; the lean of a pair is the lean of b minus that of
a.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from terareg.core.errors import few
from terareg.stitching.consensus import find_consensus
from terareg.stitching.shapes import LEAST_VOX
from terareg.stitching.trends import robust_fit

if TYPE_CHECKING:
    from terareg.stitching.pairs import PairResult, WindowResult

CLEAR = 4.0  # standard errors from which a lean is told
_WINDOW_SIGMA = 0.1  # voxels, standard error of the displacement of a window, at least
_TWO_SIGMA = 0.97725  # probability of a value below two standard errors
_JUMP_AGREES = 2.0  # voxels, largest difference of windows that agree on another displacement
_JUMP_VOX = 4.0  # voxels by which that differs at least from the displacement of the pair
_LEAST_TILES = 4  # from which a trend of their leans is told
_UNEXPLAINED = 0.5  # of the leans, at most, that the trend leaves
_JUMP_CHANCE = 0.01  # probability of agreeing by chance


@dataclass(frozen=True)
class Lean:
    """Lean of a pair or tile and its standard error, voxels (z, y, x) over the stack."""

    vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]

    @property
    def clear(self) -> bool:
        """Whether it differs from 0 along any axis."""
        return any(abs(v) > CLEAR * s for v, s in zip(self.vox, self.sigma_vox))

    def told(self) -> Lean:
        """The lean along the axes on which it is clear and large enough to matter, else 0."""
        vox: tuple[float, float, float] = tuple(
            v if abs(v) > max(CLEAR * s, LEAST_VOX) else 0.0
            for v, s in zip(self.vox, self.sigma_vox)
        )
        return Lean(vox, self.sigma_vox)

    def words(self) -> str:
        """The axes on which it is not 0, as text."""
        axes = zip("zyx", self.vox, self.sigma_vox)
        return ", ".join(f"{axis} {v:+.1f} +- {s:.1g}" for axis, v, s in axes if v)


def lean_of_windows(windows: Sequence[WindowResult], planes: int) -> tuple[Lean, np.ndarray] | None:
    """Lean of a pair of tiles of ``planes`` planes, and its displacement in their middle.

    By least squares over the windows that agree; None if they lie at fewer than three depths.
    """
    used = [w for w in windows if w.agrees]
    depths = np.array([(w.z[0] + w.z[1] - 1) / 2 for w in used])
    if len(set(depths)) < 3:
        return None
    half = (planes - 1) / 2
    # from -1/2 to 1/2 over the stack, so that the slope is the lean
    design = np.column_stack([np.ones(len(used)), (depths - half) / (planes - 1)])
    values = np.array([w.displ_vox for w in used])
    inverse = np.linalg.inv(design.T @ design)
    solution = inverse @ design.T @ values
    free = max(1, len(used) - 2)
    variance = ((values - design @ solution) ** 2).sum(axis=0) / free
    # few windows may agree better than they are: three lie on a line by chance one time in ten
    unsure = float(special.stdtrit(free, _TWO_SIGMA)) / 2
    variance = np.maximum(variance * unsure**2, _WINDOW_SIGMA**2)
    sigma = np.sqrt(inverse[1, 1] * variance)
    return Lean(_floats(solution[1]), _floats(sigma)), solution[0]


def leans_of_tiles(
    names: Sequence[str], pairs: Sequence[PairResult], kept: Iterable[bool]
) -> dict[str, Lean]:
    """Lean of every tile that kept links tie to others, relative to most of the tiles.

    Weighted least squares over the leans of the pairs. Of each group of tiles that links tie
    together the median is 0: that all tiles lean alike cannot be seen where they meet.
    """
    used = [(p.a, p.b, lean) for p, keep in zip(pairs, kept) if keep and (lean := lean_of_pair(p))]
    ends = {name for a, b, _ in used for name in (a, b)}
    tied = [name for name in names if name in ends]
    index = {name: k for k, name in enumerate(tied)}
    values, sigmas = np.zeros((2, len(tied), 3))
    if not used:
        return {}
    design = np.zeros((len(used), len(tied)))
    for row, (a, b, _) in enumerate(used):
        design[row, index[a]], design[row, index[b]] = -1, 1
    group = _groups(design)
    for axis in range(3):
        # along z of stacks too thin to search it all errors are 0
        error = np.array([max(lean.sigma_vox[axis], 1e-3) for *_, lean in used])
        found = np.array([lean.vox[axis] for *_, lean in used])
        inverse = np.linalg.pinv(design / error[:, None], rcond=1e-9)
        own = inverse @ (found / error)
        for number in set(group):
            own[group == number] -= np.median(own[group == number])
        values[:, axis] = own
        sigmas[:, axis] = np.sqrt(np.maximum((inverse**2).sum(axis=1), 1e-12))
    return {name: Lean(_floats(values[k]), _floats(sigmas[k])) for name, k in index.items()}


def growth_of(leans: Mapping[str, Lean], places: Mapping[str, np.ndarray], planes: int) -> float:
    """By how much the planes of all tiles must grow from the first to the last, relatively.

    The stage moves by the same step whatever the depth. Where what the tiles show becomes smaller
    with depth, so that their planes must grow, leans along y and x fall with the tile's place along
    y and x, by the same for both. 0 unless this is clear and explains most of the leans.

    Parameters
    ----------
    leans : mapping
        Tile name to its lean, see :func:`leans_of_tiles`.
    places : mapping
        Tile name to its origin (z, y, x), voxels.
    planes : int
        Of the stack.
    """
    names = sorted(leans)
    if len(names) < _LEAST_TILES or planes < 2:
        return 0.0
    at = np.array([places[name][1:] for name in names], float)
    found = np.array([leans[name].vox[1:] for name in names], float)
    reach = float(np.ptp(at, axis=0).max())
    if not reach:
        return 0.0
    number = len(names)
    design = np.column_stack([np.repeat(np.eye(2), number, axis=0), at.T.ravel() / reach])
    values = found.T.reshape(-1, 1)
    trend = robust_fit(design, values)
    along, error = float(trend.coefficients[2, 0]), float(trend.sigma[2, 0])
    known = float(np.median([leans[name].sigma_vox[1:] for name in names])) / math.sqrt(number)
    left = float(np.median(np.abs(values - trend.at(design))))
    there = float(np.median(np.abs(found - np.median(found, axis=0))))
    if abs(along) < max(CLEAR * error, CLEAR * known, LEAST_VOX) or left > _UNEXPLAINED * there:
        return 0.0
    return round(-along / reach, 9) + 0.0


def without_growth(pair: PairResult, growth: float, planes: int) -> PairResult:
    """A pair as it would be without growth; ``displ_vox`` holds in the middle of the stack."""
    half = (planes - 1) / 2

    def straight(displ, z: float) -> tuple[float, float, float]:
        grown = growth * (z - half) / (planes - 1)
        return displ[0], displ[1] * (1 + grown), displ[2] * (1 + grown)

    points = tuple(
        replace(point, displ_vox=straight(point.displ_vox, point.at_vox[0]))
        for point in pair.points
    )
    lean = pair.lean_vox
    if lean is not None:
        _, y, x = pair.displ_vox
        lean = lean[0], lean[1] + growth * y, lean[2] + growth * x
    return replace(pair, points=points, lean_vox=lean)


def leaning(leans: Mapping[str, Lean]) -> dict[str, Lean]:
    """The tiles whose lean is clear and large enough to matter, along the axes where it is."""
    return {name: lean.told() for name, lean in leans.items() if any(lean.told().vox)}


def lean_warnings(leans: Mapping[str, Lean], planes: int) -> list[str]:
    """A sentence for the user if tiles lean."""
    odd = leaning(leans)
    if not odd:
        return []
    worst = sorted(odd, key=lambda n: -max(map(abs, odd[n].vox)))
    told = few([f"{name} ({odd[name].words()})" for name in worst])
    return [
        f"{len(odd)} of {len(leans)} tiles lean: their displacements change with depth; over the "
        f"{planes} planes of the stack, in voxels: {told}"
    ]


def lean_left(
    pairs: Sequence[PairResult], kept: Iterable[bool], shapes: Mapping[str, np.ndarray]
) -> float | None:
    """Largest lean of a kept pair that is left once the shapes of tiles are corrected.

    Two standard errors less, so that noise does not count; None if none was measured.
    """
    found = []
    for pair, keep in zip(pairs, kept):
        lean = lean_of_pair(pair)
        if keep and lean is not None:
            a, b = (shapes[n][:, 0] if n in shapes else np.zeros(3) for n in (pair.a, pair.b))
            left = np.abs(np.array(lean.vox) - b + a) - 2 * np.array(lean.sigma_vox)
            found.append(max(0.0, float(left.max())))
    return max(found, default=None)


def jump_warnings(pairs: Sequence[PairResult], kept: Iterable[bool]) -> list[str]:
    """A sentence for the user if some depths of pairs agree on another displacement.

    No lean explains these: the stage jumped, or a tile consists of two parts.
    """
    told = []
    for pair, keep in zip(pairs, kept):
        rest = [w for w in pair.windows if not w.agrees and _is_within_search(w, pair)]
        if not keep or pair.engine != "ncc" or len(rest) < 2:
            continue
        lags = [2 * s + 1 for s in pair.search_vox]
        found = find_consensus(rest, np.full(3, _JUMP_AGREES), np.ones(3), lags)
        if found.chance > _JUMP_CHANCE:
            continue
        other = np.median([rest[i].displ_vox for i in found.members], axis=0)
        away = other - np.array(pair.displ_vox)
        if np.abs(away).max() > _JUMP_VOX:
            planes = [z for i in found.members for z in rest[i].z]
            listed = ", ".join(str(round(float(v))) for v in away)
            told.append(
                f"{pair.a}-{pair.b} (by {listed} in z, y, x between planes {min(planes)} and "
                f"{max(planes)})"
            )
    if not told:
        return []
    return [
        "pairs that have a different displacement over part of their depth, where their seam does "
        f"not match (did the stage jump?): {len(told)} ({few(told)})"
    ]


def _is_within_search(window: WindowResult, pair: PairResult) -> bool:
    """Whether a window has a peak, rather than the highest value at the limit of the search.

    Windows without structure of their own end there, and so agree with each other.
    """
    away = np.abs(np.subtract(window.displ_vox, pair.expected_vox))
    reach = np.array(pair.search_vox, float)
    return bool(window.signal and (away < np.where(reach > 0, reach - 0.5, 1)).all())


def lean_of_pair(pair: PairResult) -> Lean | None:
    """The lean of a pair, or None if it was not measured."""
    if pair.lean_vox is None or pair.lean_sigma_vox is None:
        return None
    return Lean(pair.lean_vox, pair.lean_sigma_vox)


def _groups(design: np.ndarray) -> np.ndarray:
    """Number of the group of tied tiles that each tile belongs to."""
    group = np.arange(design.shape[1])
    for _ in range(design.shape[1]):
        before = group.copy()
        for row in design:
            ends = np.flatnonzero(row)
            group[ends] = group[ends].min()
        if np.array_equal(before, group):
            break
    return group


def _floats(values) -> tuple[float, float, float]:
    return tuple(round(float(v), 6) + 0.0 for v in values)
