"""Meshes and skeletons of many ids in a few files: Neuroglancer's sharded format.

The lowest bits of an id say which index within a file lists it, the next ones in which file it is.
Specification: sharded.md of https://github.com/google/neuroglancer, folder
src/datasource/precomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError
from terareg.storage.records import object_facts
from terareg.storage.store import Store

_INDEX_BITS = 6
_MOST_BITS = 20


@dataclass(frozen=True)
class IdShards:
    """How ids are spread over files.

    Attributes
    ----------
    bits : int
        There are 2^bits files.
    """

    bits: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= _MOST_BITS:
            raise ConfigError(f"2^{self.bits} shards are not possible; use 0 to {_MOST_BITS} bits")

    @property
    def count(self) -> int:
        """Number of files."""
        return 1 << self.bits

    def number(self, ids: np.ndarray) -> np.ndarray:
        """File of each id."""
        return (np.asarray(ids, np.uint64) >> np.uint64(_INDEX_BITS)) & np.uint64(self.count - 1)

    def name(self, number: int) -> str:
        """Name of a file."""
        return f"{number:0{max(-(-self.bits // 4), 1)}x}.shard"

    def to_json(self) -> dict:
        """The sharding specification in ``info``."""
        return {
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 0,
            "hash": "identity",
            "minishard_bits": _INDEX_BITS,
            "shard_bits": self.bits,
            "minishard_index_encoding": "raw",
            "data_encoding": "raw",
        }


def write_shard(
    store: Store, key: str, objects: Mapping[int, tuple[bytes, bytes]]
) -> dict[str, dict]:
    """Write one file; return what is known of it, by key.

    Parameters
    ----------
    store : Store
    key : str
    objects : mapping of int to tuple of bytes
        For each id of the file what lies before its object (the fragments of a mesh), and the
        object itself, which the index points at.
    """
    minishards = 1 << _INDEX_BITS
    listed: list[list[tuple[int, int, int]]] = [[] for _ in range(minishards)]
    pieces, end = [], 0
    for number in sorted(objects):
        before, data = objects[number]
        listed[number & (minishards - 1)].append((number, end + len(before), len(data)))
        pieces += [before, data]
        end += len(before) + len(data)
    index = np.zeros((minishards, 2), "<u8")
    for mini, entries in enumerate(listed):
        if entries:
            ids, starts, sizes = (np.array(column, np.uint64) for column in zip(*entries))
            ends = starts + sizes
            table = np.stack(
                [
                    np.diff(ids, prepend=np.uint64(0)),
                    starts - np.append(np.uint64(0), ends[:-1]),
                    sizes,
                ]
            )
            pieces.append(table.astype("<u8").tobytes())
            index[mini] = end, end + len(pieces[-1])
            end += len(pieces[-1])
    data = b"".join([index.tobytes(), *pieces])
    store.write(key, data)
    return {key: object_facts(data)}
