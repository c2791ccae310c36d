"""Fusing tiles into rows of blocks of one volume.

Where only one tile lies, its voxels are copied. Where tiles overlap, they are averaged with weights
that fall along each axis as (1 + cos(a)) / 2, a = k pi / (n - 1) for voxel k of the n that a tile
shares with its neighbour; the weight of a tile is the product of its ramps along y and x, and the
weights of all tiles at a voxel are scaled to add up to 1. In an overlap of two tiles this is the
sine blending of TeraStitcher (Bria and Iannello, BMC Bioinformatics 13:316, 2012). Which tiles
count at a voxel is decided by their boxes and missing planes, never by a voxel's value. Of two
sides of a tile each has a share of its weight, see :mod:`terareg.volumes.sides`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import ConfigError, StitchingError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped, to_integer
from terareg.volumes.growths import Box, Origin
from terareg.volumes.plan import Block, VolumePlan
from terareg.volumes.sides import Light, Side, lit, shares
from terareg.volumes.tile_boxes import LEAST_WEIGHT, PlacedTile, affine_box, resample
from terareg.volumes.warps import resample_warped

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition, Tile
    from terareg.acquisition.tile_reader import TileReader

Range = tuple[int, int]
_BAND_VOXELS = 1 << 16  # of a plane, blended at once
_TRIMMED = 0.75  # of the columns of a tile; if no block needs so many any more, they are freed
_LEAST_SHARE = np.float32(1e-6)  # of a side, so that one of the tiles always has a weight


@dataclass(frozen=True)
class FusionSettings:
    """How tiles become one volume.

    Attributes
    ----------
    blending : str
        "cosine", or "none": the mean of the tiles that overlap.
    z_extent : str
        "union": all planes of the tiles (0 where no tile has data), or "intersection": only planes
        that every tile has.
    subpixel : bool
        Interpolate tiles linearly at their fractional origins instead of rounding the origins.
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
        Source of tile shape, spacing and orientation.
    origins : mapping
        Tile name to its placement (z, y, x) in voxels, relative to any common point.
    settings : FusionSettings

    Returns
    -------
    frame : Frame
        Covers all tiles; the centre of its first voxel is at 0 um.
    offset_vox : tuple of int
        Placement of voxel (0, 0, 0) of the volume; see :func:`fused_origins`.

    Raises
    ------
    StitchingError
        If there is no tile, or no plane that every tile has.
    """
    if not origins:
        raise StitchingError("the placement has no tiles to fuse; run place_tiles again")
    shape = acquisition.tile_shape
    starts, stops = zip(*(_extent(origins[n], shape, settings) for n in sorted(origins)))
    start, stop = np.min(starts, axis=0), np.max(stops, axis=0)
    if settings.z_extent == "intersection":
        start[0], stop[0] = np.max(starts, axis=0)[0], np.min(stops, axis=0)[0]
        if start[0] >= stop[0]:
            first = max(origins, key=lambda n: origins[n][0])
            raise StitchingError(
                f"there is no plane that all tiles have (tile {first} starts at plane "
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
    """Placements relative to the fused volume; whole voxels unless ``settings.subpixel``.

    Tiles that are interpolated within their planes whatever the settings (those with a
    :class:`~terareg.volumes.warps.Warp`) need no whole rows and columns: see
    :meth:`terareg.stitching.placement.Placement.warped_origins`.
    """
    return {
        name: tuple(
            (float(o) if settings.subpixel else _nearest(o)) - a for o, a in zip(origin, offset_vox)
        )
        for name, origin in origins.items()
    }


def fused_pair(
    side: Side, names: tuple[str, str], settings: FusionSettings, part: float = 0.5
) -> tuple[np.ndarray, np.ndarray] | None:
    """The overlap of two tiles in one plane, as fusion reads each of them.

    ``part`` says which, as a share of the planes that both have: the middle one by default.

    Returns
    -------
    two numpy.ndarray, (y, x), or None
        None if the tiles do not overlap.
    """
    (of_side,) = _tiles([side], settings)
    tiles = {tile.name: tile for tile in of_side}
    both = [tiles[name] for name in names]
    low = [max(tile.start[axis] for tile in both) for axis in range(3)]
    high = [min(tile.stop[axis] for tile in both) for axis in range(3)]
    if any(first >= last for first, last in zip(low, high)):
        return None
    plane = low[0] + int(part * (high[0] - low[0]))
    ranges = [(plane, plane + 1), (low[1], high[1]), (low[2], high[2])]
    none = np.empty(0, side.source.acquisition.dtype)
    first, second = (_read(side.source, tile, ranges, none)[0] for tile in both)
    return first, second


class RowFusion:
    """Fuses neighbouring blocks layer by layer, on threads, and reads each part of a tile once.

    Only those parts of tiles that the blocks being fused need are in memory.

    Parameters
    ----------
    sides : sequence of Side
        The channel's tiles: of one side, or of two. Their origins come from :func:`fused_origins`.
    plan : VolumePlan
    blocks : sequence of Block
        Blocks with the same planes, in the order in which they will be requested; those of a row
        along x from left to right. Blocks between them may be absent.
    settings : FusionSettings
    light : Light, optional
        Which of two sides counts where; needed if there are two.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        plan: VolumePlan,
        blocks: Sequence[Block],
        settings: FusionSettings,
        light: Light | None = None,
    ) -> None:
        if len(sides) != (1 if light is None else 2):
            raise ValueError(f"{len(sides)} sides do not match the light {light}; give two")
        self.sides, self.blocks, self.light = sides, blocks, light
        self._lock = threading.Lock()
        self.box = Block(
            blocks[0].index,
            tuple(min(block.start[a] for block in blocks) for a in range(3)),
            tuple(max(block.stop[a] for block in blocks) for a in range(3)),
        )
        of_sides = _tiles(sides, settings)
        if light is not None:
            nominal: dict[str, Sequence[float]] = {}
            for side in reversed(sides if light.maps else ()):
                nominal |= {t.name: t.origin_vox for t in side.source.acquisition.tiles}
            of_sides = lit(of_sides, light, plan.frame.shape[light.axis], nominal)
        self.tiles = [t for tiles in of_sides for t in tiles if _touches(t, self.box)]
        self._weights: dict[tuple, list[np.ndarray]] = {}
        self._held: dict[tuple, tuple[tuple[float, ...], list[np.ndarray]]] = {}
        self._buffers: dict[int, list[np.ndarray]] = {}

    def __call__(self, first: int, last: int) -> Callable[[Block, np.ndarray], Clipped]:
        """Begin a layer: planes ``first`` to ``last`` of the volume, the last one excluded.

        Returns
        -------
        callable
            Called once for each of the blocks, on any thread, with the block and an array of the
            plan's type and of the shape of its part of the layer. It fills the array, with 0
            where no tile lies, and returns the voxels outside the type's range.
        """
        return _Layer(self, first, last).fill

    def take(self, size: int) -> np.ndarray:
        """A buffer for ``size`` voxels of a tile, reused if one was given back."""
        with self._lock:
            kept = self._buffers.get(size)
            if kept:
                return kept.pop()
        return np.empty(size, self.sides[0].source.acquisition.dtype)

    def give(self, buffer: np.ndarray) -> None:
        """Give a buffer back."""
        with self._lock:
            self._buffers.setdefault(buffer.size, []).append(buffer)

    def alike(self, tiles: Sequence[PlacedTile], planes: tuple[int, int]) -> list[tuple[int, int]]:
        """Cut a range of planes where the weights of tiles change.

        That is everywhere if the light comes along z, or sides count by what they show.
        """
        if self.light is None or (self.light.axis and not _by_content(tiles)):
            return [planes]
        return [(z, z + 1) for z in range(*planes)]

    def weights(
        self, tiles: Sequence[PlacedTile], planes: tuple[int, int], y: Range, x: Range
    ) -> list[np.ndarray]:
        """Weights, float32, of the tiles in a part of planes that all of them cover.

        They include the gains of the sides; there are none for one tile that is only copied.
        """
        if len(tiles) == 1:
            gain = self.sides[tiles[0].side].gain
            shape = (y[1] - y[0], x[1] - x[0])
            return [] if gain == 1 else [np.broadcast_to(np.float32(gain), shape)]
        key = (*(tile.key for tile in tiles), y, x)
        found = self._weights.get(key)
        if found is None:
            axis = None if self.light is None else self.light.axis
            if _by_content(tiles):
                return self._shown(tiles, planes[0], y, x)
            parts = None if axis is None else shares(tiles, axis, (planes, y, x)[axis])
            raw = []
            for number, tile in enumerate(tiles):
                rows = tile.ramps[0][y[0] - tile.start[1] : y[1] - tile.start[1]]
                columns = tile.ramps[1][x[0] - tile.start[2] : x[1] - tile.start[2]]
                if parts is not None and axis == 2:
                    columns = columns * parts[number]
                elif parts is not None:
                    rows = rows * parts[number]
                raw.append(np.outer(rows, columns))
            total = np.sum(raw, axis=0)
            gains = [self.sides[tile.side].gain for tile in tiles]
            found = [(w * gain / total).astype(np.float32) for w, gain in zip(raw, gains)]
            if axis != 0:
                self._weights[key] = found
        return found

    def _shown(self, tiles: Sequence[PlacedTile], z: int, y: Range, x: Range) -> list[np.ndarray]:
        """Weights in plane ``z`` where both sides of a tile cover it and count by content."""
        key = ("ramps", *(tile.key for tile in tiles), y, x)
        ramps = self._weights.get(key)
        if ramps is None:
            ramps = self._weights[key] = [
                np.outer(
                    tile.ramps[0][y[0] - tile.start[1] : y[1] - tile.start[1]],
                    tile.ramps[1][x[0] - tile.start[2] : x[1] - tile.start[2]],
                ).astype(np.float32)
                for tile in tiles
            ]
        pairs = [(tiles[first].content, first, second) for first, second in _pairs(tiles)]
        maps = [(*content, pair) for content, *pair in pairs if content is not None]
        depths = tuple(shown.depth(z - moved[0]) for shown, moved, _ in maps)
        held = self._held.get(key)
        if held is not None and held[0] == depths:
            return held[1]
        raw = list(ramps)
        for (shown, moved, (first, second)), depth in zip(maps, depths):
            share = shown.plane(depth, np.arange(*y) - moved[1], np.arange(*x) - moved[2])
            raw[second] = ramps[second] * np.maximum(1 - share, _LEAST_SHARE)
            raw[first] = ramps[first] * np.maximum(share, _LEAST_SHARE, out=share)
        total = raw[0].copy()
        for weight in raw[1:]:
            total += weight
        np.reciprocal(total, out=total)
        gains = [np.float32(self.sides[tile.side].gain) for tile in tiles]
        found = [w * total if gain == 1 else w * (total * gain) for w, gain in zip(raw, gains)]
        self._held[key] = depths, found
        return found


