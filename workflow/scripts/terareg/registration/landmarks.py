"""Landmarks: points marked in the atlas and in the sample, used in addition to the images.

A landmark x of the atlas, marked at y in the sample with the standard deviation sigma, adds
|A phi(x) - y|^2 / (2 sigma^2) to the energy. The images count as one observation for every cube
whose side is the characteristic length (a tenth of the brain's size): neighbouring voxels are not
independent, and with one observation per voxel landmarks would have no influence.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terareg.core.errors import RegistrationError
from terareg.storage.records import read_json

_MOST_TRIPLES = 500
_REWEIGHTINGS = 10
# second singular value of the positions, relative to the largest, below which they lie on a line
_ON_A_LINE = 0.05


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Pairs of points.

    Attributes
    ----------
    atlas_um, sample_um : numpy.ndarray of float64, shape (n, 3)
        Corresponding positions in both spaces, order z, y, x.
    sigma_um : float
        Standard deviation of a mark along each axis.
    names : tuple of str
        Names in messages; numbers from 1 if none are given.
    """

    atlas_um: np.ndarray
    sample_um: np.ndarray
    sigma_um: float
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for side in ("atlas_um", "sample_um"):
            points = np.array(getattr(self, side), np.float64)
            if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
                raise RegistrationError(
                    f"landmarks: {side} has shape {points.shape} or values that are not finite; "
                    "give n rows of z, y, x in micrometres"
                )
            object.__setattr__(self, side, points)
        if not len(self.atlas_um) == len(self.sample_um) > 0:
            raise RegistrationError(
                f"landmarks: {len(self.atlas_um)} points in the atlas and {len(self.sample_um)} "
                "in the sample; mark every landmark in both, in the same order"
            )
        if not (math.isfinite(self.sigma_um) and self.sigma_um > 0):
            raise RegistrationError(
                f"landmarks: a standard deviation of {self.sigma_um} um is impossible; give a "
                "positive number"
            )
        names = tuple(self.names) or tuple(str(n + 1) for n in range(len(self.atlas_um)))
        if len(names) != len(self.atlas_um):
            raise RegistrationError(
                f"landmarks: {len(names)} names for {len(self.atlas_um)} points; name every point"
            )
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "names": list(self.names),
            "atlas_um": self.atlas_um.tolist(),
            "sample_um": self.sample_um.tolist(),
            "sigma_um": float(self.sigma_um),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Landmarks:
        """Inverse of :meth:`to_json`."""
        return cls(data["atlas_um"], data["sample_um"], data["sigma_um"], tuple(data["names"]))

    def far(self, distance_um: np.ndarray, spread_um: float) -> list[str]:
        """A warning for every landmark whose distance from its partner exceeds five spreads."""
        return [
            f"landmark: {name!r} is still {d:.0f} um from its counterpart, where about "
            f"{spread_um:.0f} um are expected; check that both points mark the same structure"
            for name, d in zip(self.names, distance_um)
            if d > 5 * spread_um
        ]


@dataclass(frozen=True)
class Similarity:
    """y = turn @ O @ diag(scale) @ x + shift, with a rotation ``turn`` and given axes O."""

    turn: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    permutation: np.ndarray

    def matrix(self) -> np.ndarray:
        """Linear part, 3 x 3."""
        return self.turn @ self.permutation @ np.diag(self.scale)

    def distances(self, landmarks: Landmarks) -> np.ndarray:
        """Distance in the sample of every mapped atlas point from its partner, um."""
        moved = landmarks.atlas_um @ self.matrix().T + self.shift
        return np.linalg.norm(moved - landmarks.sample_um, axis=1)


def read_landmarks(path: str | os.PathLike | None) -> Landmarks | None:
    """Read what rule ``pair_landmarks`` wrote; None without a file."""
    return None if path is None else Landmarks.from_json(read_json(path))


def fit_similarity(
    landmarks: Landmarks,
    permutation: np.ndarray,
    spread_um: float,
    scale: tuple[float, float, float] | None = None,
) -> Similarity | None:
    """Robust rotation, scale and shift from the atlas to the sample.

    The start is the triple of landmarks whose map gives the smallest median distance (least median
    of squares, Rousseeuw 1984), which tolerates wrong landmarks if they are fewer than half. All
    are then weighted by the Cauchy function of their distances (Holland & Welsch 1977). Three
    landmarks give their least-squares map.

    Parameters
    ----------
    landmarks : Landmarks
    permutation : numpy.ndarray, shape (3, 3)
        Axes of the atlas in those of the sample, see
        :func:`terareg.core.frames.orientation_matrix`; determines whether the map is mirrored.
    spread_um : float
        Expected residual distance.
    scale : tuple of float, optional
        Fixed scale along the atlas axes; one scale for all axes is estimated if None.

    Returns
    -------
    Similarity or None
        None if the rotation is undetermined: fewer than three landmarks, or all on one line.
    """
    n = len(landmarks)
    if n < 3 or _on_a_line(landmarks.atlas_um) or _on_a_line(landmarks.sample_um):
        return None
    best = _least_squares(landmarks, permutation, scale, np.ones(n))
    if n == 3:
        return best
    triples: Iterable[Sequence[int] | np.ndarray] = itertools.combinations(range(n), 3)
    if math.comb(n, 3) > _MOST_TRIPLES:
        rng = np.random.default_rng(0)
        triples = (rng.choice(n, 3, replace=False) for _ in range(_MOST_TRIPLES))
    least = np.median(best.distances(landmarks))
    for triple in triples:
        if _on_a_line(landmarks.atlas_um[list(triple)]):
            continue
        weights = np.isin(np.arange(n), triple).astype(float)
        trial = _least_squares(landmarks, permutation, scale, weights)
        median = np.median(trial.distances(landmarks))
        if median < 0.999 * least:
            best, least = trial, median
    for _ in range(_REWEIGHTINGS):
        weights = 1 / (1 + (best.distances(landmarks) / (2.4 * spread_um)) ** 2)
        best = _least_squares(landmarks, permutation, scale, weights)
    return best


def _least_squares(landmarks, permutation, scale, weights) -> Similarity:
    """Weighted least squares with a fixed handedness (Umeyama, IEEE PAMI 13, 376 (1991))."""
    w = weights / weights.sum()
    stretch = np.ones(3) if scale is None else np.array(scale, float)
    x = (landmarks.atlas_um * stretch) @ permutation.T
    mean_x, mean_y = w @ x, w @ landmarks.sample_um
    x, y = x - mean_x, landmarks.sample_um - mean_y
    u, sizes, vt = np.linalg.svd(y.T @ (w[:, None] * x))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = u @ np.diag(signs) @ vt
    factor = 1.0
    if scale is None:
        factor = max(float(sizes @ signs) / float(w @ (x**2).sum(1)), 1e-6)
    shift = mean_y - factor * turn @ mean_x
    return Similarity(turn, factor * stretch, shift, permutation)


def _on_a_line(points: np.ndarray) -> bool:
    sizes = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(sizes[1] <= _ON_A_LINE * max(sizes[0], 1e-30))
