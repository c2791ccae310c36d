"""Tiles whose magnification changes with depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int]
Origin = tuple[float, float, float]


@dataclass(frozen=True)
class Growth:
    """A tile whose planes are larger the farther they lie along z.

    Attributes
    ----------
    centre : tuple of float
        Point (z, y, x) of the volume about which they grow, and in whose plane they do not.
    per_plane : float
        What lies at a distance d from the centre in its plane, lies at ``d * (1 + per_plane * k)``
        in the plane k planes farther.
    """

    centre: Origin
    per_plane: float

    def factors(self, z: np.ndarray) -> np.ndarray:
        """How much larger the planes ``z`` of the volume are."""
        return 1 + self.per_plane * (np.asarray(z, float) - self.centre[0])

    def undone(self, places: np.ndarray) -> np.ndarray:
        """Where places (n, 3) would lie without it."""
        away = np.array(places, float) - self.centre
        away[:, 1:] /= self.factors(places[:, 0])[:, None]
        return away + self.centre

    def done(self, places: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`undone`."""
        away = np.array(places, float) - self.centre
        away[:, 1:] *= self.factors(places[:, 0])[:, None]
        return away + self.centre