class _Layer:
    """A layer of a :class:`RowFusion` while its blocks are filled."""

    def __init__(self, fusion: RowFusion, first: int, last: int) -> None:
        self._fusion, self._first = fusion, first
        tiles = fusion.tiles
        self._runs = [
            (planes, [t for t in tiles if _covers(t, 0, planes) and planes[0] not in t.blank])
            for planes in _runs(tiles, (first, last), fusion.sides[0].source.planes_at_once)
        ]
        self._windows: dict[tuple[tuple[int, str], int], _Window] = {}
        for planes, tiles in self._runs:
            for tile in tiles:
                starts = [block.start[2] for block in fusion.blocks if _touches(tile, block)]
                self._windows[tile.key, planes[0]] = _Window(fusion, tile, planes, starts)

    def fill(self, block: Block, out: np.ndarray) -> Clipped:
        """See :meth:`RowFusion.__call__`."""
        work = [
            (planes, [tile for tile in tiles if _touches(tile, block)])
            for planes, tiles in self._runs
        ]
        clipped = Clipped()
        for planes, tiles in work:
            windows = [self._windows[tile.key, planes[0]] for tile in tiles]
            for window in windows:
                window.enter(block)
            for window in windows:
                # a window that another thread is reading will be ready when it is needed
                window.read_if_free()
            part = out[planes[0] - self._first : planes[1] - self._first]
            for x in _cuts(tiles, block, 2):
                for y in _cuts(tiles, block, 1):
                    here = [t for t in tiles if _covers(t, 1, y) and _covers(t, 2, x)]
                    cell = part[:, y[0] - block.start[1] : y[1] - block.start[1],
                                x[0] - block.start[2] : x[1] - block.start[2]]  # fmt: skip
                    values = [self._windows[t.key, planes[0]].part(y, x) for t in here]
                    if not here:
                        cell[...] = 0
                        continue
                    for low, high in self._fusion.alike(here, planes):
                        weights = self._fusion.weights(here, (low, high), y, x)
                        inside = slice(low - planes[0], high - planes[0])
                        shown = [data[inside] for data in values]
                        clipped += _blend(shown, weights, cell[inside])
            for window in windows:
                # at once, so that the next tile is read into the buffers of one that ends here
                window.leave()
        return clipped


