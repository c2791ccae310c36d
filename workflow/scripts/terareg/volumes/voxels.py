"""Voxels of image files, (z, y, x), read after their headers were checked.

Files are read without ITK, which reads zeros where a file is truncated, follows a header to any
file of the machine, and refuses grids that the user may have corrected.
"""

from __future__ import annotations

import bz2
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import tifffile

from terareg.acquisition.plane_files import read_rows
from terareg.core.errors import AcquisitionError, VolumeError
from terareg.storage.foreign import check_memory
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile, Tiff
from terareg.storage.tiff_planes import Place
from terareg.storage.web import beside
from terareg.volumes.headers import SERIES, Header, find_series
from terareg.volumes.meta_image import MetaLayout, meta_layout
from terareg.volumes.nifti import NiftiLayout, nifti_stream
from terareg.volumes.nrrd import NrrdHeader, read_nrrd_header
from terareg.volumes.plane_series import PlaneSeries
from terareg.volumes.tiff_stack import PageKind, TiffStack, look_at_pages, read_stack

_PART = 1 << 24
# bytes that a stream reads at once; elsewhere every part is a request
_LOCAL_PART, _REMOTE_PART = 1 << 17, 1 << 23


def file_voxels(address: str, header: Header, channel: int = 0) -> np.ndarray:
    """Voxels of a channel of an image file.

    Parameters
    ----------
    address : str
        Local path, or address on S3 or the web.
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
    _check_channel(address, header, channel)
    reader = {"NIfTI": _nifti, "NRRD": _nrrd, "TIFF": _tiff}[header.form]
    return reader(address, header, channel)


def file_planes(
    address: str,
    header: Header,
    wanted: Sequence[int],
    channel: int = 0,
    *,
    to_end: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield planes across z of a channel of an image file, without holding the file.

    Of compressed files, what lies before the last plane is decompressed; nothing is read behind it
    unless ``to_end``, which demands that NIfTI and NRRD end where their sizes say, and compares the
    checksums of compressed data.

    Parameters
    ----------
    address : str
        Local path, or address on S3 or the web.
    header : Header
        Of the file.
    wanted : sequence of int
        Indices along z, ascending.
    channel : int

    Yields
    ------
    index : int
        Each of ``wanted``, in the order in which the planes are stored.
    plane : numpy.ndarray, shape (y, x)

    Raises
    ------
    VolumeError, ValueError, LookupError, OSError, EOFError
        As :func:`file_voxels`.
    """
    _check_channel(address, header, channel)
    if header.form == "TIFF":
        return _tiff_planes(address, header, channel, wanted)
    if header.form == SERIES:
        return _series_planes(address, header, wanted)
    reader = {"NIfTI": _nifti_planes, "NRRD": _nrrd_planes, "MetaImage": _meta_planes}[header.form]
    return reader(address, header, (channel, to_end), wanted)


@dataclass(frozen=True)
class PlainVoxels:
    """Voxels of one number each that lie uncompressed in a file, in planes with x fastest.

    Attributes
    ----------
    file : ObjectFile
        The open file.
    starts : sequence of int
        First byte of each plane.
    shape : tuple of int
        (z, y, x).
    stored : numpy.dtype
        Of the numbers in the file, with its byte order.
    scale : tuple of float or None
        Slope and intercept by which they become values of float64.
    """

    file: ObjectFile
    starts: Sequence[int]
    shape: tuple[int, int, int]
    stored: np.dtype
    scale: tuple[float, float] | None = None

    def rows(self, plane: int, first: int, stop: int) -> np.ndarray:
        """Rows ``first`` until ``stop`` of a plane, as values."""
        width = self.shape[2]
        step = width * self.stored.itemsize
        at = self.starts[plane] + first * step
        data = bytearray((stop - first) * step)
        self.file.fill(at, memoryview(data))
        found = np.frombuffer(data, self.stored).reshape(stop - first, width)
        return _values(found, self.scale)


