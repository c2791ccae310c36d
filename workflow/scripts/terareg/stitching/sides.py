"""How the two sides of a channel go together: their brightness, and where each is better.

Both sides show the same tissue, one after the other on their ways through it, so that the ratio of
their brightness where they meet is that of their lights, and the fine structure that each shows
falls with the distance from its light.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from terareg.core.errors import StitchingError
from terareg.core.parallel import map_items
from terareg.stitching.channel_sampling import SIDE_DEPTHS, SIDE_DEPTHS_Z, SIDE_TILES
from terareg.stitching.channel_shift import ChannelShift
from terareg.stitching.filters import bin_pixels
from terareg.stitching.pairs import as_tuples
from terareg.storage.records import read_json_as, write_json
from terareg.volumes.sides import Light

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader

logger = logging.getLogger(__name__)

_BLOCK = 16  # pixels of a side of the blocks whose means are compared
_LOOKED_AT_PX = 1024  # most pixels along a side of a plane; larger ones are binned
_FINE_PX, _COARSE_PX = 1.0, 3.0  # sigma of the filters between which lies fine structure
_BRIGHT = 0.1  # of the brightest blocks: darker ones say nothing about a ratio
_LEAST_BLOCKS = 8  # of a place, for a ratio
_MEET = 0.1  # of the axis, on both sides of its middle, in which brightness is compared, at least
_BINS = 20  # along the axis of the light
_OWN = 0.4  # of the axis, in which a side is compared with the other one
_OFF = 2.0  # ratio of brightness from which the sides are called different
_ACROSS = ("volume", "tile")


@dataclass(frozen=True)
class SideMatch:
    """How two sides of a channel become one.

    Attributes
    ----------
    channel : str
    sides, ends : tuple of str
        Names of the sides, and the end of the axis where each is better ("-x").
    across : str
        "volume" or "tile": of what each side is better in its half, see
        :class:`terareg.volumes.sides.Light`.
    gain : float
        By which the second side is multiplied to be as bright as the first where they meet.
    gain_sigma : float
        Its standard error.
    left_percent : float or None
        Difference of brightness that this leaves where they meet; nine of ten places have less.
    places : int
        Places that the gain was found in: a tile at a depth.
    sharper : float or None
        Contrast (standard deviation) of fine structure in a side's own half over that in the
        other's, relative to the other side, on average of both. Below 1 the ends are exchanged.
    warnings : tuple of str
    """

    channel: str
    sides: tuple[str, str]
    ends: tuple[str, str]
    across: str
    gain: float = 1.0
    gain_sigma: float = 0.0
    left_percent: float | None = None
    places: int = 0
    sharper: float | None = None
    warnings: tuple[str, ...] = ()

    def light(self, blend: float) -> Light:
        """The same for fusion; ``blend`` is the length of the transition, a fraction."""
        return light_of(self.ends, self.across, blend)

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> SideMatch:
        """Inverse of :meth:`to_json`."""
        return cls(**{key: as_tuples(value) for key, value in data.items()})


def light_of(ends: Sequence[str], across: str, blend: float) -> Light:
    """Light of two sides whose better ends are given, such as ("-x", "+x")."""
    return Light("zyx".index(ends[0][1]), 0 if ends[0][0] == "-" else 1, across, blend)


def save_match(path, match: SideMatch) -> None:
    """Write it as JSON."""
    write_json(path, match.to_json())


def load_match(path) -> SideMatch:
    """Read it; a file of another kind is an error that names it."""
    what = ("a match of sides", "match_sides")
    return read_json_as(path, SideMatch.from_json, what, StitchingError)


@dataclass(frozen=True)
class _Place:
    """Blocks of both sides at one place.

    ``along`` has where they lie, from 0 to 1, in the volume and in the tile; ``means`` and
    ``fine`` have mean and variance of fine structure in both sides.
    """

    along: np.ndarray  # (2, n)
    means: np.ndarray  # (2, n)
    fine: np.ndarray  # (2, n)


def match_sides(
    sources: Sequence[TileReader],
    shift: ChannelShift | None,
    named: tuple[str, Mapping[str, str]],
    settings: Mapping,
    workers: int = 1,
) -> SideMatch:
    """Compare the sides of a channel on a few planes of a few tiles.

    Parameters
    ----------
    sources : sequence of TileReader
        Corrected tiles of the first side and of the second.
    shift : ChannelShift or None
        Shift of the second against the first.
    named : (str, mapping)
        The channel; its sides and the end of the axis where each is better.
    settings : mapping
        ``across`` ("auto", "volume" or "tile") and ``blend``, as in the section ``fusion.sides``.
    workers : int
        Threads. The result does not depend on it.

    Returns
    -------
    SideMatch
        With a gain of 1 and a warning where no tissue shows how bright the sides are.
    """
    channel, ends = named
    one, other = ends
    sides = (one, other)
    result = SideMatch(channel, sides, (ends[one], ends[other]), settings["across"])
    light = light_of(result.ends, "volume", settings["blend"])
    items = _places(sources, light.axis, settings["blend"])
    places = [
        place
        for place in map_items(
            lambda item: _look(sources, shift, item, light.axis),
            items,
            workers=workers,
            what="compared patches of both sides",
        )
        if place is not None
    ]
    contrasts = [_contrast(places, number, light.low) for number in range(len(_ACROSS))]
    known = [-math.inf if value is None else value for value in contrasts]
    if result.across == "auto":
        result = replace(result, across=_ACROSS[int(known[1] > known[0])])
    number = _ACROSS.index(result.across)
    sharper = contrasts[number]
    result = replace(result, sharper=None if sharper is None else round(math.exp(sharper / 4), 6))
    result = _with_gain(result, places, number, settings["blend"])
    for text in result.warnings:
        logger.warning("%s", text)
    logger.info(
        "channel %s: %s is multiplied by %.4f; each side is used in its half of the %s",
        channel, sides[1], result.gain, result.across,
    )  # fmt: skip
    return result


def _places(sources: Sequence[TileReader], axis: int, blend: float) -> list[tuple[str, int]]:
    """Tiles that both sides have, and planes: half of the tiles where the sides meet."""
    acquisition = sources[0].acquisition
    other = {tile.name for tile in sources[1].acquisition.tiles}
    tiles = [tile for tile in acquisition.tiles if tile.name in other]
    first, last = _ends(acquisition, axis)
    middle, reach = (first + last) / 2, blend * (last - first) / 2
    length = acquisition.tile_shape[axis]
    meet = [
        tile
        for tile in tiles
        if tile.origin_vox[axis] < middle + reach
        and tile.origin_vox[axis] + length > middle - reach
    ]
    rest = [tile for tile in tiles if tile not in meet]
    chosen = _spread(meet, max(SIDE_TILES // 2, SIDE_TILES - len(rest)))
    chosen += _spread(rest, SIDE_TILES - len(chosen))
    depth = acquisition.tile_shape[0]
    count = SIDE_DEPTHS if axis else SIDE_DEPTHS_Z
    fractions = (np.arange(count) + 0.5) / count
    planes = sorted({min(max(0, depth - 2), int(f * depth)) for f in fractions})
    return [(tile.name, z) for tile in chosen for z in planes]


def _spread(tiles: list, count: int) -> list:
    if len(tiles) <= count:
        return list(tiles)
    return [tiles[i] for i in np.linspace(0, len(tiles) - 1, count).round().astype(int)]


def _ends(acquisition, axis: int) -> tuple[float, float]:
    """First and last voxel of the acquisition along an axis, at the nominal positions."""
    origins = [tile.origin_vox[axis] for tile in acquisition.tiles]
    return min(origins), max(origins) + acquisition.tile_shape[axis] - 1


def _look(sources, shift: ChannelShift | None, item: tuple[str, int], axis: int) -> _Place | None:
    """Blocks of two planes of a tile in both sides; None if one of them is missing."""
    tile, z = item
    acquisition = sources[0].acquisition
    depth, *size = acquisition.tile_shape
    by = [0, 0, 0] if shift is None else [round(v) for v in shift.shift_vox]
    thick = min(2, depth)
    z = min(max(z, by[0]), depth - thick + min(0, by[0]))
    if z < 0 or z - by[0] < 0 or z - by[0] + thick > depth:
        return None
    images = []
    for source, (dz, dy, dx) in zip(sources, ([0, 0, 0], by)):
        planes = range(z - dz, z - dz + thick)
        if set(planes) & set(source.missing_planes(tile)):
            return None
        window = [
            slice(max(0, s) - own, n + min(0, s) - own) for s, own, n in zip(by[1:], (dy, dx), size)
        ]
        images.append(source.read(tile, planes.start, planes.stop, *window))
    bins = (1, *[max(1, -(-max(size) // _LOOKED_AT_PX))] * 2)
    edge = max(1, min(_BLOCK, min(size) // bins[1] // 8))
    blocks = [_blocks(bin_pixels(image, bins), edge) for image in images]
    means, fine = (np.array([b[k].ravel() for b in blocks]) for k in range(2))
    rows, columns = blocks[0][0].shape
    start = [max(0, s) for s in by[1:]]
    index = np.indices((rows, columns)).reshape(2, -1)
    inside = [np.full(rows * columns, z + (thick - 1) / 2)]
    inside += [s + edge * bins[1] * (i + 0.5) - 0.5 for s, i in zip(start, index)]
    origin = acquisition.tile(tile).origin_vox[axis]
    first, last = _ends(acquisition, axis)
    place = inside[axis]
    along = [
        (origin + place - first) / max(1.0, last - first),
        place / max(1, acquisition.tile_shape[axis] - 1),
    ]
    return _Place(np.array(along), means, fine)


def _blocks(planes: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of blocks of planes, and variance of their fine structure without that of noise."""
    values = planes.astype(np.float32)
    fine = [
        ndimage.gaussian_filter(p, _FINE_PX) - ndimage.gaussian_filter(p, _COARSE_PX)
        for p in values
    ]
    rows, columns = (n // edge for n in values.shape[1:])

    def mean(image: np.ndarray) -> np.ndarray:
        part = image[: rows * edge, : columns * edge].astype(np.float64)
        result: np.ndarray = part.reshape(rows, edge, columns, edge).mean(axis=(1, 3))
        return result

    # noise is new in every plane, structure is not
    return mean(values.mean(axis=0)), mean(fine[0] * fine[-1])


def _bright(place: _Place) -> np.ndarray:
    """Blocks in which both sides show tissue."""
    limits = _BRIGHT * np.percentile(place.means, 99, axis=1)
    shown: np.ndarray = np.all(place.means > np.maximum(limits, 1e-6)[:, None], axis=0)
    return shown


def _contrast(places: Sequence[_Place], number: int, low: int) -> float | None:
    """Log of how much better the sides are in their own halves than in the other's, variance.

    ``number`` says in halves of what, ``low`` which side is better at the low end.
    """
    sums = np.zeros((2, _BINS))
    for place in places:
        shown = _bright(place)
        bins = np.clip(place.along[number] * _BINS, 0, _BINS - 1).astype(int)[shown]
        for side in range(2):
            sums[side] += np.bincount(bins, place.fine[side][shown], _BINS)
    known = np.all(sums > 0, axis=0)
    middles = (np.arange(_BINS) + 0.5) / _BINS
    halves = [known & (middles < _OWN), known & (middles > 1 - _OWN)]
    if not all(half.any() for half in halves):
        return None
    ratio = np.log(np.where(known, sums[low], 1)) - np.log(np.where(known, sums[1 - low], 1))
    return float(ratio[halves[0]].mean() - ratio[halves[1]].mean())


def _ratios(places: Sequence[_Place], number: int, reach: float) -> list[float]:
    """Log of the brightness of the first side over that of the second, where they meet.

    One for each place with enough tissue within ``reach`` of the middle. That the ratio changes
    along the axis is taken from all places together.
    """
    distances, logs = [], []
    for place in places:
        off = place.along[number] - 0.5
        meets = _bright(place) & (np.abs(off) <= reach)
        if meets.sum() >= _LEAST_BLOCKS:
            distances.append(off[meets])
            logs.append(np.log(place.means[0][meets] / place.means[1][meets]))
    if not logs:
        return []
    off = np.concatenate([d - d.mean() for d in distances])
    change = np.concatenate([own - own.mean() for own in logs])
    square = float(off @ off)
    slope = float(off @ change) / square if square > 0 else 0.0
    return [float(np.median(own - slope * d)) for d, own in zip(distances, logs)]


def _with_gain(result: SideMatch, places: Sequence[_Place], number: int, blend: float) -> SideMatch:
    """The match with the gain of the second side, and what has to be told."""
    one, other = result.sides
    texts = []
    if result.sharper is not None and result.sharper < 1:
        texts.append(
            f"{one} shows less fine structure than {other} at {result.ends[0]}, where it should "
            f"be the better side, and more at {result.ends[1]}: if the pictures confirm this, "
            f"swap the ends in input.sides.{result.channel}"
        )
    logs = _ratios(places, number, max(blend / 2, _MEET))
    if not logs:
        texts.append(
            f"{one} and {other} have no bright tissue in common where they meet, so their "
            "brightness could not be compared and was left unchanged: inspect the middle of "
            f"channel {result.channel}"
        )
        return replace(result, warnings=tuple(texts))
    middle = float(np.median(logs))
    scatter = 1.4826 * float(np.median(np.abs(np.array(logs) - middle)))
    left = float(np.percentile(np.abs(np.array(logs) - middle), 90))
    gain = math.exp(middle)
    if max(gain, 1 / gain) > _OFF:
        texts.append(
            f"{one} is {gain:.2f} times as bright as {other} where they meet: check that both "
            "light-sheets were on and equally strong, and that the dark offset of both is right"
        )
    return replace(
        result,
        gain=round(gain, 6),
        gain_sigma=round(gain * 1.2533 * scatter / math.sqrt(len(logs)), 6),
        left_percent=round(100 * math.expm1(left), 6),
        places=len(logs),
        warnings=tuple(texts),
    )
