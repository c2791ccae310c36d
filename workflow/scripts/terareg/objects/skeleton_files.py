"""Skeletons of a stored label volume: centre lines of blocks, then whole ones in files.

:func:`skeleton_blocks` reads the labels once and leaves the centre lines in each block;
:func:`write_skeletons` joins those of each object. Memory holds one block, or the centre lines of
the ids of one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from terareg.core.frames import Frame
from terareg.core.parallel import map_items
from terareg.objects.id_shards import IdShards, write_shard
from terareg.objects.labelling import extended
from terareg.objects.parts import has_part, read_part, write_part
from terareg.objects.skeletons import (
    Skeleton,
    SkeletonSettings,
    block_skeletons,
    encode_skeleton,
    facts_of,
    info_json,
    joined_skeleton,
    to_swc,
)
from terareg.storage.records import to_json
from terareg.storage.store import Store
from terareg.volumes.plan import Block
from terareg.volumes.reader import Levels

LINES = "lines"
_NM_PER_UM = 1000.0
_NAMES = ("labels", "counts", "vertices", "edges", "radii")


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
    """

    settings: SkeletonSettings = SkeletonSettings()
    sharded: bool = False
    swc: bool = False
    shards: IdShards = IdShards()


def skeleton_blocks(
    volume: tuple[Levels, int],
    where: tuple[Store, str],
    blocks: Iterable[Block],
    files: SkeletonFiles,
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """Find the centre lines in blocks; see :func:`terareg.objects.meshes.surface_blocks`."""
    store, key = where
    levels, level = volume
    frame = levels.level_frame(level)

    def one(block: Block) -> str:
        name = f"{key}/{LINES}/{block.name}"
        if not has_part(store, name, fingerprint):
            labels = levels.read(level, *extended(block, frame.shape))
            found = dict(
                block_skeletons(labels, block, frame.shape, frame.spacing_um, files.settings)
            )
            write_part(store, name, _packed(found, files.shards), fingerprint)
        return block.name

    done = map_items(one, blocks, workers=workers, what=f"{levels.name}: blocks with lines")
    return {"blocks": list(done), "fingerprint": fingerprint}


def write_skeletons(
    frames: tuple[Frame, Frame],
    where: tuple[Store, str, str],
    blocks: Iterable[Block],
    shards: Iterable[int],
    files: SkeletonFiles,
) -> dict:
    """Join and write the skeletons of some shards.

    Parameters
    ----------
    frames : tuple of Frame
        Grid of the level that the lines were found in, and of level 0 of the volume.
    where : tuple of Store and two str
        Store, folder of :func:`skeleton_blocks`, and folder of the skeletons. Their ``info`` is
        written by :func:`write_info`.
    blocks : iterable of Block
        All blocks.
    shards : iterable of int
        Numbers of shards.
    files : SkeletonFiles

    Returns
    -------
    dict
        ``skeletons``: for each label the fields of :class:`SkeletonFacts`; ``objects``: keys and
        bytes; ``dust``: labels of which nothing was left.
    """
    frame, finest = frames
    store, source, key = where
    blocks = list(blocks)
    corner_um = np.array(frame.origin_um) - finest.to_um(np.full(3, -0.5))
    corner_nm = (corner_um - np.array(frame.spacing_um) / 2) * _NM_PER_UM
    spacing_nm = np.array(frame.spacing_um) * _NM_PER_UM
    summary: dict = {"skeletons": {}, "objects": {}, "dust": 0}
    for shard in shards:
        written: dict[int, tuple[bytes, bytes]] = {}
        for label, parts in _objects(store, source, blocks, shard):
            whole = joined_skeleton(parts, frame.spacing_um, files.settings)
            if whole is None:
                summary["dust"] += 1
                continue
            summary["skeletons"][str(label)] = asdict(facts_of(whole, frame.spacing_um))
            data = encode_skeleton(whole, spacing_nm, corner_nm)
            objects = {}
            if files.sharded:
                written[label] = b"", data
            else:
                objects[str(label)] = data
            if files.swc:
                objects[f"swc/{label}.swc"] = to_swc(whole, frame.to_um(whole.vertices)).encode()
            for name, content in objects.items():
                store.write(f"{key}/{name}", content)
                summary["objects"][f"{key}/{name}"] = len(content)
        if written:
            summary["objects"] |= write_shard(store, f"{key}/{files.shards.name(shard)}", written)
    return summary


def write_info(store: Store, key: str, files: SkeletonFiles) -> dict[str, int]:
    """Write ``info`` of a folder of skeletons; return {key: bytes}."""
    data = to_json(info_json(files.shards.to_json() if files.sharded else None))
    store.write(f"{key}/info", data)
    return {f"{key}/info": len(data)}


def _packed(found: dict[int, Skeleton], shards: IdShards) -> dict[str, np.ndarray]:
    """Arrays of a block, apart for each shard."""
    labels = np.array(list(found), np.uint64)
    of_labels = shards.number(labels)
    arrays = {}
    for number in np.unique(of_labels).tolist():
        chosen = labels[of_labels == number]
        listed = [found[label] for label in chosen.tolist()]
        columns = (
            chosen,
            np.array([(len(s.vertices), len(s.edges)) for s in listed], np.int64),
            np.concatenate([s.vertices for s in listed]).astype(np.int32),
            np.concatenate([s.edges for s in listed]).astype(np.uint32),
            np.concatenate([s.radius_um for s in listed]).astype(np.float32),
        )
        arrays |= {f"{number}/{name}": array for name, array in zip(_NAMES, columns)}
    return arrays


def _objects(
    store: Store, key: str, blocks: list[Block], shard: int
) -> Iterator[tuple[int, list[Skeleton]]]:
    """Label and parts of the objects of a shard, ascending by label."""
    parts: dict[int, list[Skeleton]] = {}
    names = [f"{shard}/{name}" for name in _NAMES]
    for block in blocks:
        arrays = read_part(store, f"{key}/{LINES}/{block.name}", names)
        if not arrays:
            continue
        labels, counts, vertices, edges, radii = (arrays[name] for name in names)
        v = e = 0
        for label, (vertex_count, edge_count) in zip(labels.tolist(), counts.tolist()):
            one = Skeleton(
                vertices[v : v + vertex_count].astype(np.int64),
                edges[e : e + edge_count].astype(np.int64),
                radii[v : v + vertex_count],
            )
            parts.setdefault(label, []).append(one)
            v, e = v + vertex_count, e + edge_count
    for label in sorted(parts):
        yield label, parts.pop(label)
