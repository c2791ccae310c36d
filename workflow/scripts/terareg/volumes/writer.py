"""Writing a volume: metadata once, blocks in any order and on any machine, the top, the check.

A volume at ``key`` of a store has

- ``volume.json``: its plan and metadata,
- ``ome.zarr/``: an OME-Zarr 0.5 image,
- ``precomputed/``: a Neuroglancer precomputed volume,
- ``blocks/{z}_{y}_{x}.json``: one record per block, written after everything the block wrote,
- ``pyramid.json``: the record of the levels above the blocks.

:func:`init_volume` is the only writer of metadata, :func:`write_block` of the fine levels,
:func:`finish_pyramid` of the coarse ones. Every object is written whole and has one writer, so
that blocks may be written concurrently, again, or after a crash, and end in the same bytes.

Chunks of zeros are stored like others (a few bytes each in OME-Zarr; whole in raw precomputed,
whose readers would otherwise have to guess), so that an absent object is always an error.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from terareg.errors import VolumeError
from terareg.numeric import Clipped
from terareg.parallel import map_items, peak_memory_mb, release_memory
from terareg.storage.records import content_hash, is_done, read_record, to_json, write_record
from terareg.storage.records import fingerprint as fingerprint_of
from terareg.storage.store import Store, outage
from terareg.volumes import histogram, ngff, precomputed
from terareg.volumes.downsample import downsample
from terareg.volumes.plan import Block, VolumePlan

logger = logging.getLogger(__name__)

PLAN_FILE = "volume.json"
PYRAMID_FILE = "pyramid.json"
RECORD_FOLDER = "blocks"
_SLAB_VOXELS = 1 << 22
# an almost empty channel is not stretched over the whole display range
_LEAST_WINDOW = {"uint8": 32.0, "uint16": 255.0}


def init_volume(
    store: Store,
    key: str,
    plan: VolumePlan,
    metadata: Mapping[str, Any] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write the metadata of a volume; nothing happens where they are there already.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the volume in the store.
    plan : VolumePlan
    metadata : mapping, optional
        JSON-able; see :func:`terareg.volumes.ngff.group_json` and
        :func:`terareg.volumes.precomputed.info_json`.
    replace : bool
        Remove a different volume that lies at ``key``.

    Raises
    ------
    VolumeError
        If a volume of another layout lies at ``key``, has blocks, and is not to be replaced.
    """
    content = {"plan": plan.to_json(), "metadata": dict(metadata or {})}
    files = _metadata_files(plan, content["metadata"])
    known = read_record(store, f"{key}/{PLAN_FILE}")
    if known is not None and to_json(known) == to_json(content):
        for name, data in files.items():
            if not store.exists(f"{key}/{name}"):
                store.write(f"{key}/{name}", data)
        return
    if not replace and next(iter(store.list(f"{key}/{RECORD_FOLDER}")), None) is not None:
        raise VolumeError(
            f"{store.address(key)} holds another volume; remove its records "
            f"({key}/{RECORD_FOLDER}) to have it replaced"
        )
    delete_volume(store, key)
    for name, data in files.items():
        store.write(f"{key}/{name}", data)
    store.write(f"{key}/{PLAN_FILE}", to_json(content))


def delete_volume(store: Store, key: str) -> None:
    """Remove a volume: records first, so that no record ever outlives its data."""
    for name in (RECORD_FOLDER, ngff.FOLDER, precomputed.FOLDER):
        store.delete_folder(f"{key}/{name}")
        if name == RECORD_FOLDER:
            store.delete(f"{key}/{PYRAMID_FILE}")
            store.delete(f"{key}/{PLAN_FILE}")


def read_plan(store: Store, key: str) -> VolumePlan:
    """Plan of the volume at ``key``, or :class:`VolumeError` if there is none."""
    return VolumePlan.from_json(_volume_file(store, key)["plan"])


def record_key(key: str, block: Block) -> str:
    """Key of a block's record."""
    return f"{key}/{RECORD_FOLDER}/{block.name}.json"


