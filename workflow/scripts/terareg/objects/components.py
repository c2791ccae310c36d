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
from terareg.objects.labelling import (
    BlockComponents,
    ComponentSettings,
    Joined,
    block_components,
    join,
    label_voxels,
    renumber,
    shared_voxels,
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

    Memory holds a few numbers for each component of each block, and the planes of two rows of
    blocks.

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
    names = {block.index: block.name for block in blocks}

    @functools.lru_cache(maxsize=4 * (blocks[-1].index[2] + 1) + 8)
    def part(index: Box) -> BlockComponents:
        arrays = parts.read(names[index], digests[names[index]])
        low, high = (tuple(arrays[f"{n}{axis}"] for axis in range(3)) for n in ("low", "high"))
        return BlockComponents(arrays["voxels"], arrays["first"], low, high, arrays.get("strong"))

    def low_planes(index: Box) -> tuple[np.ndarray, ...] | None:
        return part(index).low if index in names else None

    voxels, first, strong, offsets, total = [], [], [], {}, 0
    for block in blocks:
        found = part(block.index)
        offsets[block.index] = total
        voxels.append(found.voxels)
        first.append(found.first)
        if found.strong is not None:
            strong.append(found.strong)
        total += len(found.voxels)
    pairs = [np.zeros((2, 0), np.int64)]
    for block in blocks:
        for index, here, there in shared_voxels(block, part(block.index), low_planes):
            # components are counted from 1 in their block, and from 0 through all of them
            begin = np.array([[offsets[block.index] - 1], [offsets[index] - 1]])
            pairs.append(np.stack([here, there]).astype(np.int64) + begin)
    joined = join(
        np.concatenate(voxels),
        np.concatenate(first),
        np.hstack(pairs),
        settings,
        np.concatenate(strong) if strong else None,
    )
    numbers = {}
    for block, found_voxels in zip(blocks, voxels):
        begin_of = offsets[block.index]
        chosen = joined.numbers[begin_of : begin_of + len(found_voxels)]
        numbers[block.name] = parts.write(f"numbers/{block.name}", {"numbers": chosen})
    return joined, numbers


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
