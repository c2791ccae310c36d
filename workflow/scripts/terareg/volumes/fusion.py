"""Fusing tiles into rows of blocks of one volume.

Where one tile lies, its voxels are copied. Where tiles overlap, they are averaged with weights
that fall along each axis as (1 + cos(a)) / 2, a = k pi / (n - 1) for voxel k of the n that a
tile shares with its neighbour; the weight of a tile is the product of its ramps along y and x,
and the weights of the tiles that are there add up to 1. In an overlap of two tiles this is the
sine blending of TeraStitcher (Bria and Iannello, BMC Bioinformatics 13:316, 2012). What is
there is decided by the tiles' boxes and their missing planes, never by a voxel's value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import ConfigError, StitchingError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped, to_integer
from terareg.core.parallel import map_items
from terareg.volumes.plan import Block, VolumePlan
from terareg.volumes.slabs import SLAB_PLANES

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition, Tile
    from terareg.acquisition.tile_reader import TileReader

Origin = tuple[float, float, float]

# keeps the ends of ramps above zero, so that the last tile at a voxel always has a weight
_LEAST_WEIGHT = 1e-9


@dataclass(frozen=True)
class FusionSettings:
    """How tiles become one volume.

    Attributes
    ----------
    blending : str
        "cosine", or "none": the mean of the tiles that overlap.
    z_extent : str
        "union" of the tiles' planes (0 where there is none), or "intersection": only planes
        that every tile has.
    subpixel : bool
        Interpolate tiles linearly at their fractional origins instead of rounding these.
    """

    blending: str = "cosine"
    z_extent: str = "union"
    subpixel: bool = False

    def __post_init__(self) -> None:
        if self.blending not in ("cosine", "none"):
            raise ConfigError(f"blending: {self.blending!r} is unknown; use cosine or none")
        if self.z_extent not in ("union", "intersection"):
            raise ConfigError(f"z_extent: {self.z_extent!r} is unknown; use union or intersection")


def fused_frame(
    acquisition: Acquisition, origins: Mapping[str, Sequence[float]], settings: FusionSettings
) -> tuple[Frame, tuple[int, int, int]]:
    """Grid of the fused volume.

    Parameters
    ----------
    acquisition : Acquisition
        Gives tile shape, spacing and orientation.
    origins : mapping
        Tile name to its placement (z, y, x) in voxels, any zero.
    settings : FusionSettings

    Returns
    -------
    frame : Frame
        Covers all tiles; the centre of its first voxel is at 0 um.
    offset_vox : tuple of int
        Placement of voxel (0, 0, 0); see :func:`fused_origins`.

    Raises
    ------
    StitchingError
        If there is no tile, or no plane that every tile has.
    """
    if not origins:
        raise StitchingError("the placement has no tile; nothing can be fused")
    shape = acquisition.tile_shape
    starts, stops = zip(*(_extent(origins[n], shape, settings) for n in sorted(origins)))
    start, stop = np.min(starts, axis=0), np.max(stops, axis=0)
    if settings.z_extent == "intersection":
        start[0], stop[0] = np.max(starts, axis=0)[0], np.min(stops, axis=0)[0]
        if start[0] >= stop[0]:
            first = max(origins, key=lambda n: origins[n][0])
            raise StitchingError(
                f"no plane lies in every tile (tile {first} starts at plane "
                f"{origins[first][0]:g}); use z_extent: union or check its placement"
            )
    frame = Frame(
        tuple(int(n) for n in stop - start),
        acquisition.spacing_um,
        (0.0, 0.0, 0.0),
        acquisition.orientation,
    )
    return frame, tuple(int(a) for a in start)


def fused_origins(
    origins: Mapping[str, Sequence[float]], offset_vox: Sequence[int], settings: FusionSettings
) -> dict[str, Origin]:
    """Placements relative to the fused volume; whole voxels unless ``settings.subpixel``."""
    return {
        name: tuple(
            (float(o) if settings.subpixel else _nearest(o)) - a for o, a in zip(origin, offset_vox)
        )
        for name, origin in origins.items()
    }


def fuse_row(
    source: TileReader,
    origins: Mapping[str, Sequence[float]],
    plan: VolumePlan,
    blocks: Sequence[Block],
    settings: FusionSettings,
    workers: int = 1,
) -> list[tuple[np.ndarray, Clipped]]:
    """Fuse neighbouring blocks of a row along x, reading each part of a tile once.

    Slabs of planes are worked through on threads; of a slab, the tiles at one place of the row
    are in memory, beside all of the blocks.

    Parameters
    ----------
    source : TileSource
        Has ``acquisition``, ``read(tile, z0, z1, y, x)`` and ``missing_planes(tile)``. Missing
        planes that read as blank are left to the other tiles there.
    origins : mapping
        Tile name to its origin (z, y, x) in voxels of the volume, from :func:`fused_origins`.
    plan : VolumePlan
    blocks : sequence of Block
        Of one row, from left to right; blocks between them may be absent.
    settings : FusionSettings
    workers : int

    Returns
    -------
    list of (array, clipped)
        For each block a numpy.ndarray of the plan's type, shape ``block.shape``, 0 where no tile
        lies; and the voxels outside the type's range.
    """
    shape = source.acquisition.tile_shape
    row = replace(blocks[0], stop=blocks[-1].stop)
    tiles = [
        tile
        for tile in _tiles(source, origins, shape, settings)
        if all(max(a, s) < min(b, e) for a, b, s, e in
               zip(tile.start, tile.stop, row.start, row.stop))
    ]  # fmt: skip
    arrays = [np.zeros(block.shape, plan.dtype) for block in blocks]

    def fuse_slab(planes: tuple[int, int]) -> list[Clipped]:
        here = [t for t in tiles if _covers(t, 0, planes) and planes[0] not in t.blank]
        windows: dict[str, np.ndarray] = {}
        clipped = [Clipped()] * len(blocks)
        for index, y, x in _cells(here, row, blocks):
            cell = [t for t in here if _covers(t, 1, y) and _covers(t, 2, x)]
            for tile in here:
                if tile.stop[2] <= x[0]:
                    windows.pop(tile.name, None)
            for tile in cell:
                if tile.name not in windows:
                    windows[tile.name] = _read(source, tile, planes, row, shape)
            if cell:
                start = blocks[index].start
                where = tuple(slice(a - s, b - s) for (a, b), s in zip((planes, y, x), start))
                arrays[index][where], more = _blend(cell, windows, y, x, row, plan.dtype)
                clipped[index] += more
        return clipped

    counts = [Clipped()] * len(blocks)
    for slab in map_items(fuse_slab, _slabs(tiles, row), workers=workers):
        counts = [a + b for a, b in zip(counts, slab)]
    return list(zip(arrays, counts))


@dataclass(frozen=True)
class _Tile:
    """A tile in the volume: its box, its planes without data, its ramps."""

    name: str
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    origin: Origin
    blank: frozenset[int]  # planes of the volume
    ramps: tuple[np.ndarray, np.ndarray]  # weights along y and x, float64, one per voxel


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def _extent(
    origin: Sequence[float], shape: Sequence[int], settings: FusionSettings
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Voxels of the volume whose centres lie between the first and last centre of a tile."""
    if not settings.subpixel:
        start: tuple[int, int, int] = tuple(_nearest(o) for o in origin)
        return start, tuple(a + n for a, n in zip(start, shape))
    # a hair inside, so that 2.9999999999 counts as 3
    start = tuple(math.ceil(o - 1e-6) for o in origin)
    return start, tuple(math.floor(o + n - 1 + 1e-6) + 1 for o, n in zip(origin, shape))