def write_block(
    store: Store,
    key: str,
    plan: VolumePlan,
    block: Block,
    array: np.ndarray,
    *,
    fingerprint: str,
    clipped: Clipped = Clipped(),  # noqa: B008 (frozen)
) -> dict:
    """Write one block at all block levels and then its record.

    Parameters
    ----------
    store, key, plan
        The volume; :func:`init_volume` has been called.
    block : Block
        One of ``plan.blocks()``.
    array : numpy.ndarray of the plan's type, shape ``block.shape``
    fingerprint : str
        Of everything that the block was made of, see :mod:`terareg.storage.records`.
    clipped : Clipped
        Voxels that were clipped when ``array`` was made.

    Returns
    -------
    dict
        The record: ``block``, ``start``, ``stop``, ``objects`` {key: bytes}, ``sha256`` of the
        level-0 voxels, ``voxels``, ``min``, ``max``, ``sum``, ``saturated``, ``clipped_low``,
        ``clipped_high``, ``histogram`` (images), ``fingerprint``, and under ``run`` the seconds
        and the peak memory.
    """
    begin = time.monotonic()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise VolumeError(f"block {block.name} of {plan.name} holds values that are not finite")
    if array.shape != block.shape or array.dtype != np.dtype(plan.dtype):
        raise VolumeError(
            f"block {block.name} of {plan.name} is {plan.dtype} {block.shape}, "
            f"not {array.dtype} {array.shape}"
        )
    # A record of older data must not vouch for what is about to change.
    where = record_key(key, block)
    store.delete(where)
    record = {
        "block": list(block.index),
        "start": list(block.start),
        "stop": list(block.stop),
        "fingerprint": fingerprint,
        "sha256": content_hash(array),
        **_statistics(array, plan),
        "clipped_low": clipped.low,
        "clipped_high": clipped.high,
    }
    objects: dict[str, int] = {}
    for level in range(plan.block_levels):
        if level:
            array = downsample(array, plan.step(level), _mode(plan))
        box = Block(block.index, *plan.level_box(block, level))
        objects |= _write_box(store, key, plan, level, box, array)
    record["objects"] = objects
    record["run"] = {"seconds": time.monotonic() - begin, "peak_memory_mb": peak_memory_mb()}
    write_record(store, where, record)
    release_memory()  # of encoded chunks, which otherwise adds up from block to block
    return record


