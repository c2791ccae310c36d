"""A few arrays in one object of the store, which the next job reads after comparing a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

import numpy as np
import xxhash

from terareg.core.errors import StoreError
from terareg.storage.store import Store

_MAGIC = b"terareg-part-1\n"


def write_part(
    store: Store, key: str, arrays: Mapping[str, np.ndarray], fingerprint: str
) -> dict[str, int]:
    """Write arrays of any type and shape; return {key: bytes}.

    Parameters
    ----------
    store : Store
    key : str
    arrays : mapping of str to numpy.ndarray
    fingerprint : str
        Of everything that the arrays were made from, see :func:`has_part`.
    """
    listed, body = [], b""
    for name, array in arrays.items():
        data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
        listed.append([name, array.dtype.str, list(array.shape), len(data)])
        body += data
    head = json.dumps(
        {"arrays": listed, "fingerprint": fingerprint, "xxh3": xxhash.xxh3_128_hexdigest(body)}
    ).encode()
    data = _MAGIC + len(head).to_bytes(8, "little") + head + body
    store.write(key, data)
    return {key: len(data)}


def read_part(store: Store, key: str) -> dict[str, np.ndarray]:
    """Arrays of an object that :func:`write_part` wrote.

    Raises
    ------
    StoreError
        If the object is missing, or not what was written.
    """
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise StoreError(f"{store.address(key)} is missing; run again to have it made") from error
    head = _head(data)
    if head is None:
        raise StoreError(f"{store.address(key)} was damaged; delete it and run again")
    start = len(_MAGIC) + 8 + int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 8], "little")
    if xxhash.xxh3_128_hexdigest(data[start:]) != head["xxh3"]:
        raise StoreError(
            f"{store.address(key)} is not what was written (its checksum differs); delete it and "
            "run again"
        )
    arrays = {}
    for name, dtype, shape, size in head["arrays"]:
        array = np.frombuffer(zlib.decompress(data[start : start + size]), dtype)
        arrays[name] = array.reshape(shape)
        start += size
    return arrays


def has_part(store: Store, key: str, fingerprint: str) -> bool:
    """Whether an object with this fingerprint is in the store."""
    try:
        head = _head(store.read_range(key, 0, 1 << 16)[0])
    except (FileNotFoundError, EOFError):
        return False
    return head is not None and head.get("fingerprint") == fingerprint


def _head(data: bytes) -> dict | None:
    start = len(_MAGIC) + 8
    size = int.from_bytes(data[len(_MAGIC) : start], "little")
    try:
        head = json.loads(data[start : start + size])
    except ValueError:
        return None
    return head if data.startswith(_MAGIC) and isinstance(head, dict) else None
