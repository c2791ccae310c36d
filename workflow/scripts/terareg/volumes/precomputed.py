"""Neuroglancer precomputed: ``info``, and shards that are whole blocks, or one object per chunk.

Sizes and resolutions are listed x, y, z and in nanometres. Voxel 0 starts at position 0, where
OME-Zarr counts from its centre: a viewer that shows both has to shift one by half a voxel.

Chunks are numbered by compressed Morton code, which interleaves the bits of x, y and z. The
lowest bits of the number therefore count the chunks of an aligned cube, and with the identity
hash such a cube is one shard file.
Specification: volume.md and sharded.md of https://github.com/google/neuroglancer,
folder src/datasource/precomputed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import compressed_segmentation
import imagecodecs
import numpy as np
import tensorstore as ts

from terareg.storage.foreign import read_object
from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding
from terareg.volumes.box_writers import LayerWriter, OwnObjects, Together
from terareg.volumes.chunks import morton, precomputed_grid
from terareg.volumes.fetched import FetchedChunks
from terareg.volumes.plan import Block, Box, VolumePlan

FOLDER = "precomputed"
_MOST_CHUNKS_PER_INDEX_BITS = 9
_SEGMENTATION_BLOCK = (8, 8, 8)
_JPEG_QUALITY = 90
# lossless at this effort is integer arithmetic in one pass: fast, and the same bytes on any machine
_JPEGXL = {"lossless": True, "effort": 1, "photometric": "GRAY", "numthreads": 1}
_NAMES = {"jpegxl": "jxl"}
_NM_PER_UM = 1000


def info_json(plan: VolumePlan, metadata: Mapping[str, Any]) -> dict:
    """Contents of ``info``.

    ``metadata["precomputed"]`` (for example ``{"mesh": "mesh", "segment_properties": "names"}``) is
    added unchanged.
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
    encoding = _encoding(plan)
    scale: dict[str, Any] = {
        "key": str(level),
        "size": list(frame.shape[::-1]),
        "voxel_offset": list(plan.offset_vox(level)[::-1]),
        "resolution": [_plain(s * _NM_PER_UM) for s in frame.spacing_um[::-1]],
        "chunk_size": list(plan.chunk[::-1]),
        "encoding": _NAMES.get(encoding, encoding),
    }
    if plan.settings.sharded:
        scale["sharding"] = _sharding(plan, level).to_json()
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = list(_SEGMENTATION_BLOCK)
    if encoding == "jpeg":
        scale["jpeg_quality"] = _JPEG_QUALITY
    return scale


def level_reader(store: Store, key: str, plan: VolumePlan, level: int) -> FetchedChunks | None:
    """Reader of the boxes of a level that tensorstore cannot decode; None for all others."""
    if _encoding(plan) != "jpegxl":
        return None
    folder = store.child(f"{key}/{FOLDER}")
    grid = precomputed_grid(json.loads(read_object(folder, "info")), level)
    how = {"driver": "neuroglancer_precomputed", "scale_index": level}
    return FetchedChunks(folder, (grid, grid.naming), how, _in_z_y_x, ([2, 1, 0], {3: 0}))


def _in_z_y_x(array: ts.TensorStore) -> ts.TensorStore:
    array = array[ts.d["x", "y", "z"].translate_to[0]][..., 0]
    return array[ts.d["z", "y", "x"].transpose[:]]


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
    """Number of bits of the chunk number that count chunks inside a shard.

    A shard is the largest Morton cube of chunks inside ``Level.shard`` of this level; where that
    is not a cube, it holds several.
    """
    edge = _cube_bits(plan, level)
    return sum(min(edge, bits) for bits in _grid_bits(plan, level))