def write_blocks(
    store: Store,
    key: str,
    plan: VolumePlan,
    blocks: Iterable[Block],
    make: Callable[[Block], tuple[np.ndarray, Clipped]],
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """Make and write blocks on threads; those with a true record are skipped.

    Returns
    -------
    dict
        The batch's summary: ``blocks`` {name: sha256}, ``voxels``, ``saturated``,
        ``clipped_low``, ``clipped_high``, ``bytes``, ``fingerprint``: the same whether blocks
        were written or found.
    """

    def one(block: Block) -> dict:
        record = is_done(store, record_key(key, block), fingerprint)
        if record is not None:
            return record
        array, clipped = make(block)
        return write_block(store, key, plan, block, array, fingerprint=fingerprint, clipped=clipped)

    records = map_items(one, blocks, workers=workers, what=f"{plan.name}: blocks")
    return _summary(list(records), fingerprint)


def write_rows(
    store: Store,
    key: str,
    plan: VolumePlan,
    rows: Iterable[Sequence[Block]],
    make: Callable[[Sequence[Block]], list[tuple[np.ndarray, Clipped]]],
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """As :func:`write_blocks`, for blocks that are cheaper to make together than one by one.

    One row at a time is in memory; ``make`` is called with those of its blocks that have no true
    record, and may use as many threads.
    """

    def one(row: Sequence[Block]) -> list[dict]:
        records = [is_done(store, record_key(key, block), fingerprint) for block in row]
        left = [block for block, record in zip(row, records) if record is None]
        made = dict(zip(left, make(left))) if left else {}

        def write(block: Block) -> dict:
            array, clipped = made.pop(block)
            return write_block(
                store, key, plan, block, array, fingerprint=fingerprint, clipped=clipped
            )

        written = map_items(write, left, workers=workers)
        return [next(written) if record is None else record for record in records]

    found = map_items(one, rows, what=f"{plan.name}: rows of blocks")
    return _summary([record for records in found for record in records], fingerprint)


def _summary(records: Sequence[Mapping], fingerprint: str) -> dict:
    return {
        "blocks": {_name(r): r["sha256"] for r in records},
        "bytes": sum(sum(r["objects"].values()) for r in records),
        "fingerprint": fingerprint,
        **{k: sum(r[k] for r in records) for k in _SUMS},
    }


def finish_pyramid(store: Store, key: str, plan: VolumePlan, workers: int = 1) -> dict:
    """Make the levels above the blocks, one shard at a time, and the record ``pyramid.json``.

    Returns
    -------
    dict
        The record: ``objects`` {key: bytes}, ``levels``, and a ``fingerprint`` of the blocks
        that the levels were made of; work with the same fingerprint is skipped.

    Raises
    ------
    VolumeError
        If a block has no record.
    """
    records = read_block_records(store, key, plan, workers)
    wanted = _pyramid_fingerprint(plan, records)
    where = f"{key}/{PYRAMID_FILE}"
    done = is_done(store, where, wanted)
    if done is not None:
        return done
    store.delete(where)
    objects: dict[str, int] = {}
    for level in range(plan.block_levels, len(plan.levels)):
        step = plan.step(level)
        finer = plan.levels[level - 1].shape

        def one(box: Block, level=level, step=step, finer=finer) -> dict[str, int]:
            start = tuple(a * s for a, s in zip(box.start, step))
            stop = tuple(min(b * s, n) for b, s, n in zip(box.stop, step, finer))
            array = read_level(store, key, plan, level - 1, start, stop)
            return _write_box(store, key, plan, level, box, downsample(array, step, _mode(plan)))

        what = f"{plan.name}: shards of level {level}"
        for written in map_items(one, plan.levels[level].shards(), workers=workers, what=what):
            objects |= written
    record = {
        "fingerprint": wanted,
        "levels": list(range(plan.block_levels, len(plan.levels))),
        "objects": objects,
    }
    write_record(store, where, record)
    return record


def finalize_volume(
    store: Store,
    key: str,
    plan: VolumePlan,
    *,
    fingerprint: str | None = None,
    workers: int = 4,
    display_percent: tuple[float, float] = (0.1, 99.9),
) -> dict:
    """Check that a volume is complete and write its display window.

    Every block must have a record, every object that a record names must lie in the store with
    its size, and the top of the pyramid must be of these blocks.

    Parameters
    ----------
    store, key, plan
        The volume.
    fingerprint : str, optional
        If given, every block must have been made with it.
    workers : int
        Threads that read records.
    display_percent : (float, float)
        Percentiles of the voxels that viewers show as black and white.

    Returns
    -------
    dict
        Deterministic summary: ``sha256`` over the blocks, ``blocks``, ``objects``, ``bytes``,
        ``shape``, ``spacing_um``, ``levels``, ``formats``, ``min``, ``max``, ``mean``,
        ``voxels``, ``saturated``, ``clipped_low``, ``clipped_high`` and, for images,
        ``window``.

    Raises
    ------
    VolumeError
        Naming the first record or object that is missing or false.
    """
    records = read_block_records(store, key, plan, workers)
    for record in records:
        if fingerprint is not None and record.get("fingerprint") != fingerprint:
            raise VolumeError(
                f"block {_name(record)} of {store.address(key)} was made from other "
                "data or settings than the rest; run again to have it rewritten"
            )
    pyramid = read_record(store, f"{key}/{PYRAMID_FILE}")
    if pyramid is None or pyramid.get("fingerprint") != _pyramid_fingerprint(plan, records):
        raise VolumeError(
            f"{store.address(key)} has no coarse levels of its present blocks; "
            "run again to have them written"
        )
    present = {entry.key: entry.size for entry in store.list(key)}
    wanted: dict[str, int] = {}
    for record in [*records, pyramid]:
        wanted |= record["objects"]
    files = _metadata_files(plan, _volume_file(store, key)["metadata"])
    for name, size in [*wanted.items(), *((f"{key}/{name}", None) for name in files)]:
        if name not in present:
            raise VolumeError(
                f"{store.address(name)} is missing though its block was finished; "
                "run again to have it rewritten"
            )
        if size is not None and present[name] != size:
            raise VolumeError(
                f"{store.address(name)} has {present[name]} bytes instead of {size}; "
                "run again to have it rewritten"
            )

    for name in present:
        # what a killed process left behind; nobody writes here any more
        if name.endswith((".part", ".__lock")) and name not in wanted:
            store.delete(name)

    summary: dict[str, Any] = {
        "sha256": _pyramid_fingerprint(plan, records),
        "blocks": len(records),
        "objects": len(wanted),
        "bytes": sum(wanted.values()),
        "shape": list(plan.frame.shape),
        "spacing_um": list(plan.frame.spacing_um),
        "levels": len(plan.levels),
        "formats": list(plan.settings.formats),
        "min": min(r["min"] for r in records),
        "max": max(r["max"] for r in records),
        "mean": math.fsum(r["sum"] for r in records) / math.prod(plan.frame.shape),
        **{k: sum(r[k] for r in records) for k in _SUMS},
    }
    if not plan.is_segmentation:
        counts = histogram.merge(histogram.unpack(r["histogram"]) for r in records)
        summary["window"] = list(display_window(counts, plan.dtype, display_percent))
        if "ome-zarr" in plan.settings.formats:
            metadata = _volume_file(store, key)["metadata"]
            group = ngff.group_json(plan, metadata, tuple(summary["window"]))
            store.write(f"{key}/{ngff.FOLDER}/zarr.json", to_json(group))
    return summary


def remove_damaged_blocks(store: Store, key: str, plan: VolumePlan, workers: int = 1) -> list[str]:
    """Read every block back and remove the records of those that are not what was written.

    Level 0 is compared in every format. The next run writes these blocks again.

    Returns
    -------
    list of str
        Names of the damaged blocks.
    """
    forms = [
        dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, formats=(form,)))
        for form in plan.settings.formats
    ]

    def damaged(pair: tuple[Block, dict]) -> bool:
        block, record = pair
        try:
            arrays = (read_level(store, key, form, 0, block.start, block.stop) for form in forms)
            return any(content_hash(array) != record["sha256"] for array in arrays)
        except VolumeError:
            return True

    pairs = list(zip(plan.blocks(), read_block_records(store, key, plan)))
    found = map_items(damaged, pairs, workers=workers, what=f"{plan.name}: checked blocks")
    bad = [block for (block, _), is_bad in zip(pairs, found) if is_bad]
    for block in bad:
        logger.warning("%s: block %s is damaged", store.address(key), block.name)
        store.delete(record_key(key, block))
    return [block.name for block in bad]


