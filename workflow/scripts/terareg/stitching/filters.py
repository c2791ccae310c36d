"""Images to correlate: binned, band-passed logarithm of the intensity without fixed patterns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_LEVELS_OF = 1 << 17  # pixels, about, from which levels are estimated
_MEDIAN_OF = 600  # pixels, at least, from which the median of a row or column is taken
_HIGH_PASS = (9, 15, 15)  # edges of the box whose mean is subtracted, voxels
_LOW_PASS = (1.2, 1.2, 1.2)  # standard deviations of the Gaussian, voxels
_TRUNCATE = 3.0  # standard deviations at which the Gaussian is cut off
REACH = tuple(h // 2 + round(_TRUNCATE * g) for h, g in zip(_HIGH_PASS, _LOW_PASS))  # of both
_DARK_PERCENT = 0.1  # percentile of an image, taken as its dark level
_BRIGHT_PERCENT = 90  # percentile of a strip, taken as the level of bright tissue
_SOFTENING = 2.0  # softening constant, times the level of bright tissue
_DIM = 0.05  # share of the softening constant; a median below is too dim to give a gain
_MOST_GAIN = 1.5  # of a row or column; more is the border of the tissue
_CHANCE_SIGNAL = 6.0  # autocorrelation that counts as signal, in standard deviations of noise


@dataclass(frozen=True)
class Intensities:
    """Intensities of one image, counts: darkest, bright tissue, and the noise of the camera."""

    dark: float
    bright: float
    noise: float


def levels_of(raw: np.ndarray) -> Intensities:
    """Intensities of some of the planes of ``raw`` (z, y, x), and of some rows of large ones."""
    some = raw[:: max(1, raw.shape[0] // 8)]
    step = max(1, some.size // _LEVELS_OF)
    planes = some[:, ::step].astype(np.float32)
    if planes.shape[2] >= 3:
        second = planes[..., 2:] - 2 * planes[..., 1:-1] + planes[..., :-2]
        noise = 1.4826 * float(np.median(np.abs(second))) / math.sqrt(6)
    else:
        noise = float(planes.std())
    dark, bright = np.percentile(planes, (_DARK_PERCENT, _BRIGHT_PERCENT))
    return Intensities(float(dark), float(bright), noise)


def common_levels(levels: Iterable[Intensities], dark: float | None) -> tuple[float, float]:
    """Dark level and softening constant of the logarithm, common to both tiles.

    The constant is a multiple of the level of bright tissue. The logarithm then gives bright and
    dim tissue similar contrast, while the step from tissue to dark medium does not outweigh the
    texture: it is smooth along the surface and says little about the displacement.
    """
    levels = list(levels)
    if dark is None:
        dark = min(each.dark for each in levels)
    bright = max(each.bright for each in levels) - dark
    noise = max(each.noise for each in levels)
    return float(dark), 3 * noise + _SOFTENING * max(0.0, bright) + 1


def bin_pixels(raw: np.ndarray, bins) -> np.ndarray:
    """Mean over bins of y and x, float32; pixels that do not fill a bin are left out."""
    k = int(bins[1])
    if k == 1:
        return raw.astype(np.float32)
    z, y, x = raw.shape
    if y < k or x < k:
        return raw.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    raw = raw[:, : y // k * k, : x // k * k]
    sums = np.empty((z, y // k, x // k), np.uint32)
    for plane, total in zip(raw, sums):  # one after the other: a plane stays in the cache
        rows = np.add.reduce(plane.reshape(y // k, k, -1), axis=1, dtype=np.uint32)
        total[:] = rows[:, ::k]
        for column in range(1, k):
            total += rows[:, column::k]
    return sums.astype(np.float32) / (k * k)


def prepare(image: np.ndarray, levels: tuple[float, float]) -> tuple[np.ndarray, bool]:
    """Band-passed logarithm without patterns fixed in rows and columns, and if it has signal.

    Shading and stripes are factors: each row and each column is divided by its median, so that they
    neither correlate by themselves nor shift the apparent centre of a cell on their slope. Where
    the medians are due to the border of the tissue, they are only subtracted from the logarithm.
    """
    dark, soft = levels
    image = np.maximum(image - dark, 0)
    dim = _DIM * soft
    offsets: list[np.ndarray | None] = []
    for axis in (1, 2):
        if image.shape[0] * image.shape[3 - axis] < _MEDIAN_OF:
            offsets.append(None)  # too few pixels for a gain
            continue
        level = _medians(image, axis)
        gain = (level + dim) / (level.mean() + dim)
        if gain.max() > _MOST_GAIN or gain.min() < 1 / _MOST_GAIN:
            offsets.append(None)
            continue
        image /= gain
        offsets.append(np.log(level / gain + soft))
    log = np.log(image + soft)
    for axis, offset in zip((1, 2), offsets):
        log -= _medians(log, axis) if offset is None else offset
    size = [min(h, n) if n > 1 else 1 for h, n in zip(_HIGH_PASS, log.shape)]
    log -= ndimage.uniform_filter(log, size, mode="nearest")
    signal = _has_signal(log)
    sigma = [g if n > 1 else 0 for g, n in zip(_LOW_PASS, log.shape)]
    return ndimage.gaussian_filter(log, sigma, mode="nearest", truncate=_TRUNCATE), signal


def _medians(image: np.ndarray, axis: int) -> np.ndarray:
    """Median of every row (axis 1) or column (axis 2), over as many planes as are needed."""
    step = max(1, min(image.shape[0], image.shape[0] * image.shape[3 - axis] // _MEDIAN_OF))
    return np.median(image[::step], axis=(0, 3 - axis), keepdims=True)


def _has_signal(image: np.ndarray) -> bool:
    """Whether neighbouring pixels are correlated; camera noise is not."""
    energy = float(np.einsum("ijk,ijk->", image, image, dtype=np.float64))
    if energy <= 0 or image.size < 64:
        return False
    best = -1.0
    for axis in (1, 2):
        a = np.moveaxis(image, axis, 0)
        if len(a) > 2:
            product_ = float(np.einsum("ijk,ijk->", a[1:], a[:-1], dtype=np.float64))
            best = max(best, product_ / energy)
    # the high-pass makes noise anticorrelated by 1/225; the 1 % allows for fixed patterns
    return best > max(0.01, _CHANCE_SIGNAL / math.sqrt(image.size))
