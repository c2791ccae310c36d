"""A contrast transform that varies smoothly in space, and the mixture that judges its residuals.

Around every node s of a coarse grid the sample J is regressed on Chebyshev polynomials T_k of the
pulled-back atlas I and on the fraction a of tissue in the voxel, weighted by a Gaussian window g
and by the probability W that a voxel matches::

    c(s) = argmin_c  sum_x g(x - s) W(x) (J(x) - sum_k c_k T_k(I(x)) - c_a a(x))^2
                     + n0 * (global mean of it)

The fraction is there for surfaces: a voxel half full of tissue is half as bright, whatever the
contrast, and where dark tissue is bright in the sample no smooth polynomial of I says so. Without
it the fit bends there, and the surface moves to straighten it.
(the normal equations of the model of Tward 2020, smoothed). The fit is solved exactly and can be
differentiated, so the deformation is found with the contrast projected out (variable projection,
Golub & Pereyra 2003). Residuals are judged by a mixture of three classes, Tward 2020 section 2.2:
matching tissue, artefact (bright, anything), and missing tissue (background value).

References
----------
Tward, D. et al. Front. Neurosci. 14, 52 (2020).
Golub, G. & Pereyra, V. Inverse Probl. 19, R1 (2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from terareg.registration.flow import Grid

CLASSES = ("match", "artefact", "missing")


class LocalContrast:
    """Polynomials of the atlas intensity with coefficients on a coarse grid of nodes.

    Parameters
    ----------
    grid : Grid
        Voxels of the sample.
    order : int
        Degree of the polynomial; 0 fits the local mean only.
    width : float
        Standard deviation of the window in the grid's unit; infinity gives one global polynomial.
    device : torch.device
    """

    def __init__(self, grid: Grid, order: int, width: float, device: torch.device) -> None:
        self.order = order
        pool, spread, self.axes = [], [], []
        for n, spacing in zip(grid.shape, grid.spacing):
            x = spacing * np.arange(n)
            nodes = 1 if math.isinf(width) else max(1, 1 + math.ceil(x[-1] / width))
            at = np.linspace(0, x[-1], nodes) if nodes > 1 else np.array([x[-1] / 2])
            self.axes.append(at)
            window = np.exp(-((at[:, None] - x) ** 2) / (2 * width**2))
            pool.append(torch.tensor(window, dtype=torch.float32, device=device))
            hat = np.ones((n, 1))
            if nodes > 1:
                hat = np.maximum(0, 1 - np.abs(x[:, None] - at) / (at[1] - at[0]))
            spread.append(torch.tensor(hat, dtype=torch.float32, device=device))
        self._pool, self._spread = pool, spread
        full = [float(p.sum(1).max()) for p in pool]
        self._pseudo_count = 0.02 * math.prod(full)

    def fit(
        self,
        image: torch.Tensor,
        fraction: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """Coefficients, shape (order + 2, nodes z, y, x), that of the fraction last.

        Differentiable in ``image`` (the intensity) and ``fraction`` (of tissue, 0 to 1).
        """
        k = self.order + 1
        basis = self._chebyshev(image, 2 * self.order)
        part = weight * fraction
        sums = _along_axes(
            torch.cat([
                weight * basis,
                (weight * target) * basis[:k],
                part * basis[:k],
                part * torch.stack([fraction, target]),
            ]),
            self._pool,
        ).double()  # fmt: skip
        moments, cross, mixed, own = sums.split([2 * k - 1, k, k, 2])
        # T_i T_j = (T_(i+j) + T_|i-j|) / 2
        rows = [
            [*((moments[i + j] + moments[abs(i - j)]) / 2 for j in range(k)), mixed[i]]
            for i in range(k)
        ]
        rows.append([*mixed, own[0]])
        normal = torch.stack([torch.stack(row, -1) for row in rows], -2)
        right = torch.stack([*cross, own[1]], -1)
        total = normal[..., 0, 0].sum().clamp_min(1e-12)
        prior = self._pseudo_count / total
        normal = normal + prior * normal.sum((0, 1, 2))
        right = right + prior * right.sum((0, 1, 2))
        ridge = 1e-4 * normal[..., 0, 0].clamp_min(1e-12)
        eye = torch.eye(k + 1, dtype=normal.dtype, device=normal.device)
        solution = torch.linalg.solve(normal + ridge[..., None, None] * eye, right)
        return solution.movedim(-1, 0).float()

    def apply(
        self, coefficients: torch.Tensor, image: torch.Tensor, fraction: torch.Tensor
    ) -> torch.Tensor:
        """Predicted sample, shape of ``image``."""
        *intensity, tissue = self.spread(coefficients)
        polynomial = (torch.stack(intensity) * self._chebyshev(image, self.order)).sum(0)
        return polynomial + fraction * tissue

    def spread(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Linear interpolation of node values (c, nodes) to voxels (c, z, y, x)."""
        return _along_axes(coefficients, self._spread)

    def smooth(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Windowed mean of ``values`` (c, z, y, x) with ``weight``, back on the voxels."""
        total = _along_axes(weight[None], self._pool)
        mean = _along_axes(values * weight, self._pool) / total.clamp_min(1e-6)
        return self.spread(mean)

    @staticmethod
    def _chebyshev(image: torch.Tensor, order: int) -> torch.Tensor:
        t = 2 * image.clamp(0, 1.2) / 1.2 - 1
        terms = [torch.ones_like(t), t]
        while len(terms) <= order:
            terms.append(2 * t * terms[-1] - terms[-2])
        return torch.stack(terms[: order + 1])


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture of residuals.

    Attributes
    ----------
    sigma : tuple of float
        Standard deviations of match, artefact, missing, in units of the normalised sample.
    mean : tuple of float
        Mean of artefact and of missing (background) intensities.
    prior : torch.Tensor, float32, shape (3, z, y, x) or (3, 1, 1, 1)
        Probability of each class before the intensity is seen; may vary in space.
    """

    sigma: tuple[float, float, float]
    mean: tuple[float, float]
    prior: torch.Tensor

    def log_joint(self, residual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """log(prior_k) + log N_k without the constant, shape (3, z, y, x)."""
        deviations = (residual, target - self.mean[0], target - self.mean[1])
        logs = [-0.5 * (d / s) ** 2 - math.log(s) for d, s in zip(deviations, self.sigma)]
        return torch.stack(logs) + self.prior.log()

    def negative_log_likelihood(self, residual, target) -> torch.Tensor:
        """Per voxel, shape (z, y, x); its gradient is that of EM at the current posteriors."""
        return -torch.logsumexp(self.log_joint(residual, target), 0)

    def posterior(self, residual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probability of each class, shape (3, z, y, x), sums to 1."""
        return torch.softmax(self.log_joint(residual, target), 0)


def _along_axes(volumes: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Multiply matrices (rows, n) onto the last three axes of (c, z, y, x)."""
    z, y, x = matrices
    volumes = volumes @ x.T
    volumes = y @ volumes
    shape = volumes.shape
    return (z @ volumes.reshape(shape[0], shape[1], -1)).reshape(shape[0], -1, *shape[2:])
