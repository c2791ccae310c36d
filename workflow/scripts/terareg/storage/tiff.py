"""Files of a store read in parts, and the directories of TIFF files (standard library only).

TIFF 6.0 (Adobe, 1992) and BigTIFF, in both byte orders. Only the structure is read here; what tags
mean is left to the readers of images.
"""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from terareg.core.errors import StoreError, changed
from terareg.storage import traffic
from terareg.storage.store import Store, open_regular

_HEAD_BYTES = 4096
_WINDOWS = 4
_REMOTE_BYTES = 65536  # least that a request fetches: directories often follow each other
_MAX_TAGS = 4096
_MAX_VALUES = 1_000_000
_MAX_PAGES = 1_000_000
_MAX_TEXT = 64 * 2**20
_DESCRIPTION = 270
#: what Micro-Manager states of a page, JSON
CAMERA = 51123
# byte count and struct code of the field types that hold integers
_FIELD_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 16: (8, "Q")}


class ObjectFile(io.RawIOBase):
    """Random access to an object, also as a stream.

    On disk, bytes are read by position. From S3 and the web, the whole object is downloaded, or
    with ``ranged`` only the parts that are asked for; an object that another one takes the place of
    meanwhile is a :class:`~terareg.core.errors.StoreError`. :meth:`get` belongs to one thread,
    :meth:`fill` to any.

    Attributes
    ----------
    size : int
    stamp : str
        Changes with the content.
    bytes_read : int
        Bytes of pixels read from disk, or all bytes fetched from elsewhere.
    """

    def __init__(self, store: Store, key: str, *, ranged: bool = False) -> None:
        super().__init__()
        self._store, self._key = store, key
        self._data: bytes | None = None
        self._descriptor = -1
        # parts that were read last, and their first bytes: readers go to and fro between pages
        self._windows: deque[tuple[int, bytes]] = deque(maxlen=_WINDOWS)
        self._position = 0
        self.bytes_read = 0
        if store.is_local:
            self._descriptor = open_regular(store.path(key))
            stat = os.fstat(self._descriptor)
            self.size, self.stamp = stat.st_size, str(stat.st_mtime_ns)
        elif ranged:
            window, entry = store.read_range(key, 0, _REMOTE_BYTES)
            self._windows.append((0, window))
            self.size, self.stamp = entry.size, entry.stamp
            self.bytes_read = len(window)
        else:
            self._data = store.read(key)
            self.size, self.stamp = len(self._data), ""
            self.bytes_read = self.size

    @property
    def state(self) -> tuple[str, int, str]:
        """Address, size and stamp: the same for the same content."""
        return self._store.address(self._key), self.size, self.stamp

    def get(self, start: int, count: int) -> bytes:
        """Bytes from ``start``; fewer than ``count`` at the end of the file."""
        if not 0 <= start < self.size:  # a damaged file may name any place
            return b""
        if self._data is not None:
            return self._data[start : start + count]
        for first, window in self._windows:
            offset = start - first
            if offset >= 0 and offset + count <= len(window):
                return window[offset : offset + count]
        if self._descriptor >= 0:
            window = os.pread(self._descriptor, max(count, _HEAD_BYTES), start)
        else:
            window = self._fetch(start, min(max(count, _REMOTE_BYTES), self.size - start))
        self._windows.appendleft((start, window))
        return window[:count]

    def fill(self, start: int, view: memoryview) -> None:
        """Fill a buffer with the bytes from ``start``."""
        if not 0 <= start <= self.size:
            raise EOFError("the file ends too early")
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
        self._tell(done)

    def all(self) -> bytes:
        """The whole object."""
        if self._data is not None:
            return self._data
        out = bytearray(self.size)
        self.fill(0, memoryview(out))
        return bytes(out)

    def _tell(self, count: int) -> None:
        """Count bytes read from disk; the store counts its own."""
        self.bytes_read += count
        traffic.tell(read=count)

    def _fetch(self, start: int, count: int) -> bytes:
        if count <= 0:
            return b""
        data, entry = self._store.read_range(self._key, start, count)
        if (entry.size, entry.stamp) != (self.size, self.stamp):
            raise StoreError(changed(self._store.address(self._key)))
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

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._position))
        if count <= _HEAD_BYTES:
            view[:count] = self.get(self._position, count)
            if self._descriptor >= 0:
                self._tell(count)
        else:
            self.fill(self._position, view[:count])
        self._position += count
        return count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()


