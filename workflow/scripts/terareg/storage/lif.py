"""Stacks in LIF files of Leica microscopes, with liffile.

A part such as ``0:M3:C1`` is the stack over Z of image 0 (in the order of the file), tile 3 of its
mosaic, channel 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import liffile
import numpy as np

from terareg.storage.foreign import short
from terareg.storage.part_names import without_indices
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile


def open_file(store: Store, key: str) -> tuple[liffile.LifFile, ObjectFile]:
    """A LIF file, and what it is read through; close both."""
    source = ObjectFile(store, key, ranged=True)
    try:
        return liffile.LifFile(source, squeeze=False), source
    except BaseException:
        source.close()
        raise


def open_array(store: Store, file: str, part: str) -> LifArray:
    """Open a stack; see :func:`terareg.storage.part_arrays.open_part`."""
    number, indices = without_indices(part)
    if not re.fullmatch(r"\d{1,6}", number):
        raise ValueError(f"{short(number)} is not the number of an image")
    opened, source = open_file(store, file)
    try:
        return LifArray(opened, source, int(number), indices)
    except BaseException:
        opened.close()
        source.close()
        raise


class LifArray:
    """A stack; attributes are those of :class:`terareg.storage.part_arrays.PartReader`."""

    absent, is_empty = (0, 0), False

    def __init__(
        self, file: liffile.LifFile, source: ObjectFile, number: int, indices: Mapping[str, int]
    ) -> None:
        self._file, self._source, self._indices = file, source, dict(indices)
        if number >= len(file.images):
            raise ValueError(
                f"it contains {len(file.images)} images, so there is no image {number}"
            )
        self._image = file.images[number]
        sizes = dict(self._image.sizes)
        for axis, index in indices.items():
            if index >= sizes.get(axis, 0):
                raise ValueError(
                    f"axis {axis} of image {number} has {sizes.get(axis, 0)} positions"
                )
        left = [a for a, n in sizes.items() if a not in "XYZ" and a not in indices and n > 1]
        if left or not {"X", "Y"} <= set(sizes):
            raise ValueError(
                f"image {number} has axes {short(list(sizes))}; give an index for each"
            )
        shape = (sizes.get("Z", 1), sizes["Y"], sizes["X"])
        frame = tuple(self._image.frames.frame_dims)
        if frame != ("Y", "X"):
            raise ValueError(f"image {number} stores planes of {short(list(frame))}, not y and x")
        self.shape: Any = shape
        self.chunk: Any = (1, *shape[1:])
        self.dtype = np.dtype(self._image.dtype).name

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        out = np.empty([part.stop - part.start for part in (z, y, x)], self.dtype)
        deep = "Z" in self._image.sizes
        for target, plane in zip(out, range(z.start, z.stop)):
            place = self._indices | ({"Z": plane} if deep else {})
            target[...] = self._image.frame(**place)[y, x]
        return out

    def close(self) -> None:
        self._file.close()
        self._source.close()
