"""What a block contributes to the centre lines of objects: the voxels that thinning leaves in it.

Every voxel belongs to one block, and whether it is left is a function of the volume around it, not
of blocks: a block is thinned together with what lies within the reach of :data:`ROUNDS` rounds.
Tubes of up to about 9 voxels across are lines then. Of thicker objects a core is left, whose
thinning goes on when blocks are joined (:mod:`terareg.objects.centre_lines`), so that the number of
rounds changes nothing but time and memory.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from terareg.core.levels import Box
from terareg.objects.line_reach import (
    CELL,
    MOVES,
    ROUND,
    ROUNDS,
    axes_of_round,
    near_cells,
    surface_um,
    voxels_reach,
)
from terareg.objects.thinning import STEPS, BoxVoxels, fill_cavities, may_end, thinned
from terareg.volumes.plan import Block

#: unit vectors (z, y, x, in micrometres) along which extents are taken
DIRECTIONS = np.array(
    [d for d in itertools.product(range(-2, 3), repeat=3) if np.abs(d).max() == 2], float
)
DIRECTIONS /= np.sqrt((DIRECTIONS**2).sum(1))[:, None]
_LOOKS = 1 << 20  # voxels that are looked at together
_LOTS = 32  # the least steps that are taken together
_SLACK_UM = 1e-3
_WORTH = 0.35  # of a step, by which a place is deeper for it
_FACES = STEPS[np.abs(STEPS).sum(1) == 1]


@dataclass(frozen=True)
class LineVoxels:
    """Voxels that are left of labels.

    Attributes
    ----------
    labels : numpy.ndarray, shape (n,)
        Ascending.
    voxels : numpy.ndarray of int32, shape (n, 3)
        z, y, x in the volume, ascending in each label.
    places : numpy.ndarray of int32, shape (n, 3)
        Voxels near them that are deeper in the object, see :func:`centred`.
    radius_um : numpy.ndarray of float32, shape (n,)
        From these to the nearest voxel outside of the label or of the volume; negative for a voxel
        of a core, whose thinning goes on.
    surface_labels : numpy.ndarray, shape (m,)
    surfaces : numpy.ndarray of int32, shape (m, 3)
        Voxels outside that touch labels with cores, near these; ascending by label.
    end_labels : numpy.ndarray, shape (k,)
    ends : numpy.ndarray of int32, shape (k, 3)
        Voxels that may be ends of lines; ascending by label.
    extents : numpy.ndarray of uint8, shape (k, len(DIRECTIONS))
        From the places of these to the surface, in steps of :func:`extent_step_um`.
    """

    labels: np.ndarray
    voxels: np.ndarray
    places: np.ndarray
    radius_um: np.ndarray
    surface_labels: np.ndarray
    surfaces: np.ndarray
    end_labels: np.ndarray
    ends: np.ndarray
    extents: np.ndarray

    @classmethod
    def together(cls, parts: Sequence[LineVoxels]) -> LineVoxels:
        """What several blocks have, ascending by label and then by place."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        found = []
        for names in _TABLES:
            order = np.lexsort((*columns[names[1]].T[::-1], columns[names[0]]))
            found += [columns[name][order] for name in names]
        return cls(*found)

    def part(self, which: Callable[[np.ndarray], np.ndarray]) -> LineVoxels:
        """Those of some labels, chosen by a function of labels."""
        found = []
        for names in _TABLES:
            chosen = which(getattr(self, names[0]))
            found += [getattr(self, name)[chosen] for name in names]
        return LineVoxels(*found)

    def between(self, first: np.generic, last: np.generic) -> LineVoxels:
        """Those of the labels from one to another, of :meth:`together`."""
        found = []
        for names in _TABLES:
            labels = getattr(self, names[0])
            a, b = np.searchsorted(labels, first), np.searchsorted(labels, last, "right")
            found += [getattr(self, name)[a:b] for name in names]
        return LineVoxels(*found)


#: what belongs together in LineVoxels: labels, voxels and what is known of these
_TABLES = (
    ("labels", "voxels", "places", "radius_um"),
    ("surface_labels", "surfaces"),
    ("end_labels", "ends", "extents"),
)


def extent_step_um(spacing_um: Sequence[float]) -> float:
    """The unit of extents."""
    return min(spacing_um) / 4


def surroundings(
    block: Block, shape: Box, spacing_um: Sequence[float], rounds: int = ROUNDS
) -> tuple[Box, Box]:
    """Start and stop of what :func:`line_voxels` needs for a block of a volume of ``shape``."""
    reach = voxels_reach(spacing_um, rounds)
    start: Box = tuple(max(0, a - r) for a, r in zip(block.start, reach))
    stop: Box = tuple(min(n, b + r) for b, r, n in zip(block.stop, reach, shape))
    return start, stop


