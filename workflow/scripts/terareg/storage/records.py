"""Records: small JSON files that say what was made, from what, and that it is complete.

A record is written last and atomically, when all that it names is on the disk
(:mod:`terareg.storage.durable`). Its ``fingerprint`` covers the code, the settings and the content
of everything it was made of; work is skipped only if a record with the same fingerprint exists
together with the objects that it names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import numpy as np
import xxhash

from terareg.core.errors import StoreError, TeraregError
from terareg.core.parallel import map_items
from terareg.core.table_cells import to_cell
from terareg.storage.durable import make_durable
from terareg.storage.store import Store, write_atomic

_Made = TypeVar("_Made")

#: threads that read small objects
_READERS = 8


def to_json(data: Any) -> bytes:
    """Serialise deterministically: sorted keys, two spaces, final newline, NaN as null."""
    text = json.dumps(_plain(data), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write ``data`` to a local file, atomically, in the form of :func:`to_json`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(data))


def write_table(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], number: str = ".9g"
) -> None:
    """Write rows with the keys of the first as TSV, atomically.

    ``number`` is the format of floats; None is written as an empty cell, and text as one that no
    spreadsheet takes for a formula, see :func:`terareg.core.table_cells.to_cell`.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    columns = list(rows[0])
    writer.writerow(columns)
    for row in rows:
        values = (row[column] for column in columns)
        writer.writerow(_cell(value, number) for value in values)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


def _cell(value: Any, number: str) -> str:
    if value is None:
        return ""
    return format(value, number) if isinstance(value, float) else to_cell(str(value))


def read_table(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Rows of a file of :func:`write_table` as text, keyed by the names in its first line."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a local JSON file; an unreadable one is a :class:`StoreError` that names it."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); delete it and run again") from error


def read_json_as(
    path: str | os.PathLike[str],
    make: Callable[[Any], _Made],
    what: tuple[str, str],
    error: type[TeraregError],
) -> _Made:
    """What ``make`` makes of a JSON file; ``error`` names a file of another kind.

    Parameters
    ----------
    path : path
    make : callable
    what : tuple of str
        What the file should be ("a placement"), and the rule that writes it.
    error : type
        Raised for a file that ``make`` cannot read.
    """
    data = read_json(path)
    try:
        return make(data)
    except (KeyError, TypeError, AttributeError) as reason:
        kind, rule = what
        raise error(
            f"{path} is not {kind} ({type(reason).__name__}: {reason}); delete it and run "
            f"{rule} again"
        ) from reason


def fingerprint(*parts: Any) -> str:
    """SHA-256 over JSON-able values (code fingerprints, settings, hashes of inputs)."""
    return hashlib.sha256(to_json(list(parts))).hexdigest()


class ContentHash:
    """128-bit XXH3 of an array's dtype, shape and values in C order, computed part by part.

    It is as fast as memory and equal on all machines of the same byte order. It detects damage and
    change, not forgery.

    Parameters
    ----------
    dtype : numpy.dtype or anything that names one
    shape : sequence of int
        Of the whole array.
    """

    def __init__(self, dtype: Any, shape: Sequence[int]) -> None:
        head = f"{np.dtype(dtype).str}{tuple(int(n) for n in shape)}"
        self._digest = xxhash.xxh3_128(head.encode())

    def update(self, part: np.ndarray) -> None:
        """Add the next values."""
        self._digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._digest.hexdigest()


def content_hash(array: np.ndarray) -> str:
    """:class:`ContentHash` of a whole array."""
    digest = ContentHash(array.dtype, array.shape)
    digest.update(array)
    return digest.hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a local file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def object_facts(data: bytes) -> dict[str, Any]:
    """What a record says of an object: its ``bytes``, and their 128-bit XXH3."""
    return {"bytes": len(data), "xxh3": xxhash.xxh3_128_hexdigest(data)}


def write_files(store: Store, folder: str, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Write small objects by name below a folder; return what is known of each, by key."""
    for name, data in files.items():
        store.write(f"{folder}/{name}", data)
    return {f"{folder}/{name}": object_facts(data) for name, data in files.items()}


def damaged_objects(store: Store, objects: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys of the objects that are missing or not what was written.

    Parameters
    ----------
    store : Store
    objects : mapping of str to mapping
        What :func:`object_facts` said of each, by key.
    """

    def differs(key: str) -> bool:
        try:
            return object_facts(store.read(key)) != objects[key]
        except FileNotFoundError:
            return True

    found = map_items(differs, objects, workers=_READERS)
    return [key for key, differs in zip(objects, found) if differs]


def read_record(store: Store, key: str) -> dict[str, Any] | None:
    """Return the record at ``key``, None if it is absent or damaged."""
    try:
        record = json.loads(store.read(key))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(store: Store, key: str, record: Mapping[str, Any]) -> None:
    """Write a record. Call it when everything that the record names is in the store.

    All objects that this process has written are made durable before.
    """
    make_durable()
    store.write(key, to_json(record))


def remove_record(store: Store, key: str) -> None:
    """Remove a record, durably, before what it names is changed; nothing happens without one."""
    if store.exists(key):
        store.delete(key)
        store.settle_folder(key.rpartition("/")[0])


def is_done(store: Store, key: str, wanted: str) -> dict[str, Any] | None:
    """Return the record at ``key`` if it is still true, otherwise None.

    It is true if its ``fingerprint`` equals ``wanted`` and every object under its ``objects``
    (key to bytes) is in the store with that size.
    """
    record = read_record(store, key)
    if record is None or record.get("fingerprint") != wanted:
        return None
    for name, size in record.get("objects", {}).items():
        if store.size(name) != size:
            return None
    return record


def _plain(value: Any) -> Any:
    if type(value) in (str, int, bool, NoneType):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
