"""Tiles that are turned, larger or sheared: their shapes, from points of the seams.

A shape has nine numbers, and seams with few structures have few points: noise alone can be fitted
by shapes that seem clear. So a shape counts if its standard errors say so, in which every number
that was fitted takes away a degree of freedom, and if it foretells places of the seams of its tile
that were left out (cross-validation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse, special
from scipy.sparse.linalg import splu

from terareg.stitching.cells import CellGrid
from terareg.stitching.pairs import SEAM_AXIS, PairResult
from terareg.stitching.seam_tables import LEAST_POINTS, SeamTable, seam_table
from terareg.stitching.shapes import LEAST_VOX
from terareg.stitching.trends import robust_fit
from terareg.volumes.warps import on_lattice

CLEAR = 4.0  # standard errors from which a shape is told
_PRIOR_VOX = 2.0  # scale of the shapes that are looked for
_LEAST_SHAPE = 0.05  # voxels; smaller shapes are as good as none
_CUT = 4.685  # standard deviations at which a point no longer counts
_ITERATIONS = 20
_AT_REST = 1e-4  # voxels; the iteration ends at smaller steps
_PASSES = 2  # of the solution, between which points are looked up again in b
_TIE = 1e-4  # weight of neighbours' places at the start, which leaves no cell loose
_LEAST_OF_PART = 2  # points of a part of a seam, from which its misfit is told
_SURE = 0.975  # probability of a value below the upper end of an interval of 95 %
_FOLDS = 5
_PARTS = 6  # of the depth and of the length of a seam, whose points are left out together
_LEAST_PARTS = 5  # of the seams of a tile, from which it is told what its shape foretells
_CHANCE = 1e-3  # probability that a shape that is none foretells as much


@dataclass(frozen=True)
class Bends:
    """Result of :func:`solve_bends`.

    Attributes
    ----------
    positions : array of float, (cells, 3)
        Origins of all cells, voxels (z, y, x).
    shapes : dict of str to array, (3, 3)
        Shapes of the tiles that are more than moved, see :mod:`terareg.stitching.shapes`.
    sigmas : dict of str to array, (3, 3)
        Standard errors.
    residuals : array of float, (pairs, 3)
        What is left of the displacement of each pair, on average; NaN where it is not known.
    """

    positions: np.ndarray
    shapes: dict[str, np.ndarray] = field(default_factory=dict)
    sigmas: dict[str, np.ndarray] = field(default_factory=dict)
    residuals: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def clear_shapes(found: Bends) -> list[str]:
    """Tiles that are clearly turned, larger or sheared, by a voxel or more over the tile."""
    return [
        name
        for name, shape in found.shapes.items()
        if np.any(np.abs(shape[:, 1:]) > np.maximum(CLEAR * found.sigmas[name][:, 1:], LEAST_VOX))
    ]


def foretelling(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    used: np.ndarray,
    start: np.ndarray,
    free: Mapping[str, Sequence[int]],
    clear: Sequence[str],
) -> list[str]:
    """Those tiles of ``clear`` whose shapes foretell windows of their seams that are left out.

    A fifth of the windows at a time; the others give the shapes. What the shape of a tile says of
    the windows left out must be nearer, on average over those of its seams and beyond chance, than
    what is said without it: by all tiles as they are without ``clear``, and by the tile moved as a
    whole among its neighbours with their shapes. Parameters as of :func:`solve_bends`.
    """
    points = seam_table(pairs, grid.tile_shape)
    ends = grid.links(pairs)[points.owner]
    windows, parts = _parts_of(grid, pairs, points)
    counted = np.asarray(used)[points.owner]
    measured = counted & np.isin(
        points.owner, [k for k, pair in enumerate(pairs) if len(pair.points) >= LEAST_POINTS]
    )
    plain = {name: terms for name, terms in free.items() if name not in clear}
    without: dict[str, list[list[float]]] = {name: [] for name in clear}
    for fold in range(_FOLDS):
        held = measured & (windows % _FOLDS == fold)
        if not held.any():
            continue
        bent, straight = (
            solve_bends(grid, pairs, used, start, terms, held) for terms in (free, plain)
        )
        expected = [
            _expected(grid, points, ends, found.positions, found.shapes)
            for found in (bent, straight)
        ]
        left = [points.displ - each for each in expected]
        for name in clear:
            own = counted & np.any(ends == grid.index[name], axis=1)
            is_second = (ends[:, 1] == grid.index[name])[:, None]
            # by what the tile, without its shape, would have to move
            at = np.where(is_second, points.first - expected[0], points.first)
            shown = _shares(at, grid.tile_shape) @ bent.shapes[name].T
            moved = np.where(is_second, left[0], -left[0]) + shown
            known = own & ~held
            if not known.any() or not (own & held).any():
                continue
            whole = robust_fit(np.ones((int(known.sum()), 1)), moved[known]).coefficients[0]
            for window in sorted(set(windows[own & held].tolist())):
                here = own & held & (windows == window)
                without[name].append(
                    [_mean_misfit(v[here], parts[here]) for v in (*left, moved - whole)]
                )
    return [name for name in clear if _is_foretold(np.array(without[name]))]


def _is_foretold(misfits: np.ndarray) -> bool:
    """Whether windows (rows) misfit less with a shape (first column) than in other ways."""
    if len(misfits) < _LEAST_PARTS:
        return False
    sure = float(special.stdtrit(len(misfits) - 1, 1 - _CHANCE))
    gains = misfits[:, 1:] - misfits[:, :1]
    error = gains.std(axis=0, ddof=1) / math.sqrt(len(misfits))
    return bool(np.all(gains.mean(axis=0) > sure * error))


def _mean_misfit(left: np.ndarray, parts: np.ndarray) -> float:
    """Mean over parts of a seam of the length of the median of what is left there."""
    return float(
        np.mean([np.linalg.norm(np.median(left[parts == n], axis=0)) for n in set(parts.tolist())])
    )


def _parts_of(
    grid: CellGrid, pairs: Sequence[PairResult], points: SeamTable
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the window of every point, over all pairs, and of its part along the seam."""
    windows, parts = np.zeros((2, len(points.owner)), int)
    last = 0
    for k, pair in enumerate(pairs):
        own = points.of_pair(k)
        if own.start == own.stop:
            continue
        along = 3 - SEAM_AXIS[pair.direction]
        at = points.first[own][:, [0, along]]
        size = np.array([grid.tile_shape[0], grid.tile_shape[along]], float)
        middles = np.array([(sum(w.z) / 2, sum(w.seam) / 2) for w in pair.windows if w.agrees])
        if not len(middles):
            middles = (np.arange(_PARTS)[:, None] + 0.5) / _PARTS * size
            middles[:, 1] = size[1] / 2
        away = (np.abs(at[:, None] - middles) / size).sum(axis=2)
        windows[own] = last + np.argmin(away, axis=1)
        parts[own] = np.clip(at[:, 1] * _PARTS / size[1], 0, _PARTS - 1).astype(int)
        last += len(middles)
    return windows, parts


