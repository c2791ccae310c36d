"""Displacements that change with depth: of a pair of tiles, and of single tiles.

A stage that tilts, a camera that is not square to it, or a refractive index that changes with depth
move what a tile shows from plane to plane. The lean of a tile is that movement (z, y, x) from the
first plane of its stack to the last, in voxels; the lean of a pair is the lean of b minus that of
a.

A pair has a few windows, whose scatter says little about their noise. Whether a lean is clear is
therefore a t test, in which the scatter of the windows of all pairs counts as well, as much as
pairs are alike (Smyth, Statistical Applications in Genetics and Molecular Biology 3(1):3, 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

from terareg.core.errors import few
from terareg.stitching.consensus import find_consensus
from terareg.stitching.shapes import LEAST_VOX
from terareg.stitching.trends import robust_fit

if TYPE_CHECKING:
    from terareg.stitching.pairs import PairResult, WindowResult

CLEAR = 4.0  # standard errors from which a lean is told, if these are known
_CLEAR_CHANCE = float(special.ndtr(-CLEAR))  # probability that it is beyond them on one side
_SET_CHANCE = 0.01  # probability that a lean of any tile of a set is told by chance
_WINDOW_SIGMA = 0.1  # voxels, standard error of the displacement of a window, at least
_LEAST_SCATTER = 0.02  # voxels; a few windows may agree better by chance
_TWO_CHANCE = float(special.ndtr(-2.0))
_MOST_FREE = 1e3  # degrees of freedom; more are as good as all
_LEAST_PAIRS = 3  # from which it is told how alike their windows scatter
_JUMP_AGREES = 2.0  # voxels, largest difference of windows that agree on another displacement
_JUMP_VOX = 4.0  # voxels by which that differs at least from the displacement of the pair
_LEAST_TILES = 4  # from which a trend of their leans is told
_UNEXPLAINED = 0.5  # of the leans, at most, that the trend leaves
_JUMP_CHANCE = 0.01  # probability of agreeing by chance


@dataclass(frozen=True)
class Lean:
    """Lean of a pair or tile, voxels (z, y, x) over the stack.

    Attributes
    ----------
    vox : tuple of float
    sigma_vox : tuple of float
        Its standard error: 95 % of leans differ from the true one by less than two of them.
    clear_vox : tuple of float
        Beyond which it is clear: as improbable by chance as four known standard errors, or as told
        where many are judged together. Of few windows that is many times the standard error.
    """

    vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]
    clear_vox: tuple[float, float, float]

    @property
    def clear(self) -> bool:
        """Whether it differs from 0 along any axis."""
        return any(abs(v) > least for v, least in zip(self.vox, self.clear_vox))

    @property
    def likely(self) -> bool:
        """Whether it is beyond four of its standard errors along any axis."""
        return any(abs(v) > CLEAR * s for v, s in zip(self.vox, self.sigma_vox))

    def told(self) -> Lean:
        """The lean along the axes on which it is clear and large enough to matter, else 0."""
        vox: tuple[float, float, float] = tuple(
            v if abs(v) > max(least, LEAST_VOX) else 0.0
            for v, least in zip(self.vox, self.clear_vox)
        )
        return Lean(vox, self.sigma_vox, self.clear_vox)

    def words(self) -> str:
        """The axes on which it is not 0, as text."""
        axes = zip("zyx", self.vox, self.sigma_vox)
        return ", ".join(f"{axis} {v:+.1f} +- {s:.1g}" for axis, v, s in axes if v)


def lean_of_windows(windows: Sequence[WindowResult], planes: int) -> tuple[Lean, np.ndarray] | None:
    """Lean of a pair of tiles of ``planes`` planes, and its displacement in their middle.

    By least squares over the windows that agree; None if they lie at fewer than three depths.
    """
    line = _line_of(windows, planes)
    if line is None:
        return None
    lean = _lean(line.solution[1], line.error, (line.variance, line.free), _CLEAR_CHANCE)
    return lean, line.solution[0]


def chance_of_lean(windows: Sequence[WindowResult], planes: int) -> float:
    """Probability that windows without a lean lie as near to one, along any axis (t test)."""
    line = _line_of(windows, planes)
    if line is None:
        return 1.0
    error = line.error * np.sqrt(np.maximum(line.variance, _LEAST_SCATTER**2))
    sides = special.stdtr(line.free, -np.abs(line.solution[1]) / error)
    return min(1.0, 6 * float(sides.min()))  # three axes, two sides


@dataclass(frozen=True)
class _Line:
    """Displacements of windows over their depth: value in the middle and lean, (2, 3).

    ``variance`` (3) is that of the windows about the line, from ``free`` degrees of freedom;
    ``error`` the standard error of the lean if that of windows is 1.
    """

    solution: np.ndarray
    variance: np.ndarray
    free: int
    error: float


def _line_of(windows: Sequence[WindowResult], planes: int) -> _Line | None:
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
    return _Line(solution, variance, free, math.sqrt(float(inverse[1, 1])))


def _lean(value, error: float, known, clear_chance: float) -> Lean:
    """Lean whose variance (3) is ``known`` from degrees of freedom, one number or three."""
    variance, free = known[0], np.broadcast_to(np.asarray(known[1], float), (3,))
    # few windows may agree better than they are: three lie on a line by chance one time in ten
    widths = [
        np.sqrt(np.maximum(variance * _beyond(chance, free) ** 2, (sigmas * _WINDOW_SIGMA) ** 2))
        for chance, sigmas in ((_TWO_CHANCE, 2.0), (clear_chance, CLEAR))
    ]
    return Lean(_floats(value), _floats(error * widths[0] / 2), _floats(error * widths[1]))


def _beyond(chance: float, free: np.ndarray) -> np.ndarray:
    """Standard deviations that are exceeded on one side with a probability, by Student's t."""
    found: np.ndarray = -special.stdtrit(np.minimum(free, _MOST_FREE), chance)
    return found


