"""Displacement by least squares from the gradients that two tiles share.

Where tissue is sparse most voxels hold noise only. A correlation counts them all; here a voxel
counts by how much signal there is around it, so that the error comes near the bound that the noise
of the camera sets (Cramer and Rao).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_ITERATIONS = 3
_NEAR = 7  # edge of the box that is searched for signal around a voxel
_EDGE = 3  # voxels at the border of a cut that do not count
_LEAST_SIGMA = 0.02  # no displacement is credited with less, voxels
_UNKNOWN_SIGMA = 0.25  # of a displacement that a single cut gives


@dataclass(frozen=True)
class Cut:
    """Prepared voxels of two tiles that overlap.

    Attributes
    ----------
    a, b : array of float32, (z, y, x)
    start : array of int
        With displacement d (origin(b) - origin(a)), ``a[i]`` meets ``b[i - (d - start)]``.
    """

    a: np.ndarray
    b: np.ndarray
    start: np.ndarray


def fit(
    cuts: Sequence[Cut], displ: np.ndarray, axes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Displacement and its standard error by Gauss-Newton steps over all cuts jointly.

    Of the difference between a and the displaced b, the sum over voxels of weight times gradient
    is made zero. The weight is ``s / (s + n / 2) / n``, n the variance of the noise of a cut, from
    the differences, and s that of the signal around a voxel, from the product of the two tiles,
    in which noise averages out: what is best for a weak signal (proportional to s) as for a strong
    one (constant); Knapp and Carter, IEEE Trans. ASSP 24:320 (1976), eq. 20, applied locally.

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
        Voxels; the error is from the scatter of the cuts' contributions. None if a step leaves
        the voxel around the start or the cuts hold no gradient.
    """
    axes = list(axes)
    cuts = [cut for cut in cuts if min(cut.a.shape[k] for k in axes) > 2 * _EDGE]
    if not cuts or not axes:
        return None
    place = np.array(displ, float)
    lags = [np.rint(displ - cut.start).astype(int) for cut in cuts]
    weights: list[np.ndarray] = []
    for step in range(_ITERATIONS):
        normals, rights = [], []
        for k, (cut, lag) in enumerate(zip(cuts, lags)):
            a, b = _matched(cut, lag)
            for axis in axes:
                b = _shifted(b, float((place - cut.start - lag)[axis]), axis)
            if step == 0:
                weights.append(_weights(a, b, axes))
            slopes_a, slopes_b = np.gradient(a, axis=axes), np.gradient(b, axis=axes)
            if len(axes) == 1:
                slopes_a, slopes_b = [slopes_a], [slopes_b]
            # in products of the two tiles' slopes noise averages out
            normal = np.array([[_sum(weights[k], p, q) for q in slopes_b] for p in slopes_a])
            normals.append((normal + normal.T) / 2)
            away = b - a
            rights.append([_sum(weights[k], p + q, away) / 2 for p, q in zip(slopes_a, slopes_b)])
        normal, right = np.sum(normals, axis=0), np.array(rights)
        if np.linalg.eigvalsh(normal)[0] <= 1e-3 * np.trace(normal) / len(axes):
            return None
        place[axes] += np.linalg.solve(normal, right.sum(0))
        if np.abs(place - displ).max() > 1:
            return None
    sigma = np.zeros(3)
    sigma[axes] = _UNKNOWN_SIGMA
    if len(cuts) > 1:
        scattered = right - right.mean(0)
        inverse = np.linalg.inv(normal)
        covariance = inverse @ (scattered.T @ scattered) @ inverse * len(cuts) / (len(cuts) - 1)
        sigma[axes] = np.maximum(np.sqrt(np.diag(covariance)), _LEAST_SIGMA)
    return place, sigma


def _matched(cut: Cut, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a and b that meet where ``a[i]`` meets ``b[i - whole]``."""
    spans = [(max(0, w), min(na, nb + w)) for w, na, nb in zip(whole, cut.a.shape, cut.b.shape)]
    a = cut.a[tuple(slice(low, high) for low, high in spans)]
    return a, cut.b[tuple(slice(low - w, high - w) for (low, high), w in zip(spans, whole))]


def _shifted(image: np.ndarray, by: float, axis: int) -> np.ndarray:
    """``image`` at ``i - by`` along an axis by the cubic through the four voxels around it."""
    first = math.floor(-by)
    u = -by - first  # place between the second and the third of the four, 0 to 1
    factors = (
        -u * (u - 1) * (u - 2) / 6,
        (u + 1) * (u - 1) * (u - 2) / 2,
        -(u + 1) * u * (u - 2) / 2,
        (u + 1) * u * (u - 1) / 6,
    )
    n = image.shape[axis]
    places = np.arange(n) + first - 1
    return sum(
        np.float32(factor) * image.take(np.clip(places + k, 0, n - 1), axis)
        for k, factor in enumerate(factors)
    )


def _weights(a: np.ndarray, b: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Weight of every voxel, see :func:`fit`; 0 at the border."""
    noise = (1.4826 * float(np.median(np.abs(a - b)))) ** 2 / 2 + 1e-20
    signal = np.maximum(ndimage.uniform_filter(a * b, _NEAR, mode="nearest"), 0)
    weights = np.zeros(a.shape, np.float32)
    inside = tuple(slice(_EDGE, -_EDGE) if k in axes else slice(None) for k in range(3))
    weights[inside] = (signal / (signal + noise / 2) / noise)[inside]
    return weights


def _sum(weights: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    return float(np.einsum("ijk,ijk,ijk->", weights, p, q, dtype=np.float64))
