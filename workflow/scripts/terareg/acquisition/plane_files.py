"""Pixels of single planes: rows of an image file, or of one of its pages.

Rows of an uncompressed TIFF are read directly from their place in the file. Of a TIFF in compressed
strips, or in tiles, those are decoded that hold the rows; a PNG is decoded as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import imagecodecs
import numpy as np
import tifffile

from terareg.acquisition.image_files import (
    PNG_SIGNATURE,
    Kind,
    PlaneLayout,
    check_kind,
    layout_of,
    unreadable,
)
from terareg.core.errors import AcquisitionError
from terareg.storage.part_arrays import open_part
from terareg.storage.part_names import split_part
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile

_NATIVE = "<" if sys.byteorder == "little" else ">"


def read_rows(
    store: Store,
    key: str,
    expected: Kind,
    rows: slice = slice(None),
    out: np.ndarray | None = None,
    page: int | None = None,
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
    page : int, optional
        Page of the file, from 0; without it the file must hold one plane.

    Returns
    -------
    rows : numpy.ndarray, shape (rows, columns)
        ``out``, if given.
    bytes_read : int
        Bytes of pixel data (or of the compressed file or page) that were read; from S3, all that
        was fetched.

    Raises
    ------
    AcquisitionError
        If the file is absent, damaged, or of another shape or dtype.
    """
    shape, dtype = expected
    start, stop, _ = rows.indices(shape[0])
    if split_part(key) is not None:
        box = (slice(page or 0, (page or 0) + 1), slice(start, stop), slice(0, shape[1]))
        values, count = read_box(store, key, expected, box)
        if out is None:
            return values[0], count
        out[...] = values[0]
        return out, count
    # on S3, reading only a few rows is worth a second request
    ranged = page is not None or stop - start < shape[0] / 2
    if out is None:
        out = np.empty((stop - start, shape[1]), dtype)
    try:
        with ObjectFile(store, key, ranged=ranged) as file:
            layout = layout_of(file, key, page)
            check_kind(layout.kind, key, expected)
            if layout.data_start is None:
                out[...] = _decode(file, key, layout, start, stop)
            else:
                view = out.reshape(-1).view(np.uint8).data
                file.fill(layout.data_start + start * shape[1] * out.itemsize, view)
                if layout.byteorder != _NATIVE and out.itemsize > 1:
                    out.byteswap(inplace=True)
            return out, file.bytes_read
    except (OSError, EOFError) as error:
        raise unreadable(key, error) from error


def read_box(
    store: Store,
    key: str,
    expected: Kind,
    box: tuple[slice, slice, slice],
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Read a box (pages, rows, columns) of an array in a file that holds many.

    Chunks of several planes are decoded once for all of them, and the planes of one chunk are held
    beside the result. Parameters, results and errors are those of :func:`read_rows`; the bytes are
    those of the pixels.
    """
    if out is None:
        out = np.empty([part.stop - part.start for part in box], expected[1])
    with open_part(store, key, AcquisitionError) as array:
        check_kind((array.shape[1:], array.dtype), key, expected)
        if box[0].stop > array.shape[0]:
            raise AcquisitionError(
                f"{key} has {array.shape[0]} planes but plane {box[0].stop - 1} (counted from 0) "
                "is needed; copy it again, or run index_acquisition again"
            )
        z, y, x = box
        depth = array.chunk[0]
        first = z.start
        while first < z.stop:
            stop = min(z.stop, (first // depth + 1) * depth)
            out[first - z.start : stop - z.start] = array.read(slice(first, stop), y, x)
            first = stop
    return out, out.nbytes


def _decode(file: ObjectFile, key: str, layout: PlaneLayout, start: int, stop: int) -> np.ndarray:
    """Decode rows of an image that is compressed, tiled or scattered over its file."""
    try:
        if file.get(0, 8) == PNG_SIGNATURE:
            image = imagecodecs.png_decode(file.all())
            found, image = image.shape, image[start:stop]
        else:
            found, image = _decode_page(file, PurePosixPath(key).name, layout, start, stop)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes can make decoders raise anything
        raise AcquisitionError(
            f"{key} is damaged ({error}); copy it again, or delete it and set "
            "input.missing_planes: interpolate"
        ) from error
    if (found, image.dtype.name) != layout.kind:
        raise AcquisitionError(
            f"{key} decodes to {found} {image.dtype}, but {layout.shape} {layout.dtype} is "
            "stated in its header; copy it again"
        )
    return image


def _decode_page(
    file: ObjectFile, name: str, layout: PlaneLayout, start: int, stop: int
) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape of a page of a TIFF, and rows of it from the strips or tiles that hold them."""
    with tifffile.TiffFile(file, name=name) as tiff:
        tiff.filehandle.seek(layout.directory)
        page = tifffile.TiffPage(tiff, index=0)
        if page.shape != layout.shape or len(page.chunks) != 2:
            return page.shape, page.asarray(maxworkers=1)[start:stop]
        height, width = (min(chunk, size) for chunk, size in zip(page.chunks, page.shape))
        across = -(-page.shape[1] // width)
        parts = -(-page.shape[0] // height) * across
        if len(page.dataoffsets) < parts:
            raise ValueError(f"its table names {len(page.dataoffsets)} of {parts} strips or tiles")
        first, last = start // height * across, -(-stop // height) * across
        out, filled = np.empty((stop - start, page.shape[1]), page.dtype), 0
        encoded = _segments(file, page.dataoffsets[first:last], page.databytecounts[first:last])
        for index, data in enumerate(encoded, first):
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            values, (_, _, top, left, _), _ = page.decode(data, index, **tables)
            rows, columns = values.shape[1:3]
            low, high = max(start, top), min(stop, top + rows)
            right = min(left + columns, page.shape[1])
            part = values[0, low - top : high - top, : right - left, 0]
            out[low - start : high - start, left:right] = part
            filled += part.size
        if filled != out.size:
            raise ValueError(f"its strips or tiles have {filled} of {out.size} pixels")
        return page.shape, out


def _segments(
    file: ObjectFile, starts: Sequence[int], counts: Sequence[int]
) -> Iterator[memoryview]:
    """Encoded strips or tiles; those that lie close together are fetched at once."""
    if not counts:
        return
    begin, end = min(starts), max(start + count for start, count in zip(starts, counts))
    if end - begin <= 2 * sum(counts):
        span = memoryview(bytearray(end - begin))
        file.fill(begin, span)
        yield from (span[start - begin :][:count] for start, count in zip(starts, counts))
        return
    for start, count in zip(starts, counts):
        data = memoryview(bytearray(count))
        file.fill(start, data)
        yield data
