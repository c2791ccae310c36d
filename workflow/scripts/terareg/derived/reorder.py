"""Reorder: planes along z in another order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from terareg.core.errors import ConfigError, few
from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.derived.catalogue import SLAB_PLANES
from terareg.derived.convert import as_kind
from terareg.derived.tables import read_order
from terareg.derived.tool import Measured, Tool
from terareg.volumes.plan import Block


@dataclass(frozen=True)
class Reorder(Tool):
    """Puts planes where a list says.

    Attributes
    ----------
    order : sequence of int or str
        For every plane of the result the plane of the source, or a file with one number a line.
    duplicates, losses : bool
        Allow planes to be used twice, or not at all.
    """

    order: Sequence[int] | str = ()
    duplicates: bool = False
    losses: bool = False

    @cached_property
    def _planes(self) -> list[int]:
        return read_order(self.order)

    @property
    def frame(self) -> Frame:
        """Grid of the result, with as many planes as the list has."""
        frame = self.source.frame
        return replace(frame, shape=(len(self._planes), *frame.shape[1:]))

    def check(self) -> None:
        """Refuse planes that are not there, and those used twice or lost unless that is wanted."""
        count, planes = self.source.shape[0], self._planes
        beyond = sorted({n for n in planes if not 0 <= n < count})
        if beyond:
            raise ConfigError(
                f"order: {few([str(n) for n in beyond])} is not a plane of {self.source.name}, "
                f"which has planes 0 to {count - 1}"
            )
        twice = sorted(n for n, times in Counter(planes).items() if times > 1)
        if twice and not self.duplicates:
            raise ConfigError(
                f"order: plane {few([str(n) for n in twice])} is used twice; correct the order, or "
                "set duplicates: true"
            )
        lost = sorted(set(range(count)) - set(planes))
        if lost and not self.losses:
            raise ConfigError(
                f"order: {len(lost)} of {count} planes are left out (first: {lost[0]}); add them, "
                "or set losses: true"
            )

    def source_box(self, block: Block) -> tuple[Box, Box]:
        """From the first plane that is used to the last."""
        planes = self._planes[block.start[0] : block.stop[0]]
        return (min(planes), *block.start[1:]), (max(planes) + 1, *block.stop[1:])

    def make(self, block: Block, measured: Measured) -> tuple[np.ndarray, Clipped]:
        """The block; planes that lie near each other in the source are read together."""
        wanted = self._planes[block.start[0] : block.stop[0]]
        result = np.empty(block.shape, self.dtype)
        clipped = Clipped()
        for first, last in _groups(wanted):
            voxels = self.source.read((first, *block.start[1:]), (last + 1, *block.stop[1:]))
            voxels, more = as_kind(self.source.name, voxels, self.dtype, self.source.kind)
            clipped += more
            for place, plane in enumerate(wanted):
                if first <= plane <= last:
                    result[place] = voxels[plane - first]
        return result, clipped


def _groups(planes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last plane of ranges to read, of at most SLAB_PLANES planes each."""
    groups: list[tuple[int, int]] = []
    for plane in sorted(set(planes)):
        if groups and plane - groups[-1][0] < SLAB_PLANES:
            groups[-1] = (groups[-1][0], plane)
        else:
            groups.append((plane, plane))
    return groups
