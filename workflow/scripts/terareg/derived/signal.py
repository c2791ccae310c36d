"""Signal: voxels that stand out from their background, as a mask at full resolution."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import LABELS
from terareg.derived.mask import nearest_labels
from terareg.derived.parted import Joining
from terareg.derived.tool import Measured
from terareg.objects.components import component_part, numbered
from terareg.objects.labelling import ComponentSettings, extended
from terareg.signal.foreground import (
    DIFFERENCE,
    ForegroundSettings,
    check_settings,
    foreground,
)
from terareg.volumes.plan import Block

logger = logging.getLogger(__name__)
_CONNECTIVITY = 26


@dataclass(frozen=True)
class Signal(Joining):
    """Makes labels: 1 is signal, 0 is not.

    Voxels whose answer (:func:`terareg.signal.foreground.foreground`) is at least ``weak`` are
    joined over faces, edges and corners; a component is signal if it has a voxel of at least
    ``threshold`` and enough voxels (hysteresis; Canny, IEEE Trans. Pattern Anal. 8:679-698, 1986).

    Attributes
    ----------
    threshold, weak : float
        Of the answer: grey values above the background, with ``gradient`` grey values per
        micrometre, with ``probability`` 0 to 1. ``weak`` is ``threshold`` if it is not given.
    method, background_um, smooth_um
        See :class:`terareg.signal.foreground.ForegroundSettings`.
    dust_vox : int
        Components with fewer voxels in the whole volume are left out.
    within, exclude : str, optional
        Label volumes of the sample on any grid: where the first is 0, or the second is not, nothing
        is signal.
    """

    threshold: float = 0.0
    weak: float | None = None
    method: str = DIFFERENCE
    background_um: float = 50.0
    smooth_um: float = 0.0
    dust_vox: int = 0
    within: str | None = None
    exclude: str | None = None

    @property
    def filter(self) -> ForegroundSettings:
        """How voxels are told from their background."""
        return ForegroundSettings(self.method, self.background_um, self.smooth_um)

    @property
    def components(self) -> ComponentSettings:
        """Components of the mask of weak voxels."""
        return ComponentSettings(_CONNECTIVITY, low=1, dust_vox=self.dust_vox)

    def check(self) -> None:
        """The settings fit each other and the voxels of the source."""
        spacing = self.source.frame.spacing_um
        check_settings(self.filter, spacing)
        if self.weak is not None and self.weak > self.threshold:
            raise ConfigError(
                f"weak: {self.weak:g} is above threshold: {self.threshold:g}; swap them"
            )
        for key, name in (("within", self.within), ("exclude", self.exclude)):
            if name is not None and not self.source.beside(name).is_segmentation:
                raise ConfigError(f"{key}: {name} is an image; give a volume of {LABELS}")

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """Components of a block, and which of them have a voxel that is strong."""
        strong = voxels == 2
        return component_part(voxels, block, self.source.shape, self.components, strong)

    def read(self, block: Block) -> np.ndarray:
        """0 nothing, 1 weak, 2 strong, uint8: a block and the planes after it."""
        shape = self.source.shape
        start, stop = extended(block, shape)
        spacing = self.source.frame.spacing_um
        try:
            answer = foreground(self.source.read, (start, stop), shape, spacing, self.filter)
        except VolumeError as error:
            raise VolumeError(f"{self.source.name}: {error}") from error
        weak = self.threshold if self.weak is None else self.weak
        found = (answer >= weak).astype(np.uint8)
        found += answer >= self.threshold
        if found.any():
            frame = self.source.frame.cropped(start, stop)
            if self.within is not None:
                found[nearest_labels(self.source.beside(self.within), frame) == 0] = 0
            if self.exclude is not None:
                found[nearest_labels(self.source.beside(self.exclude), frame) != 0] = 0
        return found

    def finish(self, parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Join the components of all blocks."""
        joined, found = self.joined(parts, self.components)
        share = 100 * joined.kept_vox / np.prod(self.source.shape)
        logger.info(
            "signal: %d voxels (%.3g %%) in %d components; left out as too weak or too small: %d "
            "components with %d voxels",
            joined.kept_vox, share, joined.count, joined.dust, joined.dust_vox,
        )  # fmt: skip
        if not joined.count:
            logger.warning(
                "nothing in %s reaches threshold %g; look at the channel, then lower it",
                self.source.name, self.threshold,
            )  # fmt: skip
        return found

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The mask of a block."""
        numbers = (self.numbers(block, measured) > 0).astype(np.uint32)
        return numbered(self.read(block), block, numbers, self.components), Clipped()
