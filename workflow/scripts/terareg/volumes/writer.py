"""Writing a volume: metadata once, blocks in any order and on any machine, then coarse levels.

:func:`init_volume` is the only writer of metadata, :func:`write_block` of the fine levels,
:func:`finish_pyramid` of the coarse ones. Every object is written whole and has one writer, so
that blocks may be written concurrently, again, or after a crash, and end in the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import Clipped
from terareg.core.parallel import map_items, peak_memory_mb, release_memory
from terareg.storage.records import (
    ContentHash,
    is_done,
    read_record,
    remove_record,
    to_json,
    write_record,
)
from terareg.storage.store import Store
from terareg.volumes import histogram, ngff, precomputed
from terareg.volumes.downsample import downsample
from terareg.volumes.objects import (
    PLAN_FILE,
    PYRAMID_FILE,
    RECORD_FOLDER,
    SUMS,
    BoxWriter,
    block_name,
    metadata_files,
    object_hashes,
    pyramid_fingerprint,
    read_block_records,
    read_level,
    record_key,
    write_box,
)
from terareg.volumes.plan import Block, VolumePlan

# only every n-th plane and row are counted, which suffices for the display range
_COUNTED_PLANES = _COUNTED_ROWS = 4
_COUNTED_VOXELS = 1 << 18  # whose statistics are made at once
_NARROW_VOXELS = 1 << 16  # of 16 bits, whose sum fits into 32 bits
#: given a layer's first plane and the one after its last, returns the function that fills an array
#: with a block's part of the layer
LayerMaker = Callable[[int, int], Callable[[Block, np.ndarray], Clipped]]


def init_volume(
    store: Store,
    key: str,
    plan: VolumePlan,
    metadata: Mapping[str, Any] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write the metadata of a volume; nothing happens if they exist already.

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
            f"{store.address(key)} contains another volume; remove its records "
            f"({key}/{RECORD_FOLDER}) to have it replaced"
        )
    delete_volume(store, key)
    for name, data in files.items():
        store.write(f"{key}/{name}", data)
    write_record(store, f"{key}/{PLAN_FILE}", content)


def delete_volume(store: Store, key: str) -> None:
    """Remove a volume: records first, so that no record ever outlives its data."""
    for name in (RECORD_FOLDER, ngff.FOLDER, precomputed.FOLDER):
        store.delete_folder(f"{key}/{name}")
        if name == RECORD_FOLDER:
            store.delete(f"{key}/{PYRAMID_FILE}")
            store.delete(f"{key}/{PLAN_FILE}")
            store.settle_folder(key)


class BlockWriter:
    """Writes one block at all block levels, layer by layer, and then its record.

    A layer has as many planes as a chunk, and the last layer of a block the remaining planes. Only
    the planes of coarser levels that do not yet fill a layer are held.

    Parameters
    ----------
    store, key, plan
        The volume; :func:`init_volume` has been called.
    block : Block
        One of ``plan.blocks()``.
    fingerprint : str
        Of everything that the block is made from, see :mod:`terareg.storage.records`.
    notes : mapping
        What the record says besides.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        plan: VolumePlan,
        block: Block,
        fingerprint: str,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.block, self._notes = block, dict(notes)
        self._begin = time.monotonic()
        self._store, self._plan, self._fingerprint = store, plan, fingerprint
        # A record of older data must not vouch for what is about to change.
        self._where = record_key(key, block)
        remove_record(store, self._where)
        self._statistics = _Statistics(plan, block)
        self._clipped = Clipped()
        self._levels: list[_LevelWriter] = []
        try:
            for level in range(plan.block_levels):
                box = Block(block.index, *plan.level_box(block, level))
                self._levels.append(
                    _LevelWriter(BoxWriter(store, key, plan, level, box), plan, box)
                )
        except BaseException:
            self.discard()
            raise

    def add(self, layer: np.ndarray, clipped: Clipped = Clipped()) -> None:  # noqa: B008 (frozen)
        """Write the next planes, and count what was clipped when they were made."""
        if layer.dtype.kind == "f" and not np.isfinite(layer).all():
            raise VolumeError(
                f"block {self.block.name} of {self._plan.name} contains values that are not finite"
            )
        self._statistics.add(layer)
        self._clipped += clipped
        mode = self._plan.downsampling
        for level, writer in enumerate(self._levels):
            whole = writer.next(layer)
            if whole is None:
                return
            writer.box.next(whole)
            if level + 1 < len(self._levels):
                layer = downsample(whole, self._plan.step(level + 1), mode)

    def close(self) -> dict:
        """Make the objects of all levels appear, write the record and return it."""
        objects: dict[str, int] = {}
        for writer in self._levels:
            objects |= writer.box.close()
        record = {
            "block": list(self.block.index),
            "start": list(self.block.start),
            "stop": list(self.block.stop),
            "fingerprint": self._fingerprint,
            **self._statistics.to_json(),
            "clipped_low": self._clipped.low,
            "clipped_high": self._clipped.high,
            **self._notes,
            "objects": objects,
            **object_hashes(self._store, self._plan, objects),
            "run": {
                "seconds": time.monotonic() - self._begin,
                "peak_memory_mb": peak_memory_mb(),
            },
        }
        write_record(self._store, self._where, record)
        return record

    def discard(self) -> None:
        """Remove what was written of a block that was not closed."""
        for writer in self._levels:
            writer.box.discard()


