"""Components: connected components of a mask, of a range of grey values, or of equal labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS
from terareg.derived.parted import Parted, blocks_in, digests_in
from terareg.derived.tool import Measured
from terareg.objects.components import component_part, join_parts, numbered
from terareg.objects.labelling import ComponentSettings
from terareg.volumes.plan import Block

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Components(Parted):
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
                f"{self.source.name} is an image, of which components need low: or high: (grey "
                "values); set labels: true if its voxels are labels"
            )

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """Components of a block."""
        return component_part(voxels, block, self.source.shape, self.settings)

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Join the components of all blocks."""
        found = self.gather(parts)
        blocks = blocks_in(found)
        joined, numbers = join_parts(self.parts, blocks, digests_in(found), self.settings)
        logger.info(
            "%d components of %d voxels, the largest of %d; left out as dust: %d of %d voxels",
            len(joined.voxels), joined.voxels.sum(), joined.voxels.max(), joined.dust,
            joined.dust_vox,
        )  # fmt: skip
        digests = b"".join(bytes.fromhex(numbers[block.name]) for block in blocks)
        return {
            "block": found["block"],
            "digest": np.frombuffer(digests, np.uint8).reshape(-1, 16),
            "voxels": joined.voxels,
        }

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """Components of a block."""
        row = np.flatnonzero((measured["block"][:, :3] == block.index).all(axis=1))
        if len(row) != 1:
            raise VolumeError(
                f"block {block.name} of {self.source.name} was not measured; delete the folder "
                "'measured' of this entry in results and run again"
            )
        digest = measured["digest"][row[0]].tobytes().hex()
        numbers = self.parts.read(f"numbers/{block.name}", digest)["numbers"]
        return numbered(self.read(block), block, numbers, self.settings), Clipped()
