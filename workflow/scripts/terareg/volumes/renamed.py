"""Levels whose chunks have other names than the metadata say.

Writers that compress what they write to disk add a suffix to each name (cloud-volume: ``.gz``), and
nested folders of Zarr may be described as flat ones. The chunks of a box are read under their real
names and passed to tensorstore under the names that it expects.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
import tensorstore as ts

from terareg.core.errors import VolumeError
from terareg.storage.foreign import METADATA_BYTES, read_object
from terareg.storage.store import Store
from terareg.volumes.chunks import ChunkGrid, Naming


class RenamedChunks:
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
        Which axes of the array are z, y and x, and the index along every other axis.
    """

    def __init__(
        self,
        store: Store,
        names: tuple[ChunkGrid, Naming],
        spec: dict,
        view: Callable[[ts.TensorStore], ts.TensorStore],
        axes: tuple[Sequence[int], dict[int, int]],
    ) -> None:
        self.store, self.spec, self.view, self.axes = store, spec, view, axes
        self.grid, self.naming = names
        array = self._array({})
        self.dtype, self.shape = array.dtype, array.shape
        voxels = math.prod(self.grid.chunk) * self.grid.channels
        # encoded chunks may be a little larger than raw ones
        self._most = 2 * voxels * array.dtype.numpy_dtype.itemsize + (1 << 16)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Voxels of a box (z, y, x)."""
        places, fixed = self.axes
        ranges: list[range] = [range(1)] * len(self.grid.shape)
        for axis, fixed_index in fixed.items():
            part = fixed_index // self.grid.chunk[axis]
            ranges[axis] = range(part, part + 1)
        for axis, a, b in zip(places, start, stop):
            size = self.grid.chunk[axis]
            ranges[axis] = range(a // size, -(-b // size))
        chunks = {}
        for index in itertools.product(*ranges):
            data = self._chunk(index)
            if data is not None:
                chunks[self.grid.name(index)] = data
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        return self._array(chunks)[box].read().result()

    def _chunk(self, index: tuple[int, ...]) -> bytes | None:
        name = f"{self.grid.folder}/{self.grid.name(index, self.naming)}"
        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            if self.grid.form == "zarr":
                return None
            raise VolumeError(f"{self.store.address(name)} is missing; copy it again") from error
        return _decompress(data, self.naming.suffix, self._most)

    def _array(self, chunks: dict[str, bytes]) -> ts.TensorStore:
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
        folder = f"{self.grid.folder}/"
        if self.grid.form == "precomputed":
            memory["info"] = read_object(self.store, "info")
            root = ""
        else:
            root = folder
            for name in ("zarr.json", ".zarray"):
                try:
                    data = read_object(self.store, folder + name, METADATA_BYTES)
                except FileNotFoundError:
                    continue
                memory[folder + name] = data
        for name, data in chunks.items():
            memory[folder + name] = data
        spec = self.spec | {"kvstore": {"driver": "memory", "path": root}}
        return self.view(ts.open(spec, open=True, read=True, context=context).result())


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
        raise ValueError("a compressed chunk is cut off, or larger than its metadata state")
    return found
