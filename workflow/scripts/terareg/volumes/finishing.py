"""Finishing a volume: the check that it is complete, its summary, and the search for damage."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.numeric import full_scale_bits
from terareg.core.parallel import map_items
from terareg.core.threshold import white_level, zeros_are_empty
from terareg.storage.records import content_hash, read_record, to_json
from terareg.storage.store import Store
from terareg.volumes import histogram, ngff
from terareg.volumes.downsample import downsample
from terareg.volumes.objects import (
    PYRAMID_FILE,
    SUMS,
    block_name,
    differing_objects,
    metadata_files,
    pyramid_fingerprint,
    read_block_records,
    read_level,
    record_key,
    volume_file,
)
from terareg.volumes.plan import Block, VolumePlan

logger = logging.getLogger(__name__)

# least width: the noise of an almost empty channel must not fill the whole display range
_QUANTILES = 4001  # of a channel, by which its display range is chosen
_ZERO = 0  # the bin of zeros in a histogram
_LEAST_WINDOW = {"uint8": 32.0, "uint16": 255.0}


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

    Every block must have a record, every object that a record names must be in the store with its
    size, and the top of the pyramid must have been made from these blocks.

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
        ``grey_values`` (how many different, those within 3 % being one, of every n-th voxel),
        ``piled_percent`` (voxels at the full scale of a camera below that of the type) and
        ``window``; ``blocks_outside``, of blocks whose records say whether they are outside of what
        was to be read.

    Raises
    ------
    VolumeError
        Names the first record or object that is missing or wrong.
    """
    records = read_block_records(store, key, plan, workers)
    for record in records:
        if fingerprint is not None and record.get("fingerprint") != fingerprint:
            raise VolumeError(
                f"block {block_name(record)} of {store.address(key)} was made from other "
                "data or settings than the rest; run again to have it rewritten"
            )
    pyramid = read_record(store, f"{key}/{PYRAMID_FILE}")
    if pyramid is None or pyramid.get("fingerprint") != pyramid_fingerprint(plan, records):
        raise VolumeError(
            f"{store.address(key)} has no coarse levels made from its current blocks; run again "
            "to have them written"
        )
    present = {entry.key: entry.size for entry in store.list(key)}
    wanted: dict[str, int] = {}
    for record in [*records, pyramid]:
        wanted |= record["objects"]
    files = metadata_files(plan, volume_file(store, key)["metadata"])
    for name, size in [*wanted.items(), *((f"{key}/{name}", None) for name in files)]:
        if name not in present:
            raise VolumeError(
                f"{store.address(name)} is missing although its block was finished; run again to "
                "have it rewritten"
            )
        if size is not None and present[name] != size:
            raise VolumeError(
                f"{store.address(name)} has {present[name]} bytes instead of {size}; "
                "run again to have it rewritten"
            )

    for name in present:
        # leftovers of a killed process; nothing is written here any more
        if name.endswith((".part", ".__lock")) and name not in wanted:
            store.delete(name)

    summary: dict[str, Any] = {
        "sha256": pyramid_fingerprint(plan, records),
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
        **{k: sum(r[k] for r in records) for k in SUMS},
    }
    if any("outside" in record for record in records):
        summary["blocks_outside"] = sum(bool(record.get("outside")) for record in records)
        if summary["blocks_outside"] == len(records):
            raise VolumeError(
                f"{store.address(key)}: all of it lies outside of what within: names; check that "
                "those labels are of this sample and not empty"
            )
    if summary["clipped_low"] + summary["clipped_high"] >= summary["voxels"] > 0:
        raise VolumeError(
            f"{store.address(key)}: none of {summary['voxels']} voxels has a value that "
            f"{plan.dtype} can represent (all are NaN, infinite or out of range); check its source"
        )
    if not plan.is_segmentation:
        counts = histogram.merge(histogram.unpack(r["histogram"]) for r in records)
        summary["grey_values"] = len(counts)
        summary["piled_percent"] = _piled_percent(counts, summary["max"])
        summary["window"] = list(display_window(counts, plan.dtype, display_percent))
        if "ome-zarr" in plan.settings.formats:
            metadata = volume_file(store, key)["metadata"]
            group = ngff.group_files(plan, metadata, tuple(summary["window"]))
            for name, content in group.items():
                store.write(f"{key}/{ngff.FOLDER}/{name}", to_json(content))
    return summary


def _piled_percent(counts: Mapping[int, int], largest: float) -> float:
    """Share of voxels beyond the usual in the highest bin, if no camera gives more than its end.

    Images of a camera of 12 bits lie in files of 16, so that saturation is not at the end of the
    type.
    """
    if full_scale_bits(largest) is None or len(counts) < 2:
        return 0.0
    *_, below, top = (counts[bin_] for bin_ in sorted(counts))
    return 100 * max(0, top - below) / sum(counts.values())