@dataclass(frozen=True)
class PlainPlanes:
    """Planes in files of their own, of which the first is uncompressed."""

    series: PlaneSeries

    def rows(self, plane: int, first: int, stop: int) -> np.ndarray:
        """Rows ``first`` until ``stop`` of a plane."""
        return _series_rows(self.series, plane, slice(first, stop))


def plain_voxels(
    address: str, header: Header, channel: int = 0
) -> PlainVoxels | PlainPlanes | None:
    """Where the voxels of a channel lie uncompressed and in order; None if they do not.

    Raises
    ------
    VolumeError, ValueError, LookupError, OSError, EOFError
        As :func:`file_voxels`; a file of the wrong size is such an error.
    """
    _check_channel(address, header, channel)
    if header.form == SERIES:
        series = _series(address, header)
        return PlainPlanes(series) if series.plain else None
    reader = {
        "NIfTI": _plain_nifti, "NRRD": _plain_nrrd, "TIFF": _plain_tiff, "MetaImage": _plain_meta,
    }[header.form]  # fmt: skip
    return reader(address, header, channel)


def _stream_of(store: Store, name: str) -> io.BufferedReader:
    """A file as a stream, which is read in large parts."""
    part = _LOCAL_PART if store.is_local else _REMOTE_PART
    return io.BufferedReader(ObjectFile(store, name, ranged=True), part)