class _Window:
    """A tile's part of some planes of the blocks, read once and kept as long as blocks need it.

    Of one that is needed for a few more columns only those stay: where blocks end in an overlap,
    two tiles would be held at once.
    """

    def __init__(
        self, fusion: RowFusion, tile: PlacedTile, planes: tuple[int, int], starts: Sequence[int]
    ) -> None:
        self._fusion, self._tile, self._planes = fusion, tile, planes
        self._source = fusion.sides[tile.side].source
        self._to_come = list(starts)  # first column of each block that has not entered
        self._inside = 0  # blocks that have entered and not left
        self._users_lock = threading.Lock()
        self._lock = threading.Lock()  # of what follows, held while the tile is read
        self._data: np.ndarray | None = None
        self._buffer: np.ndarray | None = None
        self._start = _inside(tile, fusion.box, 2)[0]  # column of the volume at which it begins

    def enter(self, block: Block) -> None:
        """Note that a block begins to use it."""
        with self._users_lock:
            self._to_come.remove(block.start[2])
            self._inside += 1

    def read_if_free(self) -> None:
        """Read it, unless that has been done or is being done."""
        if self._lock.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._lock.release()

    def part(self, y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
        """Its voxels in ranges along y and x, in voxels of the volume."""
        with self._lock:
            data, x0 = self._read(), self._start
        y0 = _inside(self._tile, self._fusion.box, 1)[0]
        return data[:, y[0] - y0 : y[1] - y0, x[0] - x0 : x[1] - x0]

    def leave(self) -> None:
        """Note that a block no longer needs it."""
        # a block that would enter now waits: nobody has a view of what is given back
        with self._users_lock, self._lock:
            self._inside -= 1
            if self._inside or self._data is None:
                return
            if self._to_come:
                skipped = max(min(self._to_come) - self._start, 0)
                if skipped < _TRIMMED * self._data.shape[2]:
                    return
                self._data = self._data[:, :, skipped:].copy()
                self._start += skipped
            else:
                self._data = None
            if self._buffer is not None:
                self._fusion.give(self._buffer)
                self._buffer = None

    def _read(self) -> np.ndarray:
        if self._data is None:
            ranges = [self._planes, *(_inside(self._tile, self._fusion.box, a) for a in (1, 2))]
            self._buffer = self._fusion.take(math.prod(high - low for low, high in ranges))
            self._data = _read(self._source, self._tile, ranges, self._buffer)
        return self._data


def _pairs(tiles: Sequence[PlacedTile]) -> list[tuple[int, int]]:
    """Numbers of the first and second side of each tile that both sides of are among these."""
    second = {tile.name: number for number, tile in enumerate(tiles) if tile.side}
    return [(k, second[t.name]) for k, t in enumerate(tiles) if not t.side and t.name in second]


def _by_content(tiles: Sequence[PlacedTile]) -> bool:
    """Whether weights of these tiles change with the place because of what sides show."""
    return any(tiles[first].content is not None for first, _ in _pairs(tiles))


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def _extent(
    origin: Sequence[float], shape: Sequence[int], settings: FusionSettings
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Voxels of the volume whose centres lie between the first and last centre of a tile."""
    if not settings.subpixel:
        start: tuple[int, int, int] = tuple(_nearest(o) for o in origin)
        return start, tuple(a + n for a, n in zip(start, shape))
    # with a small tolerance, so that 2.9999999999 counts as 3
    start = tuple(math.ceil(o - 1e-6) for o in origin)
    return start, tuple(math.floor(o + n - 1 + 1e-6) + 1 for o, n in zip(origin, shape))


def _tiles(sides: Sequence[Side], settings: FusionSettings) -> list[list[PlacedTile]]:
    """Tiles of every side. One that a side lacks stands in its neighbours' way all the same."""
    boxes = [_boxes(side, settings) for side in sides]
    everyone = {name: box for of_side in reversed(boxes) for name, box in of_side.items()}
    every_tile = {t.name: t for side in sides for t in side.source.acquisition.tiles}
    cells = {(t.row, t.column): name for name, t in every_tile.items() if name in everyone}
    return [
        _tiles_of(side, number, own, (cells, everyone | own), settings)
        for number, (side, own) in enumerate(zip(sides, boxes))
    ]


def _boxes(side: Side, settings: FusionSettings) -> dict[str, tuple[Box, Box]]:
    shape, matrices = side.source.acquisition.tile_shape, side.matrices
    return {
        n: affine_box(
            n, o, matrices.get(n, np.eye(3)), shape, side.growths.get(n), side.warps.get(n)
        )
        if n in matrices or n in side.warps
        else _extent(o, shape, settings)
        for n, o in side.origins.items()
    }


def _tiles_of(
    side: Side,
    number: int,
    own: Mapping[str, tuple[Box, Box]],
    grid: tuple[Mapping[tuple[int, int], str], Mapping[str, tuple[Box, Box]]],
    settings: FusionSettings,
) -> list[PlacedTile]:
    """Tiles of a side from their boxes; ``grid`` has cells and boxes of all tiles."""
    acquisition = side.source.acquisition
    tiles = []
    for tile in acquisition.tiles:
        if tile.name not in own:
            continue
        start, stop = own[tile.name]
        ramps = []
        for axis, along, across in ((1, (1, 0), (0, 1)), (2, (0, 1), (1, 0))):
            weights = np.ones(stop[axis] - start[axis])
            if settings.blending == "cosine":
                for sign in (-1, 1):
                    n = _overlap(tile, sign, along, across, (*grid, axis))
                    if n:
                        ramp = _ramp(min(n, weights.size))
                        if sign < 0:
                            weights[: ramp.size] *= ramp[::-1]
                        else:
                            weights[weights.size - ramp.size :] *= ramp
            ramps.append(np.maximum(weights, LEAST_WEIGHT))
        origin: Origin = tuple(float(o) for o in side.origins[tile.name])
        blank: frozenset[int] = frozenset()
        if acquisition.missing_planes == "blank":
            # at a fractional origin, interpolation needs the planes on both sides
            missing = [z + origin[0] for z in side.source.missing_planes(tile.name)]
            blank = frozenset(p for z in missing for p in (math.floor(z), math.ceil(z)))
        matrix = side.matrices.get(tile.name)
        growth = side.growths.get(tile.name)
        tiles.append(
            PlacedTile(
                tile.name,
                number,
                start,
                stop,
                origin,
                matrix,
                growth,
                blank,
                (ramps[0], ramps[1]),
                warp=side.warps.get(tile.name),
            )
        )
    return tiles


def _overlap(tile: Tile, sign: int, along: Sequence[int], across: Sequence[int], grid: Any) -> int:
    """Voxels along an axis that a tile shares with its neighbour in one direction.

    If that neighbour was not scanned, the diagonal neighbours are used: a ramp is needed where
    their corners overlap the tile, and elsewhere a ramp has no effect.
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


def _runs(
    tiles: Sequence[PlacedTile], planes: tuple[int, int], longest: int
) -> list[tuple[int, int]]:
    """Ranges of planes, of limited depth, within which the set of tiles does not change."""
    ends = set(planes)
    for tile in tiles:
        ends |= {tile.start[0], tile.stop[0], *tile.blank, *(z + 1 for z in tile.blank)}
    inside = sorted(z for z in ends if planes[0] <= z <= planes[1])
    runs = []
    for low, high in itertools.pairwise(inside):
        runs += [(z, min(z + longest, high)) for z in range(low, high, longest)]
    return runs


def _cuts(tiles: Sequence[PlacedTile], block: Block, axis: int) -> list[tuple[int, int]]:
    """Ranges along an axis of the block, cut where a tile begins or ends."""
    low, high = block.start[axis], block.stop[axis]
    ends = {low, high}
    for tile in tiles:
        ends |= {e for e in (tile.start[axis], tile.stop[axis]) if low < e < high}
    return list(itertools.pairwise(sorted(ends)))


def _covers(tile: PlacedTile, axis: int, part: tuple[int, int]) -> bool:
    return tile.start[axis] <= part[0] and part[1] <= tile.stop[axis]


def _touches(tile: PlacedTile, block: Block) -> bool:
    return all(
        max(a, s) < min(b, e) for a, b, s, e in zip(tile.start, tile.stop, block.start, block.stop)
    )


def _inside(tile: PlacedTile, block: Block, axis: int) -> tuple[int, int]:
    return max(tile.start[axis], block.start[axis]), min(tile.stop[axis], block.stop[axis])


def _read(
    source: TileReader, tile: PlacedTile, ranges: Sequence[tuple[int, int]], buffer: np.ndarray
) -> np.ndarray:
    """A tile's voxels in ranges (z, y, x) of the volume, interpolated at a fractional origin."""
    if tile.warp is not None:
        matrix = np.eye(3) if tile.matrix is None else tile.matrix
        pose = tile.origin, matrix, tile.growth, tile.warp
        return resample_warped(source, tile.name, pose, ranges)
    if tile.matrix is not None:
        return resample(source, tile.name, (tile.origin, tile.matrix, tile.growth), ranges)
    first, last, fractions = [], [], []
    for (low, high), origin, n in zip(ranges, tile.origin, source.acquisition.tile_shape):
        begin = low - origin
        whole = math.floor(begin + 1e-6)
        fraction = begin - whole
        if abs(fraction) < 1e-5:
            fraction = 0.0
        first.append(whole)
        last.append(min(whole + high - low + (fraction > 0), n))
        fractions.append(fraction)
    shape = [b - a for a, b in zip(first, last)]
    size = math.prod(shape)
    # interpolation may need one more voxel along each axis
    out = buffer[:size].reshape(shape) if size <= buffer.size else None
    data = source.read(
        tile.name, first[0], last[0], slice(first[1], last[1]), slice(first[2], last[2]), out
    )
    for axis, fraction in enumerate(fractions):
        if fraction:
            data = np.moveaxis(data.astype(np.float32, copy=False), axis, 0)
            # instead of np.interp, because the fraction is the same for all voxels of an axis
            data = data[:-1] + np.float32(fraction) * (data[1:] - data[:-1])
            data = np.moveaxis(data, 0, axis)
    return data


def _blend(parts: Sequence[np.ndarray], weights: Sequence[np.ndarray], out: np.ndarray) -> Clipped:
    """Fill a part of a layer, (z, y, x), that is covered by the same tiles everywhere."""
    if not weights and parts[0].dtype == out.dtype:
        out[...] = parts[0]
        return Clipped()
    clipped = Clipped()
    rows = max(1, _BAND_VOXELS // out.shape[2])
    buffers = np.empty((2, rows, out.shape[2]), np.float32)
    for z in range(out.shape[0]):
        for first in range(0, out.shape[1], rows):
            # a few rows at a time, so that the sums stay in the processor's cache
            band = slice(first, first + rows)
            total, product = buffers[:, : out[z, band].shape[0]]
            if weights:
                np.multiply(parts[0][z, band], weights[0][band], out=total)
            else:
                total[...] = parts[0][z, band]
            for part, weight in zip(parts[1:], weights[1:]):
                np.multiply(part[z, band], weight[band], out=product)
                total += product
            if out.dtype.kind == "f":
                out[z, band] = total
            else:
                clipped += to_integer(total, out.dtype, out[z, band], overwrite=True)[1]
    return clipped
