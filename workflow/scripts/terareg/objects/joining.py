"""Components of blocks become those of the volume, one layer of blocks after the other.

Most components lie inside of one block and are final there. Only those that blocks share
(:func:`terareg.objects.labelling.shared_voxels`) are joined: those of a layer of blocks (one index
along z) with each other, and with the groups of the layers before that reach into it. What a later
layer decides of an earlier one is carried back, and numbers are then given from the first layer to
the last. Arrays of fixed width that layers leave for each other lie in files, so that memory holds
the shared components of two layers, and all components of a row of blocks.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.objects.labelling import ComponentSettings, shared_voxels
from terareg.volumes.plan import Block

_MOST = np.iinfo(np.uint32).max
_NEVER = np.iinfo(np.int64).max
_BLOCK_BITS = 32  # a component is its block's place in the layer, and its number in the block


class Pieces(Protocol):
    """Components of blocks, see :class:`terareg.objects.labelling.BlockComponents`."""

    def low(self, index: Box) -> Sequence[np.ndarray] | None:
        """Components in the first planes of the block with an index; None if there is none."""

    def high(self, block: Block) -> Sequence[np.ndarray]:
        """Components in the planes after a block."""

    def owned(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Voxels of each component, the first of them, and whether it is strong, if that counts."""


@dataclass(frozen=True)
class Joined:
    """Components of a volume.

    Attributes
    ----------
    count : int
        Components that are kept; they are numbered from 1 to this.
    kept_vox, largest_vox : int
        Voxels of all of them, and of the largest.
    dust, dust_vox : int
        Components that are left out, and their voxels.
    """

    count: int = 0
    kept_vox: int = 0
    largest_vox: int = 0
    dust: int = 0
    dust_vox: int = 0

    def __add__(self, other: Joined) -> Joined:
        return Joined(
            self.count + other.count,
            self.kept_vox + other.kept_vox,
            max(self.largest_vox, other.largest_vox),
            self.dust + other.dust,
            self.dust_vox + other.dust_vox,
        )


def join_blocks(
    blocks: Sequence[Block],
    pieces: Pieces,
    settings: ComponentSettings,
    write: Callable[[Block, np.ndarray], None],
) -> Joined:
    """Join the components of blocks, and number them in the order of their first voxels.

    Parameters
    ----------
    blocks : sequence of Block
        All of a volume, in z, y, x order.
    pieces : Pieces
    settings : ComponentSettings
    write : callable
        Called once for each block, in their order, with the final numbers of its components,
        uint32, 0 for one that is left out.

    Raises
    ------
    VolumeError
        If there are more components than a label volume can number.
    """
    with tempfile.TemporaryDirectory(prefix="terareg-join-") as folder:
        return _Joining(blocks, pieces, settings, Path(folder)).run(write)


@dataclass
class _Groups:
    """What is known of groups of components: voxels, the first of them, whether one is strong."""

    total: np.ndarray
    begin: np.ndarray
    strong: np.ndarray

    @classmethod
    def none(cls) -> _Groups:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool))

    def __getitem__(self, chosen: np.ndarray) -> _Groups:
        return _Groups(self.total[chosen], self.begin[chosen], self.strong[chosen])

    def __setitem__(self, chosen: np.ndarray, other: _Groups) -> None:
        self.total[chosen], self.begin[chosen] = other.total, other.begin
        self.strong[chosen] = other.strong

    def kept(self, least: int) -> np.ndarray:
        """Which of them are components of the result."""
        return (self.total >= least) & self.strong

    def arrays(self) -> dict[str, np.ndarray]:
        return {"total": self.total, "begin": self.begin, "strong": self.strong}

    def summary(self, least: int) -> Joined:
        """Counts of these groups; those without a voxel are none."""
        kept = self.kept(least)
        left_out = ~kept & (self.total > 0)
        return Joined(
            int(np.count_nonzero(kept)),
            int(self.total[kept].sum()),
            int(self.total[kept].max(initial=0)),
            int(np.count_nonzero(left_out)),
            int(self.total[left_out].sum()),
        )