def line_voxels(
    labels: np.ndarray,
    start: Box,
    block: Block,
    spacing_um: Sequence[float],
    rounds: int = ROUNDS,
) -> LineVoxels:
    """Voxels that are left of all labels in a block, after some rounds of thinning.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The :func:`surroundings` of the block; 0 is background.
    start : tuple of int
        Where they begin.
    block : Block
    spacing_um : sequence of float
        Of voxels along z, y, x.
    rounds : int
        At least 1.
    """
    box = np.pad(labels, 1)
    grid = BoxVoxels(box, start)
    live = fill_cavities(grid)
    if not len(live):
        none, nowhere = np.zeros(0, labels.dtype), np.zeros((0, 3), np.int32)
        extents = np.zeros((0, len(DIRECTIONS)), np.uint8)
        radius_um = np.zeros(0, np.float32)
        return LineVoxels(none, nowhere, nowhere, radius_um, none, nowhere, none, nowhere, extents)
    whole, needed = box.copy(), np.zeros(box.size, bool)
    first = np.array(start) - 1  # of the padded box
    low, high = block.start - first, block.stop - first
    for number in range(rounds):
        margin = (rounds - number) * np.array(ROUND) + 1
        live = grid.within(live, low - margin, high + margin)
        live = thinned(grid, needed, [axes_of_round(number, spacing_um)], live)
    live = grid.within(live, low, high)
    done = needed[live]
    done[~done] = grid.count(live[~done]) == 0
    left, indices = grid.solid[live], grid.indices(live)
    radius_um = np.full(len(live), -1.0, np.float32)
    own = left[done]
    places = indices.copy()

    def far_um(at: np.ndarray, of: np.ndarray, least_um: np.ndarray) -> np.ndarray:
        return _radii(whole, own[of], at, least_um, (spacing_um, rounds))

    places[done], radius_um[done] = centred(indices[done], far_um, np.array(spacing_um))
    reach = np.array(voxels_reach(spacing_um, rounds))
    known = low - reach + 1, high + reach - 1
    surface_labels, surfaces = _surfaces(
        whole, (left[~done], indices[~done]), known, first, near_cells(spacing_um, rounds)
    )
    tips = np.flatnonzero(done)
    tips = tips[may_end(grid, needed, live[tips])]
    # the outermost voxels of the array are no surface but where the volume ends
    most_um = float(((reach - MOVES - 1) * spacing_um).min())
    extents = _extents(whole, left[tips], places[tips], spacing_um, most_um)
    found = LineVoxels(
        left,
        indices + first.astype(np.int32),
        places + first.astype(np.int32),
        radius_um,
        surface_labels,
        (surfaces + first).astype(np.int32),
        left[tips],
        indices[tips] + first.astype(np.int32),
        extents,
    )
    return LineVoxels.together([found])


def _extents(
    labels: np.ndarray,
    own: np.ndarray,
    places: np.ndarray,
    spacing_um: Sequence[float],
    most_um: float,
) -> np.ndarray:
    """Steps from places to the surface in all directions."""
    step_um = extent_step_um(spacing_um)
    most = min(255, int(most_um / step_um))
    found = np.full((len(places), len(DIRECTIONS)), most, np.uint8)
    row, way = (index.reshape(-1) for index in np.indices(found.shape))
    step = DIRECTIONS * step_um / spacing_um
    strides = np.array([labels[0].size, labels.shape[2], 1])
    flat, last = labels.reshape(-1), np.array(labels.shape) - 1
    for n in range(1, most):
        at = np.clip(np.floor(places[row] + n * step[way] + 0.5).astype(np.int64), 0, last)
        inside = flat.take(at @ strides) == own[row]
        found[row[~inside], way[~inside]] = n
        row, way = row[inside], way[inside]
        if not len(row):
            break
    return found