def _leans_of_pairs(pairs: Sequence[PairResult], planes: int, judged: int) -> list[Lean | None]:
    """Leans of pairs, with errors from the scatter of their own windows and of those of all.

    They are clear by chance in one of a hundred sets in which as many as ``judged`` are.
    """
    lines = [_line_of(p.windows, planes) if p.lean_vox is not None else None for p in pairs]
    known = [(p, line) for p, line in zip(pairs, lines) if line is not None]
    if not known:
        return [lean_of_pair(pair) for pair in pairs]
    chance = _SET_CHANCE / (6 * judged)  # three axes, two sides
    free = np.array([line.free for _, line in known], float)[:, None]
    error = np.array([line.error for _, line in known])[:, None]
    variances = np.maximum([line.variance for _, line in known], _WINDOW_SIGMA**2)
    common = _common_leans([pair for pair, _ in known])
    others = np.array([common[pair.b] - common[pair.a] for pair, _ in known])
    left = np.array([pair.lean_vox for pair, _ in known]) - others
    about = (free * variances + (left / error) ** 2) / (free + 1)
    usual, weight = np.array(
        [_usual_variance(v, w, free[:, 0]) for v, w in zip(variances.T, about.T)]
    ).T
    found: list[Lean | None] = []
    for pair, line in zip(pairs, lines):
        if line is None or pair.lean_vox is None:
            found.append(lean_of_pair(pair))
            continue
        total = weight + line.free
        own = np.maximum(line.variance, _WINDOW_SIGMA**2)
        variance = (weight * usual + line.free * own) / total
        found.append(_lean(pair.lean_vox, line.error, (variance, total), chance))
    return found


def _common_leans(pairs: Sequence[PairResult]) -> dict[str, np.ndarray]:
    """What at least half of the pairs of each tile agree on, were it alone to lean; else 0."""
    seen: dict[str, list[np.ndarray]] = {name: [] for p in pairs for name in (p.a, p.b)}
    for pair in pairs:
        seen[pair.b].append(np.array(pair.lean_vox))
        seen[pair.a].append(-np.array(pair.lean_vox))
    found = {}
    for name, leans in seen.items():
        ordered = np.sort([np.zeros(3), *leans] if len(leans) == 1 else leans, axis=0)
        low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        nearer = np.where(np.abs(low) < np.abs(high), low, high)
        found[name] = np.where(low * high > 0, nearer, 0.0)
    return found


