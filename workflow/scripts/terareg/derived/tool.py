"""What all tools have in common: from where they read, and how a block of the result is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.core.parallel import release_memory
from terareg.derived.view import View
from terareg.volumes.plan import Block

#: what was found in the source: arrays by name
Measured = Mapping[str, np.ndarray]
_HELD_BYTES = 1 << 20  # of parts that are put together as soon as they are more


@dataclass(frozen=True)
class Tool:
    """A tool with its source and its settings; subclasses have a field for every key of theirs.

    Blocks are boxes of the grid of the result (:attr:`frame`); any two may be made at the same
    time, in different processes, and again. A tool that measures (see
    :class:`terareg.derived.catalogue.ToolFacts`) is first asked to :meth:`measure` every block; the
    answers of each batch are put together by :meth:`gather`, those of all batches by
    :meth:`finish`, and what the latter returns is there when a block is made.

    Attributes
    ----------
    source : View
        What is read.
    dtype : str
        NumPy name of the type of the result.
    """

    source: View
    dtype: str

    #: whether :meth:`make` may be asked for some planes of a block, and makes the same voxels
    by_planes = False

    @property
    def frame(self) -> Frame:
        """Grid of the result."""
        return self.source.frame

    @property
    def offset_vox(self) -> Box:
        """Where the first voxel of the result lies, in whole voxels of the result."""
        return self.source.offset_vox

    def check(self) -> None:
        """Raise :class:`ConfigError` or another error if the settings do not fit the source."""

    def source_box(self, block: Block) -> tuple[Box, Box]:
        """Start and stop of what is read of the source for a block of the result."""
        return block.start, block.stop

    def is_outside(self, block: Block) -> bool:
        """Whether nothing is read for a block: all of it lies outside of the source's mask."""
        return self.source.is_outside(*self.source_box(block))

    def layers(self, block: Block, depth: int) -> list[Block]:
        """Parts of a block to be made one after the other, so that memory holds one of them.

        Parameters
        ----------
        block : Block
        depth : int
            Planes that are written together, of which parts have a multiple.

        Returns
        -------
        list of Block
            In the order of their planes: the block itself, if it has to be made as a whole, or if
            chunks of the source would be decoded more than once.
        """
        if not self.by_planes:
            return [block]
        low, high = (box[0] for box in self.source_box(block))
        ratio = -(-(high - low) // block.shape[0])
        planes = self.source.planes_together
        depth *= planes // math.gcd(planes, depth * ratio)
        first, last = block.start[0], block.stop[0]
        ends = [(max(z, first), min(z + depth, last)) for z in range(0, last, depth)]
        return [
            replace(block, start=(a, *block.start[1:]), stop=(b, *block.stop[1:]))
            for a, b in ends
            if b > first
        ]

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """What one block of the source tells: arrays by name."""
        raise NotImplementedError

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """What the blocks of a batch tell together; ``parts`` are in the order of the blocks."""
        raise NotImplementedError

    def gathered(self, parts: Iterable[Measured]) -> dict[str, np.ndarray]:
        """:meth:`gather` of any number of parts, which are not all held at the same time."""
        held: list[Measured] = []
        size, most = 0, _HELD_BYTES
        for part in parts:
            held.append(part)
            size += _bytes_of(part)
            release_memory()  # what looking at a block has freed would otherwise add up
            if size > most:
                held = [self.gather(held)]
                size = _bytes_of(held[0])
                most = max(_HELD_BYTES, 2 * size)
        return self.gather(held) if held else {}

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """What all batches tell together; ``parts`` are from :meth:`gather`, in their order."""
        raise NotImplementedError

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """Voxels of a block of the result, of type ``dtype``, and what was clipped."""
        raise NotImplementedError


def _bytes_of(measured: Measured) -> int:
    return sum(array.nbytes for array in measured.values())
