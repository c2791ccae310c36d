"""What all tools have in common: from where they read, and how a block of the result is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.derived.view import View
from terareg.volumes.plan import Block

#: what was found in the source: arrays by name
Measured = Mapping[str, np.ndarray]


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

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """What one block of the source tells: arrays by name."""
        raise NotImplementedError

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """What the blocks of a batch tell together; ``parts`` are in the order of the blocks."""
        raise NotImplementedError

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """What all batches tell together; ``parts`` are from :meth:`gather`, in their order."""
        raise NotImplementedError

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """Voxels of a block of the result, of type ``dtype``, and what was clipped."""
        raise NotImplementedError
