"""Local contrast (CLAHE): grey values are equalised by the histograms of the regions around them.

Contrast limited adaptive histogram equalisation (Pizer et al., Comput. Vision Graph. Image Process.
39:355-368, 1987; Zuiderveld, Graphics Gems IV, 474-485, 1994). Every axis is divided into regions
of nearly equal length, from its first voxel to its last, whatever the blocks are. A region has a
histogram, whose bins are cut at a limit; what is cut off is spread evenly over the bins below it.
The sum of this histogram up to a grey value is what the value becomes, and between the centres of
regions the sums are interpolated linearly along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from terareg.core.levels import Box

BINS = 256
_ROWS = 64
#: darkest and brightest grey value of the histograms of a plane; None for a plane that stays empty
Ends = Callable[[int], tuple[float, float] | None]


@dataclass(frozen=True)
class Axis:
    """Regions along one axis.

    Attributes
    ----------
    edges : numpy.ndarray of int64, shape (n + 1,)
        First voxel of each region, and the one beyond the last.
    """

    edges: np.ndarray

    @classmethod
    def of(cls, size: int, wanted: int) -> Axis:
        """As many regions of about ``wanted`` voxels as fill ``size`` voxels."""
        count = max(1, round(size / wanted))
        return cls(np.arange(count + 1, dtype=np.int64) * size // count)

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Regions before and after each voxel, and the weight of the latter, float32.

        A voxel before the first centre, or after the last, belongs to that region alone.
        """
        centres = (self.edges[1:] + self.edges[:-1] - 1) / 2
        index = np.arange(start, stop)
        before = np.searchsorted(centres, index, "right") - 1
        after = np.minimum(before + 1, len(centres) - 1)
        before = np.maximum(before, 0)
        apart = centres[after] - centres[before]
        weight = np.where(apart > 0, (index - centres[before]) / np.where(apart > 0, apart, 1), 0)
        return before, np.where(weight > 0, after, before), weight.astype(np.float32)

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """First voxel, and the one beyond the last, of the regions that some voxels need."""
        before, after, _ = self.between(start, stop)
        return int(self.edges[before[0]]), int(self.edges[after[-1] + 1])


def limited(counts: np.ndarray, limit: float) -> np.ndarray:
    """Histograms whose bins hold at most a share of their region.

    Parameters
    ----------
    counts : numpy.ndarray, shape (..., BINS)
    limit : float
        Largest share of a bin; below 1 / BINS all bins become equal.

    Returns
    -------
    numpy.ndarray of float64, shape of ``counts``
        Shares with the sum 1; what lay above the limit is spread evenly over the bins below it, so
        often that none is above it (an empty histogram becomes one of equal bins).
    """
    bins = counts.shape[-1]
    total = counts.sum(-1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), 1 / bins)
    limit = max(limit, 1 / bins)
    # with the n fullest bins at the limit, all others are raised by raised[n]
    fullest = -np.sort(-shares, axis=-1)
    at_limit = np.arange(bins)
    above = np.cumsum(fullest, axis=-1) - fullest - at_limit * limit
    raised = above / (bins - at_limit)
    fits = fullest + raised <= limit
    fits[..., -1] = True
    chosen = fits.argmax(axis=-1)[..., None]
    return np.minimum(shares + np.take_along_axis(raised, chosen, -1), limit)


