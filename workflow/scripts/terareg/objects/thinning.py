"""Thinning of labelled voxels to lines, the same whatever a volume was divided into.

Round by round, voxels at the surface of an object are taken away that are simple (their removal
changes neither pieces nor tunnels nor cavities) and that no line needs. A line needs an isthmus: a
voxel whose neighbours fall into several pieces without it. In a round, voxels are taken in the
order of the parities of their place in the volume, so that no two neighbours go at once (thinning
by eight subfields, Bertrand and Aktouf, Vision Geometry III, SPIE 2356:113, 1994; isthmuses as
Bertrand and Couprie, Pattern Recognit. Lett. 47:22-31, 2014). All that is asked of a voxel depends
on a neighbourhood of fixed size, see :mod:`terareg.objects.line_reach`. Thinning of scikit-image
(Lee, Kashyap and Chu 1994) looks at one voxel after the other, and what goes depends on where the
image begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from terareg.objects.line_reach import CLEANING

#: from a voxel to its 26 neighbours, in the order of their places
STEPS = np.array([s for s in itertools.product((-1, 0, 1), repeat=3) if s != (0, 0, 0)])
_FORWARD = [n for n, step in enumerate(STEPS.tolist()) if step > [0, 0, 0]]
_FACES = [n for n, step in enumerate(STEPS) if np.abs(step).sum() == 1]
#: parities (z, y, x) in an order in which few change; line_reach counts the changes
ORDER = (0b000, 0b001, 0b011, 0b111, 0b101, 0b100, 0b110, 0b010)


def _bits(which: Sequence[bool] | np.ndarray) -> np.int32:
    return np.int32(sum(1 << n for n, yes in enumerate(which) if yes))


_APART = np.abs(STEPS[:, None] - STEPS[None])
#: neighbours of each of the 26 among the 26: over faces, edges and corners; over faces alone
_TOUCH = [_bits(row.max(1) == 1) for row in _APART]
_BESIDE = [_bits(row.sum(1) == 1) for row in _APART]
_FACE_BITS = _bits(np.abs(STEPS).sum(1) == 1)
_NEAR_BITS = _bits(np.abs(STEPS).sum(1) <= 2)
_TOGETHER = 1 << 18  # voxels that are looked at together
_KNOWN_BITS = 18  # of the number of answers that are kept
_SPREAD = np.uint32(0x9E3779B1)
#: neighbours that were met before (26 bits) and the answers for them (2 bits)
_known = np.zeros(1 << _KNOWN_BITS, np.int32)


class Voxels:
    """Voxels that are thinned, and their neighbours.

    Attributes
    ----------
    solid : numpy.ndarray of integers or bool, one-dimensional
        What a voxel belongs to; 0 or False is background, as it is beyond every border.
    """

    def __init__(self, solid: np.ndarray) -> None:
        self.solid = solid

    def beside(self, places: np.ndarray, n: int) -> np.ndarray:
        """Places of the neighbours of voxels in one of 26 directions."""
        raise NotImplementedError

    def parity(self, places: np.ndarray) -> np.ndarray:
        """Parities of z, y, x in the volume, as the bits 4, 2, 1."""
        raise NotImplementedError

    def around(self, places: np.ndarray) -> np.ndarray:
        """Which neighbours belong to the same as each voxel, as bits."""
        own = self.solid.take(places)
        found = np.zeros(len(places), np.int32)
        for n in range(len(STEPS)):
            same = self.solid.take(self.beside(places, n)) == own
            found |= same.astype(np.int32) << np.int32(n)
        return found

    def count(self, places: np.ndarray) -> np.ndarray:
        """How many neighbours belong to the same as each voxel."""
        own = self.solid.take(places)
        found = np.zeros(len(places), np.uint8)
        for n in range(len(STEPS)):
            found += self.solid.take(self.beside(places, n)) == own
        return found

    def at_surface(self, places: np.ndarray, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
        """Which voxels have a neighbour along one of the axes that belongs to something else."""
        own = self.solid.take(places)
        found = np.zeros(len(places), bool)
        for n in _FACES:
            if STEPS[n][list(axes)].any():
                found |= self.solid.take(self.beside(places, n)) != own
        return found


class BoxVoxels(Voxels):
    """All voxels of a box; the outermost must be background.

    Parameters
    ----------
    box : numpy.ndarray of integers or bool, shape (z, y, x)
        Is changed when voxels are taken away.
    first : sequence of int
        Place in the volume of voxel (1, 1, 1) of the box.
    """

    def __init__(self, box: np.ndarray, first: Sequence[int]) -> None:
        super().__init__(box.reshape(-1))
        self.shape, self.first = box.shape, first
        self._strides = STEPS @ np.array([box.shape[1] * box.shape[2], box.shape[2], 1])

    def beside(self, places: np.ndarray, n: int) -> np.ndarray:
        """Places of the neighbours of voxels in one of 26 directions."""
        return places + self._strides[n]

    def parity(self, places: np.ndarray) -> np.ndarray:
        """Parities of z, y, x in the volume, as the bits 4, 2, 1."""
        parity = np.zeros(len(places), np.uint8)
        for some in _slices(len(places)):
            for axis, index in enumerate(self._indices(places[some])):
                parity[some] |= ((index - 1 + self.first[axis]) % 2 << (2 - axis)).astype(np.uint8)
        return parity

    def indices(self, places: np.ndarray) -> np.ndarray:
        """z, y, x of places in the box, shape (n, 3), int32."""
        found = np.empty((len(places), 3), np.int32)
        for some in _slices(len(places)):
            found[some] = np.stack(self._indices(places[some]), 1)
        return found

    def within(self, places: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Those of some places that lie from one voxel of the box to before another."""
        inside = np.ones(len(places), bool)
        for some in _slices(len(places)):
            for index, a, b in zip(self._indices(places[some]), low, high):
                inside[some] &= (index >= a) & (index < b)
        return places[inside]

    def _indices(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, planes = places // self.shape[2], places // (self.shape[1] * self.shape[2])
        return planes, rows - planes * self.shape[1], places - rows * self.shape[2]


def _slices(count: int) -> list[slice]:
    """Parts of a list, so that what is computed of them takes little memory."""
    return [slice(n, n + _TOGETHER) for n in range(0, count, _TOGETHER)]


class ListedVoxels(Voxels):
    """Voxels of a list, however far apart.

    Parameters
    ----------
    indices : numpy.ndarray of int64, shape (n, 3)
        z, y, x in the volume.
    number : numpy.ndarray of integers, shape (n,)
        What each belongs to, from 1. Voxels are in ascending order of it, and then of their place.
    """

    def __init__(self, indices: np.ndarray, number: np.ndarray) -> None:
        count = len(indices)
        super().__init__(np.append(number, 0))
        self._parity = (indices % 2 @ (4, 2, 1)).astype(np.uint8)
        low = indices.min(0, initial=0)
        z, y, x = (indices.max(0, initial=0) - low + 3).tolist()
        strides = np.array([y * x, x, 1])
        keys = number.astype(np.int64) * (z * y * x) + (indices - low + 1) @ strides
        self._near = np.full((len(STEPS), count), count, np.int32)
        for n in _FORWARD:
            wanted = keys + STEPS[n] @ strides
            there = np.minimum(np.searchsorted(keys, wanted), count - 1)
            here = np.flatnonzero(keys[there] == wanted)
            self._near[n, here] = there[here]
            self._near[len(STEPS) - 1 - n, there[here]] = here

    def beside(self, places: np.ndarray, n: int) -> np.ndarray:
        """Places of the neighbours of voxels in one of 26 directions."""
        return self._near[n].take(places)

    def parity(self, places: np.ndarray) -> np.ndarray:
        """Parities of z, y, x in the volume, as the bits 4, 2, 1."""
        return self._parity[places]


def thinned(
    voxels: Voxels,
    needed: np.ndarray,
    rounds: Iterable[Sequence[int]],
    live: np.ndarray | None = None,
) -> np.ndarray:
    """Thin objects in place; those that touch one another do not matter to each other.

    Parameters
    ----------
    voxels : Voxels
        What is taken away becomes 0 or False in it.
    needed : numpy.ndarray of bool, as long as ``voxels.solid``
        Voxels that lines need; more are marked in it.
    rounds : iterable of sequence of int
        Axes along which a voxel must be at the surface to go in each of the rounds. Nothing is left
        to do once nothing has gone along any axis.
    live : numpy.ndarray of int64, optional
        Places of the voxels that are looked at; all, if not given.

    Returns
    -------
    numpy.ndarray of int64
        Places of those voxels that are left.
    """
    solid = voxels.solid
    live = np.flatnonzero(solid) if live is None else live
    parity = voxels.parity(live)
    idle: set[int] = set()
    for axes in rounds:
        chosen = voxels.at_surface(live, axes) & ~needed[live]
        candidates, turns = live[chosen], parity[chosen]
        needed[candidates[_kinds(voxels, candidates)[1]]] = True
        gone = 0
        for turn in ORDER:
            here = candidates[turns == turn]
            here = here[~needed[here]]
            simple, isthmus = _kinds(voxels, here)
            needed[here[isthmus]] = True
            solid[here[simple]] = 0
            gone += int(np.count_nonzero(simple))
        # with a coarse axis waiting, nothing may go in a round and something in the next
        idle = set() if gone else idle | set(axes)
        if len(idle) == 3:
            break
        stays = solid[live] != 0
        live, parity = live[stays], parity[stays]
    return live


def cleaned(voxels: Voxels, needed: np.ndarray) -> None:
    """Take away what lines needed once and need no more, except their ends."""
    live = np.flatnonzero((voxels.solid != 0) & needed)
    parity = voxels.parity(live)
    for _ in range(CLEANING):
        for turn in ORDER:
            here = live[(parity == turn) & (voxels.solid[live] != 0)]
            here = here[voxels.count(here) > 1]
            simple, _ = _kinds(voxels, here)
            voxels.solid[here[simple]] = 0
            needed[here[simple]] = False


def _kinds(voxels: Voxels, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which voxels are simple, and which are isthmuses.

    Answers are kept, each with its neighbours in one number, so that threads may write at once.
    """
    around = voxels.around(places)
    slots = (around.astype(np.uint32) * _SPREAD >> np.uint32(32 - _KNOWN_BITS)).astype(np.int64)
    answers = _known.take(slots)
    other = np.flatnonzero(answers >> 2 != around)
    if len(other):
        kinds, which = np.unique(around[other], return_inverse=True)
        found = kinds << 2 | _answers(kinds)
        answers[other] = found[which.reshape(-1)]
        _known[slots[other]] = answers[other]
    return answers & 1 != 0, answers & 2 != 0


def _answers(kinds: np.ndarray) -> np.ndarray:
    """Of neighbours (bits), 1 if a voxel with them is simple, 2 if it is an isthmus."""
    pieces = _grown(kinds & -kinds, kinds, _TOUCH)
    one = pieces == kinds
    outside = ~kinds & _NEAR_BITS
    faces = outside & _FACE_BITS
    reached = _grown(faces & -faces, outside, _BESIDE) & _FACE_BITS
    simple = (kinds != 0) & one & (faces != 0) & (reached == faces)
    return simple | ~one * np.int32(2)


def may_end(voxels: Voxels, needed: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which voxels that lines need may be ends of lines, once all is thinned and cleaned.

    No isthmuses, nor what only cores stand beside.
    """
    found = ~_kinds(voxels, places)[1]
    own = voxels.solid.take(places)
    for n in range(len(STEPS)):
        there = voxels.beside(places, n)
        found |= (voxels.solid.take(there) == own) & ~needed.take(there)
    return found


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


def fill_cavities(voxels: BoxVoxels) -> np.ndarray:
    """Fill cavities of one voxel, which would leave a shell; places of all voxels, ascending."""
    solid = voxels.solid
    live = np.flatnonzero(solid)
    others = _FACES[:-1]  # the last one leads back
    holes = voxels.beside(live, others[0])
    found = solid.take(holes) == 0
    own, holes = solid.take(live[found]), holes[found]
    for n in others:
        same = solid.take(voxels.beside(holes, n), mode="clip") == own
        own, holes = own[same], holes[same]
    solid[holes] = own
    return np.union1d(live, holes) if len(holes) else live


def unfinished(voxels: Voxels, needed: np.ndarray) -> np.ndarray:
    """Places of voxels that further rounds could take away, or could reach."""
    places = np.flatnonzero((voxels.solid != 0) & ~needed)
    simple, _ = _kinds(voxels, places)
    return places[simple | ~voxels.at_surface(places)]


def edges_among(voxels: Voxels, places: np.ndarray) -> np.ndarray:
    """Pairs of neighbours of the same object, shape (n, 2), the one first in the volume first.

    Of three that touch one another the longest side is no edge.

    Parameters
    ----------
    voxels : Voxels
    places : numpy.ndarray
        Of all that are left.
    """
    length = np.abs(STEPS).sum(1)
    own = voxels.solid.take(places)
    same = {n: voxels.solid.take(voxels.beside(places, n)) == own for n in range(len(STEPS))}
    pairs = []
    for n in _FORWARD:
        keep = same[n].copy()
        for m, step in enumerate(STEPS):
            rest = np.abs(STEPS[n] - step)
            if rest.max() == 1 and max(length[m], rest.sum()) < length[n]:
                keep &= ~same[m]
        here = places[keep]
        pairs.append(np.stack([here, voxels.beside(here, n)], 1))
    return np.concatenate(pairs)
