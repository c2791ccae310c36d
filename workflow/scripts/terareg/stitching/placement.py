"""Positions of all tiles from the displacements of neighbours.

Unknown are the positions of all cells of the grid, acquired or not. Every measured displacement is
a spring whose pull fades where it contradicts the others (Geman-McClure, annealed); every pair of
neighbouring cells is tied, weakly, by the stage model: the median measured step per direction. So
tiles without signal follow their neighbours with the true step, groups of tiles without a link to
each other are placed by the model, and nothing can fly away.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from terareg.errors import StitchingError
from terareg.stitching.displacement import DIRECTIONS, PairResult
from terareg.storage.records import read_json, write_json

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

logger = logging.getLogger(__name__)

# How far, in standard deviations, a link that no loop confirms may stray from the stage model, and
# how far if it contradicts the robust solution as well.
_STRAYS = 5.0
_STRAYS_AND_WRONG = 3.0
_TIE = 1e-7  # weight of the model, relative, once links have been judged


@dataclass(frozen=True)
class PlacementSettings:
    """Options of :func:`place`.

    Attributes
    ----------
    min_reliability : float
        Least reliability, 0 to 1, of a measured link.
    min_reliability_xml : float
        The same for links read from TeraStitcher files or measured by mip_ncc, whose reliability
        is no probability.
    reject_vox, reject_sigmas : float
        A link is rejected if its residual is larger than both, in voxels and in multiples of the
        links' scatter. Below that, links that contradict each other (warped tiles) are averaged.
    anneal_vox : float
        Largest scale of the robust error at the start, voxels.
    sigma_floor_vox : float
        Smallest standard error that a link is credited with, voxels.
    """

    min_reliability: float = 0.99
    min_reliability_xml: float = 0.3
    reject_vox: float = 3.0
    reject_sigmas: float = 4.0
    anneal_vox: float = 60.0
    sigma_floor_vox: float = 0.2


@dataclass(frozen=True)
class PlacedTile:
    """Position of a tile.

    Attributes
    ----------
    row, column : int
    origin_vox : tuple of float
        Position (z, y, x) of its first voxel; grid cell (0, 0) is at 0.
    integer : tuple of int
        ``origin_vox`` rounded, once, from the global solution.
    state : str
        "linked": tied by accepted links to the largest group; "group": tied to a smaller group,
        which the stage model places; "model": placed by the stage model alone;
        "file": read from a TeraStitcher file.
    links : int
        Accepted links.
    """

    row: int
    column: int
    origin_vox: tuple[float, float, float]
    integer: tuple[int, int, int]
    state: str
    links: int


@dataclass(frozen=True)
class Link:
    """What became of a measured pair.

    Attributes
    ----------
    a, b, direction : str
    displ_vox : tuple of float
        As measured (z, y, x).
    residual_vox : tuple of float
        Measured minus placed.
    sigma_vox : tuple of float
    reliability : float
    state : str
        "kept"; "rejected": contradicts the others; "unused": windows disagree, low reliability;
        "empty": no signal in the overlap.
    reason : str
        Why it was not kept.
    """

    a: str
    b: str
    direction: str
    displ_vox: tuple[float, float, float]
    residual_vox: tuple[float, float, float]
    sigma_vox: tuple[float, float, float]
    reliability: float
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Placement:
    """Result of :func:`place`.

    Attributes
    ----------
    tiles : dict of str to PlacedTile
    unscanned : dict of str to tuple of int
        Integer positions of cells without a tile, key "row,column".
    links : tuple of Link
        In the order of the pairs given.
    loops : tuple of dict
        Per 2 x 2 cell with four measured links: ``row``, ``column``, ``closure_vox`` (z, y, x),
        ``kept`` (whether all four links were): an error measure that needs no truth.
    model : dict
        ``EAST``, ``SOUTH``: step (z, y, x) in voxels; ``sigma_vox``: scatter of the stage about it;
        ``nominal``: the acquisition's steps.
    summary : dict
        Numbers for the report: links by state; residual and closure statistics.
    warnings : tuple of str
    """

    tiles: dict[str, PlacedTile]
    unscanned: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    loops: tuple[dict, ...] = ()
    model: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def origins(self) -> dict[str, tuple[int, int, int]]:
        """Integer origin (z, y, x) of every tile."""
        return {name: tile.integer for name, tile in self.tiles.items()}

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> Placement:
        """Inverse of :meth:`to_json`."""
        return cls(
            {
                name: PlacedTile(
                    t["row"], t["column"], tuple(t["origin_vox"]), tuple(t["integer"]),
                    t["state"], t["links"],
                )
                for name, t in sorted(
                    data["tiles"].items(), key=lambda item: (item[1]["row"], item[1]["column"])
                )
            },
            {key: tuple(value) for key, value in data["unscanned"].items()},
            tuple(
                Link(**{k: tuple(v) if isinstance(v, list) else v for k, v in link.items()})
                for link in data["links"]
            ),
            tuple(
                {k: tuple(v) if isinstance(v, list) else v for k, v in loop.items()}
                for loop in data["loops"]
            ),
            {k: _tuples(v) for k, v in data["model"].items()},
            dict(data["summary"]),
            tuple(data["warnings"]),
        )  # fmt: skip


def save_placement(path, placement: Placement) -> None:
    """Write a placement as JSON."""
    write_json(path, placement.to_json())


def load_placement(path) -> Placement:
    """Read a placement; a file of another kind is an error that names it."""
    data = read_json(path)
    try:
        return Placement.from_json(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise StitchingError(
            f"{path} is no placement ({type(error).__name__}: {error}); delete it and run "
            "place_tiles again"
        ) from error


def place(
    acquisition: Acquisition,
    pairs: Sequence[PairResult],
    settings: PlacementSettings = PlacementSettings(),
) -> Placement:
    """Place all tiles by a robust global solution.

    Minimises the sum over links of ``w * s^2 |r|^2 / (s^2 + |r|^2)``, r the residual and s a scale
    annealed from ``anneal_vox`` to ``reject_vox`` or twice the scatter of the links (Geman
    and McClure 1985, by iteratively reweighted least squares), plus
    ``|x_j - x_i - m|^2 / sigma_stage^2`` over neighbouring cells, m the stage model. Links that
    this first solution contradicts are rejected; the second keeps the others and lowers the
    model's weight until it only says what the links leave open.

    Parameters
    ----------
    acquisition : Acquisition
        Tiles with nominal positions.
    pairs : sequence of PairResult
        At most one per pair of neighbours; pairs may be missing.
    settings : PlacementSettings

    Returns
    -------
    Placement

    Raises
    ------
    StitchingError
        If two tiles share a cell, or a pair names unknown tiles or no neighbours.
    """
    grid = _Grid(acquisition)
    measured = grid.links(pairs)
    usable = np.array([not _unusable(p, settings) for p in pairs], bool)
    displ = np.array([p.displ_vox for p in pairs], float).reshape(-1, 3)
    sigma = np.array([p.sigma_vox for p in pairs], float).reshape(-1, 3)
    variance = (np.maximum(sigma, 0) ** 2).max(axis=1, initial=0) + settings.sigma_floor_vox**2
    model, stage_sigma, enough = _stage_model(grid, pairs, displ, usable)

    ties = grid.neighbours
    tie_step = np.array([model[d] for _, _, d in ties], float).reshape(-1, 3)
    ends = np.array([(i, j) for i, j, _ in ties], int).reshape(-1, 2)
    stage = np.full(len(ties), 1.0 / stage_sigma**2)
    weight = np.where(usable, 1.0 / variance, 0.0)

    x = _solve(grid.cells, ends, tie_step, stage, measured, displ, weight * 0)
    scale = min(settings.anneal_vox, 6 * stage_sigma)
    while True:
        residual = displ - (x[measured[:, 1]] - x[measured[:, 0]])
        length = np.linalg.norm(residual, axis=1)
        trust = (scale**2 / (scale**2 + length**2)) ** 2
        x = _solve(grid.cells, ends, tie_step, stage, measured, displ, weight * trust)
        scatter = _scatter(measured, displ, x, usable)
        floor = max(settings.reject_vox, 2 * scatter)
        if scale <= floor:
            break
        scale = max(floor, scale / 1.6)
    for _ in range(5):
        residual = displ - (x[measured[:, 1]] - x[measured[:, 0]])
        trust = (scale**2 / (scale**2 + np.linalg.norm(residual, axis=1) ** 2)) ** 2
        x = _solve(grid.cells, ends, tie_step, stage, measured, displ, weight * trust)

    kept = usable.copy()
    in_loop = _corroborated(grid, measured, pairs, usable)
    steps = np.array([model[p.direction] for p in pairs], float).reshape(-1, 3)
    strays = np.abs(displ - steps).max(axis=1, initial=0) / stage_sigma
    for _ in range(3):  # a rejected link may have bent the others
        residual = displ - (x[measured[:, 1]] - x[measured[:, 0]])
        length = np.linalg.norm(residual, axis=1)
        limit = max(settings.reject_vox, settings.reject_sigmas * scatter)
        sigmas = settings.reject_sigmas * np.sqrt(variance)
        wrong = length > np.maximum(limit, sigmas)
        now = usable & ~(wrong & (in_loop | (strays > _STRAYS_AND_WRONG)))
        # where no loop confirms a link that alone may refute it
        now &= _corroborated(grid, measured, pairs, now) | (strays <= _STRAYS)
        x = _solve(grid.cells, ends, tie_step, stage * _TIE, measured, displ, weight * now)
        if np.array_equal(now, kept):
            break
        kept = now
    return _report(grid, pairs, kept, usable, x, model, stage_sigma, enough, settings)


# ---------------------------------------------------------------------- the grid
class _Grid:
    """All cells of the grid, numbered row by row, and which tiles lie in them."""

    def __init__(self, acquisition: Acquisition) -> None:
        tiles = acquisition.tiles
        if not tiles:
            raise StitchingError("the acquisition has no tiles; nothing can be placed")
        self.rows = max(acquisition.rows, 1 + max(t.row for t in tiles))
        self.columns = max(acquisition.columns, 1 + max(t.column for t in tiles))
        self.cells = self.rows * self.columns
        self.names: dict[int, str] = {}
        for tile in sorted(tiles, key=lambda t: (t.row, t.column)):
            cell = tile.row * self.columns + tile.column
            if cell in self.names:
                raise StitchingError(
                    f"tiles {self.names[cell]} and {tile.name} are both at row {tile.row}, column "
                    f"{tile.column}; remove one of them"
                )
            self.names[cell] = tile.name
        self.index = {name: cell for cell, name in self.names.items()}
        if len(self.index) != len(tiles):
            raise StitchingError("two tiles of the acquisition have the same name; rename one")
        self.neighbours = [
            (cell, other, direction)
            for cell in range(self.cells)
            for direction, other in (("EAST", cell + 1), ("SOUTH", cell + self.columns))
            if other < self.cells and (direction == "SOUTH" or other % self.columns)
        ]
        self.nominal = _nominal(acquisition)

    def links(self, pairs: Sequence[PairResult]) -> np.ndarray:
        """Cells (a, b) of every pair, int (n, 2)."""
        ends, seen = np.zeros((len(pairs), 2), int), set()
        for k, pair in enumerate(pairs):
            for name in (pair.a, pair.b):
                if name not in self.index:
                    raise StitchingError(
                        f"pair {pair.a} - {pair.b}: tile {name} is not in the acquisition; measure "
                        "the displacements again"
                    )
            a, b = self.index[pair.a], self.index[pair.b]
            step = {"EAST": 1, "SOUTH": self.columns}.get(pair.direction)
            if b - a != step or (step == 1 and b % self.columns == 0 and self.columns > 1):
                raise StitchingError(
                    f"pair {pair.a} - {pair.b}: not neighbours in direction {pair.direction}; "
                    "measure the displacements again"
                )
            if (a, b) in seen:
                raise StitchingError(f"pair {pair.a} - {pair.b} is given twice; remove one")
            seen.add((a, b))
            ends[k] = a, b
        return ends


def _nominal(acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Nominal step (z, y, x) per direction: from neighbours, or else from any two tiles."""
    at = {(t.row, t.column): np.array(t.origin_vox, float) for t in acquisition.tiles}
    steps = {}
    for direction, (row, column) in (("EAST", (0, 1)), ("SOUTH", (1, 0))):
        near = [at[r + row, c + column] - at[r, c] for r, c in at if (r + row, c + column) in at]
        if near:
            steps[direction] = np.median(near, axis=0)
            continue
        overlap = getattr(acquisition, "overlap", None) or (0.1, 0.1)
        _, height, width = acquisition.tile_shape
        steps[direction] = np.array(
            [0.0, row * height * (1 - overlap[0]), column * width * (1 - overlap[1])]
        )
    return steps


