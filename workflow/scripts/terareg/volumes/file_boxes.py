"""Boxes of image files, which are never held in memory: :class:`FileBoxes`.

Voxels that lie uncompressed and in order in one file are read from where they are, on S3 and the
web by requests for parts of the file. All others are decompressed once, plane by plane, into a
temporary file without a name that ends with the process; nothing else of a file elsewhere is kept.
"""

from __future__ import annotations

import errno
import math
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from terareg.core.errors import StoreError, VolumeError, changed
from terareg.core.parallel import batch_range, map_items
from terareg.storage.store import Entry
from terareg.storage.web import beside
from terareg.volumes.headers import PLANES_AT_ONCE, SERIES, Header
from terareg.volumes.voxels import PlainPlanes, PlainVoxels, file_planes, plain_voxels

Box = tuple[slice, slice, slice]
# of planes elsewhere, each of which waits for its answer
_REQUESTS = PLANES_AT_ONCE


@dataclass
class FileBoxes:
    """Voxels of a channel of an image file, read box by box; safe to use from several threads.

    Attributes
    ----------
    address : str
        Local path, or address on S3 or, unless it is a folder of planes, on the web.
    header : Header
        Of the file.
    channel : int
    """

    address: str
    header: Header
    channel: int = 0
    _plain: PlainVoxels | PlainPlanes | None = field(default=None, init=False)
    _planes: _Planes | None = field(default=None, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._plain = plain_voxels(self.address, self.header, self.channel)
        if self._plain is None:
            self._planes = _Planes(self.address, self.header, self.channel)
        elif "://" in self.address:
            self._pool = ThreadPoolExecutor(_REQUESTS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the voxels as they are read."""
        return np.dtype(self.header.dtype)

    def read(self, box: Box) -> np.ndarray:
        """Voxels of a box (z, y, x).

        Raises
        ------
        VolumeError
            If the folder of temporary files has no room.
        StoreError
            If S3, a web server or the network fail, or the file changes meanwhile.
        ValueError, LookupError, OSError, EOFError
            If the file is damaged, see :func:`terareg.storage.foreign.boundary`.
        """
        z, y, x = box
        out = np.empty([s.stop - s.start for s in box], self.dtype)
        if not out.size:
            return out
        if self._planes is not None:
            self._planes.hold(z.start, z.stop)

        def put(number: int) -> None:
            out[number - z.start] = self._rows(number, y.start, y.stop)[:, x]

        numbers = range(z.start, z.stop)
        for _ in self._pool.map(put, numbers) if self._pool else map(put, numbers):
            pass
        return out

    def _rows(self, plane: int, first: int, stop: int) -> np.ndarray:
        if self._plain is not None:
            return self._plain.rows(plane, first, stop)
        assert self._planes is not None
        return self._planes.rows(plane, first, stop)

    def has_numbers(self) -> bool:
        """Whether a voxel is a finite number; planes are read until one is."""
        depth, height, width = self.shape
        for number in range(depth):
            plane = self.read((slice(number, number + 1), slice(0, height), slice(0, width)))
            if np.isfinite(plane).any():
                return True
        return False


class _Planes:
    """Planes of a file in a temporary file, each where it would be in the whole array."""

    def __init__(self, address: str, header: Header, channel: int) -> None:
        self._source = address, header, channel
        self._dtype = np.dtype(header.dtype)
        self._size = math.prod(header.shape[1:]) * self._dtype.itemsize
        self._there = bytearray(header.shape[0])
        self._place = beside(address)
        self._found = self._entry()
        self._lock = threading.Lock()
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="terareg-", buffering=0)
        weakref.finalize(self, self._file.close)
        # pages and planes of their own are found one by one; other files are read from their start
        self._in_order = header.form not in ("TIFF", SERIES)
        self._coming: Iterator[tuple[int, np.ndarray]] | None = None

    def hold(self, first: int, stop: int) -> None:
        """Decompress what is missing of the planes from ``first`` until ``stop``."""
        with self._lock:
            missing = [n for n in range(first, stop) if not self._there[n]]
            if not missing:
                return
            try:
                self._decompress(missing)
            finally:
                if self._entry() != self._found:
                    raise StoreError(changed(self._source[0]))

    def _entry(self) -> Entry | None:
        """Size and stamp of the file; a folder of planes has none."""
        store, name = self._place
        return None if self._source[1].form == SERIES else store.entry(name)

    def _decompress(self, missing: list[int]) -> None:
        address, header, channel = self._source
        if not self._in_order:
            count = _REQUESTS if "://" in address else 1
            parts = (batch_range(len(missing), part, count) for part in range(count))

            def take(part: range) -> None:
                wanted = missing[part.start : part.stop]
                for number, plane in file_planes(address, header, wanted, channel):
                    self._keep(number, plane)

            for _ in map_items(take, parts, workers=count):
                pass
            return
        if self._coming is None:
            every = range(header.shape[0])
            self._coming = file_planes(address, header, every, channel, to_end=True)
        for number, plane in self._coming:
            self._keep(number, plane)
            if number >= missing[-1] and number + 1 < len(self._there):
                return

    def _keep(self, number: int, plane: np.ndarray) -> None:
        _, header, _ = self._source
        if plane.shape != header.shape[1:] or plane.dtype != self._dtype:
            raise ValueError(
                f"plane {number} has {plane.shape} voxels of {plane.dtype} instead of "
                f"{header.shape[1:]} of {self._dtype}"
            )
        view = np.ascontiguousarray(plane).data.cast("B")
        try:
            done = 0
            while done < len(view):
                at = number * self._size + done
                done += os.pwrite(self._file.fileno(), view[done:], at)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            whole = self._size * len(self._there) / 1e9
            raise VolumeError(
                f"{self._source[0]} needs up to {whole:.3g} GB of temporary files to be "
                f"decompressed, for which {tempfile.gettempdir()} has no room; set TMPDIR to a "
                "folder with room, or convert the image to OME-Zarr"
            ) from error
        self._there[number] = 1

    def rows(self, plane: int, first: int, stop: int) -> np.ndarray:
        """Rows of a plane that is held."""
        width = self._source[1].shape[2]
        step = width * self._dtype.itemsize
        data = bytearray((stop - first) * step)
        view, done = memoryview(data), 0
        while done < len(data):
            at = plane * self._size + first * step + done
            more = os.preadv(self._file.fileno(), [view[done:]], at)
            if not more:
                raise EOFError("a temporary file ends too early")
            done += more
        return np.frombuffer(data, self._dtype).reshape(stop - first, width)
