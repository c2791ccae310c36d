"""Skeletons of a stored label volume: centre lines of blocks, then whole ones in files.

:func:`skeleton_part` finds the centre lines in a block;
:func:`write_skeletons` joins those of each object. Memory holds one block, or the centre lines of
the ids of one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.objects.id_shards import IdShards, write_shard
from terareg.objects.parts import Parts
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
from terareg.objects.spatial_index import SpatialIndex
from terareg.storage.records import to_json, write_files
from terareg.storage.store import Store
from terareg.volumes.plan import Block

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
    index : SpatialIndex, optional
        Boxes of space in which objects are listed.
    """

    settings: SkeletonSettings = field(default_factory=SkeletonSettings)
    sharded: bool = False
    swc: bool = False
    shards: IdShards = field(default_factory=IdShards)
    index: SpatialIndex | None = None


def skeleton_part(
    labels: np.ndarray, block: Block, frame: Frame, files: SkeletonFiles
) -> dict[str, np.ndarray]:
    """Centre lines in a block: arrays for :meth:`Parts.write`.

    Parameters
    ----------
    labels : numpy.ndarray of unsigned integers
        The block and the planes after it, see :func:`terareg.objects.labelling.extended`.
    block : Block
    frame : Frame
        Grid of the volume.
    files : SkeletonFiles
    """
    found = block_skeletons(labels, block, frame.spacing_um, files.settings)
    return _packed(dict(found), files.shards)


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
        for label, pieces in _objects(*parts, shard):
            whole = joined_skeleton(pieces, frame.spacing_um, files.settings)
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


def _packed(found: dict[int, Skeleton], shards: IdShards) -> dict[str, np.ndarray]:
    """Arrays of a block, apart for each shard."""
    labels = np.array(list(found), np.uint64)
    of_labels = shards.number(labels)
    arrays: dict[str, np.ndarray] = {}
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
    parts: Parts, digests: Mapping[str, str], shard: int
) -> Iterator[tuple[int, list[Skeleton]]]:
    """Label and parts of the objects of a shard, ascending by label."""
    found: dict[int, list[Skeleton]] = {}
    names = [f"{shard}/{name}" for name in _NAMES]
    for block, digest in digests.items():
        arrays = parts.read(block, digest, names)
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
            found.setdefault(label, []).append(one)
            v, e = v + vertex_count, e + edge_count
    for label in sorted(found):
        yield label, found.pop(label)