class _Joining:
    """The state of :func:`join_blocks`."""

    def __init__(
        self, blocks: Sequence[Block], pieces: Pieces, settings: ComponentSettings, folder: Path
    ) -> None:
        by_layer = itertools.groupby(blocks, key=lambda block: block.index[0])
        self._layers = [list(layer) for _, layer in by_layer]
        self._pieces, self._folder = pieces, folder
        self._least = max(settings.dust_vox, 1)
        self._height, self._width = (max(b.stop[axis] for b in blocks) for axis in (1, 2))
        self._places = {b.index: n for layer in self._layers for n, b in enumerate(layer)}

    def run(self, write: Callable[[Block, np.ndarray], None]) -> Joined:
        """Forth, back, and forth again."""
        summary = Joined()
        reaching, pairs = _Groups.none(), np.zeros((2, 0), np.int64)
        for number in range(len(self._layers)):
            reaching, pairs, found = self._group(number, reaching, pairs)
            summary += found
        known = _Groups.none()
        for number in reversed(range(len(self._layers))):
            known, found = self._settle(number, known)
            summary += found
        if summary.count > _MOST:
            raise VolumeError(
                f"there are {summary.count} components, but labels end at {_MOST}; set dust_vox, "
                "or a narrower threshold"
            )
        given, last = np.zeros(0, np.uint32), 0
        for number in range(len(self._layers)):
            given, last = self._number(number, given, last, write)
        return summary

    # ------------------------------------------------------------------ first: groups of a layer
    def _group(
        self, number: int, reaching: _Groups, before: np.ndarray
    ) -> tuple[_Groups, np.ndarray, Joined]:
        """Join what a layer shares.

        Parameters
        ----------
        number : int
        reaching : _Groups
            Of the layers before, those that share something with this one.
        before : numpy.ndarray, shape (2, n)
            Number of such a group, and component of this layer that belongs to it.

        Returns
        -------
        reaching, before
            The same for the next layer.
        summary : Joined
            Of components that nothing is shared of.
        """
        within, after = self._shared(number)
        shared = np.unique(np.concatenate([within.reshape(-1), after[0], before[1]]))
        open_count = len(reaching.total)
        ends = np.hstack(
            [
                np.searchsorted(shared, within) + open_count,
                np.stack([before[0], np.searchsorted(shared, before[1]) + open_count]),
            ]
        )
        size = open_count + len(shared)
        graph = sparse.coo_array((np.ones(ends.shape[1], bool), ends), shape=(size, size))
        count, group = (
            connected_components(graph, directed=False) if size else (0, np.zeros(0, np.int32))
        )
        own, lines, summary = self._owned(number, shared)
        total, begin = np.zeros(count, np.int64), np.full(count, _NEVER)
        np.add.at(total, group, np.concatenate([reaching.total, own.total]))
        np.minimum.at(begin, group, np.concatenate([reaching.begin, own.begin]))
        strong = np.concatenate([reaching.strong, own.strong])
        groups = _Groups(total, begin, np.bincount(group[strong], minlength=count) > 0)
        of_after = group[open_count + np.searchsorted(shared, after[0])]
        reach, which = np.unique(of_after, return_inverse=True)
        self._save(
            number,
            {"shared": shared, "group": group, "open": np.array(open_count), "reach": reach,
             "lines": lines, **groups.arrays()},
        )  # fmt: skip
        following = np.unique(np.stack([which.reshape(-1).astype(np.int64), after[1]]), axis=1)
        return groups[reach], following, summary

    def _shared(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of equal components within a layer, and of the layer and the next; shape (2, n)."""
        within, after = [np.zeros((2, 0), np.int64)], [np.zeros((2, 0), np.int64)]
        for place, block in enumerate(self._layers[number]):
            high = self._pieces.high(block)
            for index, here, there in shared_voxels(block, high, self._pieces.low):
                pairs = np.stack([_key(place, here), _key(self._places[index], there)])
                (within if index[0] == block.index[0] else after).append(pairs)
        return np.hstack(within), np.hstack(after)

    def _owned(self, number: int, shared: np.ndarray) -> tuple[_Groups, np.ndarray, Joined]:
        """What is known of the shared components of a layer, and counts of all others.

        The counts are those of the first voxels of kept components by plane and row of blocks, and
        a summary.
        """
        found, summary = [_Groups.none()], Joined()
        rows, planes = self._rows(number)
        lines = np.zeros((len(planes), len(rows)), np.int64)
        for row, blocks in enumerate(rows):
            for place, block in blocks:
                all_of, chosen = self._of_block(block), _chosen(shared, place)
                begin = np.where(all_of.total > 0, all_of.begin, _NEVER)
                found.append(_Groups(all_of.total, begin, all_of.strong)[chosen])
                alone = np.ones(len(all_of.total), bool)
                alone[chosen] = False
                others = all_of[alone]
                summary += others.summary(self._least)
                first = others.begin[others.kept(self._least)]
                lines[:, row] += np.bincount(self._plane(first) - planes[0], minlength=len(planes))
        parts = [[getattr(part, name) for part in found] for name in ("total", "begin", "strong")]
        return _Groups(*map(np.concatenate, parts)), lines, summary

    # ------------------------------------------------------------------ then: what later layers say
    def _settle(self, number: int, known: _Groups) -> tuple[_Groups, Joined]:
        """Complete the groups of a layer with what is known of those that reach the next one.

        Returns what is known of the groups that reach this layer, and counts of those that begin in
        it.
        """
        data = self._load(number)
        groups = _Groups(data["total"], data["begin"], data["strong"])
        groups[data["reach"]] = known
        rows, planes = self._rows(number)
        _, once = np.unique(groups.begin, return_index=True)
        first = groups[once]
        first = first[self._begins(first, planes)]
        lead = first.begin[first.kept(self._least)]
        lines, edges = data["lines"], [blocks[0][1].start[1] for blocks in rows]
        row = np.searchsorted(edges, lead // self._width % self._height, "right") - 1
        np.add.at(lines, (self._plane(lead) - planes[0], row), 1)
        self._save(number, data | {"lines": lines, "lead": lead, **groups.arrays()})
        return groups[data["group"][: int(data["open"])]], first.summary(self._least)

    # ------------------------------------------------------------------ at last: numbers
    def _number(
        self,
        number: int,
        given: np.ndarray,
        last: int,
        write: Callable[[Block, np.ndarray], None],
    ) -> tuple[np.ndarray, int]:
        """Number the components of a layer.

        Parameters
        ----------
        given : numpy.ndarray of uint32
            Numbers of the groups that reach this layer.
        last : int
            Largest number so far.
        write : callable

        Returns
        -------
        given, last
            The same for the next layer.
        """
        data = self._load(number)
        groups = _Groups(data["total"], data["begin"], data["strong"])
        rows, planes = self._rows(number)
        lines, lead, shared = data["lines"], data["lead"], data["shared"]
        before = last + (np.cumsum(lines) - lines.reshape(-1)).reshape(lines.shape)
        of_lead = np.zeros(len(lead), np.uint32)
        for row, blocks in enumerate(rows):
            start, stop = blocks[0][1].start[1], blocks[0][1].stop[1]
            y = lead // self._width % self._height
            mine = np.flatnonzero((y >= start) & (y < stop))
            firsts, counts = [lead[mine]], []
            for place, block in blocks:
                first = self._first_of_others(block, _chosen(shared, place))
                counts.append(np.flatnonzero(first != _NEVER))
                firsts.append(first[counts[-1]])
                self._save_numbers(place, np.zeros(len(first), np.uint32))
            together = np.concatenate(firsts)
            order = np.argsort(together, kind="stable")
            plane = self._plane(together[order])
            rank = np.arange(len(order)) - np.searchsorted(plane, plane, "left")
            numbers = np.zeros(len(order), np.uint32)
            numbers[order] = before[plane - planes[0], row] + rank + 1
            of_lead[mine] = numbers[: len(mine)]
            begin = len(mine)
            for (place, _), chosen in zip(blocks, counts):
                found = self._numbers(place)
                found[chosen] = numbers[begin : begin + len(chosen)]
                self._save_numbers(place, found)
                begin += len(chosen)
        of_group = np.zeros(len(groups.total), np.uint32)
        kept = np.flatnonzero(groups.kept(self._least) & self._begins(groups, planes))
        of_group[kept] = of_lead[np.searchsorted(lead, groups.begin[kept])]
        open_count = int(data["open"])
        # a group may join one that began before only in a later layer: what they have in common
        # is their first voxel, and one of them has come from the layers before
        begin_of_open, once = np.unique(groups.begin[data["group"][:open_count]], return_index=True)
        known = groups.kept(self._least) & (self._plane(groups.begin) < planes.start)
        place_of_begin = np.searchsorted(begin_of_open, groups.begin[known])
        of_group[known] = given[once[place_of_begin]]
        of_shared = of_group[data["group"][open_count:]]
        for place, block in enumerate(self._layers[number]):
            found = self._numbers(place)
            found[_chosen(shared, place)] = of_shared[_slice(shared, place)]
            write(block, found)
        return of_group[data["reach"]], last + int(lines.sum())

    # ------------------------------------------------------------------ helpers
    def _rows(self, number: int) -> tuple[list[list[tuple[int, Block]]], range]:
        """Blocks of a layer with their places, row by row, and the planes of the layer."""
        layer = list(enumerate(self._layers[number]))
        rows = [list(r) for _, r in itertools.groupby(layer, key=lambda pair: pair[1].index[1])]
        block = layer[0][1]
        return rows, range(block.start[0], block.stop[0])

    def _plane(self, first: np.ndarray) -> np.ndarray:
        """Plane of voxels that are counted through the whole volume."""
        return first // (self._height * self._width)

    def _begins(self, groups: _Groups, planes: range) -> np.ndarray:
        """Which groups begin in some planes.

        Others begin before, or after: of those, a layer has nothing but voxels that the next one
        owns, so that their numbers do not matter to it.
        """
        plane = self._plane(groups.begin)
        return (plane >= planes.start) & (plane < planes.stop)

    def _of_block(self, block: Block) -> _Groups:
        voxels, first, strong = self._pieces.owned(block)
        return _Groups(voxels, first, np.ones(len(voxels), bool) if strong is None else strong)

    def _first_of_others(self, block: Block, chosen: np.ndarray) -> np.ndarray:
        """First voxels of the kept components that nothing is shared of; else ``_NEVER``."""
        found = self._of_block(block)
        kept = found.kept(self._least)
        kept[chosen] = False
        return np.where(kept, found.begin, _NEVER)

    def _save(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        np.savez(self._folder / f"{number}.npz", allow_pickle=False, **arrays)

    def _load(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self._folder / f"{number}.npz") as data:
            return dict(data)

    def _save_numbers(self, place: int, numbers: np.ndarray) -> None:
        np.save(self._folder / f"numbers-{place}.npy", numbers)

    def _numbers(self, place: int) -> np.ndarray:
        numbers: np.ndarray = np.load(self._folder / f"numbers-{place}.npy")
        return numbers


def _key(place: int, numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.int64) + (place << _BLOCK_BITS)


def _slice(shared: np.ndarray, place: int) -> slice:
    """Where the components of a block lie among shared ones, which are sorted."""
    low, high = np.searchsorted(shared, [place << _BLOCK_BITS, (place + 1) << _BLOCK_BITS])
    return slice(int(low), int(high))


def _chosen(shared: np.ndarray, place: int) -> np.ndarray:
    """Which components of a block are shared, counted from 0."""
    return (shared[_slice(shared, place)] & ((1 << _BLOCK_BITS) - 1)) - 1
