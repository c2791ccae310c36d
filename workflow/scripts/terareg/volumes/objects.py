"""What a volume consists of in a store: files, records, and levels in every format.

A volume at ``key`` of a store has

- ``volume.json``: its plan and metadata,
- ``ome.zarr/``: an OME-Zarr image, 0.5 if nothing else is asked for,
- ``precomputed/``: a Neuroglancer precomputed volume,
- ``blocks/{z}_{y}_{x}.json``: one record per block, written after everything the block wrote,
- ``pyramid.json``: the record of the levels above the blocks.

Chunks of zeros are stored like others (a few bytes each in OME-Zarr; in full in raw precomputed,
whose readers would otherwise have to guess), so that an absent object is always an error.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
import xxhash

from terareg.core.errors import VolumeError
from terareg.core.parallel import map_items
from terareg.storage.foreign import boundary
from terareg.storage.records import fingerprint as fingerprint_of
from terareg.storage.records import read_record, to_json
from terareg.storage.store import ARRAY_ERRORS, Store, outage
from terareg.volumes import ngff, precomputed
from terareg.volumes.box_writers import Together
from terareg.volumes.plan import Block, VolumePlan

PLAN_FILE = "volume.json"
PYRAMID_FILE = "pyramid.json"
RECORD_FOLDER = "blocks"
#: counts in the records of blocks, which summaries add up
SUMS = ("voxels", "saturated", "clipped_low", "clipped_high")


def record_key(key: str, block: Block) -> str:
    """Key of a block's record."""
    return f"{key}/{RECORD_FOLDER}/{block.name}.json"


def read_plan(store: Store, key: str) -> VolumePlan:
    """Plan of the volume at ``key``, or :class:`VolumeError` if there is none."""
    return VolumePlan.from_json(volume_file(store, key)["plan"])


def volume_file(store: Store, key: str) -> dict:
    """Content of ``volume.json``: ``plan`` and ``metadata``."""
    content = read_record(store, f"{key}/{PLAN_FILE}")
    if content is None or "plan" not in content:
        raise VolumeError(
            f"{store.address(key)} is not a volume written by terareg ({PLAN_FILE} is missing); "
            "correct the path"
        )
    return content


