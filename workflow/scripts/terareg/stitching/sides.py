"""How the two sides of a channel go together: their brightness, and where each is better.

Both sides show the same tissue, one after the other on their ways through it, so that the ratio of
their brightness where they meet is that of their lights, and the fine structure that each shows
falls with the distance from its light.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from terareg.core.errors import StitchingError
from terareg.core.parallel import map_items
from terareg.stitching.channel_sampling import SIDE_TILES, side_depths
from terareg.stitching.channel_shift import ChannelShift
from terareg.stitching.filters import bin_pixels
from terareg.stitching.fine_structure import band
from terareg.stitching.pairs import as_tuples
from terareg.stitching.side_shares import (
    CORRELATED,
    Area,
    Place,
    powers_of,
    share_maps,
    shares_at,
    sharpness_ratios,
    side_picture,
    structure,
)
from terareg.storage.records import read_json_as, write_json
from terareg.volumes.share_maps import WHOLE, ShareMap
from terareg.volumes.sides import Light

if TYPE_CHECKING:
    from terareg.acquisition.tile_reader import TileReader

logger = logging.getLogger(__name__)

_BLOCK = 16  # pixels of a side of the blocks whose means are compared
_LOOKED_AT_PX = 1024  # most pixels along a side of a plane; larger ones are binned
_BRIGHT = 0.1  # of the brightest blocks: darker ones say nothing about a ratio
_LEAST_BLOCKS = 8  # of a place, for a ratio
_MEET = 0.1  # of the axis, on both sides of its middle, in which brightness is compared, at least
_BINS = 20  # along the axis of the light
_OWN = 0.4  # of the axis, in which a side is compared with the other one
_OFF = 2.0  # ratio of brightness from which the sides are called different
_MAPPINGS = ("maps", "picture")
_ACROSS = ("volume", "tile")
_EVEN = 0.35  # log ratio of relative contrast within which sides count as equally sharp
_EVEN_WITHIN = 0.3  # of the axis, on both sides of its middle, in which they are compared then
_MEET_SHARE = 0.4  # about 1/2: where both sides count enough for a difference to be seen
_NOISE = 3.0  # standard errors below which structure is not compared
_CLEAR = 5.0  # standard errors of noise by which structure stands out
_HARDLY = 5.0  # percent of the tissue below which a side hardly counts


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
    weights : str
        "content" or "distance": what decides where each side counts.
    own_percent : tuple of float or None
        Share of the bright blocks of both sides that each gives; None if there are none.
    maps : mapping
        For "content", see :class:`terareg.volumes.sides.Light`.
    picture : mapping
        See :func:`terareg.stitching.side_shares.side_picture`.
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
    weights: str = "distance"
    own_percent: tuple[float, float] | None = None
    maps: Mapping[str, ShareMap] = field(default_factory=dict)
    picture: Mapping[str, Any] = field(default_factory=dict)

    def light(self, blend: float) -> Light:
        """The same for fusion; ``blend`` is the length of the transition, a fraction."""
        return replace(light_of(self.ends, self.across, blend), maps=self.maps)

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        maps = {name: self.maps[name].to_json() for name in sorted(self.maps)}
        return asdict(replace(self, maps={})) | {"maps": maps}

    @classmethod
    def from_json(cls, data: dict) -> SideMatch:
        """Inverse of :meth:`to_json`."""
        plain = {key: as_tuples(value) for key, value in data.items() if key not in _MAPPINGS}
        maps = {name: ShareMap.from_json(one) for name, one in data["maps"].items()}
        return cls(**plain, maps=maps, picture=dict(data["picture"]))


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
        ``weights`` ("content" or "distance"), ``across`` ("auto", "volume" or "tile") and
        ``blend``, as in the section ``fusion.sides``.
    workers : int
        Threads. The result does not depend on it.

    Returns
    -------
    SideMatch
        With a gain of 1 and a warning where no tissue shows how bright the sides are.
    """
    channel, ends = named
    one, other = ends
    sides, weights = (one, other), settings["weights"]
    result = SideMatch(
        channel, sides, (ends[one], ends[other]), settings["across"], weights=weights
    )
    light = light_of(result.ends, "volume", settings["blend"])
    chosen = _chosen(sources, light.axis, settings)
    places = [
        place
        for place in map_items(
            lambda item: _look(sources, shift, item, light.axis),
            [(tile, z) for tile, planes in chosen.items() for z in planes],
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
    light = replace(light, across=result.across)
    sharper = contrasts[number]
    result = replace(result, sharper=None if sharper is None else round(math.exp(sharper / 4), 6))
    offsets = [place.along[number] - 0.5 for place in places]
    logs = _ratios(places, offsets, max(settings["blend"] / 2, _MEET))
    shares = [light.share(0, place.along[number]) for place in places]
    shown = structure(places)
    result = _with_gain(result, logs, shown)
    area = _area(sources, chosen)
    if weights == "content":
        powers = powers_of(places, result.across, area)
        if min(shown) > _CLEAR:
            ratios = [sharpness_ratios(powers, place) for place in places]
            found = _ratios(places, offsets, _EVEN_WITHIN, ratios)
            result = _with_gain(result, found or logs, shown)
        maps = share_maps(powers, result.gain, light)
        if min(shown) < _CLEAR < max(shown):
            maps = {n: one.filled(WHOLE if shown[0] > shown[1] else 0) for n, one in maps.items()}
        result = replace(result, maps=maps)
        shares = [shares_at(result.maps, place) for place in places]
        if result.places:
            meeting = _ratios(places, [share - 0.5 for share in shares], _MEET_SHARE)
            result = _with_left(result, meeting)
    result = _with_shares(_with_words(result, shown), places, shares)
    result = replace(result, picture=side_picture(places, shares, light, area, result.gain))
    for text in result.warnings:
        logger.warning("%s", text)
    logger.info(
        "channel %s: %s is multiplied by %.4f; weights by %s; each side is better in its half of "
        "the %s", channel, sides[1], result.gain, weights, result.across,
    )  # fmt: skip
    return result


def _chosen(
    sources: Sequence[TileReader], axis: int, settings: Mapping
) -> dict[str, tuple[int, ...]]:
    """Tiles that both sides have, and planes.

    All tiles where the sides count by content, else some: half of them where the sides meet.
    """
    acquisition = sources[0].acquisition
    other = {tile.name for tile in sources[1].acquisition.tiles}
    tiles = [tile for tile in acquisition.tiles if tile.name in other]
    content = settings["weights"] == "content"
    if not content:
        first, last = _ends(acquisition, axis)
        middle, reach = (first + last) / 2, settings["blend"] * (last - first) / 2
        length = acquisition.tile_shape[axis]
        meet = [
            tile
            for tile in tiles
            if tile.origin_vox[axis] < middle + reach
            and tile.origin_vox[axis] + length > middle - reach
        ]
        rest = [tile for tile in tiles if tile not in meet]
        tiles = _spread(meet, max(SIDE_TILES // 2, SIDE_TILES - len(rest)))
        tiles += _spread(rest, SIDE_TILES - len(tiles))
    depth = acquisition.tile_shape[0]
    count = side_depths(depth, acquisition.spacing_um[0], axis, content)
    fractions = (np.arange(count) + 0.5) / count
    planes = tuple(sorted({min(max(0, depth - 2), int(f * depth)) for f in fractions}))
    return {tile.name: planes for tile in tiles}


def _area(sources: Sequence[TileReader], chosen: Mapping[str, Sequence[int]]) -> Area:
    acquisition = sources[0].acquisition
    ends = [_ends(acquisition, axis) for axis in range(3)]
    return Area(
        tuple(float(first) for first, _ in ends),
        tuple(float(last - first + 1) for first, last in ends),
        tuple(int(n) for n in acquisition.tile_shape),
        chosen,
    )


def _spread(tiles: list, count: int) -> list:
    if len(tiles) <= count:
        return list(tiles)
    return [tiles[i] for i in np.linspace(0, len(tiles) - 1, count).round().astype(int)]


def _ends(acquisition, axis: int) -> tuple[float, float]:
    """First and last voxel of the acquisition along an axis, at the nominal positions."""
    origins = [tile.origin_vox[axis] for tile in acquisition.tiles]
    return min(origins), max(origins) + acquisition.tile_shape[axis] - 1


def _look(sources, shift: ChannelShift | None, item: tuple[str, int], axis: int) -> Place | None:
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
    blocks = [_blocks(bin_pixels(image, bins), edge, axis) for image in images]
    means, fine, noise = (np.array([b[k].ravel() for b in blocks]) for k in range(3))
    rows, columns = blocks[0][0].shape
    start = [max(0, s) for s in by[1:]]
    index = np.indices((rows, columns)).reshape(2, -1)
    inside = [np.full(rows * columns, z + (thick - 1) / 2)]
    inside += [s + edge * bins[1] * (i + 0.5) - 0.5 for s, i in zip(start, index)]
    origin = acquisition.tile(tile).origin_vox
    first, last = _ends(acquisition, axis)
    place = inside[axis]
    along = [
        (origin[axis] + place - first) / max(1.0, last - first),
        place / max(1, acquisition.tile_shape[axis] - 1),
    ]
    return Place(
        tile, tuple(float(o) for o in origin), np.array(inside), np.array(along), means, fine,
        noise, edge * edge, (float(edge * bins[1]), float(edge * bins[2])),
    )  # fmt: skip


def _blocks(planes: np.ndarray, edge: int, axis: int) -> tuple[np.ndarray, ...]:
    """Of blocks of planes: mean, power of fine structure without noise, and its mean square."""
    values = planes.astype(np.float32)
    fine = [band(p, axis) for p in values]
    rows, columns = (n // edge for n in values.shape[1:])

    def mean(image: np.ndarray) -> np.ndarray:
        part = image[: rows * edge, : columns * edge].astype(np.float64)
        result: np.ndarray = part.reshape(rows, edge, columns, edge).mean(axis=(1, 3))
        return result

    # noise is new in every plane, structure is not
    product = fine[0] * fine[-1]
    return mean(values.mean(axis=0)), mean(product), mean(product * product)


def _bright(place: Place) -> np.ndarray:
    """Blocks in which both sides show tissue."""
    limits = _BRIGHT * np.percentile(place.means, 99, axis=1)
    shown: np.ndarray = np.all(place.means > np.maximum(limits, 1e-6)[:, None], axis=0)
    return shown


def _contrast(places: Sequence[Place], number: int, low: int) -> float | None:
    """Log of how much better the sides are in their own halves than in the other's, variance.

    ``number`` says in halves of what, ``low`` which side is better at the low end.
    """
    sums, squares = np.zeros((2, 2, _BINS))
    for place in places:
        shown = _bright(place)
        bins = np.clip(place.along[number] * _BINS, 0, _BINS - 1).astype(int)[shown]
        for side in range(2):
            sums[side] += np.bincount(bins, place.fine[side][shown], _BINS)
            noise = place.noise[side][shown] * CORRELATED / place.pixels
            squares[side] += np.bincount(bins, noise, _BINS)
    known = np.all(sums > _NOISE * np.sqrt(squares), axis=0)
    middles = (np.arange(_BINS) + 0.5) / _BINS
    halves = [known & (middles < _OWN), known & (middles > 1 - _OWN)]
    if not all(half.any() for half in halves):
        return None
    ratio = np.log(np.where(known, sums[low], 1)) - np.log(np.where(known, sums[1 - low], 1))
    return float(ratio[halves[0]].mean() - ratio[halves[1]].mean())


def _ratios(
    places: Sequence[Place],
    offsets: Sequence[np.ndarray],
    reach: float,
    ratios: Sequence[np.ndarray] | None = None,
) -> list[float]:
    """Log of the brightness of the first side over that of the second, where they meet.

    That is where ``offsets``, 0 in the middle, are within ``reach``, and ``ratios`` of sharpness
    near 0. One for each place with enough tissue there; that brightness changes with both is taken
    from all places together.
    """
    designs, logs = [], []
    for number, (place, off) in enumerate(zip(places, offsets)):
        columns = [off] if ratios is None else [off, ratios[number]]
        meets = _bright(place) & (np.abs(off) <= reach)
        if ratios is not None:
            meets &= np.abs(np.nan_to_num(ratios[number], nan=np.inf)) <= _EVEN
        if meets.sum() >= _LEAST_BLOCKS:
            designs.append(np.array(columns)[:, meets].T)
            logs.append(np.log(place.means[0][meets] / place.means[1][meets]))
    if not logs:
        return []
    design = np.concatenate([own - own.mean(axis=0) for own in designs])
    change = np.concatenate([own - own.mean() for own in logs])
    slopes = np.linalg.lstsq(design, change, rcond=1e-9)[0]
    return [float(np.median(own - columns @ slopes)) for columns, own in zip(designs, logs)]


def _with_shares(
    result: SideMatch, places: Sequence[Place], shares: Sequence[np.ndarray]
) -> SideMatch:
    """The match with how much of the tissue each side gives, and a word if that is hardly any."""
    tissue = [_tissue(place, result.gain) for place in places]
    total = sum(float(shown.sum()) for shown in tissue)
    if not total:
        return result
    first = 100 * sum(float(s[shown].sum()) for s, shown in zip(shares, tissue)) / total
    own = (round(first, 3), round(100 - first, 3))
    result = replace(result, own_percent=own)
    number = int(own[1] < own[0])
    # a side that shows nothing at all has been told
    if result.weights == "distance" or own[number] >= _HARDLY or not result.places:
        return result
    text = (
        f"{result.sides[number]} gives only {own[number]:.1f} % of channel {result.channel}: it "
        f"shows less structure than {result.sides[1 - number]} nearly everywhere, so check that "
        "its light-sheet was on and in focus, or set fusion.sides.weights: distance"
    )
    return replace(result, warnings=(*result.warnings, text))


def _tissue(place: Place, gain: float) -> np.ndarray:
    """Blocks in which one of the sides shows tissue."""
    best = np.maximum(place.means[0], gain * place.means[1])
    shown: np.ndarray = best > max(1e-6, _BRIGHT * float(np.percentile(best, 99)))
    return shown


def _with_gain(result: SideMatch, logs: Sequence[float], shown: tuple[float, float]) -> SideMatch:
    """The match with the gain of the second side; 1 where one of them shows nothing."""
    if not logs or min(shown) < _CLEAR < max(shown):
        return replace(result, gain=1.0, gain_sigma=0.0, left_percent=None, places=0)
    middle = float(np.median(logs))
    scatter = 1.4826 * float(np.median(np.abs(np.array(logs) - middle)))
    gain = math.exp(middle)
    result = replace(
        result,
        gain=round(gain, 6),
        gain_sigma=round(gain * 1.2533 * scatter / math.sqrt(len(logs)), 6),
        places=len(logs),
    )
    return _with_left(result, logs)


def _with_left(result: SideMatch, logs: Sequence[float]) -> SideMatch:
    """The match with the difference in brightness that its gain leaves where the sides meet."""
    if not logs:
        return result
    left = float(np.percentile(np.abs(np.array(logs) - math.log(result.gain)), 90))
    return replace(result, left_percent=round(100 * math.expm1(left), 6))


def _with_words(result: SideMatch, shown: tuple[float, float]) -> SideMatch:
    """The match with what has to be told of brightness and structure."""
    one, other = result.sides
    texts = []
    if result.sharper is not None and result.sharper < 1:
        texts.append(
            f"{one} shows less fine structure than {other} at {result.ends[0]}, where it should "
            f"be the better side, and more at {result.ends[1]}: if the pictures confirm this, "
            f"swap the ends in input.sides.{result.channel}"
        )
    if max(shown) < _CLEAR:
        texts.append(
            f"neither {one} nor {other} shows fine structure above its noise in channel "
            f"{result.channel}, so only the distance from the light decides which side is used "
            "where: inspect the fused volume"
        )
    elif min(shown) < _CLEAR:
        empty = result.sides[int(shown[1] < shown[0])]
        texts.append(
            f"{empty} shows no fine structure above its noise in channel {result.channel}, so its "
            "brightness was left unchanged: check that its light-sheet was on and that its files "
            f"are those of this sample, or fuse the other side alone by removing {empty} from "
            "input.channels and input.sides"
        )
    elif not result.places:
        texts.append(
            f"{one} and {other} have no bright tissue in common where they meet, so their "
            "brightness could not be compared and was left unchanged: inspect the middle of "
            f"channel {result.channel}"
        )
    if max(result.gain, 1 / result.gain) > _OFF:
        texts.append(
            f"{one} is {result.gain:.2f} times as bright as {other} where they meet: check that "
            "both light-sheets were on and equally strong, and that the dark offset of both is "
            "right"
        )
    return replace(result, warnings=tuple(texts))
