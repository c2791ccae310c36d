"""Deep Zoom: planes of a volume as 8-bit JPEG tiles, and a page that shows them.

Level L of a plane, with 2^L at least as large as its longer side, has all its pixels; every level
below has half as many along each side, rounded up, down to one pixel. A level is cut into tiles of
256 pixels without overlap. Grey values of every level come from floating-point means, so that they
are within half a grey level before JPEG.

Reference: the Deep Zoom file format (DZI), schema http://schemas.microsoft.com/deepzoom/2008.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence

import imagecodecs
import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.parallel import map_items
from terareg.exports.settings import ExportSettings, slab_planes
from terareg.exports.slabs import VoxelBox, export_frame, export_slabs
from terareg.exports.tiles_page import PAGE
from terareg.storage.store import Store
from terareg.volumes import histogram
from terareg.volumes.downsample import downsample
from terareg.volumes.reader import Levels

TILE = 256
_QUALITY = 90
_WHITE = 255
_ROUNDING = 1e-6  # voxels

#: opposite corners (z, y, x) of a box, micrometres
Corners = tuple[Sequence[float], Sequence[float]]


def level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Width and height of every level of a plane, level 0 (one pixel) first."""
    sizes = [(width, height)]
    while sizes[-1] != (1, 1):
        w, h = sizes[-1]
        sizes.append((-(-w // 2), -(-h // 2)))
    return sizes[::-1]


def tile_count(width: int, height: int) -> int:
    """Number of tiles of all levels of a plane."""
    return sum(-(-w // TILE) * -(-h // TILE) for w, h in level_sizes(width, height))


def grey_levels(plane: np.ndarray, low: float, high: float) -> list[np.ndarray]:
    """Grey values of every level, uint8, level 0 first.

    Parameters
    ----------
    plane : numpy.ndarray, shape (rows, columns)
    low, high : float
        Counts that become black and white; grey is linear between them.
    """
    scaled = (plane.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    grey = np.clip(np.nan_to_num(scaled), 0, 1, out=scaled) * np.float32(_WHITE)
    levels = []
    for _ in level_sizes(*plane.shape[::-1]):
        levels.append(np.floor(grey + np.float32(0.5)).astype(np.uint8))
        step = (1, *(2 if n > 1 else 1 for n in grey.shape))
        grey = downsample(grey[None], step)[0]
    return levels[::-1]


def shown_planes(
    settings: ExportSettings,
    source: Levels,
    frame: Frame,
    workers: int = 1,
    box: VoxelBox | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and pixels of every plane that is shown.

    Rows and columns are the two axes that are left, in the order z, y, x. Projections are float32
    for means, otherwise of the source's type. Of a ``box`` of the frame, planes have the numbers
    that they have without it.

    Raises
    ------
    VolumeError
        If a plane is asked for that the export does not have.
    """
    axis = "zyx".index(settings.axis)
    low, high = box or ((0, 0, 0), frame.shape)
    begin, end = low[axis], high[axis]
    how = (source, frame, settings.interpolation, workers)
    if settings.planes in ("max", "mean"):
        parts = export_slabs(*how, box=(low, high))
        yield settings.planes, _projection(parts, settings.planes, axis, end - begin)
        return
    if settings.planes == "middle":
        wanted: tuple[int, ...] = ((begin + end) // 2,)
    elif settings.planes == "all":
        wanted = tuple(range(begin, end))
    else:
        wanted = tuple(int(n) for n in settings.planes)
    missing = next((n for n in sorted(wanted, reverse=True) if not begin <= n < end), None)
    if missing is not None:
        raise VolumeError(
            f"there is no plane {missing} along {settings.axis}; the export has planes {begin} to "
            f"{end - 1}"
        )
    # neighbours are read together, because a chunk of the source holds many planes
    pixels = math.prod(b - a for a, b in zip(low, high)) / (end - begin)
    together = slab_planes(4 * pixels)
    digits = max(4, len(str(frame.shape[axis] - 1)))
    for first, last in _runs(sorted(wanted), together):
        start, stop = list(low), list(high)
        start[axis], stop[axis] = first, last + 1
        part = np.concatenate([s for _, s in export_slabs(*how, box=(start, stop))])
        for number in range(first, last + 1):
            yield f"{settings.axis}{number:0{digits}d}", np.take(part, number - first, axis)


def write_tiles(
    store: Store,
    key: str,
    settings: ExportSettings,
    source: Levels,
    outlines: Mapping[str, Corners] | None = None,
    workers: int = 1,
    within: Corners | None = None,
) -> dict:
    """Write tiles of all planes, their descriptions (``.dzi``) and the page ``index.html``.

    What an earlier export left in the folder is removed first; the page is written last.

    Parameters
    ----------
    store : Store
    key : str
        Folder; its name is the title of the page.
    settings : ExportSettings
    source : Levels
    outlines : mapping of str to (corner, corner), optional
        Boxes that the page can outline, by name: opposite corners (z, y, x), micrometres.
    workers : int
        Threads.
    within : (corner, corner), optional
        The part that is shown, opposite corners (z, y, x) in micrometres; voxels that lie in it as
        a whole.

    Returns
    -------
    dict
        Facts for the record: ``planes`` and ``tiles`` (numbers), ``page`` (key), ``window`` (black
        and white), ``bytes``, ``sha256`` (over the hashes of the tiles, in order).
    """
    store.delete_folder(key)
    frame = export_frame(source, settings.resolution_um, settings.isotropic)
    box = voxels_within(frame, within) if within else ((0, 0, 0), frame.shape)
    low, high = _window(settings, source, frame, workers, box)
    rows, columns = (a for a in range(3) if a != "zyx".index(settings.axis))
    names, tiles, size, total = [], 0, 0, hashlib.sha256()
    for plane_name, plane in shown_planes(settings, source, frame, workers, box):
        levels = grey_levels(plane, low, high)
        height, width = plane.shape
        wanted = [(n, y, x) for n, level in enumerate(levels)
                  for y in range(0, level.shape[0], TILE)
                  for x in range(0, level.shape[1], TILE)]  # fmt: skip

        def write(tile: tuple[int, int, int], levels=levels, folder=plane_name) -> bytes:
            level, y, x = tile
            pixels = np.ascontiguousarray(levels[level][y : y + TILE, x : x + TILE])
            data = bytes(imagecodecs.jpeg8_encode(pixels, level=_QUALITY))
            place = f"{level}/{x // TILE}_{y // TILE}.jpg"
            store.write(f"{key}/{folder}_files/{place}", data)
            return data

        for data in map_items(write, wanted, workers=workers):
            tiles, size = tiles + 1, size + len(data)
            total.update(hashlib.sha256(data).digest())
        store.write(f"{key}/{plane_name}.dzi", _dzi(width, height))
        names.append(plane_name)
    # across planes the numbers are those of all planes
    across = "zyx".index(settings.axis)
    start, stop = ([*corner] for corner in box)
    start[across], stop[across] = 0, frame.shape[across]
    frame = frame.cropped(start, stop)
    told = {
        "title": key.rpartition("/")[2], "planes": names, "width": frame.shape[columns],
        "height": frame.shape[rows], "tile": TILE, "window": [low, high],
        "spacing_um": [frame.spacing_um[columns], frame.spacing_um[rows]],
        "letters": [frame.orientation[columns], frame.orientation[rows]],
        "outlines": outlines_on(frame, outlines or {}, settings.axis),
    }  # fmt: skip
    text = json.dumps(told, sort_keys=True).replace("<", "\\u003c")
    page = f"{key}/index.html"
    store.write(page, PAGE.replace("@DATA@", text).encode())
    return {
        "planes": len(names), "tiles": tiles, "page": page, "window": [low, high], "bytes": size,
        "sha256": total.hexdigest(),
    }  # fmt: skip


def box_of_all(channels: Sequence[Sequence[Corners]]) -> Corners:
    """Opposite corners (z, y, x) of what all channels have seen, from first tile to last.

    Parameters
    ----------
    channels : sequence of sequence of (corner, corner)
        Corners of the tiles of each channel; axes may run in any direction.
    """
    seen = [np.array(tiles, float) for tiles in channels]
    low = np.max([tiles.min(axis=(0, 1)) for tiles in seen], axis=0)
    high = np.min([tiles.max(axis=(0, 1)) for tiles in seen], axis=0)
    if not np.all(low < high):
        raise VolumeError(
            "the tiles of the channels have no place in common; look at the shifts of the channels "
            "in the report, or remove common"
        )
    return low.tolist(), high.tolist()


def voxels_within(frame: Frame, corners: Corners) -> VoxelBox:
    """First voxel (z, y, x) of those that lie between two corners, and the one after the last.

    Raises
    ------
    VolumeError
        If there is none.
    """
    faces = np.sort(frame.to_index(np.array(corners, float)) + 0.5, axis=0)
    low = np.clip(np.ceil(faces[0] - _ROUNDING), 0, frame.shape).astype(int).tolist()
    high = np.clip(np.floor(faces[1] + _ROUNDING), 0, frame.shape).astype(int).tolist()
    if not all(a < b for a, b in zip(low, high)):
        raise VolumeError(
            "the channels have no voxel of the export in common; look at their shifts in the "
            "report, or remove common"
        )
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def outlines_on(
    frame: Frame, boxes: Mapping[str, Corners], axis: str
) -> list[tuple[str, list[float], list[float]]]:
    """Name of each box, its edges on a plane, and along the axis across planes.

    Edges on a plane are left, top, right and bottom in pixels from the corner of the first one;
    those across are first and last in planes, so that a box is on plane n if n + 0.5 is between
    them.
    """
    across = "zyx".index(axis)
    rows, columns = (a for a in range(3) if a != across)
    found = []
    for name, corners in boxes.items():
        low, high = np.sort(frame.to_index(np.array(corners, float)) + 0.5, axis=0).round(3)
        edges = [low[columns], low[rows], high[columns], high[rows]]
        found.append((name, [float(e) for e in edges], [float(low[across]), float(high[across])]))
    return found


def _projection(
    slabs: Iterator[tuple[int, np.ndarray]], kind: str, axis: int, size: int
) -> np.ndarray:
    if kind == "max":
        parts = [slab.max(axis=axis) for _, slab in slabs]
        whole: np.ndarray = np.maximum.reduce(parts) if axis == 0 else np.concatenate(parts)
        return whole
    sums = [slab.sum(axis=axis, dtype=np.float64) for _, slab in slabs]
    total: np.ndarray = np.add.reduce(sums) if axis == 0 else np.concatenate(sums)
    return (total / size).astype(np.float32)


def _runs(numbers: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """First and last of runs of consecutive numbers, none longer than ``longest``."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number == last + 1 and number - first < longest:
            last = number
            continue
        yield first, last
        first = last = number
    yield first, last


def _window(
    settings: ExportSettings, source: Levels, frame: Frame, workers: int, box: VoxelBox
) -> tuple[float, float]:
    """Counts of black and white: percentiles of all planes that are shown."""
    counts: dict[int, int] = {}
    exact = np.zeros(2**16, np.int64)
    integers = False
    for _, plane in shown_planes(settings, source, frame, workers, box):
        if plane.dtype in (np.uint8, np.uint16):
            exact += np.bincount(plane.ravel(), minlength=exact.size)
            integers = True
        else:
            counts = histogram.merge([counts, histogram.histogram(plane)])
    low, high = settings.clip_percent
    if integers:
        below = np.cumsum(exact)
        ranks = (p / 100 * below[-1] for p in (low, high))
        black, white = (float(np.searchsorted(below, max(r, 1))) for r in ranks)
    else:
        black, white = (histogram.percentile(counts, p) for p in (low, high))
    return black, white if white > black else black + 1.0


def _dzi(width: int, height: int) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" '
        f'TileSize="{TILE}"><Size Width="{width}" Height="{height}"/></Image>\n'
    ).encode()
