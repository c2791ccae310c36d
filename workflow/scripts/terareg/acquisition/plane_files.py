"""Image files of single planes: TIFF (any compression) and PNG, 8 or 16 bits, one sample.

The layout of a file is read from its first kilobytes. Rows of an uncompressed TIFF are then read
straight from their place in the file; anything else is decoded whole.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

import imagecodecs
import numpy as np
import tifffile

from terareg.errors import AcquisitionError
from terareg.storage import traffic
from terareg.storage.store import Store

DTYPES = ("uint8", "uint16")
_HEAD_BYTES = 4096
_MAX_TAGS = 4096
_MAX_STRIPS = 1_000_000
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_STRIP_STARTS, _SAMPLES, _STRIP_BYTES, _PREDICTOR = 273, 277, 279, 317
_TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT = 324, 325, 339
_TAGS = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER, _STRIP_STARTS, _SAMPLES, _STRIP_BYTES,
    _PREDICTOR, _TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT,
}  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# byte count and struct letter of the TIFF field types that hold whole numbers
_FIELD_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 16: (8, "Q")}
_NATIVE = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True)
class PlaneLayout:
    """What an image file holds, and where.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : str
        "uint8" or "uint16".
    data_start : int or None
        Byte at which uncompressed rows begin, one after the other; None if they do not.
    byteorder : str
        "<" or ">".
    compressed : bool
        Whether the size of the file depends on the content of the image.
    """

    shape: tuple[int, int]
    dtype: str
    data_start: int | None
    byteorder: str
    compressed: bool

    @property
    def kind(self) -> tuple[tuple[int, int], str]:
        """Shape and dtype."""
        return self.shape, self.dtype


class _File:
    """Random access to an object: by position on disk, from one download on S3."""

    def __init__(self, store: Store, key: str) -> None:
        self._data: bytes | None = None
        self._descriptor = -1
        if store.is_s3:
            self._data = store.read(key)
            self.size = len(self._data)
        else:
            self._descriptor = os.open(store.path(key), os.O_RDONLY)
            self.size = os.fstat(self._descriptor).st_size
        self.bytes_read = len(self._data or b"")
        self._head = b""

    def get(self, start: int, count: int) -> bytes:
        """Bytes from ``start``; fewer than ``count`` at the end of the file."""
        if self._data is not None:
            return self._data[start : start + count]
        if not self._head:
            self._head = os.pread(self._descriptor, _HEAD_BYTES, 0)
        if start + count <= len(self._head):
            return self._head[start : start + count]
        return os.pread(self._descriptor, count, start)

    def fill(self, start: int, out: np.ndarray) -> None:
        """Fill a C-contiguous array with the bytes from ``start``."""
        view = memoryview(out.reshape(-1).view(np.uint8))
        if self._data is not None:
            view[:] = self._data[start : start + len(view)]
            return
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], start + done)
            if count == 0:
                raise EOFError("the file ends too early")
            done += count
        self.bytes_read += done
        traffic.tell(read=done)

    def all(self) -> bytes:
        """The whole object."""
        if self._data is not None:
            return self._data
        out = np.empty(self.size, np.uint8)
        self.fill(0, out)
        return out.tobytes()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def read_layout(store: Store, key: str) -> PlaneLayout:
    """Read what an image file holds, from its header.

    Raises
    ------
    AcquisitionError
        If the file is empty, truncated, no TIFF or PNG, or not one plane of 8 or 16 bit integers.
    """
    try:
        with _File(store, key) as file:
            return _layout(file, key)
    except OSError as error:
        raise _unreadable(key, error) from error


def read_rows(
    store: Store,
    key: str,
    expected: tuple[tuple[int, int], str],
    rows: slice = slice(None),
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Read rows of a plane over their full width.

    Parameters
    ----------
    store : Store
    key : str
        Image file.
    expected : (shape, dtype)
        What the file must hold.
    rows : slice
        Without step.
    out : numpy.ndarray, optional
        C-contiguous array of the result's shape and dtype to read into.

    Returns
    -------
    rows : numpy.ndarray, shape (rows, columns)
        ``out``, if given.
    bytes_read : int
        Bytes of pixel data (or of the compressed file) that were read.

    Raises
    ------
    AcquisitionError
        If the file is absent, damaged, or of another shape or dtype.
    """
    shape, dtype = expected
    start, stop, _ = rows.indices(shape[0])
    if out is None:
        out = np.empty((stop - start, shape[1]), dtype)
    try:
        with _File(store, key) as file:
            layout = _layout(file, key)
            check_kind(layout.kind, key, expected)
            if layout.data_start is None:
                out[...] = _decode(file, key, expected)[start:stop]
            else:
                file.fill(layout.data_start + start * shape[1] * out.itemsize, out)
                if layout.byteorder != _NATIVE and out.itemsize > 1:
                    out.byteswap(inplace=True)
            return out, file.bytes_read
    except (OSError, EOFError) as error:
        raise _unreadable(key, error) from error


