"""Quantize: 8 bits between two values, which are given or are percentiles of the whole source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.convert import image_values
from terareg.derived.counts import add_counts, count_values, percentiles
from terareg.derived.stretch import Stretch
from terareg.derived.tool import Measured, Tool
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Quantize(Tool):
    """Maps values to 0 to 255.

    Attributes
    ----------
    percent : sequence of float
        Percentiles of all voxels that become 0 and 255, see
        :func:`terareg.derived.counts.percentiles`.
    values : sequence of float or None
        Values that become 0 and 255, instead.
    least_range : float
        Smallest difference of the two values: the upper one is raised to it, so that the noise of
        an empty channel stays dark.
    """

    percent: Sequence[float] = (0.1, 99.9)
    values: Sequence[float] | None = None
    least_range: float = 0.0

    by_planes = True

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """Count the values of a block."""
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        return count_values(voxels, [0] * len(voxels))

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Counts of a batch."""
        return add_counts(parts)

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """The two values, ``low`` and ``high``."""
        _, found = percentiles(add_counts(parts), self.percent)
        if not len(found):
            raise VolumeError(f"{self.source.name} contains only NaN; check its source")
        return {"low": found[:, 0], "high": found[:, 1]}

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The block in 8 bits."""
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        if self.values is None:
            low, high = float(measured["low"][0]), float(measured["high"][0])
        else:
            low, high = map(float, self.values)
        high = max(high, low + self.least_range)
        if high <= low:
            high = np.nextafter(np.float32(low), np.float32(np.inf), dtype=np.float32).item()
        result = np.empty(voxels.shape, np.uint8)
        clipped = Clipped()
        stretch = Stretch(low, high, 0.0, 255.0, "uint8")
        for number, plane in enumerate(voxels):
            result[number], more = stretch.apply(plane)
            clipped += more
        return result, clipped