def _unusable(pair: PairResult, settings: PlacementSettings) -> str:
    """Why a pair is no link; empty if it is one."""
    if pair.status == "no_signal":
        return "no signal in the overlap"
    if pair.status != "ok":
        return f"windows disagree ({pair.agree} of {pair.of} agree)"
    probability = pair.engine == "ncc"
    least = settings.min_reliability if probability else settings.min_reliability_xml
    if pair.reliability < least:
        return f"reliability {pair.reliability:.3f} below {least:g}"
    if not np.all(np.isfinite(pair.displ_vox)):
        return "displacement is not finite"
    return ""


def _stage_model(grid, pairs, displ, usable):
    """Median step per direction, scatter of the stage about it, and where links determine it."""
    model, deviations, enough = {}, [], {}
    for direction in DIRECTIONS:
        own = np.array([p.direction == direction for p in pairs], bool) & usable
        enough[direction] = int(own.sum())
        model[direction] = grid.nominal[direction]
        if own.sum() >= 3:
            model[direction] = np.median(displ[own], axis=0)
        if own.any():
            deviations.append(displ[own] - model[direction])
    sigma = 1.0
    if deviations:
        deviations = np.concatenate(deviations)
        sigma = max(1.0, 1.4826 * float(np.median(np.abs(deviations))))
        sigma *= 1 + 10 / len(deviations)  # few links say little about the stage
    return model, sigma, enough


