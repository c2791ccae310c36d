"""The equations of the log gains of all lines of one plane, and their solution."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from terareg.intensity.lines import LineLayout

logger = logging.getLogger(__name__)

_SHARED = 0.003  # standard error that all log ratios of an overlap share
_TOLERANCE = 1e-4  # relative residual at which conjugate gradients stop
_STEPS = 2000  # most steps of conjugate gradients; rows of 50 tiles take some 200


@dataclass(frozen=True)
class LineSystem:
    """Least squares for the log gains of a plane: ``matrix @ gains = ratio + error``.

    Attributes
    ----------
    matrix, transposed : scipy.sparse.csr_array
        Maps log gains of all lines of all tiles to log ratios of all lines of all overlaps.
    squared : scipy.sparse.csr_array
        Squared elements of ``transposed``, for the preconditioner.
    starts : numpy.ndarray of int64
        First equation of each overlap.
    weight : numpy.ndarray
        Inverse variance of each ratio, without the error that the ratios of an overlap share.
    spread : float
        Standard deviation of the gains, around 0.
    """

    matrix: sparse.csr_array
    transposed: sparse.csr_array
    squared: sparse.csr_array
    starts: np.ndarray
    weight: np.ndarray
    spread: float = 1.0

    @classmethod
    def of(cls, layout: LineLayout) -> LineSystem:
        """The system of a layout, without weights yet."""
        matrix = _differences(layout)
        squared = matrix.multiply(matrix).T.tocsr()
        sizes = [len(pair.lines) for pair in layout.pairs]
        starts = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        return cls(matrix, matrix.T.tocsr(), squared, starts, np.zeros(sum(sizes)))

    def doubting(self, ratio: np.ndarray, gains: np.ndarray) -> LineSystem:
        """The system with less weight on ratios that the gains do not explain (Cauchy weights)."""
        error = np.abs(ratio - self.matrix @ gains) * np.sqrt(self.weight)
        known = error[self.weight > 0]
        scale = 3 * max(1.0, 1.4826 * float(np.median(known)) if known.size else 0.0)
        return replace(self, weight=self.weight / (1 + (error / scale) ** 2))

    def gains(self, ratio: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Log gains by preconditioned conjugate gradients.

        SciPy's conjugate gradients sum with BLAS, whose sums depend on the number of threads.
        """
        scale = 1 / (self.squared @ self.weight + self.spread**-2)
        right = self.transposed @ self._weighted(ratio)
        found = np.zeros_like(right) if start is None else start.astype(np.float64)
        rest = right - self._apply(found)
        step = scaled = scale * rest
        # in the norm of the preconditioner dim lines count as much as bright ones
        power, end = _dot(rest, scaled), _TOLERANCE**2 * _dot(right, scale * right)
        for _ in range(_STEPS):
            if power <= end:
                return found
            change = self._apply(step)
            length = power / _dot(step, change)
            found += length * step
            rest = rest - length * change
            scaled = scale * rest
            power, old = _dot(rest, scaled), power
            step = scaled + (power / old) * step
        logger.warning("the line gains have not converged after %d steps", _STEPS)
        return found

    def _apply(self, gains: np.ndarray) -> np.ndarray:
        return self.transposed @ self._weighted(self.matrix @ gains) + self.spread**-2 * gains

    def _weighted(self, ratio: np.ndarray) -> np.ndarray:
        """Inverse covariance of the ratios times ``ratio``; those of a pair share an error."""
        own = self.weight * ratio
        if not len(self.starts):
            return own
        total = np.add.reduceat(self.weight, self.starts)
        shared = np.add.reduceat(own, self.starts) / (_SHARED**-2 + total)
        return own - self.weight * np.repeat(shared, self._sizes)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.diff(np.append(self.starts, len(self.weight)))


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("i,i->", a, b))


def _differences(layout: LineLayout) -> sparse.csr_array:
    """Matrix that maps the log gains of all lines of all tiles to the log ratios of all pairs."""
    number = {name: i * layout.shape[1] for i, name in enumerate(layout.bottoms)}
    rows, columns, values, count = [], [], [], 0
    for pair in layout.pairs:
        n, fraction = len(pair.lines), pair.fraction
        equation = count + np.arange(n)
        below = number[pair.second] + pair.below + np.arange(n)
        parts = [(number[pair.first] + pair.lines.start + np.arange(n), 1.0)]
        parts += [(below, fraction - 1.0)] + [(below + 1, -fraction)] * (fraction > 0)
        for column, value in parts:
            rows.append(equation)
            columns.append(column)
            values.append(np.full(n, value))
        count += n
    shape = (count, len(layout.bottoms) * layout.shape[1])
    if not layout.pairs:
        return sparse.csr_array(shape)
    where = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.concatenate(values), where), shape=shape)
