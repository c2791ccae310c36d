"""Neuroglancer's sharded files: many numbered objects in one file, with indices.

A file begins with a head, which says where each of its 2^minishard_bits indices lies; then come the
objects, and then the indices. Some bits of an object's number say which index lists it.
Specification: sharded.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from terareg.storage.store import Store, gzipped

_GZIP_LEVEL = 6
_TYPE, _ENCODINGS, _MOST_BITS = "neuroglancer_uint64_sharded_v1", ("raw", "gzip"), 64
_MOST_MINISHARD_BITS = 24  # 256 MB of indices in the head of a file
_ENTRY_BYTES = 24  # of an object in an index
_KEPT_INDICES = 64
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Sharding:
    """How numbers are spread over files, and over the indices of a file.

    Attributes
    ----------
    preshift_bits : int
        Lowest bits of a number that say neither.
    minishard_bits : int
        The next ones: the index of a file.
    shard_bits : int
        The next ones: the file.
    minishard_index_encoding, data_encoding : str
        "raw" or "gzip", of indices and of objects; whoever writes objects encodes them.
    hash : str
        "identity", or "murmurhash3_x86_128" of others, which mixes a number before its bits are
        used.
    """

    preshift_bits: int
    minishard_bits: int
    shard_bits: int = 0
    minishard_index_encoding: str = "raw"
    data_encoding: str = "raw"
    hash: str = "identity"

    def to_json(self) -> dict[str, Any]:
        """The sharding specification in ``info``."""
        return {"@type": _TYPE, "hash": self.hash, **asdict(self)}

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Sharding:
        """From the specification in an ``info`` that others wrote; :class:`ValueError`."""
        if stated["@type"] != _TYPE:
            raise ValueError(f"sharding {stated['@type']!r} is unknown; use {_TYPE}")
        bits = [stated[f"{name}_bits"] for name in ("preshift", "minishard", "shard")]
        if not all(type(n) is int and 0 <= n <= _MOST_BITS for n in bits):
            raise ValueError(f"sharding with {bits} bits")
        if bits[1] > _MOST_MINISHARD_BITS or bits[1] + bits[2] > _MOST_BITS:
            raise ValueError(f"sharding with {bits[1]} bits of minishards, {bits[2]} of shards")
        index = stated.get("minishard_index_encoding", "raw")
        data = stated.get("data_encoding", "raw")
        if index not in _ENCODINGS or data not in _ENCODINGS:
            raise ValueError(f"sharding with encodings {index!r}, {data!r}")
        if stated["hash"] not in ("identity", "murmurhash3_x86_128"):
            raise ValueError(f"sharding with hash {stated['hash']!r}")
        preshift, minishard, shard = bits
        return cls(preshift, minishard, shard, index, data, stated["hash"])

    def place(self, number: int) -> tuple[int, int]:
        """File and index of an object."""
        mixed = number >> self.preshift_bits
        if self.hash != "identity":
            mixed = murmurhash3(mixed)
        index = mixed & ((1 << self.minishard_bits) - 1)
        return (mixed >> self.minishard_bits) & ((1 << self.shard_bits) - 1), index

    def file_name(self, number: int) -> str:
        """Name of a file."""
        return f"{number:0{max(-(-self.shard_bits // 4), 1)}x}.shard"

    def head_and_tail(
        self, numbers: Sequence[int], starts: Sequence[int], sizes: Sequence[int], end: int
    ) -> tuple[bytes, bytes]:
        """What lies before the objects of a file, and behind them.

        Parameters
        ----------
        numbers : sequence of int
            Of the objects of the file, ascending.
        starts, sizes : sequence of int
            First byte of each, counted from the end of the head, and its bytes.
        end : int
            Byte behind the last object, counted so as well.
        """
        number, start, size = (np.array(column, np.uint64) for column in (numbers, starts, sizes))
        stop = start + size
        count = 1 << self.minishard_bits
        index = (number >> np.uint64(self.preshift_bits)) & np.uint64(count - 1)
        order = np.argsort(index, kind="stable")
        head, tail = np.zeros((count, 2), "<u8"), []
        for own in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
            if not own.size:
                continue
            table = np.stack(
                [
                    np.diff(number[own], prepend=np.uint64(0)),
                    start[own] - np.append(np.uint64(0), stop[own[:-1]]),
                    size[own],
                ]
            )
            data = table.astype("<u8").tobytes()
            if self.minishard_index_encoding == "gzip":
                data = gzipped(data, _GZIP_LEVEL)
            head[index[own[0]]] = end, end + len(data)
            tail.append(data)
            end += len(data)
        return head.tobytes(), b"".join(tail)


class ShardReader:
    """Objects out of the files of others, none larger than asked for.

    Parameters
    ----------
    store : Store
    folder : str
        Of the files.
    sharding : Sharding
    most_objects : int
        Number of objects that there can be.
    most_bytes : int
        Largest size of one.
    """

    def __init__(
        self, store: Store, folder: str, sharding: Sharding, most_objects: int, most_bytes: int
    ) -> None:
        self._store, self._folder, self._sharding = store, folder, sharding
        self._most_objects, self._most_bytes = most_objects, most_bytes
        self._index = functools.lru_cache(_KEPT_INDICES)(self._read_index)

    def read(self, number: int) -> bytes | None:
        """An object, decoded; None if there is none of the number.

        Raises
        ------
        ValueError
            If the file contradicts itself, or the object is larger than ``most_bytes``.
        """
        file, index = self._sharding.place(number)
        table = self._index(self._sharding.file_name(file), index)
        at = int(np.searchsorted(table[0], np.uint64(number)))
        if at == table.shape[1] or int(table[0, at]) != number:
            return None
        start, size = int(table[1, at]), int(table[2, at])
        if size > self._most_bytes:
            raise ValueError(f"object {number} has {size} bytes, {self._most_bytes} are possible")
        data = self._part(self._sharding.file_name(file), start, size)
        return _inflated(data, self._most_bytes) if self._packed else data

    def numbers(self, name: str) -> np.ndarray:
        """Numbers of the objects of a file, uint64, in the order of its indices."""
        count = 1 << self._sharding.minishard_bits
        return np.concatenate([self._read_index(name, i)[0] for i in range(count)])

    @property
    def _packed(self) -> bool:
        return self._sharding.data_encoding == "gzip"

    def _read_index(self, name: str, index: int) -> np.ndarray:
        """Numbers (ascending), first bytes and sizes of the objects of an index, uint64 (3, n)."""
        empty = np.zeros((3, 0), np.uint64)
        try:
            head = self._part(name, 16 * index, 16, 0)
        except FileNotFoundError:
            return empty
        start, stop = (int(n) for n in np.frombuffer(head, "<u8"))
        if start == stop:
            return empty
        most = _ENTRY_BYTES * self._most_objects
        # what cannot be made smaller grows by a little
        if not start < stop <= start + most + most // 100 + 1024:
            raise ValueError(f"index {index} of {name} from byte {start} to {stop}")
        data = self._part(name, start, stop - start)
        if self._sharding.minishard_index_encoding == "gzip":
            data = _inflated(data, most)
        if len(data) % _ENTRY_BYTES:
            raise ValueError(f"index {index} of {name} has {len(data)} bytes")
        table = np.frombuffer(data, "<u8").reshape(3, -1).copy()
        table[0] = np.cumsum(table[0])
        # each begins a stated number of bytes behind the end of the one before
        table[1] = np.cumsum(table[1]) + np.cumsum(table[2]) - table[2]
        return table[:, np.argsort(table[0], kind="stable")]

    def _part(self, name: str, start: int, count: int, head: int | None = None) -> bytes:
        """Bytes of a file; ``start`` counts from the end of its head."""
        if count == 0:
            return b""
        begin = start + ((16 << self._sharding.minishard_bits) if head is None else head)
        data, entry = self._store.read_range(f"{self._folder}/{name}", begin, count)
        if len(data) != count:
            raise ValueError(
                f"{name} has {entry.size} bytes, bytes {begin} to {begin + count} are asked for"
            )
        return data


def murmurhash3(number: int) -> int:
    """The lower 64 bits of MurmurHash3_x86_128 of a number's eight bytes, with seed 0.

    After Austin Appleby's description, https://github.com/aappleby/smhasher (public domain).
    """
    low = _turned((number & _MASK) * 0x239B961B & _MASK, 15) * 0xAB0E9789 & _MASK
    high = _turned((number >> 32 & _MASK) * 0xAB0E9789 & _MASK, 16) * 0x38B34AE5 & _MASK
    parts = _summed([low ^ 8, high ^ 8, 8, 8])
    for i, part in enumerate(parts):
        part = (part ^ part >> 16) * 0x85EBCA6B & _MASK
        part = (part ^ part >> 13) * 0xC2B2AE35 & _MASK
        parts[i] = part ^ part >> 16
    parts = _summed(parts)
    return parts[0] | parts[1] << 32


def _turned(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def _summed(parts: list[int]) -> list[int]:
    first = sum(parts) & _MASK
    return [first, *((first + part) & _MASK for part in parts[1:])]


def _inflated(data: bytes, most: int) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    found = inflate.decompress(data, most)
    # the end of the stream may be behind the last byte that was asked for
    if not inflate.eof and (inflate.decompress(inflate.unconsumed_tail, 1) or not inflate.eof):
        raise ValueError(f"what is packed is cut off, or larger than {most} bytes")
    return found
