"""Statistics of tiles from which the flat-field is estimated: small, and found in one pass.

Tiles are reduced to means of blocks, once over the whole tile and once over its overlaps with its
neighbours at given positions. There the blocks of two neighbours hold the same tissue in the same
planes, so their means differ only by the flat-field, gains and noise. Statistics of a tile do not
depend on the batch in which it was read, so that batches merge to the same bytes.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import IntensityError
from terareg.intensity.saturation import add_peak
from terareg.intensity.settings import FlatfieldSettings
from terareg.storage.store import write_atomic

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition, Tile
    from terareg.acquisition.tile_reader import TileReader

_SECTIONS = 8  # parts of a line, so that a bright spot spoils only one of them
SIDES = ("east", "south")  # where the second tile of a pair lies
_MOVES = {"east": (0, 1), "south": (1, 0)}  # rows and columns
_LINE_SLABS = 4  # depth ranges for which means of lines are kept
_LEAST_BLOCK = 4.0  # pixels; the noise of a block is found from its own pixels

_PER_TILE = (
    "tiles", "grid", "planes", "depths", "mean", "error", "rows", "columns", "line_planes",
    "east_mean", "east_error", "south_mean", "south_error", "peak",
)  # fmt: skip
_SHARED = ("edges_y", "edges_x", "places", "planes_sampled", "blocks")


def block_sums(plane: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Sums of an image over the blocks between ``edges`` (y, x)."""
    return np.add.reduceat(np.add.reduceat(plane, edges[0][:-1], axis=0), edges[1][:-1], axis=1)