def _tiles(
    source: TileReader,
    origins: Mapping[str, Sequence[float]],
    shape: Sequence[int],
    settings: FusionSettings,
) -> list[_Tile]:
    acquisition = source.acquisition
    boxes = {n: _extent(o, shape, settings) for n, o in origins.items()}
    cells = {(t.row, t.column): t.name for t in acquisition.tiles if t.name in origins}
    tiles = []
    for tile in acquisition.tiles:
        if tile.name not in origins:
            continue
        start, stop = boxes[tile.name]
        ramps = []
        for axis, along, across in ((1, (1, 0), (0, 1)), (2, (0, 1), (1, 0))):
            weights = np.ones(stop[axis] - start[axis])
            if settings.blending == "cosine":
                for sign in (-1, 1):
                    n = _overlap(tile, sign, along, across, (cells, boxes, axis))
                    if n:
                        ramp = _ramp(min(n, weights.size))
                        if sign < 0:
                            weights[: ramp.size] *= ramp[::-1]
                        else:
                            weights[weights.size - ramp.size :] *= ramp
            ramps.append(np.maximum(weights, _LEAST_WEIGHT))
        origin: tuple[float, float, float] = tuple(float(o) for o in origins[tile.name])
        blank: frozenset[int] = frozenset()
        if acquisition.missing_planes == "blank":
            # between two planes, a fractional origin needs both
            missing = [z + origin[0] for z in source.missing_planes(tile.name)]
            blank = frozenset(p for z in missing for p in (math.floor(z), math.ceil(z)))
        tiles.append(_Tile(tile.name, start, stop, origin, blank, tuple(ramps)))
    return tiles


def _overlap(tile: Tile, sign: int, along: Sequence[int], across: Sequence[int], grid: Any) -> int:
    """Voxels along an axis that a tile shares with its neighbour in one direction.

    Where that neighbour was not scanned, the diagonal ones take its place: their corners need a
    ramp as well, and where they do not reach, a ramp changes nothing.
    """
    cells, boxes, axis = grid
    here = boxes[tile.name]
    for sides in ((0,), (-1, 1)):
        shared = []
        for side in sides:
            cell = (tile.row + sign * along[0] + side * across[0],
                    tile.column + sign * along[1] + side * across[1])  # fmt: skip
            if cell in cells:
                other = boxes[cells[cell]]
                low, high = (other, here) if sign < 0 else (here, other)
                shared.append(low[1][axis] - high[0][axis])
        if shared:
            return max(0, *shared)
    return 0


