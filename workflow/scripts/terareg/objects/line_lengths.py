"""Length of the centre lines of fibres in a mask, the same whatever the mask was divided into.

The mask is thinned (:mod:`terareg.objects.thinning`) in as many rounds as the thickest fibre needs.

Lines of voxels are staircases; so vertices are moved towards the middle of their two neighbours
before lengths are taken (:data:`~terareg.objects.line_reach.SMOOTHING` rounds). Short side branches
are left out, and ends are carried on straight to the surface of the fibre, so that a line is as
long as its fibre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from terareg.core.levels import Box
from terareg.objects.line_graph import beside, smoothed, step_lengths, walk
from terareg.objects.line_reach import (
    ONWARD,
    SPUR,
    axes_of_round,
    line_reach_vox,
    spur_steps,
    thinning_rounds,
)
from terareg.objects.thinning import (
    BoxVoxels,
    cleaned,
    edges_among,
    fill_cavities,
    thinned,
    unfinished,
)

_BACK = 6  # vertices from an end, towards which its direction is taken
_FINE = 0.125  # voxels, step at which the surface is looked for

#: voxels ``start <= index < stop`` of the whole mask
Reader = Callable[[Box, Box], np.ndarray]


def line_lengths(
    read: Reader, box: tuple[Box, Box], shape: Box, spacing_um: Sequence[float], thickest_um: float
) -> tuple[np.ndarray, int]:
    """Length of centre lines in every voxel of a box.

    Parameters
    ----------
    read : callable
        Reads any box of a mask, which is not 0 inside of fibres.
    box : tuple
        First voxel (z, y, x), and the one beyond the last.
    shape : tuple of int
        Of the volume; nothing lies outside of it.
    spacing_um : sequence of float
        Along (z, y, x).
    thickest_um : float
        Diameter of the thickest fibres. What is thicker has no length.

    Returns
    -------
    numpy.ndarray of int64, shape of the box
        Nanometres: half of every step between two vertices belongs to the voxel of each; what is
        carried on from an end belongs to the end.
    int
        Voxels in the box that were left of what is too thick.
    """
    start, stop = box
    reach = line_reach_vox(thickest_um, spacing_um)
    low: Box = tuple(max(0, a - r) for a, r in zip(start, reach))
    high: Box = tuple(min(n, b + r) for b, r, n in zip(stop, reach, shape))
    mask = np.pad(np.asarray(read(low, high)) != 0, 1)
    lengths = np.zeros([b - a for a, b in zip(start, stop)], np.int64)
    if not mask.any():
        return lengths, 0
    solid, needed = BoxVoxels(mask, low), np.zeros(mask.size, bool)
    live = fill_cavities(solid)
    fibres = mask.copy()
    rounds = thinning_rounds(thickest_um, spacing_um)
    thinned(solid, needed, [axes_of_round(n, spacing_um) for n in range(rounds)], live)
    cleaned(solid, needed)
    thick = unfinished(solid, needed)
    at = solid.indices(thick) - 1 + low
    left = int(np.count_nonzero(((at >= start) & (at < stop)).all(1)))
    solid.solid[thick] = False
    places = np.flatnonzero(solid.solid)
    edges = edges_among(solid, places)
    # a pair of which no line needs either voxel is part of a shell
    edges = np.searchsorted(places, edges[needed[edges].any(1)])
    voxels = solid.indices(places)
    spacing = np.asarray(spacing_um, float)
    edges = _without_spurs(voxels, edges, spacing, thickest_um)
    steps_um = step_lengths(smoothed(voxels.astype(np.float64), edges), edges, spacing)
    steps_nm = np.rint(1000 * steps_um).astype(np.int64)
    ends, onward_nm = _onward_nm(fibres, voxels, edges, spacing, ONWARD * thickest_um)
    at = np.concatenate([edges[:, 0], edges[:, 1], ends])
    amount = np.concatenate([steps_nm // 2, steps_nm - steps_nm // 2, onward_nm])
    place = voxels[at] - 1 + low - np.array(start)
    within = ((place >= 0) & (place < lengths.shape)).all(1)
    np.add.at(lengths, tuple(place[within].T), amount[within])
    return lengths, left


def _without_spurs(
    voxels: np.ndarray, edges: np.ndarray, spacing_um: np.ndarray, thickest_um: float
) -> np.ndarray:
    """Edges without lines that end soon after a branch point."""
    degree, near = beside(edges, len(voxels))
    ends = np.flatnonzero(degree == 1)
    if not len(ends):
        return edges
    path = walk(degree, near, ends, spur_steps(thickest_um, spacing_um.tolist()))
    far = np.linalg.norm(np.diff(voxels[path], axis=0) * spacing_um, axis=2).sum(0)
    spurs = (degree[path[-1]] > 2) & (far < SPUR * thickest_um)
    gone = path[:, spurs]
    gone = np.unique(gone[degree[gone] <= 2])
    return edges[~np.isin(edges, gone).any(1)]


def _onward_nm(
    fibres: np.ndarray,
    voxels: np.ndarray,
    edges: np.ndarray,
    spacing_um: np.ndarray,
    most_um: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of lines, and the nanometres from there to the surface in the line's direction."""
    degree, near = beside(edges, len(voxels))
    ends = np.flatnonzero(degree == 1)
    if not len(ends):
        return ends, np.zeros(0, np.int64)
    path = walk(degree, near, ends, _BACK)
    ahead = (voxels[ends] - voxels[path[-1]]) * spacing_um
    ahead /= np.sqrt((ahead**2).sum(1))[:, None]
    step_um = _FINE * float(spacing_um.min())
    found_um = np.full(len(ends), most_um)
    open_ends = np.arange(len(ends))
    for n in range(1, int(most_um / step_um) + 1):
        offset = np.floor(n * step_um * ahead[open_ends] / spacing_um + 0.5).astype(np.int64)
        inside = fibres[tuple((voxels[ends[open_ends]] + offset).T)]
        found_um[open_ends[~inside]] = (n - 0.5) * step_um
        open_ends = open_ends[inside]
        if not len(open_ends):
            break
    return ends, np.rint(1000 * found_um).astype(np.int64)
