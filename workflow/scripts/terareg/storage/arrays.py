"""Sharded Zarr 3 arrays that jobs keep for later jobs, as tensorstore specifications.

An absent or damaged chunk is an error; it never reads as zeros or noise. LZ4 with bit shuffling
compresses to 0.59 of the size, at 2.4 times the speed of Zstandard level 1 (0.56).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from terareg.core.errors import StoreError
from terareg.storage.store import Store, outage

_CODEC = {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKSUM = {"name": "crc32c"}


def array_spec(store: Store, key: str, cache_bytes: int = 0) -> dict[str, Any]:
    """Specification of the array under ``key``; up to ``cache_bytes`` of chunks are cached."""
    return {
        "driver": "zarr3",
        "kvstore": store.kvstore(key),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
        "recheck_cached_data": "open",
        "context": {"cache_pool": {"total_bytes_limit": cache_bytes}},
    }


def new_array_spec(
    store: Store,
    key: str,
    shape: Sequence[int],
    dtype: str,
    names: Sequence[str],
    chunk: Sequence[int],
    shard: Sequence[int],
) -> dict[str, Any]:
    """The same for an array that is to be created, with names of its axes.

    ``shard`` is a multiple of ``chunk``; a whole shard is written at once.
    """
    return array_spec(store, key) | {"metadata": _metadata(shape, dtype, names, (chunk, shard))}


def plain_array_json(
    shape: Sequence[int],
    dtype: str,
    names: Sequence[str],
    chunk: Sequence[int],
    shard: Sequence[int],
) -> dict[str, Any]:
    """Contents of the ``zarr.json`` of an array that is not compressed.

    Its shards are written with :class:`terareg.storage.shards.Shard`, under :func:`shard_key`.
    """
    return _metadata(shape, dtype, names, (chunk, shard), ())


def shard_key(key: str, index: Sequence[int]) -> str:
    """Key of a shard of the array under ``key``."""
    return f"{key}/c/" + "/".join(str(i) for i in index)


def _metadata(
    shape: Sequence[int],
    dtype: str,
    names: Sequence[str],
    edges: tuple[Sequence[int], Sequence[int]],
    codecs: Sequence[dict[str, Any]] = (_CODEC,),
) -> dict[str, Any]:
    chunk, shard = edges
    sharding = {
        "chunk_shape": list(chunk),
        "codecs": [_LITTLE, *codecs, _CHECKSUM],
        "index_codecs": [_LITTLE, _CHECKSUM],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "dimension_names": list(names),
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
    }


def write_error(store: Store, key: str, error: Exception) -> StoreError:
    """The exception to raise where tensorstore could not write the array under ``key``."""
    address = store.address(key)
    return outage(address, error) or StoreError(
        f"cannot write {address} ({error}); check the permissions or point store: elsewhere"
    )