def _ramp(n: int) -> np.ndarray:
    """(1 + cos(k pi / (n - 1))) / 2 for k = 0 to n - 1; 1/2 for a single voxel."""
    if n == 1:
        return np.array([0.5])
    return (1 + np.cos(np.arange(n) * np.pi / (n - 1))) / 2


def _slabs(tiles: Sequence[_Tile], block: Block) -> list[tuple[int, int]]:
    """Ranges of planes in which the set of tiles does not change, of bounded depth."""
    ends = {block.start[0], block.stop[0]}
    for tile in tiles:
        ends |= {tile.start[0], tile.stop[0], *tile.blank, *(z + 1 for z in tile.blank)}
    inside = sorted(z for z in ends if block.start[0] <= z <= block.stop[0])
    slabs = []
    for low, high in itertools.pairwise(inside):
        slabs += [(z, min(z + SLAB_PLANES, high)) for z in range(low, high, SLAB_PLANES)]
    return slabs


def _cells(
    tiles: Sequence[_Tile], row: Block, blocks: Sequence[Block]
) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Number of the block and range along y and x of every part of a row whose tiles are the same.

    From left to right.
    """
    for index, block in enumerate(blocks):
        for x in _cuts(tiles, block, 2):
            for y in _cuts(tiles, row, 1):
                yield index, y, x


def _cuts(tiles: Sequence[_Tile], block: Block, axis: int) -> list[tuple[int, int]]:
    """Ranges along an axis between the ends of tiles that lie in the block."""
    low, high = block.start[axis], block.stop[axis]
    ends = {low, high}
    for tile in tiles:
        ends |= {e for e in (tile.start[axis], tile.stop[axis]) if low < e < high}
    return list(itertools.pairwise(sorted(ends)))


def _covers(tile: _Tile, axis: int, part: tuple[int, int]) -> bool:
    return tile.start[axis] <= part[0] and part[1] <= tile.stop[axis]


def _window(tile: _Tile, block: Block, axis: int) -> tuple[int, int]:
    return max(tile.start[axis], block.start[axis]), min(tile.stop[axis], block.stop[axis])


def _read(
    source: TileReader, tile: _Tile, planes: tuple[int, int], block: Block, shape: Sequence[int]
) -> np.ndarray:
    """A tile's part of a slab of the block, interpolated if its origin is fractional."""
    ranges = [planes, _window(tile, block, 1), _window(tile, block, 2)]
    first, last, fractions = [], [], []
    for (low, high), origin, n in zip(ranges, tile.origin, shape):
        begin = low - origin
        whole = math.floor(begin + 1e-6)
        fraction = begin - whole
        if abs(fraction) < 1e-5:
            fraction = 0.0
        first.append(whole)
        last.append(min(whole + high - low + (fraction > 0), n))
        fractions.append(fraction)
    data = source.read(
        tile.name, first[0], last[0], slice(first[1], last[1]), slice(first[2], last[2])
    )
    for axis, fraction in enumerate(fractions):
        if fraction:
            data = np.moveaxis(data.astype(np.float32, copy=False), axis, 0)
            # in place of np.interp: the fraction is the same for all voxels of an axis
            data = data[:-1] + np.float32(fraction) * (data[1:] - data[:-1])
            data = np.moveaxis(data, 0, axis)
    return data


def _blend(
    tiles: Sequence[_Tile],
    windows: Mapping[str, np.ndarray],
    y: tuple[int, int],
    x: tuple[int, int],
    block: Block,
    dtype: str,
) -> tuple[np.ndarray, Clipped]:
    """Values of a cell of constant tiles."""
    parts, weights = [], []
    for tile in tiles:
        y0, x0 = _window(tile, block, 1)[0], _window(tile, block, 2)[0]
        parts.append(windows[tile.name][:, y[0] - y0 : y[1] - y0, x[0] - x0 : x[1] - x0])
        weights.append(
            np.outer(
                tile.ramps[0][y[0] - tile.start[1] : y[1] - tile.start[1]],
                tile.ramps[1][x[0] - tile.start[2] : x[1] - tile.start[2]],
            )
        )
    if len(parts) == 1:
        total = parts[0]
        if total.dtype == np.dtype(dtype):
            return total, Clipped()
    else:
        sum_of_weights = np.sum(weights, axis=0)
        total = np.zeros(parts[0].shape, np.float32)
        for part, weight in zip(parts, weights):
            total += part * (weight / sum_of_weights).astype(np.float32)
    if np.dtype(dtype).kind == "f":
        return total.astype(dtype, copy=False), Clipped()
    return to_integer(total, np.dtype(dtype))