@functools.lru_cache(4)
def _ball(spacing_um: tuple[float, ...], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps to all voxels within the largest radius, nearest first, and how far they are."""
    most_um = surface_um(spacing_um, rounds)
    reach = [math.floor(most_um / s) for s in spacing_um]
    steps = np.array(list(itertools.product(*[range(-r, r + 1) for r in reach])))
    far_um = np.sqrt(sum((steps[:, axis] * s) ** 2 for axis, s in enumerate(spacing_um)))
    chosen = np.flatnonzero(far_um <= most_um)
    chosen = chosen[np.argsort(far_um[chosen], kind="stable")]
    return steps[chosen], far_um[chosen].astype(np.float32)


def centred(
    places: np.ndarray,
    far_um: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    spacing_um: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Places that are deeper in an object, and how deep they are.

    Lines of thinning are up to two voxels off the centre. A place moves to the neighbour over a
    face that is deeper by a good part of the step, at most :data:`MOVES` times.

    Parameters
    ----------
    places : numpy.ndarray of int64, shape (n, 3)
    far_um : callable
        Micrometres from some places to the surface, given these, of which rows they are, and what
        it is at least.
    spacing_um : numpy.ndarray
    """
    places, of = places.copy(), np.arange(len(places))
    deep_um = far_um(places, of, np.zeros(len(places), np.float32))
    steps_um = (np.abs(_FACES) @ spacing_um).astype(np.float32)
    for _ in range(MOVES):
        if not len(of):
            break
        there = (places[of, None] + _FACES).reshape(-1, 3)
        least_um = (deep_um[of, None] - steps_um).reshape(-1)
        found = far_um(there, np.repeat(of, len(_FACES)), least_um).reshape(-1, len(_FACES))
        gain = (found - deep_um[of, None]) / steps_um
        best = gain.argmax(1)
        better = gain[np.arange(len(of)), best] >= _WORTH
        of, best, found = of[better], best[better], found[better]
        places[of] += _FACES[best]
        deep_um[of] = found[np.arange(len(of)), best]
    return places, deep_um


def _radii(
    labels: np.ndarray,
    own: np.ndarray,
    indices: np.ndarray,
    least_um: np.ndarray,
    ball: tuple[Sequence[float], int],
) -> np.ndarray:
    """Micrometres from voxels to the nearest voxel of something else than their own labels.

    The outermost voxels of the array are outside, and so is what lies beyond the volume. ``ball``
    is spacing and rounds; ``least_um`` a bound below, from which on voxels are looked at.
    """
    steps, far_um = _ball(tuple(map(float, ball[0])), ball[1])
    # only what moved far along a coarse axis is deeper than all steps, which is then its radius
    found = np.full(len(indices), far_um[-1], np.float32)
    flat, strides = labels.reshape(-1), np.array([labels[0].size, labels.shape[2], 1])
    last = np.array(labels.shape) - 1
    free = (np.minimum(indices, last - indices) >= np.abs(steps).max(0)).all(1)
    first = np.searchsorted(far_um, least_um - _SLACK_UM) // _LOTS * 2 + free
    order = np.argsort(first, kind="stable")
    for open_ in np.split(order, np.flatnonzero(np.diff(first[order])) + 1):
        begin = int(first[open_[0]]) // 2 * _LOTS if len(open_) else 0
        while begin < len(steps) and len(open_):
            end = begin + max(_LOTS, min(begin, _LOOKS // len(open_)))
            at, some = indices[open_], steps[begin:end]
            if free[open_[0]]:
                there = (at @ strides)[:, None] + some @ strides
            else:
                there = np.clip(at[:, None] + some, 0, last) @ strides
            other = flat.take(there) != own[open_, None]
            hit = other.any(1)
            found[open_[hit]] = far_um[begin + other[hit].argmax(1)]
            open_ = open_[~hit]
            begin = end
    return found


def _surfaces(
    labels: np.ndarray,
    cores: tuple[np.ndarray, np.ndarray],
    known: tuple[np.ndarray, np.ndarray],
    first: np.ndarray,
    wide: Box,
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that touch labels with cores from outside, near the cores, each with its label.

    The nearest voxel outside of a voxel of a core, which radii need, is among those of all blocks:
    on the way to it lies a core that is near it.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
    cores : tuple of numpy.ndarray
        Labels and voxels of cores.
    known : tuple of numpy.ndarray
        First voxel whose neighbours are known, and the one beyond the last.
    first : numpy.ndarray
        Place in the volume of the array, by which its cells are counted.
    wide : tuple of int
        How many cells are near.
    """
    of_cores, voxels = cores
    if not len(voxels):
        return np.zeros(0, labels.dtype), np.zeros((0, 3), np.int64)
    from_cell = first // CELL
    cells = np.zeros((first + labels.shape) // CELL - from_cell + 1, bool)
    cells[tuple(((voxels + first) // CELL - from_cell).T)] = True
    cells = ndimage.maximum_filter(cells, [2 * n + 1 for n in wide], mode="constant")
    low, high = (np.clip(corner, 1, np.array(labels.shape) - 1) for corner in known)
    at = np.argwhere(labels[tuple(slice(a, b) for a, b in zip(low, high))]) + low
    strides = np.array([labels[0].size, labels.shape[2], 1])
    flat, places = labels.reshape(-1), at @ strides
    own = flat.take(places)
    chosen = np.isin(own, np.unique(of_cores))
    places, own = places[chosen], own[chosen]
    of, found = [], []
    for step in (_FACES @ strides).tolist():
        other = flat.take(places + step) != own
        of.append(own[other])
        found.append(places[other] + step)
    pairs = np.unique(np.stack([np.concatenate(of).astype(np.uint64),
                                np.concatenate(found).astype(np.uint64)]), axis=1)  # fmt: skip
    at = np.stack(np.unravel_index(pairs[1].astype(np.int64), labels.shape), 1)
    near = cells[tuple(((at + first) // CELL - from_cell).T)]
    return pairs[0][near].astype(labels.dtype), at[near]
