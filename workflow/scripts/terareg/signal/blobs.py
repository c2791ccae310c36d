"""Bright blobs of a known size: cells in a channel.

A blob is a local maximum of the scale-normalised, negative Laplacian of Gaussian, whose width is
matched to the diameter of a cell (Lindeberg, Int. J. Comput. Vis. 30:79-116, 1998). It counts if
it stands out from what the same filter makes of the tissue around it. That noise is measured in two
ways, each too large in its own cases, and the smaller counts: the median of the filter's absolute
values, away from what stands out itself, so that cells are not each other's noise (too large where
they leave hardly any tissue between them), and the spread of the darkest values of the smoothed
image, times what the filter does to white noise (too large where brightness varies slowly). Of
eight parts of the surroundings the quieter ones count, so that a border nearby does little. What is
bright along fewer than three axes (vessels, fibres, edges, sheets) has a small curvature along one
of them and is left out; so is what does not stand out from most of its surroundings, such as the
surface of the tissue, which is bright beside the dark medium only.

Everything is a sum over a fixed neighbourhood of each voxel, and windows of the noise lie on a grid
of the whole volume. So the blobs of a box do not depend on how the volume was divided into boxes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from terareg.core.frames import Frame
from terareg.core.levels import Box
from terareg.signal.search import REACH, SAMPLES, SIGMA, reach_vox, step_vox

#: one blob: the voxel of its maximum, its centre in voxels (z, y, x), what it stands out by
#: (contrast, in standard deviations of the noise), brightness at the centre and around it (counts),
#: smallest over largest curvature, and whether its brightest voxel is saturated
BLOB = np.dtype(
    [
        ("voxel", "<i4", 3),
        ("centre_vox", "<f8", 3),
        ("contrast", "<f4"),
        ("intensity", "<f4"),
        ("background", "<f4"),
        ("roundness", "<f4"),
        ("saturated", "?"),
    ]
)

_NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute value
# shares of the darkest samples between which the noise is read off, among which are few cells even
# where these are dense, and their distance in a normal distribution, standard deviations
_DARK, _DARK_SD = (0.05, 0.2), 0.803233
_QUIET = np.arange(1, 4)  # of eight parts around a window, those whose mean counts
_LEAST_BRIGHT = 0.5  # of the window itself, for a part to count
# what stands out by so many standard deviations, and half a diameter around it, is no noise; found
# in so many passes, as long as such a share of the samples is left
_STANDS_OUT, _PASSES, _LEAST_LEFT = 3.0, 3, 0.1
# and where such a share of them stands out by so much that no noise does, cut off at zero or not
_SURE, _FEW = 5.0, 0.002
# a blob stands out from this many of its surroundings in 26 directions, a diameter away
_LOWER = 17
# edge of squares of zeros where nothing was seen, voxels: noise that is cut off at zero has none
_UNSEEN = 5
_LEAST_RISE = 0.3  # by so much of the answer of the filter; a ball rises by 0.6 of it
_ROUNDING = math.sqrt(1 / 12)  # standard deviation of rounding to whole counts
_RELATIVE_ROUNDING = 1e-6  # of single precision
_MOST_CONTRAST = 1e6


class Voxels(Protocol):
    """Source of :func:`find_blobs`: an array on a grid that is read by boxes."""

    frame: Frame

    def read(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
        """Return the voxels ``start <= index < stop``."""


@dataclass(frozen=True)
class BlobSettings:
    """What counts as a cell.

    Attributes
    ----------
    diameter_um : tuple of float
        Of a cell, along (z, y, x).
    threshold : float
        Least contrast, in standard deviations of the filtered tissue around.
    roundness : float
        Least ratio of the smallest to the largest curvature, 0 to 1. A ball has 1, a tube or a
        sheet 0.
    separation : float
        Two maxima closer than this fraction of the diameter are one cell.
    """

    diameter_um: tuple[float, float, float]
    threshold: float = 6.0
    roundness: float = 0.2
    separation: float = 0.5

    def sigma_vox(self, frame: Frame) -> tuple[float, float, float]:
        """Width of the filter, voxels."""
        return tuple(SIGMA * d / s for d, s in zip(self.diameter_um, frame.spacing_um))


def find_blobs(
    voxels: Voxels, start: Sequence[int], stop: Sequence[int], settings: BlobSettings
) -> np.ndarray:
    """Maxima of the blob filter in a box that pass contrast and roundness.

    Parameters
    ----------
    voxels : Voxels
        The whole volume; the box and what the filter needs around it are read.
    start, stop : sequence of int
        The box, ``start <= voxel < stop``. It owns the maxima whose voxel lies in it.
    settings : BlobSettings

    Returns
    -------
    numpy.ndarray of :data:`BLOB`
        In the order of their voxels. Maxima of one cell are not yet joined, see
        :func:`join_blobs`.
    """
    frame = voxels.frame
    sigma = settings.sigma_vox(frame)
    step = step_vox(settings.diameter_um, frame.spacing_um)
    reach = reach_vox(settings.diameter_um, frame.spacing_um)
    # the filtered box: the windows of the box and those around them, all whole
    window = [SAMPLES * t for t in step]
    low = [max(0, (a // w - 1) * w) for a, w in zip(start, window)]
    high = [min(n, ((b - 1) // w + 2) * w) for b, w, n in zip(stop, window, frame.shape)]
    first = [max(0, a - r) for a, r in zip(low, reach)]
    last = [min(n, b + r) for b, r, n in zip(high, reach, frame.shape)]
    values = np.asarray(voxels.read(tuple(first), tuple(last)))
    inner = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first))
    smooth = values.astype(np.float32)
    for axis, width in enumerate(sigma):
        smooth = ndimage.gaussian_filter1d(smooth, width, axis, mode="reflect", truncate=REACH)
    answer = _laplacian(smooth, sigma)[inner]
    peaks = _maxima(answer, low, start, stop)
    # on an outer face of the volume nothing says whether it is a maximum
    size = np.array(frame.shape)
    peaks = peaks[(((peaks > 0) & (peaks < size - 1)) | (size < 3)).all(axis=1)]
    gain = _Gain(sigma, frame.shape)
    images = (answer, smooth[inner], _unseen(values)[inner])
    noise = _noise(images, low, step, frame.shape, gain.ratio)
    at = tuple((peaks - low).T)
    here = noise[tuple((peaks // window - _first_window(low, window)).T)]
    here = here * (gain(peaks) / gain.of_filter)
    if values.dtype.kind in "ui":
        here = np.maximum(here, _ROUNDING * gain.of_filter)
    here = np.maximum(here, _RELATIVE_ROUNDING * np.abs(smooth[inner][at]))
    contrast = answer[at] / np.maximum(here, np.finfo(np.float32).tiny)
    peaks, contrast = (
        peaks[contrast >= settings.threshold],
        contrast[contrast >= settings.threshold],
    )
    return _described(peaks, contrast, (values, smooth, answer), (first, low), (settings, sigma))


def join_blobs(blobs: np.ndarray, settings: BlobSettings, frame: Frame) -> np.ndarray:
    """One blob for each cell: of maxima close together the one with the highest contrast.

    Parameters
    ----------
    blobs : numpy.ndarray of :data:`BLOB`
        All of a volume, in any order.
    settings : BlobSettings
    frame : Frame
        Grid of the volume in which they were found.

    Returns
    -------
    numpy.ndarray of :data:`BLOB`
        In the order of their voxels (z, y, x).
    """
    if not len(blobs):
        return blobs
    voxel = blobs["voxel"]
    blobs = blobs[np.lexsort((voxel[:, 2], voxel[:, 1], voxel[:, 0], -blobs["contrast"]))]
    reach = settings.separation * np.array(settings.diameter_um) / np.array(frame.spacing_um)
    pairs = cKDTree(blobs["centre_vox"] / reach).query_pairs(1.0, output_type="ndarray")
    kept = np.ones(len(blobs), bool)
    # blobs are in the order of their contrast: the first of a pair wins, if it is still there
    for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
        if kept[better]:
            kept[worse] = False
    blobs = blobs[kept]
    voxel = blobs["voxel"]
    return blobs[np.lexsort((voxel[:, 2], voxel[:, 1], voxel[:, 0]))]


def boxes(shape: Sequence[int], edges: Sequence[int]) -> list[tuple[Box, Box]]:
    """First and last voxels of boxes that cover a grid, in z, y, x order."""
    found: list[tuple[Box, Box]] = []
    for start in itertools.product(*(range(0, n, e) for n, e in zip(shape, edges))):
        stop = (min(a + e, n) for a, e, n in zip(start, edges, shape))
        found.append((tuple(start), tuple(stop)))
    return found


def _laplacian(smooth: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Minus the sum over axes of sigma^2 times the second derivative, reflected at the ends."""
    answer = np.zeros_like(smooth)
    for axis, width in enumerate(sigma):
        weights = np.array([-1.0, 2.0, -1.0]) * width**2
        answer += ndimage.correlate1d(smooth, weights, axis, mode="reflect")
    return answer


