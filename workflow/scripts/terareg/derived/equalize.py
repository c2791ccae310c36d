"""Equalize: every slice, or the whole volume, stretched to the range of its type, or locally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.core.numeric import Clipped, to_integer
from terareg.derived.catalogue import check_regions, contrast_regions
from terareg.derived.clahe import Axis, Ends, LocalContrast
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
    local_um : float or None
        Edge of the regions by whose histograms grey values between the percentiles are equalised,
        see :mod:`terareg.derived.clahe`: within a slice, or cubes of the whole. None stretches
        linearly.
    contrast_limit : float
        Largest share of a region's voxels in one of 256 bins.
    """

    clip_percent: float = 99.0
    per: str = "slice"
    least_range: float = 1.0
    local_um: float | None = None
    contrast_limit: float = 0.01

    def check(self) -> None:
        """Regions hold enough voxels."""
        check_regions(self._regions, self.local_um)

    @property
    def _regions(self) -> Box | None:
        """Voxels of a region of local contrast."""
        return contrast_regions(
            {"local_um": self.local_um, "per": self.per}, self.source.frame.spacing_um
        )

    def _contrast(self, regions: Box) -> LocalContrast:
        z, y, x = (Axis.of(n, wanted) for n, wanted in zip(self.source.shape, regions))
        return LocalContrast((z, y, x), self.contrast_limit)

    def source_box(self, block: Block) -> tuple[Box, Box]:
        """The block, and the regions around it."""
        if self._regions is None:
            return block.start, block.stop
        return self._contrast(self._regions).around(block.start, block.stop)

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
        measured_ends = (measured[key].tolist() for key in ("plane", "low", "high"))
        known = {plane: (low, high) for plane, low, high in zip(*measured_ends, strict=True)}

        def ends(plane: int) -> tuple[float, float] | None:
            found = known.get(plane if self.per == "slice" else 0)
            if found is None:
                return None
            low, high = found[0], max(found[1], found[0] + self.least_range)
            return low, high if high > low else np.nextafter(low, np.inf, dtype=np.float32).item()

        if self._regions is not None:
            return self._locally(block, self._regions, ends)
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        result, clipped = np.zeros(voxels.shape, self.dtype), Clipped()
        for number, plane in enumerate(voxels):
            found = ends(block.start[0] + number)
            if found is not None:
                stretch = Stretch(*found, *full_range(self.dtype), self.dtype)
                result[number], more = stretch.apply(plane)
                clipped += more
        return result, clipped

    def _locally(self, block: Block, regions: Box, ends: Ends) -> tuple[np.ndarray, Clipped]:
        """The block, each voxel equalised by the regions around it."""
        contrast = self._contrast(regions)
        first, last = contrast.around(block.start, block.stop)
        voxels = image_values(self.source.name, self.source.read(first, last))
        result, clipped = np.zeros(block.shape, self.dtype), Clipped()
        bottom, top = (np.float32(end) for end in full_range(self.dtype))
        own = tuple(slice(a - f, b - f) for a, b, f in zip(block.start, block.stop, first))
        planes = contrast.planes(voxels, block.start, block.stop, ends)
        for number, (plane, made) in enumerate(zip(voxels[own], planes, strict=True)):
            found = ends(block.start[0] + number)
            if made is None or found is None:
                continue
            low, high = found
            below, above = np.count_nonzero(~(plane >= low)), np.count_nonzero(plane > high)
            clipped += Clipped(int(below), int(above))
            made = bottom + made * (top - bottom)
            if np.dtype(self.dtype).kind == "u":
                made = to_integer(made, np.dtype(self.dtype), overwrite=True)[0]
            result[number] = made
        return result, clipped