def line_sections(size: int) -> np.ndarray:
    """First pixel of each part of a line of ``size`` pixels, and the end of the last."""
    return np.unique(np.arange(_SECTIONS + 1) * size // _SECTIONS)


# edges of blocks along y and x, in the first tile of a pair and in the second
Edges = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class BlockLayout:
    """Where tiles overlap, and the blocks into which tiles and overlaps are divided.

    Attributes
    ----------
    places : numpy.ndarray of int64, shape (tiles, 5)
        Row, column, and position z, y, x in voxels, of all tiles of the acquisition.
    size : tuple of int
        Pixels of a tile, y and x.
    blocks : int
        Blocks along each axis of a whole tile.
    """

    places: np.ndarray
    size: tuple[int, int]
    blocks: int

    @classmethod
    def of(
        cls, acquisition: Acquisition, origins: Mapping[str, Sequence[float]], blocks: int
    ) -> BlockLayout:
        """Lay out an acquisition at ``origins`` (z, y, x) by tile name, voxels."""
        places = [(t.row, t.column, *np.rint(origins[t.name])) for t in acquisition.tiles]
        size = int(acquisition.tile_shape[1]), int(acquisition.tile_shape[2])
        return cls(np.array(places, np.int64), size, blocks)

    @property
    def block_px(self) -> tuple[float, float]:
        """Nominal size of a block in pixels, y and x."""
        y, x = (max(_LEAST_BLOCK, n / self.blocks) for n in self.size)
        return y, x

    @property
    def tile_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """First pixels of the blocks of a whole tile along y and x, and the end of the last."""
        y, x = (
            n * np.arange(max(1, round(n / px)) + 1) // max(1, round(n / px))
            for n, px in zip(self.size, self.block_px)
        )
        return y, x

    @cached_property
    def cells(self) -> dict[tuple[int, int], int]:
        """Index of the tile in each cell of the grid that has one."""
        return {(row, column): i for i, (row, column) in enumerate(self.places[:, :2].tolist())}

    @cached_property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Blocks along y and x of the overlaps on each side."""
        found = {}
        for side in SIDES:
            shifts = [self.places[j, 3:] - self.places[i, 3:] for i, j in self._neighbours(side)]
            typical = np.median(np.array(shifts or [self.size]), axis=0)
            number = [
                max(1, round((n - abs(float(s))) / px))
                for n, s, px in zip(self.size, typical, self.block_px)
            ]
            found[side] = number[0], number[1]
        return found

    def _neighbours(self, side: str) -> list[tuple[int, int]]:
        down, right = _MOVES[side]
        return [
            (i, self.cells[row + down, column + right])
            for (row, column), i in sorted(self.cells.items())
            if (row + down, column + right) in self.cells
        ]

    def overlap(self, side: str, first: int, second: int) -> Edges | None:
        """Blocks of the overlap of two tiles; None where it is too small for blocks."""
        edges_first, edges_second = [], []
        shift = self.places[second, 3:] - self.places[first, 3:]
        for n, s, number in zip(self.size, shift.tolist(), self.counts[side]):
            low, high = max(0, s), min(n, n + s)
            if high - low < _LEAST_BLOCK * number / 2:
                return None
            edges = low + (high - low) * np.arange(number + 1) // number
            edges_first.append(edges)
            edges_second.append(edges - s)
        return (edges_first[0], edges_first[1]), (edges_second[0], edges_second[1])

    def pairs(self, side: str) -> list[tuple[int, int, Edges]]:
        """Indices of the first and second tile, and blocks, of every overlap on a side."""
        found = []
        for first, second in self._neighbours(side):
            edges = self.overlap(side, first, second)
            if edges is not None:
                found.append((first, second, edges))
        return found


class _BlockSums:
    """Sums and sums of squares over blocks, slab by slab."""

    def __init__(self, slabs: int, edges: Sequence[np.ndarray]) -> None:
        self.window = tuple(slice(int(e[0]), int(e[-1])) for e in edges)
        self.edges = [e - e[0] for e in edges]
        self.area = np.outer(*(np.diff(e) for e in edges)).astype(np.float64)
        self.total, self.square = np.zeros((2, slabs, *self.area.shape))

    def add(self, slab: int, plane: np.ndarray, square: np.ndarray) -> None:
        self.total[slab] += block_sums(plane[self.window], self.edges)
        self.square[slab] += block_sums(square[self.window], self.edges)

    def result(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and its standard error, float32 (slabs, blocks y, blocks x)."""
        pixels = np.maximum(planes, 1)[:, None, None] * self.area
        mean = self.total / pixels
        # rounding to integers alone has variance 1/12
        variance = np.maximum(self.square / pixels - mean * mean, 1 / 12)
        return mean.astype(np.float32), np.sqrt(variance / pixels).astype(np.float32)


def sum_tiles(
    source: TileReader,
    tiles: Sequence[str],
    settings: FlatfieldSettings | None = None,
    origins: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, np.ndarray]:
    """Stream the planes of some tiles into statistics; a few planes are held in memory.

    Parameters
    ----------
    source : TileReader
        Raw pixels (no flat-field applied).
    tiles : sequence of str
        Names of tiles. The statistics of a tile do not depend on the others.
    settings : FlatfieldSettings, optional
    origins : mapping of str to (z, y, x), optional
        Positions of all tiles of the acquisition, voxels; the nominal ones unless given.

    Returns
    -------
    dict of str to numpy.ndarray
        Input of :func:`merge_sums`. n tiles, s slabs, (b, c) blocks, (y, x) pixels:

        =================== ============================ ==========================================
        tiles               str (n,)                     names
        grid                int64 (n, 2)                 row, column
        planes              int64 (n, s)                 planes averaged; blank ones do not count
        depths              float32 (n, s)               mean of their numbers in the tile
        mean                float32 (n, s, b, c)         mean of the block, counts
        error               float32 (n, s, b, c)         standard error of that mean, counts
        rows, columns       float32 (n, 4, 8, y or x)    means of eighths of each pixel row and
                                                         column, counts
        line_planes         int64 (n, 4)                 planes averaged in these
        east_mean,          float32 (n, 2, s, p, q)      the same over the overlap with the next
        east_error                                       tile of the row (0) and the last one (1)
        south_mean,         float32 (n, 2, s, p, q)      the same for columns
        south_error
        edges_y, edges_x    int64 (b + 1,), (c + 1,)     where the blocks begin and end, pixels
        peak                int64 (n, 5)                 brightest pixels, see
                                                         :mod:`terareg.intensity.saturation`
        places              int64 (all tiles, 5)         :class:`BlockLayout` of the acquisition
        planes_sampled      int64 ()                     planes sampled over the whole depth
        blocks              int64 ()                     blocks along a tile that were asked for
        =================== ============================ ==========================================
    """
    settings = settings or FlatfieldSettings()
    acquisition = source.acquisition
    if origins is None:
        origins = {tile.name: tile.origin_vox for tile in acquisition.tiles}
    layout = BlockLayout.of(acquisition, origins, settings.blocks)
    heights = layout.places[:, 2]
    first, last = int(heights.min()), int(heights.max()) + int(acquisition.tile_shape[0])
    number = min(settings.planes, last - first) if settings.planes else last - first
    # planes of one height in all tiles, so that overlaps compare the same tissue
    chosen = first + ((np.arange(number) + 0.5) * (last - first) / number).astype(int)
    slabs = min(settings.slabs, number)
    parts = [_tile_sums(source, name, chosen, slabs, layout) for name in tiles]
    grid = [(acquisition.tile(name).row, acquisition.tile(name).column) for name in tiles]
    edges_y, edges_x = layout.tile_edges
    sums: dict[str, Any] = {
        "tiles": np.array(list(tiles), dtype=np.str_),
        "grid": np.array(grid, np.int64).reshape(-1, 2),
        "edges_y": edges_y,
        "edges_x": edges_x,
        "places": layout.places,
        "planes_sampled": np.int64(number),
        "blocks": np.int64(settings.blocks),
    }
    for key in _PER_TILE[2:]:
        sums[key] = np.stack([part[key] for part in parts]) if parts else np.zeros((0,))
    return sums


def _tile_sums(
    source: TileReader, name: str, chosen: np.ndarray, slabs: int, layout: BlockLayout
) -> dict[str, np.ndarray]:
    height, width = layout.size
    tile = source.acquisition.tile(name)
    index = layout.cells[tile.row, tile.column]
    bottom = int(layout.places[index, 2])
    groups = min(_LINE_SLABS, slabs)
    section_y, section_x = (line_sections(n) for n in (height, width))
    whole = _BlockSums(slabs, layout.tile_edges)
    shared = {
        (side, role): _BlockSums(slabs, edges[role])
        for side in SIDES
        for role, edges in _roles(layout, side, tile).items()
    }
    in_rows = np.zeros((groups, len(section_x) - 1, height))
    in_columns = np.zeros((groups, len(section_y) - 1, width))
    planes, line_planes = np.zeros(slabs, np.int64), np.zeros(groups, np.int64)
    depths = np.zeros(slabs)
    peak = np.zeros(5, np.int64)
    for k, z in enumerate((chosen - bottom).tolist()):
        if not 0 <= z < source.acquisition.tile_shape[0]:
            continue
        read = source.read(name, z, z + 1)[0]
        plane = read.astype(np.float64)
        if plane.shape != layout.size:
            raise IntensityError(
                f"{name}: plane {z} has shape {plane.shape} but the other planes have "
                f"{layout.size}; replace the plane"
            )
        if plane.min() == plane.max():  # a missing plane that was filled in
            continue
        peak = add_peak(peak, read)
        slab = k * slabs // len(chosen)
        group = slab * groups // slabs
        square = plane * plane
        for part in (whole, *shared.values()):
            part.add(slab, plane, square)
        in_rows[group] += np.add.reduceat(plane, section_x[:-1], axis=1).T
        in_columns[group] += np.add.reduceat(plane, section_y[:-1], axis=0)
        planes[slab] += 1
        depths[slab] += z
        line_planes[group] += 1
    lines = np.maximum(line_planes, 1)[:, None, None]
    mean, error = whole.result(planes)
    found = {
        "planes": planes,
        "depths": (depths / np.maximum(planes, 1)).astype(np.float32),
        "mean": mean,
        "error": error,
        "rows": (in_rows / (lines * np.diff(section_x)[:, None])).astype(np.float32),
        "columns": (in_columns / (lines * np.diff(section_y)[:, None])).astype(np.float32),
        "line_planes": line_planes,
        "peak": peak,
    }
    for side in SIDES:
        both = np.zeros((2, 2, slabs, *layout.counts[side]), np.float32)
        for role in (0, 1):
            if (side, role) in shared:
                both[:, role] = shared[side, role].result(planes)
        found[f"{side}_mean"], found[f"{side}_error"] = both
    return found


def _roles(layout: BlockLayout, side: str, tile: Tile) -> dict[int, Edges]:
    """Overlaps of a tile on one side: as the first tile of a pair (0) and as the second (1)."""
    index = layout.cells[tile.row, tile.column]
    down, right = _MOVES[side]
    found = {}
    for role, sign in ((0, 1), (1, -1)):
        other = layout.cells.get((tile.row + sign * down, tile.column + sign * right))
        if other is not None:
            pair = (index, other) if role == 0 else (other, index)
            edges = layout.overlap(side, *pair)
            if edges is not None:
                found[role] = edges
    return found


def save_sums(path: str | os.PathLike, sums: Mapping[str, np.ndarray]) -> None:
    """Write statistics as ``.npz`` without pickle; equal statistics give equal bytes."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{key: sums[key] for key in sorted(sums)})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())


def load_sums(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what :func:`save_sums` wrote; anything else is an :class:`IntensityError`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            sums = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise IntensityError(
            f"{path}: tile statistics cannot be read ({error}); delete the file and run again"
        ) from error
    missing = sorted({*_PER_TILE, *_SHARED} - set(sums))
    if missing:
        raise IntensityError(
            f"{path}: {missing[0]} is missing from the tile statistics; delete the file and run "
            "again"
        )
    return sums


def merge_sums(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the statistics of batches, tiles in the order of the grid.

    Raises
    ------
    IntensityError
        If there is no tile, a tile twice, or batches of different acquisitions or settings.
    """
    parts = [part for part in parts if len(part["tiles"])]
    if not parts:
        raise IntensityError(
            "no tile statistics were given; the flat-field needs at least one tile"
        )
    first = parts[0]
    for part in parts[1:]:
        same = all(np.array_equal(part[key], first[key]) for key in _SHARED)
        same &= all(part[key].shape[1:] == first[key].shape[1:] for key in _PER_TILE[2:])
        if not same:
            raise IntensityError(
                f"tile statistics of {part['tiles'][0]} and {first['tiles'][0]} come from "
                "different acquisitions or settings; delete the statistics and run again"
            )
    merged = {key: np.concatenate([part[key] for part in parts]) for key in _PER_TILE}
    order = np.lexsort((merged["tiles"], merged["grid"][:, 1], merged["grid"][:, 0]))
    merged = {key: value[order] for key, value in merged.items()}
    names, times = np.unique(merged["tiles"], return_counts=True)
    if times.max() > 1:
        raise IntensityError(
            f"tile {names[times > 1][0]} occurs twice in the tile statistics; give each tile once"
        )
    for key in _PER_TILE[3:]:
        if not np.isfinite(merged[key]).all():
            bad = merged["tiles"][~np.isfinite(merged[key]).reshape(len(order), -1).all(1)][0]
            raise IntensityError(
                f"tile {bad}: its statistics contain values that are not finite; delete them and "
                "run again"
            )
    return merged | {key: first[key] for key in _SHARED}
