"""Connected components of a stored volume: label blocks, join them, write the label volume.

Three steps, each a job or several: :func:`label_blocks` reads the source once and leaves a small
part for each block, :func:`join_blocks` decides on numbers, :func:`write_components` reads the
source again and writes the labels. Labels of blocks are not stored in between, because it costs
less to compute them twice than to write and read a volume.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.levels import Box
from terareg.core.numeric import Clipped
from terareg.core.parallel import map_items
from terareg.objects.labelling import (
    BlockComponents,
    ComponentSettings,
    block_components,
    extended,
    join,
    label_voxels,
    renumber,
    shared_voxels,
)
from terareg.objects.parts import has_part, read_part, write_part
from terareg.storage.records import content_hash
from terareg.storage.records import fingerprint as fingerprint_of
from terareg.storage.store import Store
from terareg.volumes.plan import Block, VolumePlan
from terareg.volumes.reader import Levels
from terareg.volumes.writer import write_blocks

logger = logging.getLogger(__name__)

PARTS, NUMBERS = "components/parts", "components/numbers"


@dataclass(frozen=True)
class Source:
    """What components are made of.

    Attributes
    ----------
    volume : Levels
    level : int
        Its shape is that of level 0 of the label volume.
    settings : ComponentSettings
    """

    volume: Levels
    level: int
    settings: ComponentSettings

    def labels(self, block: Block, shape: Box) -> tuple[np.ndarray, int]:
        """Components of an extended block, and their number."""
        voxels = self.volume.read(self.level, *extended(block, shape))
        return label_voxels(voxels, self.settings)

    def check(self, plan: VolumePlan) -> None:
        """Raise VolumeError if the label volume does not have the shape of the source."""
        shape = self.volume.level_frame(self.level).shape
        if shape != plan.frame.shape:
            raise VolumeError(
                f"level {self.level} of {self.volume.name} has shape {shape}, but its components "
                f"{plan.frame.shape}; remove {plan.name} and run again"
            )


def label_blocks(
    source: Source,
    where: tuple[Store, str],
    plan: VolumePlan,
    blocks: Iterable[Block],
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """Label blocks, and leave for each what the others have to know of it.

    Parameters
    ----------
    source : Source
    where : tuple of Store and str
        Store and folder of the label volume.
    plan : VolumePlan
        Of the label volume.
    blocks : iterable of Block
        Some of ``plan.blocks()``; those whose part has the same fingerprint are skipped.
    fingerprint : str
        Of everything that the parts are made from.
    workers : int
        Threads.

    Returns
    -------
    dict
        ``blocks``: names of the blocks.
    """
    source.check(plan)
    store, key = where

    def one(block: Block) -> str:
        name = f"{key}/{PARTS}/{block.name}"
        if not has_part(store, name, fingerprint):
            labels, count = source.labels(block, plan.frame.shape)
            part = block_components(labels, count, block, plan.frame.shape)
            arrays = {"voxels": part.voxels, "first": part.first}
            for axis in range(3):
                arrays |= {f"low{axis}": part.low[axis], f"high{axis}": part.high[axis]}
            write_part(store, name, arrays, fingerprint)
        return block.name

    done = map_items(one, blocks, workers=workers, what=f"{plan.name}: labelled blocks")
    return {"blocks": list(done), "fingerprint": fingerprint}


def join_blocks(where: tuple[Store, str], plan: VolumePlan, settings: ComponentSettings) -> dict:
    """Join the components of blocks across their borders, and leave each block its numbers.

    Memory holds a few numbers for each component of each block, and the planes of two rows of
    blocks.

    Returns
    -------
    dict
        ``components``, ``voxels`` (of all of them), ``largest_vox``, ``dust``, ``dust_vox``, and a
        ``fingerprint`` of the numbers.

    Raises
    ------
    VolumeError
        If nothing is a component.
    """
    store, key = where
    blocks = plan.blocks()
    row = blocks[-1].index[2] + 1
    names = {block.index: block.name for block in blocks}

    @functools.lru_cache(maxsize=4 * row + 8)
    def part(index: Box) -> BlockComponents:
        arrays = read_part(store, f"{key}/{PARTS}/{names[index]}")
        low, high = (tuple(arrays[f"{n}{axis}"] for axis in range(3)) for n in ("low", "high"))
        return BlockComponents(arrays["voxels"], arrays["first"], low, high)

    voxels, first, offsets = [], [], {}
    total = 0
    for block in blocks:
        found = part(block.index)
        offsets[block.index] = total
        voxels.append(found.voxels)
        first.append(found.first)
        total += len(found.voxels)

    def low_planes(index: Box) -> tuple[np.ndarray, ...] | None:
        return part(index).low if index in names else None

    pairs = [np.zeros((2, 0), np.int64)]
    for block in blocks:
        for index, here, there in shared_voxels(block, part(block.index), low_planes):
            # components are counted from 1 in their block, and from 0 through all of them
            begin = np.array([[offsets[block.index] - 1], [offsets[index] - 1]])
            pairs.append(np.stack([here, there]).astype(np.int64) + begin)
    joined = join(np.concatenate(voxels), np.concatenate(first), np.hstack(pairs), settings)
    if not len(joined.voxels):
        raise VolumeError(
            f"{plan.name}: no component is left (dust: {joined.dust}, of {joined.dust_vox} "
            "voxels); check the threshold and dust_vox"
        )
    print_of = fingerprint_of(asdict(settings), content_hash(joined.numbers))
    for block, found in zip(blocks, voxels):
        begin = offsets[block.index]
        numbers = joined.numbers[begin : begin + len(found)]
        write_part(store, f"{key}/{NUMBERS}/{block.name}", {"numbers": numbers}, print_of)
    return {
        "components": len(joined.voxels),
        "voxels": int(joined.voxels.sum()),
        "largest_vox": int(joined.voxels.max()),
        "dust": joined.dust,
        "dust_vox": joined.dust_vox,
        "fingerprint": print_of,
    }


def write_components(
    source: Source,
    where: tuple[Store, str],
    plan: VolumePlan,
    blocks: Iterable[Block],
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """Write blocks of the label volume; see :func:`terareg.volumes.writer.write_blocks`.

    ``fingerprint`` covers that of :func:`join_blocks`.
    """
    source.check(plan)
    store, key = where

    def make(block: Block) -> tuple[np.ndarray, Clipped]:
        labels, count = source.labels(block, plan.frame.shape)
        numbers = read_part(store, f"{key}/{NUMBERS}/{block.name}")["numbers"]
        if len(numbers) != count:
            raise VolumeError(
                f"block {block.name} of {source.volume.name} has {count} components, but had "
                f"{len(numbers)} before: the source was changed; run again from the first step"
            )
        return renumber(labels, block, numbers), Clipped()

    return write_blocks(store, key, plan, blocks, make, fingerprint=fingerprint, workers=workers)
