"""Equalize: every slice, or the whole volume, stretched to the range of its type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.convert import image_values
from terareg.derived.counts import add_counts, count_values, percentiles
from terareg.derived.stretch import Stretch, full_range
from terareg.derived.tool import Measured, Tool
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Equalize(Tool):
    """Contrast normalisation: percentiles become the ends of the type's range.

    Attributes
    ----------
    clip_percent : float
        Upper percentile; the lower one is 100 minus it.
    per : str
        "slice" (every plane along z has its own percentiles) or "whole".
    least_range : float
        Smallest difference of the two percentiles: the upper one is raised to it, so that an empty
        slice stays dark.
    """

    clip_percent: float = 99.0
    per: str = "slice"
    least_range: float = 1.0

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """Count the values of the planes of a block."""
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        planes = range(block.start[0], block.stop[0])
        return count_values(voxels, planes if self.per == "slice" else [0] * len(voxels))

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Counts of a batch."""
        return add_counts(parts)

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Percentiles ``low`` and ``high`` of every ``plane`` that has any value."""
        planes, found = percentiles(add_counts(parts), (100 - self.clip_percent, self.clip_percent))
        if not planes.size:
            raise VolumeError(f"{self.source.name} contains only NaN; check its source")
        return {"plane": planes, "low": found[:, 0], "high": found[:, 1]}

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The stretched block."""
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        result, clipped = np.zeros(voxels.shape, self.dtype), Clipped()
        ends = zip(measured["plane"].tolist(), measured["low"], measured["high"], strict=True)
        known = {plane: (float(low), float(high)) for plane, low, high in ends}
        for number, plane in enumerate(voxels):
            found = known.get(block.start[0] + number if self.per == "slice" else 0)
            if found is None:
                continue
            low, high = found[0], max(found[1], found[0] + self.least_range)
            stretch = Stretch(low, high, *full_range(self.dtype), self.dtype)
            result[number], more = stretch.apply(plane)
            clipped += more
        return result, clipped
