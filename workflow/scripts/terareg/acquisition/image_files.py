"""Layout of image files: TIFF of one page or many, and PNG; one sample of 8 or 16 bits per pixel.

Standard library only, so that a workflow can ask for the size of tiles while it is being parsed.
Only headers and directories are read here; :mod:`terareg.acquisition.plane_files` reads pixels.
"""

from __future__ import annotations

import io
import os
import re
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass

from terareg.errors import AcquisitionError
from terareg.storage.store import Store

#: what a file holds: its rows and columns, and its type
Kind = tuple[tuple[int, int], str]
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
_HEAD_BYTES = 4096
_REMOTE_BYTES = 65536  # what a request fetches at least: directories often follow each other
_MAX_TAGS = 4096
_MAX_STRIPS = 1_000_000
_MAX_PAGES = 1_000_000
_KEPT_FILES = 256
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_STRIP_STARTS, _SAMPLES, _STRIP_BYTES, _PREDICTOR = 273, 277, 279, 317
_TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT, _DESCRIPTION = 324, 325, 339, 270
_TAGS = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER, _STRIP_STARTS, _SAMPLES, _STRIP_BYTES,
    _PREDICTOR, _TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT,
}  # fmt: skip
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# byte count and struct letter of the TIFF field types that hold whole numbers
_FIELD_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 16: (8, "Q")}


@dataclass(frozen=True)
class PlaneLayout:
    """What an image file, or a page of one, holds, and where.

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
    directory : int
        Byte at which the directory of a TIFF page begins.
    more : bool
        Whether another directory follows.
    """

    shape: tuple[int, int]
    dtype: str
    data_start: int | None
    byteorder: str
    compressed: bool
    directory: int = 0
    more: bool = False

    @property
    def kind(self) -> Kind:
        """Shape and dtype."""
        return self.shape, self.dtype

    @property
    def image_bytes(self) -> int:
        """Size of the pixels."""
        return self.shape[0] * self.shape[1] * (2 if self.dtype == "uint16" else 1)


@dataclass(frozen=True)
class _Page:
    """A page of a TIFF: where its directory is, and how far its pixels lie behind those of it."""

    directory: int
    skip: int = 0


class ImageFile(io.RawIOBase):
    """Random access to an object, also as a stream.

    On disk, bytes are read by position. On S3 the object is one download, or with ``ranged`` the
    parts that are asked for.

    Attributes
    ----------
    size : int
    stamp : str
        Changes with the content.
    bytes_read : int
        Bytes of pixels, or of whatever was fetched from S3.
    """

    def __init__(self, store: Store, key: str, *, ranged: bool = False) -> None:
        super().__init__()
        self._store, self._key = store, key
        self._data: bytes | None = None
        self._descriptor = -1
        self._window, self._window_start = b"", 0
        self._position = 0
        self.bytes_read = 0
        if not store.is_s3:
            self._descriptor = os.open(store.path(key), os.O_RDONLY)
            stat = os.fstat(self._descriptor)
            self.size, self.stamp = stat.st_size, str(stat.st_mtime_ns)
        elif ranged:
            self._window, entry = store.read_range(key, 0, _REMOTE_BYTES)
            self.size, self.stamp = entry.size, entry.stamp
            self.bytes_read = len(self._window)
        else:
            self._data = store.read(key)
            self.size, self.stamp = len(self._data), ""
            self.bytes_read = self.size

    def get(self, start: int, count: int) -> bytes:
        """Bytes from ``start``; fewer than ``count`` at the end of the file."""
        if self._data is not None:
            return self._data[start : start + count]
        offset = start - self._window_start
        if offset < 0 or offset + count > len(self._window):
            if self._descriptor >= 0:
                self._window = os.pread(self._descriptor, max(count, _HEAD_BYTES), start)
            else:
                wanted = min(max(count, _REMOTE_BYTES), max(0, self.size - start))
                self._window = self._fetch(start, wanted)
            self._window_start, offset = start, 0
        return self._window[offset : offset + count]

    def fill(self, start: int, view: memoryview) -> None:
        """Fill a buffer of bytes with what lies from ``start``."""
        if self._data is not None:
            view[:] = self._data[start : start + len(view)]
            return
        if self._descriptor < 0:
            data = self._fetch(start, len(view))
            if len(data) < len(view):
                raise EOFError("the file ends too early")
            view[:] = data
            return
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], start + done)
            if count == 0:
                raise EOFError("the file ends too early")
            done += count
        self.bytes_read += done

    def all(self) -> bytes:
        """The whole object."""
        if self._data is not None:
            return self._data
        out = bytearray(self.size)
        self.fill(0, memoryview(out))
        return bytes(out)

    def _fetch(self, start: int, count: int) -> bytes:
        if count <= 0:
            return b""
        data, _ = self._store.read_range(self._key, start, count)
        self.bytes_read += len(data)
        return data

    # ------------------------------------------------------------------ as a stream
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._position))
        if count <= _HEAD_BYTES:
            view[:count] = self.get(self._position, count)
            self.bytes_read += count if self._descriptor >= 0 else 0
        else:
            self.fill(self._position, view[:count])
        self._position += count
        return count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()


