"""Length of the centre lines of fibres in a mask, the same whatever the mask was divided into.

The mask is thinned: round by round, voxels at its surface are taken away that are simple (their
removal changes neither pieces nor tunnels nor cavities) and that no line needs. A line needs an
isthmus: a voxel whose neighbours fall into several pieces without it. In a round, voxels are taken
in the order of the parities of their place in the volume, so that no two neighbours go at once
(thinning by eight subfields, Bertrand and Aktouf, Vision Geometry III, SPIE 2356:113, 1994;
isthmuses as Bertrand and Couprie, Pattern Recognit. Lett. 47:22-31, 2014). All that is asked of a
voxel depends on a neighbourhood of fixed size, see :mod:`terareg.objects.line_reach`. Thinning of
scikit-image (Lee, Kashyap and Chu 1994) looks at one voxel after the other, and what goes depends
on where the image begins.

Lines of voxels are staircases; so vertices are moved towards the middle of their two neighbours
before lengths are taken (:data:`~terareg.objects.line_reach.SMOOTHING` rounds). Short side branches
are left out, and ends are carried on straight to the surface of the fibre, so that a line is as
long as its fibre.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from terareg.core.levels import Box
from terareg.objects.line_reach import (
    CLEANING,
    ONWARD,
    SMOOTHING,
    SPUR,
    axes_of_round,
    line_reach_vox,
    spur_steps,
    thinning_rounds,
)

_STEPS = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if s != (0, 0, 0)])
_FORWARD = [n for n, step in enumerate(_STEPS.tolist()) if step > [0, 0, 0]]
_FACES = [n for n, step in enumerate(_STEPS) if np.abs(step).sum() == 1]
#: parities (z, y, x) in an order in which few change; line_reach counts the changes
ORDER = (0b000, 0b001, 0b011, 0b111, 0b101, 0b100, 0b110, 0b010)


def _bits(which: Sequence[bool] | np.ndarray) -> np.int32:
    return np.int32(sum(1 << n for n, yes in enumerate(which) if yes))


_APART = np.abs(_STEPS[:, None] - _STEPS[None])
#: neighbours of each of the 26 among the 26: over faces, edges and corners; over faces alone
_TOUCH = [_bits(row.max(1) == 1) for row in _APART]
_BESIDE = [_bits(row.sum(1) == 1) for row in _APART]
_FACE_BITS = _bits(np.abs(_STEPS).sum(1) == 1)
_NEAR_BITS = _bits(np.abs(_STEPS).sum(1) <= 2)
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
    _fill(mask)
    fibres = mask.copy()
    rounds = thinning_rounds(thickest_um, spacing_um)
    needed = thinned(mask, low, [axes_of_round(n, spacing_um) for n in range(rounds)])
    thick = _unfinished(mask, needed)
    inside = tuple(slice(a - f + 1, b - f + 1) for a, b, f in zip(start, stop, low))
    left = int(np.count_nonzero(thick[inside]))
    voxels, edges = _edges(mask, needed, thick)
    spacing = np.asarray(spacing_um, float)
    edges = _without_spurs(voxels, edges, spacing, thickest_um)
    steps_nm = _steps_nm(voxels, edges, spacing)
    ends, onward_nm = _onward_nm(fibres, voxels, edges, spacing, ONWARD * thickest_um)
    at = np.concatenate([edges[:, 0], edges[:, 1], ends])
    amount = np.concatenate([steps_nm // 2, steps_nm - steps_nm // 2, onward_nm])
    place = voxels[at] - 1 + low - np.array(start)
    within = ((place >= 0) & (place < lengths.shape)).all(1)
    np.add.at(lengths, tuple(place[within].T), amount[within])
    return lengths, left


def thinned(mask: np.ndarray, first: Sequence[int], rounds: Sequence[Sequence[int]]) -> np.ndarray:
    """Thin a mask in place.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (z, y, x)
        Its outermost voxels must be False.
    first : sequence of int
        Place in the volume of voxel (1, 1, 1) of the mask.
    rounds : sequence of sequence of int
        Axes along which a voxel must be at the surface to go in each of the rounds.

    Returns
    -------
    numpy.ndarray of bool, same shape
        Voxels that lines need.
    """
    flat, strides = mask.reshape(-1), _strides(mask)
    needed = np.zeros(flat.shape, bool)
    live = np.flatnonzero(flat)
    parity = _parity(live, mask.shape, first)
    for axes in rounds:
        at_surface = np.zeros(len(live), bool)
        for n in _FACES:
            if _STEPS[n][axes].any():
                at_surface |= ~flat[live + strides[n]]
        at_surface &= ~needed[live]
        candidates, turns = live[at_surface], parity[at_surface]
        needed[candidates[_kinds(flat, candidates, strides)[1]]] = True
        gone = 0
        for turn in ORDER:
            here = candidates[turns == turn]
            here = here[~needed[here]]
            simple, isthmus = _kinds(flat, here, strides)
            needed[here[isthmus]] = True
            flat[here[simple]] = False
            gone += int(np.count_nonzero(simple))
        # with a coarse axis waiting, nothing may go in a round and something in the next
        if not gone and len(axes) == 3:
            break
        stays = flat[live]
        live, parity = live[stays], parity[stays]
    _clean(flat, strides, needed, np.flatnonzero(flat & needed), (mask.shape, first))
    return needed.reshape(mask.shape)


def _clean(
    flat: np.ndarray,
    strides: np.ndarray,
    needed: np.ndarray,
    live: np.ndarray,
    place: tuple[tuple[int, ...], Sequence[int]],
) -> None:
    """Take away what lines needed once and need no more, except their ends."""
    parity = _parity(live, *place)
    for _ in range(CLEANING):
        for turn in ORDER:
            here = live[(parity == turn) & flat[live]]
            neighbours = np.zeros(len(here), np.uint8)
            for stride in strides:
                neighbours += flat[here + stride]
            here = here[neighbours > 1]
            simple, _ = _kinds(flat, here, strides)
            flat[here[simple]] = needed[here[simple]] = False


def _parity(places: np.ndarray, shape: tuple[int, ...], first: Sequence[int]) -> np.ndarray:
    """Parities of z, y, x in the volume, as the bits 4, 2, 1."""
    parity = np.zeros(len(places), np.uint8)
    for axis, index in enumerate(np.unravel_index(places, shape)):
        parity |= ((index - 1 + first[axis]) % 2 << (2 - axis)).astype(np.uint8)
    return parity


def _strides(mask: np.ndarray) -> np.ndarray:
    return _STEPS @ np.array([mask.shape[1] * mask.shape[2], mask.shape[2], 1])


def _kinds(
    flat: np.ndarray, places: np.ndarray, strides: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels are simple, and which are isthmuses."""
    around = np.zeros(len(places), np.int32)
    for n, stride in enumerate(strides):
        around |= flat[places + stride].astype(np.int32) << n
    kinds, which = np.unique(around, return_inverse=True)
    pieces = _grown(kinds & -kinds, kinds, _TOUCH)
    one = pieces == kinds
    outside = ~kinds & _NEAR_BITS
    faces = outside & _FACE_BITS
    reached = _grown(faces & -faces, outside, _BESIDE) & _FACE_BITS
    simple = (kinds != 0) & one & (faces != 0) & (reached == faces)
    return simple[which], (~one)[which]


