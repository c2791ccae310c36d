"""Which voxels of two channels are compared, and their correlation, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from terareg.core.parallel import map_items
from terareg.stitching.channel_sampling import (
    DEPTHS,
    FIELD,
    MOST_PLACES,
    MOST_TILES,
    PATCH_PX,
    PLANES,
)
from terareg.stitching.correlation import correlate
from terareg.stitching.filters import REACH, bin_pixels, common_levels, levels_of, prepare
from terareg.stitching.least_squares import Cut

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader

_LOOKED_AT_PX = 256  # about, of a plane's shorter edge, where structure is looked for
_COARSE_PX = 24  # most pixels of search that are correlated unbinned
_LEAST_PATCH = 24  # pixels; smaller tiles have fewer patches
_FIXED_OF = 4  # places, at least, from which a pattern fixed in the tile is told
_END = 4  # planes at the ends of a patch, whose filters reach beyond it


@dataclass(frozen=True)
class Place:
    """A tile and its first plane that is compared."""

    tile: str
    z: int


@dataclass
class ChannelPatch:
    """The same stretch of a tile in two channels, prepared for correlation.

    Attributes
    ----------
    place : Place
    field : int
        Number of the patch in the field of view, row by row.
    centre : tuple of float
        Middle (z, y, x) in the tile, voxels.
    a, b : array of float16, (z, y, x)
        Prepared voxels of the alignment channel, and of the other with a margin for the search.
    start : array of int
        As in :class:`~terareg.stitching.least_squares.Cut`.
    signal : bool
        Whether both channels hold structure above the noise.
    """

    place: Place
    field: int
    centre: tuple[float, float, float]
    a: np.ndarray
    b: np.ndarray
    start: np.ndarray
    signal: bool

    def cut(self, lag: np.ndarray, radius: np.ndarray, sign: int) -> Cut | None:
        """Voxels that overlap at a displacement and its surroundings, as float32."""
        spans_a, spans_b = [], []
        for n, m, by, r in zip(self.a.shape, self.b.shape, lag - self.start, radius):
            spans_a.append((max(0, by - r), min(n, m + by + r)))
            spans_b.append((max(0, -by - r), min(m, n - by + r)))
        if any(high - low < 1 for low, high in spans_a + spans_b):
            return None
        a, b = (
            image[tuple(slice(*span) for span in spans)].astype(np.float32)
            for image, spans in ((self.a, spans_a), (self.b, spans_b))
        )
        return Cut(a, sign * b, self.start + [p[0] - q[0] for p, q in zip(spans_a, spans_b)])

    def scores(self, search: Sequence[int], bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and correlations of all displacements -search to search, binned y and x."""
        k = (1, bins, bins)
        reach = [-(-s // n) for s, n in zip(search, k)]
        offset = [int(s) // n for s, n in zip(self.start, k)]
        low = [-r - o for r, o in zip(reach, offset)]
        high = [r - o for r, o in zip(reach, offset)]
        return correlate(_binned(self.a, bins), _binned(self.b, bins), low, high)


def binning(search: Sequence[int]) -> int:
    """Pixels of y and x that the coarse search averages."""
    return next(k for k in (1, 2, 4, 8) if max(search[1:]) <= k * _COARSE_PX or k == 8)


def find_places(reference: TileReader, channel: TileReader, workers: int = 1) -> list[Place]:
    """Places with structure in both channels, spread over depths and the tiles that both have."""
    depth, *size = reference.acquisition.tile_shape
    there = {tile.name for tile in channel.acquisition.tiles}
    names = [tile.name for tile in reference.acquisition.tiles if tile.name in there]
    if len(names) > MOST_TILES:
        chosen = np.linspace(0, len(names) - 1, MOST_TILES).round().astype(int)
        names = [names[i] for i in chosen]
    planes = min(PLANES, depth)
    number = max(1, min(DEPTHS, depth // planes))  # places do not share planes
    middles = (np.arange(number) + 0.5) * depth / number
    starts = [round(middle - planes / 2) for middle in middles]
    bins = (1, *[max(1, min(size) // _LOOKED_AT_PX)] * 2)

    def look(place: Place) -> float:
        middle = place.z + planes // 2
        contrast = 1.0
        for source in (reference, channel):
            if middle in source.missing_planes(place.tile):
                return 0.0
            raw = source.read(place.tile, middle, middle + 1, slice(None), slice(None))
            image, signal = prepare(bin_pixels(raw, bins), common_levels([levels_of(raw)], None))
            contrast *= float(image.var()) if signal else 0.0
        return contrast

    candidates = [Place(name, z) for name in names for z in starts]
    found = map_items(look, candidates, workers=workers, what="inspected planes of both channels")
    ranked = sorted(
        (place for place in zip(candidates, found) if place[1] > 0), key=lambda item: -item[1]
    )
    # the best place of every tile first, then the second best
    turn: dict[str, int] = {}
    order = []
    for place, _ in ranked:
        turn[place.tile] = turn.get(place.tile, 0) + 1
        order.append((turn[place.tile], place))
    order.sort(key=lambda item: item[0])
    return sorted((p for _, p in order[:MOST_PLACES]), key=lambda p: (names.index(p.tile), p.z))


def read_patches(
    reference: TileReader,
    channel: TileReader,
    places: Sequence[Place],
    search: Sequence[int],
    workers: int = 1,
) -> list[ChannelPatch]:
    """Prepared patches of all places, without patterns that are fixed in the tile.

    Dust and the camera's own pattern lie at the same pixels in both channels and would correlate at
    displacement 0. They are the mean over all places of the same part of the field of view.

    Parameters
    ----------
    reference, channel : TileReader
        The alignment channel and the one that is compared with it.
    places : sequence of Place
    search : sequence of int
        Largest displacement, voxels (z, y, x).
    """
    shape = tuple(int(n) for n in reference.acquisition.tile_shape)
    bins = binning(search)

    def read(place: Place) -> list[ChannelPatch]:
        z = (place.z, min(shape[0], place.z + PLANES))
        wide = (max(0, z[0] - search[0]), min(shape[0], z[1] + search[0]))
        patches: list[ChannelPatch] = []
        for y in _spans(shape[1], bins):
            rows = _grown(y, shape[1], search[1], bins)
            around = _grown(rows, shape[1], REACH[1], 1)
            band_a = reference.read(place.tile, *z, slice(*around), slice(None))
            band_b = channel.read(place.tile, *wide, slice(*around), slice(None))
            for x in _spans(shape[2], bins):
                columns = _grown(x, shape[2], search[2], bins)
                a, seen_a = _prepared(band_a, around[0], (y, x), shape)
                b, seen_b = _prepared(band_b, around[0], (rows, columns), shape)
                start = np.array([z[0] - wide[0], y[0] - rows[0], x[0] - columns[0]])
                trim = min(_END, max(0, (z[1] - z[0] - 8) // 2))
                centre: tuple[float, float, float] = tuple(
                    (low + high - 1) / 2 for low, high in (z, y, x)
                )
                a = a[trim : a.shape[0] - trim]
                start[0] += trim
                patches.append(
                    ChannelPatch(place, len(patches), centre, a, b, start, seen_a and seen_b)
                )
        return patches

    found = map_items(read, places, workers=workers, what="read patches of both channels")
    patches = [patch for of_place in found for patch in of_place]
    if len(places) >= _FIXED_OF:
        for number in {patch.field for patch in patches}:
            own = [patch for patch in patches if patch.field == number]
            for image in ("a", "b"):
                fixed = np.mean(
                    [getattr(p, image).mean(axis=0, dtype=np.float32) for p in own], axis=0
                )
                for patch in own:
                    setattr(patch, image, (getattr(patch, image) - fixed).astype(np.float16))
    return patches


def _spans(n: int, bins: int) -> list[tuple[int, int]]:
    """Pixels [first, last) of the patches along a side of the field of view."""
    number = FIELD if n >= FIELD * _LEAST_PATCH else 1
    third = n / number
    length = int(min(PATCH_PX, third)) // bins * bins
    starts = [(i + 0.5) * third - length / 2 for i in range(number)]
    return [(s := int(max(0.0, start)) // bins * bins, s + length) for start in starts]


def _grown(span: tuple[int, int], n: int, by: int, bins: int) -> tuple[int, int]:
    by = -(-by // bins) * bins
    return max(0, span[0] - by), min(n, span[1] + by)


def _prepared(band: np.ndarray, first_row: int, box, shape) -> tuple[np.ndarray, bool]:
    """A box of a band of rows, filtered with a margin for the filters' reach."""
    y, x = box
    around = _grown(y, shape[1], REACH[1], 1), _grown(x, shape[2], REACH[2], 1)
    raw = band[:, around[0][0] - first_row : around[0][1] - first_row, slice(*around[1])]
    levels = common_levels([levels_of(raw)], None)
    image, signal = prepare(raw.astype(np.float32), levels)
    (y0, x0), (height, width) = (s[0] - a[0] for s, a in zip(box, around)), (b - a for a, b in box)
    return image[:, y0 : y0 + height, x0 : x0 + width].astype(np.float16), signal


def _binned(image: np.ndarray, bins: int) -> np.ndarray:
    if bins == 1:
        return image.astype(np.float32)
    z, y, x = (n // k for n, k in zip(image.shape, (1, bins, bins)))
    part = image[:, : y * bins, : x * bins].astype(np.float32)
    return part.reshape(z, y, bins, x, bins).mean(axis=(2, 4))


def half_extent(shape: Sequence[int]) -> np.ndarray:
    """Distance of the borders of a tile from its middle, voxels (z, y, x)."""
    return (np.array(shape, float) - 1) / 2
