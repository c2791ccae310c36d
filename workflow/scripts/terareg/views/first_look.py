"""Three middle planes of the raw images of a sample before anything long runs.

Tiles lie at the stage's positions: the plane along z takes one plane of every tile, the other two
take thin strips of some planes of the tiles that they cross. Of a volume the coarsest level that is
fine enough is read around the planes; of a file, which has no levels, some planes along z. Nothing
is corrected, measured or stored, so that a wrong orientation, a wrong voxel size or exchanged axes
are seen after minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terareg.acquisition.model import Acquisition, Tile
from terareg.acquisition.tiles import TileSource
from terareg.core.frames import Frame
from terareg.core.parallel import map_items
from terareg.views.tables import size as byte_size
from terareg.volumes.headers import FILE_FORMS, find_series, image_form, nrrd_orientation
from terareg.volumes.images import ImageSettings, image_planes, open_image
from terareg.volumes.importing import frame_of_input
from terareg.volumes.reader import Levels

# planes of a tile, and of an image file, from which the planes along z are made
_DEPTHS = 64
_FILE_DEPTHS = 512
# pixels along the longest side
_PIXELS = 700
# planes of a volume that are averaged, and voxels that are read at a time
_THICK = 4
_PART_VOXELS = 1 << 22


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
    bins = _bins(frame, source.acquisition.tile_shape[0], _DEPTHS)
    return [_section(source, frame, bins, axis, workers) for axis in range(3)]


def image_sections(
    address: str, frame: Frame, channel: Mapping[str, Any], workers: int = 1
) -> list[Section]:
    """The three middle planes of an image that is imported, one for each array axis.

    Parameters
    ----------
    address : str
        Of an image file, or of an OME-Zarr or precomputed volume.
    frame : Frame
        Of its finest level, as described in ``input.json``.
    channel : mapping
        "channel" is its number in the image; "fill_missing" says whether chunks that a precomputed
        volume lacks are zeros.
    workers : int
        Threads.

    Raises
    ------
    VolumeError
        If the image is damaged where it is read.
    """
    if image_form(address) in FILE_FORMS or find_series(address) is not None:
        return _sections_of_file(address, frame, channel["channel"])
    grid = ImageSettings(frame.spacing_um, frame.orientation, **channel)
    return level_sections(open_image(address, grid), workers)


def _bins(frame: Frame, depth: int, depths: float = np.inf) -> list[int]:
    """Voxels along each axis that make a pixel; ``depth`` planes make at most about ``depths``."""
    step = max(max(frame.extent_um) / _PIXELS, min(frame.spacing_um[1:]))
    bins = [max(1, round(step / spacing)) for spacing in frame.spacing_um]
    bins[0] = min(max(bins[0], int(np.ceil(depth / depths))), depth)
    return bins


def _plane_frame(frame: Frame, bins: Sequence[int], axis: int, image: np.ndarray) -> Frame:
    """Grid of a middle plane."""
    shape = list(image.shape)
    shape.insert(axis, 1)
    z, y, x = (b * s for b, s in zip(bins, frame.spacing_um))
    return Frame((shape[0], shape[1], shape[2]), (z, y, x), (0, 0, 0), frame.orientation)


def _sections_of_file(address: str, frame: Frame, channel: int) -> list[Section]:
    """Middle planes of a file that is read plane by plane."""
    bins = _bins(frame, frame.shape[0], _FILE_DEPTHS)
    middle = [n // 2 for n in frame.shape]
    _, thick_y, thick_x = (_around(m, b, n) for m, b, n in zip(middle, bins, frame.shape))
    depths = range(bins[0] // 2, frame.shape[0], bins[0])
    lines_y, lines_x = [], []
    for number, plane in image_planes(address, sorted({*depths, middle[0]}), channel):
        if number == middle[0]:
            across = _binned(plane, bins[1], bins[2])
        if number in depths:
            lines_y.append((number, _binned(plane[thick_y], bins[1], bins[2])[0]))
            lines_x.append((number, _binned(plane[:, thick_x], bins[1], bins[2])[:, 0]))
    # files of a set may have their planes in another order
    images = [across] + [
        np.stack([line for _, line in sorted(lines, key=lambda found: found[0])])
        for lines in (lines_y, lines_x)
    ]
    return [
        Section(axis, image, _plane_frame(frame, bins, axis, image))
        for axis, image in enumerate(images)
    ]


def level_sections(volume: Levels, workers: int = 1) -> list[Section]:
    """The three middle planes of a volume that is read box by box, from one of its levels."""
    step = max(max(volume.frame.extent_um) / _PIXELS, min(volume.frame.spacing_um[1:]))
    level = volume.level_for([max(step, own) for own in volume.frame.spacing_um])
    frame = volume.level_frame(level)
    bins = _bins(frame, frame.shape[0])
    return [_section_of_level(volume, level, bins, axis, workers) for axis in range(3)]


def _section_of_level(
    volume: Levels, level: int, bins: Sequence[int], axis: int, workers: int
) -> Section:
    frame = volume.level_frame(level)
    shape = frame.shape
    down, right = (a for a in range(3) if a != axis)
    thick = _around(shape[axis] // 2, min(bins[axis], _THICK), shape[axis])
    line = shape[right] * (thick.stop - thick.start)
    rows = bins[down] * max(1, _PART_VOXELS // (bins[down] * line))

    def part(first: int) -> np.ndarray:
        start, stop = [0, 0, 0], list(shape)
        start[axis], stop[axis] = thick.start, thick.stop
        start[down], stop[down] = first, min(first + rows, shape[down])
        planes = np.moveaxis(volume.read(level, start, stop), axis, 0)
        total = np.zeros(planes.shape[1:], np.float32)
        for plane in planes:
            total += plane
        return _binned(total / len(planes), bins[down], bins[right])

    what = f"{volume.name}: parts of a plane"
    found = map_items(part, range(0, shape[down], rows), workers=workers, what=what)
    image = np.concatenate(list(found))
    return Section(axis, image, _plane_frame(frame, bins, axis, image))


def _binned(plane: np.ndarray, down: int, right: int) -> np.ndarray:
    """Means of finite pixels in boxes of ``down`` x ``right`` pixels, float32; NaN if none is."""
    starts = [np.arange(0, n, step) for n, step in zip(plane.shape, (down, right))]

    def summed(values: np.ndarray) -> np.ndarray:
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.float32)
        return np.add.reduceat(rows, starts[1], axis=1)

    finite = np.isfinite(plane)
    with np.errstate(invalid="ignore"):
        return summed(np.where(finite, plane, 0)) / summed(finite)


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
    return Section(axis, image, _plane_frame(frame, bins, axis, image))


def _around(index: int, width: int, size: int) -> slice:
    start = max(0, min(index - width // 2, size - width))
    return slice(start, min(size, start + width))


def tile_boxes_um(acquisition: Acquisition) -> list[tuple[str, float, float, float, float]]:
    """Name, left, top, width and height of every tile as seen along z, micrometres."""
    _, y, x = acquisition.spacing_um
    _, height, width = acquisition.tile_shape
    return [
        (tile.name, tile.origin_vox[2] * x, tile.origin_vox[1] * y, width * x, height * y)
        for tile in acquisition.tiles
    ]


def image_facts(index: Mapping[str, Any], channel: str) -> list[str]:
    """Lines that say what is imported.

    Parameters
    ----------
    index : mapping
        Content of ``input.json``.
    channel : str
        The one that is shown.
    """
    frame, image = frame_of_input(index), index["channels"][channel]
    sizes = (np.dtype(each["source_dtype"]).itemsize for each in index["channels"].values())
    lines = [
        f"channel {channel}, {image['form']}",
        f"{' x '.join(map(str, frame.shape))} voxels (z, y, x)",
        *_size_facts(frame),
        f"raw data {byte_size(int(np.prod(frame.shape, dtype=float)) * sum(sizes))}",
    ]
    if image["form"] == "NRRD":
        stated = nrrd_orientation(image["source"])
        lines.append(f"orientation in its header: {stated or 'none'}")
    return lines


def _size_facts(frame: Frame) -> list[str]:
    voxel = " x ".join(f"{s:.4g}" for s in frame.spacing_um)
    millimetres = " x ".join(f"{e / 1000:.3g}" for e in frame.extent_um)
    return [f"voxel {voxel} µm", f"in total {millimetres} mm"]


def facts(acquisition: Acquisition, channels: Iterable[str]) -> list[str]:
    """Lines that say what was acquired."""
    size = np.prod(acquisition.tile_shape, dtype=float) * len(acquisition.tiles)
    size *= np.dtype(acquisition.dtype).itemsize * len(list(channels))
    return [
        f"{len(acquisition.tiles)} tiles in {acquisition.rows} rows, {acquisition.columns} columns",
        f"each {' x '.join(map(str, acquisition.tile_shape))} voxels (z, y, x)",
        *_size_facts(whole_frame(acquisition)),
        f"raw data {byte_size(int(size))}",
    ]