def display_window(
    counts: Mapping[int, int], dtype: str, percent: tuple[float, float] = (0.1, 99.9)
) -> tuple[float, float]:
    """Display range of a merged histogram; an almost empty channel keeps a range of counts."""
    low, high = (histogram.percentile(dict(counts), p) for p in percent)
    if dtype == "float32":
        return low, high if high > low else low + 1.0
    bottom, top = ngff.type_range(dtype)
    low = min(max(math.floor(low), bottom), top - _LEAST_WINDOW[dtype])
    high = min(max(math.ceil(high), low + _LEAST_WINDOW[dtype]), top)
    return float(low), float(high)


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
        _check_shards(store, key, plan, level, Block((0, 0, 0), tuple(start), tuple(stop)))
        array = _open(to_json(precomputed.spec(store, key, plan, level)))
        voxels = array[box[2], box[1], box[0], 0].read(order="F").result()
        return np.ascontiguousarray(voxels.transpose(2, 1, 0))
    except (ValueError, OSError) as error:
        raise outage(address, error) or VolumeError(f"{address} cannot be read: {error}") from error


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
            f"{store.address(key)}: {len(missing)} of {len(blocks)} blocks missing "
            f"(first: {missing[0].name}); run again to have them written"
        )
    return records


_SUMS = ("voxels", "saturated", "clipped_low", "clipped_high")


