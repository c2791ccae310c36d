"""Writing a volume: metadata once, blocks in any order and on any machine, then the top.

:func:`init_volume` is the only writer of metadata, :func:`write_block` of the fine levels,
:func:`finish_pyramid` of the coarse ones. Every object is written whole and has one writer, so
that blocks may be written concurrently, again, or after a crash, and end in the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.core.parallel import map_items, peak_memory_mb, release_memory
from terareg.storage.records import content_hash, is_done, read_record, to_json, write_record
from terareg.storage.store import Store
from terareg.volumes import histogram, ngff, precomputed
from terareg.volumes.downsample import downsample
from terareg.volumes.objects import (
    PLAN_FILE,
    PYRAMID_FILE,
    RECORD_FOLDER,
    SUMS,
    block_name,
    metadata_files,
    pyramid_fingerprint,
    read_block_records,
    read_level,
    record_key,
    write_box,
)
from terareg.volumes.plan import Block, VolumePlan

_SLAB_VOXELS = 1 << 22


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
    files = metadata_files(plan, content["metadata"])
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
        objects |= write_box(store, key, plan, level, box, array)
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
        "blocks": {block_name(r): r["sha256"] for r in records},
        "bytes": sum(sum(r["objects"].values()) for r in records),
        "fingerprint": fingerprint,
        **{k: sum(r[k] for r in records) for k in SUMS},
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
    wanted = pyramid_fingerprint(plan, records)
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
            return write_box(store, key, plan, level, box, downsample(array, step, _mode(plan)))

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


def _mode(plan: VolumePlan) -> str:
    return "mode" if plan.is_segmentation else "mean"