def _opened(
    place: tuple[Store, str],
    starts: int | Sequence[int],
    header: Header,
    stored: np.dtype,
    scale: tuple[float, float] | None = None,
) -> PlainVoxels:
    """Voxels in a file that must have all of them; the start of all, or of each plane."""
    wanted = math.prod(header.shape) * stored.itemsize
    if isinstance(starts, int):
        starts = range(starts, starts + wanted, wanted // header.shape[0])
    file = ObjectFile(*place, ranged=True)
    there = wanted - (max(starts) + wanted // header.shape[0] - file.size)
    if there < wanted:
        raise ValueError(f"it has {max(there, 0)} bytes of voxels instead of {wanted}")
    return PlainVoxels(file, starts, header.shape, stored, scale)


def _check_channel(address: str, header: Header, channel: int) -> None:
    if not 0 <= channel < header.channels:
        raise VolumeError(f"{address} has channels 0 to {header.channels - 1}, not {channel}")


def _fill(stream: io.RawIOBase | io.BufferedIOBase, view: memoryview) -> None:
    """Fill a buffer from a stream."""
    done = 0
    while done < len(view):
        count = stream.readinto(view[done : done + _PART])
        if not count:
            raise ValueError(f"it has {done} bytes of voxels instead of {len(view)}")
        done += count


def _exactly(stream: io.RawIOBase | io.BufferedIOBase, wanted: int, excess: int) -> bytearray:
    """Read ``wanted`` bytes from a stream, which must then end within ``excess`` more bytes.

    The stream is read to its end, because a compressed one has its checksum there, but not without
    limit.
    """
    data = bytearray(wanted)
    _fill(stream, memoryview(data))
    _ended(stream, wanted, excess)
    return data


def _ended(stream: Any, wanted: int, excess: int) -> None:
    """Read a stream that is behind its ``wanted`` bytes of voxels to its end, see _exactly."""
    more = 0
    while part := stream.read(min(_PART, excess + 1)):
        more += len(part)
        if more > excess:
            raise ValueError(f"it has more than the {wanted} bytes of voxels that its sizes need")


def _stored(dtype: str, order: str) -> np.dtype:
    """NumPy type of numbers in a file whose byte order is "<" or ">"."""
    return np.dtype(dtype).newbyteorder("<" if order == "<" else ">")


# ---------------------------------------------------------------------- NIfTI
@contextmanager
def _nifti_open(address: str, header: Header) -> Iterator[tuple[Any, NiftiLayout]]:
    """The stream of a file at its first voxel, and how voxels are stored."""
    with _stream_of(*beside(address)) as file:
        stream = nifti_stream(file, address)
        head = stream.read(348)
        layout = NiftiLayout.of(head)
        if layout is None or layout.dtype is None or layout.shape != header.shape:
            raise ValueError("its header has changed since it was read")
        stream.read(layout.offset - len(head))
        yield stream, layout


def _nifti_values(
    data: bytearray, layout: NiftiLayout, shape: tuple[int, ...], channel: int
) -> np.ndarray:
    dtype = _stored(str(layout.dtype), layout.order)
    array = np.frombuffer(data, dtype)
    if layout.samples > 1:
        array = np.ascontiguousarray(array.reshape(*shape, layout.samples)[..., channel])
    return _values(array.reshape(shape), _scale(layout))


def _scale(layout: NiftiLayout) -> tuple[float, float] | None:
    return (layout.slope, layout.intercept) if layout.scaled else None


def _values(stored: np.ndarray, scale: tuple[float, float] | None) -> np.ndarray:
    if scale is not None:
        values = stored.astype(np.float64)
        values *= scale[0]
        values += scale[1]
        return values
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _excess(layout: NiftiLayout) -> int:
    """Bytes behind the voxels of a NIfTI file that may be something else: less than a plane."""
    return max(0, layout.voxel_bytes // layout.shape[0] - 1)


def _nifti(address: str, header: Header, channel: int) -> np.ndarray:
    with _nifti_open(address, header) as (stream, layout):
        data = _exactly(stream, layout.voxel_bytes, _excess(layout))
    return _nifti_values(data, layout, layout.shape, channel)


def _plain_nifti(address: str, header: Header, channel: int) -> PlainVoxels | None:
    if address.lower().endswith(".gz"):
        return None
    with _nifti_open(address, header) as (stream, layout):
        if layout.samples > 1:
            return None
        stream.seek(0, 2)
        if stream.tell() - layout.offset > layout.voxel_bytes + _excess(layout):
            raise ValueError(
                f"it has more than the {layout.voxel_bytes} bytes of voxels that its sizes need"
            )
        stored = _stored(str(layout.dtype), layout.order)
    return _opened(beside(address), layout.offset, header, stored, _scale(layout))


def _nifti_planes(
    address: str, header: Header, how: tuple[int, bool], wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    channel, to_end = how
    with _nifti_open(address, header) as (stream, layout):
        size, done = layout.voxel_bytes // layout.shape[0], 0
        for number in wanted:
            stream.seek((number - done) * size, 1)
            data = bytearray(size)
            _fill(stream, memoryview(data))
            done = number + 1
            yield number, _nifti_values(data, layout, layout.shape[1:], channel)
        if to_end:
            stream.seek((layout.shape[0] - done) * size, 1)
            _ended(stream, layout.voxel_bytes, _excess(layout))


# ---------------------------------------------------------------------- NRRD
def _nrrd(address: str, header: Header, channel: int) -> np.ndarray:
    folder, name = beside(address)
    with ObjectFile(folder, name, ranged=True) as file:
        found = read_nrrd_header(file)
    check_memory(2 * found.voxel_bytes, address, VolumeError)
    if found.files:
        each, rest = divmod(found.voxel_bytes, len(found.files))
        if rest:
            raise ValueError(f"{len(found.files)} data files for {found.voxel_bytes} bytes")
        parts = [_nrrd_part((folder, file), found, 0, each) for file in found.files]
    else:
        parts = [_nrrd_part((folder, name), found, found.start, found.voxel_bytes)]
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    array = array.reshape(found.sizes[::-1])
    # the axes of the array are those of the file in reverse order
    last = len(found.sizes) - 1
    spatial = [last - axis for axis in reversed(found.spatial)]
    others = [axis for axis in range(len(found.sizes)) if axis not in spatial]
    array = array.transpose(*others, *spatial).reshape(-1, *found.shape)
    return np.ascontiguousarray(array[channel])


def _nrrd_part(place: tuple[Store, str], found: NrrdHeader, start: int, count: int) -> np.ndarray:
    dtype = _stored(found.dtype, ">" if found.big_endian else "<")
    with _stream_of(*place) as file:
        stream = _nrrd_stream(file, found, start, count)
        data = _exactly(stream, count, count if found.encoding == "raw" else 0)
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def _nrrd_stream(file: BinaryIO, found: NrrdHeader, start: int, count: int) -> Any:
    """An open data file of ``count`` bytes as a stream at its first voxel."""
    dtype = _stored(found.dtype, ">" if found.big_endian else "<")
    file.seek(start)
    for _ in range(found.line_skip):
        if not file.readline(1 << 20):
            raise ValueError("it ends before its voxels")
    if found.encoding == "text":
        text = file.read(64 * count // dtype.itemsize)
        values = np.array(text.split()[: count // dtype.itemsize], dtype.newbyteorder("="))
        if values.nbytes != count:
            raise ValueError(f"it has {len(values)} voxels instead of {count // dtype.itemsize}")
        return io.BytesIO(values.astype(dtype, copy=False).tobytes())
    if found.encoding == "raw":
        if found.byte_skip < 0:
            file.seek(-count, 2)
        else:
            file.seek(found.byte_skip, 1)
        return file
    stream = _Inflated(file, found.encoding)
    if found.byte_skip > 0:
        stream.skip(found.byte_skip)
    return stream


def _plain_nrrd(address: str, header: Header, channel: int) -> PlainVoxels | None:
    folder, name = beside(address)
    with ObjectFile(folder, name, ranged=True) as file:
        found = read_nrrd_header(file)
    if found.shape != header.shape:
        raise ValueError("its header has changed since it was read")
    in_order = found.spatial == (0, 1, 2)
    if found.encoding != "raw" or len(found.files) > 1 or not in_order:
        return None
    place = folder, (found.files or (name,))[0]
    with _stream_of(*place) as data:
        count = found.voxel_bytes
        stream = _nrrd_stream(data, found, 0 if found.files else found.start, count)
        start = stream.tell()
        if data.seek(0, 2) - start > 2 * count:
            raise ValueError(f"it has more than the {count} bytes of voxels that its sizes need")
    stored = _stored(found.dtype, ">" if found.big_endian else "<")
    start += channel * math.prod(header.shape) * stored.itemsize
    return _opened(place, start, header, stored)


def _nrrd_planes(
    address: str, header: Header, how: tuple[int, bool], wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    channel, to_end = how
    folder, name = beside(address)
    with ObjectFile(folder, name, ranged=True) as file:
        found = read_nrrd_header(file)
    sizes = found.sizes[::-1]
    z, y, x = (len(sizes) - 1 - axis for axis in reversed(found.spatial))
    if found.shape != header.shape:
        raise ValueError("its header has changed since it was read")
    # axes of channels lie before z or within its planes
    outer = math.prod(sizes[:z])
    which, sample = divmod(channel, header.channels // outer)
    order = [axis for axis in range(z + 1, len(sizes)) if axis not in (y, x)]
    within = [axis - z - 1 for axis in (*order, y, x)]
    size = found.voxel_bytes // (outer * sizes[z])
    dtype = _stored(found.dtype, ">" if found.big_endian else "<")
    with closing(_NrrdBytes(folder, name, found)) as stored:
        for number in wanted:
            data = stored.take((which * sizes[z] + number) * size, size)
            plane = np.frombuffer(data, dtype).reshape(sizes[z + 1 :]).transpose(within)
            plane = plane.reshape(-1, *plane.shape[-2:])[sample]
            yield number, np.ascontiguousarray(plane, dtype.newbyteorder("="))
        if to_end:
            stored.to_end()


class _NrrdBytes:
    """Decompressed bytes of the data files of an NRRD file, one after the other, read forward."""

    def __init__(self, folder: Store, name: str, found: NrrdHeader) -> None:
        self.found, self.start = found, 0 if found.files else found.start
        self.folder, self.files = folder, found.files or (name,)
        self.each, rest = divmod(found.voxel_bytes, len(self.files))
        if rest:
            raise ValueError(f"{len(self.files)} data files for {found.voxel_bytes} bytes")
        self.part, self.at = -1, 0
        self.file: BinaryIO | None = None
        self.stream: Any = None

    def take(self, start: int, count: int) -> bytearray:
        """``count`` bytes from byte ``start``, which is not before the end of the last call."""
        data, done = bytearray(count), 0
        while done < count:
            part, first = divmod(start + done, self.each)
            size = min(count - done, self.each - first)
            if part != self.part:
                self._open(part)
            self._skip(first - self.at)
            _fill(self.stream, memoryview(data)[done : done + size])
            self.at = first + size
            done += size
        return data

    def to_end(self) -> None:
        """Read to the end of every data file, each of which must end behind its voxels."""
        for part in range(max(0, self.part), len(self.files)):
            if part != self.part:
                self._open(part)
            self._skip(self.each - self.at)
            self.at = self.each
            _ended(self.stream, self.each, self.each if self.found.encoding == "raw" else 0)

    def _skip(self, count: int) -> None:
        if isinstance(self.stream, _Inflated):
            self.stream.skip(count)
        else:
            self.stream.seek(count, 1)

    def _open(self, part: int) -> None:
        self.close()
        self.part, self.at = part, 0
        self.file = _stream_of(self.folder, self.files[part])
        self.stream = _nrrd_stream(self.file, self.found, self.start, self.each)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


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


# ---------------------------------------------------------------------- MetaImage
def _meta_layout(address: str, header: Header) -> MetaLayout:
    layout = meta_layout(*beside(address))
    if layout is None or (layout.shape, layout.dtype) != (header.shape, header.dtype):
        raise ValueError("its header has changed since it was read")
    return layout


def _plain_meta(address: str, header: Header, channel: int) -> PlainVoxels | None:
    layout = _meta_layout(address, header)
    if layout.compressed or layout.samples > 1:
        return None
    stored = _stored(layout.dtype, ">" if layout.big_endian else "<")
    return _opened((beside(address)[0], layout.file), layout.start, header, stored)


def _meta_planes(
    address: str, header: Header, how: tuple[int, bool], wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    layout, (channel, to_end) = _meta_layout(address, header), how
    dtype = _stored(layout.dtype, ">" if layout.big_endian else "<")
    depth, *shape = layout.shape
    size, done = layout.voxel_bytes // depth, 0
    with _stream_of(beside(address)[0], layout.file) as file:
        file.seek(layout.start)
        stream: Any = _Inflated(file, "gzip") if layout.compressed else file

        def skip(planes: int) -> None:
            if isinstance(stream, _Inflated):
                stream.skip(planes * size)
            else:
                stream.seek(planes * size, 1)

        for number in wanted:
            skip(number - done)
            data = bytearray(size)
            _fill(stream, memoryview(data))
            done = number + 1
            plane = np.frombuffer(data, dtype).reshape(*shape, layout.samples)[..., channel]
            yield number, np.ascontiguousarray(plane, dtype.newbyteorder("="))
        if to_end:
            skip(depth - done)
            _ended(stream, layout.voxel_bytes, 0 if layout.compressed else size - 1)


# ---------------------------------------------------------------------- TIFF
def _tiff(address: str, header: Header, channel: int) -> np.ndarray:
    out = np.empty(header.shape, np.dtype(header.dtype))
    for number, plane in _tiff_planes(address, header, channel, range(header.shape[0])):
        out[number] = plane
    return out


def _plain_tiff(address: str, header: Header, channel: int) -> PlainVoxels | None:
    folder, name = beside(address)
    with ObjectFile(folder, name, ranged=True) as file:
        stack = read_stack(folder, name, file)
    kind = stack.kind
    stored = _stored(kind.dtype, stack.byteorder)
    plane = math.prod(kind.shape) * stored.itemsize
    starts = stack.starts_of(channel) if kind.bytes == plane * kind.samples else None
    if starts is None:
        return None
    if (stack.planes.depth, *kind.shape) != header.shape or kind.dtype != header.dtype:
        raise ValueError("its header has changed since it was read")
    return _opened((folder, name), starts, header, stored)


def _tiff_planes(
    address: str, header: Header, channel: int, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    folder, name = beside(address)
    with ObjectFile(folder, name, ranged=True) as file:
        stack = read_stack(folder, name, file)
        kind = stack.kind
        if (stack.planes.depth, *kind.shape) != header.shape or kind.dtype != header.dtype:
            raise ValueError("its header has changed since it was read")
        which, sample = divmod(channel, kind.samples)
        places = stack.planes.of_channel(which)
        if stack.planes.one_directory:
            start = (stack.plain_starts[0] or 0) + which * stack.planes.depth * kind.bytes
            for number in wanted:
                yield number, _plain(file, stack, start + number * kind.bytes, sample)
            return
    for number, page in _pages(folder, name, [(n, places[n]) for n in wanted], stack):
        if page.dtype.kind == "b":
            page = page.astype(np.uint8)
        if page.ndim == 3:
            page = page[..., sample] if page.shape[-1] == kind.samples else page[sample]
        if page.shape != kind.shape or page.dtype != np.dtype(kind.dtype):
            raise ValueError(
                f"plane {number} decodes to {page.shape} {page.dtype} instead of {kind.shape} "
                f"{kind.dtype}"
            )
        yield number, page


def _pages(
    folder: Store, name: str, wanted: Iterable[tuple[int, Place]], stack: TiffStack
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield number and pixels of planes, whose numbers and places are given, file by file."""
    by_file: dict[str, list[tuple[int, int]]] = {}
    for number, (other, page) in wanted:
        by_file.setdefault(other or name, []).append((number, page))
    for key, pages in by_file.items():
        with ObjectFile(folder, key, ranged=True) as file:
            directories = stack.directories
            if key != name:
                kind, directories, _ = look_at_pages(Tiff.open(file))
                _check_same(key, kind, stack.kind)
            with tifffile.TiffFile(file, name=PurePosixPath(key).name) as tiff:
                for number, page in pages:
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


def _plain(file: ObjectFile, stack: TiffStack, start: int, sample: int) -> np.ndarray:
    kind = stack.kind
    dtype = _stored(kind.dtype, stack.byteorder)
    data = bytearray(kind.bytes)
    file.fill(start, memoryview(data))
    page = np.frombuffer(data, dtype, math.prod(kind.shape) * kind.samples)
    page = page.reshape(*kind.shape, kind.samples)[..., sample]
    return np.ascontiguousarray(page, dtype.newbyteorder("="))


# ---------------------------------------------------------------------- planes
def _series(address: str, header: Header) -> PlaneSeries:
    series = find_series(address)
    if series is None or (series.shape, series.dtype) != (header.shape, header.dtype):
        raise ValueError("its planes have changed since its header was read")
    return series


def _series_rows(series: PlaneSeries, plane: int, rows: slice) -> np.ndarray:
    name = series.names[plane]
    try:
        return read_rows(series.store, name, (series.shape[1:], series.dtype), rows)[0]
    except AcquisitionError as error:
        reason = str(error).split(";")[0].removeprefix(f"{name} ")
        raise VolumeError(f"{series.store.address(name)} {reason}; copy it again") from error


def _series_planes(
    address: str, header: Header, wanted: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    series = _series(address, header)
    for number in wanted:
        yield number, _series_rows(series, number, slice(0, header.shape[1]))
