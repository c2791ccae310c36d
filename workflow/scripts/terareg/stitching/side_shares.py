"""Where each of two sides counts, by what they show at the same places.

Scattering on the way of the light takes fine structure away and darkens what is left. Of each side
the power of its fine structure is summed over blocks: the product of the band-passed images of two
neighbouring planes, in which noise cancels because it is new in every plane. The band-pass acts
along the light, so that its stripes do not count as structure. The ratio of both powers decides
where they stand out of the noise, and the distance from the lights elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import ndimage

from terareg.volumes.share_maps import WHOLE, ShareMap, packed

if TYPE_CHECKING:
    from terareg.volumes.sides import Light

T = TypeVar("T")

_ZERO: tuple[float, float, float] = (0.0, 0.0, 0.0)
_MOST_CELLS = 250_000  # of a map
_SPREAD = 1.2  # cells, sigma along y and x, over which powers are summed
_SMOOTH = 0.7  # cells, sigma of the smoothing of a map
_FULL = math.log(3.0)  # log ratio of powers from which one side counts alone
_NOISE = 3.0  # standard errors of a power below which it says little
#: pixels of band-passed noise that are like one independent pixel
CORRELATED = 6.0
_SNAP = 0.03  # of a share, next to 0 and 1: a side that shows so little is not read


@dataclass(frozen=True)
class Place:
    """Blocks of both sides at a depth of a tile.

    Attributes
    ----------
    tile : str
    nominal : tuple of float
        Origin of the tile at the stage (z, y, x), voxels.
    inside : numpy.ndarray, shape (3, n)
        Middles of the blocks in the tile, voxels.
    along : numpy.ndarray, shape (2, n)
        Where they lie along the light, from 0 to 1, in the volume and in the tile.
    means, fine, noise : numpy.ndarray, shape (2, n)
        Of both sides: mean brightness, power of fine structure, and the mean square of the
        products that this power is the mean of.
    pixels : int
        Products in a block.
    edge_vox : tuple of float
        Edges of the blocks along y and x, voxels.
    """

    tile: str
    nominal: tuple[float, float, float]
    inside: np.ndarray
    along: np.ndarray
    means: np.ndarray
    fine: np.ndarray
    noise: np.ndarray
    pixels: int
    edge_vox: tuple[float, float]


@dataclass(frozen=True)
class Area:
    """What maps cover.

    Attributes
    ----------
    first, size : tuple of float
        Corner and size (z, y, x) of the acquisition at the stage's positions, voxels.
    tile_shape : tuple of int
    planes : mapping
        Name of a tile to the depths at which it was compared.
    """

    first: tuple[float, float, float]
    size: tuple[float, float, float]
    tile_shape: tuple[int, int, int]
    planes: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Powers:
    """Fine structure of both sides on a grid.

    Attributes
    ----------
    start_vox, step_vox : tuple of float
        As in :class:`~terareg.volumes.share_maps.ShareMap`.
    power, error : numpy.ndarray, shape (2, z, y, x)
        Of both sides: sum of the fine structure around a cell, and its standard error in noise.
    mean : numpy.ndarray, shape (2, z, y, x)
        Sum of brightness.
    """

    start_vox: tuple[float, float, float]
    step_vox: tuple[float, float, float]
    power: np.ndarray
    error: np.ndarray
    mean: np.ndarray

    def cells(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """Indices of the cells nearest to ``places``, (3, n) voxels."""
        steps = [np.rint((p - s) / d) for p, s, d in zip(places, self.start_vox, self.step_vox)]
        shape = self.power.shape[1:]
        return tuple(np.clip(k, 0, n - 1).astype(np.intp) for k, n in zip(steps, shape))


def powers_of(places: Sequence[Place], across: str, area: Area) -> dict[str, Powers]:
    """Fine structure on one grid, named "", or (``across`` "tile") on one for each tile."""
    if not places:
        return {}
    edge = [max(place.edge_vox[k] for place in places) for k in range(2)]
    depth = _depth_step(area)
    if across == "volume":
        grid = (area.first, area.size, _steps(depth, edge, area.size))
        return {"": _powers([(p, np.array(p.nominal)) for p in places], grid)}
    deep, high, wide = area.tile_shape
    shape = (float(deep), float(high), float(wide))
    grid = (_ZERO, shape, _steps(depth, edge, shape))
    return {
        name: _powers([(p, np.zeros(3)) for p in places if p.tile == name], grid)
        for name in sorted({place.tile for place in places})
    }


def share_maps(powers: Mapping[str, Powers], gain: float, light: Light) -> dict[str, ShareMap]:
    """Maps of the share of the first side.

    Parameters
    ----------
    powers : mapping of str to Powers
    gain : float
        By which the second side is multiplied.
    light : Light
        Where each side counts by distance.

    Returns
    -------
    dict of str to ShareMap
        As in :class:`terareg.volumes.sides.Light`.
    """
    return {
        name: ShareMap(one.start_vox, one.step_vox, _shares(one, gain, light))
        for name, one in powers.items()
    }


def sharpness_ratios(powers: Mapping[str, Powers], place: Place) -> np.ndarray:
    """Log of the relative contrast of the first side over that of the second at a place's blocks.

    Both are equally sharp at 0, float64 (n); NaN where one of them shows no structure.
    """
    one, at = _at(powers, place)
    index = one.cells(at)
    power, error, mean = (
        np.array([of_side[index] for of_side in a]) for a in (one.power, one.error, one.mean)
    )
    known = np.all((power > _NOISE * error) & (mean > 0), axis=0)
    relative = np.log(np.where(known, power, 1)) / 2 - np.log(np.where(known, mean, 1))
    ratio: np.ndarray = np.where(known, relative[0] - relative[1], np.nan)
    return ratio


def shares_at(maps: Mapping[str, ShareMap], place: Place) -> np.ndarray:
    """Shares of the first side at the blocks of a place, float64 (n)."""
    shown, at = _at(maps, place)
    return shown.at(at)


def structure(places: Sequence[Place]) -> tuple[float, float]:
    """Power of all fine structure that each side shows, in standard errors of noise."""
    found = []
    for side in range(2):
        power = sum(float(p.fine[side].sum()) * p.pixels for p in places)
        square = sum(float(p.noise[side].sum()) * p.pixels for p in places) * CORRELATED
        found.append(power / math.sqrt(square) if square > 0 else 0.0)
    return found[0], found[1]


def side_picture(
    places: Sequence[Place], shares: Sequence[np.ndarray], light: Light, area: Area, gain: float
) -> dict[str, Any]:
    """Both sides and their shares on coarse blocks of the middle plane, for the report.

    The second side is as bright as in fusion, multiplied by ``gain``.

    Returns
    -------
    dict
        ``shape`` (rows, columns), ``axes`` (of the rows and of the columns, "zyx") and
        ``step_vox`` of the plane along the light; ``brightness`` and ``structure`` of both sides
        relative to the brightest block of either, and ``share`` of the first side in 250ths, each
        packed as uint8 (:func:`terareg.volumes.share_maps.packed`). Empty if there are no places.
    """
    if not places:
        return {}
    powers = powers_of(places, "volume", area)[""]
    across = 0 if light.axis else 1
    total, count = np.zeros((2, *powers.power.shape[1:]))
    for place, share in zip(places, shares):
        index = powers.cells(place.inside + np.array(place.nominal)[:, None])
        np.add.at(total, index, share)
        np.add.at(count, index, 1.0)
    weight = ndimage.gaussian_filter(count, (0, 0.5, 0.5), mode="constant")
    share = ndimage.gaussian_filter(total, (0, 0.5, 0.5), mode="constant")
    share = share / np.maximum(weight, 1e-9)
    middle = np.take(count > 0, total.shape[across] // 2, across)
    # where tiles overlap, more blocks have been summed
    summed = ndimage.gaussian_filter(count, (0, _SPREAD, _SPREAD), mode="constant")
    factors = np.array([1.0, gain])[:, None, None, None] / np.maximum(summed, 1e-9)
    structure = np.sqrt(np.maximum(powers.power, 0) * np.maximum(summed, 0))
    images = {"brightness": powers.mean * factors, "structure": structure * factors}
    found: dict[str, Any] = {}
    for name, both in images.items():
        planes = np.take(both, total.shape[across] // 2, 1 + across) * middle
        planes = planes / max(float(np.percentile(planes, 99.5)), 1e-9)
        found[name] = [packed(np.rint(WHOLE * plane.clip(0, 1))) for plane in planes]
    axes = [k for k in range(3) if k != across]
    return found | {
        "share": packed(np.rint(WHOLE * np.take(share, total.shape[across] // 2, across))),
        "shape": list(middle.shape),
        "axes": "".join("zyx"[k] for k in axes),
        "step_vox": [powers.step_vox[k] for k in axes],
    }


def _at(known: Mapping[str, T], place: Place) -> tuple[T, np.ndarray]:
    if place.tile in known:
        return known[place.tile], place.inside
    return known[""], place.inside + np.array(place.nominal)[:, None]


def _depth_step(area: Area) -> float:
    """Distance of the depths at which tiles were compared, voxels."""
    count = max((len(set(planes)) for planes in area.planes.values()), default=1)
    return area.tile_shape[0] / max(1, count)


def _steps(
    depth: float, edge: Sequence[float], size: Sequence[float]
) -> tuple[float, float, float]:
    """Edges of cells (z, y, x), voxels, such that there are not too many."""
    merged = 1
    while True:
        step = (depth, merged * edge[0], merged * edge[1])
        if math.prod(max(1.0, n / s) for n, s in zip(size, step)) <= _MOST_CELLS:
            return step
        merged += 1


def _powers(places, grid) -> Powers:
    """Of places, and where their tiles begin on the grid."""
    first, size, step = grid
    shape = tuple(max(1, math.ceil(n / s - 1e-9)) for n, s in zip(size, step))
    # of both sides: power, its variance in noise, brightness
    sums = np.zeros((3, 2, *shape))
    for place, origin in places:
        at = (place.inside + origin[:, None] - np.array(first)[:, None]) / np.array(step)[:, None]
        index = tuple(np.clip(a.astype(int), 0, n - 1) for a, n in zip(at, shape))
        for side in range(2):
            for values, of in zip(sums, (place.fine, place.noise, place.means)):
                np.add.at(values[side], index, of[side] * place.pixels)
    spread = (0.0, 0.0, _SPREAD, _SPREAD)
    power, mean = (ndimage.gaussian_filter(sums[k], spread, mode="constant") for k in (0, 2))
    # weights of a sum of independent cells are squared in its variance
    half = tuple(s / math.sqrt(2) for s in spread)
    square = ndimage.gaussian_filter(sums[1], half, mode="constant")
    square = np.maximum(square, 0) * CORRELATED / (4 * math.pi * _SPREAD**2)
    z, y, x = (float(a + s / 2 - 0.5) for a, s in zip(first, step))
    return Powers((z, y, x), step, power, np.sqrt(square), mean)


def _distance(light: Light, shape: Sequence[int]) -> np.ndarray:
    """Share of the first side by distance from the light, at cells, broadcastable."""
    n = shape[light.axis]
    along = (np.arange(n) + 0.5) / n
    share = light.share(0, along)
    return share.reshape([n if k == light.axis else 1 for k in range(3)])


def _shares(powers: Powers, gain: float, light: Light) -> np.ndarray:
    """Shares of the first side, uint8 (z, y, x)."""
    factors = np.array([1.0, gain * gain])[:, None, None, None]
    power, error = np.maximum(powers.power, 0) * factors, powers.error * factors
    floor = _NOISE * error.max(axis=0) + np.finfo(float).tiny
    ratio = np.log(power[0] + floor) - np.log(power[1] + floor)
    shown = (1 + np.sin(np.clip(ratio / _FULL, -1, 1) * (math.pi / 2))) / 2
    most = power.max(axis=0)
    believed = most**2 / (most**2 + floor**2)
    share = believed * shown + (1 - believed) * _distance(light, most.shape)
    share = ndimage.gaussian_filter(share, (0.0, _SMOOTH, _SMOOTH), mode="nearest")
    share = np.where(share < _SNAP, 0.0, np.where(share > 1 - _SNAP, 1.0, share))
    result: np.ndarray = np.rint(WHOLE * share).astype(np.uint8)
    return result
