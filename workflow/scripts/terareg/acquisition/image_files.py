"""Layout of image files: TIFF of one page or many, and PNG; one sample of 8 or 16 bits per pixel.

An array in a file that holds many (:mod:`terareg.storage.part_names`) counts as a file of pages.

Standard library only, so that a workflow can ask for the size of tiles while it is being parsed;
where its tiles lie in such files, the package that reads them is imported.
Only headers and directories are read here; :mod:`terareg.acquisition.plane_files` reads pixels.
"""

from __future__ import annotations

import re
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePosixPath

from terareg.core.errors import AcquisitionError
from terareg.storage.foreign import reason
from terareg.storage.part_arrays import part_facts
from terareg.storage.part_names import split_part
from terareg.storage.store import Store
from terareg.storage.tiff import CAMERA, ObjectFile, Tiff
from terareg.storage.tiff_planes import TiffNotes, check_upright, check_values, find_planes

#: what a file holds: its rows and columns, and its type
Kind = tuple[tuple[int, int], str]
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
_KEPT_FILES = 256
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_STRIP_STARTS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _PREDICTOR = 273, 274, 277, 279, 317
_PHOTOMETRIC, _HEADER_BYTES = 262, 8
_TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT = 324, 325, 339
_TAGS = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER, _STRIP_STARTS, _ORIENTATION, _SAMPLES,
    _STRIP_BYTES, _PREDICTOR, _PHOTOMETRIC, _TILE_STARTS, _TILE_BYTES, _SAMPLE_FORMAT,
}  # fmt: skip
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


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
        Byte at which the rows begin if they lie uncompressed, one after the other; else None.
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
    """A page of a TIFF: offset of its directory, and of its pixels from those of the directory."""

    directory: int
    skip: int = 0


