"""Arrays in folders of N5 and Zarr (2 and 3), with tensorstore.

N5 lists its axes in the order x, y, z, Zarr in the order of the array: the last three are z, y, x,
and an index (``T0``, ``C1``) selects along each axis before them. Chunks that are absent are the
format's fill.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import tensorstore as ts

from terareg.storage.foreign import load_json, read_object, short
from terareg.storage.part_names import DRIVERS, without_indices
from terareg.storage.store import Store

_AXES = "TCZYX"


def open_array(store: Store, file: str, part: str) -> FolderArray:
    """Open an array; see :func:`terareg.storage.part_arrays.open_part`."""
    path, indices = without_indices(part)
    folder = (PurePosixPath(file) / path).as_posix()
    return FolderArray(store, folder, array_metadata(store, folder), indices)


def array_metadata(store: Store, folder: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the file that describes an array."""
    for name in DRIVERS:
        try:
            found = load_json(read_object(store, f"{folder}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        if isinstance(found, dict) and ("dimensions" in found or "shape" in found):
            return name, found
    raise ValueError(f"there is no array in {store.address(folder)}; correct the path")


class FolderArray:
    """An array; attributes are those of :class:`terareg.storage.part_arrays.PartReader`."""

    def __init__(
        self,
        store: Store,
        folder: str,
        described: tuple[str, dict[str, Any]],
        indices: dict[str, int],
    ) -> None:
        name, metadata = described
        driver = DRIVERS[name]
        if driver == "n5":
            sizes, chunk = metadata["dimensions"][::-1], metadata["blockSize"][::-1]
        else:
            sizes, chunk = metadata["shape"], metadata.get("chunks")
            chunk = chunk or metadata["chunk_grid"]["configuration"]["chunk_shape"]
        for each in (*sizes, *chunk):
            if isinstance(each, bool) or not isinstance(each, int) or not 1 <= each < 1 << 40:
                raise ValueError(f"a size of {short(each)}")
        above = _AXES[-len(sizes) : -3] if 3 < len(sizes) <= len(_AXES) else ""
        for axis, size in zip(above, sizes):
            if axis not in indices and size > 1:
                raise ValueError(
                    f"it has {size} positions along {axis}; choose one, as in {folder}:{axis}0"
                )
        self._first: Any = tuple(indices.pop(axis, 0) for axis in above)
        if indices:
            raise ValueError(f"it has no axis {short(list(indices))}; its shape is {sizes}")
        for axis, index, size in zip(above, self._first, sizes):
            if index >= size:
                raise ValueError(f"axis {axis} has positions 0 to {size - 1}, not {index}")
        # with more axes the shape stays as it is, and is refused
        kept = slice(-3, None) if above else slice(None)
        self.shape: Any = tuple(sizes[kept])
        self.chunk: Any = tuple(chunk[kept])
        counts = [-(-n // c) for n, c in zip(sizes, chunk)]
        self._chunks = math.prod(counts[kept])
        fixed = [str(i // c) for i, c in zip(self._first, chunk)]
        self._named = _Names(store, folder, (name, metadata), (fixed, len(sizes)))
        self._spec = {"driver": driver, "kvstore": store.kvstore(folder)}
        self._reversed = driver == "n5"
        if math.prod(chunk) > 1 << 32:
            raise ValueError(f"its chunks have {chunk} voxels; save it in smaller chunks")
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._data = ts.open(self._spec, open=True, read=True, context=context).result()
        self.dtype = self._data.dtype.numpy_dtype.name

    @property
    def absent(self) -> tuple[int, int]:
        """Chunks without an object, and all chunks."""
        return max(0, self._chunks - sum(1 for _ in self._named)), self._chunks

    @property
    def is_empty(self) -> bool:
        """Whether no chunk has an object; :class:`ValueError` if they have other names."""
        if next(iter(self._named), None) is not None:
            return False
        self._named.check_separator()
        return True

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        box = (*self._first, z, y, x)
        found = self._data[tuple(box[::-1])].T if self._reversed else self._data[box]
        return np.ascontiguousarray(found.read().result())

    def close(self) -> None:
        """Nothing is held open."""


class _Names:
    """Objects of the chunks of an array: all along its last three axes, at fixed places of others.

    Parameters
    ----------
    store, folder
    described : (str, dict)
        As of :func:`array_metadata`.
    axes : (list of str, int)
        Number of the chunk along each axis before the last three, and the number of axes.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        described: tuple[str, dict[str, Any]],
        axes: tuple[list[str], int],
    ) -> None:
        self._store, self._folder = store, folder
        name, metadata = described
        fixed, number = axes
        words = fixed + [r"\d+"] * (number - len(fixed))
        prefix = ""
        if DRIVERS[name] == "n5":
            words, self._sign = words[::-1], "/"
        elif DRIVERS[name] == "zarr":
            self._sign = metadata.get("dimension_separator", ".")
        else:
            keys = metadata.get("chunk_key_encoding", {"name": "default"})
            prefix = "c" if keys["name"] == "default" else ""
            self._sign = keys.get("configuration", {}).get("separator", "/" if prefix else ".")
        self._words = [*prefix, *words]

    def __iter__(self) -> Iterator[str]:
        """Keys of the objects that are there."""
        return self._matching(self._sign)

    def _matching(self, sign: str) -> Iterator[str]:
        pattern = re.compile(re.escape(f"{self._folder}/") + re.escape(sign).join(self._words))
        return (e.key for e in self._store.walk(self._folder) if pattern.fullmatch(e.key))

    def check_separator(self) -> None:
        """Raise :class:`ValueError` if chunks are there under names with another separator."""
        other = {"/": ".", ".": "/"}.get(self._sign, "/")
        if next(self._matching(other), None) is not None:
            raise ValueError(
                f"the names of its chunks have {other!r} between their numbers but its metadata "
                f"state {short(self._sign)}; correct the separator in the metadata"
            )
