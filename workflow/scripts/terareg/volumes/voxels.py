"""Voxels of image files, (z, y, x), read after their headers were checked.

Files are read without ITK, which reads zeros where a file is truncated, follows a header to any
file of the machine, and refuses grids that the user may have corrected.
"""

from __future__ import annotations

import bz2
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import tifffile

from terareg.core.errors import VolumeError
from terareg.storage.foreign import check_memory
from terareg.storage.store import Store, open_regular
from terareg.storage.tiff import ObjectFile, Tiff
from terareg.volumes.headers import Header
from terareg.volumes.nifti import NiftiLayout, nifti_stream
from terareg.volumes.nrrd import NrrdHeader, read_nrrd_header
from terareg.volumes.tiff_stack import PageKind, TiffStack, look_at_pages, read_stack

_PART = 1 << 24


def file_voxels(address: str, header: Header, channel: int = 0) -> np.ndarray:
    """Voxels of a channel of an image file.

    Parameters
    ----------
    address : str
        Local path.
    header : Header
        Of the file.
    channel : int

    Returns
    -------
    numpy.ndarray, shape ``header.shape``

    Raises
    ------
    VolumeError
        If there is no such channel.
    ValueError, LookupError, OSError, EOFError
        If the file is damaged, see :func:`terareg.storage.foreign.boundary`.
    """
    if not 0 <= channel < header.channels:
        raise VolumeError(f"{address} has channels 0 to {header.channels - 1}, not {channel}")
    reader = {"NIfTI": _nifti, "NRRD": _nrrd, "TIFF": _tiff}[header.form]
    return reader(address, header, channel)


def _exactly(stream: io.RawIOBase | io.BufferedIOBase, wanted: int, excess: int) -> bytearray:
    """Read ``wanted`` bytes from a stream, which must then end within ``excess`` more bytes.

    The stream is read to its end, because a compressed one has its checksum there, but not without
    limit.
    """
    data = bytearray(wanted)
    view, done = memoryview(data), 0
    while done < wanted:
        count = stream.readinto(view[done : done + _PART])
        if not count:
            raise ValueError(f"it has {done} bytes of voxels instead of {wanted}")
        done += count
    more = 0
    while part := stream.read(min(_PART, excess + 1)):
        more += len(part)
        if more > excess:
            raise ValueError(f"it has more than the {wanted} bytes of voxels that its sizes need")
    return data


def _stored(dtype: str, order: str) -> np.dtype:
    """NumPy type of numbers in a file whose byte order is "<" or ">"."""
    return np.dtype(dtype).newbyteorder("<" if order == "<" else ">")


