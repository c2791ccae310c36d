"""Tiles that are distorted within themselves: a smooth field for each, from points of the seams.

Every tile has a field of displacements along y and x, the same at all depths: a Gaussian process of
zero mean over the tile, with one standard deviation and one correlation length for all tiles. Both
follow from the points of all seams by restricted maximum likelihood (Patterson and Thompson,
Biometrika 58:545, 1971). Origins are the generalised least squares solution, in which fields are
integrated out; fields are their conditional means (kriging; Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, ch. 2). Far from its seams a field is therefore zero, and so
is that of a tile without links.

A field is what its lattice of nodes says, linearly between them. Its prior is expanded into the
eigenvectors of the covariance of the nodes, so that the normal equations are sparse: a block for
each tile and for each pair of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, sparse, special
from scipy.sparse.linalg import splu

from terareg.stitching.cells import CellGrid
from terareg.stitching.pairs import SEAM_AXIS, PairResult
from terareg.stitching.seam_tables import LEAST_POINTS, SeamTable, seam_table
from terareg.stitching.trends import robust_fit
from terareg.volumes.warps import lattice_parts

NODES = 17  # of the lattice of a field along y and along x, the first and last pixel among them
#: correlation lengths that are compared, of the longer side of a tile
LENGTHS = (0.12, 0.17, 0.24, 0.34, 0.48, 0.68)
_SD_VOX = (0.05, 8.0)  # standard deviations among which that of the fields is looked for
_KEPT = 0.995  # of the variance of the fields, which the eigenvectors hold at least
_MOST_TERMS = 60  # eigenvectors, at most
_CUT = 4.685  # standard deviations at which a point no longer counts
_LEAST_NOISE = 0.03  # voxels, of points
_ROUNDS = 2  # of lengths, between which the weights of points are found again
_FOLDS = 5
_PLACES = 5  # of a seam, from which none is known where its displacement is foretold
_TIE = 1e-8  # weight of neighbours' places at the start, which leaves no cell loose


@dataclass(frozen=True)
class HeldOut:
    """How far seams are from what the rest of the points foretells, place by place.

    Attributes
    ----------
    moved, bent : array of float, (places,)
        Distances along y and x, voxels: by tiles that are moved as wholes (with the shapes that
        they have), and with fields.
    """

    moved: np.ndarray
    bent: np.ndarray

    @property
    def gain(self) -> float:
        """Part of the mean misfit that fields take away."""
        before = float(self.moved.mean()) if len(self.moved) else 0.0
        return 1 - float(self.bent.mean()) / before if before else 0.0

    @property
    def sure(self) -> bool:
        """Whether the mean over places differs from none with a probability of chance of .001."""
        less = self.moved - self.bent
        if len(less) < _PLACES:
            return False
        error = float(less.std(ddof=1)) / math.sqrt(len(less))
        return float(less.mean()) > error * float(special.stdtrit(len(less) - 1, 0.999))


@dataclass(frozen=True)
class Elastic:
    """Result of :func:`solve_elastic`.

    Attributes
    ----------
    positions : array of float, (cells, 3)
        Origins of all cells, voxels (z, y, x).
    fields : dict of str to array, (2, NODES, NODES)
        Fields of the tiles that points tie to others, voxels along y and x at the nodes.
    sd_vox, length_px : float
        Standard deviation and correlation length of the fields.
    residuals : array of float, (pairs, 3)
        Median over the points of each pair of what is left of the displacement; NaN where there is
        none.
    held_out : HeldOut
    """

    positions: np.ndarray
    fields: dict[str, np.ndarray]
    sd_vox: float
    length_px: float
    residuals: np.ndarray
    held_out: HeldOut


def solve_elastic(
    grid: CellGrid,
    pairs: Sequence[PairResult],
    used: np.ndarray,
    start: np.ndarray,
    shapes: Mapping[str, np.ndarray],
) -> Elastic | None:
    """Origins and fields of all tiles; None if points tell nothing of them.

    Parameters
    ----------
    grid : CellGrid
    pairs : sequence of PairResult
        With points; pairs without enough of them count with their displacement alone.
    used : array of bool
        Pairs that count.
    start : array of float, (cells, 3)
        Positions as they are without fields; along z they stay, and cells without a link keep their
        place beside those that have one.
    shapes : mapping
        Shapes of tiles, see :mod:`terareg.stitching.shapes`, which stay as they are.
    """
    table = seam_table(pairs, grid.tile_shape)
    if not any(len(p.points) >= LEAST_POINTS and use for p, use in zip(pairs, used)):
        return None
    seams = _Seams(grid, pairs, table, start, shapes)
    counted = np.asarray(used)[table.owner]
    weights = np.where(counted, _first_weights(seams), 0.0)
    number = len(LENGTHS) // 2
    for _ in range(_ROUNDS):
        number, best = _likeliest(seams, weights, number)
        left = seams.values - best.design @ best.solution
        weights = np.where(counted, _weights_again(seams, left), 0.0)
    best = _Model(seams, best.length, weights)
    held_out = _held_out(seams, best)
    residuals = np.full((len(pairs), 3), np.nan)
    left = seams.values - best.design @ best.solution
    along_z = table.displ[:, 0] - seams.known[:, 0] - (start[seams.ends[:, 1], 0]
                                                       - start[seams.ends[:, 0], 0])  # fmt: skip
    for k in set(table.owner.tolist()):
        own = table.of_pair(k)
        residuals[k, 0] = np.median(along_z[own])
        residuals[k, 1:] = np.median(left[own], axis=0)
    positions = start.copy()
    positions[:, 1:] = best.origins
    tied = {name for p, use in zip(pairs, used) if use for name in (p.a, p.b)}
    fields = {name: best.field(grid.index[name]) for name in sorted(tied)}
    return Elastic(
        positions - positions[0], fields, best.sd_vox, best.length * max(grid.tile_shape[1:]),
        residuals, held_out,
    )  # fmt: skip


def interpolation(places: np.ndarray, size: Sequence[int]) -> sparse.csr_matrix:
    """Matrix (places, nodes) from the nodes of a field to its values at places (y, x).

    ``size`` is that of a tile along y and x; beyond its edges the field is that at the edge.
    """
    low, part = (
        np.stack(found, axis=1)
        for found in zip(*(lattice_parts(p, n, NODES) for p, n in zip(np.transpose(places), size)))
    )
    rows, columns, entries = [], [], []
    for dy in (0, 1):
        for dx in (0, 1):
            rows.append(np.arange(len(places)))
            columns.append((low[:, 0] + dy) * NODES + low[:, 1] + dx)
            of_y, of_x = (part[:, k] if d else 1 - part[:, k] for k, d in enumerate((dy, dx)))
            entries.append(of_y * of_x)
    return sparse.csr_matrix(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))),
        shape=(len(places), NODES**2),
    )


@lru_cache(maxsize=16)
def field_basis(length: float, size: tuple[int, int]) -> np.ndarray:
    """Fields at the nodes, (nodes, terms), of which a sum with unit normal factors is a sample.

    The covariance is ``exp(-d^2 / (2 length^2))`` less what makes the mean over the nodes other
    than zero, scaled to a mean variance of 1; ``length`` in longer sides of a tile of ``size``
    (y, x).
    """
    extent = np.array(size, float) / max(size)
    y, x = (np.linspace(0, e, NODES) for e in extent)
    along = [np.exp(-((t[:, None] - t) ** 2) / (2 * length**2)) for t in (y, x)]
    covariance = np.kron(*along)
    centred = covariance - covariance.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    share = np.cumsum(np.maximum(values, 0)) / np.maximum(values, 0).sum()
    terms = min(int(np.searchsorted(share, _KEPT)) + 1, _MOST_TERMS)
    basis = vectors[:, :terms] * np.sqrt(values[:terms])
    # what is left out counts as well, so that the standard deviation is that of the whole field
    basis = basis * math.sqrt(NODES**2 / float((basis**2).sum()))
    basis.flags.writeable = False
    return np.asarray(basis)


class _Seams:
    """Points of seams as equations: values along y and x, and where their fields lie."""

    def __init__(self, grid: CellGrid, pairs, table: SeamTable, start, shapes) -> None:
        self.grid, self.table, self.start = grid, table, start
        self.size = grid.tile_shape[1:]
        self.ends = grid.links(pairs)[table.owner]
        step = start[self.ends[:, 1]] - start[self.ends[:, 0]]
        places = (table.first, table.first - step)
        self.known = self._by_shapes(places, shapes)
        self.values = (table.displ - self.known)[:, 1:]
        self.at = [interpolation(at[:, 1:], self.size) for at in places]
        directions = np.array([SEAM_AXIS[p.direction] for p in pairs], int)[table.owner]
        self.along = np.where(directions == 2, places[0][:, 1] / self.size[0],
                              places[0][:, 2] / self.size[1])  # fmt: skip
        few = [k for k, p in enumerate(pairs) if len(p.points) < LEAST_POINTS]
        for k in few:
            self._spread(table.of_pair(k), step, SEAM_AXIS[pairs[k].direction])
        self.measured = ~np.isin(table.owner, few)

    def _by_shapes(self, places, shapes: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the shapes of tiles add to displacements, (points, 3)."""
        of_cells = np.zeros((self.grid.cells, 3, 3))
        for name, shape in shapes.items():
            of_cells[self.grid.index[name]] = shape
        size = np.array(self.grid.tile_shape, float)
        shares = [(at - (size - 1) / 2) / np.maximum(size - 1, 1) for at in places]
        moved = [np.einsum("pij,pj->pi", of_cells[self.ends[:, k]], shares[k]) for k in (0, 1)]
        return np.asarray(moved[1] - moved[0])

    def _spread(self, own: slice, step: np.ndarray, axis: int) -> None:
        """Let the displacement of a pair without points stand for the mean along its seam."""
        if own.start == own.stop:
            return
        count = 9
        middle = self.table.first[own][0]
        line = np.tile(middle, (count, 1))
        line[:, 3 - axis] = np.linspace(0, self.grid.tile_shape[3 - axis] - 1, count)
        for side, by in ((0, 0.0), (1, step[own][0])):
            mean = interpolation((line - by)[:, 1:], self.size).mean(axis=0)
            matrix = self.at[side].tolil()
            for row in range(own.start, own.stop):
                matrix[row] = mean
            self.at[side] = matrix.tocsr()

    def places(self) -> np.ndarray:
        """Number of the place of every point; those of a seam that lie at one are neighbours."""
        part = np.minimum((self.along * _PLACES).astype(int), _PLACES - 1)
        return self.table.owner * _PLACES + np.maximum(part, 0)


