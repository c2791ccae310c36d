"""Quality of a placement: the state of every link, loop closures, warnings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse, special
from scipy.sparse.csgraph import connected_components

from terareg.core.errors import few
from terareg.stitching.bends import misfits_of
from terareg.stitching.cells import CellGrid, corroborated, sides_of
from terareg.stitching.elastic import Elastic
from terareg.stitching.leans import Lean, jump_warnings, lean_left, lean_warnings, leaning
from terareg.stitching.pairs import DIRECTIONS, SEAM_AXIS, PairResult
from terareg.stitching.placement import Link, PlacedTile, Placement, PlacementSettings
from terareg.stitching.shapes import LEAST_VOX, matrix_of, shape_warnings
from terareg.volumes.growths import Growth
from terareg.volumes.tile_boxes import affine_box

logger = logging.getLogger(__name__)

_STEP_VOX = 3.0  # voxels by which a step may differ from the nominal one without a word
_SURE = 0.999  # probability of what is said of a step, against chance
_FAR = 4.0  # times the distance at which a correlation is half; farther away there is none
_FEW = 10  # links whose scatter a median of deviations may miss


@dataclass(frozen=True)
class Solution:
    """Result of the solver.

    Attributes
    ----------
    positions : array of float, (cells, 3)
        Positions of all cells, voxels (z, y, x).
    usable, kept : array of bool
        Pairs good enough to be used, and those of them that the others do not contradict.
    model : dict of str to array
        Stage step (z, y, x) per direction.
    sigma_vox : float
        Scatter of the stage about the model.
    enough : dict of str to int
        Usable pairs per direction.
    leans : dict of str to Lean
        Leans of the tiles as measured.
    shapes : dict of str to array, (3, 3)
        Shapes of tiles that fusion is to correct, see :mod:`terareg.stitching.shapes`.
    straight : array of float, (pairs, 3), or None
        Displacements of the pairs less what these shapes explain; None: as measured.
    growth : float
        See :class:`~terareg.stitching.placement.Placement`.
    elastic : Elastic or None
        Fields of tiles that fusion is to correct.
    misfit_before_vox : float or None
        Mean misfit of thirds of kept seams without these fields.
    """

    positions: np.ndarray
    usable: np.ndarray
    kept: np.ndarray
    model: dict[str, np.ndarray]
    sigma_vox: float
    enough: dict[str, int]
    leans: dict[str, Lean] = field(default_factory=dict)
    shapes: dict[str, np.ndarray] = field(default_factory=dict)
    straight: np.ndarray | None = None
    growth: float = 0.0
    elastic: Elastic | None = None
    misfit_before_vox: float | None = None


def report(
    grid: CellGrid, pairs: Sequence[PairResult], found: Solution, settings: PlacementSettings
) -> Placement:
    """The placement, with the state of every link and warnings for the user."""
    kept, usable, x, model = found.kept, found.usable, found.positions, found.model
    measured = grid.links(pairs)
    straight = found.straight
    if straight is None:
        straight = np.array([p.displ_vox for p in pairs], float).reshape(-1, 3)
    links, count = [], np.zeros(grid.cells, int)
    in_loop = corroborated(grid, measured, pairs, usable)
    for k, pair in enumerate(pairs):
        a, b = measured[k]
        residual = straight[k] - (x[b] - x[a])
        state, reason = "kept", ""
        if not usable[k]:
            state = "empty" if pair.status == "no_signal" else "unused"
            reason = why_unusable(pair, settings)
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
                pair.lean_vox, pair.lean_sigma_vox, _seam_share(pair, residual), pair.side,
            )
        )  # fmt: skip
    accepted = measured[kept]
    graph = sparse.coo_matrix(
        (np.ones(len(accepted)), (accepted[:, 0], accepted[:, 1])), shape=(grid.cells,) * 2
    )
    _, group = connected_components(graph, directed=False)
    sizes = np.bincount(group[sorted(grid.names)], minlength=group.max() + 1)
    largest = int(np.argmax(sizes))
    tiles, fields = {}, _fields_of(found)
    for cell, name in grid.names.items():
        state = "model"
        if count[cell]:
            state = "linked" if group[cell] == largest else "group"
        lean, height, width = map(_floats, found.shapes.get(name, np.zeros((3, 3))).T)
        tiles[name] = PlacedTile(
            cell // grid.columns, cell % grid.columns, _floats(x[cell]), _integers(x[cell]),
            state, int(count[cell]), lean, height, width,
            _nodes(fields[name]) if name in fields else None,
        )  # fmt: skip
    unscanned = {
        f"{cell // grid.columns},{cell % grid.columns}": _integers(x[cell])
        for cell in range(grid.cells)
        if cell not in grid.names
    }
    loops = _loops(grid, pairs, straight, kept, usable)
    summary = _summary(links, loops, tiles)
    summary["lean_left_vox"] = lean_left(pairs, kept, found.shapes, grid.tile_shape[0])
    misfits = misfits_of(grid, pairs, x, found.shapes, fields)
    within = [size for k, sizes in misfits.items() if kept[k] for size in sizes]
    summary |= _summary_of_fields(found, fields, within)
    sure = misfits_of(grid, pairs, x, found.shapes, fields, sure=True)
    beyond = [size for k, sizes in sure.items() if kept[k] for size in sizes]
    summary["seam_misfit_vox"] = float(np.percentile(beyond, 95)) if beyond else None
    summary["tiles_bent"] = sum(
        bool(np.abs(shape[:, 1:]).max() > LEAST_VOX) for shape in found.shapes.values()
    )
    summary["tiles_leaning"] = len(leaning(found.leans)) if found.leans else None
    groups = len({int(group[c]) for c in grid.names if count[c]})
    warnings = _warnings(grid, pairs, links, tiles, groups, found)
    for text in warnings:
        logger.warning("%s", text)
    return Placement(
        tiles,
        unscanned,
        tuple(links),
        tuple(loops),
        {
            **{d: _floats(model[d]) for d in DIRECTIONS},
            "sigma_vox": float(found.sigma_vox),
            "nominal": {d: _floats(grid.nominal[d]) for d in DIRECTIONS},
            "links": found.enough,
        },
        summary,
        tuple(warnings),
        found.growth,
    )


def _fields_of(found: Solution) -> dict[str, np.ndarray]:
    """Fields as they are written: to a tenth of a thousandth of a voxel."""
    if found.elastic is None:
        return {}
    return {name: np.round(nodes, 4) + 0.0 for name, nodes in found.elastic.fields.items()}


def _nodes(field_vox: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(row) for row in axis) for axis in field_vox.tolist())


def _summary_of_fields(found: Solution, fields, within: Sequence[float]) -> dict:
    """Numbers of the report on tiles that are distorted within themselves."""
    elastic = found.elastic
    if elastic is None:
        return {"tiles_distorted": 0}
    return {
        "tiles_distorted": len(fields),
        "field_sd_vox": round(elastic.sd_vox, 4),
        "field_length_px": round(elastic.length_px, 2),
        "field_misfit_before_vox": found.misfit_before_vox,
        "field_misfit_after_vox": float(np.mean(within)) if within else None,
        "field_held_out_before_vox": _statistic(np.mean, elastic.held_out.moved),
        "field_held_out_after_vox": _statistic(np.mean, elastic.held_out.bent),
    }


def _field_warnings(found: Solution, tiles: int) -> list[str]:
    """Sentences for the user about tiles that are distorted within themselves."""
    elastic = found.elastic
    if elastic is None:
        return []
    held = elastic.held_out
    words = (
        f"{len(elastic.fields)} of {tiles} tiles are distorted within themselves, by "
        f"{elastic.sd_vox:.1f} voxels (standard deviation) that change over about "
        f"{elastic.length_px:.0f} px; fusion puts them right near their seams (placement.json "
        "holds how, xml_merging.xml their origins alone); flat-field and files for other programs "
        "take them as straight"
    )
    if not len(held.moved):
        return [words]
    foretold = (
        f"places of seams that were left out lie {held.moved.mean():.2f} voxels off without that "
        f"and {held.bent.mean():.2f} with it"
    )
    if held.gain <= 0:
        foretold += ", so that it says nothing: set stitching.model: auto"
    return [f"{words}; {foretold}"]


def why_unusable(pair: PairResult, settings: PlacementSettings) -> str:
    """Why a pair is not used as a link; empty if it is."""
    if pair.status == "no_signal":
        return "no signal in the overlap"
    if pair.status == "beyond_search":
        listed = ", ".join(map(str, pair.search_vox))
        return f"best fit at the limit of the search, {listed} voxels in z, y, x"
    if pair.status != "ok":
        return f"windows disagree ({pair.agree} of {pair.of} agree)"
    probability = pair.engine == "ncc"
    least = settings.min_reliability if probability else settings.min_reliability_xml
    if pair.reliability < least:
        return f"reliability {pair.reliability:.3f} below {least:g}"
    if not np.all(np.isfinite(pair.displ_vox)):
        return "displacement is not finite"
    return ""


def _why_rejected(residual, pair: PairResult, model, in_loop: bool) -> str:
    if in_loop:
        listed = ", ".join(f"{v:.1f}" for v in residual)
        length = np.linalg.norm(residual)
        return f"contradicts its neighbours by {length:.1f} voxels ({listed} in z, y, x)"
    off = np.array(pair.displ_vox) - model[pair.direction]
    listed = ", ".join(f"{v:.1f}" for v in off)
    return (
        f"{np.abs(off).max():.1f} voxels off the usual step of the stage ({listed} in z, y, x), "
        "and no loop confirms it"
    )


def _seam_share(pair: PairResult, residual: np.ndarray) -> float | None:
    """Correlation at a distance from the best fit, as a share of it: that of a Gaussian peak."""
    if pair.status != "ok" or pair.fall_vox is None:
        return None
    away = [abs(float(r)) / f for r, f in zip(residual, pair.fall_vox) if f > 0]
    return round(2.0 ** -sum(min(part, _FAR) ** 2 for part in away), 6)


def _gap_warnings(grid: CellGrid, tiles: dict[str, PlacedTile], growth: float) -> list[str]:
    """A sentence about neighbours between which their shapes leave a gap."""
    shape = np.array(grid.tile_shape)
    boxes = {}
    per_plane = growth / max(1, grid.tile_shape[0] - 1)
    for name, tile in tiles.items():
        if np.any(tile.shape) or growth:
            matrix, middle = matrix_of(tile.shape, grid.tile_shape), (shape - 1) / 2
            centre = np.array(tile.origin_vox) + middle
            origin = tuple(centre - np.linalg.solve(matrix, middle))
            larger = Growth(tuple(centre.tolist()), per_plane) if growth else None
            boxes[name] = affine_box(name, origin, matrix, grid.tile_shape, larger)
        else:
            boxes[name] = tile.integer, tuple(np.add(tile.integer, shape).tolist())
    gaps = []
    for cell, other, direction in grid.neighbours:
        a, b = grid.names.get(cell), grid.names.get(other)
        if a is None or b is None:
            continue
        if not (growth or np.any(tiles[a].shape) or np.any(tiles[b].shape)):
            continue
        gap = boxes[b][0][SEAM_AXIS[direction]] - boxes[a][1][SEAM_AXIS[direction]]
        if gap > 0:
            gaps.append(f"{a}-{b} ({gap} voxels)")
    if not gaps:
        return []
    return [
        "the measured shapes of tiles leave gaps between neighbours, where the fused volume is "
        f"black: {few(gaps)}; acquire with more overlap, or set stitching.model: translation"
    ]


def _loops(grid, pairs, straight, kept, usable) -> list[dict]:
    at = {(grid.index[pair.a], pair.direction): k for k, pair in enumerate(pairs) if usable[k]}
    loops = []
    for row in range(grid.rows - 1):
        for column in range(grid.columns - 1):
            cell = row * grid.columns + column
            sides = sides_of(grid, cell)
            if not all(side in at for side in sides):
                continue
            top, right, bottom, left = (straight[at[s]] for s in sides)
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


def _warnings(grid, pairs, links, tiles, groups, found) -> list[str]:
    warnings, model = [], found.model
    by_model = [name for name, tile in tiles.items() if tile.state == "model"]
    if by_model and len(tiles) > 1:
        warnings.append(
            f"{len(by_model)} of {len(tiles)} tiles have no accepted link and are placed by the "
            f"stage model: {few(by_model)}"
        )
    if groups > 1:
        warnings.append(
            f"{groups} groups of tiles have no links to one another, only within each group; the "
            "stage model places the groups"
        )
    rejected = [f"{link.a}-{link.b}" for link in links if link.state == "rejected"]
    if rejected:
        warnings.append(
            f"links that contradict the others and were rejected: {len(rejected)} ({few(rejected)})"
        )
    beyond = [f"{pair.a}-{pair.b}" for pair in pairs if pair.status == "beyond_search"]
    if beyond:
        warnings.append(
            f"the best fit of {len(beyond)} of {len(pairs)} neighbouring pairs lies at the limit "
            f"of the search ({few(beyond)}); enlarge stitching.displacement.search_um"
        )
    for direction in DIRECTIONS:
        own = [
            p.displ_vox for p, use in zip(pairs, found.usable) if use and p.direction == direction
        ]
        if len(own) < 3:
            continue
        off = np.array(model[direction]) - grid.nominal[direction]
        error = _error_of_median(np.array(own))
        # the fewer links there are, the more standard errors may be chance
        sure = float(special.stdtrit(len(own) - 1, _SURE))
        if np.any((np.abs(off) > _STEP_VOX) & (np.abs(off) > sure * error)):
            step = ", ".join(f"{v:.1f} +- {e:.1g}" for v, e in zip(model[direction], error))
            warnings.append(
                f"the {direction} step is ({step}) voxels (z, y, x), not the nominal "
                f"({', '.join(f'{v:.1f}' for v in grid.nominal[direction])})"
            )
    warnings += jump_warnings(pairs, found.kept)
    told = lean_warnings(found.leans, grid.tile_shape[0])
    if told and found.shapes:
        told[0] += (
            "; fusion shifts their planes accordingly (xml_merging.xml has the position of their "
            "middle plane)"
        )
    elif told:
        told[0] += (
            "; only the middle of their stack is in the right place: set stitching.model: auto"
        )
    bent = shape_warnings(found.shapes, len(tiles), grid.tile_shape)
    if bent:
        bent[0] += (
            "; fusion corrects this (xml_merging.xml has only the positions of their middles, "
            "placement.json the rest)"
        )
        if found.elastic is not None:
            bent[0] += "; with distorted tiles this is a part of their distortion"
    if found.growth:
        told.insert(
            0,
            f"the magnification of all tiles changes by {-100 * found.growth:+.2f} % from the "
            "first plane to the last; fusion rescales their planes (xml_merging.xml has the "
            "position of their middle plane)",
        )
    warnings += told + bent + _field_warnings(found, len(tiles))
    return warnings + _gap_warnings(grid, tiles, found.growth)


def _error_of_median(values: np.ndarray) -> np.ndarray:
    """Standard error of the median of values (n, 3), n at least 2."""
    spread = 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    if len(values) < _FEW:  # so few may lie close to their median by chance
        spread = np.maximum(spread, values.std(axis=0, ddof=1))
    error: np.ndarray = math.sqrt(math.pi / 2) * spread / math.sqrt(len(values))
    return error


def _statistic(function, values) -> float | None:
    return float(function(values)) if len(values) else None


def _floats(values) -> tuple[float, float, float]:
    # rounded to a nanovoxel, so that the last bits of a sparse solution cause no rerun
    return tuple(round(float(v), 9) + 0.0 for v in values)


def _integers(values) -> tuple[int, int, int]:
    return tuple(int(v) for v in np.rint(np.round(np.asarray(values, float), 6)))
