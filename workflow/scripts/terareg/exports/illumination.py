"""Uneven illumination of the sites of a plate, evened by statistics of logarithms.

All sites of a channel are taken with the same light and camera, and each shows other cells. So the
mean m and the standard deviation s of log10 of the grey values at one pixel of a site, over all
sites and planes, tell how bright the light and how strong the contrast are at that pixel. With M
and S, their means over the pixels, a grey value v becomes 10^((log10 v - m) / s * S + M). Grey
values then no longer grow in proportion to the light: they are for the eye.

Half of the sites shows whether this holds for the other half, see :func:`measure_illumination`.

Reference: the illumination correction of TissueMAPS (https://github.com/TissueMAPS), which smooths
m and s with a Gaussian of 5 pixels as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import ndimage

from terareg.core.errors import VolumeError
from terareg.core.numeric import to_integer
from terareg.core.parallel import map_items
from terareg.volumes.reader import Levels

logger = logging.getLogger(__name__)
_SMOOTH = 5.0  # pixels
_ROWS = 128  # of every site, which a thread holds at once
_LEAST_SITES = 8
_FLAT = 1e-6
_REMEDY = "set illumination: none"

#: first row and column of a site, and the ones beyond its last
Site = tuple[int, int, int, int]


@dataclass(frozen=True)
class Illumination:
    """Statistics of log10 of grey values at each pixel of a site.

    Attributes
    ----------
    mean, spread : numpy.ndarray of float32, shape (rows, columns)
        Smoothed. The spread is a standard deviation.
    images : int
        Number of planes of all sites.
    before, after : float
        Spread of brightness over the pixels of the mean of half of the sites, in per cent, as they
        are and after the correction by the other half.
    """

    mean: np.ndarray
    spread: np.ndarray
    images: int
    before: float
    after: float

    def facts(self) -> dict:
        """What the record of an export says."""
        return {
            "images": self.images,
            "unevenness_percent": self.before,
            "unevenness_percent_corrected": self.after,
        }

    def evened(self, values: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Corrected grey values, float64, of a part of a site; 0 stays 0.

        Parameters
        ----------
        values : numpy.ndarray, shape (rows, columns)
        rows, columns : slice
            The part.
        """
        mean, spread = (a[rows, columns].astype(np.float64) for a in (self.mean, self.spread))
        whole = self.spread.mean(dtype=np.float64), self.mean.mean(dtype=np.float64)
        slope = np.where(spread > _FLAT, whole[0] / np.maximum(spread, _FLAT), 1.0)
        logs = np.log10(np.maximum(values, 1), dtype=np.float64)
        result = 10 ** ((logs - mean) * slope + whole[1])
        result[values == 0] = 0
        return result


class EvenedSites(Levels):
    """The finest level of a volume whose sites are corrected. Attributes as :class:`Levels`.

    Where sites overlap, the one that is listed first counts, as in the volume.

    Parameters
    ----------
    source : Levels
    sites : sequence of Site
    illumination : Illumination
    """

    def __init__(self, source: Levels, sites: Sequence[Site], illumination: Illumination) -> None:
        self.name, self.dtype, self.is_segmentation = source.name, source.dtype, False
        self.frames = (source.frame,)
        self._source, self._sites, self._illumination = source, tuple(sites), illumination

    def planes_together(self, level: int) -> int:
        """Planes of a chunk of the source."""
        return self._source.planes_together(level)

    def _read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        raw = self._source.read(0, start, stop)
        result = raw.copy()
        for top, left, bottom, right in reversed(self._sites):
            y, x = max(top, start[1]), max(left, start[2])
            below, beyond = min(bottom, stop[1]), min(right, stop[2])
            if y < below and x < beyond:
                part = np.s_[y - start[1] : below - start[1], x - start[2] : beyond - start[2]]
                place = slice(y - top, below - top), slice(x - left, beyond - left)
                for plane, out in zip(raw, result):
                    evened = self._illumination.evened(plane[part], *place)
                    out[part], _ = to_integer(evened, self.dtype, overwrite=True)
        return result


