"""Meshes and skeletons of many ids in a few files: Neuroglancer's sharded format.

The lowest bits of an id say which index within a file lists it, the next ones in which file it is,
see :mod:`terareg.storage.uint64_shards`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from terareg.core.errors import ConfigError
from terareg.storage.records import object_facts
from terareg.storage.store import Store
from terareg.storage.uint64_shards import Sharding

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
            raise ConfigError(f"2^{self.bits} shards are impossible; use 0 to {_MOST_BITS} bits")

    @property
    def count(self) -> int:
        """Number of files."""
        return 1 << self.bits

    def number(self, ids: np.ndarray) -> np.ndarray:
        """File of each id."""
        return (np.asarray(ids, np.uint64) >> np.uint64(_INDEX_BITS)) & np.uint64(self.count - 1)

    @property
    def sharding(self) -> Sharding:
        """The same as Neuroglancer sees it."""
        return Sharding(0, _INDEX_BITS, self.bits)

    def name(self, number: int) -> str:
        """Name of a file."""
        return self.sharding.file_name(number)

    def to_json(self) -> dict:
        """The sharding specification in ``info``."""
        return self.sharding.to_json()


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
    numbers = sorted(objects)
    sizes = [[len(piece) for piece in objects[number]] for number in numbers]
    ends = list(itertools.accumulate(map(sum, sizes)))
    starts = [end - size for end, (_, size) in zip(ends, sizes)]
    head, tail = IdShards().sharding.head_and_tail(
        numbers, starts, [size for _, size in sizes], ends[-1] if ends else 0
    )
    pieces = (piece for number in numbers for piece in objects[number])
    data = b"".join([head, *pieces, tail])
    store.write(key, data)
    return {key: object_facts(data)}