def _scatter(measured, displ, x, usable) -> float:
    """Robust standard deviation of the usable links' residuals."""
    if not usable.any():
        return 0.0
    length = np.linalg.norm(displ - (x[measured[:, 1]] - x[measured[:, 0]]), axis=1)[usable]
    return 1.4826 * float(np.median(length))


def _corroborated(grid, measured, pairs, kept) -> np.ndarray:
    """Whether each link is a side of a 2 x 2 cell whose other three sides are kept as well."""
    at = {
        (int(a), pair.direction): k
        for k, ((a, _), pair) in enumerate(zip(measured, pairs))
        if kept[k]
    }
    supported = np.zeros(len(pairs), bool)
    for cell, _ in [key for key in at if key[1] == "EAST"]:
        sides = [at.get(side) for side in _sides(grid, cell)]
        if None not in sides:
            supported[sides] = True
    return supported


def _sides(grid, cell: int) -> list[tuple[int, str]]:
    """Top, right, bottom and left link of the 2 x 2 cell whose first tile is ``cell``."""
    below = cell + grid.columns
    return [(cell, "EAST"), (cell + 1, "SOUTH"), (below, "EAST"), (cell, "SOUTH")]


def _solve(cells, ends, step, tie, measured, displ, weight) -> np.ndarray:
    """Weighted least squares for the positions of all cells, float64 (cells, 3); cell 0 at 0."""
    i = np.concatenate([ends[:, 0], measured[:, 0]])
    j = np.concatenate([ends[:, 1], measured[:, 1]])
    w = np.concatenate([tie, weight])
    d = np.concatenate([step, displ])
    if cells == 1:
        return np.zeros((1, 3))
    # cell 0 is not an unknown
    rows = np.concatenate([i, j, i, j])
    columns = np.concatenate([i, j, j, i])
    values = np.concatenate([w, w, -w, -w])
    normal = sparse.csc_matrix((values, (rows, columns)), shape=(cells, cells))[1:, 1:]
    right = np.zeros((cells, 3))
    np.add.at(right, j, w[:, None] * d)
    np.subtract.at(right, i, w[:, None] * d)
    factor = splu(normal.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                  options={"SymmetricMode": True})  # fmt: skip
    x = np.zeros((cells, 3))
    x[1:] = factor.solve(right[1:])
    # one step of refinement: ties are many orders of magnitude weaker than links
    x[1:] += factor.solve(right[1:] - normal @ x[1:])
    return x


