"""Tiles in CZI files of Zeiss microscopes, with czifile.

A CZI holds images of one plane each ("subblocks"), with a start and a size along X and Y in the
pixels of the whole scan, and indices along other dimensions: Z, C (channel), T, S (scene), M (tile
of a mosaic), V (view of a light sheet), I (side of the illumination) and others. A part such as
``S0:M3:C1`` is the stack over Z of the subblocks with these indices; reduced copies are left out.

References
----------
ZEISS, "CZI file format specification"; compressions 5 and 6 as in libCZI.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import czifile
import imagecodecs
import numpy as np

from terareg.storage.foreign import check_xml, short
from terareg.storage.part_names import without_indices
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile

_RAW, _JPEG, _LZW, _JPEG_XR, _ZSTD, _ZSTD_PACKED = 0, 1, 2, 4, 5, 6
_DTYPES = {"u1": "uint8", "<u2": "uint16"}
#: dimensions and their indices, sorted
Indices = tuple[tuple[str, int], ...]
# number along Z, dimensions by their names, entry of the directory
_Block = tuple[int, dict[str, Any], Any]
_KEPT_FILES, _METADATA_BYTES = 8, 256 * 2**20

_indices: OrderedDict[tuple[str, int, str], CziIndex] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class CziStack:
    """Subblocks of one stack.

    Attributes
    ----------
    planes : dict of int to directory entry
        By their index along Z.
    place : (y, x)
        First pixel, in pixels of the whole scan.
    shape : (y, x)
    """

    planes: Mapping[int, Any]
    place: tuple[int, int]
    shape: tuple[int, int]


@dataclass(frozen=True)
class CziIndex:
    """All stacks of a file, by their indices such as ``(("C", 0), ("M", 3))``, sorted.

    Attributes
    ----------
    stacks : mapping
    metadata : str
        XML.
    """

    stacks: Mapping[Indices, CziStack]
    metadata: str


def read_index(store: Store, key: str) -> CziIndex:
    """The stacks of a file; kept, because a file may have 100 000 subblocks."""
    with ObjectFile(store, key, ranged=True) as file:
        with _lock:
            if file.state in _indices:
                _indices.move_to_end(file.state)
                return _indices[file.state]
        found = _index(file)
        with _lock:
            _indices[file.state] = found
            while len(_indices) > _KEPT_FILES:
                _indices.popitem(last=False)
        return found


def _index(file: ObjectFile) -> CziIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with czifile.CziFile(file, multifile=False, detectmosaic=False) as czi:
            if czi.header.file_part:
                raise ValueError("it is part of a set of files; give the first file of the set")
            entries = czi.subblock_directory
            text = czi.metadata(raw=True) if czi.header.metadata_position else ""
    data = (text or "").encode()
    if len(data) > _METADATA_BYTES:
        raise ValueError(f"its metadata have {len(data)} bytes")
    check_xml(data)
    groups: dict[Indices, list[_Block]] = {}
    for entry in entries:
        sizes = {d.dimension: d for d in entry.dimension_entries}
        if not {"X", "Y"} <= set(sizes):
            raise ValueError("a subblock without X and Y")
        reduced = any(sizes[a].stored_size != sizes[a].size for a in "XY")
        if entry.pyramid_type or reduced:
            continue
        deep = [a for a, d in sizes.items() if a not in "XY" and d.size > 1]
        if deep:
            raise ValueError(f"a subblock spans several positions along {deep[0]}")
        if entry.file_part:
            raise ValueError("some of its images are in other files of a set; save it as one file")
        rest = tuple(sorted((a, int(d.start)) for a, d in sizes.items() if a not in "XYZ"))
        z = int(sizes["Z"].start) if "Z" in sizes else 0
        groups.setdefault(rest, []).append((z, sizes, entry))
    if not groups:
        raise ValueError("it contains no image")
    return CziIndex({rest: _stack(rest, own) for rest, own in sorted(groups.items())}, text or "")


def _stack(rest: Indices, blocks: list[_Block]) -> CziStack:
    planes: dict[int, Any] = {}
    places = {(s["Y"].start, s["X"].start, s["Y"].size, s["X"].size) for _, s, _ in blocks}
    name = ":".join(f"{a}{n}" for a, n in rest)
    if len(places) > 1:
        raise ValueError(f"the planes of {name or 'its image'} are at {len(places)} positions")
    for z, _, entry in blocks:
        if z in planes:
            raise ValueError(f"plane {z} of {name or 'its image'} occurs twice")
        planes[z] = entry
    y, x, height, width = places.pop()
    return CziStack(planes, (int(y), int(x)), (int(height), int(width)))


def open_array(store: Store, file: str, part: str) -> CziArray:
    """Open a stack; see :func:`terareg.storage.part_arrays.open_part`."""
    rest, asked = without_indices(part)
    if rest:
        raise ValueError(f"{short(rest)} is not a dimension and index such as C0")
    return CziArray(store, file, asked)


class CziArray:
    """A stack; attributes are those of :class:`terareg.storage.part_arrays.PartReader`."""

    def __init__(self, store: Store, file: str, asked: Mapping[str, int]) -> None:
        stacks = read_index(store, file).stacks
        key = tuple(sorted(asked.items()))
        if key not in stacks:
            there = [":".join(f"{a}{n}" for a, n in rest) for rest in stacks]
            raise ValueError(f"it has no stack {dict(key)}, only {', '.join(there[:6])}")
        self._stack = stacks[key]
        numbers = sorted(self._stack.planes)
        if numbers[-1] - numbers[0] + 1 != len(numbers):
            lack = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
            raise ValueError(
                f"{len(lack)} of its planes are missing (first: {lack[0]}); export it again"
            )
        self._first = numbers[0]
        self.shape: Any = (len(numbers), *self._stack.shape)
        types = {str(entry.dtype) for entry in self._stack.planes.values()}
        self.dtype = _DTYPES.get(types.pop(), "") if len(types) == 1 else ""
        if not self.dtype:
            raise ValueError("its pixels are not grey values of 8 or 16 bits; convert it")
        self.chunk: Any = (1, *self._stack.shape)
        self.absent, self.is_empty = (0, 0), False
        self._source = ObjectFile(store, file, ranged=True)
        self._file = czifile.CziFile(self._source, multifile=False)

    def read(self, z: slice, y: slice, x: slice) -> np.ndarray:
        shape = [part.stop - part.start for part in (z, y, x)]
        out = np.empty(shape, self.dtype)
        for target, number in zip(out, range(z.start + self._first, z.stop + self._first)):
            target[...] = self._plane(self._stack.planes[number])[y, x]
        return out

    def _plane(self, entry: Any) -> np.ndarray:
        # the entry is of another opening of the file: only where it lies is used
        segment = czifile.czifile.Segment(self._file._fh, entry.file_position).data()
        wanted = math.prod(self._stack.shape) * np.dtype(self.dtype).itemsize
        if not 0 <= segment.data_size <= 2 * wanted + (1 << 16):
            raise ValueError(f"a subblock has {segment.data_size} bytes instead of {wanted}")
        return _decode(segment.data(raw=True), entry.compression, self._stack.shape, self.dtype)

    def close(self) -> None:
        self._file.close()
        self._source.close()


def _decode(data: bytes, compression: int, shape: tuple[int, int], dtype: str) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if compression == _RAW:
        found: Any = data[:size]
    elif compression == _JPEG:
        found = imagecodecs.jpeg8_decode(data)
    elif compression == _LZW:
        found = imagecodecs.lzw_decode(data, out=size)
    elif compression == _JPEG_XR:
        found = imagecodecs.jpegxr_decode(data)
    elif compression in (_ZSTD, _ZSTD_PACKED):
        found = _zstd(data, size, packed=compression == _ZSTD_PACKED)
    else:
        raise ValueError(f"compression {compression} is unknown; save it uncompressed from ZEN")
    if isinstance(found, np.ndarray):
        image = found.reshape(found.shape[:2]) if found.ndim == 3 else found
        if (image.shape, image.dtype.name) != (shape, dtype):
            raise ValueError(f"a subblock decodes to {image.shape} {image.dtype}")
        return image
    return np.frombuffer(found, dtype, math.prod(shape)).reshape(shape)


def _zstd(data: bytes, size: int, *, packed: bool) -> bytes:
    """Zstandard; ``packed`` data have a small header and may keep low and high bytes apart."""
    apart = False
    if packed:
        start = data[0]
        if start not in (1, 3) or (start == 3 and data[1] != 1):
            raise ValueError(f"a header {data[:3]!r} of compressed data")
        apart = start == 3 and bool(data[2] & 1)
        data = data[start:]
    found = imagecodecs.zstd_decode(data, out=size)
    if len(found) != size:
        raise ValueError(f"a subblock has {len(found)} bytes instead of {size}")
    if apart:
        low, high = np.frombuffer(found, np.uint8).reshape(2, -1)
        return np.stack([low, high], axis=1).tobytes()
    return bytes(found)


def part_of(indices: Indices) -> str:
    """Part of a key that names a stack."""
    return "/".join(f"{axis}{number}" for axis, number in indices)
