"""Neuroglancer's sharded files: many numbered objects in one file, with indices.

A file begins with a head, which says where each of its 2^minishard_bits indices lies; then come the
objects, and then the indices. Some bits of an object's number say which index lists it.
Specification: sharded.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_GZIP_LEVEL = 6


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
    """

    preshift_bits: int
    minishard_bits: int
    shard_bits: int = 0
    minishard_index_encoding: str = "raw"
    data_encoding: str = "raw"

    def to_json(self) -> dict[str, Any]:
        """The sharding specification in ``info``."""
        return {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", **asdict(self)}

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
                data = gzip.compress(data, _GZIP_LEVEL, mtime=0)
            head[index[own[0]]] = end, end + len(data)
            tail.append(data)
            end += len(data)
        return head.tobytes(), b"".join(tail)
