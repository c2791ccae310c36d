"""TeraFly's folders of blocks, what TeraStitcher calls "TIFF (tiled, 3D)".

Every level is a folder ``RES(YxXxZ)``, named after its voxels, with blocks ``Y/Y_X/Y_X_Z.tif``:
TIFF files of at most 257 voxels along each axis, one page for each plane, LZW. Y, X and Z say where
the first voxel of a block lies, in tenths of a micrometre from that of the volume.

``mdata.bin`` lists the blocks of a level, little-endian: float32 version (2); int32 axes (1, 2, 3:
y, x, z); float32 voxel sizes twice, in micrometres, and the origin, in millimetres, as (y, x, z);
uint32 voxels (y, x, z); uint16 rows and columns of folders; then for each folder, row by row:
uint32 height, width, depth, number of blocks, channels; int32 first row and first column; its name;
for each block its name, uint32 planes and int32 first plane; uint32 bytes of a voxel. A name is its
length with the final zero as uint16, then its bytes and the zero.

References: A. Bria et al., TeraFly, Nature Methods 13 (2016) 192; the layout is that which
TeraConverter and Vaa3D read.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tifffile

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import Box, level_factors
from terareg.exports.files import Picture
from terareg.exports.settings import TERAFLY_EDGE
from terareg.exports.slabs import Boxes
from terareg.storage.store import Store

_VERSION = 2.0
_AXES = (1, 2, 3)
_TENTHS = 10
_LEAST_DIGITS = 6
# programs that read the blocks refuse a block of one row or column
_LEAST_ROWS = 2


@dataclass(frozen=True)
class _Level:
    """A level of the export: its grid, and where its blocks begin along (z, y, x), with the end."""

    frame: Frame
    cuts: tuple[list[int], ...]

    @property
    def folder(self) -> str:
        z, y, x = self.frame.shape
        return f"RES({y}x{x}x{z})"

    def tenths(self, axis: int, digits: int) -> list[str]:
        """Where blocks begin along an axis, in tenths of a micrometre."""
        step = self.frame.spacing_um[axis] * _TENTHS
        return [f"{round(n * step):0{digits}d}" for n in self.cuts[axis][:-1]]

    def names(self, digits: int) -> Iterator[tuple[str, list[tuple[str, Box]]]]:
        """Folder of every row and column of blocks, with file and index of its blocks."""
        z, y, x = (self.tenths(axis, digits) for axis in range(3))
        for row, top in enumerate(y):
            for column, left in enumerate(x):
                files = [(f"{top}_{left}_{near}.tif", (n, row, column)) for n, near in enumerate(z)]
                yield f"{top}/{top}_{left}", files

    def box(self, block: Box) -> tuple[Box, Box]:
        """First voxel of a block and the one behind its last."""
        start, stop = zip(*((c[n], c[n + 1]) for c, n in zip(self.cuts, block)))
        return start, stop


def block_cuts(size: int) -> list[int]:
    """Where blocks begin along an axis, and the end; a last block of one voxel is not cut off."""
    cuts = [*range(0, size, TERAFLY_EDGE), size]
    if size > TERAFLY_EDGE and size % TERAFLY_EDGE == 1:
        del cuts[-2]
    return cuts


def terafly_levels(frame: Frame, name: str) -> list[_Level]:
    """Levels of an export, full size first, at least two.

    Raises
    ------
    VolumeError
        If a level has fewer than two voxels along y or x.
    """
    factors = level_factors(frame.shape, frame.spacing_um, TERAFLY_EDGE)
    if len(factors) == 1:
        factors.append(tuple(2 if n > 1 else 1 for n in frame.shape))
    levels = []
    for factor in factors:
        grid = frame.downsampled(factor)
        if min(grid.shape[1:]) < _LEAST_ROWS:
            raise VolumeError(
                f"export {name} has a level of {grid.shape[1]} x {grid.shape[2]} voxels (y, x), "
                f"but TeraFly reads blocks of at least {_LEAST_ROWS} along both; use format: tiff"
            )
        levels.append(_Level(grid, tuple(block_cuts(n) for n in grid.shape)))
    return levels


def write_terafly(store: Store, key: str, picture: Picture, boxes: Boxes, workers: int = 1) -> dict:
    """Write the levels of an export; what an earlier one left in the folder is removed first.

    One block is held at a time. The index of a level is written when its blocks are there.

    Parameters
    ----------
    store : Store
    key : str
        Folder.
    picture : Picture
        Of the full size.
    boxes : callable
        Makes the voxels of a box of a level.
    workers : int
        Threads that compress planes.

    Returns
    -------
    dict
        Facts for the record: ``levels`` (folders, full size first), ``blocks`` (their number),
        ``bytes``, ``sha256`` (over the hashes of the blocks, in order), ``minimum`` and ``maximum``
        of the full size.
    """
    if picture.dtype not in ("uint8", "uint16"):
        raise VolumeError(
            f"export {picture.name} is of type {picture.dtype}, but TeraFly stores 8 or 16 bits as "
            "integers; use format: tiff, or export a derived volume of do: quantize"
        )
    levels = terafly_levels(picture.frame, picture.name)
    store.delete_folder(key)
    # names are sorted as text by the programs that read them
    digits = max(
        _LEAST_DIGITS, *(len(level.tenths(a, 0)[-1]) for level in levels for a in range(3))
    )
    least, most, total = math.inf, -math.inf, hashlib.sha256()
    blocks, size = 0, 0
    for number, level in enumerate(levels):
        folders = list(level.names(digits))
        everything = [(folder, *file) for folder, files in folders for file in files]
        for folder, name, index in everything:
            box = level.box(index)
            voxels = np.concatenate([part for _, part in boxes(level.frame, box)])
            if number == 0:
                least = min(least, float(voxels.min()))
                most = max(most, float(voxels.max()))
            data = _tiff_block(voxels, level.frame, workers)
            store.write(f"{key}/{level.folder}/{folder}/{name}", data)
            total.update(hashlib.sha256(data).digest())
            blocks, size = blocks + 1, size + len(data)
        index_bytes = level_index(level, folders, np.dtype(picture.dtype).itemsize)
        store.write(f"{key}/{level.folder}/mdata.bin", index_bytes)
    return {
        "levels": [level.folder for level in levels], "blocks": blocks, "bytes": size,
        "sha256": total.hexdigest(), "minimum": least, "maximum": most,
    }  # fmt: skip


def level_index(
    level: _Level, folders: Sequence[tuple[str, list[tuple[str, Box]]]], itemsize: int
) -> bytes:
    """Content of ``mdata.bin`` of a level, see the module."""
    z, y, x = level.frame.shape
    size_z, size_y, size_x = level.frame.spacing_um
    sizes = (size_y, size_x, size_z)
    rows, columns = (len(level.cuts[axis]) - 1 for axis in (1, 2))
    parts = [struct.pack("<f3i", _VERSION, *_AXES), struct.pack("<9f", *sizes, *sizes, 0, 0, 0)]
    parts.append(struct.pack("<3I2H", y, x, z, rows, columns))
    for folder, files in folders:
        (_, top, left), (_, bottom, right) = level.box(files[0][1])
        parts.append(struct.pack("<5I", bottom - top, right - left, z, len(files), 1))
        parts.append(struct.pack("<2i", top, left) + _text(folder))
        for name, index in files:
            (near, _, _), (far, _, _) = level.box(index)
            parts.append(_text(name) + struct.pack("<Ii", far - near, near))
        parts.append(struct.pack("<I", itemsize))
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode("ascii") + b"\0"
    return struct.pack("<H", len(data)) + data


def _tiff_block(voxels: np.ndarray, frame: Frame, workers: int) -> bytes:
    """A block as a TIFF file of one strip for each plane."""
    stream = io.BytesIO()
    _, y_um, x_um = frame.spacing_um
    with tifffile.TiffWriter(stream, byteorder="<") as writer:
        writer.write(
            np.ascontiguousarray(voxels), photometric="minisblack", metadata=None,
            compression="lzw", predictor=True, rowsperstrip=voxels.shape[1], software="terareg",
            resolution=(1e4 / x_um, 1e4 / y_um), resolutionunit="CENTIMETER", maxworkers=workers,
        )  # fmt: skip
    return stream.getvalue()