# ---------------------------------------------------------------------- the report
def _report(grid, pairs, kept, usable, x, model, stage_sigma, enough, settings) -> Placement:
    measured = grid.links(pairs)
    links, count = [], np.zeros(grid.cells, int)
    in_loop = _corroborated(grid, measured, pairs, usable)
    for k, pair in enumerate(pairs):
        a, b = measured[k]
        residual = np.array(pair.displ_vox) - (x[b] - x[a])
        state, reason = "kept", ""
        if not usable[k]:
            state = "empty" if pair.status == "no_signal" else "unused"
            reason = _unusable(pair, settings)
        elif not kept[k]:
            state = "rejected"
            reason = _why_rejected(residual, pair, model, in_loop[k])
        else:
            count[a] += 1
            count[b] += 1
        links.append(
            Link(
                pair.a, pair.b, pair.direction, _floats(pair.displ_vox), _floats(residual),
                _floats(pair.sigma_vox), float(pair.reliability), state, reason,
            )
        )  # fmt: skip
    accepted = measured[kept]
    graph = sparse.coo_matrix(
        (np.ones(len(accepted)), (accepted[:, 0], accepted[:, 1])), shape=(grid.cells,) * 2
    )
    _, group = connected_components(graph, directed=False)
    sizes = np.bincount(group[sorted(grid.names)], minlength=group.max() + 1)
    largest = int(np.argmax(sizes))
    tiles = {}
    for cell, name in grid.names.items():
        state = "model"
        if count[cell]:
            state = "linked" if group[cell] == largest else "group"
        tiles[name] = PlacedTile(
            cell // grid.columns, cell % grid.columns, _floats(x[cell]), _integers(x[cell]),
            state, int(count[cell]),
        )  # fmt: skip
    unscanned = {
        f"{cell // grid.columns},{cell % grid.columns}": _integers(x[cell])
        for cell in range(grid.cells)
        if cell not in grid.names
    }
    loops = _loops(grid, pairs, measured, kept, usable)
    summary = _summary(links, loops, tiles)
    groups = len({int(group[c]) for c in grid.names if count[c]})
    warnings = _warnings(grid, pairs, links, tiles, groups, model, enough, settings)
    for text in warnings:
        logger.warning("%s", text)
    return Placement(
        tiles,
        unscanned,
        tuple(links),
        tuple(loops),
        {
            **{d: _floats(model[d]) for d in DIRECTIONS},
            "sigma_vox": float(stage_sigma),
            "nominal": {d: _floats(grid.nominal[d]) for d in DIRECTIONS},
            "links": enough,
        },
        summary,
        tuple(warnings),
    )


