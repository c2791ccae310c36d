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
    def by_planes(self) -> bool:  # type: ignore[override]
        """Whether no regions around a plane are looked at."""
        return self._regions is None

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
        """Count the values of the planes of a block, and how many voxels they have."""
        voxels = image_values(self.source.name, self.source.read(block.start, block.stop))
        numbers = np.arange(*block.shape[:1], dtype=np.int32) + block.start[0]
        planes = numbers if self.per == "slice" else np.zeros_like(numbers)
        seen, times = np.unique(planes, return_counts=True)
        return {
            **count_values(voxels, planes.tolist()),
            "seen": seen,
            "voxels": times * voxels[0].size,
            "done": np.zeros(0, np.int32),
            "ends": np.zeros((0, 2)),
        }

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Percentiles of the planes of which all voxels are known, and counts of the others.

        So memory holds the counts of the planes of a layer of blocks, not of all.
        """
        counts = add_counts(parts)
        joined = {
            name: np.concatenate([part[name] for part in parts])
            for name in ("seen", "voxels", "done", "ends")
        }
        seen, first = np.unique(joined["seen"], return_inverse=True)
        voxels = np.zeros(seen.size, np.int64)
        np.add.at(voxels, first.reshape(-1), joined["voxels"])
        depth, height, width = self.source.shape
        known = voxels == height * width * (1 if self.per == "slice" else depth)
        chosen = np.isin(counts["plane"], seen[known])
        ends = (100 - self.clip_percent, self.clip_percent)
        planes, found = percentiles({n: c[chosen] for n, c in counts.items()}, ends)
        return {
            **{name: column[~chosen] for name, column in counts.items()},
            "seen": seen[~known],
            "voxels": voxels[~known],
            "done": np.concatenate([joined["done"], planes]),
            "ends": np.concatenate([joined["ends"], found]),
        }

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Percentiles ``low`` and ``high`` of every ``plane`` that has any value."""
        found = self.gather(parts)
        if found["seen"].size:
            raise VolumeError(
                f"{self.source.name}: some blocks were not measured; delete the folder 'measured' "
                "of this entry in results and run again"
            )
        if not found["done"].size:
            raise VolumeError(f"{self.source.name} contains only NaN; check its source")
        order = np.argsort(found["done"])
        low, high = found["ends"][order].T
        return {"plane": found["done"][order], "low": low, "high": high}

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