@dataclass(frozen=True)
class LocalContrast:
    """Regions of a volume, and how their histograms are cut.

    Attributes
    ----------
    axes : tuple of Axis
        Along z, y, x. Regions of one plane along z equalise every plane by itself.
    limit : float
        See :func:`limited`.
    """

    axes: tuple[Axis, Axis, Axis]
    limit: float

    def around(self, start: Box, stop: Box) -> tuple[Box, Box]:
        """The box of voxels that a box of the result depends on."""
        found = [axis.around(a, b) for axis, a, b in zip(self.axes, start, stop)]
        return tuple(a for a, _ in found), tuple(b for _, b in found)

    def planes(
        self, voxels: np.ndarray, start: Box, stop: Box, ends: Ends
    ) -> Iterator[np.ndarray | None]:
        """Equalised planes of a box.

        Parameters
        ----------
        voxels : numpy.ndarray, shape (z, y, x)
            Of the box that :meth:`around` returns. Not a number counts in no histogram.
        start, stop : tuple of int
            The box of the result, in voxels of the volume.
        ends : callable
            Given the number of a plane.

        Yields
        ------
        numpy.ndarray of float32, shape (y, x)
            0 (nothing of the region is darker) to 1; None where ``ends`` is None.
        """
        first, _ = self.around(start, stop)
        before, after, weight = self.axes[0].between(start[0], stop[0])
        across = [axis.between(a, b) for axis, a, b in zip(self.axes[1:], start[1:], stop[1:])]
        inside = self._inside(first, voxels.shape)
        tables: dict[int, np.ndarray] = {}
        own = tuple(slice(a - f, b - f) for a, b, f in zip(start[1:], stop[1:], first[1:]))
        for number, z in enumerate(range(start[0], stop[0])):
            found = ends(z)
            if found is None:
                yield None
                continue
            regions = (int(before[number]), int(after[number]))
            known, tables = tables, {}
            for region in regions:
                if region not in tables:
                    made = known.get(region)
                    planes = range(*(int(e) for e in self.axes[0].edges[region : region + 2]))
                    tables[region] = (
                        self._sums(voxels, first[0], planes, inside, ends) if made is None else made
                    )
            low, high = (tables[r] for r in regions)
            sums = low if regions[0] == regions[1] else _mix(low, high, weight[number])
            bins = _bins(voxels[z - first[0]][own], *found)
            yield _mapped(sums, across, bins)

    def _inside(self, first: Box, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]]:
        """Number of the first bin of each voxel's region in a plane, and regions along y and x.

        The plane begins and ends where regions do.
        """
        rows, columns = (
            np.diff(axis.edges[(axis.edges >= f) & (axis.edges <= f + n)])
            for axis, f, n in zip(self.axes[1:], first[1:], shape[1:])
        )
        row, column = (np.repeat(np.arange(len(each)), each) for each in (rows, columns))
        return (row[:, None] * len(columns) + column) * BINS, (len(rows), len(columns))

    def _sums(
        self,
        voxels: np.ndarray,
        first: int,
        planes: range,
        inside: tuple[np.ndarray, tuple[int, int]],
        ends: Ends,
    ) -> np.ndarray:
        """Sums of the histograms of a layer of regions, float32, shape (y, x, BINS + 1)."""
        place, (height, width) = inside
        counts = np.zeros(height * width * BINS, np.int64)
        for z in planes:
            found = ends(z)
            if found is None:
                continue
            plane = voxels[z - first]
            at = np.minimum(_bins(plane, *found).astype(np.int64), BINS - 1)
            at += place
            if plane.dtype.kind == "f":
                at = at[~np.isnan(plane)]
            counts += np.bincount(at.reshape(-1), minlength=counts.size)
        sums = np.zeros((height, width, BINS + 1), np.float32)
        shares = limited(counts.reshape(height, width, BINS), self.limit)
        np.cumsum(shares, axis=-1, out=shares)
        sums[..., 1:] = np.minimum(shares, 1)
        return sums


def _bins(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """Place of grey values among the bins, float32, 0 to BINS."""
    place = plane.astype(np.float32)
    place -= np.float32(low)
    place *= np.float32(BINS / (high - low))
    np.clip(place, 0, BINS, out=place)
    return np.nan_to_num(place, copy=False) if plane.dtype.kind == "f" else place


def _mix(low: np.ndarray, high: np.ndarray, weight: np.ndarray | np.float32) -> np.ndarray:
    return low + (high - low) * weight


def _mapped(
    sums: np.ndarray, across: list[tuple[np.ndarray, np.ndarray, np.ndarray]], bins: np.ndarray
) -> np.ndarray:
    """Sums up to the grey values of a plane, interpolated between regions and within bins."""
    (top, bottom, down), (left, right, along) = across
    # tables begin with the first region that any voxel needs
    top, bottom, left, right = top - top[0], bottom - top[0], left - left[0], right - left[0]
    result = np.empty(bins.shape, np.float32)
    for rows in _bands(top, bottom):
        low = sums[top[rows.start]]
        tables = _mix(low, sums[bottom[rows.start]], down[rows, None, None]).reshape(-1)
        steps = tables[1:] - tables[:-1]
        whole = np.minimum(bins[rows].astype(np.int64), BINS - 1)
        part = bins[rows] - whole.astype(np.float32)
        whole += np.arange(len(whole))[:, None] * low.size
        sides = []
        for column in (left, right):
            place = whole + column * low.shape[1]
            side = steps.take(place)
            side *= part
            side += tables.take(place)
            sides.append(side)
        result[rows] = _mix(sides[0], sides[1], along)
    return result


def _bands(top: np.ndarray, bottom: np.ndarray) -> Iterator[slice]:
    """Rows between the same regions, of which so few at once that their tables are in a cache."""
    changes = np.flatnonzero((top[1:] != top[:-1]) | (bottom[1:] != bottom[:-1])) + 1
    for start, stop in zip([0, *changes.tolist()], [*changes.tolist(), len(top)]):
        for first in range(start, stop, _ROWS):
            yield slice(first, min(first + _ROWS, stop))