class _Model:
    """Normal equations for one correlation length, and their solution at the likeliest ratio.

    Unknown are, for every cell, its origin and the factors of its basis, for y and x alike.
    """

    def __init__(self, seams: _Seams, length: float, weights: np.ndarray, sd=None) -> None:
        self.seams, self.length, self.weights = seams, length, weights
        self.basis = field_basis(length, seams.size)
        self.terms = self.basis.shape[1]
        cells = seams.grid.cells
        self._width = self.terms + 1
        self.design = self._designed()
        weighted = self.design.multiply(weights[:, None]).tocsr()
        self._normal = (weighted.T @ self.design + self._ties(cells)).tocsc()
        self._right = weighted.T @ seams.values + self._tied_to
        self._total = float((weights[:, None] * seams.values**2).sum())
        self._of_fields = np.ones(cells * self._width)
        self._of_fields[:: self._width] = 0.0
        self._free = 2 * (int((weights > 0).sum()) - len(set(seams.ends[weights > 0].ravel())) + 1)
        if sd is None:
            found = optimize.minimize_scalar(
                lambda log: self._evaluate(math.exp(log))[0],
                bounds=tuple(map(math.log, _SD_VOX)), method="bounded", options={"xatol": 0.1},
            )  # fmt: skip
            sd = math.exp(float(found.x))
        self.ratio = sd
        self.cost, self.solution, self.noise = self._evaluate(sd)

    @property
    def sd_vox(self) -> float:
        """Standard deviation of the fields."""
        return self.ratio * self.noise

    @property
    def origins(self) -> np.ndarray:
        """Origins (y, x) of all cells."""
        return self.solution[:: self._width]

    def field(self, cell: int) -> np.ndarray:
        """Field of a cell at the nodes, (2, NODES, NODES)."""
        first = cell * self._width + 1
        own = self.basis @ self.solution[first : first + self.terms]
        return own.T.reshape(2, NODES, NODES)

    def _designed(self) -> sparse.csr_matrix:
        seams, number = self.seams, len(self.seams.values)
        parts = []
        for side, sign in ((0, -1.0), (1, 1.0)):
            entries = np.column_stack([np.ones(number), seams.at[side] @ self.basis]) * sign
            columns = seams.ends[:, side][:, None] * self._width + np.arange(self._width)
            rows = np.repeat(np.arange(number), self._width)
            parts.append((entries.ravel(), rows, columns.ravel()))
        data, rows, columns = (np.concatenate(p) for p in zip(*parts))
        return sparse.csr_matrix(
            (data, (rows, columns)), shape=(number, seams.grid.cells * self._width)
        )

    def _ties(self, cells: int) -> sparse.csr_matrix:
        """Weak ties of neighbouring cells, and of the first cell to 0."""
        flat = np.array([(i, j) for i, j, _ in self.seams.grid.neighbours], int).reshape(-1, 2)
        count = len(flat)
        step = sparse.csr_matrix(
            (
                np.tile([-1.0, 1.0], count),
                (np.repeat(np.arange(count), 2), flat.ravel() * self._width),
            ),
            (count, cells * self._width),
        )
        start = self.seams.start[:, 1:]
        self._tied_to = _TIE * (step.T @ (start[flat[:, 1]] - start[flat[:, 0]]))
        first = sparse.csr_matrix(([1.0], ([0], [0])), shape=(cells * self._width,) * 2)
        return _TIE * (step.T @ step) + first

    def _evaluate(self, ratio: float) -> tuple[float, np.ndarray, float]:
        """-2 log likelihood but for a constant, solution, and scale of the noise.

        ``ratio`` is the standard deviation of the fields as a multiple of that scale.
        """
        prior = self._of_fields / ratio**2
        factor = _factor(self._normal + sparse.diags(prior).tocsc())
        solution = factor.solve(self._right)
        explained = float((self._right * solution).sum())
        scale = max((self._total - explained) / max(self._free, 1), 1e-6)
        logdet = float(np.log(np.abs(factor.U.diagonal())).sum())
        terms = float(self._of_fields.sum())
        cost = self._free * math.log(scale) + 2 * (logdet + 2 * terms * math.log(ratio))
        return cost, solution, math.sqrt(scale)

    def without(self, held: np.ndarray) -> _Model:
        """The same without some of the points, with the ratio that was found with them."""
        return _Model(self.seams, self.length, np.where(held, 0.0, self.weights), self.ratio)

    def rigid(self) -> np.ndarray:
        """Origins (y, x) of all cells without fields."""
        own = slice(None, None, self._width)
        return np.asarray(_factor(self._normal[own, own].tocsc()).solve(self._right[own]))


