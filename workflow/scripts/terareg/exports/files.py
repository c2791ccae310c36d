"""Writing exports: one file, or a folder of planes, never more than a slab in memory."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile

from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.core.parallel import map_items
from terareg.exports.deflate import write_gzip
from terareg.exports.headers import nifti_header, nrrd_header, ome_xml
from terareg.exports.settings import PLANE_ENDINGS
from terareg.storage import traffic
from terareg.storage.store import Store, atomic_file

_TILE = 512  # pixels, of planes that are too large to be looked at as a whole
_LARGE_PLANE = 4096
_DEFLATE_LEVEL = 4
_UM_PER_CM = 1e4

Slabs = Iterable[tuple[int, np.ndarray]]


@dataclass(frozen=True)
class Picture:
    """What a writer has to know of an export besides its voxels.

    Attributes
    ----------
    name : str
        For titles and names of files.
    frame : Frame
    dtype : str
        "uint8", "uint16", "uint32" or "float32".
    labels : bool
        Whether voxels are regions.
    aligned : bool
        Whether the frame is that of an atlas.
    colours : bool
        Whether voxels are red, green and blue.
    palette : numpy.ndarray, optional
        Colours of uint8 values for TIFF, shape (3, 256), uint16.
    window : (float, float), optional
        Grey values that programs show black and white at first, where the format states them.
    """

    name: str
    frame: Frame
    dtype: str
    labels: bool = False
    aligned: bool = False
    colours: bool = False
    palette: np.ndarray | None = None
    window: tuple[float, float] | None = None


def write_file(
    path: str | os.PathLike[str], form: str, picture: Picture, slabs: Slabs, workers: int = 1
) -> dict:
    """Write an export as one file, which appears when it is complete.

    Parameters
    ----------
    path : path
    form : str
        "nifti" (compressed), "nrrd" or "tiff" (OME-TIFF; BigTIFF where the size asks for it).
    picture : Picture
    slabs : iterable of (first plane, planes)
        All planes, in order; shape (n, y, x), for colours (n, y, x, 3).
    workers : int
        Threads that compress.

    Returns
    -------
    dict
        Facts for the record: ``minimum`` and ``maximum`` of the voxels.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    seen = _Range()
    with atomic_file(path) as stream:
        if form == "tiff":
            _write_tiff(stream, picture, seen.planes(slabs), workers)
        else:
            if form == "nifti":
                head = nifti_header(
                    picture.frame, picture.dtype, labels=picture.labels,
                    aligned=picture.aligned, name=picture.name, window=picture.window,
                )  # fmt: skip
                parts = _parts(head, picture, seen.slabs(slabs))
            else:
                stream.write(nrrd_header(picture.frame, picture.dtype, picture.name))
                parts = _parts(b"", picture, seen.slabs(slabs))
            write_gzip(stream, parts, workers)
    traffic.tell(written=os.path.getsize(path))
    return seen.facts()


def write_planes(
    store: Store, key: str, form: str, picture: Picture, slabs: Slabs, workers: int = 1
) -> dict:
    """Write an export as a folder of planes ``{name}_z0000.tif`` or ``.png``.

    Planes of an earlier export in the same folder are removed first.

    Returns
    -------
    dict
        Facts for the record: ``planes`` (their number), ``first`` and ``last`` (keys), ``bytes``,
        ``sha256`` (over the hashes of the planes, in order), ``minimum`` and ``maximum``.
    """
    store.delete_folder(key)
    ending, seen = PLANE_ENDINGS[form], _Range()
    digits = max(4, len(str(picture.frame.shape[0] - 1)))
    encode = _png if form == "png_series" else _tiff_plane

    def write(item: tuple[int, np.ndarray]) -> tuple[str, int, bytes]:
        number, plane = item
        name = f"{key}/{picture.name}_z{number:0{digits}d}.{ending}"
        data = encode(plane, picture)
        store.write(name, data)
        return name, len(data), hashlib.sha256(data).digest()

    names, size, total = [], 0, hashlib.sha256()
    for first, slab in seen.slabs(slabs):
        for name, count, digest in map_items(write, list(enumerate(slab, first)), workers=workers):
            names.append(name)
            size += count
            total.update(digest)
    _check_count(len(names), picture)
    return {
        "planes": len(names), "first": names[0], "last": names[-1], "bytes": size,
        "sha256": total.hexdigest(), **seen.facts(),
    }  # fmt: skip


class _Range:
    """Smallest and largest value of the slabs that went through."""

    def __init__(self) -> None:
        self._least, self._most = np.inf, -np.inf

    def slabs(self, slabs: Slabs) -> Iterator[tuple[int, np.ndarray]]:
        for first, slab in slabs:
            if slab.size:
                self._least = min(self._least, float(np.nanmin(slab)))
                self._most = max(self._most, float(np.nanmax(slab)))
            yield first, slab

    def planes(self, slabs: Slabs) -> Iterator[np.ndarray]:
        for _, slab in self.slabs(slabs):
            yield from slab

    def facts(self) -> dict[str, float]:
        return {"minimum": self._least, "maximum": self._most}


def _parts(head: bytes, picture: Picture, slabs: Slabs) -> Iterator[memoryview | bytes]:
    planes = 0
    if head:
        yield head
    for _, slab in slabs:
        little = np.dtype(picture.dtype).newbyteorder("<")
        yield np.ascontiguousarray(slab, little).reshape(-1).view(np.uint8).data
        planes += len(slab)
    _check_count(planes, picture)


def _check_count(planes: int, picture: Picture) -> None:
    if planes != picture.frame.shape[0]:
        raise StoreError(
            f"{picture.name}: {planes} of its {picture.frame.shape[0]} planes were given"
        )


def _write_tiff(
    stream: BinaryIO, picture: Picture, planes: Iterator[np.ndarray], workers: int
) -> None:
    frame = picture.frame
    samples = (3,) if picture.colours else ()
    size = np.prod((*frame.shape, *samples), dtype=float) * np.dtype(picture.dtype).itemsize
    # the file may come out smaller; what decides must not depend on how well it compresses
    with tifffile.TiffWriter(stream, bigtiff=bool(size > 2**32 - 2**25), byteorder="<") as writer:
        for number, plane in enumerate(planes):
            options = _tiff_options(picture, workers)
            if number == 0:
                options["description"] = ome_xml(
                    frame, picture.dtype, picture.name, colours=picture.colours
                )
            writer.write(np.ascontiguousarray(plane), **options)
    _check_count(number + 1, picture)


def _tiff_options(picture: Picture, workers: int) -> dict:
    _, height, width = picture.frame.shape
    _, y_um, x_um = picture.frame.spacing_um
    options: dict = {
        "compression": "zlib", "compressionargs": {"level": _DEFLATE_LEVEL},
        "photometric": "rgb" if picture.colours else "minisblack",
        "resolution": (_UM_PER_CM / x_um, _UM_PER_CM / y_um), "resolutionunit": "CENTIMETER",
        "software": "terareg", "metadata": None, "maxworkers": max(1, workers),
    }  # fmt: skip
    if max(height, width) > _LARGE_PLANE:
        options["tile"] = (_TILE, _TILE)
    if picture.palette is not None:
        options |= {"photometric": "palette", "colormap": picture.palette}
    return options


def _tiff_plane(plane: np.ndarray, picture: Picture) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, byteorder="<") as writer:
        writer.write(np.ascontiguousarray(plane), **_tiff_options(picture, 1))
    return stream.getvalue()


def _png(plane: np.ndarray, picture: Picture) -> bytes:
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(plane), level=_DEFLATE_LEVEL))
