"""Arrays in folders of N5 and Zarr (2 and 3), with tensorstore.

N5 lists its axes in the order x, y, z, Zarr in the order of the array: the last three are z, y, x,
and an index (``T0``, ``C1``) selects along each axis before them. Chunks that are absent are the
format's fill.
"""

from __future__ import annotations

import math
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

    absent = (0, 0)

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
        self._spec = {"driver": driver, "kvstore": store.kvstore(folder)}
        self._reversed = driver == "n5"
        if math.prod(chunk) > 1 << 32:
            raise ValueError(f"its chunks have {chunk} voxels; save it in smaller chunks")
        context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._data = ts.open(self._spec, open=True, read=True, context=context).result()
        self.dtype = self._data.dtype.numpy_dtype.name

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        box = (*self._first, z, y, x)
        found = self._data[tuple(box[::-1])].T if self._reversed else self._data[box]
        return np.ascontiguousarray(found.read().result())

    def close(self) -> None:
        """Nothing is held open."""