def _likeliest(seams: _Seams, weights: np.ndarray, begin: int) -> tuple[int, _Model]:
    """Number of the correlation length that no neighbour surpasses, from one on, and its model."""
    found: dict[int, tuple[float, float]] = {}

    def cost(number: int) -> float:
        if number not in found:
            model = _Model(seams, LENGTHS[number], weights)
            found[number] = model.cost, model.ratio
        return found[number][0]

    best = begin
    while True:
        near = [n for n in (best, best - 1, best + 1) if 0 <= n < len(LENGTHS)]
        better = min(near, key=cost)
        if better == best:
            return best, _Model(seams, LENGTHS[best], weights, found[best][1])
        best = better


def _factor(matrix: sparse.csc_matrix):
    return splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _first_weights(seams: _Seams) -> np.ndarray:
    """Inverse variances of points about a smooth curve along each seam; 0 where they are off it."""
    weights = seams.table.noise**-2.0
    for own in _seams_of(seams):
        t = 2 * seams.along[own] - 1
        kinds = len(set(np.floor(seams.along[own] * 2 * _PLACES).tolist()))
        degree = min(3, kinds - 2)
        if degree < 0 or len(t) < 3 * (degree + 1):
            continue
        trend = robust_fit(np.polynomial.legendre.legvander(t, degree), seams.values[own])
        scatter = max(float(np.sqrt((trend.scatter**2).mean())), _LEAST_NOISE)
        weights[own] = np.maximum(trend.weights, 1e-6) / scatter**2
    return weights


