"""What stands out from its surroundings: voxels of labelled tissue, such as axons.

A voxel's answer is its brightness above the local background, or the steepness of brightness there
(``gradient``). The background is that of a Gaussian (the answer is then a difference of Gaussians),
or the opening of the image by a box (top-hat), and is found on a grid that is coarser by whole
voxels, from means over these, and interpolated linearly: it is smooth by its nature. Every answer
depends on a neighbourhood of fixed size and on a grid that begins at the first voxel of the volume,
so that it does not depend on how the volume was divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.levels import Box

DIFFERENCE, TOP_HAT, GRADIENT, PLAIN = "difference", "top_hat", "gradient", "plain"
PROBABILITY = "probability"
METHODS = (DIFFERENCE, TOP_HAT, GRADIENT, PLAIN, PROBABILITY)
_ACROSS = 4  # coarse voxels of the background's size
_FAR, _REACH = 3.0, 4.0  # radius of its Gaussian, and of all others, standard deviations
_MOST_REACH = 256  # voxels, half of a usual block: what is read for a block is eight times that
_ROUNDED = 1e-3  # by which a probability may leave 0 to 1
_LEAST_SLOPE = 0.5  # voxels, standard deviation of the Gaussian whose slope is taken

#: voxels ``start <= index < stop`` of the whole volume
Reader = Callable[[Sequence[int], Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class ForegroundSettings:
    """How voxels are told from their background.

    Attributes
    ----------
    method : {"difference", "top_hat", "gradient", "plain", "probability"}
        Brightness above that of a Gaussian, above the opening, its slope, or as it is; or the image
        is the probability of signal, see :func:`as_probability`.
    background_um : float
        Standard deviation of the Gaussian, or edge of the box; larger than what is looked for.
    smooth_um : float
        Standard deviation of a Gaussian that is applied first; 0 for none.
    """

    method: str = DIFFERENCE
    background_um: float = 50.0
    smooth_um: float = 0.0

    @property
    def has_background(self) -> bool:
        """Whether a background is taken off."""
        return self.method in (DIFFERENCE, TOP_HAT)


@dataclass(frozen=True)
class _Scales:
    """The settings in voxels of a volume, for each axis (z, y, x)."""

    smooth: tuple[float, ...]
    factor: Box
    width: tuple[float, ...]  # of the background, coarse voxels
    reach: Box  # how far the background sees, coarse voxels
    halo: Box  # how far the fine filter sees


def check_settings(settings: ForegroundSettings, spacing_um: Sequence[float]) -> None:
    """Raise :class:`ConfigError` for settings that do not fit the voxels of a volume."""
    if settings.method == GRADIENT:
        for axis, spacing in zip("zyx", spacing_um):
            if settings.smooth_um / spacing < _LEAST_SLOPE:
                raise ConfigError(
                    f"smooth_um: {settings.smooth_um:g} is less than half a voxel along {axis} "
                    f"({spacing:g} um), too little for a gradient; give "
                    f"{_LEAST_SLOPE * max(spacing_um):g} or more"
                )
    if settings.has_background and settings.background_um < 2 * max(spacing_um):
        raise ConfigError(
            f"background_um: {settings.background_um:g} is less than two voxels of "
            f"{max(spacing_um):g} um; give the size of the dark surroundings of the signal"
        )
    reach = halo_vox(settings, spacing_um)
    if max(reach) > _MOST_REACH:
        raise ConfigError(
            f"background_um: {settings.background_um:g} with smooth_um: {settings.smooth_um:g} "
            f"needs {max(reach)} voxels around every block, more than the {_MOST_REACH} allowed; "
            "lower background_um or smooth_um, or read a coarser level (level: 1)"
        )


def foreground(
    read: Reader,
    box: tuple[Box, Box],
    shape: Box,
    spacing_um: Sequence[float],
    settings: ForegroundSettings,
) -> np.ndarray:
    """Answer of every voxel of a box, float32.

    Parameters
    ----------
    read : callable
        Reads any box of the volume.
    box : tuple
        First voxel (z, y, x), and the one beyond the last.
    shape : tuple of int
        Of the volume, whose outer faces are mirrors.
    spacing_um : sequence of float
    settings : ForegroundSettings

    Returns
    -------
    numpy.ndarray of float32, shape of the box
        In grey values, with ``gradient`` in grey values per micrometre, with ``probability``
        0 to 1.

    Raises
    ------
    VolumeError
        If what should be probabilities is none.
    """
    scales = _scales(settings, spacing_um)
    start, stop = box
    low = [max(0, a - h) for a, h in zip(start, scales.halo)]
    high = [min(n, b + h) for b, h, n in zip(stop, scales.halo, shape)]
    inner = tuple(slice(a - f, b - f) for a, b, f in zip(start, stop, low))
    if not settings.has_background:
        found = np.asarray(read(low, high))
        probable = settings.method == PROBABILITY
        values = as_probability(found) if probable else found.astype(np.float32)
        if settings.method in (PLAIN, PROBABILITY):
            return _smoothed(values, scales.smooth)[inner]
        return _slope(values, scales.smooth, spacing_um)[inner]
    # whole coarse voxels, as many as the background of the box needs
    cells = [
        (max(0, (a // f) - 1 - r), min(-(-n // f), (b - 1) // f + 2 + r))
        for a, b, f, r, n in zip(start, stop, scales.factor, scales.reach, shape)
    ]
    first = [min(c[0] * f, a) for c, f, a in zip(cells, scales.factor, low)]
    first = [a // f * f for a, f in zip(first, scales.factor)]
    last = [max(min(n, c[1] * f), b) for c, f, n, b in zip(cells, scales.factor, shape, high)]
    last = [min(n, -(-b // f) * f) for b, f, n in zip(last, scales.factor, shape)]
    voxels = np.asarray(read(first, last))
    coarse = _means(voxels, scales.factor)
    begin = [a // f for a, f in zip(first, scales.factor)]
    background = _background(coarse, settings.method, scales)
    cut = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first))
    answer = _smoothed(voxels[cut].astype(np.float32), scales.smooth)[inner]
    return answer - _interpolated(background, begin, (start, stop), (scales.factor, shape))


def as_probability(values: np.ndarray) -> np.ndarray:
    """Probabilities 0 to 1, float32.

    Parameters
    ----------
    values : numpy.ndarray
        uint8 or uint16, whose largest value is 1 (255 or 65535), or floats of 0 to 1, of which
        those that are not numbers are 0.

    Raises
    ------
    VolumeError
        If they are of another type, or floats of another range.
    """
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if values.dtype.kind != "f":
        raise VolumeError(
            f"probabilities have type {values.dtype}; give uint8 or uint16 (whose largest value is "
            "1), or floats of 0 to 1"
        )
    known = np.nan_to_num(values.astype(np.float32), nan=0.0)
    low, high = float(known.min(initial=0)), float(known.max(initial=0))
    if low < -_ROUNDED or high > 1 + _ROUNDED:
        raise VolumeError(
            f"probabilities reach from {low:g} to {high:g}, and not from 0 to 1; scale them, or "
            "use method: plain with a threshold in their own unit"
        )
    return np.clip(known, 0, 1)


def halo_vox(settings: ForegroundSettings, spacing_um: Sequence[float]) -> Box:
    """How far beyond a box voxels are read, at most, along (z, y, x)."""
    scales = _scales(settings, spacing_um)
    if not settings.has_background:
        return scales.halo
    far = ((r + 2) * f for r, f in zip(scales.reach, scales.factor))
    return tuple(max(h, n) for h, n in zip(scales.halo, far))


def _scales(settings: ForegroundSettings, spacing_um: Sequence[float]) -> _Scales:
    smooth = tuple(settings.smooth_um / s for s in spacing_um)
    halo: Box = tuple(int(_REACH * w + 0.5) for w in smooth)
    factor: Box = tuple(max(1, int(settings.background_um / s / _ACROSS)) for s in spacing_um)
    width = tuple(settings.background_um / (f * s) for f, s in zip(factor, spacing_um))
    reach: Box = tuple(int(_FAR * w + 0.5) for w in width)
    if settings.method == TOP_HAT:
        # an opening looks twice: for the darkest around, and for the brightest of these
        reach = tuple(2 * (_box(w) // 2) for w in width)
    return _Scales(smooth, factor, width, reach, halo)


def _box(width: float) -> int:
    """Odd edge of a box, voxels."""
    return 2 * round(width / 2) + 1


def _smoothed(values: np.ndarray, widths: Sequence[float]) -> np.ndarray:
    for axis, width in enumerate(widths):
        if width > 0:
            values = ndimage.gaussian_filter1d(values, width, axis, truncate=_REACH)
    return values


def _slope(values: np.ndarray, widths: Sequence[float], spacing_um: Sequence[float]) -> np.ndarray:
    """Length of the gradient of the smoothed image."""
    squares = np.zeros(values.shape, np.float32)
    for across in range(3):
        part = values
        for axis, width in enumerate(widths):
            order = 1 if axis == across else 0
            part = ndimage.gaussian_filter1d(part, width, axis, order, truncate=_REACH)
        squares += (part / np.float32(spacing_um[across])) ** 2
    return np.sqrt(squares)


def _means(voxels: np.ndarray, factor: Box) -> np.ndarray:
    """Means over whole coarse voxels, at the end of the volume over those that exist."""
    totals, counts = voxels, np.ones((1, 1, 1), int)
    for axis, f in enumerate(factor):
        edges = np.arange(0, voxels.shape[axis], f)
        totals = np.add.reduceat(totals, edges, axis, dtype=np.float64)
        sizes = np.diff([*edges, voxels.shape[axis]])
        counts = counts * sizes.reshape([-1 if a == axis else 1 for a in range(3)])
    return (totals / counts).astype(np.float32)


def _background(coarse: np.ndarray, method: str, scales: _Scales) -> np.ndarray:
    if method == DIFFERENCE:
        for axis, width in enumerate(scales.width):
            coarse = ndimage.gaussian_filter1d(coarse, width, axis, truncate=_FAR)
        return coarse
    sizes = [_box(width) for width in scales.width]
    return ndimage.maximum_filter(ndimage.minimum_filter(coarse, sizes), sizes)


def _interpolated(
    coarse: np.ndarray, begin: Sequence[int], box: tuple[Box, Box], grid: tuple[Box, Box]
) -> np.ndarray:
    """Linear interpolation of coarse voxels, which begin at ``begin``, at the voxels of a box."""
    factor, shape = grid
    for axis, (first, start, stop, f, n) in enumerate(zip(begin, *box, factor, shape)):
        # the centre of a coarse voxel is that of the voxels in it
        index = (np.arange(start, stop) + 0.5) / f - 0.5
        index = np.clip(index, 0, -(-n // f) - 1)
        low = np.floor(index).astype(int)
        weight = (index - low).astype(np.float32)
        high = np.minimum(low + 1, -(-n // f) - 1)
        shaped = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        here, there = (np.take(coarse, i - first, axis) for i in (low, high))
        coarse = here * (1 - shaped) + there * shaped
    return coarse