def check_kind(
    kind: tuple[tuple[int, int], str], key: str, expected: tuple[tuple[int, int], str]
) -> None:
    """Raise :class:`AcquisitionError` if a file has not the expected shape and dtype."""
    if kind[0] != tuple(expected[0]):
        raise AcquisitionError(
            f"{key} has {_size(kind[0])} pixels (y, x) but the other planes have "
            f"{_size(expected[0])}; copy it again, or delete it and set "
            "input.missing_planes: interpolate"
        )
    if kind[1] != expected[1]:
        raise AcquisitionError(
            f"{key} is {kind[1]} but the other planes are {expected[1]}; copy it again, or convert "
            "all planes to one type"
        )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _unreadable(key: str, error: Exception) -> AcquisitionError:
    if isinstance(error, FileNotFoundError):
        return AcquisitionError(
            f"{key} is gone since the acquisition was indexed; copy it back or run "
            "index_acquisition again"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return AcquisitionError(f"{key} cannot be read ({reason}); copy it again")


def _truncated(key: str, size: int) -> AcquisitionError:
    state = "is empty" if size == 0 else f"is truncated at {size} bytes"
    return AcquisitionError(
        f"{key} {state}; copy it again, or delete it and set input.missing_planes: interpolate"
    )


def _foreign(key: str, what: str) -> AcquisitionError:
    return AcquisitionError(
        f"{key} {what}, but planes must be TIFF or PNG files of one image with one unsigned 8 or "
        "16 bit integer per pixel; convert or remove it"
    )


def _layout(file: _File, key: str) -> PlaneLayout:
    head = file.get(0, 16)
    if len(head) < 16:
        raise _truncated(key, file.size)
    if head[:8] == _PNG_SIGNATURE:
        return _png_layout(file, key)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        try:
            return _tiff_layout(file, key)
        except struct.error as error:
            raise _truncated(key, file.size) from error
    raise _foreign(key, "is no TIFF or PNG file")


def _png_layout(file: _File, key: str) -> PlaneLayout:
    header = file.get(8, 21)
    if len(header) < 21 or file.get(file.size - 8, 4) != b"IEND":
        raise _truncated(key, file.size)
    width, height, bits, colour = struct.unpack(">IIBB", header[8:18])
    if colour != 0 or bits not in (8, 16):
        raise _foreign(key, f"is a PNG of colour type {colour} with {bits} bits")
    return PlaneLayout((height, width), f"uint{bits}", None, ">", True)


def _tiff_layout(file: _File, key: str) -> PlaneLayout:
    order = "<" if file.get(0, 1) == b"I" else ">"
    big = file.get(0, 4)[2:].strip(b"\0") == b"+"
    (offset,) = _unpack(file, order, "Q" if big else "I", 8 if big else 4)
    tags, following = _read_directory(file, order, big, offset)

    def value(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    shape = (value(_HEIGHT, 0), value(_WIDTH, 0))
    samples, bits, kind = value(_SAMPLES, 1), value(_BITS, 1), value(_SAMPLE_FORMAT, 1)
    if min(shape) < 1:
        raise _foreign(key, "is a TIFF without an image size")
    if following:
        raise _foreign(key, "is a TIFF of several images")
    if samples != 1 or bits not in (8, 16) or kind != 1:
        name = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "unknown")
        raise _foreign(key, f"is a TIFF of {samples} x {bits} bit {name} samples per pixel")
    compressed = value(_COMPRESSION, 1) != 1
    tiled = _TILE_STARTS in tags
    starts = tags.get(_TILE_STARTS if tiled else _STRIP_STARTS, ())
    counts = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    image_bytes = shape[0] * shape[1] * bits // 8
    if not counts and not compressed and len(starts) == 1:
        counts = (image_bytes,)
    if not starts or len(starts) != len(counts):
        raise _foreign(key, "is a TIFF without a table of its strips")
    if max(start + count for start, count in zip(starts, counts)) > file.size:
        raise _truncated(key, file.size)
    if not compressed and sum(counts) < image_bytes:
        raise _truncated(key, file.size)
    plain = (
        not compressed
        and not tiled
        and value(_FILL_ORDER, 1) == 1
        and value(_PREDICTOR, 1) == 1
        and sum(counts) == image_bytes
        and all(start + n == after for start, n, after in zip(starts, counts, starts[1:]))
    )
    return PlaneLayout(shape, f"uint{bits}", starts[0] if plain else None, order, compressed)


def _unpack(file: _File, order: str, letters: str, start: int) -> tuple[int, ...]:
    form = order + letters
    return struct.unpack(form, file.get(start, struct.calcsize(form)))


def _read_directory(
    file: _File, order: str, big: bool, offset: int
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Whole-number tags of a TIFF directory, and the offset of the next one (0 if none)."""
    entry_bytes, inline_bytes, word = (20, 8, "Q") if big else (12, 4, "I")
    (count,) = _unpack(file, order, "Q" if big else "H", offset)
    if count > _MAX_TAGS:
        raise struct.error("too many tags")
    start = offset + (8 if big else 2)
    tags = {}
    for index in range(count):
        place = start + index * entry_bytes
        tag, kind, number = _unpack(file, order, "HH" + word, place)
        if tag not in _TAGS or tag in tags or kind not in _FIELD_TYPES:
            continue
        if not 1 <= number <= _MAX_STRIPS:
            continue
        width, letter = _FIELD_TYPES[kind]
        at = place + (12 if big else 8)
        if number * width > inline_bytes:
            (at,) = _unpack(file, order, word, at)
        tags[tag] = _unpack(file, order, f"{number}{letter}", at)
    (following,) = _unpack(file, order, word, start + count * entry_bytes)
    return tags, following


def _decode(file: _File, key: str, expected: tuple[tuple[int, int], str]) -> np.ndarray:
    """Decode a whole image that is compressed, tiled or scattered over its file."""
    data = file.all()
    try:
        if data[:8] == _PNG_SIGNATURE:
            image = imagecodecs.png_decode(data)
        else:
            with tifffile.TiffFile(io.BytesIO(data), name=PurePosixPath(key).name) as tiff:
                image = tiff.pages.first.asarray(maxworkers=1)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever the damaged bytes lead them to
        raise AcquisitionError(
            f"{key} is damaged ({error}); copy it again, or delete it and set "
            "input.missing_planes: interpolate"
        ) from error
    if (image.shape, image.dtype.name) != (tuple(expected[0]), expected[1]):
        raise AcquisitionError(
            f"{key} decodes to {image.shape} {image.dtype}, but {expected[0]} {expected[1]} was "
            "stated in its header; copy it again"
        )
    return image