def objects_in(plan: VolumePlan, level: int, box: Block) -> list[tuple[str, Block]]:
    """File names and boxes (voxels of the level, clipped) of the shards that a box touches.

    Where chunks lie in objects of their own, these are the chunks.
    """
    sharded = plan.settings.sharded
    edge = 1 << _cube_bits(plan, level) if sharded else 1
    size = tuple(edge * c for c in plan.chunk)
    shape = plan.levels[level].shape
    first = [a // s * s for a, s in zip(box.start, size)]
    found = []
    for z in range(first[0], box.stop[0], size[0]):
        for y in range(first[1], box.stop[1], size[1]):
            for x in range(first[2], box.stop[2], size[2]):
                stop: Box = tuple(min(a + s, n) for a, s, n in zip((z, y, x), size, shape))
                index = (z // size[0], y // size[1], x // size[2])
                part = Block(index, (z, y, x), stop)
                if sharded:
                    found.append((shard_name(plan, level, part.start), part))
                else:
                    found.append((_chunk_name(plan, level, part), part))
    return found


def _chunk_name(plan: VolumePlan, level: int, box: Block) -> str:
    """Name of the file that holds a chunk, "{level}/{x}-{x}_{y}-{y}_{z}-{z}"."""
    offset = plan.offset_vox(level)
    ranges = (f"{a + o}-{b + o}" for a, b, o in zip(box.start, box.stop, offset))
    return f"{level}/" + "_".join(reversed(list(ranges)))


def shard_name(plan: VolumePlan, level: int, voxel: Box) -> str:
    """Name of the file that holds a voxel of a level, "{level}/{number}.shard"."""
    chunk: Box = tuple(v // c for v, c in zip(voxel, plan.chunk))
    number = morton(chunk, _grid_bits(plan, level)) >> shard_bits(plan, level)
    return f"{level}/{_sharding(plan, level).file_name(number)}"


def box_writer(store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> LayerWriter:
    """Writer of a box of a level, which is given layers of chunks from first to last plane.

    Every chunk is stored, even one of zeros, so that readers find nothing missing. Chunks in
    objects of their own, and raw chunks of a shard, are written to their place at once. Encoded
    ones of a shard, whose place depends on the sizes of those before them, are held until it is
    complete.

    Parameters
    ----------
    store : Store
    key : str
        Folder of the volume.
    plan : VolumePlan
    level : int
    box : Block
        Whole shards, in voxels of the level.
    """
    if not plan.settings.sharded:
        return _ChunksWriter(store, key, plan, level, box)
    return Together(
        _ShardWriter(store, f"{key}/{FOLDER}/{name}", (plan, level), shard, box.start)
        for name, shard in objects_in(plan, level, box)
    )


class _ChunksWriter(OwnObjects):
    """The chunks of a box of a level, each in an object of its own."""

    def __init__(self, store: Store, key: str, plan: VolumePlan, level: int, box: Block) -> None:
        super().__init__(store)
        self._plan, self._box = plan, box
        self._names: dict[int, list[tuple[str, Block]]] = {}  # by their first plane
        for name, chunk in objects_in(plan, level, box):
            self._names.setdefault(chunk.start[0], []).append((f"{key}/{FOLDER}/{name}", chunk))

    def add(self, first: int, layer: np.ndarray) -> None:
        """Write the chunks that begin at plane ``first`` of the box, (z, y, x)."""
        begin = (self._box.start[0] + first, *self._box.start[1:])
        for name, chunk in self._names[begin[0]]:
            part = tuple(slice(a - o, b - o) for a, b, o in zip(chunk.start, chunk.stop, begin))
            self.put(name, _encode_chunk(self._plan, np.ascontiguousarray(layer[part])))


class _ShardWriter:
    """One shard file: shard index, chunks in the order of their numbers, minishard indices."""

    def __init__(
        self, store: Store, key: str, level: tuple[VolumePlan, int], shard: Block, origin: Box
    ) -> None:
        self._key, self._shard, self._plan, self._origin = key, shard, level[0], origin
        self._sharding = _sharding(*level)
        grid = _grid_bits(*level)
        chunk = self._plan.chunk
        self._numbers: dict[Box, int] = {}  # of chunks, by their first voxel
        sizes = {}
        z, y, x = (range(a, b, c) for a, b, c in zip(shard.start, shard.stop, chunk))
        for start in itertools.product(z, y, x):
            number = morton(tuple(v // c for v, c in zip(start, chunk)), grid)
            self._numbers[start] = number
            shape = (min(c, b - a) for a, b, c in zip(start, shard.stop, chunk))
            sizes[number] = math.prod(shape) * np.dtype(self._plan.dtype).itemsize
        self._raw = (_encoding(self._plan), _data_encoding(self._plan)) == ("raw", "raw")
        self._pieces: dict[int, bytes | memoryview] = {}
        self._starts = self._laid_out(sizes) if self._raw else {}
        self._object = store.create(key)

    def add(self, first: int, layer: np.ndarray) -> None:
        """Add those chunks that begin at plane ``first`` of the box and lie in the shard."""
        begin = (self._origin[0] + first, *self._origin[1:])
        for start, number in self._numbers.items():
            if start[0] == begin[0]:
                stop = (min(a + c, b) for a, c, b in
                        zip(start, self._plan.chunk, self._shard.stop))  # fmt: skip
                box = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, begin))
                chunk = np.ascontiguousarray(layer[box])
                if self._raw:
                    self._object.write(self._starts[number], chunk.reshape(-1).view(np.uint8))
                else:
                    self._pieces[number] = _encode_chunk(self._plan, chunk)

    def close(self) -> dict[str, int]:
        """Write what is left and make the shard appear; return {key: bytes}."""
        if not self._raw:
            starts = self._laid_out({number: len(piece) for number, piece in self._pieces.items()})
            for number in sorted(self._pieces):
                self._object.write(starts[number], self._pieces.pop(number))
        self._object.write(0, self._head)
        self._object.write(self._tail_start, self._tail)
        self._object.commit()
        return {self._key: self._object.size}

    def discard(self) -> None:
        """Remove what was written of a shard that was not closed."""
        self._object.discard()

    def _laid_out(self, sizes: Mapping[int, int]) -> dict[int, int]:
        """Make the indices for chunks of these sizes; return the byte at which each begins."""
        numbers = sorted(sizes)
        listed = [sizes[number] for number in numbers]
        starts = [0, *itertools.accumulate(listed)]  # counted from the end of the head
        self._head, self._tail = self._sharding.head_and_tail(
            numbers, starts[:-1], listed, starts[-1]
        )
        self._tail_start = len(self._head) + starts[-1]
        return {number: len(self._head) + start for number, start in zip(numbers, starts)}


def _encode_chunk(plan: VolumePlan, chunk: np.ndarray) -> bytes | memoryview:
    encoding = _encoding(plan)
    if (encoding, _data_encoding(plan)) == ("raw", "raw"):
        return chunk.reshape(-1).view(np.uint8).data
    # chunks are images whose rows are those of all planes, one after the other
    rows = chunk.reshape(-1, chunk.shape[2])
    # the type stubs of imagecodecs know only bytes, but its functions take arrays
    codecs: Any = imagecodecs
    if encoding == "compressed_segmentation":
        data = compressed_segmentation.compress(
            np.asfortranarray(chunk.transpose(2, 1, 0)), block_size=_SEGMENTATION_BLOCK, order="F"
        )
    elif encoding == "jpeg":
        data = codecs.jpeg8_encode(rows, level=_JPEG_QUALITY)
    elif encoding == "png":
        data = codecs.png_encode(rows, level=1)
    elif encoding == "jpegxl":
        data = codecs.jpegxl_encode(rows, **_JPEGXL)
    else:
        data = chunk.tobytes()
    # libdeflate: two to three times as fast as zlib, and smaller
    return bytes(codecs.gzip_encode(data, level=1) if _data_encoding(plan) == "gzip" else data)


def _encoding(plan: VolumePlan) -> str:
    if plan.settings.encoding is None:
        return "compressed_segmentation" if plan.is_segmentation else "raw"
    return "raw" if plan.settings.encoding == "gzip" else plan.settings.encoding


def _data_encoding(plan: VolumePlan) -> str:
    """How encoded chunks are compressed once more within shards; not at all outside of them."""
    if not plan.settings.sharded:
        return "raw"
    compact = _encoding(plan) == "compressed_segmentation"
    return "gzip" if compact or plan.settings.gzips_precomputed else "raw"


def _sharding(plan: VolumePlan, level: int) -> Sharding:
    bits = shard_bits(plan, level)
    return Sharding(
        preshift_bits=min(bits, _MOST_CHUNKS_PER_INDEX_BITS),
        minishard_bits=max(bits - _MOST_CHUNKS_PER_INDEX_BITS, 0),
        shard_bits=sum(_grid_bits(plan, level)) - bits,
        minishard_index_encoding="gzip",
        data_encoding=_data_encoding(plan),
    )


def _multiscale(plan: VolumePlan) -> dict:
    return {"type": plan.settings.kind, "data_type": plan.dtype, "num_channels": 1}


def _grid_bits(plan: VolumePlan, level: int) -> Box:
    """Number of bits of chunk indices along (z, y, x)."""
    return tuple(
        (-(-n // c) - 1).bit_length() for n, c in zip(plan.levels[level].shape, plan.chunk)
    )


def _cube_bits(plan: VolumePlan, level: int) -> int:
    """Largest b such that an aligned cube of edge 2^b chunks never leaves a ``Level.shard``."""
    grid = _grid_bits(plan, level)
    inside = [(s // c).bit_length() - 1 for s, c in zip(plan.levels[level].shard, plan.chunk)]
    # an axis that it covers whole sets no limit, because the code has no higher bits for it
    limits = [b for b, g in zip(inside, grid) if b < g]
    return min(limits, default=max(grid))


def _plain(value: float) -> float | int:
    """585.0 as 585; 0.585 um times 1000 as 585, not 585.0000000000001."""
    value = float(f"{value:.12g}")
    return int(value) if value.is_integer() else value