def read_layout(store: Store, key: str) -> PlaneLayout:
    """Read what an image file holds, from its header.

    Raises
    ------
    AcquisitionError
        If the file is empty, truncated, no TIFF or PNG, or not one plane of 8 or 16 bit integers.
    """
    try:
        with ObjectFile(store, key) as file:
            layout = layout_of(file, key)
            _check_described(file, key, layout)
            return layout
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def read_pages(store: Store, key: str, part: tuple[int, int] | None = None) -> list[PlaneLayout]:
    """Read what every page of a TIFF holds, from its directories.

    In a file of several channels the pages of the second follow those of the first, in whatever
    order they lie in the file.

    Parameters
    ----------
    store : Store
    key : str
    part : (first, last), optional
        Pages that are to be used; they must be of one channel.

    Raises
    ------
    AcquisitionError
        As :func:`read_layout`, and if the file holds several times, or several channels without
        ``part``.
    """
    if split_part(key) is not None:
        layout, depth = _part_layout(store, key)
        return [layout] * depth
    try:
        with ObjectFile(store, key, ranged=True) as file:
            pages = _pages(file, key)
            _check_one_channel(pages, key, part)
            return [layout_of(file, key, page) for page in range(len(pages.pages))]
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def estimate_pages(
    store: Store, key: str, part: tuple[int, int] | None = None
) -> tuple[PlaneLayout, int]:
    """What an image file holds, and about how many planes (exactly 1 if there is just one).

    On S3, where looking at every page takes a request, the number of uncompressed pages is
    estimated from the size of the file. With ``part``, see :func:`read_pages`.
    """
    if split_part(key) is not None:
        return _part_layout(store, key)
    try:
        with ObjectFile(store, key, ranged=True) as file:
            first = layout_of(file, key, 0, believed=True)
            if store.is_s3 and first.more and not first.compressed:
                return first, max(2, file.size // first.image_bytes)
            pages = _pages(file, key)
            _check_one_channel(pages, key, part)
            return first, len(pages.pages)
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def _part_layout(store: Store, key: str) -> tuple[PlaneLayout, int]:
    """Layout of the planes of an array in a file, and their number."""
    facts = part_facts(store, key, AcquisitionError, counted=False)
    if facts.dtype not in ("uint8", "uint16"):
        raise AcquisitionError(
            f"{key} is {facts.dtype}, but tiles have unsigned integers of 8 or 16 bits; convert it"
        )
    if facts.is_empty:
        raise AcquisitionError(
            f"{key} has a shape but no values, so it was never written; remove the tile, or save "
            "it again"
        )
    return PlaneLayout(facts.shape[1:], facts.dtype, None, "<", True, more=True), facts.shape[0]


def check_kind(kind: Kind, key: str, expected: Kind) -> None:
    """Raise :class:`AcquisitionError` if a file does not have the expected shape and dtype."""
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
    """The error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return AcquisitionError(
            f"{key} has disappeared since the acquisition was indexed; copy it back or run "
            "index_acquisition again"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return AcquisitionError(f"{key} cannot be read ({reason}); copy it again")


def layout_of(
    file: ObjectFile, key: str, page: int | None = None, *, believed: bool = False
) -> PlaneLayout:
    """Layout of an open file that must hold one plane, or of a page of a TIFF.

    With ``believed``, page 0 is read without looking for other pages.
    """
    if file.get(0, 8) == PNG_SIGNATURE:
        return _png_layout(file, key)
    try:
        tiff = _open(file, key)
        if page is None or believed:
            return _tiff_layout(tiff, key, _Page(tiff.first), alone=page is None)
        pages = _pages(file, key).pages
        if page >= len(pages):
            raise AcquisitionError(
                f"{key} has {len(pages)} pages but page {page} (counted from 0) is needed; copy "
                "it again, or run index_acquisition again"
            )
        return _tiff_layout(tiff, key, pages[page], alone=False)
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
        f"{key} {what}, but planes must be TIFF or PNG files with one image of unsigned 8 or 16 "
        "bit integers, one per pixel; convert or remove it"
    )


def _refused(key: str, why: str) -> AcquisitionError:
    """The error for a file whose metadata contradict its pages."""
    text = f"{key} {why[3:]}" if why.startswith("it ") else f"{key}: {why}"
    return AcquisitionError(text if "; " in why else f"{text}; copy it again")


def _check_described(file: ObjectFile, key: str, layout: PlaneLayout) -> None:
    """Raise if the description of a TIFF of one plane contradicts its pixels."""
    if layout.directory:
        tiff = _open(file, key)
        try:
            check_values(tiff.description(tiff.first), layout.kind)
        except ValueError as error:
            raise _refused(key, reason(error)) from error


def _stated_kind(tags: dict[int, tuple[int, ...]]) -> Kind:
    """Rows, columns and type of a page, whether or not tiles may have them."""
    word = {2: "int", 3: "float"}.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "uint")
    shape = (tags.get(_HEIGHT, (0,))[0], tags.get(_WIDTH, (0,))[0])
    return shape, f"{word}{tags.get(_BITS, (1,))[0]}"


def _png_layout(file: ObjectFile, key: str) -> PlaneLayout:
    header = file.get(8, 21)
    if len(header) < 21 or file.get(file.size - 8, 4) != b"IEND":
        raise _truncated(key, file.size)
    width, height, bits, colour = struct.unpack(">IIBB", header[8:18])
    if colour != 0 or bits not in (8, 16):
        raise _foreign(key, f"is a PNG of colour type {colour} with {bits} bits")
    return PlaneLayout((height, width), f"uint{bits}", None, ">", True)


# ---------------------------------------------------------------------- TIFF
def _open(file: ObjectFile, key: str) -> Tiff:
    if len(file.get(0, 16)) < 16:
        raise _truncated(key, file.size)
    try:
        return Tiff.open(file)
    except ValueError as error:
        raise _foreign(key, "is not a TIFF or PNG file") from error


def _tiff_layout(tiff: Tiff, key: str, page: _Page, *, alone: bool) -> PlaneLayout:
    size = tiff.file.size
    tags = tiff.tags(page.directory, _TAGS)
    following = tiff.following(page.directory)

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
    if value(_PHOTOMETRIC, 1) == 0:
        raise _foreign(key, "has inverted grey values (WhiteIsZero)")
    try:
        check_upright(value(_ORIENTATION, 1))
    except ValueError as error:
        raise _refused(key, reason(error)) from error
    compressed = value(_COMPRESSION, 1) != 1
    tiled = _TILE_STARTS in tags
    starts = tags.get(_TILE_STARTS if tiled else _STRIP_STARTS, ())
    counts = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    image_bytes = shape[0] * shape[1] * bits // 8
    if not counts and not compressed and len(starts) == 1:
        counts = (image_bytes,)
    if not starts or len(starts) != len(counts):
        raise _foreign(key, "is a TIFF without a table of strips")
    if min(starts) < _HEADER_BYTES:
        raise _foreign(key, "has pixels that begin in the header of the file")
    if min(counts) == 0:
        raise AcquisitionError(
            f"{key}: {sum(n == 0 for n in counts)} of its {len(counts)} parts were never written; "
            "copy it again, or delete it and set input.missing_planes: interpolate"
        )
    if max(start + count for start, count in zip(starts, counts)) + page.skip > size:
        raise _truncated(key, size)
    if not compressed and sum(counts) < image_bytes:
        raise _truncated(key, size)
    if alone and not compressed:
        _check_alone(tiff, key, image_bytes)
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
        shape, f"uint{bits}", data_start, tiff.order, compressed, page.directory, following != 0
    )


@dataclass(frozen=True)
class _Pages:
    """Pages of a file, channel after channel."""

    pages: tuple[_Page, ...]
    channels: int = 1


_pages_of: OrderedDict[tuple, _Pages] = OrderedDict()
_pages_lock = threading.Lock()


def _check_one_channel(pages: _Pages, key: str, part: tuple[int, int] | None) -> None:
    """Raise if the pages of a file, or a part of them, are of several channels."""
    if pages.channels == 1:
        return
    depth = len(pages.pages) // pages.channels
    if part is None or part[0] // depth != part[1] // depth:
        raise AcquisitionError(
            f"{key} contains {pages.channels} channels of {depth} planes; list it in a table "
            f"(input.kind: table) with z_first and z_last of each channel (0 to {depth - 1}, "
            f"{depth} to {2 * depth - 1}, ...), or write each channel of a tile to a file of its "
            "own"
        )


def _pages(file: ObjectFile, key: str) -> _Pages:
    """All pages of a TIFF; cached, because a directory is found only through the previous one."""
    name = file.state
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


def _find_pages(file: ObjectFile, key: str) -> _Pages:
    if file.get(0, 8) == PNG_SIGNATURE:
        return _Pages((_Page(0),))
    tiff = _open(file, key)
    try:
        offsets = list(tiff.directories())
        notes = TiffNotes(
            PurePosixPath(key).name,
            len(offsets),
            tiff.description(tiff.first),
            descriptions=lambda: (tiff.description(offset) for offset in offsets),
            kind=_stated_kind(tiff.tags(tiff.first, _TAGS)),
            camera=lambda: (tiff.description(offset, CAMERA) for offset in offsets),
        )
        planes = find_planes(notes)
    except struct.error:
        raise
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = reason(error)
        if why.startswith("its list of pages is circular"):
            raise AcquisitionError(f"{key} is damaged ({why}); copy it again") from error
        raise _refused(key, why) from error
    if planes.companions:
        raise AcquisitionError(
            f"{key} is one of several files of an OME-TIFF (another is {planes.companions[0]!r}) "
            "and contains only part of its planes; give the folder of the planes, or write each "
            "tile to one file"
        )
    images = [page for _, page in planes.places]
    if planes.one_directory:
        # ImageJ writes a single directory where the file would be larger than 4 GiB
        one = _tiff_layout(tiff, key, _Page(tiff.first), alone=False)
        if one.data_start is None or one.data_start + len(images) * one.image_bytes > file.size:
            raise _truncated(key, file.size)
        return _Pages(
            tuple(_Page(tiff.first, k * one.image_bytes) for k in images), planes.channels
        )
    return _Pages(tuple(_Page(offsets[page]) for page in images), planes.channels)


def _check_alone(tiff: Tiff, key: str, image_bytes: int) -> None:
    """Raise if a file of one directory says that it holds more images, and is large enough."""
    if tiff.file.size < 2 * image_bytes:
        return
    match = re.search(r"^images=(\d{1,9})\s*$", tiff.description(tiff.first), re.M)
    if match and int(match[1]) > 1:
        raise _foreign(key, f"is a TIFF of {match[1]} images")
