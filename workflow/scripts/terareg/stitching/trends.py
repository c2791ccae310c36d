"""Robust linear trends of displacements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CUT = 4.685  # standard deviations at which a value no longer counts
_ITERATIONS = 30
_LEAST_SCATTER = 1e-3  # voxels; values may agree exactly


@dataclass(frozen=True)
class Trend:
    """A linear model of displacements.

    Attributes
    ----------
    coefficients, sigma : array of float, (terms, axes)
        Solution, and its standard errors from the scatter.
    scatter : array of float, (axes,)
        Robust standard deviation of the values about the model.
    weights : array of float, (values,)
        0 (does not count) to 1.
    """

    coefficients: np.ndarray
    sigma: np.ndarray
    scatter: np.ndarray
    weights: np.ndarray

    def at(self, design: np.ndarray) -> np.ndarray:
        """Values of the model."""
        return np.asarray(design) @ self.coefficients


def robust_fit(design: np.ndarray, values: np.ndarray) -> Trend:
    """Fit ``values`` by a linear model, whatever up to about a third of them say.

    Iteratively reweighted least squares: first for the least sum of absolute residuals, then with
    Tukey's biweight (Holland and Welsch, Communications in Statistics 6:813, 1977). A value has
    one weight for all axes, that of the axis on which it is farthest off.

    Parameters
    ----------
    design : array of float, (values, terms)
        Of full rank.
    values : array of float, (values, axes)
    """
    design, values = np.asarray(design, float), np.asarray(values, float)
    weights = np.ones(len(values))
    for _ in range(_ITERATIONS):
        solution = _solve(design, values, weights)
        length = np.linalg.norm(values - design @ solution, axis=1)
        weights = 1 / np.maximum(length, 1e-2)
    scatter = _scatter(values - design @ solution, design.shape[1])
    for _ in range(_ITERATIONS):
        away = np.abs(values - design @ solution) / (_CUT * scatter)
        weights = (1 - np.minimum(away.max(axis=1), 1) ** 2) ** 2
        if np.linalg.matrix_rank(design * weights[:, None]) < design.shape[1]:
            weights = np.ones(len(values))
        solution = _solve(design, values, weights)
    counted = max(float(weights.sum()) - design.shape[1], 1.0)
    variance = (weights[:, None] * (values - design @ solution) ** 2).sum(0) / counted
    scatter = np.maximum(np.sqrt(variance), _LEAST_SCATTER)
    inverse = np.linalg.pinv(design.T @ (design * weights[:, None]))
    sigma = np.sqrt(np.outer(np.diag(inverse), scatter**2))
    return Trend(solution, sigma, scatter, weights)


def _solve(design: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    root = np.sqrt(weights)[:, None]
    solution: np.ndarray = np.linalg.lstsq(design * root, values * root, rcond=None)[0]
    return solution


def _scatter(residuals: np.ndarray, terms: int) -> np.ndarray:
    """Robust standard deviation for each axis, from residuals of a model with this many terms."""
    inner = np.sort(np.abs(residuals), axis=0)[min(terms, len(residuals) - 1) :]
    return np.maximum(1.4826 * np.median(inner, axis=0), _LEAST_SCATTER)
