"""Downsample: the source with larger voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS, SLAB_PLANES
from terareg.derived.convert import as_kind
from terareg.derived.tool import Measured, Tool
from terareg.volumes.downsample import downsample
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Downsample(Tool):
    """Halves axes until voxels are ``factor`` times as large, rounding after every step.

    So the result is the level with this factor of a pyramid made in the same way.

    Attributes
    ----------
    factor : sequence of int
        (z, y, x), powers of two.
    downsampling : str or None
        See :func:`terareg.volumes.downsample.downsample`; None is "mode" for labels, else "mean".
    """

    factor: Sequence[int] = (2, 2, 2)
    downsampling: str | None = None

    by_planes = True

    @property
    def frame(self) -> Frame:
        """Grid of the result; sizes are rounded up."""
        return self.source.frame.downsampled(self.factor)

    @property
    def offset_vox(self) -> Box:
        """Where the first voxel of the result lies, rounded down to whole voxels of the result."""
        return tuple(o // f for o, f in zip(self.source.offset_vox, self.factor))

    def source_box(self, block: Block) -> tuple[Box, Box]:
        """All voxels that become one of the block's."""
        start: Box = tuple(a * f for a, f in zip(block.start, self.factor))
        stop: Box = tuple(
            min(b * f, n) for b, f, n in zip(block.stop, self.factor, self.source.shape)
        )
        return start, stop

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The block, made a few planes at a time."""
        result = np.empty(block.shape, self.dtype)
        clipped = Clipped()
        depth = max(1, SLAB_PLANES // self.factor[0])
        start, stop = self.source_box(block)
        for first in range(0, block.shape[0], depth):
            part = result[first : first + depth]
            low = start[0] + first * self.factor[0]
            high = min(low + depth * self.factor[0], stop[0])
            voxels = self.source.read((low, *start[1:]), (high, *stop[1:]))
            voxels, more = as_kind(self.source.name, voxels, self.dtype, self.source.kind)
            part[...] = self._reduced(voxels)
            clipped += more
        return result, clipped

    def _reduced(self, voxels: np.ndarray) -> np.ndarray:
        mode = self.downsampling or ("mode" if self.source.kind == LABELS else "mean")
        left = list(self.factor)
        while math.prod(left) > 1:
            step = [min(f, 2) for f in left]
            voxels = downsample(voxels, step, mode)
            left = [f // s for f, s in zip(left, step)]
        return voxels
