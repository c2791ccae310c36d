"""Skeletons of a stored label volume: what thinning leaves of blocks, then whole ones in files.

:func:`skeleton_part` thins a block with its surroundings; :func:`write_skeletons` makes lines of
what is left of each object. Memory holds one block with its surroundings, or what is left of the
ids of one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.objects.centre_lines import joined_lines
from terareg.objects.id_shards import IdShards, write_shard
from terareg.objects.line_voxels import LineVoxels, line_voxels
from terareg.objects.parts import Parts
from terareg.objects.skeletons import (
    Skeleton,
    SkeletonSettings,
    encode_skeleton,
    facts_of,
    info_json,
    to_swc,
)
from terareg.objects.spatial_index import SpatialIndex
from terareg.storage.records import to_json, write_files
from terareg.storage.store import Store
from terareg.volumes.plan import Block

_NM_PER_UM = 1000.0
_TOGETHER = 1 << 18  # voxels of small objects whose lines are made together


@dataclass(frozen=True)
class SkeletonFiles:
    """What is written of skeletons.

    Attributes
    ----------
    settings : SkeletonSettings
    sharded : bool
        Many skeletons in a file.
    swc : bool
        Also one SWC file for each label, in micrometres.
    shards : IdShards
        Parts in which objects are written, and with ``sharded`` their files.
    index : SpatialIndex, optional
        Boxes of space in which objects are listed.
    """

    settings: SkeletonSettings = field(default_factory=SkeletonSettings)
    sharded: bool = False
    swc: bool = False
    shards: IdShards = field(default_factory=IdShards)
    index: SpatialIndex | None = None


def skeleton_part(
    labels: np.ndarray, start: Box, block: Block, frame: Frame, files: SkeletonFiles
) -> dict[str, np.ndarray]:
    """What is left of a block: arrays for :meth:`Parts.write`.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The block and what is around it, see :func:`terareg.objects.line_voxels.surroundings`.
    start : tuple of int
        Where they begin.
    block : Block
    frame : Frame
        Grid of the volume.
    files : SkeletonFiles
    """
    return _packed(line_voxels(labels, start, block, frame.spacing_um), files.shards)


def write_skeletons(
    grid: tuple[Frame, Box],
    parts: tuple[Parts, Mapping[str, str]],
    where: tuple[Store, str],
    shards: Iterable[int],
    files: SkeletonFiles,
) -> dict:
    """Join and write the skeletons of some shards.

    Parameters
    ----------
    grid : tuple of Frame and tuple of int
        Grid of the labels, and where its first voxel lies, in whole voxels.
    parts : tuple of Parts and mapping of str to str
        Of :func:`skeleton_part`, and the digests of all by name of the block.
    where : tuple of Store and str
        Folder of the skeletons. Their ``info`` is written by :func:`write_info`.
    shards : iterable of int
        Numbers of shards.
    files : SkeletonFiles

    Returns
    -------
    dict
        ``rows``: for each skeleton its ``label`` and the fields of :class:`SkeletonFacts`;
        ``objects``: what is known of each by key; ``dust``: labels of which nothing was left;
        ``index``: where labels lie, see
        :meth:`terareg.objects.spatial_index.SpatialIndex.files`.
    """
    frame, offset_vox = grid
    store, key = where
    spacing_nm = np.array(frame.spacing_um) * _NM_PER_UM
    corner_nm = np.array(offset_vox) * spacing_nm
    summary: dict = {"rows": [], "objects": {}, "dust": 0, "index": {}}
    for shard in shards:
        written: dict[int, tuple[bytes, bytes]] = {}
        for label, whole in _objects(*parts, shard, frame, files.settings):
            if whole is None:
                summary["dust"] += 1
                continue
            facts = facts_of(whole, frame.spacing_um)
            summary["rows"].append({"label": label, **asdict(facts)})
            if files.index is not None:
                places_nm = ((whole.vertices + 0.5) * spacing_nm + corner_nm)[:, ::-1]
                files.index.add(summary["index"], label, (places_nm, whole.edges))
            data = encode_skeleton(whole, spacing_nm, corner_nm)
            objects = {}
            if files.sharded:
                written[label] = b"", data
            else:
                objects[str(label)] = data
            if files.swc:
                objects[f"swc/{label}.swc"] = to_swc(whole, frame.to_um(whole.vertices)).encode()
            summary["objects"] |= write_files(store, key, objects)
        if written:
            summary["objects"] |= write_shard(store, f"{key}/{files.shards.name(shard)}", written)
    return summary


def write_info(
    store: Store, key: str, files: SkeletonFiles, properties: str | None = None
) -> dict[str, dict]:
    """Write ``info`` of a folder of skeletons; return what is known of it.

    ``properties`` is the folder of their segment properties, relative to it.
    """
    info = info_json(files.shards.to_json() if files.sharded else None)
    named = {} if properties is None else {"segment_properties": properties}
    index = {} if files.index is None else files.index.info()
    return write_files(store, key, {"info": to_json(info | named | index)})


def _packed(found: LineVoxels, shards: IdShards) -> dict[str, np.ndarray]:
    """Arrays of a block, apart for each shard."""
    arrays: dict[str, np.ndarray] = {}
    for number in np.unique(shards.number(found.labels)).tolist():

        def here(labels: np.ndarray, number: int = number) -> np.ndarray:
            return shards.number(labels) == number

        mine = found.part(here)
        arrays |= {f"{number}/{field.name}": getattr(mine, field.name) for field in fields(mine)}
    return arrays


def _objects(
    parts: Parts, digests: Mapping[str, str], shard: int, frame: Frame, settings: SkeletonSettings
) -> Iterator[tuple[int, Skeleton | None]]:
    """Label and skeleton of the objects of a shard, ascending by label."""
    found = []
    names = [f"{shard}/{field.name}" for field in fields(LineVoxels)]
    for block, digest in digests.items():
        arrays = parts.read(block, digest, names)
        if arrays:
            found.append(LineVoxels(*(arrays[name] for name in names)))
    if not found:
        return
    whole = LineVoxels.together(found)
    del found
    # small objects together, large ones alone
    ids, counts = np.unique(whole.labels, return_counts=True)
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(ids):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + _TOGETHER, "right")))
        some = whole.between(ids[begin], ids[end - 1])
        yield from joined_lines(some, frame.shape, frame.spacing_um, settings)
        begin = end
