"""Connected components of a volume in three steps: label blocks, join them, number the voxels.

The first step reads the volume and leaves a small part for each block (:func:`component_part`), the
second decides on numbers (:func:`join_parts`), the third reads the volume again
(:func:`numbered`). Labels of blocks are not stored in between, because it costs less to compute
them twice than to write and read a volume.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.objects.joining import Joined, join_blocks
from terareg.objects.labelling import (
    ComponentSettings,
    block_components,
    label_voxels,
    renumber,
)
from terareg.objects.parts import Parts
from terareg.volumes.plan import Block


def component_part(
    voxels: np.ndarray,
    block: Block,
    shape: Box,
    settings: ComponentSettings,
    strong: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What other blocks have to know of a block: arrays for :meth:`Parts.write`.

    Parameters
    ----------
    voxels : numpy.ndarray
        Of the extended block, see :func:`terareg.objects.labelling.extended`.
    block : Block
    shape : tuple of int
        Of the volume.
    settings : ComponentSettings
    strong : numpy.ndarray of bool, shape of ``voxels``, optional
        Where a component has to be somewhere for it to be kept (hysteresis).
    """
    labels, count = label_voxels(voxels, settings)
    part = block_components(labels, count, block, shape)
    arrays = {"voxels": part.voxels, "first": part.first}
    if strong is not None:
        arrays["strong"] = np.bincount(labels[strong], minlength=count + 1)[1:] > 0
    for axis in range(3):
        arrays |= {f"low{axis}": part.low[axis], f"high{axis}": part.high[axis]}
    return arrays


def join_parts(
    parts: Parts, blocks: Sequence[Block], digests: Mapping[str, str], settings: ComponentSettings
) -> tuple[Joined, dict[str, str]]:
    """Join the components of all blocks, and leave each block the numbers of its components.

    Memory follows a layer of blocks, see :func:`terareg.objects.joining.join_blocks`.

    Parameters
    ----------
    parts : Parts
        Of :func:`component_part`, named after the blocks; numbers are written beside them.
    blocks : sequence of Block
        All, in z, y, x order.
    digests : mapping of str to str
        Of the parts, by name of the block.
    settings : ComponentSettings

    Returns
    -------
    joined : Joined
    numbers : dict of str to str
        Digests of the blocks' numbers, by name of the block.
    """
    numbers: dict[str, str] = {}

    def write(block: Block, found: np.ndarray) -> None:
        numbers[block.name] = parts.write(f"numbers/{block.name}", {"numbers": found})

    return join_blocks(blocks, _Stored(parts, blocks, digests), settings, write), numbers


class _Stored:
    """Components of blocks from their parts; planes of the last ones that were asked are held."""

    def __init__(self, parts: Parts, blocks: Sequence[Block], digests: Mapping[str, str]) -> None:
        self._parts, self._digests = parts, digests
        self._names = {block.index: block.name for block in blocks}
        row = max(block.index[2] for block in blocks) + 1
        self._planes = functools.lru_cache(maxsize=4 * row + 8)(self._read_planes)

    def low(self, index: Box) -> tuple[np.ndarray, ...] | None:
        return self._planes(index, "low") if index in self._names else None

    def high(self, block: Block) -> tuple[np.ndarray, ...]:
        return self._read_planes(block.index, "high")

    def owned(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        arrays = self._read(block.index, ["voxels", "first", "strong"])
        return arrays["voxels"], arrays["first"], arrays.get("strong")

    def _read_planes(self, index: Box, which: str) -> tuple[np.ndarray, ...]:
        names = [f"{which}{axis}" for axis in range(3)]
        arrays = self._read(index, names)
        return tuple(arrays[name] for name in names)

    def _read(self, index: Box, names: list[str]) -> dict[str, np.ndarray]:
        name = self._names[index]
        return self._parts.read(name, self._digests[name], names)


def numbered(
    voxels: np.ndarray, block: Block, numbers: np.ndarray, settings: ComponentSettings
) -> np.ndarray:
    """Final components of a block, uint32.

    Parameters
    ----------
    voxels : numpy.ndarray
        Of the extended block, as they were for :func:`component_part`.
    block : Block
    numbers : numpy.ndarray of uint32
        Of the block's components, from :func:`join_parts`.
    settings : ComponentSettings

    Raises
    ------
    VolumeError
        If the block does not have so many components any more.
    """
    labels, count = label_voxels(voxels, settings)
    if len(numbers) != count:
        raise VolumeError(
            f"block {block.name} of the source has {count} components but had {len(numbers)} when "
            "it was measured, so the source has changed; delete the folder 'measured' of this "
            "entry in results and run again"
        )
    return renumber(labels, block, numbers)