# ---------------------------------------------------------------------- NIfTI
def _nifti(address: str, header: Header, channel: int) -> np.ndarray:
    with open(open_regular(address), "rb") as file:
        stream = nifti_stream(file, address)
        head = stream.read(348)
        layout = NiftiLayout.of(head)
        if layout is None or layout.dtype is None:
            raise ValueError("its header has changed since it was read")
        dtype = _stored(layout.dtype, layout.order)
        stream.read(layout.offset - len(head))
        excess = max(0, layout.voxel_bytes // layout.shape[0] - 1)
        data = _exactly(stream, layout.voxel_bytes, excess)
    array = np.frombuffer(data, dtype)
    if layout.samples > 1:
        array = np.ascontiguousarray(array.reshape(*layout.shape, layout.samples)[..., channel])
    array = array.reshape(layout.shape)
    if layout.scaled:
        values = array.astype(np.float64)
        values *= layout.slope
        values += layout.intercept
        return values
    return array.astype(dtype.newbyteorder("="), copy=False)


# ---------------------------------------------------------------------- NRRD
def _nrrd(address: str, header: Header, channel: int) -> np.ndarray:
    folder, name = _beside(address)
    with ObjectFile(folder, name) as file:
        found = read_nrrd_header(file)
    check_memory(2 * found.voxel_bytes, address, VolumeError)
    if found.files:
        each, rest = divmod(found.voxel_bytes, len(found.files))
        if rest:
            raise ValueError(f"{len(found.files)} data files for {found.voxel_bytes} bytes")
        parts = [_nrrd_part(folder.path(f), found, 0, each) for f in found.files]
    else:
        parts = [_nrrd_part(folder.path(name), found, found.start, found.voxel_bytes)]
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    array = array.reshape(found.sizes[::-1])
    # the axes of the array are those of the file in reverse order
    last = len(found.sizes) - 1
    spatial = [last - axis for axis in reversed(found.spatial)]
    others = [axis for axis in range(len(found.sizes)) if axis not in spatial]
    array = array.transpose(*others, *spatial).reshape(-1, *found.shape)
    return np.ascontiguousarray(array[channel])


def _nrrd_part(path, found: NrrdHeader, start: int, count: int) -> np.ndarray:
    dtype = _stored(found.dtype, ">" if found.big_endian else "<")
    with open(open_regular(path), "rb") as file:
        file.seek(start)
        for _ in range(found.line_skip):
            if not file.readline(1 << 20):
                raise ValueError("it ends before its voxels")
        if found.encoding == "text":
            text = file.read(64 * count // dtype.itemsize)
            values = np.array(text.split()[: count // dtype.itemsize], dtype.newbyteorder("="))
            if values.nbytes != count:
                raise ValueError(
                    f"it has {len(values)} voxels instead of {count // dtype.itemsize}"
                )
            return values
        if found.encoding == "raw":
            if found.byte_skip < 0:
                file.seek(-count, 2)
            else:
                file.seek(found.byte_skip, 1)
            data = _exactly(file, count, count)
        else:
            stream = _Inflated(file, found.encoding)
            if found.byte_skip > 0:
                stream.skip(found.byte_skip)
            data = _exactly(stream, count, 0)
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


class _Inflated(io.RawIOBase):
    """A compressed stream, decompressed in parts of bounded size."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__()
        self.file = file
        self.inflate = zlib.decompressobj(wbits=47) if encoding == "gzip" else bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def _next(self, count: int) -> bytes:
        """At most ``count`` bytes; none at the end."""
        while not self.inflate.eof:
            if isinstance(self.inflate, bz2.BZ2Decompressor):
                wanting = self.inflate.needs_input
                data = self.file.read(1 << 20) if wanting else b""
            else:
                wanting, data = True, self.inflate.unconsumed_tail or self.file.read(1 << 20)
            if wanting and not data:
                raise ValueError("its compressed voxels are cut off")
            found = self.inflate.decompress(data, count)
            if found:
                return found
        return b""

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def skip(self, count: int) -> None:
        while count:
            data = self._next(min(count, _PART))
            if not data:
                raise ValueError("it ends before its voxels")
            count -= len(data)


# ---------------------------------------------------------------------- TIFF
def _tiff(address: str, header: Header, channel: int) -> np.ndarray:
    folder, name = _beside(address)
    with ObjectFile(folder, name) as file:
        stack = read_stack(folder, name, file)
        which, sample = divmod(channel, stack.kind.samples)
        places = stack.planes.of_channel(which)
        out = np.empty((len(places), *stack.kind.shape), np.dtype(stack.kind.dtype))
        if stack.planes.one_directory:
            start = (stack.plain_start or 0) + which * stack.planes.depth * stack.kind.bytes
            return _plain(file, stack, start, sample, out)
    for number, page in _pages(folder, name, places, stack):
        if page.dtype.kind == "b":
            page = page.astype(np.uint8)
        if page.ndim == 3:
            page = page[..., sample] if page.shape[-1] == stack.kind.samples else page[sample]
        if page.shape != out.shape[1:] or page.dtype != out.dtype:
            raise ValueError(
                f"plane {number} decodes to {page.shape} {page.dtype} instead of {out.shape[1:]} "
                f"{out.dtype}"
            )
        out[number] = page
    return out


def _pages(folder: Store, name: str, places, stack: TiffStack) -> Iterator[tuple[int, np.ndarray]]:
    """Yield number and pixels of planes, file by file."""
    by_file: dict[str, list[tuple[int, int]]] = {}
    for number, (other, page) in enumerate(places):
        by_file.setdefault(other or name, []).append((number, page))
    for key, wanted in by_file.items():
        with ObjectFile(folder, key) as file:
            directories = stack.directories
            if key != name:
                kind, directories, _ = look_at_pages(Tiff.open(file))
                _check_same(key, kind, stack.kind)
            with tifffile.TiffFile(file, name=PurePosixPath(key).name) as tiff:
                for number, page in wanted:
                    if page >= len(directories):
                        raise ValueError(
                            f"{key} has {len(directories)} pages but page {page} (counted from 0) "
                            "is needed"
                        )
                    tiff.filehandle.seek(directories[page])
                    yield number, tifffile.TiffPage(tiff, index=0).asarray(maxworkers=1)


def _check_same(key: str, kind: PageKind, expected: PageKind) -> None:
    if kind != expected:
        raise ValueError(
            f"{key} has pages of {kind.shape} {kind.dtype} but the named file has "
            f"{expected.shape} {expected.dtype}"
        )


def _plain(
    file: ObjectFile, stack: TiffStack, start: int, sample: int, out: np.ndarray
) -> np.ndarray:
    kind = stack.kind
    dtype = _stored(kind.dtype, stack.byteorder)
    pixels = math.prod(kind.shape) * kind.samples
    for number in range(len(out)):
        data = bytearray(kind.bytes)
        file.fill(start + number * kind.bytes, memoryview(data))
        page = np.frombuffer(data, dtype, pixels).reshape(*kind.shape, kind.samples)
        out[number] = page[..., sample]
    return out


def _beside(address: str) -> tuple[Store, str]:
    folder, _, name = address.rpartition("/")
    return Store(folder or ("/" if address.startswith("/") else ".")), name