def _grown(seed: np.ndarray, within: np.ndarray, neighbours: Sequence[np.int32]) -> np.ndarray:
    """The piece of each set of neighbours (bits) that holds the seed."""
    while len(seed):
        wider = seed.copy()
        for n, others in enumerate(neighbours):
            wider |= np.where(seed >> n & 1, others, np.int32(0))
        wider &= within
        if np.array_equal(wider, seed):
            break
        seed = wider
    return seed


def _fill(mask: np.ndarray) -> None:
    """Fill cavities of one voxel, which would leave a shell."""
    inner = (slice(1, -1),) * 3
    all_around = ~mask[inner]
    for axis in range(3):
        for cut in (slice(None, -2), slice(2, None)):
            all_around &= mask[tuple(cut if a == axis else slice(1, -1) for a in range(3))]
    mask[inner] |= all_around


def _unfinished(mask: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Voxels that further rounds could take away, or could reach."""
    flat, strides = mask.reshape(-1), _strides(mask)
    places = np.flatnonzero(flat & ~needed.reshape(-1))
    at_surface = np.zeros(len(places), bool)
    for n in _FACES:
        at_surface |= ~flat[places + strides[n]]
    simple, _ = _kinds(flat, places, strides)
    thick = np.zeros(flat.shape, bool)
    thick[places[simple | ~at_surface]] = True
    return thick.reshape(mask.shape)


def _edges(
    mask: np.ndarray, needed: np.ndarray, thick: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of lines, shape (n, 3), and pairs of them, the one first in the volume first.

    Of three that touch one another the longest side is no edge. A pair of which no line needs
    either voxel is part of a shell.
    """
    flat, strides = mask.reshape(-1), _strides(mask)
    places = np.flatnonzero(flat & ~thick.reshape(-1))
    used = np.zeros(flat.shape, bool)
    used[places] = True
    length = np.abs(_STEPS).sum(1)
    pairs = []
    for n in _FORWARD:
        here = places[used[places + strides[n]]]
        here = here[(needed.reshape(-1)[here]) | needed.reshape(-1)[here + strides[n]]]
        keep = np.ones(len(here), bool)
        for m, step in enumerate(_STEPS):
            rest = np.abs(_STEPS[n] - step)
            if rest.max() == 1 and max(length[m], rest.sum()) < length[n]:
                keep &= ~used[here + strides[m]]
        pairs.append(np.stack([here[keep], here[keep] + strides[n]], 1))
    ends = np.concatenate(pairs)
    number = np.full(flat.shape, -1, np.int32)
    number[places] = np.arange(len(places), dtype=np.int32)
    return np.stack(np.unravel_index(places, mask.shape), 1), number[ends]


def _steps_nm(voxels: np.ndarray, edges: np.ndarray, spacing_um: np.ndarray) -> np.ndarray:
    """Whole nanometres of every edge, once vertices were moved.

    Places are sums of whole voxels and of powers of 1/4, few enough to be exact: they do not depend
    on where a block begins.
    """
    places = voxels.astype(np.float64)
    between = np.bincount(edges.reshape(-1), minlength=len(places)) == 2
    for _ in range(SMOOTHING):
        total = np.zeros_like(places)
        for axis in range(3):
            for here, there in ((0, 1), (1, 0)):
                ends = places[edges[:, there], axis]
                total[:, axis] += np.bincount(edges[:, here], ends, len(places))
        places = np.where(between[:, None], places / 2 + total / 4, places)
    far = (places[edges[:, 0]] - places[edges[:, 1]]) * spacing_um
    length_um = np.sqrt(far[:, 0] ** 2 + far[:, 1] ** 2 + far[:, 2] ** 2)
    return np.rint(1000 * length_um).astype(np.int64)


def _beside(edges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How many edges every vertex has, and the first and the last of its neighbours, (n, 2)."""
    both = np.concatenate([edges, edges[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    degree = np.bincount(both[:, 0], minlength=count)
    last = np.cumsum(degree) - 1
    near = np.full((count, 2), -1)
    some = degree > 0
    near[some, 0] = both[(last - degree + 1)[some], 1]
    near[some, 1] = both[last[some], 1]
    return degree, near


def _walk(
    degree: np.ndarray, near: np.ndarray, places_um: np.ndarray, ends: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Walk from ends along their lines as far as these go on.

    Returns
    -------
    path : numpy.ndarray, shape (steps + 1, number of ends)
        Vertices; the last one is repeated.
    length_um : numpy.ndarray
        Of every path.
    """
    path = [ends, near[ends, 0]]
    far = np.linalg.norm(places_um[path[1]] - places_um[ends], axis=1)
    for _ in range(steps - 1):
        here, before = path[-1], path[-2]
        onward = np.where(near[here, 0] == before, near[here, 1], near[here, 0])
        onward = np.where((degree[here] == 2) & (here != before), onward, here)
        far += np.linalg.norm(places_um[onward] - places_um[here], axis=1)
        path.append(onward)
    return np.stack(path), far


def _without_spurs(
    voxels: np.ndarray, edges: np.ndarray, spacing_um: np.ndarray, thickest_um: float
) -> np.ndarray:
    """Edges without lines that end soon after a branch point."""
    degree, near = _beside(edges, len(voxels))
    ends = np.flatnonzero(degree == 1)
    if not len(ends):
        return edges
    steps = spur_steps(thickest_um, spacing_um.tolist())
    path, far = _walk(degree, near, voxels * spacing_um, ends, steps)
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
    degree, near = _beside(edges, len(voxels))
    ends = np.flatnonzero(degree == 1)
    if not len(ends):
        return ends, np.zeros(0, np.int64)
    places_um = voxels * spacing_um
    path, _ = _walk(degree, near, places_um, ends, _BACK)
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