def read_layout(store: Store, key: str) -> PlaneLayout:
    """Read what an image file holds, from its header.

    Raises
    ------
    AcquisitionError
        If the file is empty, truncated, no TIFF or PNG, or not one plane of 8 or 16 bit integers.
    """
    try:
        with ImageFile(store, key) as file:
            return layout_of(file, key)
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def read_pages(store: Store, key: str) -> list[PlaneLayout]:
    """Read what every page of a TIFF holds, from its directories.

    Raises
    ------
    AcquisitionError
        As :func:`read_layout`, and if the file holds several channels or times.
    """
    try:
        with ImageFile(store, key, ranged=True) as file:
            return [layout_of(file, key, page) for page in range(len(_pages(file, key)))]
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def estimate_pages(store: Store, key: str) -> tuple[PlaneLayout, int]:
    """What an image file holds, and about how many planes (exactly 1 if there is just one).

    On S3, where looking at every page takes a request, the number of pages that are not
    compressed follows from the size of the file.
    """
    try:
        with ImageFile(store, key, ranged=True) as file:
            first = layout_of(file, key, 0, believed=True)
            if store.is_s3 and first.more and not first.compressed:
                return first, max(2, file.size // first.image_bytes)
            return first, len(_pages(file, key))
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def check_kind(kind: Kind, key: str, expected: Kind) -> None:
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


def unreadable(key: str, error: Exception) -> AcquisitionError:
    """What is said of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return AcquisitionError(
            f"{key} is gone since the acquisition was indexed; copy it back or run "
            "index_acquisition again"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return AcquisitionError(f"{key} cannot be read ({reason}); copy it again")


def layout_of(
    file: ImageFile, key: str, page: int | None = None, *, believed: bool = False
) -> PlaneLayout:
    """Layout of an open file that must hold one plane, or of a page of a TIFF.

    With ``believed``, page 0 is taken without looking for others.
    """
    if file.get(0, 8) == PNG_SIGNATURE:
        return _png_layout(file, key)
    try:
        order, big, first = _tiff_header(file, key)
        if page is None or believed:
            return _tiff_layout(file, key, order, big, _Page(first), alone=page is None)
        pages = _pages(file, key)
        if page >= len(pages):
            raise AcquisitionError(
                f"{key} has {len(pages)} pages but page {page} (counted from 0) was asked for; "
                "copy it again, or run index_acquisition again"
            )
        return _tiff_layout(file, key, order, big, pages[page], alone=False)
    except struct.error as error:
        raise _truncated(key, file.size) from error


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


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


def _png_layout(file: ImageFile, key: str) -> PlaneLayout:
    header = file.get(8, 21)
    if len(header) < 21 or file.get(file.size - 8, 4) != b"IEND":
        raise _truncated(key, file.size)
    width, height, bits, colour = struct.unpack(">IIBB", header[8:18])
    if colour != 0 or bits not in (8, 16):
        raise _foreign(key, f"is a PNG of colour type {colour} with {bits} bits")
    return PlaneLayout((height, width), f"uint{bits}", None, ">", True)


# ---------------------------------------------------------------------- TIFF
def _tiff_header(file: ImageFile, key: str) -> tuple[str, bool, int]:
    """Byte order, whether it is BigTIFF, and the offset of the first directory."""
    head = file.get(0, 16)
    if len(head) < 16:
        raise _truncated(key, file.size)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise _foreign(key, "is no TIFF or PNG file")
    order = "<" if file.get(0, 1) == b"I" else ">"
    big = file.get(0, 4)[2:].strip(b"\0") == b"+"
    (offset,) = _unpack(file, order, "Q" if big else "I", 8 if big else 4)
    return order, big, offset


def _tiff_layout(
    file: ImageFile, key: str, order: str, big: bool, page: _Page, *, alone: bool
) -> PlaneLayout:
    tags, following = _read_directory(file, order, big, page.directory)

    def value(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    shape = (value(_HEIGHT, 0), value(_WIDTH, 0))
    samples, bits, kind = value(_SAMPLES, 1), value(_BITS, 1), value(_SAMPLE_FORMAT, 1)
    if min(shape) < 1:
        raise _foreign(key, "is a TIFF without an image size")
    if following and alone:
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
    if max(start + count for start, count in zip(starts, counts)) + page.skip > file.size:
        raise _truncated(key, file.size)
    if not compressed and sum(counts) < image_bytes:
        raise _truncated(key, file.size)
    plain = (
        not compressed
        and not tiled
        and value(_FILL_ORDER, 1) == 1
        and value(_PREDICTOR, 1) == 1
        # a program that writes one directory for many images may count the bytes of all of them
        and (sum(counts) == image_bytes or (len(counts) == 1 and not alone))
        and all(start + n == after for start, n, after in zip(starts, counts, starts[1:]))
    )
    if page.skip and not plain:
        raise _foreign(key, "is a TIFF of several images with one directory that are not plain")
    data_start = starts[0] + page.skip if plain else None
    return PlaneLayout(
        shape, f"uint{bits}", data_start, order, compressed, page.directory, following != 0
    )


_pages_of: OrderedDict[tuple, tuple[_Page, ...]] = OrderedDict()
_pages_lock = threading.Lock()


def _pages(file: ImageFile, key: str) -> tuple[_Page, ...]:
    """All pages of a TIFF; remembered, because a directory is found only through the one before."""
    name = (file._store.url, key, file.size, file.stamp)
    with _pages_lock:
        if name in _pages_of:
            _pages_of.move_to_end(name)
            return _pages_of[name]
    try:
        found = _find_pages(file, key)
    except struct.error as error:
        raise _truncated(key, file.size) from error
    with _pages_lock:
        _pages_of[name] = found
        while len(_pages_of) > _KEPT_FILES:
            _pages_of.popitem(last=False)
    return found


def _find_pages(file: ImageFile, key: str) -> tuple[_Page, ...]:
    if file.get(0, 8) == PNG_SIGNATURE:
        return (_Page(0),)
    order, big, first = _tiff_header(file, key)
    entry_bytes, count_letter, word = (20, "Q", "Q") if big else (12, "H", "I")
    offsets, offset, seen = [], first, set()
    while offset:
        if offset in seen or len(offsets) >= _MAX_PAGES:
            raise AcquisitionError(
                f"{key} is damaged (its pages go round in a circle); copy it again"
            )
        seen.add(offset)
        offsets.append(offset)
        (count,) = _unpack(file, order, count_letter, offset)
        if count > _MAX_TAGS:
            raise struct.error("too many tags")
        after = offset + struct.calcsize(f"={count_letter}") + count * entry_bytes
        (offset,) = _unpack(file, order, word, after)
    noted = _read_description(file, order, big, first)
    images = _check_one_channel(noted, key)
    if len(offsets) == 1 and images > 1:
        # ImageJ writes a single directory where the file would be larger than 4 GiB
        one = _tiff_layout(file, key, order, big, _Page(first), alone=False)
        if one.data_start is None or one.data_start + images * one.image_bytes > file.size:
            raise _truncated(key, file.size)
        return tuple(_Page(first, k * one.image_bytes) for k in range(images))
    return tuple(map(_Page, offsets))


def _check_one_channel(description: str, key: str) -> int:
    """Images that ImageJ says the file holds (1 if it does not); several channels are an error."""
    numbers: dict[str, int] = {}
    if description.startswith("ImageJ="):
        found = re.findall(r"^(images|channels|frames|slices)=(\d{1,9})$", description, re.M)
        numbers = {name: int(value) for name, value in found}
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if pixels:
        names = {"C": "channels", "T": "frames", "Z": "slices"}
        found = re.findall(r'\bSize([CTZ])="(\d{1,9})"', pixels[0])
        numbers = {names[axis]: int(value) for axis, value in found}
        if len(set(re.findall(r'<(?:\w+:)?UUID\b[^>]*\bFileName="([^"]*)"', description))) > 1:
            raise AcquisitionError(
                f"{key} is one of several files of an OME-TIFF; give the folder of the planes, or "
                "write each tile into one file"
            )
    if numbers.get("channels", 1) > 1:
        raise AcquisitionError(
            f"{key} holds {numbers['channels']} channels; write each channel of a tile into a file "
            "of its own"
        )
    if min(numbers.get("frames", 1), numbers.get("slices", 1)) > 1:
        raise AcquisitionError(
            f"{key} holds {numbers['frames']} times of {numbers['slices']} planes; write one time "
            "of a tile into a file of its own"
        )
    return numbers.get("images", 1)


def _unpack(file: ImageFile, order: str, letters: str, start: int) -> tuple[int, ...]:
    form = order + letters
    return struct.unpack(form, file.get(start, struct.calcsize(form)))


def _entries(file: ImageFile, order: str, big: bool, offset: int):
    """Entries of a TIFF directory: (tag, field type, number of values, place of the values).

    The values stand in the entry itself if they fit, else at the offset that it holds.
    """
    entry_bytes, word = (20, "Q") if big else (12, "I")
    (count,) = _unpack(file, order, "Q" if big else "H", offset)
    if count > _MAX_TAGS:
        raise struct.error("too many tags")
    start = offset + (8 if big else 2)
    for index in range(count):
        place = start + index * entry_bytes
        yield *_unpack(file, order, "HH" + word, place), place + (12 if big else 8)


def _read_directory(
    file: ImageFile, order: str, big: bool, offset: int
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Whole-number tags of a TIFF directory, and the offset of the next one (0 if none)."""
    entry_bytes, inline_bytes, word = (20, 8, "Q") if big else (12, 4, "I")
    tags: dict[int, tuple[int, ...]] = {}
    after = offset + (8 if big else 2)
    for tag, kind, number, at in _entries(file, order, big, offset):
        after += entry_bytes
        if tag not in _TAGS or tag in tags or kind not in _FIELD_TYPES:
            continue
        if not 1 <= number <= _MAX_STRIPS:
            continue
        width, letter = _FIELD_TYPES[kind]
        if number * width > inline_bytes:
            (at,) = _unpack(file, order, word, at)
        tags[tag] = _unpack(file, order, f"{number}{letter}", at)
    (following,) = _unpack(file, order, word, after)
    return tags, following


def _read_description(file: ImageFile, order: str, big: bool, offset: int) -> str:
    for tag, kind, number, at in _entries(file, order, big, offset):
        if tag == _DESCRIPTION and kind == 2 and number > (8 if big else 4):
            (at,) = _unpack(file, order, "Q" if big else "I", at)
            text = file.get(at, min(number, _MAX_STRIPS))
            return text.split(b"\0", 1)[0].decode("utf-8", "replace")
    return ""