class _LevelWriter:
    """The objects of one level of a block, and the planes that do not yet fill a layer."""

    def __init__(self, box: BoxWriter, plan: VolumePlan, extent: Block) -> None:
        self.box = box
        self._depth, self._left = plan.chunk[0], extent.shape[0]
        self._held: list[np.ndarray] = []

    def next(self, planes: np.ndarray) -> np.ndarray | None:
        """The layer that is complete with these planes, or None."""
        self._held.append(planes)
        self._left -= len(planes)
        if self._left and sum(map(len, self._held)) < self._depth:
            return None
        held, self._held = self._held, []
        return np.concatenate(held) if len(held) > 1 else held[0]


class _Statistics:
    """Statistics of the voxels of a block for its record."""

    def __init__(self, plan: VolumePlan, block: Block) -> None:
        self._hash = ContentHash(plan.dtype, block.shape)
        self._dtype, self._counted = np.dtype(plan.dtype), not plan.is_segmentation
        self._low = self._high = None
        self._sum: int | float = 0
        self._planes = self._voxels = self._saturated = 0
        self._histogram = histogram.Counter(plan.dtype)

    def add(self, layer: np.ndarray) -> None:
        """Count the next planes."""
        depth = max(1, _COUNTED_VOXELS // layer[0].size)
        for first in range(0, layer.shape[0], depth):
            # a few planes at a time, so that each is fetched from memory once
            planes = layer[first : first + depth]
            self._hash.update(planes)
            low, high = planes.min().item(), planes.max().item()
            self._low = low if self._low is None else min(low, self._low)
            self._high = high if self._high is None else max(high, self._high)
            for plane in planes:
                # one by one, because sums of floats depend on what is summed together
                self._sum += _sum(plane)
            if self._counted and self._dtype.kind == "u" and high == np.iinfo(self._dtype).max:
                self._saturated += int(np.count_nonzero(planes == high))
        if self._counted:
            every = layer[-self._planes % _COUNTED_PLANES :: _COUNTED_PLANES, ::_COUNTED_ROWS]
            self._histogram.add(every)
        self._planes += layer.shape[0]
        self._voxels += layer.size

    def to_json(self) -> dict[str, Any]:
        """These statistics as part of the record."""
        result = {
            "xxh3": self._hash.hexdigest(),
            "voxels": self._voxels,
            "min": self._low,
            "max": self._high,
            "sum": self._sum,
            "saturated": self._saturated,
        }
        if self._counted:
            result["histogram"] = histogram.pack(self._histogram.histogram())
        return result


def _sum(plane: np.ndarray) -> int | float:
    """Sum of a plane; exact of integers."""
    if plane.dtype.kind == "f":
        return plane.sum(dtype=np.float64).item()
    if plane.dtype.kind == "u" and plane.itemsize <= 2 and plane.shape[1] <= _NARROW_VOXELS:
        # 32 bits are summed twice as fast as 64, and hold the sum of so many voxels
        rows = _NARROW_VOXELS // max(1, plane.shape[1])
        parts = (plane[y : y + rows] for y in range(0, plane.shape[0], rows))
        return sum(part.sum(dtype=np.uint32).item() for part in parts)
    return plane.sum(dtype=np.uint64).item()


def write_block(
    store: Store,
    key: str,
    plan: VolumePlan,
    block: Block,
    array: np.ndarray,
    *,
    fingerprint: str,
    clipped: Clipped = Clipped(),  # noqa: B008 (frozen)
    notes: Mapping[str, Any] = MappingProxyType({}),
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
        Of everything that the block was made from, see :mod:`terareg.storage.records`.
    clipped : Clipped
        Voxels that were clipped when ``array`` was made.
    notes : mapping
        What the record says besides.

    Returns
    -------
    dict
        The record: ``block``, ``start``, ``stop``, ``objects`` {key: bytes}, ``xxh3`` of the
        level-0 voxels (:class:`terareg.storage.records.ContentHash`), ``voxels``, ``min``,
        ``max``, ``sum``, ``saturated``, ``clipped_low``, ``clipped_high``, ``histogram`` (images;
        of every fourth row of every fourth plane), ``fingerprint``, and under ``run`` the seconds
        and the peak memory.
    """
    _checked(plan, block, array, clipped)
    writer = BlockWriter(store, key, plan, block, fingerprint, notes)
    return _write_parts(writer, [(array, clipped)], plan)


def _write_parts(
    writer: BlockWriter, parts: Iterable[tuple[np.ndarray, Clipped]], plan: VolumePlan
) -> dict:
    """Write a block, given in parts of whole layers of chunks; return its record."""
    try:
        for array, clipped in parts:
            for first in range(0, array.shape[0], plan.chunk[0]):
                writer.add(array[first : first + plan.chunk[0]], Clipped() if first else clipped)
        record = writer.close()
    finally:
        writer.discard()
    release_memory()  # memory of encoded chunks would otherwise accumulate from block to block
    return record


def _checked(
    plan: VolumePlan, part: Block, array: np.ndarray, clipped: Clipped
) -> tuple[np.ndarray, Clipped]:
    if array.shape != part.shape or array.dtype != np.dtype(plan.dtype):
        raise VolumeError(
            f"block {part.name} of {plan.name} is {plan.dtype} {part.shape}, "
            f"not {array.dtype} {array.shape}"
        )
    return array, clipped


def write_blocks(
    store: Store,
    key: str,
    plan: VolumePlan,
    blocks: Iterable[Block],
    make: Callable[[Block], tuple[np.ndarray, Clipped]],
    *,
    fingerprint: str,
    workers: int = 1,
    notes: Callable[[Block], Mapping[str, Any]] = lambda block: {},
    layers: Callable[[Block], Sequence[Block]] = lambda block: [block],
) -> dict:
    """Make and write blocks on threads; those with a valid record are skipped.

    ``layers`` are the parts in which a block is made, of whole layers of chunks. ``notes`` tells
    what the record of a block says besides, for example that it is ``outside`` of what was to be
    read, see :func:`terareg.volumes.finishing.finalize_volume`.

    Returns
    -------
    dict
        The batch's summary: ``blocks`` {name: xxh3}, ``voxels``, ``saturated``,
        ``clipped_low``, ``clipped_high``, ``bytes``, ``fingerprint``: the same whether blocks
        were written or found.
    """

    def one(block: Block) -> dict:
        record = is_done(store, record_key(key, block), fingerprint)
        if record is not None:
            return record
        writer = BlockWriter(store, key, plan, block, fingerprint, notes(block))
        return _write_parts(
            writer, (_checked(plan, part, *make(part)) for part in layers(block)), plan
        )

    records = map_items(one, blocks, workers=workers, what=f"{plan.name}: blocks")
    return _summary(list(records), fingerprint)


def write_rows(
    store: Store,
    key: str,
    plan: VolumePlan,
    rows: Iterable[Sequence[Block]],
    make: Callable[[Sequence[Block]], LayerMaker],
    *,
    fingerprint: str,
    workers: int = 1,
) -> dict:
    """As :func:`write_blocks`, for blocks that are cheaper to make together than one by one.

    One row at a time is written layer by layer, its blocks on threads. ``make`` is called with the
    blocks of the row that have no valid record. The function that it returns is called for each
    layer, with its first plane and the one after its last, and returns a function of a block and an
    array, which fills the array with the voxels of the block in these planes and returns what was
    clipped.
    """

    def one(row: Sequence[Block]) -> list[dict]:
        records = [is_done(store, record_key(key, block), fingerprint) for block in row]
        left = [block for block, record in zip(row, records) if record is None]
        written = iter(_write_row(store, key, plan, left, (make, fingerprint, workers)))
        return [next(written) if record is None else record for record in records]

    found = map_items(one, rows, what=f"{plan.name}: rows of blocks")
    return _summary([record for records in found for record in records], fingerprint)


def _write_row(
    store: Store,
    key: str,
    plan: VolumePlan,
    blocks: Sequence[Block],
    how: tuple[Callable[[Sequence[Block]], LayerMaker], str, int],
) -> list[dict]:
    """Write blocks with the same planes; return their records."""
    if not blocks:
        return []
    make, fingerprint, workers = how
    layers, writers = make(blocks), []
    buffers: SimpleQueue[np.ndarray] = SimpleQueue()
    for _ in range(workers):
        buffers.put(np.empty(math.prod((plan.chunk[0], *plan.block[1:])), plan.dtype))
    try:
        for block in blocks:
            writers.append(BlockWriter(store, key, plan, block, fingerprint))
        start, stop = blocks[0].start[0], blocks[0].stop[0]
        for first in range(start, stop, plan.chunk[0]):
            last = min(first + plan.chunk[0], stop)
            fill = layers(first, last)

            def write(writer: BlockWriter, fill=fill, depth=last - first) -> None:
                shape = (depth, *writer.block.shape[1:])
                buffer = buffers.get()
                try:
                    layer = buffer[: math.prod(shape)].reshape(shape)
                    writer.add(layer, fill(writer.block, layer))
                finally:
                    buffers.put(buffer)

            for _ in map_items(write, writers, workers=workers):
                pass
        return list(map_items(BlockWriter.close, writers, workers=workers))
    finally:
        for writer in writers:
            writer.discard()
        release_memory()  # memory of encoded chunks would otherwise accumulate from row to row


def _summary(records: Sequence[Mapping], fingerprint: str) -> dict:
    return {
        "blocks": {block_name(r): r["xxh3"] for r in records},
        "bytes": sum(sum(r["objects"].values()) for r in records),
        "fingerprint": fingerprint,
        **{k: sum(r[k] for r in records) for k in SUMS},
    }


def finish_pyramid(store: Store, key: str, plan: VolumePlan, workers: int = 1) -> dict:
    """Make the levels above the blocks, one shard at a time, and the record ``pyramid.json``.

    Returns
    -------
    dict
        The record: ``objects`` {key: bytes}, ``levels``, and a ``fingerprint`` of the blocks that
        the levels were made from; work with the same fingerprint is skipped.

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
    remove_record(store, where)
    objects: dict[str, int] = {}
    for level in range(plan.block_levels, len(plan.levels)):

        def one(box: Block, level=level) -> dict[str, int]:
            return write_box(store, key, plan, level, box, _coarser(store, key, plan, level, box))

        what = f"{plan.name}: shards of level {level}"
        for written in map_items(one, plan.levels[level].shards(), workers=workers, what=what):
            objects |= written
    record = {
        "fingerprint": wanted,
        "levels": list(range(plan.block_levels, len(plan.levels))),
        "objects": objects,
        **object_hashes(store, plan, objects),
    }
    write_record(store, where, record)
    return record


def _coarser(
    store: Store, key: str, plan: VolumePlan, level: int, box: Block
) -> Iterator[np.ndarray]:
    """Layers of a box of a level, made from the level before.

    That is read by rows of as many chunks as make one row of chunks.
    """
    (_, _, left), (bottom, back, right) = box.start, box.stop
    depth, height, _ = plan.chunk
    for z in range(box.start[0], bottom, depth):
        layer = np.empty((min(depth, bottom - z), *box.shape[1:]), plan.dtype)
        for y in range(box.start[1], back, height):
            part = Block(box.index, (z, y, left), (z + len(layer), min(y + height, back), right))
            finer = read_level(store, key, plan, level - 1, *plan.finer_box(level, part))
            row = layer[:, y - box.start[1] :][:, :height]
            row[...] = downsample(finer, plan.step(level), plan.downsampling)
        yield layer
