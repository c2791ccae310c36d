"""Smooth random fields that can be evaluated exactly anywhere: cubic B-splines over lattices.

Everything smooth in the phantom (deformation, bias, contrast, texture) is such a field, so that any
block of the sample can be computed on its own, without the blocks around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class SplineField:
    """Cubic B-spline over a regular lattice, ``f(p) = sum_k nodes[k] B((p - origin)/spacing - k)``.

    Attributes
    ----------
    nodes : numpy.ndarray, float32, shape (components, z, y, x)
        Lattice values (B-spline coefficients).
    spacing : tuple of float
        Distance between nodes along (z, y, x), in the unit of the points.
    origin : tuple of float
        Position of node (0, 0, 0).
    periodic : bool
        Outside the lattice: repeat it (True) or continue its border (False).
    """

    nodes: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    periodic: bool = False

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        extent: Sequence[float] | np.ndarray,
        spacing: Sequence[float],
        components: int = 1,
        max_nodes: int = 256,
    ) -> SplineField:
        """Gaussian field of zero mean and unit variance that covers ``0 <= p <= extent``.

        Lattices longer than ``max_nodes`` along an axis are periodic, which bounds the memory.
        """
        wanted = [int(np.ceil(e / s)) + 5 for e, s in zip(extent, spacing)]
        shape = [min(n, max_nodes) for n in wanted]
        nodes = rng.standard_normal((components, *shape), dtype=np.float32)
        # variance of a cubic B-spline sum, averaged over positions: 0.4794 along each axis
        nodes *= np.float32(0.4794 ** (-3 / 2))
        return cls(nodes, tuple(spacing), tuple(-2.0 * s for s in spacing), shape != wanted)

    def grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Values on the grid spanned by three coordinate vectors, float32 (components, z, y, x)."""
        out = self.nodes
        for axis, points in enumerate(axes):
            weights, first = _weights(
                (np.asarray(points, float) - self.origin[axis]) / self.spacing[axis]
            )
            index = np.arange(first, first + weights.shape[1])
            length = self.nodes.shape[axis + 1]
            index = index % length if self.periodic else np.clip(index, 0, length - 1)
            used = np.take(out, index, axis=axis + 1)
            out = np.moveaxis(np.tensordot(weights, used, (1, axis + 1)), 0, axis + 1)
        return np.ascontiguousarray(out)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Values at scattered points, shape (n, 3), as float64 (components, n)."""
        index = ((np.asarray(points, float) - self.origin) / self.spacing).T
        mode = "grid-wrap" if self.periodic else "nearest"
        return np.stack(
            [
                ndimage.map_coordinates(c.astype(float), index, order=3, mode=mode, prefilter=False)
                for c in self.nodes
            ]
        )

    def scaled(self, factor: float) -> SplineField:
        """Return the field multiplied by a number."""
        return SplineField(
            (self.nodes * np.float32(factor)), self.spacing, self.origin, self.periodic
        )


def _weights(position: np.ndarray) -> tuple[np.ndarray, int]:
    """Dense float32 matrix of cubic B-spline weights and the lattice index of its first column."""
    base = np.floor(position).astype(int)
    t = position - base
    values = np.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ],
        axis=1,
    )
    first = int(base.min()) - 1
    matrix = np.zeros((len(position), int(base.max()) + 3 - first), np.float32)
    columns = base[:, None] - 1 - first + np.arange(4)
    np.put_along_axis(matrix, columns, values.astype(np.float32), axis=1)
    return matrix, first
