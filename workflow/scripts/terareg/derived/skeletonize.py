"""Skeletonize: centre lines of labels, with radii, in Neuroglancer's form and as SWC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from terareg.core.levels import Box
from terareg.derived.parted import Sharded, digests_in
from terareg.derived.tool import Measured
from terareg.objects.line_voxels import surroundings
from terareg.objects.skeleton_files import (
    SkeletonFiles,
    skeleton_part,
    write_info,
    write_skeletons,
)
from terareg.objects.skeletons import SkeletonSettings
from terareg.storage.store import Store
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Skeletonize(Sharded):
    """Finds the centre lines of every label but 0.

    Attributes
    ----------
    scale, margin_um, spur_um, dust_um
        See :class:`terareg.objects.skeletons.SkeletonSettings`; the margin is two voxels (their
        longest edge) if it is not given.
    swc : bool
        Also one SWC file for each label.
    """

    scale: float = 1.5
    margin_um: float | None = None
    spur_um: float = 0.0
    dust_um: float = 0.0
    swc: bool = False

    folder = "skeletons"

    @property
    def files(self) -> SkeletonFiles:
        """How centre lines are found and written."""
        margin_um = self.margin_um
        if margin_um is None:
            margin_um = 2 * max(self.source.frame.spacing_um)
        settings = SkeletonSettings(self.scale, margin_um, self.spur_um, self.dust_um)
        return SkeletonFiles(settings, self.sharded, self.swc, self.shards, self.index)

    def check(self) -> None:
        """The settings are possible."""
        _ = self.files

    def surroundings(self, block: Block) -> tuple[Box, Box]:
        """A block and what is around it, as far as thinning looks."""
        return surroundings(block, self.source.shape, self.source.frame.spacing_um)

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """What thinning leaves of a block."""
        start, _ = self.surroundings(block)
        return skeleton_part(voxels, start, block, self.source.frame, self.files)

    def write_objects(
        self, measured: Measured, where: tuple[Store, str], shards: Iterable[int]
    ) -> dict:
        """Write the skeletons of some shards."""
        parts = self.parts, digests_in(measured)
        return write_skeletons(
            (self.source.frame, self.source.offset_vox), parts, where, shards, self.files
        )

    def write_info(self, where: tuple[Store, str], properties: str | None) -> dict[str, dict]:
        """Write ``info``."""
        return write_info(*where, self.files, properties)
