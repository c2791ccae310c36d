"""Levels whose chunks are fetched here, and decoded by tensorstore or, JPEG XL, by imagecodecs.

Tensorstore takes an absent chunk for zeros, knows chunks only by the names that the metadata
imply, and inflates what lies in shards without a limit. So the chunks of precomputed volumes that
others wrote, and those of Zarr under other names, are fetched one by one: an absent chunk is an
error unless the caller says otherwise, and none becomes larger than the metadata allow.

Writers that compress what they write to disk add a suffix to each name (cloud-volume: ``.gz``), and
nested folders of Zarr may be described as flat ones.
"""

from __future__ import annotations

import bz2
import itertools
import json
import lzma
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import imagecodecs
import numpy as np
import tensorstore as ts

from terareg.core.errors import VolumeError
from terareg.storage.foreign import METADATA_BYTES, read_object
from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding, ShardReader
from terareg.volumes.chunks import ChunkGrid, Naming, incomplete

_JPEGXL = "jxl"
_REQUESTS = 8  # at once, where the volume is not on a disk


class FetchedChunks:
    """One level; an absent chunk is an error in precomputed volumes, and zeros in Zarr.

    Parameters
    ----------
    store : Store
        Of the volume.
    names : (ChunkGrid, Naming)
        Chunks, and how they are really named.
    spec : dict
        Specification for tensorstore, without the key-value store.
    view : callable
        Turns the array that tensorstore opens into axes z, y, x.
    axes : (list of int, dict)
        Which axes of the array are z, y and x, and the index along every other axis; for a
        precomputed volume, axis 3 is that of the channels.
    fill_missing : bool
        Whether an absent chunk of a precomputed volume is zeros too.
    """

    def __init__(
        self,
        store: Store,
        names: tuple[ChunkGrid, Naming],
        spec: dict,
        view: Callable[[ts.TensorStore], ts.TensorStore],
        axes: tuple[Sequence[int], dict[int, int]],
        fill_missing: bool = False,
    ) -> None:
        self.store, self.spec, self.view, self.axes = store, spec, view, axes
        self.grid, self.naming = names
        self._filled = fill_missing or self.grid.form == "zarr"
        self._encoding = ""
        self._metadata = self._read_metadata()
        array = self._array({})
        self.dtype, self.shape, self.chunk_layout = array.dtype, array.shape, array.chunk_layout
        voxels = math.prod(self.grid.chunk) * self.grid.channels
        # encoded chunks may be a little larger than raw ones
        self._most = 2 * voxels * array.dtype.numpy_dtype.itemsize + (1 << 16)
        self._shards: ShardReader | None = None
        if self.grid.sharding is not None:
            total = math.prod(self.grid.counts)
            sharding = Sharding.from_json(self.grid.sharding)
            self._shards = ShardReader(store, self.grid.folder, sharding, total, self._most)

    @property
    def planes_together(self) -> int:
        """Planes along z of a chunk."""
        return self.grid.chunk[self.axes[0][0]]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Voxels of a box (z, y, x)."""
        places, fixed = self.axes
        ranges: list[range] = [range(1)] * len(self.grid.shape)
        for axis in range(len(ranges)):
            # a chunk of a precomputed volume has all channels
            chosen = fixed.get(axis, 0) // self.grid.chunk[axis]
            ranges[axis] = range(chosen, chosen + 1)
        for axis, a, b in zip(places, start, stop):
            size = self.grid.chunk[axis]
            ranges[axis] = range(a // size, -(-b // size))
        found = np.empty([b - a for a, b in zip(start, stop)], self.dtype.numpy_dtype)
        depth, layers = self.grid.chunk[places[0]], ranges[places[0]]
        for layer in layers:
            # one layer of encoded chunks is held at a time
            ranges[places[0]] = range(layer, layer + 1)
            indices = list(itertools.product(*ranges))
            first, last = max(layer * depth, start[0]), min((layer + 1) * depth, stop[0])
            part = found[first - start[0] : last - start[0]]
            if self._encoding in ("raw", _JPEGXL):
                self._copy(indices, (first, *start[1:]), part)
                continue
            chunks = zip(indices, self._fetch(indices))
            array = self._array({self.grid.name(i): data for i, data in chunks if data is not None})
            box = (slice(first, last), *(slice(a, b) for a, b in zip(start[1:], stop[1:])))
            part[...] = array[box].read().result()
        return found

    def _copy(
        self, indices: Sequence[tuple[int, ...]], start: Sequence[int], out: np.ndarray
    ) -> None:
        """Copy chunks that are decoded here into an array that begins at ``start`` (z, y, x)."""
        grid, dtype = self.grid, self.dtype.numpy_dtype.newbyteorder("<")
        for index, data in zip(indices, self._fetch(indices)):
            begin = [i * c for i, c in zip(index, grid.chunk)][::-1]
            shape = [min(c, n - a) for c, n, a in zip(grid.chunk[::-1], grid.shape[::-1], begin)]
            low = [max(a - b, 0) for a, b in zip(begin, start)]
            high = [min(a + n - b, m) for a, n, b, m in zip(begin, shape, start, out.shape)]
            place = out[tuple(slice(a, b) for a, b in zip(low, high))]
            if data is None:
                place[...] = 0
                continue
            if self._encoding == _JPEGXL:
                data = _from_jpegxl(data, (grid.channels, *shape), dtype)
            expected = math.prod(shape) * grid.channels * dtype.itemsize
            if len(data) != expected:
                raise ValueError(
                    f"chunk {grid.name(index)} has {len(data)} bytes instead of {expected}"
                )
            voxels = np.frombuffer(data, dtype).reshape(grid.channels, *shape)[self.axes[1][3]]
            inside = (slice(a + b - c, a + b - c + n)
                      for a, b, c, n in zip(low, start, begin, place.shape))  # fmt: skip
            place[...] = voxels[tuple(inside)]

    def _fetch(self, indices: Sequence[tuple[int, ...]]) -> Iterator[bytes | None]:
        """Yield encoded chunks; None for those that are absent and zeros."""
        if type(self.store) is Store and not self.store.is_s3:
            yield from map(self._chunk, indices)
            return
        with ThreadPoolExecutor(_REQUESTS) as pool:
            yield from pool.map(self._chunk, indices)

    def _chunk(self, index: tuple[int, ...]) -> bytes | None:
        if self._shards is not None:
            number = self.grid.number(index)
            data = self._shards.read(number)
            if data is None and not self._filled:
                raise self._absent(
                    f"{self.store.address(self.grid.folder)} has no chunk {self.grid.name(index)} "
                    f"in its shards (number {number})"
                )
            return data
        name = f"{self.grid.folder}/{self.grid.name(index, self.naming)}"
        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            if self._filled:
                return None
            raise self._absent(f"{self.store.address(name)} is absent") from error
        return _decompress(data, self.naming.suffix, self._most)

    @staticmethod
    def _absent(what: str) -> VolumeError:
        return VolumeError(
            f"{what}; copy it again, or set fill_missing: true if whoever wrote the volume left "
            "out black chunks"
        )

    def _read_metadata(self) -> dict[str, bytes]:
        """Names and contents of the metadata that tensorstore reads."""
        if self.grid.form == "precomputed":
            info = json.loads(read_object(self.store, "info"))
            self._encoding = info["scales"][self.spec["scale_index"]].get("encoding", "raw")
            for scale in info["scales"]:
                # chunks come out of their shards before tensorstore sees them
                scale.pop("sharding", None)
                if scale.get("encoding") == _JPEGXL:  # which it does not know
                    scale["encoding"] = "raw"
            return {"info": json.dumps(info).encode()}
        found = {}
        for name in ("zarr.json", ".zarray"):
            key = f"{self.grid.folder}/{name}"
            try:
                found[key] = read_object(self.store, key, METADATA_BYTES)
            except FileNotFoundError:
                continue
        return found

    def _array(self, chunks: dict[str, bytes]) -> ts.TensorStore:
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
        folder = f"{self.grid.folder}/"
        for name, data in self._metadata.items():
            memory[name] = data
        for name, data in chunks.items():
            memory[folder + name] = data
        root = "" if self.grid.form == "precomputed" else folder
        spec = self.spec | {"kvstore": {"driver": "memory", "path": root}}
        return self.view(ts.open(spec, open=True, read=True, context=context).result())


def count_absent_in_shards(store: Store, grid: ChunkGrid, fill_missing: bool = False) -> int:
    """Number of chunks that the shards of a level lack, by their indices.

    Raises
    ------
    VolumeError
        If some are absent and ``fill_missing`` does not make them zeros.
    ValueError
        If a shard contradicts itself.
    """
    assert grid.sharding is not None
    total = math.prod(grid.counts)
    reader = ShardReader(store, grid.folder, Sharding.from_json(grid.sharding), total, 0)
    wanted = grid.pattern(grid.naming)
    names = sorted(name for name in grid.walk(store) if wanted.fullmatch(name))
    found = [reader.numbers(name) for name in names]
    every = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))
    there = every[_on_grid(every, grid)]
    if there.size < min(total, every.size):
        raise VolumeError(
            f"{store.address(grid.folder)} has {every.size - there.size} chunks in its shards that "
            f"are none of the {total} that its info states (of which {there.size} are there); "
            "correct size or chunk_sizes"
        )
    if there.size < total and not fill_missing:
        numbered = ((grid.number(index), index) for index in grid.indices())
        first = next(index for number, index in numbered if not _has(there, number))
        raise incomplete(store, grid, there.size, grid.name(first))
    return total - there.size


def _on_grid(numbers: np.ndarray, grid: ChunkGrid) -> np.ndarray:
    """Which numbers are those of chunks of a grid, bool; inverse of ``grid.number``."""
    counts = grid.counts[::-1]
    bits = [(n - 1).bit_length() for n in counts]
    index = np.zeros((3, numbers.size), np.uint64)
    place = 0
    for bit in range(max(bits)):
        for axis in (2, 1, 0):
            if bit < bits[axis]:
                part = (numbers >> np.uint64(place)) & np.uint64(1)
                index[axis] |= part << np.uint64(bit)
                place += 1
    inside = numbers >> np.uint64(place) == 0
    return inside & (index < np.array(counts, np.uint64)[:, None]).all(axis=0)


def _has(numbers: np.ndarray, number: int) -> bool:
    at = int(np.searchsorted(numbers, np.uint64(number)))
    return at < numbers.size and int(numbers[at]) == number


def _from_jpegxl(data: bytes, shape: Sequence[int], dtype: np.dtype) -> bytes:
    """Raw bytes of a chunk (channel, z, y, x), whose rows are those of all planes of the picture.

    :class:`ValueError` if the picture has another size or type.
    """
    channels, z, y, x = shape
    if channels > 1:
        raise ValueError(f"its chunks are JPEG XL of {channels} channels; write them as raw")
    rows = np.empty((z * y, x), dtype.newbyteorder("="))
    decode: Any = imagecodecs.jpegxl_decode  # its type stub knows no numthreads
    return np.asarray(decode(data, numthreads=1, out=rows), dtype).tobytes()


def _decompress(data: bytes, suffix: str, most: int) -> bytes:
    """Decompressed bytes of a chunk, at most ``most``."""
    inflate: Any
    if suffix == ".gz":
        inflate = zlib.decompressobj(wbits=31)
    elif suffix == ".bz2":
        inflate = bz2.BZ2Decompressor()
    elif suffix == ".xz":
        inflate = lzma.LZMADecompressor()
    elif suffix == ".br":
        return bytes(imagecodecs.brotli_decode(data, out=most))
    elif suffix in (".zst", ".zstd"):
        return bytes(imagecodecs.zstd_decode(data, out=most))
    else:
        return data
    found = inflate.decompress(data, most)
    if not inflate.eof:
        raise ValueError("a compressed chunk is cut off, or larger than its metadata say")
    return found