def misfits_of(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    positions: np.ndarray,
    shapes: Mapping[str, np.ndarray],
    fields: Mapping[str, np.ndarray] | None = None,
    *,
    sure: bool = False,
) -> dict[int, np.ndarray]:
    """How far seams do not fit, voxels, part by part along them, by the number of the pair.

    Each is the length of the median over the points of a third of a seam; thirds with fewer than
    two points, and pairs without points, have none. ``fields`` are those of
    tiles that are distorted within themselves, (2, rows, columns), see
    :class:`terareg.volumes.warps.Warp`. With ``sure`` it is less what the scatter of the points
    explains: along each axis the half width of the interval of 95 % of their mean, by Student's t.
    Two points, one of which is wrong, say nothing then.
    """
    size = _beyond_scatter if sure else _length
    return {
        k: np.array([size(left) for left in parts])
        for k, parts in _left_of_thirds(grid, pairs, positions, shapes, fields).items()
    }


def _length(left: np.ndarray) -> float:
    """Length of the median of points, (points, 3)."""
    return float(np.linalg.norm(np.median(left, axis=0)))


def _beyond_scatter(left: np.ndarray) -> float:
    """Length of the median of points, (points, 3), less what their scatter explains."""
    number = len(left)
    wide = float(special.stdtrit(number - 1, _SURE)) * left.std(axis=0, ddof=1) / math.sqrt(number)
    return float(np.linalg.norm(np.maximum(np.abs(np.median(left, axis=0)) - wide, 0)))


def _left_of_thirds(
    grid: CellGrid, pairs: Sequence[PairResult], positions: np.ndarray, shapes, fields
) -> dict[int, list[np.ndarray]]:
    """What is left of the displacements of points, (points, 3), for thirds of seams."""
    if not any(pair.points for pair in pairs):
        return {}
    points = seam_table(pairs, grid.tile_shape)
    ends = grid.links(pairs)[points.owner]
    expected = _expected(grid, points, ends, positions, shapes)
    left = points.displ - expected
    for side, sign, at in ((0, 1.0, points.first), (1, -1.0, points.first - expected)):
        left[:, 1:] += sign * _by_fields(grid, ends[:, side], at, fields or {})
    found = {}
    for k, pair in enumerate(pairs):
        own = points.of_pair(k)
        if len(pair.points) < LEAST_POINTS or own.start == own.stop:
            continue
        along = 3 - SEAM_AXIS[pair.direction]
        third = (3 * points.first[own, along] / grid.tile_shape[along]).astype(int)
        parts = [left[own][third == n] for n in range(3)]
        found[k] = [part for part in parts if len(part) >= _LEAST_OF_PART]
    return found


