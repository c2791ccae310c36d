"""Count: voxels, place and intensity of every label, and labels by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.derived.mask import nearest_labels
from terareg.derived.tool import Measured, Tool
from terareg.objects.counting import CountTable, count_block, merge_counts, object_rows, region_rows
from terareg.volumes.plan import Block
from terareg.volumes.reader import Volume


@dataclass(frozen=True)
class Count(Tool):
    """Counts labels; 0 is background.

    Attributes
    ----------
    image : str, optional
        Volume of the sample with intensities, on the grid of the labels.
    regions : str, optional
        Label volume of the sample, on any grid: a voxel belongs to the region at its centre.
    """

    image: str | None = None
    regions: str | None = None

    def check(self) -> None:
        """The grids fit."""
        if self.image is not None:
            if self._volume(self.image).is_segmentation:
                raise ConfigError(f"image: {self.image} contains labels; give a volume of an image")
            self._level_of(self._volume(self.image))
        if self.regions is not None and not self._volume(self.regions).is_segmentation:
            raise ConfigError(f"regions: {self.regions} is an image; give a volume of labels")

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """Counts of a block."""
        labels = self.source.read(block.start, block.stop)
        image = None if self.image is None else self._image(block)
        regions = None if self.regions is None else self._regions(block)
        return count_block(labels, block.start, image, regions).arrays()

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Counts of a batch."""
        return merge_counts([CountTable.of(dict(part)) for part in parts]).arrays()

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Counts of all."""
        return self.gather(parts)

    def tables(self, measured: Measured) -> tuple[list[dict], list[dict]]:
        """Rows of the table of labels, and of that of regions."""
        table = CountTable.of(dict(measured))
        rows = list(object_rows(table, self.source.frame))
        if not rows:
            raise VolumeError(
                f"{self.source.name} has no labelled voxel; check the source and the region"
            )
        return rows, list(region_rows(table, self.source.frame))

    def _volume(self, name: str) -> Volume:
        return self.source.beside(name)

    def _level_of(self, volume: Volume) -> int:
        """Level of an image on whose grid the labels lie."""
        grid = self.source.levels.level_frame(self.source.level)
        for level, frame in enumerate(volume.frames):
            if frame.shape == grid.shape and np.allclose(frame.spacing_um, grid.spacing_um, 1e-4):
                return level
        raise ConfigError(
            f"image: no level of {self.image} has the grid of {self.source.name} ({grid.shape} "
            f"voxels of {grid.spacing_um} um); give the image that the labels were made from"
        )

    def _image(self, block: Block) -> np.ndarray:
        volume = self._volume(self.image or "")
        start, stop = (
            tuple(n + first for n, first in zip(end, self.source.start))
            for end in (block.start, block.stop)
        )
        return volume.read(self._level_of(volume), start, stop)

    def _regions(self, block: Block) -> np.ndarray:
        """Region at the centre of each voxel of a block; 0 outside of the volume of regions."""
        frame = self.source.frame.cropped(block.start, block.stop)
        return nearest_labels(self._volume(self.regions or ""), frame)
