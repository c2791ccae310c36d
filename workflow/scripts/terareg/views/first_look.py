"""Raw tiles at the stage's positions: three middle planes of the sample before anything long runs.

The plane along z takes one plane of every tile. The other two take thin strips of some planes of
the tiles that they cross. Nothing is corrected, measured or stored, so that a wrong orientation, a
wrong voxel size or exchanged axes are seen after minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from terareg.acquisition.model import Acquisition, Tile
from terareg.acquisition.tiles import TileSource
from terareg.core.frames import Frame, orientation_matrix
from terareg.core.parallel import map_items

# planes of a tile from which the planes along z are made, and pixels along the longest side
_DEPTHS = 64
_PIXELS = 700


@dataclass(frozen=True)
class Section:
    """One middle plane of the sample.

    Attributes
    ----------
    axis : int
        Array axis perpendicular to it.
    image : numpy.ndarray, float32, shape (rows, columns)
        Not a number where no tile was taken.
    frame : Frame
        One voxel along ``axis``; its other two axes are those of the image.
    """

    axis: int
    image: np.ndarray
    frame: Frame


def whole_frame(acquisition: Acquisition) -> Frame:
    """Grid of all tiles at their nominal positions, raw voxels."""
    origins = np.array([tile.origin_vox for tile in acquisition.tiles])
    low = origins.min(0)
    high = (origins + acquisition.tile_shape).max(0)
    z, y, x = np.ceil(high - low).astype(int).tolist()
    spacing = acquisition.spacing_um
    oz, oy, ox = (low * spacing).tolist()
    return Frame((z, y, x), spacing, (oz, oy, ox), acquisition.orientation)


def middle_sections(source: TileSource, workers: int = 1) -> list[Section]:
    """The three middle planes of the sample, one for each array axis.

    Parameters
    ----------
    source : TileSource
        Of raw tiles.
    workers : int
        Threads.
    """
    frame = whole_frame(source.acquisition)
    step = max(max(frame.extent_um) / _PIXELS, min(frame.spacing_um[1:]))
    bins = [max(1, round(step / spacing)) for spacing in frame.spacing_um]
    depth = source.acquisition.tile_shape[0]
    bins[0] = max(bins[0], -(-depth // _DEPTHS))
    return [_section(source, frame, bins, axis, workers) for axis in range(3)]


def _section(
    source: TileSource, frame: Frame, bins: Sequence[int], axis: int, workers: int
) -> Section:
    """One middle plane; in it, means over ``bins`` raw voxels (of z: every such plane)."""
    acquisition = source.acquisition
    low = np.array(frame.origin_um) / frame.spacing_um
    middle = frame.shape[axis] // 2
    crossed = []
    for tile in acquisition.tiles:
        start = np.rint(np.array(tile.origin_vox) - low).astype(int)
        if start[axis] <= middle < start[axis] + acquisition.tile_shape[axis]:
            crossed.append((tile, start))
    down, right = (a for a in range(3) if a != axis)
    shape = [-(-frame.shape[a] // bins[a]) for a in (down, right)]
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def part(item: tuple[Tile, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tile, start = item
        inside = middle - int(start[axis])
        if axis == 0:
            raw = source.read(tile.name, inside, inside + 1)[0].astype(np.float32)
            lines = [start[a] + np.arange(n) for a, n in zip((1, 2), raw.shape)]
        else:
            depths = range(bins[0] // 2, acquisition.tile_shape[0], bins[0])
            thick = _around(inside, bins[axis], acquisition.tile_shape[axis])
            y, x = (thick, slice(None)) if axis == 1 else (slice(None), thick)
            strips = (source.read(tile.name, z, z + 1, y, x)[0] for z in depths)
            raw = np.stack([strip.mean(axis - 1, dtype=np.float32) for strip in strips])
            lines = [start[0] + np.array(depths), start[right] + np.arange(raw.shape[1])]
        return raw, *(line // bins[a] for line, a in zip(lines, (down, right)))

    for raw, rows, columns in map_items(part, crossed, workers=workers, what="read tiles"):
        place = rows[:, None], columns[None]
        np.add.at(total, place, raw)
        np.add.at(count, place, 1)
    with np.errstate(invalid="ignore"):
        image = np.where(count > 0, total / count, np.nan).astype(np.float32)
    plane = [1, 1, 1]
    plane[down], plane[right] = shape
    spacing = [b * s for b, s in zip(bins, frame.spacing_um)]
    z, y, x = spacing
    return Section(axis, image, Frame((plane[0], plane[1], plane[2]), (z, y, x), (0, 0, 0),
                                      frame.orientation))  # fmt: skip


def _around(index: int, width: int, size: int) -> slice:
    start = max(0, min(index - width // 2, size - width))
    return slice(start, min(size, start + width))


def turned(array: np.ndarray, frame: Frame, orientation: str) -> tuple[np.ndarray, Frame]:
    """An array with its axes exchanged and reversed, so that they run as a code says.

    Parameters
    ----------
    array : numpy.ndarray, shape ``frame.shape``
    frame : Frame
    orientation : str

    Returns
    -------
    array : numpy.ndarray
        A view.
    frame : Frame
        Its origin is 0.
    """
    matrix = orientation_matrix(frame.orientation, orientation)
    order = [int(np.flatnonzero(row)[0]) for row in matrix]
    out = array.transpose(order)
    flips = tuple(slice(None, None, -1 if row.sum() < 0 else 1) for row in matrix)
    z, y, x = (frame.spacing_um[a] for a in order)
    return out[flips], Frame(out[flips].shape, (z, y, x), (0, 0, 0), orientation)


def tile_boxes_um(acquisition: Acquisition) -> list[tuple[str, float, float, float, float]]:
    """Name, left, top, width and height of every tile as seen along z, micrometres."""
    _, y, x = acquisition.spacing_um
    _, height, width = acquisition.tile_shape
    return [
        (tile.name, tile.origin_vox[2] * x, tile.origin_vox[1] * y, width * x, height * y)
        for tile in acquisition.tiles
    ]


def facts(acquisition: Acquisition, channels: Iterable[str]) -> list[str]:
    """Lines that say what was acquired."""
    frame = whole_frame(acquisition)
    millimetres = " x ".join(f"{e / 1000:.3g}" for e in frame.extent_um)
    size = np.prod(acquisition.tile_shape, dtype=float) * len(acquisition.tiles)
    size *= np.dtype(acquisition.dtype).itemsize * len(list(channels))
    voxel = " x ".join(f"{s:.4g}" for s in acquisition.spacing_um)
    return [
        f"{len(acquisition.tiles)} tiles in {acquisition.rows} rows, {acquisition.columns} columns",
        f"each {' x '.join(map(str, acquisition.tile_shape))} voxels (z, y, x)",
        f"voxel {voxel} µm",
        f"in total {millimetres} mm",
        f"raw data {size / 1e9:.3g} GB",
    ]
