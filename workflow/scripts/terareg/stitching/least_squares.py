"""Displacement by least squares from the gradients that two tiles share.

Where tissue is sparse most voxels hold only noise. A correlation weights them all equally; here a
voxel is weighted by the signal around it, so that the error comes near the Cramer-Rao bound set by
the camera noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_ITERATIONS = 4
_NOISE_OF = 1 << 16  # voxels, at most, from which the noise of a cut is estimated
_AT_REST = 2e-3  # voxels; the iteration ends at a smaller step
_NEAR = 7  # edge of the box around a voxel in which the signal is measured
_EDGE = 3  # voxels at the border of a cut that are not used
_LEAST_SIGMA = 0.02  # smallest standard error of a displacement, voxels
_UNKNOWN_SIGMA = 0.25  # standard error of a displacement from a single cut


@dataclass(frozen=True)
class Cut:
    """Prepared voxels of two tiles that overlap.

    Attributes
    ----------
    a, b : array of float32, (z, y, x)
    start : array of int
        With displacement d (origin(b) - origin(a)), ``a[i]`` meets ``b[i - (d - start)]``.
    first : tuple of int
        Position of ``a[0, 0, 0]`` in its tile.
    """

    a: np.ndarray
    b: np.ndarray
    start: np.ndarray
    first: tuple[int, ...] = (0, 0, 0)


def fit(
    cuts: Sequence[Cut], displ: np.ndarray, axes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Displacement and its standard error by Gauss-Newton steps over all cuts jointly.

    The displacement is the one at which the sum over voxels of weight times gradient times the
    difference between a and the displaced b is zero. The weight is ``s / (s + n / 2) / n``, where n
    is the variance of the noise of a cut, from the differences, and s that of the signal around a
    voxel, from the product of the two tiles, in which noise averages out. This is optimal for a
    weak signal (proportional to s) as well as for a strong one (constant); Knapp and Carter, IEEE
    Trans. ASSP 24:320 (1976), eq. 20, applied locally.

    Parameters
    ----------
    cuts : sequence of Cut
    displ : array of float
        Displacement (z, y, x) to start from, voxels; good to about a voxel.
    axes : sequence of int
        Axes to fit; the others stay as they are.

    Returns
    -------
    (displ, sigma) or None
        Voxels; the error is from the scatter of the contributions of the cuts. None if a step
        leads more than about a voxel from the start, or the cuts have no gradient.
    """
    axes = list(axes)
    cuts = [cut for cut in cuts if min(cut.a.shape[k] for k in axes) > 2 * _EDGE]
    if not cuts or not axes:
        return None
    place = np.array(displ, float)
    lags = [np.rint(displ - cut.start).astype(int) for cut in cuts]
    weights = [_weights(*_displaced(cut, lag, place, axes), axes) for cut, lag in zip(cuts, lags)]
    for _ in range(_ITERATIONS):
        normals, rights = [], []
        for cut, lag, weight in zip(cuts, lags, weights):
            a, b = _displaced(cut, lag, place, axes, trim=_EDGE - 1)
            slopes_a, slopes_b = _slopes(a, axes), _slopes(b, axes)
            weighted = slopes_b * weight
            # noise averages out in products of the gradients of the two tiles; einsum, because
            # the threads of a matrix product cost more here than they save
            normal = np.einsum("ik,jk", slopes_a, weighted)
            normals.append((normal + normal.T) / 2)
            weighted += slopes_a * weight
            rights.append(np.einsum("ik,k", weighted, _inside(b - a, axes, 1).ravel()) / 2)
        normal, right = np.sum(normals, axis=0), np.array(rights)
        if not np.isfinite(normal).all():
            return None
        if np.linalg.eigvalsh(normal)[0] <= 1e-3 * np.trace(normal) / len(axes):
            return None
        change = np.linalg.solve(normal, right.sum(0))
        place[axes] += change
        if np.abs(place - displ).max() > 1:
            return None
        if np.abs(change).max() < _AT_REST:
            break
    sigma = np.zeros(3)
    sigma[axes] = _UNKNOWN_SIGMA
    if len(cuts) > 1:
        scattered = right - right.mean(0)
        inverse = np.linalg.inv(normal)
        covariance = inverse @ (scattered.T @ scattered) @ inverse * len(cuts) / (len(cuts) - 1)
        sigma[axes] = np.maximum(np.sqrt(np.diag(covariance)), _LEAST_SIGMA)
    return place, sigma


def _displaced(
    cut: Cut, lag: np.ndarray, place: np.ndarray, axes: Sequence[int], trim: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a, and b interpolated at their positions for a displacement near the lag.

    ``trim`` voxels are left out at every end of the fitted axes.
    """
    spans = [(max(0, w), min(na, nb + w)) for w, na, nb in zip(lag, cut.a.shape, cut.b.shape)]
    a = cut.a[tuple(slice(low, high) for low, high in spans)]
    b = cut.b[tuple(slice(low - w, high - w) for (low, high), w in zip(spans, lag))]
    for axis in axes:
        b = _shifted(b, float((place - cut.start - lag)[axis]), axis, trim)
    return _inside(a, axes, trim), b


def _shifted(image: np.ndarray, by: float, axis: int, trim: int) -> np.ndarray:
    """``image`` at ``i - by`` along an axis, by the cubic through the four nearest voxels."""
    first = math.floor(-by)
    u = np.float32(-by - first)  # position between the second and third of the four, 0 to 1
    factors = (
        -u * (u - 1) * (u - 2) / 6,
        (u + 1) * (u - 1) * (u - 2) / 2,
        -(u + 1) * u * (u - 2) / 2,
        (u + 1) * u * (u - 1) / 6,
    )
    n = image.shape[axis]
    places = np.arange(trim, n - trim) + first - 1
    return sum(
        factor * image.take(np.clip(places + k, 0, n - 1), axis) for k, factor in enumerate(factors)
    )


def _inside(
    image: np.ndarray, axes: Sequence[int], trim: int, axis: int | None = None, by: int = 0
) -> np.ndarray:
    """``image`` without ``trim`` voxels at every end of ``axes``, moved by ``by`` along one."""
    return image[tuple(
        slice(trim + by * (k == axis), n - trim + by * (k == axis)) if k in axes else slice(None)
        for k, n in enumerate(image.shape)
    )]  # fmt: skip


def _slopes(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Central differences along every axis, shape (axes, voxels without one at every end)."""
    slopes = [_inside(image, axes, 1, k, 1) - _inside(image, axes, 1, k, -1) for k in axes]
    return np.stack(slopes).reshape(len(axes), -1) / 2


def _weights(a: np.ndarray, b: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Weight of every voxel that is ``_EDGE`` voxels inside, flat, see :func:`fit`."""
    away = np.abs(a - b).ravel()[:: 1 + a.size // _NOISE_OF]
    noise = (1.4826 * float(np.median(away))) ** 2 / 2 + 1e-20
    signal = _inside(ndimage.uniform_filter(a * b, _NEAR, mode="nearest"), axes, _EDGE)
    signal = np.maximum(signal, 0).ravel()
    return signal / (signal + noise / 2) / noise
