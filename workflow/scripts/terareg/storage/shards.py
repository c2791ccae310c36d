"""Shards of zarr 3 arrays, written chunk by chunk.

They follow the codec ``sharding_indexed``: chunks one after the other, each with its checksum, then
the index of all chunks with a checksum of its own. The bytes are those that tensorstore would write
given the chunks in this order, but the chunks are not copied.
Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

from terareg.storage.store import Store

_ABSENT = 2**64 - 1


class Shard:
    """A shard that appears in a store when it is complete.

    Parameters
    ----------
    store : Store
    key : str
    grid : sequence of int
        Number of chunks along each axis.
    """

    def __init__(self, store: Store, key: str, grid: Sequence[int]) -> None:
        self.key = key
        self._object = store.create(key)
        self._index = np.full((*grid, 2), _ABSENT, "<u8")

    def add(self, position: Sequence[int], data: bytes | np.ndarray) -> None:
        """Append an encoded chunk: bytes, or a one-dimensional array of uint8."""
        start = self._object.size
        self._object.write(start, data, checksum(data))
        self._index[tuple(position)] = start, self._object.size - start

    def close(self) -> dict[str, int]:
        """Write the index; return {key: bytes}."""
        index = self._index.tobytes()
        self._object.write(self._object.size, index, checksum(index))
        self._object.commit()
        return {self.key: self._object.size}

    def discard(self) -> None:
        """Remove what was written of a shard that was not closed."""
        self._object.discard()


def checksum(data: bytes | np.ndarray) -> bytes:
    """CRC-32C of an encoded chunk, as the codec ``crc32c`` appends it."""
    return struct.pack("<I", google_crc32c.value(data))