def metadata_files(plan: VolumePlan, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Metadata of all formats, by name below the volume's folder."""
    files: dict[str, bytes] = {}
    if "ome-zarr" in plan.settings.formats:
        found = ngff.group_files(plan, metadata) | ngff.array_files(plan)
        files = {f"{ngff.FOLDER}/{name}": to_json(content) for name, content in found.items()}
    if "precomputed" in plan.settings.formats:
        files[f"{precomputed.FOLDER}/info"] = to_json(precomputed.info_json(plan, metadata))
    return files


def read_block_records(store: Store, key: str, plan: VolumePlan, workers: int = 4) -> list[dict]:
    """Records of all blocks in order; the first that is missing is a :class:`VolumeError`."""
    blocks = plan.blocks()
    names = [record_key(key, b) for b in blocks]
    records = list(
        map_items(
            lambda name: read_record(store, name),
            names,
            workers=workers,
            what=f"{plan.name}: records",
        )
    )
    missing = [b for b, r in zip(blocks, records) if r is None]
    if missing:
        raise VolumeError(
            f"{store.address(key)}: {len(missing)} of {len(blocks)} blocks are missing (first: "
            f"{missing[0].name}); run again to have them written"
        )
    return records


def block_name(record: Mapping[str, Any]) -> str:
    """Name of the block to which a record belongs."""
    return "_".join(str(i) for i in record["block"])


def pyramid_fingerprint(plan: VolumePlan, records: Sequence[Mapping[str, Any]]) -> str:
    """Fingerprint of the levels above blocks with these records."""
    return fingerprint_of(plan.to_json(), [r["xxh3"] for r in records])


def read_level(
    store: Store,
    key: str,
    plan: VolumePlan,
    level: int,
    start: Sequence[int],
    stop: Sequence[int],
) -> np.ndarray:
    """Voxels of a box of a level, (z, y, x); an object that is missing is an error."""
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    address = f"level {level} of {store.address(key)}, box {tuple(start)} to {tuple(stop)}"
    try:
        if "ome-zarr" in plan.settings.formats:
            array = _open(to_json(ngff.spec(store, key, plan, level)))
            return array[box].read().result()
        _check_objects(store, key, plan, level, Block((0, 0, 0), tuple(start), tuple(stop)))
        reader = precomputed.level_reader(store, key, plan, level)
        if reader is not None:
            with boundary(address, VolumeError, "run again to have it rewritten"):
                return reader.read(start, stop)
        array = _open(to_json(precomputed.spec(store, key, plan, level)))
        z, y, x = (
            slice(part.start + offset, part.stop + offset)
            for part, offset in zip(box, plan.offset_vox(level))
        )
        voxels = array[x, y, z, 0].read(order="F").result()
        return np.ascontiguousarray(voxels.transpose(2, 1, 0))
    except ARRAY_ERRORS as error:
        raise outage(address, error) or VolumeError(f"{address} cannot be read: {error}") from error


def object_hashes(store: Store, plan: VolumePlan, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """What a record of a lossy volume says besides, ``hashes``; nothing for all others.

    Their voxels cannot be compared with what was written, so their objects are.
    """
    if not plan.is_lossy:
        return {}
    return {"hashes": {key: xxhash.xxh3_128(store.read(key)).hexdigest() for key in keys}}


def differing_objects(store: Store, record: Mapping[str, Any]) -> list[str]:
    """Objects of a record of a lossy volume that are not what was written."""
    found = []
    for key, wanted in record["hashes"].items():
        try:
            same = xxhash.xxh3_128(store.read(key)).hexdigest() == wanted
        except FileNotFoundError:
            same = False
        found += [] if same else [key]
    return found


class BoxWriter(Together):
    """Whole shards of a level in all formats, written in layers of chunks.

    A layer has as many planes as a chunk, and the last layer of a box the remaining planes; layers
    are written from first to last. Nothing appears in the store before :meth:`close`, except chunks
    in objects of their own.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the volume.
    plan : VolumePlan
    level : int
    box : Block
        In voxels of the level.
    """

    def __init__(self, store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> None:
        kinds = {"ome-zarr": ngff.ShardWriter, "precomputed": precomputed.box_writer}
        self._planes = 0
        super().__init__(
            kinds[form](store, key, plan, level, box) for form in plan.settings.formats
        )

    def next(self, layer: np.ndarray) -> None:
        """Write the next planes of the box, (z, y, x)."""
        self.add(self._planes, layer)
        self._planes += layer.shape[0]


def write_box(
    store: Store, key: str, plan: VolumePlan, level: int, box: Block, layers: Iterable[np.ndarray]
) -> dict[str, int]:
    """Write a box of whole shards of a level in all formats; return {key: bytes}.

    ``layers`` are those of a :class:`BoxWriter`.
    """
    writer = BoxWriter(store, key, plan, level, box)
    try:
        for layer in layers:
            writer.next(layer)
        return writer.close()
    finally:
        writer.discard()


def _check_objects(store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> None:
    """Raise VolumeError where a precomputed object is absent: tensorstore would read zeros."""
    for name, _ in precomputed.objects_in(plan, level, box):
        full = f"{key}/{precomputed.FOLDER}/{name}"
        if store.size(full) is None:
            raise VolumeError(f"{store.address(full)} is missing; run again to have it rewritten")


@functools.lru_cache(maxsize=256)
def _open(spec: bytes) -> ts.TensorStore:
    """Open a level; specifications hold all metadata, so that a cached handle is never stale."""
    return ts.open(json.loads(spec), context=_context()).result()


@functools.cache
def _context() -> ts.Context:
    # without a cache, memory is bounded by what is being read or written
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}})
