"""Components: connected components of a mask, of a range of grey values, or of equal labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS
from terareg.derived.parted import Joining
from terareg.derived.tool import Measured
from terareg.objects.components import component_part, numbered
from terareg.objects.labelling import ComponentSettings
from terareg.volumes.plan import Block

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Components(Joining):
    """Numbers components from 1 in the order of their first voxels; 0 is background.

    Attributes
    ----------
    connectivity, low, high, dust_vox
        See :class:`terareg.objects.labelling.ComponentSettings`.
    """

    connectivity: int = 26
    low: float | None = None
    high: float | None = None
    dust_vox: int = 0

    @property
    def settings(self) -> ComponentSettings:
        """What a component is."""
        return ComponentSettings(self.connectivity, self.low, self.high, self.dust_vox)

    def check(self) -> None:
        """Images need a threshold."""
        if self.settings.of_labels and self.source.kind != LABELS:
            raise ConfigError(
                f"{self.source.name} is an image, whose components need a threshold; set low or "
                "high (grey values), or labels: true if its voxels are labels"
            )

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """Components of a block."""
        return component_part(voxels, block, self.source.shape, self.settings)

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Join the components of all blocks."""
        joined, found = self.joined(parts, self.settings)
        if not joined.count:
            raise VolumeError(
                f"{self.source.name}: no component is left (left out as dust: {joined.dust}, of "
                f"{joined.dust_vox} voxels); check the source, the threshold and dust_vox"
            )
        logger.info(
            "%d components with %d voxels in all, the largest with %d; left out as dust: %d with "
            "%d voxels in all",
            joined.count, joined.kept_vox, joined.largest_vox, joined.dust, joined.dust_vox,
        )  # fmt: skip
        return found

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """Components of a block."""
        numbers = self.numbers(block, measured)
        return numbered(self.read(block), block, numbers, self.settings), Clipped()
