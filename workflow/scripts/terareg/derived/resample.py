"""Resample: the source with voxels of any size, for example cubes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError
from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.core.numeric import Clipped, to_integer
from terareg.derived.catalogue import LABELS, SLAB_PLANES, resampled_um
from terareg.derived.convert import as_kind
from terareg.derived.tool import Measured, Tool
from terareg.derived.view import View
from terareg.volumes.choosing import elected
from terareg.volumes.plan import Block
from terareg.volumes.reader import Levels

_ALIKE = 1e-6


@dataclass(frozen=True)
class Resample(Tool):
    """Voxels of another size within the same outer faces, rounded outwards.

    Images are averaged (:meth:`terareg.volumes.reader.Levels.resampled`), integers rounded; of
    labels each voxel takes the id that fills most of it.

    Attributes
    ----------
    resolution_um : float or sequence of float or None
        Voxel size, or (z, y, x); None for cubes with the longest edge of the source's voxels.
    """

    resolution_um: float | Sequence[float] | None = None

    @property
    def frame(self) -> Frame:
        """Grid of the result."""
        source = self.source.frame
        return source.resampled(resampled_um(self.resolution_um, source.spacing_um))

    @property
    def offset_vox(self) -> Box:
        """Where the first voxel of the result lies, rounded down to whole voxels of the result."""
        sizes = zip(self.source.offset_vox, self.source.frame.spacing_um, self.frame.spacing_um)
        return tuple(math.floor(o * s / t + _ALIKE) for o, s, t in sizes)

    def check(self) -> None:
        """Raise :class:`ConfigError` if the result would have no detail that the source lacks."""
        wanted, there = self.frame.spacing_um, self.source.frame.spacing_um
        if all(w < s * (1 - _ALIKE) for w, s in zip(wanted, there)):
            raise ConfigError(
                f"resolution_um: {list(wanted)} is finer than the voxels of {self.source.name} "
                f"({list(there)} um) along every axis, which adds no detail; raise it"
            )

    def source_box(self, block: Block) -> tuple[Box, Box]:
        """All voxels that overlap those of the block, and one more, for the slopes."""
        source = self.source.frame
        part = self.frame.cropped(block.start, block.stop)
        start, stop = [], []
        for axis in range(3):
            low = part.origin_um[axis] - part.spacing_um[axis] / 2
            first = (low - source.origin_um[axis]) / source.spacing_um[axis] + 0.5
            last = first + part.extent_um[axis] / source.spacing_um[axis]
            start.append(min(max(0, math.floor(first + _ALIKE) - 1), source.shape[axis] - 1))
            stop.append(max(1, min(source.shape[axis], math.ceil(last - _ALIKE) + 1)))
        return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The block, made a few planes at a time."""
        levels = _OneLevel(self.source, self.dtype)
        result = np.empty(block.shape, self.dtype)
        clipped = Clipped()
        ratio = self.frame.spacing_um[0] / self.source.frame.spacing_um[0]
        depth = max(1, int(SLAB_PLANES / max(1.0, ratio)))
        for first in range(block.start[0], block.stop[0], depth):
            stop = min(first + depth, block.stop[0])
            part = self.frame.cropped((first, *block.start[1:]), (stop, *block.stop[1:]))
            here = slice(first - block.start[0], stop - block.start[0])
            if self.source.kind == LABELS:
                result[here] = elected(levels, 0, part)
                continue
            mean, _ = levels.resampled(part)
            if np.dtype(self.dtype).kind == "u":
                mean, lost = to_integer(mean, np.dtype(self.dtype))
                clipped += lost
            result[here] = mean
        return result, clipped + levels.clipped


class _OneLevel(Levels):
    """The view of a tool as a volume of one level, in the type in which volumes store it."""

    def __init__(self, view: View, dtype: str) -> None:
        self.name, self.frames, self.dtype = view.name, (view.frame,), np.dtype(dtype)
        self.is_segmentation = view.kind == LABELS
        self.clipped = Clipped()
        self._view = view

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        voxels, more = as_kind(
            self.name, self._view.read(start, stop), self.dtype.name, self._view.kind
        )
        self.clipped += more
        return voxels