def solve_bends(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    used: np.ndarray,
    start: np.ndarray,
    free: Mapping[str, Sequence[int]],
    left_out: np.ndarray | None = None,
) -> Bends:
    """Positions and shapes of all tiles together, by robust least squares over points of seams.

    Both tiles of a point show one place, so that ``x_b + i_b + u_b(i_b) = x_a + i_a + u_a(i_a)``,
    x the origins and u what the shapes move. Points that contradict the others lose their weight:
    first the sum of absolute residuals is made least, then Tukey's biweight is used. What no point
    determines (all tiles alike, or those of one row or column) is settled by the fewest tiles:
    the sum over tiles of the size of their shapes is made least, with little weight.

    Parameters
    ----------
    grid : CellGrid
    pairs : sequence of PairResult
        With points; pairs without enough of them count with their displacement alone.
    used : array of bool
        Pairs that count; the others have residuals all the same.
    start : array of float, (cells, 3)
        Positions to start from; cells without a link keep their place beside those that have one.
    free : mapping
        Tile name to the columns of its shape that are unknown.
    left_out : array of bool, optional
        Points, as in :func:`seam_table`, that do not count.
    """
    size = grid.tile_shape
    points = seam_table(pairs, size)
    ends = grid.links(pairs)[points.owner]
    counted = np.where(np.asarray(used)[points.owner], points.noise**-2.0, 0.0)
    if left_out is not None:
        counted[left_out] = 0.0
    names = sorted(free)
    columns = _columns(grid, free)
    # where b shows a point follows from the solution, not from the point's own displacement: its
    # error would count for tiles that shrink to nothing, which fit every displacement
    expected = start[ends[:, 1]] - start[ends[:, 0]]
    for _ in range(_PASSES):
        design = _design((points.first, points.first - expected), ends, columns, grid.cells, size)
        solver = _Solver(grid, (design, points.displ, counted), start, columns)
        solution, weights = solver.robust()
        expected = design @ solution
    left = points.displ - expected
    residuals = np.full((len(pairs), 3), np.nan)
    for k in set(points.owner.tolist()):
        own = points.of_pair(k)
        residuals[k] = np.median(left[own], axis=0)
    shapes = {name: np.zeros((3, 3)) for name in names}
    for (cell, term), column in columns.items():
        shapes[grid.names[cell]][:, term] = np.round(solution[column], 6) + 0.0
    sigmas = {name: _sigmas(design, weights, grid.index[name], columns) for name in names}
    return Bends(solution[: grid.cells] - solution[0], shapes, sigmas, residuals)


