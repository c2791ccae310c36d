"""Neuroglancer precomputed: ``info``, and shards that are whole blocks.

Sizes and resolutions are listed x, y, z and in nanometres. Voxel 0 starts at position 0, where
OME-Zarr counts from its centre: a viewer that shows both has to shift one by half a voxel.

Chunks are numbered by compressed Morton code, which interleaves the bits of x, y and z. The
lowest bits of the number therefore count the chunks of an aligned cube, and with the identity
hash such a cube is one shard file.
Specification: volume.md and sharded.md of https://github.com/google/neuroglancer,
folder src/datasource/precomputed.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import compressed_segmentation
import numpy as np

from terareg.storage.store import Store
from terareg.volumes.plan import Block, Box, VolumePlan

FOLDER = "precomputed"
_MOST_CHUNKS_PER_INDEX_BITS = 9
_SEGMENTATION_BLOCK = (8, 8, 8)
_NM_PER_UM = 1000


def info_json(plan: VolumePlan, metadata: Mapping[str, Any]) -> dict:
    """Contents of ``info``.

    ``metadata["precomputed"]`` (for example ``{"mesh": "mesh", "segment_properties": "names"}``)
    is added as it is.
    """
    return {
        "@type": "neuroglancer_multiscale_volume",
        **_multiscale(plan),
        **metadata.get("precomputed", {}),
        "scales": [
            {k if k != "chunk_size" else "chunk_sizes": v if k != "chunk_size" else [v]
             for k, v in scale_json(plan, level).items()}
            for level in range(len(plan.levels))
        ],
    }  # fmt: skip


def scale_json(plan: VolumePlan, level: int) -> dict:
    """One scale, with ``chunk_size`` in place of the list ``chunk_sizes``."""
    frame = plan.levels[level].frame
    bits = shard_bits(plan, level)
    total = sum(_grid_bits(plan, level))
    scale: dict[str, Any] = {
        "key": str(level),
        "size": list(frame.shape[::-1]),
        "voxel_offset": [0, 0, 0],
        "resolution": [_plain(s * _NM_PER_UM) for s in frame.spacing_um[::-1]],
        "chunk_size": list(plan.chunk[::-1]),
        "encoding": "compressed_segmentation" if plan.is_segmentation else "raw",
        "sharding": {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            "preshift_bits": min(bits, _MOST_CHUNKS_PER_INDEX_BITS),
            "minishard_bits": max(bits - _MOST_CHUNKS_PER_INDEX_BITS, 0),
            "shard_bits": total - bits,
            "minishard_index_encoding": "gzip",
            "data_encoding": _data_encoding(plan),
        },
    }
    if plan.is_segmentation:
        scale["compressed_segmentation_block_size"] = list(_SEGMENTATION_BLOCK)
    return scale


def spec(store: Store, key: str, plan: VolumePlan, level: int) -> dict:
    """Tensorstore specification for reading a level, axes x, y, z, channel."""
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": store.kvstore(f"{key}/{FOLDER}"),
        "multiscale_metadata": _multiscale(plan),
        "scale_metadata": scale_json(plan, level),
        "open": True,
        "assume_metadata": True,
    }


def shard_bits(plan: VolumePlan, level: int) -> int:
    """Bits of the chunk number that count inside a shard.

    A shard is the largest Morton cube of chunks that a work item of this level contains; where
    blocks are not cubes, one block holds several.
    """
    edge = _cube_bits(plan, level)
    return sum(min(edge, bits) for bits in _grid_bits(plan, level))


def shards_in(plan: VolumePlan, level: int, box: Block) -> list[tuple[str, Block]]:
    """File names and boxes (voxels of the level, clipped) of the shards that a box touches."""
    edge = 1 << _cube_bits(plan, level)
    size = tuple(edge * c for c in plan.chunk)
    shape = plan.levels[level].shape
    first = [a // s * s for a, s in zip(box.start, size)]
    found = []
    for z in range(first[0], box.stop[0], size[0]):
        for y in range(first[1], box.stop[1], size[1]):
            for x in range(first[2], box.stop[2], size[2]):
                stop: Box = tuple(min(a + s, n) for a, s, n in zip((z, y, x), size, shape))
                index = (z // size[0], y // size[1], x // size[2])
                found.append((shard_name(plan, level, (z, y, x)), Block(index, (z, y, x), stop)))
    return found


def shard_name(plan: VolumePlan, level: int, voxel: Box) -> str:
    """Name of the file that holds a voxel of a level, "{level}/{number}.shard"."""
    chunk: Box = tuple(v // c for v, c in zip(voxel, plan.chunk))
    grid = _grid_bits(plan, level)
    bits = shard_bits(plan, level)
    digits = -(-(sum(grid) - bits) // 4)
    return f"{level}/{morton(chunk, grid) >> bits:0{max(digits, 1)}x}.shard"


def encode_shard(
    plan: VolumePlan, level: int, shard: Block, array: np.ndarray, start: Box
) -> bytearray:
    """Bytes of one shard file.

    Every chunk is stored, also one of zeros, so that readers find nothing missing.

    Parameters
    ----------
    plan : VolumePlan
    level : int
    shard : Block
        Box of the shard in voxels of the level.
    array : numpy.ndarray, shape (z, y, x)
        Voxels of the level that contain the shard.
    start : tuple of int
        Index of ``array[0, 0, 0]`` in the level.
    """
    sharding = scale_json(plan, level)["sharding"]
    grid = _grid_bits(plan, level)
    boxes = {}
    for z in range(shard.start[0], shard.stop[0], plan.chunk[0]):
        for y in range(shard.start[1], shard.stop[1], plan.chunk[1]):
            for x in range(shard.start[2], shard.stop[2], plan.chunk[2]):
                number = morton(tuple(v // c for v, c in zip((z, y, x), plan.chunk)), grid)
                boxes[number] = tuple(
                    slice(a - o, min(a + c, e) - o)
                    for a, c, e, o in zip((z, y, x), plan.chunk, shard.stop, start)
                )
    order = sorted(boxes)
    raw = sharding["data_encoding"] == "raw"
    pieces = {} if raw else {n: _encode_chunk(plan, array[boxes[n]]) for n in order}
    sizes = [array[boxes[n]].nbytes if raw else len(pieces[n]) for n in order]
    starts = np.cumsum([0, *sizes])

    minishards = 1 << sharding["minishard_bits"]
    entries: list[list[tuple[int, int, int]]] = [[] for _ in range(minishards)]
    for number, start_byte, size in zip(order, starts, sizes):
        mini = (number >> sharding["preshift_bits"]) & (minishards - 1)
        entries[mini].append((number, int(start_byte), size))
    index = np.zeros((minishards, 2), "<u8")
    tail = b""
    for mini, listed in enumerate(entries):
        if listed:
            data = gzip.compress(_minishard_index(listed), 6, mtime=0)
            index[mini] = starts[-1] + len(tail), starts[-1] + len(tail) + len(data)
            tail += data

    head = index.tobytes()
    body = bytearray(len(head) + int(starts[-1]) + len(tail))
    body[: len(head)] = head
    body[len(body) - len(tail) :] = tail
    for number, start_byte in zip(order, starts[:-1]):
        first = len(head) + int(start_byte)
        if raw:
            chunk = array[boxes[number]]
            target = np.frombuffer(body, array.dtype, chunk.size, first)
            target.reshape(chunk.shape)[...] = chunk
        else:
            body[first : first + len(pieces[number])] = pieces[number]
    return body


def morton(position: Box, grid_bits: Box) -> int:
    """Compressed Morton code of a chunk at (z, y, x); x has the lowest bits."""
    code = out = 0
    for bit in range(max(grid_bits, default=0)):
        for axis in (2, 1, 0):
            if bit < grid_bits[axis]:
                code |= ((position[axis] >> bit) & 1) << out
                out += 1
    return code


def _minishard_index(entries: list[tuple[int, int, int]]) -> bytes:
    """Chunk numbers (differences), gaps between chunks, sizes: three rows of uint64."""
    table = np.zeros((3, len(entries)), "<u8")
    number = end = 0
    for i, (chunk, start, size) in enumerate(entries):
        table[:, i] = chunk - number, start - end, size
        number, end = chunk, start + size
    return table.tobytes()


def _encode_chunk(plan: VolumePlan, chunk: np.ndarray) -> bytes:
    if plan.is_segmentation:
        data = compressed_segmentation.compress(
            np.asfortranarray(chunk.transpose(2, 1, 0)), block_size=_SEGMENTATION_BLOCK, order="F"
        )
    else:
        data = np.ascontiguousarray(chunk).tobytes()
    return gzip.compress(data, 1, mtime=0)


def _data_encoding(plan: VolumePlan) -> str:
    return "gzip" if plan.is_segmentation else plan.settings.precomputed


def _multiscale(plan: VolumePlan) -> dict:
    return {"type": plan.settings.kind, "data_type": plan.dtype, "num_channels": 1}


def _grid_bits(plan: VolumePlan, level: int) -> Box:
    """Bits that number the chunks along (z, y, x)."""
    return tuple(
        (-(-n // c) - 1).bit_length() for n, c in zip(plan.levels[level].shape, plan.chunk)
    )


def _cube_bits(plan: VolumePlan, level: int) -> int:
    """Largest b such that an aligned cube of 2^b chunks never leaves its work item."""
    grid = _grid_bits(plan, level)
    inside = [(s // c).bit_length() - 1 for s, c in zip(plan.levels[level].shard, plan.chunk)]
    # an axis that one work item covers sets no limit: the code has no higher bits of it
    limits = [b for b, g in zip(inside, grid) if b < g]
    return min(limits, default=max(grid))


def _plain(value: float) -> float | int:
    """585.0 as 585; 0.585 um times 1000 as 585, not 585.0000000000001."""
    value = float(f"{value:.12g}")
    return int(value) if value.is_integer() else value