class _Gain:
    """What the filter makes of white noise; near the faces of a volume, where it mirrors, more."""

    def __init__(self, sigma: Sequence[float], shape: Sequence[int]) -> None:
        self._shape, self._products = shape, []
        for n, width in zip(shape, sigma):
            size = min(n, 4 * (int(REACH * width + 0.5) + 2) + 1)
            smooth = ndimage.gaussian_filter1d(
                np.eye(size), width, axis=0, mode="reflect", truncate=REACH
            )
            second = ndimage.correlate1d(
                smooth, np.array([-1.0, 2.0, -1.0]) * width**2, axis=0, mode="reflect"
            )
            pairs = ((second, second), (smooth, smooth), (second, smooth))
            self._products.append([(one * other).sum(axis=1) for one, other in pairs])
        middle = self._at(np.array([[n // 2 for n in shape]]))
        self.of_filter = float(self(np.array([[n // 2 for n in shape]]))[0])
        #: of the filter over that of its Gaussian alone, far from the faces
        self.ratio = self.of_filter / math.sqrt(math.prod(float(b[0]) for _, b, _ in middle))

    def _at(self, voxels: np.ndarray) -> list[list[np.ndarray]]:
        found = []
        for axis, products in enumerate(self._products):
            n, size = self._shape[axis], len(products[0])
            place = np.minimum(voxels[:, axis], size // 2)
            place = np.maximum(place, voxels[:, axis] + size - n)
            found.append([product[place] for product in products])
        return found

    def __call__(self, voxels: np.ndarray) -> np.ndarray:
        """Standard deviation of the filtered noise of standard deviation 1 at voxels (n, 3)."""
        (az, bz, cz), (ay, by, cy), (ax, bx, cx) = self._at(voxels)
        variance = az * by * bx + bz * ay * bx + bz * by * ax
        variance += 2 * (cz * cy * bx + cz * by * cx + bz * cy * cx)
        return np.sqrt(variance)


def _unseen(values: np.ndarray) -> np.ndarray:
    """Where no tile lies: squares of zeros along two axes at least, bool."""
    found = np.zeros(values.shape, bool)
    if values.all():
        return found
    zero = values == 0
    for pair in itertools.combinations(range(3), 2):
        around = zero
        for axis in pair:
            around = ndimage.minimum_filter1d(around, _UNSEEN, axis, mode="nearest")
        found |= around
    return found


def _noise(
    images: tuple[np.ndarray, np.ndarray, np.ndarray],
    low: Sequence[int],
    step: Sequence[int],
    shape: Sequence[int],
    ratio: float,
) -> np.ndarray:
    """Standard deviation of the filtered tissue, float32, one for each window of the box.

    It is measured from every n-th voxel of the window and of those around it. ``images`` are the
    filtered box, the smoothed one, and where nothing was seen; they begin at ``low`` with a whole
    window and end with one, or with the volume.
    """
    answer, smooth, unseen = (_samples(image, low, step, shape) for image in images)
    counts = [n // SAMPLES - 2 for n in answer.shape]
    whole = [length for n in answer.shape for length in (n // SAMPLES, SAMPLES)]
    centre = smooth.reshape(whole).mean(axis=(1, 3, 5))
    noise = np.empty(counts, np.float32)
    for z in range(counts[0]):
        planes = slice(z * SAMPLES, (z + 3) * SAMPLES)
        filtered, smoothed = _rows(answer[planes]), _rows(smooth[planes])
        bright = smoothed.mean(axis=1).reshape(-1, 8)
        _remove_slope(smoothed)
        ranks = [int(share * smoothed.shape[1]) for share in _DARK]
        ranked = np.partition(smoothed, ranks, axis=1)
        dark = (ranked[:, ranks[1]] - ranked[:, ranks[0]]) * np.float32(ratio / _DARK_SD)
        parts = np.minimum(_spread_between(filtered, dark), dark).reshape(-1, 8)
        # beside tissue, the medium without noise says nothing
        tissue = bright >= _LEAST_BRIGHT * centre[z + 1, 1:-1, 1:-1].reshape(-1, 1)
        parts[~tissue & tissue.any(axis=1, keepdims=True)] = np.inf
        # where tiles end, the zeros beyond them have no noise
        seen = np.isfinite(parts) & ~_rows(unseen[planes]).any(axis=1).reshape(-1, 8)
        parts[~seen & seen.any(axis=1, keepdims=True)] = np.inf
        quiet = np.minimum(_QUIET, np.isfinite(parts).sum(axis=1, keepdims=True) - 1)
        chosen = np.take_along_axis(np.sort(parts, axis=1), quiet, axis=1)
        noise[z] = chosen.mean(axis=1).reshape(counts[1:])
    return noise


def _spread_between(filtered: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Standard deviation of rows of samples of the filter, without what stands out of them.

    ``dark`` is the other measure of each row. What stands out is judged by both, and by the window
    that the row belongs to, one of eight; windows where nothing clearly does are left as they are.
    """
    values = np.abs(filtered)
    middle = values.shape[1] // 2
    spread = _NORMAL_MAD * np.partition(values, middle, axis=1)[:, middle]
    chosen = np.arange(len(spread))
    for _ in range(_PASSES):
        parts = np.sort(np.minimum(spread[chosen], dark[chosen]).reshape(-1, 8), axis=1)
        level = np.repeat(parts[:, _QUIET].mean(axis=1), 8)[:, None]
        sure = filtered[chosen] > _SURE * level
        rows = np.repeat(sure.reshape(len(parts), -1).mean(axis=1) > _FEW, 8)
        chosen = chosen[rows]
        if not len(chosen):
            break
        left = ~_grown(filtered[chosen] > _STANDS_OUT * level[rows])
        count = left.sum(axis=1)
        ranked = np.sort(np.where(left, values[chosen], np.inf), axis=1)
        found = _NORMAL_MAD * np.take_along_axis(ranked, count[:, None] // 2, axis=1)[:, 0]
        enough = count >= _LEAST_LEFT * values.shape[1]
        spread[chosen] = np.where(enough, np.minimum(found, spread[chosen]), spread[chosen])
    return spread


def _grown(rows: np.ndarray) -> np.ndarray:
    """Samples that are marked, or next to marked ones, in every row."""
    edge = 3 * SAMPLES // 2
    marked = rows.reshape(-1, edge, edge, edge).copy()
    for axis in (1, 2, 3):
        cells = np.moveaxis(marked, axis, 1)  # of the same memory
        before = cells.copy()
        cells[:, 1:] |= before[:, :-1]
        cells[:, :-1] |= before[:, 1:]
    return marked.reshape(rows.shape)


def _samples(
    image: np.ndarray, low: Sequence[int], step: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Every n-th voxel; at the faces of the volume a window more, and whole windows, by mirrors."""
    # low is a multiple of the step, so samples are the same voxels in every box
    every = tuple(slice(min(t // 2, n - 1), None, t) for t, n in zip(step, image.shape))
    samples = image[every]
    pads = []
    for n, m, first, size, t in zip(samples.shape, image.shape, low, shape, step):
        before = 0 if first else SAMPLES
        windows = -(-m // (SAMPLES * t))
        after = windows * SAMPLES - n + (SAMPLES if first + m == size else 0)
        pads.append((before, after))
    return np.pad(samples, pads, mode="symmetric")


def _first_window(low: Sequence[int], window: Sequence[int]) -> np.ndarray:
    """The window that the first noise of a box belongs to."""
    # the first window of the box is there for its neighbours only, unless mirrors take its place
    return np.array([a // w + (a > 0) for a, w in zip(low, window)])


def _rows(samples: np.ndarray) -> np.ndarray:
    """The samples around every window of a layer, in eight parts: eight rows for each window."""
    edge = 3 * SAMPLES // 2
    windows = np.lib.stride_tricks.sliding_window_view(samples, (2 * edge,) * 3)
    windows = windows[0, ::SAMPLES, ::SAMPLES]
    parts = windows.reshape(-1, 2, edge, 2, edge, 2, edge).transpose(0, 1, 3, 5, 2, 4, 6)
    return parts.reshape(-1, edge**3)


def _remove_slope(rows: np.ndarray) -> None:
    """Take the best plane off each row of samples, except for its mean."""
    edge = 3 * SAMPLES // 2
    along = np.arange(edge, dtype=np.float32) - np.float32((edge - 1) / 2)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = edge
        weights = np.broadcast_to(along.reshape(shape), (edge,) * 3).reshape(-1)
        slope = (rows * weights).sum(axis=1) / np.float32((weights**2).sum())
        rows -= slope[:, None] * weights


def _maxima(
    answer: np.ndarray, low: Sequence[int], start: Sequence[int], stop: Sequence[int]
) -> np.ndarray:
    """Voxels of the box above all neighbours; of equal neighbours the first one, (n, 3)."""
    around = [
        (max(f, a - 1), min(f + n, b + 1)) for a, b, f, n in zip(start, stop, low, answer.shape)
    ]
    part = answer[tuple(slice(a - f, b - f) for (a, b), f in zip(around, low))]
    padded = np.pad(part, 1, constant_values=-np.inf)
    inner = tuple(slice(1 + a - r[0], 1 + b - r[0]) for a, b, r in zip(start, stop, around))
    centre = padded[inner]
    highest = ndimage.maximum_filter(padded, 3)[inner]
    peaks = np.argwhere((centre == highest) & (centre > 0))
    first = np.ones(len(peaks), bool)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if offset < (0, 0, 0):
            at = peaks + np.array([s.start for s in inner]) + np.array(offset)
            first &= padded[tuple(at.T)] < centre[tuple(peaks.T)]
    return peaks[first] + np.array(start)


def _described(
    peaks: np.ndarray,
    contrast: np.ndarray,
    images: tuple[np.ndarray, np.ndarray, np.ndarray],
    origins: tuple[Sequence[int], Sequence[int]],
    how: tuple[BlobSettings, Sequence[float]],
) -> np.ndarray:
    """Blobs at these maxima that are round enough."""
    values, smooth, answer = images
    settings, sigma = how
    if len(peaks):
        at = peaks - np.array(origins[0])
        rise = smooth[tuple(at.T)] - _surroundings(smooth, at, sigma)
        clear = rise >= _LEAST_RISE * answer[tuple((peaks - np.array(origins[1])).T)]
        peaks, contrast = peaks[clear], contrast[clear]
    found = np.zeros(len(peaks), BLOB)
    if not len(peaks):
        return found
    found["voxel"], found["contrast"] = peaks, np.minimum(contrast, _MOST_CONTRAST)
    gradient, hessian = _derivatives(answer, peaks - np.array(origins[1]))
    scale = np.array(sigma)
    curvature = np.linalg.eigvalsh(
        -_derivatives(smooth, peaks - np.array(origins[0]))[1] * scale[:, None] * scale[None]
    )
    found["roundness"] = np.clip(curvature[:, 0] / np.maximum(curvature[:, 2], 1e-30), 0, 1)
    # one Newton step towards the maximum of the filter's answer; at most half a voxel
    hessian[np.abs(np.linalg.det(hessian)) < 1e-30] = -np.eye(3)
    step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    found["centre_vox"] = peaks + np.clip(step, -0.5, 0.5)
    at = tuple((peaks - np.array(origins[0])).T)
    found["intensity"] = smooth[at]
    found["background"] = found["intensity"] - answer[tuple((peaks - np.array(origins[1])).T)]
    if values.dtype.kind in "ui":
        found["saturated"] = values[at] == np.iinfo(values.dtype).max
    return found[found["roundness"] >= settings.roundness]


def _surroundings(smooth: np.ndarray, at: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Brightness a diameter away that most directions do not reach; at the faces, that there."""
    directions = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)], float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    offsets = np.rint(directions * np.array(sigma) / SIGMA).astype(int)
    index = np.clip(at[:, None] + offsets, 0, np.array(smooth.shape) - 1)
    values = smooth[tuple(np.moveaxis(index, -1, 0))]
    return np.partition(values, _LOWER, axis=1)[:, _LOWER]


def _derivatives(image: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (n, 3) and matrix of second derivatives (n, 3, 3) by differences, float64."""
    last = np.array(image.shape) - 1

    def value(offset: np.ndarray) -> np.ndarray:
        index = np.clip(at + offset, 0, last)
        return image[tuple(index.T)].astype(np.float64)

    unit = np.eye(3, dtype=int)
    centre = value(np.zeros(3, int))
    gradient = np.stack([(value(u) - value(-u)) / 2 for u in unit], -1)
    hessian = np.empty((len(at), 3, 3))
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        if a == b:
            second = value(unit[a]) + value(-unit[a]) - 2 * centre
        else:
            plus, minus = unit[a] + unit[b], unit[a] - unit[b]
            second = (value(plus) + value(-plus) - value(minus) - value(-minus)) / 4
        hessian[:, a, b] = hessian[:, b, a] = second
    return gradient, hessian
