"""A few arrays in one object of the store, which the next job reads after comparing checksums."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping

import numpy as np
import xxhash

from terareg.core.errors import StoreError
from terareg.storage.store import Store

_MAGIC = b"terareg-part-1\n"
_START = len(_MAGIC) + 8
_GUESS = 1 << 15


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
    listed, body = [], []
    for name, array in arrays.items():
        data = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
        digest = xxhash.xxh3_128_hexdigest(data)
        listed.append([name, array.dtype.str, list(array.shape), len(data), digest])
        body.append(data)
    head = json.dumps({"arrays": listed, "fingerprint": fingerprint}).encode()
    data = b"".join([_MAGIC, len(head).to_bytes(8, "little"), head, *body])
    store.write(key, data)
    return {key: len(data)}


def read_part(
    store: Store, key: str, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an object that :func:`write_part` wrote.

    Parameters
    ----------
    store : Store
    key : str
    names : collection of str, optional
        Arrays to read, of which those that the object lacks are left out; all, if not given.

    Raises
    ------
    StoreError
        If the object is missing, or not what was written.
    """
    try:
        head, start, data = _read_head(store, key)
        arrays = {}
        for name, dtype, shape, size, digest in head["arrays"]:
            if names is None or name in names:
                part = data[start : start + size]
                if len(part) < size:
                    part = store.read_range(key, start, size)[0] if size else b""
                if xxhash.xxh3_128_hexdigest(part) != digest:
                    raise StoreError(
                        f"{store.address(key)} is not what was written (the checksum of {name} "
                        "differs); delete it and run again"
                    )
                arrays[name] = np.frombuffer(zlib.decompress(part), dtype).reshape(shape)
            start += size
    except FileNotFoundError as error:
        raise StoreError(f"{store.address(key)} is missing; run again to have it made") from error
    return arrays


def has_part(store: Store, key: str, fingerprint: str) -> bool:
    """Whether an object with this fingerprint is in the store."""
    try:
        return bool(_read_head(store, key)[0]["fingerprint"] == fingerprint)
    except (FileNotFoundError, StoreError):
        return False


def _read_head(store: Store, key: str) -> tuple[dict, int, bytes]:
    """Head of an object, where its arrays begin, and the first bytes of the object."""
    try:
        data = store.read_range(key, 0, _GUESS)[0]
        size = int.from_bytes(data[len(_MAGIC) : _START], "little")
        if data.startswith(_MAGIC) and len(data) < _START + size:
            data = store.read_range(key, 0, _START + size)[0]
        head = json.loads(data[_START : _START + size])
        if data.startswith(_MAGIC) and {"arrays", "fingerprint"} <= head.keys():
            return head, _START + size, data
    except (ValueError, AttributeError, EOFError):
        pass
    raise StoreError(f"{store.address(key)} was damaged; delete it and run again")
