"""Tiles that are turned, larger or sheared: their shapes, from points of the seams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from terareg.stitching.cells import CellGrid
from terareg.stitching.pairs import SEAM_AXIS, PairResult
from terareg.stitching.seam_tables import LEAST_POINTS, seam_table
from terareg.stitching.shapes import LEAST_VOX
from terareg.volumes.warps import on_lattice

CLEAR = 4.0  # standard errors from which a shape is told
_PRIOR_VOX = 2.0  # scale of the shapes that are looked for
_LEAST_SHAPE = 0.05  # voxels; smaller shapes are as good as none
_CUT = 4.685  # standard deviations at which a point no longer counts
_ITERATIONS = 20
_PASSES = 2  # of the solution, between which points are looked up again in b
_TIE = 1e-4  # weight of neighbours' places at the start, which leaves no cell loose
_LEAST_OF_PART = 2  # points of a part of a seam, from which its misfit is told


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


def misfits_of(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    positions: np.ndarray,
    shapes: Mapping[str, np.ndarray],
    fields: Mapping[str, np.ndarray] | None = None,
) -> dict[int, np.ndarray]:
    """How far seams do not fit, voxels, part by part along them, by the number of the pair.

    Each is the median over the points of a third of a seam, so that their noise does not count;
    thirds with fewer than two points, and pairs without points, have none. ``fields`` are those of
    tiles that are distorted within themselves, (2, rows, columns), see
    :class:`terareg.volumes.warps.Warp`.
    """
    if not any(pair.points for pair in pairs):
        return {}
    points = seam_table(pairs, grid.tile_shape)
    ends = grid.links(pairs)[points.owner]
    free = dict.fromkeys(sorted(shapes), (0, 1, 2))
    columns = _columns(grid, free)
    known = np.zeros((grid.cells + len(columns), 3))
    known[: grid.cells] = positions
    for (cell, term), column in columns.items():
        known[column] = shapes[grid.names[cell]][:, term]
    expected = positions[ends[:, 1]] - positions[ends[:, 0]]
    for _ in range(_PASSES):
        design = _design((points.first, points.first - expected), ends, columns, grid.cells,
                         grid.tile_shape)  # fmt: skip
        expected = design @ known
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
        found[k] = np.array(
            [np.linalg.norm(np.median(p, axis=0)) for p in parts if len(p) >= _LEAST_OF_PART]
        )
    return found


def solve_bends(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    used: np.ndarray,
    start: np.ndarray,
    free: Mapping[str, Sequence[int]],
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
    """
    size = grid.tile_shape
    points = seam_table(pairs, size)
    ends = grid.links(pairs)[points.owner]
    counted = np.where(np.asarray(used)[points.owner], points.noise**-2.0, 0.0)
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
            solution = self._solve(self.counted / np.maximum(self._away(solution), 1), prior)
            size = np.zeros(self.cells)
            np.add.at(size, self._tiles, (solution[self.cells :] ** 2).sum(axis=1))
            prior = 1 / (_PRIOR_VOX * np.maximum(np.sqrt(size), _LEAST_SHAPE))[self._tiles]
        away = self._away(solution)[self.counted > 0]
        scale = max(1.0, 1.4826 / math.sqrt(2.37) * float(np.median(away))) if len(away) else 1.0
        for _ in range(_ITERATIONS):
            away = self._away(solution) / (_CUT * scale)
            weights = self.counted * (1 - np.minimum(away, 1) ** 2) ** 2 / scale**2
            solution = self._solve(weights, prior)
        return solution, weights

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


def _columns(grid: CellGrid, free: Mapping[str, Sequence[int]]) -> dict[tuple[int, int], int]:
    """Number of the unknown of every (cell, column of its shape) in the solution."""
    unknown = [(grid.index[name], term) for name in sorted(free) for term in free[name]]
    return {key: grid.cells + k for k, key in enumerate(unknown)}


def _design(places, ends, columns, cells: int, size) -> sparse.csr_matrix:
    """Matrix (points, cells + terms): what origins and shapes add to a point's displacement."""
    middle = (np.array(size, float) - 1) / 2
    extents = np.maximum(np.array(size, float) - 1, 1)
    number = len(ends)
    row, column, entry = [], [], []
    for side, sign in ((0, -1.0), (1, 1.0)):
        row.append(np.arange(number))
        column.append(ends[:, side])
        entry.append(np.full(number, sign))
        share = (places[side] - middle) / extents
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
