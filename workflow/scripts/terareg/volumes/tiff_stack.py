"""Volumes in TIFF files: their planes, checked before a voxel is read (standard library only)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from terareg.storage.foreign import DEFLATE_RATIO, TEXT_BYTES, decode_text, read_object
from terareg.storage.store import Store
from terareg.storage.tiff import CAMERA, ObjectFile, Tiff
from terareg.storage.tiff_planes import Planes, TiffNotes, check_upright, find_planes

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER = 266
_STRIP_STARTS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _PLANAR = 273, 274, 277, 279, 284
_TILE_STARTS, _TILE_BYTES, _FORMAT, _COLOUR_MAP = 324, 325, 339, 320
_TAGS = {
    _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_STARTS,
    _ORIENTATION, _SAMPLES, _STRIP_BYTES, _PLANAR, _TILE_STARTS, _TILE_BYTES, _FORMAT, _COLOUR_MAP,
}  # fmt: skip
_KINDS = {1: "uint", 2: "int", 3: "float"}
_HEADER_BYTES = 8
_REDUCED_OR_MASK = 1 | 4
_PALETTE = 3
# by how much a scale of colours may darken on its way from black to bright, of its range
_DARKER = 0.25
# most bytes that one byte can be inflated to: LZW has codes of 12 bits for up to 4096 bytes
_RATIOS = {5: 2731, 8: DEFLATE_RATIO, 32946: DEFLATE_RATIO, 32773: 64}


_KEPT_FILES = 64
_stacks: OrderedDict[tuple[str, int, str], TiffStack] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class PageKind:
    """What a page holds.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    samples : int
        Numbers per pixel.
    dtype : str
    is_palette : bool
        Whether pixels are numbers of colours, of which higher ones are not brighter.
    """

    shape: tuple[int, int]
    samples: int
    dtype: str
    is_palette: bool = False

    @property
    def bytes(self) -> int:
        """Size of the page, decompressed."""
        number = int("".join(c for c in self.dtype if c.isdigit()))
        return self.shape[0] * self.shape[1] * self.samples * number // 8


@dataclass(frozen=True)
class TiffStack:
    """A file that holds a volume, or a part of one.

    Attributes
    ----------
    kind : PageKind
        Of every page.
    directories : tuple of int
        Offsets of the directories of those pages that are planes.
    plain_starts : tuple of int or None
        Of each of those pages, the byte of its first pixel if pixels lie uncompressed, one after
        the other; else None. If all pages follow each other after a single directory, that of the
        first.
    byteorder : str
        "<" or ">".
    planes : Planes
    """

    kind: PageKind
    directories: tuple[int, ...]
    plain_starts: tuple[int | None, ...]
    byteorder: str
    planes: Planes

    def starts_of(self, channel: int) -> int | list[int] | None:
        """First byte of each plane of a channel, or that of the first of planes without gaps.

        None where pixels have several numbers, or lie compressed or in another file.
        """
        if self.kind.samples > 1:
            return None
        if self.planes.one_directory:
            return (self.plain_starts[0] or 0) + channel * self.planes.depth * self.kind.bytes
        starts = []
        for other, page in self.planes.of_channel(channel):
            own = not other and page < len(self.plain_starts)
            first = self.plain_starts[page] if own else None
            if first is None:
                return None
            starts.append(first)
        return starts


def look_at_pages(tiff: Tiff) -> tuple[PageKind, tuple[int, ...], tuple[int | None, ...]]:
    """Kind of the pages, offsets of their directories, and first bytes of uncompressed pixels.

    Pages of reduced resolution and masks are left out.

    Raises
    ------
    ValueError, LookupError, struct.error
        If pages differ, or their pixels do not lie inside the file.
    """
    found: list[int] = []
    starts: list[int | None] = []
    kind = None
    for number, directory in enumerate(tiff.directories()):
        tags = tiff.tags(directory, _TAGS)
        if found and tags.get(_SUBFILE, (0,))[0] & _REDUCED_OR_MASK:
            continue
        own = _kind(tags, number)
        if kind is None:
            kind = own
        elif own != kind:
            raise ValueError(
                f"page {number} (counted from 0) has {_words(own)} but page 0 has {_words(kind)}; "
                "write the pages of each kind to a file of their own"
            )
        _check_places(tags, tiff.file.size, number)
        _check_room(tags, own, number)
        found.append(directory)
        starts.append(_plain_start(tags))
    if kind is None:
        raise ValueError("it has no pages")
    return kind, tuple(found), tuple(starts)


def read_stack(store: Store, name: str, file: ObjectFile) -> TiffStack:
    """Planes of an open file of a store.

    Raises
    ------
    ValueError, LookupError, struct.error, OSError
        See :func:`terareg.storage.foreign.boundary`.
    """
    if store.is_local or not file.stamp:
        return _read_stack(store, name, file)
    # a directory is found only through the previous one, which elsewhere takes a request for each
    with _lock:
        if file.state in _stacks:
            return _stacks[file.state]
    found = _read_stack(store, name, file)
    with _lock:
        _stacks[file.state] = found
        while len(_stacks) > _KEPT_FILES:
            _stacks.popitem(last=False)
    return found


def _read_stack(store: Store, name: str, file: ObjectFile) -> TiffStack:
    tiff = Tiff.open(file)
    kind, directories, starts = look_at_pages(tiff)

    def descriptions() -> Iterator[str]:
        return (tiff.description(directory) for directory in directories)

    def companion(other: str) -> str:
        try:
            return decode_text(read_object(store, other, TEXT_BYTES))
        except FileNotFoundError:
            raise ValueError(f"its companion {other!r} is not beside it; copy it there") from None

    notes = TiffNotes(
        name,
        len(directories),
        tiff.description(tiff.first),
        kind.samples,
        descriptions,
        companion,
        (kind.shape, kind.dtype),
        lambda: (tiff.description(directory, CAMERA) for directory in directories),
    )
    planes = find_planes(notes)
    for other in planes.companions:
        if store.entry(other) is None:
            raise ValueError(
                f"{other!r}, which contains other planes of its image, is not beside it; copy all "
                f"{len(planes.companions) + 1} files of the set into one folder"
            )
    if planes.one_directory:
        start = starts[0]
        if start is None or start + len(planes.places) * kind.bytes > file.size:
            raise ValueError(
                f"its metadata state {len(planes.places)} planes but it ends before that; copy it "
                "again"
            )
    return TiffStack(kind, directories, starts, tiff.order, planes)


def companions_of(store: Store, name: str) -> list[str]:
    """Names of the other files that the volume in a file needs, sorted."""
    with ObjectFile(store, name, ranged=True) as file:
        return list(read_stack(store, name, file).planes.companions)


def _kind(tags: dict[int, tuple[int, ...]], number: int) -> PageKind:
    samples, bits = tags.get(_SAMPLES, (1,))[0], tags.get(_BITS, (1,))
    shape = tags[_HEIGHT][0], tags[_WIDTH][0]
    word = _KINDS.get(tags.get(_FORMAT, (1,))[0])
    if word is None or len(set(bits)) > 1 or not 1 <= bits[0] <= 64:
        raise ValueError(
            f"sample format {tags.get(_FORMAT, (1,))[0]} of {bits[0]} bits; give integers or "
            "floating-point numbers"
        )
    if min(shape) < 1 or not 1 <= samples <= 1024:
        raise ValueError(f"page {number} has {shape[0]} x {shape[1]} pixels of {samples} samples")
    if tags.get(_PHOTOMETRIC, (1,))[0] == 0:
        raise ValueError(
            f"page {number} has inverted grey values (WhiteIsZero); invert it, or save it with "
            "BlackIsZero"
        )
    check_upright(tags.get(_ORIENTATION, (1,))[0])
    width = next(n for n in (8, 16, 32, 64) if n >= bits[0])
    palette = tags.get(_PHOTOMETRIC, (1,))[0] == _PALETTE
    is_palette = palette and not _brightens(tags.get(_COLOUR_MAP, ()))
    return PageKind(shape, samples, f"{word}{width}", is_palette)


def _brightens(colours: tuple[int, ...]) -> bool:
    """Whether colours (all red values, then green, then blue) show grey values.

    Fiji shows 8-bit grey values in colours (green, fire) and saves them like that.
    """
    size = len(colours) // 3
    if not size:
        return False
    red, green, blue = (colours[n * size : (n + 1) * size] for n in range(3))
    light = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in zip(red, green, blue)]
    darker = sum(max(0.0, a - b) for a, b in pairwise(light))
    return light[-1] > light[0] and darker <= _DARKER * (max(light) - min(light))


def _check_places(tags: dict[int, tuple[int, ...]], size: int, number: int) -> None:
    tiled = _TILE_STARTS in tags
    starts = tags.get(_TILE_STARTS if tiled else _STRIP_STARTS, ())
    counts = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if not starts or (counts and len(counts) != len(starts)):
        raise ValueError(f"page {number} does not state where its pixels are")
    if counts and min(counts) == 0:
        raise ValueError(
            f"{sum(n == 0 for n in counts)} of the {len(counts)} parts of page {number} were never "
            "written; write it again, with all pixels"
        )
    if min(starts) < _HEADER_BYTES:
        raise ValueError(f"the pixels of page {number} begin in the header of the file")
    ends = [a + n for a, n in zip(starts, counts or [1] * len(starts))]
    if max(ends) > size and len(starts) > 0:
        raise ValueError(f"page {number} ends at byte {max(ends)} but the file has {size}")


def _check_room(tags: dict[int, tuple[int, ...]], kind: PageKind, number: int) -> None:
    """Raise if the compressed pixels of a page cannot become as many as it says."""
    counts = tags.get(_TILE_BYTES if _TILE_STARTS in tags else _STRIP_BYTES, ())
    ratio = _RATIOS.get(tags.get(_COMPRESSION, (1,))[0])
    if ratio is None or not counts or sum(counts) * ratio >= kind.bytes:
        return
    raise ValueError(
        f"page {number} has {_words(kind)}, too many for its {sum(counts)} compressed bytes; copy "
        "it again"
    )


def _plain_start(tags: dict[int, tuple[int, ...]]) -> int | None:
    """Byte at which pixels begin if they lie uncompressed, one after the other; else None."""
    starts, counts = tags.get(_STRIP_STARTS, ()), tags.get(_STRIP_BYTES, ())
    if not starts or tags.get(_COMPRESSION, (1,))[0] != 1 or tags.get(_BITS, (1,))[0] % 8:
        return None
    if tags.get(_FILL_ORDER, (1,))[0] != 1:
        return None
    if any(a + n != b for a, n, b in zip(starts, counts, starts[1:])):
        return None
    return starts[0]


def _words(kind: PageKind) -> str:
    samples = f" of {kind.samples} samples" if kind.samples > 1 else ""
    return f"{kind.shape[0]} x {kind.shape[1]} pixels{samples} of {kind.dtype}"
