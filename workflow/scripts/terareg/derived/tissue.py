"""Tissue: a mask of where the sample is, from means over cells of about 50 um."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.derived.tool import Measured, Tool
from terareg.objects.tissue import (
    NO_BACKGROUND,
    TissueSettings,
    boxes_of,
    cell_sums,
    dark_spread,
    tissue_mask,
)
from terareg.volumes.plan import Block

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tissue(Tool):
    """Makes labels: 1 is tissue, 0 is not.

    Attributes
    ----------
    resolution_um : float
        Edge of the cells, rounded to whole voxels.
    threshold, least_share
        See :class:`terareg.objects.tissue.TissueSettings`.
    """

    resolution_um: float = 50.0
    threshold: float | None = None
    least_share: float = 0.01

    by_planes = True

    @property
    def settings(self) -> TissueSettings:
        """How tissue is told from background."""
        return TissueSettings(self.threshold, self.least_share)

    @property
    def cell(self) -> Box:
        """Voxels of a cell along z, y, x."""
        z, y, x = (max(1, round(self.resolution_um / s)) for s in self.source.frame.spacing_um)
        return z, y, x

    def check(self) -> None:
        """The settings are possible."""
        _ = self.settings

    def measure(self, block: Block) -> dict[str, np.ndarray]:
        """Sums over the cells that a block touches."""
        voxels = self.source.read(block.start, block.stop)
        first, sums, counts = cell_sums(voxels, block.start, self.cell)
        return {
            "first": first[None],
            "shape": np.array([sums.shape], np.int64),
            "sums": sums.reshape(-1),
            "counts": counts.reshape(-1),
        }

    def gather(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Sums of the blocks of a batch."""
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """The mask of the cells, its threshold, and the boxes of its pieces in voxels.

        ``dark_spread`` says how even the background is, see
        :func:`terareg.objects.tissue.dark_spread`.
        """
        found = self.gather(parts)
        grid = [-(-n // c) for n, c in zip(self.source.shape, self.cell)]
        sums, counts = np.zeros(grid, found["sums"].dtype), np.zeros(grid, np.int64)
        begin = 0
        for first, shape in zip(found["first"], found["shape"]):
            box = tuple(slice(a, a + n) for a, n in zip(first, shape))
            end = begin + int(np.prod(shape))
            sums[box] += found["sums"][begin:end].reshape(shape)
            counts[box] += found["counts"][begin:end].reshape(shape)
            begin = end
        if not counts.all():
            raise VolumeError(
                f"{self.source.name}: some blocks were not measured; delete the folder 'measured' "
                "of this entry in results and run again"
            )
        means = sums / counts
        mask, threshold = tissue_mask(means, self.settings)
        spread = dark_spread(means, threshold)
        cell = np.array([*self.cell, *self.cell])
        boxes = np.minimum(boxes_of(mask) * cell, [*self.source.shape, *self.source.shape])
        logger.info(
            "tissue from grey value %g: %.1f %% of the volume in %d pieces", threshold,
            100 * mask.mean(), len(boxes),
        )  # fmt: skip
        if self.threshold is None and spread > NO_BACKGROUND:
            logger.warning(
                "%s may have no background: what is darker than %g varies by %.2f of its distance "
                "from the rest, where background around a sample has %g or less, so that the mask "
                "would follow the texture of the tissue; look at it, and give a threshold or leave "
                "it out",
                self.source.name, threshold, spread, NO_BACKGROUND,
            )  # fmt: skip
        return {
            "mask": mask,
            "threshold": np.array([threshold]),
            "boxes": boxes,
            "dark_spread": np.array([spread]),
        }

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The mask of the cells in the voxels of a block."""
        index = [np.arange(a, b) // c for a, b, c in zip(block.start, block.stop, self.cell)]
        return measured["mask"][np.ix_(*index)].astype(np.uint32), Clipped()
