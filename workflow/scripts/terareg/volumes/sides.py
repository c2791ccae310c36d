"""Sides of a channel: the same tiles, lit from one end of an axis and from the other.

Light that enters from one end is scattered and absorbed on its way, so that each side shows its own
half well. By distance from the light, the weight of a side is 1 where it is the better one and 0 in
the other half, with half a cosine between them; there, no voxel of it is read. By content, coarse
maps say where each side shows more (:mod:`terareg.stitching.side_shares`): the weight at a voxel
depends on its place alone, so that blocks need no surroundings. A tile that has one side only is
taken from that side everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from terareg.volumes.growths import Box, Growth, Origin
from terareg.volumes.share_maps import ShareMap
from terareg.volumes.tile_boxes import LEAST_WEIGHT, PlacedTile
from terareg.volumes.warps import Warp

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader


@dataclass(frozen=True)
class Side:
    """Tiles of one side of a channel, or of a channel that has one side.

    Attributes
    ----------
    source : TileReader
        Has ``acquisition``, ``planes_at_once``, ``read(tile, z0, z1, y, x)`` and
        ``missing_planes(tile)``. Where missing planes read as blank, only other tiles count.
    origins : mapping
        Tile name to its origin (z, y, x) in voxels of the volume.
    matrices : mapping
        Tile name to a matrix, (3, 3), close to the identity, of tiles that are more than moved:
        voxel v of the volume shows the tile at index ``matrix @ (v - origin)``. They are
        interpolated linearly.
    growths : mapping
        Tile name to its growth, of tiles with a matrix whose magnification changes with depth; it
        is undone before.
    gain : float
        Its voxels are multiplied by it.
    warps : mapping
        Tile name to its field, of tiles that are distorted within themselves: the index is then
        ``warp.straighten(matrix @ (v - origin))``, with the identity for tiles without a matrix.
    """

    source: TileReader
    origins: Mapping[str, Origin]
    matrices: Mapping[str, np.ndarray] = field(default_factory=dict)
    growths: Mapping[str, Growth] = field(default_factory=dict)
    gain: float = 1.0
    warps: Mapping[str, Warp] = field(default_factory=dict)


@dataclass(frozen=True)
class Light:
    """Which of two sides counts where.

    Attributes
    ----------
    axis : int
        0, 1 or 2 (z, y, x): the axis along which the sides differ.
    low : int
        Number of the side that is better at the low end of the axis: 0 or 1.
    across : str
        "volume": each side is better in its half of the volume; "tile": in its half of every tile.
    blend : float
        Length of the transition, a fraction of the volume or of the tile, in its middle.
    maps : mapping
        Of sides that count by what they show: name of a tile to its map, at voxels of the tile; or
        one map named "" for all tiles, at voxels of the acquisition at the stage's positions.
    """

    axis: int
    low: int
    across: str = "volume"
    blend: float = 0.1
    maps: Mapping[str, ShareMap] = field(default_factory=dict)

    def share(self, side: int, along: np.ndarray) -> np.ndarray:
        """Weights, float64, of a side at ``along``, from 0 to 1 between the ends of the axis."""
        place = np.clip((along - 0.5) / self.blend + 0.5, 0.0, 1.0)
        falling = (1 + np.cos(np.pi * place)) / 2
        return falling if side == self.low else 1 - falling

    def content(self, tile: PlacedTile, nominal: Sequence[float]) -> tuple[ShareMap, Origin] | None:
        """The map for a tile of the first side, whose origin at the stage is ``nominal``."""
        if tile.name in self.maps:
            return self.maps[tile.name], tile.origin
        if "" in self.maps:
            z, y, x = (float(a - b) for a, b in zip(tile.origin, nominal))
            return self.maps[""], (z, y, x)
        return None

    def to_json(self) -> dict:
        """Return a JSON-able dictionary of all that weights depend on."""
        return {
            "axis": self.axis,
            "low": self.low,
            "across": self.across,
            "blend": self.blend,
            "maps": {name: self.maps[name].to_json() for name in sorted(self.maps)},
        }


def lit(
    tiles: Sequence[Sequence[PlacedTile]],
    light: Light,
    extent: int,
    nominal: Mapping[str, Sequence[float]],
) -> list[list[PlacedTile]]:
    """Tiles of both sides with their shares, each cut to where its side counts.

    Parameters
    ----------
    tiles : sequence of sequence of PlacedTile
        Tiles of side 0 and of side 1.
    light : Light
    extent : int
        Voxels of the volume along the light's axis.
    nominal : mapping
        Name of a tile to its origin (z, y, x) at the stage; read only where ``light`` has maps.

    Returns
    -------
    list of list of PlacedTile
        As given. A tile is not cut where the other side lacks it or some of its planes.
    """
    named = [{tile.name: tile for tile in of_side} for of_side in tiles]
    found: list[list[PlacedTile]] = [[], []]
    for number, of_side in enumerate(tiles):
        for tile in of_side:
            other = named[1 - number].get(tile.name)
            box = named[0].get(tile.name, tile)
            content = light.content(box, nominal[tile.name]) if light.maps else None
            if content is None:
                lighted = _by_distance(tile, (number, box, other), light, extent)
            elif other is None:
                lighted = tile
            else:
                lighted = _by_content(replace(tile, content=content), number, other)
            if lighted is not None:
                found[number].append(lighted)
    return found


def _by_distance(tile: PlacedTile, of_side, light: Light, extent: int) -> PlacedTile | None:
    number, box, other = of_side
    first, last = 0, extent - 1
    if light.across == "tile":
        first, last = box.start[light.axis], box.stop[light.axis] - 1
    voxels = np.arange(tile.start[light.axis], tile.stop[light.axis])
    share = light.share(number, (voxels - first) / max(1, last - first))
    part = (0, len(share))
    if other is not None and not other.blank:
        counts = np.flatnonzero(share)
        part = (int(counts[0]), int(counts[-1]) + 1) if len(counts) else (0, 0)
    if part[0] == part[1]:
        return None
    share = np.maximum(share, LEAST_WEIGHT)
    return _cut(replace(tile, share=share), light.axis, *part)


def _by_content(tile: PlacedTile, number: int, other: PlacedTile) -> PlacedTile | None:
    if tile.content is None or other.blank:
        return tile
    shown, moved = tile.content
    first = tuple(a - m for a, m in zip(tile.start, moved))
    last = tuple(a - 1 - m for a, m in zip(tile.stop, moved))
    counts = shown.extent(number, first, last)
    if counts is None:
        return None
    for axis, (low, high) in enumerate(counts):
        voxels = np.arange(tile.start[axis], tile.stop[axis]) - moved[axis]
        inside = np.flatnonzero((voxels > low) & (voxels < high))
        if not len(inside):
            return None
        tile = _cut(tile, axis, int(inside[0]), int(inside[-1]) + 1)
    return tile


def shares(tiles: Sequence[PlacedTile], axis: int, part: tuple[int, int]) -> list[np.ndarray]:
    """Shares of tiles that all cover a range of voxels; those of one tile's sides add up to 1."""
    own = [
        np.ones(part[1] - part[0])
        if tile.share is None
        else tile.share[part[0] - tile.start[axis] : part[1] - tile.start[axis]]
        for tile in tiles
    ]
    totals: dict[str, np.ndarray] = {}
    for tile, share in zip(tiles, own):
        totals[tile.name] = totals.get(tile.name, 0.0) + share
    return [share / totals[tile.name] for tile, share in zip(tiles, own)]


def _cut(tile: PlacedTile, axis: int, first: int, last: int) -> PlacedTile:
    """A part of a tile along an axis; numbers are counted from its first voxel."""

    def moved(box: Box, to: int) -> Box:
        return tuple(to if k == axis else n for k, n in enumerate(box))

    begin = tile.start[axis]
    ramps = [ramp[first:last] if axis == k else ramp for k, ramp in zip((1, 2), tile.ramps)]
    return replace(
        tile,
        start=moved(tile.start, begin + first),
        stop=moved(tile.stop, begin + last),
        ramps=(ramps[0], ramps[1]),
        share=None if tile.share is None else tile.share[first:last],
    )