def _weights_again(seams: _Seams, left: np.ndarray) -> np.ndarray:
    """The same by what a model leaves of the points (Tukey's biweight)."""
    away = np.linalg.norm(left, axis=1)
    weights = seams.table.noise**-2.0
    for own in _seams_of(seams):
        # the median of the length of two normal numbers is 1.1774
        scatter = max(float(np.median(away[own])) / 1.1774, _LEAST_NOISE)
        weights[own] = (1 - np.minimum(away[own] / (_CUT * scatter), 1) ** 2) ** 2 / scatter**2
    return weights


def _seams_of(seams: _Seams) -> Iterator[slice]:
    for k in sorted(set(seams.table.owner[seams.measured].tolist())):
        yield seams.table.of_pair(k)


def _held_out(seams: _Seams, model: _Model) -> HeldOut:
    """Every fifth place of the seams, foretold from the others, five times."""
    places = seams.places()
    counts = (model.weights > 0) & seams.measured
    moved, bent = [], []
    for fold in range(_FOLDS):
        held = (places % _FOLDS == (fold + places // _PLACES) % _FOLDS) & seams.measured
        other = model.without(held)
        origins = other.rigid()
        ends = seams.ends
        rigid = seams.values - (origins[ends[:, 1]] - origins[ends[:, 0]])
        left = seams.values - other.design @ other.solution
        for place in sorted(set(places[held & counts].tolist())):
            own = counts & (places == place)
            moved.append(float(np.linalg.norm(np.median(rigid[own], axis=0))))
            bent.append(float(np.linalg.norm(np.median(left[own], axis=0))))
    return HeldOut(np.array(moved), np.array(bent))
