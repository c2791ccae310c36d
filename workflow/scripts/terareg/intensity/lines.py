"""Lines of tiles in their overlaps: where they lie, and their means from one pass over the tiles.

A line is a row or a column of pixels in the direction of the light-sheet. In an overlap it is
divided into parts; only their means are kept of a tile, a hundredth of its size.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.acquisition.line_gains import LINES, SLAB_PLANES
from terareg.core.errors import IntensityError
from terareg.core.parallel import map_items
from terareg.storage.store import atomic_file

if TYPE_CHECKING:
    from terareg.acquisition.model import Acquisition
    from terareg.acquisition.tile_reader import TileReader

PARTS = 4  # of a line in an overlap, so that a bright spot spoils only one of them
_LEAST_LINES, _LEAST_PART = 4, 4  # pixels; smaller overlaps are not used
_ZIP_ERRORS = (OSError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class LinePair:
    """The overlap of two neighbouring tiles, seen along its lines.

    Attributes
    ----------
    first, second : str
        Names of the tiles.
    side : int
        0 where the second tile lies in the next column of the grid, 1 in the next row.
    planes : range
        Heights of the planes that both tiles have.
    lines : range
        Lines of the first tile that lie on or between lines of the second.
    shift : float
        Distance of the second tile's first line from the first one's, lines.
    edges : numpy.ndarray of int64
        First pixel of each part of a line in the first tile, and the end of the last part.
    along : int
        Displacement of the second tile along the lines, pixels.
    """

    first: str
    second: str
    side: int
    planes: range
    lines: range
    shift: float
    edges: np.ndarray
    along: int

    @property
    def below(self) -> int:
        """Line of the second tile on or just before the first of ``lines``."""
        return math.floor(self.lines.start - self.shift)

    @property
    def fraction(self) -> float:
        """Distance of the lines of the first tile past those of the second, 0 to 1 lines."""
        return self.lines.start - self.shift - self.below

    def cut(self, role: int) -> tuple[range, np.ndarray]:
        """Lines and edges in the first tile (0) or the second (1).

        In the second there is one more line where the lines of the first lie between its lines.
        """
        if role == 0:
            return self.lines, self.edges
        stop = self.below + len(self.lines) + (self.fraction > 0)
        return range(self.below, stop), self.edges - self.along


@dataclass(frozen=True)
class LineLayout:
    """Tiles at their positions, and the lines of all overlaps.

    Attributes
    ----------
    lines : str
        "rows" or "columns".
    shape : tuple of int
        Planes, lines and pixels of a line of a tile.
    bottoms : dict of str to int
        Height of the first plane of each tile; the lowest is 0.
    pairs : tuple of LinePair
    """

    lines: str
    shape: tuple[int, int, int]
    bottoms: dict[str, int]
    pairs: tuple[LinePair, ...]

    @classmethod
    def of(
        cls, acquisition: Acquisition, origins: Mapping[str, Sequence[float]], lines: str
    ) -> LineLayout:
        """Lay out an acquisition at ``origins`` (z, y, x) by tile name, voxels."""
        if lines not in LINES:
            raise IntensityError(f"lines {lines!r} are unknown; use one of {', '.join(LINES)}")
        across, along = (1, 2) if lines == "rows" else (2, 1)
        depth, *size = (int(acquisition.tile_shape[axis]) for axis in (0, across, along))
        heights = {tile.name: round(origins[tile.name][0]) for tile in acquisition.tiles}
        lowest = min(heights.values())
        bottoms = {name: height - lowest for name, height in heights.items()}
        cells = {(tile.row, tile.column): tile.name for tile in acquisition.tiles}
        pairs = []
        for (row, column), first in sorted(cells.items()):
            for side, neighbour in enumerate(((row, column + 1), (row + 1, column))):
                second = cells.get(neighbour)
                if second is None:
                    continue
                shift = [origins[second][a] - origins[first][a] for a in (across, along)]
                low = max(bottoms[first], bottoms[second])
                high = min(bottoms[first], bottoms[second]) + depth
                pair = _pair((first, second, side), range(low, high), shift, size)
                if pair is not None:
                    pairs.append(pair)
        return cls(lines, (depth, size[0], size[1]), bottoms, tuple(pairs))

    @property
    def planes(self) -> int:
        """Number of planes from the first of the lowest tile to the last of the highest."""
        return max(self.bottoms.values()) + self.shape[0]

    @property
    def slabs(self) -> list[range]:
        """Heights of the planes that are solved and stored together."""
        starts = range(0, self.planes, SLAB_PLANES)
        return [range(z, min(z + SLAB_PLANES, self.planes)) for z in starts]


def _pair(
    tiles: tuple[str, str, int], planes: range, shift: Sequence[float], size: Sequence[int]
) -> LinePair | None:
    """The overlap of two tiles; None where it is too small."""
    (lines, length), (across, along) = size, (shift[0], round(shift[1]))
    across = round(across, 6)  # rounding errors do not count as a fraction of a line
    inside = range(max(0, math.ceil(across)), min(lines, math.floor(lines - 1 + across) + 1))
    low, high = max(0, along), min(length, length + along)
    if not planes or len(inside) < _LEAST_LINES or high - low < PARTS * _LEAST_PART:
        return None
    edges = low + (high - low) * np.arange(PARTS + 1) // PARTS
    return LinePair(*tiles, planes, inside, across, edges, along)


def sum_lines(
    path: str | os.PathLike,
    source: TileReader,
    tiles: Sequence[str],
    layout: LineLayout,
    workers: int = 1,
) -> None:
    """Write the means of lines of some tiles in the overlaps with their neighbours.

    Parameters
    ----------
    path : path
        A zip of ``.npy`` files, readable with :func:`numpy.load`: for pair p, role r (0 for its
        first tile, 1 for its second) and slab s the array ``p.r.s``, float32 (planes, 4 parts of
        a line, lines). Equal means give equal bytes; the file appears when it is complete.
    source : TileSource
        Pixels with the flat-field applied.
    tiles : sequence of str
        Names of tiles. The means of a tile do not depend on the others.
    layout : LineLayout
    workers : int
        Threads, each with a few planes.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    wanted = [(tile, slab) for tile in tiles for slab in range(len(layout.slabs))]

    def means(item: tuple[str, int]) -> dict[str, np.ndarray]:
        return _line_means(source, item[0], layout, item[1])

    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for found in map_items(means, wanted, workers=workers, what="slabs of lines"):
            for name, array in found.items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)