class _Solver:
    """Weighted least squares for origins and shapes, with weak ties that leave nothing open."""

    def __init__(self, grid: CellGrid, equations, start: np.ndarray, columns) -> None:
        self.design, self.values, self.counted = equations
        self.cells = grid.cells
        flat = np.array([(i, j) for i, j, _ in grid.neighbours], int).reshape(-1, 2)
        number, terms = len(flat), len(columns)
        step = sparse.csr_matrix(
            (np.tile([-1.0, 1.0], number), (np.repeat(np.arange(number), 2), flat.ravel())),
            (number, grid.cells + terms),
        )
        self._tie = step * _TIE
        self._tie_to = _TIE * (start[flat[:, 1]] - start[flat[:, 0]])
        self._first = np.concatenate([np.eye(1, grid.cells)[0], np.zeros(terms)])  # cell 0 at 0
        self._start = np.concatenate([start, np.zeros((terms, 3))])
        self._tiles = np.array([cell for cell, _ in columns], int)

    def robust(self) -> tuple[np.ndarray, np.ndarray]:
        """Solution, and weights of the points: inverse variances, less where they contradict."""
        solution, prior = self._start, np.full(len(self._tiles), _PRIOR_VOX**-2.0)
        for _ in range(2 * _ITERATIONS):
            before = solution
            solution = self._solve(self.counted / np.maximum(self._away(solution), 1), prior)
            if np.abs(solution - before).max() < _AT_REST:
                break
            size = np.zeros(self.cells)
            np.add.at(size, self._tiles, (solution[self.cells :] ** 2).sum(axis=1))
            prior = 1 / (_PRIOR_VOX * np.maximum(np.sqrt(size), _LEAST_SHAPE))[self._tiles]
        away = self._away(solution)[self.counted > 0]
        scale = max(1.0, self._spread(away)) if len(away) else 1.0
        for _ in range(_ITERATIONS):
            away = self._away(solution) / (_CUT * scale)
            weights = self.counted * (1 - np.minimum(away, 1) ** 2) ** 2 / scale**2
            before, solution = solution, self._solve(weights, prior)
            if np.abs(solution - before).max() < _AT_REST:
                break
        return solution, weights

    def _spread(self, away: np.ndarray) -> float:
        """Standard deviation of points as a multiple of their noise; fits take part of it away."""
        fitted = len(np.unique(self.design[self.counted > 0].indices)) - 1  # cell 0 is at 0
        free = max(1, len(away) - fitted)
        # the median of the squared length of three normal numbers is 2.37; longer tails count
        return 1.4826 / math.sqrt(2.37) * float(np.median(away)) * math.sqrt(len(away) / free)

    def _away(self, solution: np.ndarray) -> np.ndarray:
        """Distance of every point from the solution, in standard deviations of its noise."""
        length: np.ndarray = np.linalg.norm(self.values - self.design @ solution, axis=1)
        return length * np.sqrt(self.counted)

    def _solve(self, weights: np.ndarray, prior: np.ndarray) -> np.ndarray:
        ties = self._first + np.concatenate([np.zeros(self.cells), prior])
        weighted = self.design.multiply(weights[:, None]).tocsr()
        normal = weighted.T @ self.design + self._tie.T @ self._tie + sparse.diags(ties)
        right = weighted.T @ self.values + self._tie.T @ self._tie_to
        factor = splu(
            sparse.csc_matrix(normal),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        found: np.ndarray = factor.solve(right)
        found += factor.solve(right - normal @ found)
        return found


def _by_fields(grid: CellGrid, cells: np.ndarray, at: np.ndarray, fields) -> np.ndarray:
    """What the fields of tiles add to places, voxels along y and x, (points, 2)."""
    found = np.zeros((len(cells), 2))
    for name, nodes in fields.items():
        own = cells == grid.index[name]
        found[own] = on_lattice(nodes, grid.tile_shape[1:], at[own, 1], at[own, 2]).T
    return found


def _expected(
    grid: CellGrid, points: SeamTable, ends: np.ndarray, positions: np.ndarray,
    shapes: Mapping[str, np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Displacements of all points that follow from origins and shapes, (points, 3)."""
    columns = _columns(grid, dict.fromkeys(sorted(shapes), (0, 1, 2)))
    known = np.zeros((grid.cells + len(columns), 3))
    known[: grid.cells] = positions
    for (cell, term), column in columns.items():
        known[column] = shapes[grid.names[cell]][:, term]
    expected: np.ndarray = positions[ends[:, 1]] - positions[ends[:, 0]]
    for _ in range(_PASSES):
        places = (points.first, points.first - expected)
        expected = _design(places, ends, columns, grid.cells, grid.tile_shape) @ known
    return expected


def _shares(places: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Places in a tile from -1/2 to 1/2 along each axis."""
    extents = np.array(size, float) - 1
    shares: np.ndarray = (places - extents / 2) / np.maximum(extents, 1)
    return shares


def _columns(grid: CellGrid, free: Mapping[str, Sequence[int]]) -> dict[tuple[int, int], int]:
    """Number of the unknown of every (cell, column of its shape) in the solution."""
    unknown = [(grid.index[name], term) for name in sorted(free) for term in free[name]]
    return {key: grid.cells + k for k, key in enumerate(unknown)}


def _design(places, ends, columns, cells: int, size) -> sparse.csr_matrix:
    """Matrix (points, cells + terms): what origins and shapes add to a point's displacement."""
    number = len(ends)
    row, column, entry = [], [], []
    for side, sign in ((0, -1.0), (1, 1.0)):
        row.append(np.arange(number))
        column.append(ends[:, side])
        entry.append(np.full(number, sign))
        share = _shares(places[side], size)
        for term in range(3):
            at = np.array([columns.get((int(cell), term), -1) for cell in ends[:, side]], int)
            has = np.flatnonzero(at >= 0)
            row.append(has)
            column.append(at[has])
            entry.append(sign * share[has, term])
    return sparse.csr_matrix(
        (np.concatenate(entry), (np.concatenate(row), np.concatenate(column))),
        shape=(number, cells + len(columns)),
    )


def _sigmas(design, weights, cell: int, columns) -> np.ndarray:
    """Standard errors of a tile's shape; its neighbours are known as well as itself."""
    terms = [term for term in range(3) if (cell, term) in columns]
    own = [cell, *(columns[cell, term] for term in terms)]
    part = design[:, own].tocsc()
    rows = np.unique(part.indices)
    dense = np.asarray(part[rows].todense())
    normal = dense.T @ (dense * weights[rows][:, None])
    inverse = np.linalg.inv(normal + np.diag([1e-9, *[_PRIOR_VOX**-2.0] * len(terms)]))
    found = np.full((3, 3), _PRIOR_VOX)
    for k, term in enumerate(terms):
        found[:, term] = math.sqrt(2 * inverse[k + 1, k + 1])
    return found