def _why_rejected(residual, pair: PairResult, model, in_loop: bool) -> str:
    if in_loop:
        listed = ", ".join(f"{v:.1f}" for v in residual)
        length = np.linalg.norm(residual)
        return f"contradicts its neighbours by {length:.1f} voxels ({listed} in z, y, x)"
    off = np.array(pair.displ_vox) - model[pair.direction]
    listed = ", ".join(f"{v:.1f}" for v in off)
    return (
        f"{np.abs(off).max():.1f} voxels off the stage's usual step ({listed} in z, y, x), and no "
        "loop confirms it"
    )


def _loops(grid, pairs, measured, kept, usable) -> list[dict]:
    at = {
        (int(a), pair.direction): k
        for k, ((a, _), pair) in enumerate(zip(measured, pairs))
        if usable[k]
    }
    loops = []
    for row in range(grid.rows - 1):
        for column in range(grid.columns - 1):
            cell = row * grid.columns + column
            sides = _sides(grid, cell)
            if not all(side in at for side in sides):
                continue
            top, right, bottom, left = (np.array(pairs[at[s]].displ_vox) for s in sides)
            loops.append(
                {
                    "row": row,
                    "column": column,
                    "closure_vox": _floats(top + right - bottom - left),
                    "kept": bool(all(kept[at[s]] for s in sides)),
                }
            )
    return loops