def _volume_file(store: Store, key: str) -> dict:
    content = read_record(store, f"{key}/{PLAN_FILE}")
    if content is None or "plan" not in content:
        raise VolumeError(f"{store.address(key)} is no volume of terareg ({PLAN_FILE} is missing)")
    return content


def _metadata_files(plan: VolumePlan, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    files = {}
    if "ome-zarr" in plan.settings.formats:
        files[f"{ngff.FOLDER}/zarr.json"] = to_json(ngff.group_json(plan, metadata))
        for level in range(len(plan.levels)):
            files[f"{ngff.FOLDER}/{level}/zarr.json"] = to_json(ngff.array_json(plan, level))
    if "precomputed" in plan.settings.formats:
        files[f"{precomputed.FOLDER}/info"] = to_json(precomputed.info_json(plan, metadata))
    return files


def _write_box(
    store: Store, key: str, plan: VolumePlan, level: int, box: Block, array: np.ndarray
) -> dict[str, int]:
    """Write a box of whole shards of a level in all formats; return {key: bytes}."""
    objects = {}
    if "ome-zarr" in plan.settings.formats:
        target = _open(to_json(ngff.spec(store, key, plan, level)))
        where = tuple(slice(a, b) for a, b in zip(box.start, box.stop))
        name = ngff.shard_key(key, level, box.index)
        # tensorstore would merge with a shard that is there, and fail if that one is damaged
        store.delete(name)
        try:
            # in one transaction, so that the shard is written once and not chunk by chunk
            with ts.Transaction() as transaction:
                target.with_transaction(transaction)[where] = array
        except (ValueError, OSError) as error:
            address = store.address(name)
            raise outage(address, error) or VolumeError(
                f"{address} cannot be written: {error}"
            ) from error
        size = store.size(name)
        if size is None:
            raise VolumeError(f"{store.address(name)} was written but is not there")
        objects[name] = size
    if "precomputed" in plan.settings.formats:
        for name, shard in precomputed.shards_in(plan, level, box):
            name = f"{key}/{precomputed.FOLDER}/{name}"
            data = precomputed.encode_shard(plan, level, shard, array, box.start)
            store.write(name, data)
            objects[name] = len(data)
    return objects


def _statistics(array: np.ndarray, plan: VolumePlan) -> dict[str, Any]:
    low, high = array.min().item(), array.max().item()
    planes = max(1, _SLAB_VOXELS // max(1, array[0].size))
    wide = np.float64 if array.dtype.kind == "f" else np.uint64
    slabs = [array[z : z + planes] for z in range(0, array.shape[0], planes)]
    total = sum(slab.sum(dtype=wide).item() for slab in slabs)
    result = {"voxels": array.size, "min": low, "max": high, "sum": total, "saturated": 0}
    if not plan.is_segmentation:
        result["histogram"] = histogram.pack(histogram.merge(map(histogram.histogram, slabs)))
        if array.dtype.kind == "u" and high == np.iinfo(array.dtype).max:
            result["saturated"] = int(np.count_nonzero(array == high))
    return result


def _check_shards(store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> None:
    """Raise VolumeError where a precomputed shard is absent: tensorstore would read zeros."""
    for name, _ in precomputed.shards_in(plan, level, box):
        full = f"{key}/{precomputed.FOLDER}/{name}"
        if store.size(full) is None:
            raise VolumeError(f"{store.address(full)} is missing; run again to have it rewritten")


def _pyramid_fingerprint(plan: VolumePlan, records: Sequence[Mapping[str, Any]]) -> str:
    return fingerprint_of(plan.to_json(), [r["sha256"] for r in records])


def _name(record: Mapping[str, Any]) -> str:
    return "_".join(str(i) for i in record["block"])


def _mode(plan: VolumePlan) -> str:
    return "mode" if plan.is_segmentation else "mean"


@functools.lru_cache(maxsize=256)
def _open(spec: bytes) -> ts.TensorStore:
    """Open a level; specifications hold all metadata, so that a kept handle is never stale."""
    return ts.open(json.loads(spec), context=_context()).result()


@functools.cache
def _context() -> ts.Context:
    # without a cache, memory is bounded by what is being read or written
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}})