def _usual_variance(
    variances: np.ndarray, about: np.ndarray, free: np.ndarray
) -> tuple[float, float]:
    """Variance about which those of pairs scatter, and the degrees of freedom that it is worth.

    From the mean and variance of the logarithms, beyond what their own degrees of freedom explain
    (Smyth 2004, section 6.2); at most all of these. How alike pairs are is judged by their scatter
    ``about`` what several pairs agree on, one degree of freedom more: windows that scatter more
    than those of other pairs are not to make a lean clear because they happen to lie on a line.
    """
    if len(variances) < _LEAST_PAIRS:
        return 1.0, 0.0
    more = free + 1
    logs = np.log(about) - special.digamma(more / 2) + np.log(more / 2)
    spread = float(np.var(logs, ddof=1) - special.polygamma(1, more / 2).mean())
    low, high = 1e-3, min(_MOST_FREE, float(free.sum())) / 2
    if spread <= float(special.polygamma(1, high)):
        half = high
    else:
        half = float(optimize.brentq(lambda x: special.polygamma(1, x) - spread, low, high))
    logs = np.log(variances) - special.digamma(free / 2) + np.log(free / 2)
    usual = math.exp(float(logs.mean()) + float(special.digamma(half)) - math.log(half))
    return usual, 2 * half


def leans_of_tiles(
    names: Sequence[str], pairs: Sequence[PairResult], kept: Iterable[bool], planes: int
) -> dict[str, Lean]:
    """Lean of every tile that kept links tie to others, relative to most of the tiles.

    Weighted least squares over the leans of the pairs. Of each group of tiles that links tie
    together the median is 0: that all tiles lean alike cannot be seen where they meet. Pairs that
    contradict each other by more than their errors enlarge these. ``planes`` is those of a stack.
    """
    listed = [p for p, keep in zip(pairs, kept) if keep]
    used = [
        (p.a, p.b, lean)
        for p, lean in zip(listed, _leans_of_pairs(listed, planes, len(names)))
        if lean
    ]
    ends = {name for a, b, _ in used for name in (a, b)}
    tied = [name for name in names if name in ends]
    index = {name: k for k, name in enumerate(tied)}
    values, sigmas, limits = np.zeros((3, len(tied), 3))
    if not used:
        return {}
    design = np.zeros((len(used), len(tied)))
    for row, (a, b, _) in enumerate(used):
        design[row, index[a]], design[row, index[b]] = -1, 1
    group = _groups(design)
    free = len(used) - len(tied) + len(set(group))
    for axis in range(3):
        # along z of stacks too thin to search it all errors are 0
        error = np.array([max(lean.sigma_vox[axis], 1e-3) for *_, lean in used])
        clear = np.array([max(lean.clear_vox[axis], 1e-3) for *_, lean in used])
        found = np.array([lean.vox[axis] for *_, lean in used])
        inverse = np.linalg.pinv(design / error[:, None], rcond=1e-9)
        own = inverse @ (found / error)
        left = (found - design @ own) / error
        wide = math.sqrt(max(1.0, float((left**2).sum()) / free)) if free else 1.0
        for number in set(group):
            own[group == number] -= np.median(own[group == number])
        values[:, axis] = own
        sigmas[:, axis] = wide * np.sqrt(np.maximum((inverse**2).sum(axis=1), 1e-12))
        part = inverse * (clear / error)
        limits[:, axis] = wide * np.sqrt(np.maximum((part**2).sum(axis=1), 1e-12))
    return {
        name: Lean(_floats(values[k]), _floats(sigmas[k]), _floats(limits[k]))
        for name, k in index.items()
    }


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
    pairs: Sequence[PairResult],
    kept: Iterable[bool],
    shapes: Mapping[str, np.ndarray],
    planes: int,
) -> float | None:
    """Largest lean of a kept pair that is left once the shapes of tiles are corrected.

    Two standard errors less, and 0 unless it is clear, so that noise does not count; None if none
    was measured.
    """
    listed = [p for p, keep in zip(pairs, kept) if keep]
    found = []
    for pair, lean in zip(listed, _leans_of_pairs(listed, planes, len(listed))):
        if lean is not None:
            a, b = (shapes[n][:, 0] if n in shapes else np.zeros(3) for n in (pair.a, pair.b))
            left = np.abs(np.array(lean.vox) - b + a)
            sure = np.where(left > lean.clear_vox, left - 2 * np.array(lean.sigma_vox), 0.0)
            found.append(max(0.0, float(sure.max())))
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
    sigma = pair.lean_sigma_vox
    return Lean(pair.lean_vox, sigma, (CLEAR * sigma[0], CLEAR * sigma[1], CLEAR * sigma[2]))


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
