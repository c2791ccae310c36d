"""Which voxels of two neighbouring tiles are compared: strips at the seam, windows in them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from terareg.stitching.filters import bin_pixels, common_levels, levels_of, prepare
from terareg.stitching.pairs import SEAM_AXIS

if TYPE_CHECKING:
    from terareg.stitching.settings import DisplacementSettings

_MIN_SEGMENT = 24  # shortest stretch of a seam that can be a separate window, pixels
_SPLIT_PX = 96  # pixels, at least, of the stretches of a seam that is split
_MOST_SEGMENTS = 6
_MIN_PLANES = 10  # fewest planes of a window, if the stack has as many


class Strips:
    """Geometry of two tiles and the search range, and the reads."""

    def __init__(self, source, shape, names, direction, expected, search) -> None:
        self.source = source
        self.shape = shape
        self.names = names
        self.direction = direction
        self.expected = expected
        self.search = search
        self.centre = tuple(round(e) for e in expected)
        self.axis = SEAM_AXIS[direction]
        self.along = 3 - self.axis  # the axis along the seam
        self.bytes = 0
        self._held: dict[int, tuple] = {}  # first plane, pixels and position of the last read
        self.dense = False  # whether the windows cover the whole stack

    def read(self, which: int, box) -> np.ndarray:
        """Pixels of a box ((z0, z1), (y0, y1), (x0, x1)) of tile a (0) or b (1).

        Planes are read from end to end of the seam and held until the next box of the tile, so
        that windows that share planes read them once.
        """
        (z0, z1), *_ = box
        reach = [slice(*span) for span in box[1:]]
        cut = [slice(None), *reach]
        reach[self.along - 1] = slice(0, self.shape[self.along])
        first, held, where = self._held.get(which, (0, None, None))
        if where != reach or not first <= z0 < first + len(held):
            self._held.pop(which, None)
            held = None
            pixels = self._read(which, z0, z1, reach)
        else:
            last = first + len(held)
            pixels = held[z0 - first : z1 - first]
            if z1 > last:
                pixels = np.concatenate([pixels, self._read(which, last, z1, reach)])
        self._held[which] = (z0, pixels, reach)
        cut[self.axis] = slice(None)
        return pixels[tuple(cut)]

    def release(self) -> None:
        """Free the pixels that are held."""
        self._held.clear()

    def _read(self, which: int, z0: int, z1: int, reach) -> np.ndarray:
        pixels = self.source.read(self.names[which], z0, z1, *reach)
        self.bytes += pixels.nbytes
        return pixels

    def boxes(self, z, seam) -> tuple[list, list]:
        """Boxes of both tiles that contain everything that can overlap a window of tile a."""
        box_a, box_b = [], []
        for axis, (n, d, s) in enumerate(zip(self.shape, self.centre, self.search)):
            if axis == self.axis:
                box_a.append((max(0, d - s), n))
                box_b.append((0, min(n, n - d + s)))
            else:
                low, high = z if axis == 0 else seam
                # planes cost reading time: more of them are taken only where windows follow each
                # other without gaps, since they are read for the next window anyway
                margin = s if axis > 0 or self.dense else 0
                box_a.append((low, high))
                box_b.append((max(0, low - d - margin), min(n, high - d + margin)))
        return box_a, box_b


def windows_of(pair: Strips, settings: DisplacementSettings, split: bool = False):
    """Windows ((z0, z1), (first, last) along the seam) of tile a.

    Each from end to end of the seam, unless the stack has too few planes for as many as asked for;
    with ``split`` shorter ones, between whose ends tiles that are turned do not differ much.
    """
    planes, length = pair.shape[0], pair.shape[pair.along]
    # planes of a that b may show as well
    first = max(0, pair.centre[0])
    last = planes + min(0, pair.centre[0])
    if last <= first:
        return
    depth = min(settings.window_planes, max(1, last - first))
    # thin stacks get thinner windows, the thinnest get windows side by side along the seam
    depth = max(min(depth, _MIN_PLANES), min(depth, (last - first) // settings.windows))
    number = max(1, min(settings.windows, (last - first) // depth))
    pair.dense = last - first < (number + 1) * depth
    if last - first > 2 * number * depth:
        starts = _signal_starts(pair, first, last, depth, settings)
    else:
        starts = [int(v) for v in np.linspace(first, last - depth, number).round()]
    segments = max(1, min(-(-settings.windows // len(starts)), length // _MIN_SEGMENT))
    if split:
        segments = max(segments, min(_MOST_SEGMENTS, length // _SPLIT_PX))
    edges = [int(v) for v in np.linspace(0, length, segments + 1).round()]
    for z0 in starts:
        for seam in pairwise(edges):
            yield (z0, z0 + depth), seam


def _signal_starts(pair, first, last, depth, settings) -> list[int]:
    """First planes of the windows, spread over the planes where both tiles hold structure."""
    candidates = [int(v) for v in np.linspace(first, last - depth, 3 * settings.windows).round()]
    good = []
    for z0 in candidates:
        middle = z0 + depth // 2
        box_a, box_b = pair.boxes((middle, middle + 1), (0, pair.shape[pair.along]))
        box_b[0] = (middle - pair.centre[0], middle - pair.centre[0] + 1)
        raw = pair.read(0, box_a), pair.read(1, box_b)
        levels = common_levels(map(levels_of, raw), settings.dark)
        bins = binning_of(pair, settings)
        if all(prepare(bin_pixels(r, bins), levels)[1] for r in raw):
            good.append(z0)
    pool = good if len(good) >= 2 else candidates
    number = min(settings.windows, len(pool))
    return [pool[int(i)] for i in np.linspace(0, len(pool) - 1, number).round()]


def binning_of(pair: Strips, settings: DisplacementSettings) -> np.ndarray:
    """Voxels (z, y, x) that the coarse search averages; z is never binned."""
    overlap = pair.shape[pair.axis] - pair.centre[pair.axis]
    bins = settings.binning
    if not bins:
        bins = max(k for k in (1, 2, 4) if k == 1 or overlap // k >= 40)
    return np.array([1, bins, bins])
