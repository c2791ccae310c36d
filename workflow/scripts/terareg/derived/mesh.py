"""Mesh: closed surfaces of labels in Neuroglancer's forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from terareg.derived.parted import Sharded, digests_in
from terareg.derived.tool import Measured
from terareg.objects.meshes import MeshSettings, check_ids, surface_part, write_info, write_meshes
from terareg.storage.store import Store
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Mesh(Sharded):
    """Makes a surface of every label but 0.

    Attributes
    ----------
    multiresolution : bool
        Several levels of detail in draco, or the legacy form.
    error_nm, details, dust_vox, only
        See :class:`terareg.objects.meshes.MeshSettings` (there ``error_nm``, ``levels``,
        ``dust_vox``, ``ids``).
    """

    multiresolution: bool = True
    error_nm: float = 0.0
    details: int = 3
    dust_vox: int = 0
    only: Sequence[int] = ()

    folder = "mesh"

    @property
    def settings(self) -> MeshSettings:
        """How labels become meshes."""
        return MeshSettings(
            "multiresolution" if self.multiresolution else "legacy",
            self.sharded and self.multiresolution,
            self.error_nm,
            self.details,
            self.dust_vox,
            tuple(self.only),
            self.shards,
            self.index,
        )

    def check(self) -> None:
        """The settings are possible."""
        _ = self.settings

    def part(self, voxels: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        """Surfaces in the cells of a block."""
        return surface_part(voxels, block, self.source.frame, self.settings)

    def write_objects(
        self, measured: Measured, where: tuple[Store, str], shards: Iterable[int]
    ) -> dict:
        """Write the meshes of some shards."""
        parts = self.parts, digests_in(measured)
        return write_meshes(
            (self.source.frame, self.source.offset_vox), parts, where, shards, self.settings
        )

    def check_rows(self, rows: list[dict]) -> None:
        """Every label that was asked for has a mesh."""
        check_ids({row["label"] for row in rows}, self.settings, self.source.name)

    def write_info(self, where: tuple[Store, str], properties: str | None) -> dict[str, dict]:
        """Write ``info``."""
        return write_info(*where, self.settings, properties)
