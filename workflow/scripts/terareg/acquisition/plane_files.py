"""Pixels of single planes: rows of an image file, or of one of its pages.

Rows of an uncompressed TIFF are read directly from their place in the file. Otherwise the whole
file is decoded if it holds one plane, or else the whole page.
"""

from __future__ import annotations

import io
import sys
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
                out[...] = _decode(file, key, expected, None if page is None else layout)[
                    start:stop
                ]
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


def _decode(file: ObjectFile, key: str, expected: Kind, page: PlaneLayout | None) -> np.ndarray:
    """Decode an image that is compressed, tiled or scattered over its file."""
    name = PurePosixPath(key).name
    try:
        if page is not None:
            image = _decode_page(file, name, page)
        elif (data := file.all())[:8] == PNG_SIGNATURE:
            image = imagecodecs.png_decode(data)
        else:
            with tifffile.TiffFile(io.BytesIO(data), name=name) as tiff:
                image = tiff.pages.first.asarray(maxworkers=1)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes can make decoders raise anything
        raise AcquisitionError(
            f"{key} is damaged ({error}); copy it again, or delete it and set "
            "input.missing_planes: interpolate"
        ) from error
    if (image.shape, image.dtype.name) != (tuple(expected[0]), expected[1]):
        raise AcquisitionError(
            f"{key} decodes to {image.shape} {image.dtype}, but {expected[0]} {expected[1]} is "
            "stated in its header; copy it again"
        )
    return image


def _decode_page(file: ObjectFile, name: str, page: PlaneLayout) -> np.ndarray:
    with tifffile.TiffFile(file, name=name) as tiff:
        tiff.filehandle.seek(page.directory)
        return tifffile.TiffPage(tiff, index=0).asarray(maxworkers=1)
