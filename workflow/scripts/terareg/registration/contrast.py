"""A contrast transform that varies smoothly in space, and the mixture model of its residuals.

Around every node s of a coarse grid the sample J is regressed on Chebyshev polynomials T_k of the
pulled-back atlas I and on the fraction a of tissue in the voxel, weighted by a Gaussian window g
and by the probability W that a voxel matches::

    c(s) = argmin_c  sum_x g(x - s) W(x) (J(x) - sum_k c_k T_k(I(x)) - c_a a(x))^2
                     + n0 * (global mean of it)

With several images of the atlas the sum runs over the polynomials of all of them; with several
channels of the sample every channel has its own coefficients.

The tissue fraction accounts for partial volume at surfaces: a voxel half full of tissue is half as
bright in any contrast. No smooth polynomial of I describes this where tissue that is dark in the
atlas is bright in the sample. Without the fraction the fit would be biased there, and the surface
would move to compensate.

These are the normal equations of the model of Tward 2020, smoothed in space. The fit is solved
exactly and is differentiable, so the deformation is found with the contrast projected out (variable
projection, Golub & Pereyra 2003). Residuals follow a mixture of three classes, Tward 2020
section 2.2: matching tissue, artefact (bright, any value), and missing tissue (background value).

References
----------
Tward, D. et al. Front. Neurosci. 14, 52 (2020).
Golub, G. & Pereyra, V. Inverse Probl. 19, R1 (2003).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from terareg.registration.flow import SamplingGrid, along_axes

CLASSES = ("match", "artefact", "missing")
# weight in a window below which it is 0
_TAIL = 1e-6


class LocalContrast:
    """Polynomials of the atlas intensities with coefficients on a coarse grid of nodes.

    Parameters
    ----------
    grid : SamplingGrid
        Voxels of the sample.
    orders : sequence of int
        Degree of the polynomial of every image; 0 fits the local mean only.
    width : float
        Standard deviation of the window in the grid's unit; infinity gives one global polynomial.
    device : torch.device

    Attributes
    ----------
    voxels : float
        Effective number of voxels in a window.
    """

    def __init__(
        self, grid: SamplingGrid, orders: Sequence[int], width: float, device: torch.device
    ) -> None:
        self.orders = tuple(orders)
        pool, spread, self.axes = [], [], []
        for n, spacing in zip(grid.shape, grid.spacing):
            x = spacing * np.arange(n)
            nodes = 1 if math.isinf(width) else max(1, 1 + math.ceil(x[-1] / width))
            at = np.linspace(0, x[-1], nodes) if nodes > 1 else np.array([x[-1] / 2])
            self.axes.append(at)
            window = np.exp(-((at[:, None] - x) ** 2) / (2 * width**2))
            # products of tails would be denormal numbers, which processors multiply slowly
            window[window < _TAIL] = 0
            pool.append(torch.tensor(window, dtype=torch.float32, device=device))
            hat = np.ones((n, 1))
            if nodes > 1:
                hat = np.maximum(0, 1 - np.abs(x[:, None] - at) / (at[1] - at[0]))
            spread.append(torch.tensor(hat, dtype=torch.float32, device=device))
        self._pool, self._spread = pool, spread
        full = [float(p.sum(1).max()) for p in pool]
        self._pseudo_count = 0.02 * math.prod(full)
        # Kish's effective size of a sample with these weights
        self.voxels = math.prod(float(((p.sum(1) ** 2) / (p**2).sum(1)).max()) for p in pool)

    def fit(
        self,
        images: torch.Tensor,
        fraction: torch.Tensor,
        targets: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """Coefficients, shape (targets, terms, nodes z, y, x), see :meth:`terms`.

        ``images`` are the intensities of the atlas, shape (images, z, y, x), ``targets`` the
        channels of the sample, (targets, z, y, x). Differentiable in ``images`` and in
        ``fraction`` (of tissue, 0 to 1).
        """
        bases = [self._chebyshev(image, 2 * n) for image, n in zip(images, self.orders)]
        features = self._features(bases)
        k = len(features)
        part = weight * fraction
        couples = list(itertools.combinations(range(len(bases)), 2))
        sums = along_axes(
            torch.cat([
                weight * bases[0],
                *(weight * basis[1:] for basis in bases[1:]),
                *((weight * bases[a][i]) * bases[b][1 : self.orders[b] + 1]
                  for a, b in couples for i in range(1, self.orders[a] + 1)),
                *((weight * target) * features for target in targets),
                part * features,
                part * torch.stack([fraction, *targets]),
            ]),
            self._pool,
        ).double()  # fmt: skip
        powers = [2 * n for n in self.orders]
        pairs = [self.orders[a] * self.orders[b] for a, b in couples]
        first, *others, cross, mixed, own = sums.split(
            [1 + powers[0], *powers[1:], *pairs, len(targets) * k, k, 1 + len(targets)]
        )  # fmt: skip
        moments = [first, *(torch.cat([first[:1], m]) for m in others[: len(bases) - 1])]
        products = dict(zip(couples, others[len(bases) - 1 :]))

        def inner(a: int, i: int, b: int, j: int) -> torch.Tensor:
            """Weighted sum of T_i of image a times T_j of image b, a <= b."""
            if a == b or i == 0:  # T_i T_j = (T_(i+j) + T_|i-j|) / 2
                return (moments[b][i + j] + moments[b][abs(i - j)]) / 2
            return products[a, b][(i - 1) * self.orders[b] + j - 1]

        degrees = [(0, 0), *((a, i) for a, n in enumerate(self.orders) for i in range(1, n + 1))]
        rows = [
            [*(inner(*min(p, q), *max(p, q)) for q in degrees), mixed[row]]
            for row, p in enumerate(degrees)
        ]
        rows.append([*mixed, own[0]])
        normal = torch.stack([torch.stack(row, -1) for row in rows], -2)
        right = torch.stack(
            [torch.stack([*one, last], -1) for one, last in zip(cross.split(k), own[1:])], -1
        )
        total = normal[..., 0, 0].sum().clamp_min(1e-12)
        prior = self._pseudo_count / total
        normal = normal + prior * normal.sum((0, 1, 2))
        right = right + prior * right.sum((0, 1, 2))
        ridge = 1e-4 * normal[..., 0, 0].clamp_min(1e-12)
        eye = torch.eye(k + 1, dtype=normal.dtype, device=normal.device)
        solution = torch.linalg.solve(normal + ridge[..., None, None] * eye, right)
        return solution.movedim((-1, -2), (0, 1)).float()

    def apply(
        self, coefficients: torch.Tensor, images: torch.Tensor, fraction: torch.Tensor
    ) -> torch.Tensor:
        """Predicted channels of the sample, shape (targets, z, y, x)."""
        features = self._features([self._chebyshev(i, n) for i, n in zip(images, self.orders)])
        fields = (self.spread(one) for one in coefficients)
        return torch.stack([(f[:-1] * features).sum(0) + fraction * f[-1] for f in fields])

    def terms(self) -> list[str]:
        """Names of the terms of the coefficients, in order."""
        names = [f"T{i}(I{a})" for a, n in enumerate(self.orders, 1) for i in range(1, n + 1)]
        return ["1", *names, "fraction"]

    def _features(self, bases: list[torch.Tensor]) -> torch.Tensor:
        """1, and T_1 to T_order of every image."""
        first, *others = (basis[: n + 1] for basis, n in zip(bases, self.orders))
        return torch.cat([first, *(basis[1:] for basis in others)])

    def spread(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Linear interpolation of node values (c, nodes) to voxels (c, z, y, x)."""
        return along_axes(coefficients, self._spread)

    def smooth(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Windowed mean of ``values`` (c, z, y, x) with ``weight``, back on the voxels."""
        total = along_axes(weight[None], self._pool)
        mean = along_axes(values * weight, self._pool) / total.clamp_min(1e-6)
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
    sigma : tuple of tuple of float
        For every channel of the sample the standard deviations of match, artefact, missing, in
        units of the normalised channel. Channels are independent, given the class of a voxel.
    mean : tuple of tuple of float
        For every channel the mean of artefact and of missing (background) intensities.
    prior : torch.Tensor, float32, shape (3, z, y, x) or (3, 1, 1, 1)
        Probability of each class before the intensity is seen; may vary in space.
    """

    sigma: tuple[tuple[float, float, float], ...]
    mean: tuple[tuple[float, float], ...]
    prior: torch.Tensor

    @property
    def matching(self) -> tuple[float, ...]:
        """Standard deviation of the match in every channel."""
        return tuple(sigma[0] for sigma in self.sigma)

    def log_joint(self, residual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """log(prior_k) + log N_k without the constant, shape (3, z, y, x).

        ``residual`` and ``target`` are (channels, z, y, x).
        """
        channels = []
        for r, t, sigma, (artefact, missing) in zip(residual, target, self.sigma, self.mean):
            deviations = (r, t - artefact, t - missing)
            logs = [-0.5 * (d / s) ** 2 - math.log(s) for d, s in zip(deviations, sigma)]
            channels.append(torch.stack(logs))
        return sum(channels[1:], channels[0]) + self.prior.log()

    def negative_log_likelihood(self, residual, target) -> torch.Tensor:
        """Per voxel, shape (z, y, x). Its gradient is that of EM at the current posteriors."""
        return -torch.logsumexp(self.log_joint(residual, target), 0)

    def posterior(self, residual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Probability of each class, shape (3, z, y, x), sums to 1."""
        return torch.softmax(self.log_joint(residual, target), 0)