def _summary(links, loops, tiles) -> dict:
    states = [link.state for link in links]
    residual = [np.linalg.norm(link.residual_vox) for link in links if link.state == "kept"]
    closure = [np.linalg.norm(loop["closure_vox"]) for loop in loops if loop["kept"]]
    placed = [tile.state for tile in tiles.values()]
    return {
        "tiles": len(tiles),
        "tiles_linked": placed.count("linked"),
        "tiles_in_groups": placed.count("group"),
        "tiles_by_model": placed.count("model"),
        "links": len(links),
        "links_kept": states.count("kept"),
        "links_rejected": states.count("rejected"),
        "links_unused": states.count("unused"),
        "links_empty": states.count("empty"),
        "residual_median_vox": _statistic(np.median, residual),
        "residual_max_vox": _statistic(np.max, residual),
        "loops": len(closure),
        "closure_median_vox": _statistic(np.median, closure),
        "closure_max_vox": _statistic(np.max, closure),
    }


def _warnings(grid, pairs, links, tiles, groups, model, enough, settings) -> list[str]:
    warnings = []
    by_model = [name for name, tile in tiles.items() if tile.state == "model"]
    if by_model and len(tiles) > 1:
        warnings.append(
            f"{len(by_model)} of {len(tiles)} tiles have no accepted link and are placed by the "
            f"stage model: {_few(by_model)}"
        )
    if groups > 1:
        warnings.append(
            f"{groups} groups of tiles are linked within but not to each other; the stage model "
            "places them"
        )
    rejected = [f"{link.a}-{link.b}" for link in links if link.state == "rejected"]
    if rejected:
        warnings.append(
            f"{len(rejected)} links contradict the others and were rejected: {_few(rejected)}"
        )
    for direction in DIRECTIONS:
        off = np.array(model[direction]) - grid.nominal[direction]
        if enough[direction] >= 3 and np.abs(off).max() > 3:
            warnings.append(
                f"the {direction} step is ({', '.join(f'{v:.1f}' for v in model[direction])}) "
                f"voxels (z, y, x), not the nominal "
                f"({', '.join(f'{v:.1f}' for v in grid.nominal[direction])})"
            )
    wobble = [name for name in map(_wobbles, pairs) if name]
    if wobble:
        warnings.append(
            f"displacements change with depth by more than 1.5 voxels in {len(wobble)} pairs "
            f"(tilt or wobble of the stage): {_few(wobble)}"
        )
    return warnings


def _wobbles(pair: PairResult) -> str:
    """Name of the pair if its agreeing windows drift with z by more than 1.5 voxels rms."""
    windows = [w for w in pair.windows if w.agrees]
    if pair.status != "ok" or len({w.z for w in windows}) < 3:
        return ""
    depth: dict[tuple[int, int], list] = {}
    for window in windows:
        depth.setdefault(window.z, []).append(window.displ_vox)
    means = np.array([np.mean(v, axis=0) for _, v in sorted(depth.items())])
    rms = math.sqrt(float(((means - means.mean(0)) ** 2).mean(0).max()))
    return f"{pair.a}-{pair.b}" if rms > 1.5 else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _statistic(function, values) -> float | None:
    return float(function(values)) if values else None


def _floats(values) -> tuple[float, float, float]:
    # rounded to a nanovoxel: the last bits of a sparse solution are not worth a rerun
    return tuple(round(float(v), 9) + 0.0 for v in values)


def _integers(values) -> tuple[int, int, int]:
    return tuple(int(v) for v in np.rint(np.round(np.asarray(values, float), 6)))


def _tuples(value):
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value