def remove_damaged_blocks(store: Store, key: str, plan: VolumePlan, workers: int = 1) -> list[str]:
    """Read every block back and remove the records of blocks that differ from what was written.

    In every format, level 0 is compared with the record, and each other level of a block with what
    the finer one makes; of a lossy volume, the objects with their hashes. The next run writes these
    blocks again.

    Returns
    -------
    list of str
        Names of the damaged blocks.
    """

    def damaged(pair: tuple[Block, dict]) -> bool:
        block, record = pair
        if plan.is_lossy:
            return bool(differing_objects(store, record))
        try:
            return any(_block_differs(store, key, form, block, record) for form in _forms(plan))
        except VolumeError:
            return True

    pairs = list(zip(plan.blocks(), read_block_records(store, key, plan)))
    found = map_items(damaged, pairs, workers=workers, what=f"{plan.name}: checked blocks")
    bad = [block for (block, _), is_bad in zip(pairs, found) if is_bad]
    for block in bad:
        logger.warning("%s: block %s is damaged", store.address(key), block.name)
        store.delete(record_key(key, block))
    return [block.name for block in bad]


def remove_damaged_top(store: Store, key: str, plan: VolumePlan, workers: int = 1) -> list[int]:
    """Compare the levels above the blocks with the finer ones they are made from, in every format.

    If one differs, the record of all of them is removed, so that the next run makes them again.

    Returns
    -------
    list of int
        The levels that differ.
    """
    bad = []
    if plan.is_lossy:
        record = read_record(store, f"{key}/{PYRAMID_FILE}") or {"hashes": {}}
        parts = (
            name.removeprefix(f"{key}/precomputed/") for name in differing_objects(store, record)
        )
        bad = sorted({int(name.partition("/")[0]) for name in parts})
    for level in range(plan.block_levels, len(plan.levels) if not plan.is_lossy else 0):

        def differs(box: Block, level=level) -> bool:
            try:
                return any(_top_differs(store, key, form, level, box) for form in _forms(plan))
            except VolumeError:
                return True

        shards = plan.levels[level].shards()
        if any(list(map_items(differs, shards, workers=workers))):
            bad.append(level)
    if bad:
        store.delete(f"{key}/{PYRAMID_FILE}")
    return bad


def remove_damaged_metadata(
    store: Store, key: str, plan: VolumePlan, window: tuple[float, float] | None
) -> list[str]:
    """Remove metadata files that differ from what was written, so that the next run rewrites them.

    Parameters
    ----------
    store, key, plan
        The volume, finished.
    window : (float, float) or None
        Its display window, see :func:`finalize_volume`.

    Returns
    -------
    list of str
        Their names below the volume's folder.
    """
    metadata = volume_file(store, key)["metadata"]
    wanted = metadata_files(plan, metadata)
    if window is not None and "ome-zarr" in plan.settings.formats:
        for name, content in ngff.group_files(plan, metadata, window).items():
            wanted[f"{ngff.FOLDER}/{name}"] = to_json(content)
    bad = [name for name, data in wanted.items() if _read_or_none(store, f"{key}/{name}") != data]
    for name in bad:
        store.delete(f"{key}/{name}")
    return bad


def _read_or_none(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def _forms(plan: VolumePlan) -> list[VolumePlan]:
    """One plan for each format of the plan."""
    return [plan.of_format(form) for form in plan.settings.formats]


def _block_differs(store: Store, key: str, plan: VolumePlan, block: Block, record: dict) -> bool:
    array = read_level(store, key, plan, 0, block.start, block.stop)
    if content_hash(array) != record["xxh3"]:
        return True
    for level in range(1, plan.block_levels):
        array = downsample(array, plan.step(level), plan.downsampling)
        found = read_level(store, key, plan, level, *plan.level_box(block, level))
        if not np.array_equal(found, array):
            return True
    return False


def _top_differs(store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> bool:
    finer = read_level(store, key, plan, level - 1, *plan.finer_box(level, box))
    found = read_level(store, key, plan, level, box.start, box.stop)
    return not np.array_equal(found, downsample(finer, plan.step(level), plan.downsampling))


def display_window(
    counts: Mapping[int, int], dtype: str, percent: tuple[float, float] = (0.1, 99.9)
) -> tuple[float, float]:
    """Display range from a merged histogram, with a least width for almost empty channels.

    A few very bright parts do not leave the rest black, see :func:`white_level`; places that were
    not imaged do not count, see :func:`zeros_are_empty`.
    """
    shown = dict(counts)
    values = {where: count for where, count in shown.items() if where != _ZERO}
    if len(values) > 1 and zeros_are_empty(*(histogram.percentile(values, p) for p in (0.1, 10))):
        shown = values
    low, high = (histogram.percentile(shown, p) for p in percent)
    if high > low:
        quantiles = histogram.percentiles(shown, np.linspace(0, 100, _QUANTILES))
        high = white_level(quantiles, low, high)
    if dtype == "float32":
        return low, high if high > low else low + 1.0
    bottom, top = ngff.type_range(dtype)
    low = min(max(math.floor(low), bottom), top - _LEAST_WINDOW[dtype])
    high = min(max(math.ceil(high), low + _LEAST_WINDOW[dtype]), top)
    return float(low), float(high)