@dataclass(frozen=True)
class Tiff:
    """Structure of a TIFF file: reads fail with :class:`struct.error` where the file ends.

    Attributes
    ----------
    file : ObjectFile
    order : str
        "<" or ">".
    big : bool
        Whether it is a BigTIFF.
    first : int
        Offset of the first directory.
    """

    file: ObjectFile
    order: str
    big: bool
    first: int

    @classmethod
    def open(cls, file: ObjectFile) -> Tiff:
        """Read the header; :class:`ValueError` if the file is not a TIFF."""
        head = file.get(0, 16)
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise ValueError("it is not a TIFF file")
        order, big = "<" if head[:1] == b"I" else ">", b"+" in head[2:4]
        (first,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
        return cls(file, order, big, first)

    def directories(self) -> Iterator[int]:
        """Offsets of the directories, one after the other; :class:`ValueError` for a circle."""
        offset = self.first
        seen: set[int] = set()
        while offset:
            if offset in seen or len(seen) >= _MAX_PAGES:
                raise ValueError("its list of pages is circular")
            seen.add(offset)
            yield offset
            offset = self.following(offset)

    def following(self, offset: int) -> int:
        """Offset of the directory that follows the one at ``offset``; 0 if there is none."""
        return self._unpack(self._word, self._start(offset) + self._count(offset) * self._entry)[0]

    def tags(self, offset: int, wanted: set[int]) -> dict[int, tuple[int, ...]]:
        """Values of the wanted tags of a directory, as far as they are integers."""
        found: dict[int, tuple[int, ...]] = {}
        for tag, kind, number, at in self._entries(offset):
            if tag not in wanted or tag in found or kind not in _FIELD_TYPES:
                continue
            if not 1 <= number <= _MAX_VALUES:
                continue
            width, letter = _FIELD_TYPES[kind]
            if number * width > self._inline:
                (at,) = self._unpack(self._word, at)
            found[tag] = self._unpack(f"{number}{letter}", at)
        return found

    def ratio(self, offset: int, tag: int) -> float | None:
        """Value of a tag of a directory that is a fraction; None without one."""
        for found, kind, number, at in self._entries(offset):
            if found == tag and kind == 5 and number == 1:
                # eight bytes, which lie elsewhere where an entry has room for four
                where = at if self.big else self._unpack(self._word, at)[0]
                above, below = self._unpack("II", where)
                return above / below if below else None
        return None

    def description(self, offset: int, tag: int = _DESCRIPTION) -> str:
        """Text of the tag ImageDescription of a directory, or another; empty without one.

        :class:`ValueError` if it is longer than any program writes.
        """
        for found, kind, number, at in self._entries(offset):
            if found == tag and kind == 2:
                if number > self._inline:
                    (at,) = self._unpack(self._word, at)
                if number > _MAX_TEXT:
                    raise ValueError(f"its description has {number} bytes")
                text = self.file.get(at, number)
                return text.split(b"\0", 1)[0].decode("utf-8", "replace")
        return ""

    @property
    def _entry(self) -> int:
        return 20 if self.big else 12

    @property
    def _inline(self) -> int:
        return 8 if self.big else 4

    @property
    def _word(self) -> str:
        return "Q" if self.big else "I"

    def _start(self, offset: int) -> int:
        return offset + (8 if self.big else 2)

    def _count(self, offset: int) -> int:
        (count,) = self._unpack("Q" if self.big else "H", offset)
        if count > _MAX_TAGS:
            raise struct.error("it has too many tags")
        return count

    def _entries(self, offset: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag, field type, number of values, and position of the values or of their offset."""
        form = struct.Struct(self.order + "HH" + self._word + f"{self._inline}x")
        place, count = self._start(offset), self._count(offset)
        entries = self.file.get(place, count * form.size)
        if len(entries) < count * form.size:
            raise struct.error("the file ends within its table of pages")
        # the values of an entry, or their offset, are its last bytes
        for start, (tag, kind, number) in enumerate(form.iter_unpack(entries)):
            yield tag, kind, number, place + (start + 1) * form.size - self._inline

    def _unpack(self, letters: str, start: int) -> tuple[int, ...]:
        form = self.order + letters
        return struct.unpack(form, self.file.get(start, struct.calcsize(form)))