def sum_no_lines(path: str | os.PathLike) -> None:
    """Write a file like that of :func:`sum_lines` that holds no means."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED):
        pass


def _line_means(
    source: TileReader, tile: str, layout: LineLayout, slab: int
) -> dict[str, np.ndarray]:
    """Means of the lines of a tile in a slab, by name of the array."""
    heights = layout.slabs[slab]
    roles = [
        (f"{index}.{role}.{slab}", planes, *pair.cut(role))
        for index, pair in enumerate(layout.pairs)
        for role, name in enumerate((pair.first, pair.second))
        if name == tile and (planes := common_planes(pair.planes, heights))
    ]
    found = {
        name: np.zeros((len(planes), PARTS, len(lines)), np.float32)
        for name, planes, lines, _ in roles
    }
    used = [planes for _, planes, _, _ in roles]
    if not used:
        return found
    for height in range(min(r.start for r in used), max(r.stop for r in used)):
        z = height - layout.bottoms[tile]
        plane = source.read(tile, z, z + 1)[0]
        if layout.lines == "columns":
            plane = plane.T
        for name, planes, lines, edges in roles:
            if height in planes:
                box = plane[lines.start : lines.stop, edges[0] : edges[-1]]
                sums = np.add.reduceat(box, edges[:-1] - edges[0], axis=1, dtype=np.float64)
                found[name][height - planes.start] = (sums / np.diff(edges)).T
    return found


def common_planes(a: range, b: range) -> range:
    """Planes that are in both ranges; empty where there is none."""
    return range(max(a.start, b.start), min(a.stop, b.stop))


class LineMeans:
    """Arrays of several files of :func:`sum_lines`; a context manager."""

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        self._paths = paths
        self._open = ExitStack()
        self._where: dict[str, Any] = {}

    def __enter__(self) -> LineMeans:
        for path in self._paths:
            try:
                archive = self._open.enter_context(np.load(path, allow_pickle=False))
            except _ZIP_ERRORS as error:
                self._open.close()
                raise _unreadable(path, error) from error
            self._where |= dict.fromkeys(archive.files, (path, archive))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def get(self, pair: LinePair, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array by name; its shape must be the one that the layout gives."""
        path, archive = self._where.get(name, (None, {name: None}))
        try:
            found = archive[name]
        except _ZIP_ERRORS as error:
            raise _unreadable(path, error) from error
        if found is None or found.shape != shape:
            raise IntensityError(
                f"the line means of {pair.first} and {pair.second} are missing or from other "
                "positions; run again with -R sum_lines"
            )
        return found


def _unreadable(path: str | os.PathLike, error: Exception) -> IntensityError:
    return IntensityError(
        f"{path}: the line means cannot be read ({error}); delete the file and run again"
    )
