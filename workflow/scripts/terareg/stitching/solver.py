"""Positions of all tiles from the displacements of neighbours.

The unknowns are the positions of all cells of the grid, acquired or not. Every measured
displacement is a spring whose pull fades where it contradicts the others (Geman-McClure, annealed);
every pair of neighbouring cells is tied weakly by the stage model: the median measured step per
direction. So tiles without signal follow their neighbours at the true step, groups of tiles without
a link between them are placed by the model, and no position is left undetermined.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from terareg.core.errors import StitchingError
from terareg.stitching.bends import (
    Bends,
    clear_shapes,
    foretelling,
    misfits_of,
    solve_bends,
)
from terareg.stitching.cells import CellGrid, corroborated
from terareg.stitching.elastic import Elastic, solve_elastic
from terareg.stitching.findings import Solution, report, why_unusable
from terareg.stitching.leans import Lean, growth_of, leaning, leans_of_tiles, without_growth
from terareg.stitching.pairs import DIRECTIONS, PairResult
from terareg.stitching.placement import Placement, PlacementSettings
from terareg.stitching.settings import MODELS, MODELS_OF_POINTS

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition

logger = logging.getLogger(__name__)

# Largest deviation, in standard deviations, of a link that no loop confirms from the stage model,
# and the same if it contradicts the robust solution as well.
_STRAYS = 5.0
_STRAYS_AND_WRONG = 3.0
# Share of the misfit of seams that shapes of tiles may leave, to be taken for what they are.
_EXPLAINED = 0.5
# Part of the misfit of seams that fields of tiles must take away at places that are not known to
# them, and the least misfit, in voxels, that is worth interpolating every tile.
_FORETOLD = 0.25
_LEAST_MISFIT = 0.3
_NO_WORSE = 1.1  # times the misfit, at which the simpler of two models is taken
_TIE = 1e-7  # relative weight of the model once links have been kept or rejected


def place(
    acquisition: Acquisition,
    pairs: Sequence[PairResult],
    settings: PlacementSettings | None = None,
    tile_model: str = "translation",
) -> Placement:
    """Place all tiles by a robust global solution.

    Minimises the sum over links of ``w * s^2 |r|^2 / (s^2 + |r|^2)``, r the residual and s a scale
    annealed from ``anneal_vox`` to ``reject_vox`` or twice the scatter of the links (Geman
    and McClure 1985, by iteratively reweighted least squares), plus
    ``|x_j - x_i - m|^2 / sigma_stage^2`` over neighbouring cells, m the stage model. Links that
    this first solution contradicts are rejected. The second solution uses the others, with a weight
    of the model so low that it only determines what the links leave open.

    Parameters
    ----------
    acquisition : Acquisition
        Tiles with nominal positions.
    pairs : sequence of PairResult
        At most one per pair of neighbours; pairs may be missing.
    settings : PlacementSettings, optional
    tile_model : str
        "translation": every tile is moved as a whole; "depth": its planes may move with depth, by
        the lean that the links measured; "affine": turned, magnified and sheared as well, by what
        points of the seams measured; "elastic": with a smooth field of its own as well, see
        :mod:`terareg.stitching.elastic`; "auto": the simplest of these that explains the links, for
        tiles for which it is clear and large enough to matter.

    Returns
    -------
    Placement

    Raises
    ------
    StitchingError
        If two tiles share a cell, or a pair names unknown tiles or tiles that are not neighbours.
    """
    if tile_model not in MODELS:
        raise StitchingError(f"model {tile_model!r} is unknown; choose one of {', '.join(MODELS)}")
    settings = settings or PlacementSettings()
    grid = CellGrid(acquisition)
    measured = grid.links(pairs)
    usable = np.array([not why_unusable(p, settings) for p in pairs], bool)
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
    in_loop = corroborated(grid, measured, pairs, usable)
    steps = np.array([model[p.direction] for p in pairs], float).reshape(-1, 3)
    strays = np.abs(displ - steps).max(axis=1, initial=0) / stage_sigma
    for _ in range(3):  # a link that is now rejected may have distorted the residuals of others
        residual = displ - (x[measured[:, 1]] - x[measured[:, 0]])
        length = np.linalg.norm(residual, axis=1)
        limit = max(settings.reject_vox, settings.reject_sigmas * scatter)
        sigmas = settings.reject_sigmas * np.sqrt(variance)
        wrong = length > np.maximum(limit, sigmas)
        now = usable & ~(wrong & (in_loop | (strays > _STRAYS_AND_WRONG)))
        # a link that no loop confirms is rejected if it strays far from the stage model
        now &= corroborated(grid, measured, pairs, now) | (strays <= _STRAYS)
        x = _solve(grid.cells, ends, tie_step, stage * _TIE, measured, displ, weight * now)
        if np.array_equal(now, kept):
            break
        kept = now
    found = Solution(x, usable, kept, model, stage_sigma, enough)
    planes = grid.tile_shape[0]
    leans = leans_of_tiles(list(grid.index), pairs, kept, planes)
    if tile_model in MODELS_OF_POINTS:
        places = {name: x[cell] for name, cell in grid.index.items()}
        growth = growth_of(leans, places, planes)
        if growth:
            pairs = [without_growth(pair, growth, planes) for pair in pairs]
            leans = leans_of_tiles(list(grid.index), pairs, kept, planes)
            found = replace(found, growth=growth)
    shapes = {name: _leaning_shape(lean) for name, lean in _applied(leans, tile_model).items()}
    found = replace(found, leans=leans, shapes=shapes)
    if tile_model in MODELS_OF_POINTS:
        # fields are added to what is clear of shapes, so that "elastic" begins as "auto" does
        shaped = _bent(grid, pairs, found, settings, "affine" if tile_model == "affine" else "auto")
        if tile_model in ("elastic", "auto"):
            shaped = _distorted(grid, pairs, (found, shaped), settings, tile_model)
        found = shaped
    placement = report(grid, pairs, found, settings)
    if tile_model == "elastic" and found.elastic is None and len(pairs):
        text = (
            "stitching.model is elastic, but no seam has points that tell how tiles are distorted "
            "(nothing in common, or displacements of the engine mip_ncc or of a file of your own); "
            "tiles are fused as straight"
        )
        logger.warning("%s", text)
        placement = replace(placement, warnings=(*placement.warnings, text))
    return placement


def _applied(leans: dict[str, Lean], tile_model: str) -> dict[str, Lean]:
    if tile_model == "translation":
        return {}
    return leans if tile_model == "depth" else leaning(leans)


def _leaning_shape(lean: Lean) -> np.ndarray:
    return np.column_stack([lean.vox, np.zeros((3, 2))])


def _bent(
    grid: CellGrid, pairs: Sequence[PairResult], found: Solution, settings: PlacementSettings,
    tile_model: str,
) -> Solution:  # fmt: skip
    """The solution with shapes of tiles that are turned, larger or sheared; as it is without."""
    best = found
    for used in (found.kept, found.usable):
        # links that tiles as they are seem to contradict may be those that tell their shapes
        if best is not found and np.array_equal(best.kept, found.usable):
            break
        if any(pair.points and use for pair, use in zip(pairs, used)):
            other = _bent_by(grid, pairs, replace(found, kept=used), settings, tile_model)
            if other is not None and other.kept.sum() > best.kept.sum() - (best is found):
                best = other
    return best


def _bent_by(
    grid: CellGrid, pairs: Sequence[PairResult], found: Solution, settings: PlacementSettings,
    tile_model: str,
) -> Solution | None:  # fmt: skip
    """The same by the links that ``found`` keeps; None if they tell no shape."""
    tied = sorted({n for p, use in zip(pairs, found.kept) if use for n in (p.a, p.b)})
    every = (0, 1, 2) if grid.tile_shape[0] > 1 else (1, 2)
    free: dict[str, Sequence[int]] = dict.fromkeys(tied, every)
    bends = solve_bends(grid, pairs, found.kept, found.positions, free)
    if tile_model == "auto":
        clear, told = clear_shapes(bends), [""]
        while clear != told:  # what one tile foretells depends on the shapes of the others
            if not clear:
                return None
            free = {**dict.fromkeys(found.shapes, (0,)), **dict.fromkeys(clear, every)}
            start, told = found.positions, clear
            bends = solve_bends(grid, pairs, found.kept, start, free)
            if not _explain(grid, pairs, found, bends):
                return None
            clear = foretelling(grid, pairs, found.kept, start, free, told)
    ends = grid.links(pairs)
    step = bends.positions[ends[:, 1]] - bends.positions[ends[:, 0]]
    displ = np.array([p.displ_vox for p in pairs], float).reshape(-1, 3)
    left = np.where(np.isnan(bends.residuals), displ - step, bends.residuals)
    length = np.linalg.norm(left, axis=1)
    scatter = 1.4826 * float(np.median(length[found.kept]))
    kept = found.usable & (length <= max(settings.reject_vox, settings.reject_sigmas * scatter))
    return replace(
        found, positions=bends.positions, kept=kept, shapes=bends.shapes, straight=step + left
    )


def _distorted(
    grid: CellGrid, pairs: Sequence[PairResult], solutions: tuple[Solution, Solution],
    settings: PlacementSettings, tile_model: str,
) -> Solution:  # fmt: skip
    """A solution with fields of tiles that are distorted within themselves; else as it is.

    ``solutions`` are those without and with shapes of tiles that are turned, larger or sheared.
    """
    plain, found = solutions
    before = _misfit(misfits_of(grid, pairs, found.positions, found.shapes), found.kept)
    if tile_model == "auto" and before < _LEAST_MISFIT:
        return found
    elastic = solve_elastic(grid, pairs, found.kept, found.positions, found.shapes)
    if elastic is None or (tile_model == "auto" and not _foretold(elastic)):
        return found
    if plain is not found:
        # shapes that only stand for what fields explain as well are none
        other = solve_elastic(grid, pairs, plain.kept, plain.positions, plain.shapes)
        if other is not None and _left(other) < _NO_WORSE * _left(elastic):
            found, elastic = plain, other
            before = _misfit(misfits_of(grid, pairs, found.positions, found.shapes), found.kept)
    best, used = found, found.kept
    for again in (False, True):  # links that straight tiles contradict may tell the fields
        if again:
            elastic = solve_elastic(grid, pairs, used, found.positions, found.shapes) or elastic
        ends = grid.links(pairs)
        step = elastic.positions[ends[:, 1]] - elastic.positions[ends[:, 0]]
        displ = np.array([p.displ_vox for p in pairs], float).reshape(-1, 3)
        left = np.where(np.isnan(elastic.residuals), displ - step, elastic.residuals)
        length = np.linalg.norm(left, axis=1)
        scatter = 1.4826 * float(np.median(length[used]))
        limit = max(settings.reject_vox, settings.reject_sigmas * scatter)
        kept = found.usable & (length <= limit)
        best = replace(
            found, positions=elastic.positions, kept=kept, straight=step + left, elastic=elastic,
            misfit_before_vox=before,
        )  # fmt: skip
        if np.array_equal(kept, used):
            break
        used = kept
    return best


def _left(elastic: Elastic) -> float:
    """Mean misfit at places of seams that were not used, with fields."""
    return float(elastic.held_out.bent.mean()) if len(elastic.held_out.bent) else math.inf


def _foretold(elastic: Elastic) -> bool:
    """Whether fields foretell places of seams that were not used for them."""
    held = elastic.held_out
    return held.sure and held.gain > _FORETOLD and float(held.moved.mean()) > _LEAST_MISFIT


def _misfit(misfits: dict[int, np.ndarray], kept: np.ndarray) -> float:
    sizes = [size for k, found in misfits.items() if kept[k] for size in found]
    return float(np.mean(sizes)) if sizes else 0.0


def _explain(grid: CellGrid, pairs, found: Solution, bends: Bends) -> bool:
    """Whether shapes explain most of what seams of their tiles show: a warp is none of them."""
    near = [k for k, p in enumerate(pairs) if found.kept[k] and {p.a, p.b} & set(bends.shapes)]
    before = misfits_of(grid, pairs, found.positions, found.shapes)
    after = misfits_of(grid, pairs, bends.positions, bends.shapes)
    sizes = [
        np.concatenate([misfit.get(k, np.zeros(0)) for k in near]) for misfit in (before, after)
    ]
    return not sizes[0].size or bool(sizes[1].mean() < _EXPLAINED * sizes[0].mean())


def _stage_model(grid, pairs, displ, usable):
    """Median step per direction, scatter of the stage about it, and usable pairs per direction."""
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