def measure_illumination(source: Levels, sites: Sequence[Site], workers: int = 1) -> Illumination:
    """Statistics of all sites of a volume, at its finest level.

    Parameters
    ----------
    source : Levels
        Of 8 or 16 bits.
    sites : sequence of Site
        All of one size; of voxels that two share, the first has them.
    workers : int
        Threads.

    Raises
    ------
    VolumeError
        If there are few sites, they differ in size, or what half of them says makes the other half
        less even: then sites are too few for what they show, or differ in their light.
    """
    if source.dtype not in (np.uint8, np.uint16):
        raise VolumeError(
            f"{source.name} is of type {source.dtype}; log_statistics are of 8 or 16 bits: "
            f"{_REMEDY}"
        )
    if len(sites) < _LEAST_SITES:
        raise VolumeError(
            f"{source.name} has {len(sites)} sites, too few to tell the light from what they show; "
            f"{_REMEDY}"
        )
    sizes = {(bottom - top, right - left) for top, left, bottom, right in sites}
    if len(sizes) > 1:
        raise VolumeError(
            f"{source.name} has sites of different sizes ({min(sizes)} and {max(sizes)} pixels); "
            f"{_REMEDY}"
        )
    ((height, width),) = sizes
    taken = _taken(sites)
    table = np.log10(np.maximum(np.arange(np.iinfo(source.dtype).max + 1), 1))

    def strip(first: int) -> np.ndarray:
        """Number, sum and sum of squares at pixels of some rows, of both halves of the sites."""
        rows = min(_ROWS, height - first)
        sums = np.zeros((2, 3, rows, width))
        for number, (top, left, _, right) in enumerate(sites):
            start = 0, top + first, left
            values = source.read(0, start, (source.frame.shape[0], start[1] + rows, right))
            free = np.ones((rows, width), bool)
            for y, x, below, beyond in taken[number]:
                free[max(0, y - first) : max(0, below - first), x:beyond] = False
            for plane in values:
                logs = np.where(free, table[plane], 0)
                sums[number % 2] += (free, logs, logs * logs)
        return sums

    strips = map_items(strip, range(0, height, _ROWS), workers=workers, what="rows of sites")
    sums = np.concatenate(list(strips), axis=2)
    halves = [_statistics(half) for half in sums]
    before, after = _unevenness(*halves)
    images = len(sites) * source.frame.shape[0]
    logger.info(
        "illumination by %d images: unevenness %.1f %%, after the correction by the other half of "
        "the sites %.1f %%", images, before, after,
    )  # fmt: skip
    if after > max(before, 100 * _FLAT):
        raise VolumeError(
            f"the {len(sites)} sites of {source.name} do not share one illumination that could be "
            f"told: by one half of them the other half would become less even ({before:.1f} to "
            f"{after:.1f} %); {_REMEDY}"
        )
    if after > before / 2:
        logger.warning(
            "%d images tell little of the illumination: %.1f of %.1f %% remain; what they show may "
            "be seen in it", images, after, before,
        )  # fmt: skip
    mean, spread = _statistics(sums.sum(axis=0))
    return Illumination(
        mean.astype(np.float32),
        spread.astype(np.float32),
        images,
        round(before, 3),
        round(after, 3),
    )


def _taken(sites: Sequence[Site]) -> list[list[Site]]:
    """Parts of each site that earlier ones have, in its own rows and columns."""
    found: list[list[Site]] = [[] for _ in sites]
    for (_, one), (later, other) in combinations(enumerate(sites), 2):
        y, x = max(one[0], other[0]), max(one[1], other[1])
        below, beyond = min(one[2], other[2]), min(one[3], other[3])
        if y < below and x < beyond:
            top, left = other[:2]
            found[later].append((y - top, x - left, below - top, beyond - left))
    return found


def _statistics(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed mean and standard deviation; pixels that no site has are those of all others."""
    count, total, squares = sums
    seen = count > 0
    count = np.maximum(count, 1)
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    for each in (mean, spread):
        each[~seen] = each[seen].mean() if seen.any() else 0
    return tuple(ndimage.gaussian_filter(a, _SMOOTH, mode="nearest") for a in (mean, spread))


def _unevenness(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Spread of the brightness of one half over the pixels: as it is, and by the other half."""
    (mean, spread), (found, _) = one, other
    slope = np.where(spread > _FLAT, spread.mean() / np.maximum(spread, _FLAT), 1)
    evened = (found - mean) * slope
    return float(100 * (10 ** found.std() - 1)), float(100 * (10 ** evened.std() - 1))
