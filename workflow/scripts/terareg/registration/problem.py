"""The registration energy at one resolution, and its expectation-maximisation updates.

The unknowns form one vector x = (white velocity u, 12 affine parameters). With v = K^(1/2) u,
phi^-1 = exp(-v) and B = A^-1::

    E(x) = M(x) + lambda/2 1/V ||L v||^2 + 1/V sum_i |B^-1 phi(a_i) - s_i|^2 / (2 sigma^2)
    M(x) = 1/V sum_y w(y) (-log p(J(y) | f(I(phi^-1(B y))))) dy

V is the sample's tissue volume, J its channels and I the atlas's images, f the local contrast
transform (refitted for every x), p the mixture of match, artefact and missing; a_i and s_i are
landmarks, if there are any. If the model is symmetric, M is the weighted mean of this and of the
backward term (:mod:`terareg.registration.backward`). Positions are centred and divided by the
characteristic length (a tenth of the cube root of the atlas volume), so that the energy does not
depend on units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft

from terareg.registration.backward import Backward
from terareg.registration.contrast import LocalContrast, Mixture
from terareg.registration.flow import Flow, Kernel, Lattice, SamplingGrid
from terareg.registration.images import WorkingImage, noise
from terareg.registration.regions import Painter

# below this weight the backward term is not worth its time
_LEAST_SHARE = 0.05
# distance of the nodes on which maps are computed, relative to the voxel of the velocity
_LATTICE = 0.75
# probabilities of match, artefact and missing in the half of the atlas that the sample lacks
_ABSENT = (0.02, 0.005, 0.975)


@dataclass(frozen=True)
class Space:
    """Internal coordinates: (micrometres - centre) / length, of atlas and of sample.

    ``radius`` is that of the brain in these units (it scales the affine unknowns), ``device`` the
    device of the tensors.
    """

    length: float
    atlas_centre: np.ndarray
    sample_centre: np.ndarray
    radius: float
    device: torch.device

    def grid(self, frame, centre: np.ndarray) -> SamplingGrid:
        """SamplingGrid of a frame in internal coordinates."""
        return SamplingGrid(
            frame.shape,
            tuple(s / self.length for s in frame.spacing_um),
            tuple((o - c) / self.length for o, c in zip(frame.origin_um, centre)),
        )

    def inverse_affine(self, affine_um: np.ndarray) -> np.ndarray:
        """B = A^-1 as 3 x 4 in internal coordinates, from A (atlas um to sample um)."""
        linear = np.linalg.inv(affine_um[:3, :3])
        offset = linear @ (self.sample_centre - affine_um[:3, 3]) - self.atlas_centre
        return np.concatenate([linear, offset[:, None] / self.length], axis=1)

    def affine_um(self, inverse: np.ndarray) -> np.ndarray:
        """A (atlas um to sample um, 4 x 4) from B in internal coordinates."""
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.inv(inverse[:, :3])
        offset = self.atlas_centre + self.length * inverse[:, 3]
        affine[:3, 3] = self.sample_centre - affine[:3, :3] @ offset
        return affine


@dataclass(frozen=True)
class LandmarkTerm:
    """Landmarks in internal coordinates: points, shape (3, n), and their standard deviation."""

    atlas: np.ndarray
    sample: np.ndarray
    sigma: float


@dataclass(frozen=True)
class ImageSet:
    """Images of atlas or sample at one resolution.

    They share frame, weight and tissue; ``fraction``, float32 (z, y, x), is the tissue fraction of
    every voxel, see :func:`terareg.registration.images.tissue_fraction`. ``painter`` holds the
    regions of the atlas, ``cut`` the faces at which its tissue was cut.
    """

    images: tuple[WorkingImage, ...]
    fraction: np.ndarray
    painter: Painter | None = None
    cut: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Contrast:
    """Polynomial degrees, of the atlas's images and then of painted ones, and the window."""

    orders: tuple[int, ...]
    window: float


@dataclass(frozen=True)
class Model:
    """Parameters of a level besides the images, in internal units (see RegistrationSettings).

    ``annealing`` is a factor on the smallest sigma of the match; ``symmetric`` says whether the
    atlas is predicted from the sample as well.
    """

    kernel: Kernel
    velocity_spacing: float
    times: int
    contrast: Contrast
    regularisation: float
    affine: str
    prior: tuple[float, float, float]
    sigma_floor: float
    annealing: float
    symmetric: bool
    backward_order: int
    prior_window: float
    landmarks: LandmarkTerm | None = None


@dataclass(frozen=True)
class Held:
    """Posteriors of match, artefact and missing from an earlier pass, (3, z, y, x), on a grid."""

    posteriors: np.ndarray
    grid: SamplingGrid


def velocity_grid(atlas: WorkingImage, space: Space, spacing: float, margin: float) -> SamplingGrid:
    """Periodic box around the atlas tissue, about ``spacing`` apart, sizes good for the FFT.

    The box is the same for every spacing; voxel 0 lies on its low corner.
    """
    shape, steps, origin = [], [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        index = np.flatnonzero(atlas.tissue.any(axis=others))
        positions = atlas.frame.axes_um()[axis][index[[0, -1]]]
        low, high = (positions - space.atlas_centre[axis]) / space.length
        low, high = low - margin, high + margin
        n = fft.next_fast_len(max(8, math.ceil((high - low) / spacing)), real=True)
        shape.append(n)
        steps.append((high - low) / n)
        origin.append(low)
    return SamplingGrid(tuple(shape), tuple(steps), tuple(origin))


def share_of_noise(atlases: tuple[WorkingImage, ...], samples: tuple[WorkingImage, ...]) -> float:
    """Share of the atlas in the noise of both, 0 to 1: the weight of the backward term.

    As in a regression with errors in both variables (Deming): each direction treats the images that
    it predicts from as free of noise, so that their noise biases the prediction and pulls the map
    to positions where interpolation smooths the noise.
    """
    theirs, ours = (
        np.mean([noise(image) ** 2 for image in images]) for images in (atlases, samples)
    )
    return float(theirs / (theirs + ours)) if theirs > 0 else 0.0


class Problem:
    """Energy, gradient and EM updates for an atlas and a sample at one resolution.

    ``presence`` lies on the atlas's grid, see :func:`terareg.registration.search.presence`.
    """

    def __init__(
        self,
        atlas_side: ImageSet,
        sample_side: ImageSet,
        presence: np.ndarray,
        space: Space,
        model: Model,
        grid: SamplingGrid,
    ) -> None:
        self.space, self.model = space, model
        atlases, samples = atlas_side.images, sample_side.images
        atlas, sample = atlases[0], samples[0]
        self.device = device = space.device
        self.flow = Flow(grid, model.kernel, times=model.times, device=device)
        self.atlas_grid = space.grid(atlas.frame, space.atlas_centre)
        self.sample_grid = space.grid(sample.frame, space.sample_centre)
        # intensities, and the fraction of the voxel that is tissue
        values = [np.clip(image.values, 0, 1.2) for image in atlases]
        self.atlas = self._tensor(np.stack([*values, atlas_side.fraction]))
        self.images = len(values)
        self.painter, self.cut = atlas_side.painter, atlas_side.cut
        self.levels: np.ndarray | None = None
        self.presence = self._tensor(presence)[None]
        self.target = self._tensor(np.stack([np.clip(s.values, -0.3, 2.0) for s in samples]))
        self.weight = self._tensor(sample.weight)
        self.sample_lattice, self.atlas_lattice = (
            Lattice(one, _LATTICE * min(grid.spacing), device)
            for one in (self.sample_grid, self.atlas_grid)
        )
        self.contrast = self.local_contrast(model.contrast)
        self.priors = LocalContrast(self.sample_grid, (0,), model.prior_window, device)
        voxel = math.prod(self.sample_grid.spacing)
        volume = max(1, int(sample.tissue.sum())) * voxel
        self.data_weight = voxel / volume
        if model.landmarks is not None:
            self.marks = tuple(
                self._tensor(points) for points in (model.landmarks.atlas, model.landmarks.sample)
            )
            self.mark_weight = 0.5 / (volume * model.landmarks.sigma**2)
        box = math.prod(grid.spacing) * math.prod(grid.shape)
        # white values are scaled so that |z|^2 = ||L v||^2 / V (times average over unit time)
        self.white_scale = math.sqrt(math.prod(grid.shape) * model.times * volume / box)
        self.velocity_shape = (model.times, 3, *grid.shape)
        self.n_velocity = math.prod(self.velocity_shape)
        self.base = None
        self.mixture: Mixture | None = None
        self.match = self.weight
        self.held: torch.Tensor | None = None
        around = ~sample.tissue & (sample.weight > 0)
        self.background = [float(np.median(s.values[around])) if around.any() else 0.0
                           for s in samples]  # fmt: skip
        self.bright = [float(np.percentile(s.values[s.tissue], 99)) * 1.2 for s in samples]
        self.least_sigma = model.sigma_floor * model.annealing
        self.evaluations = 0
        self.backward = None
        self.backward_share = share_of_noise(atlases, samples) if model.symmetric else 0.0
        if self.backward_share > _LEAST_SHARE:
            self.backward = Backward(
                self.atlas[: self.images],
                self.presence[0],
                self.sample_grid,
                torch.cat([self.target, self._tensor(sample_side.fraction)[None]]),
                LocalContrast(
                    self.atlas_grid,
                    (model.backward_order,) * len(samples),
                    model.contrast.window,
                    device,
                ),
                scale=math.prod(self.atlas_grid.spacing) / volume,
                least_sigma=self.least_sigma,
            )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    # ------------------------------------------------------------------ regions
    def set_levels(self, levels: np.ndarray) -> None:
        """Paint the levels of the regions, shape (channels, ids), as additional images."""
        self.levels = levels
        painted = self._tensor(self.painter.paint(levels))
        self.atlas = torch.cat([self.atlas[: self.images], painted, self.atlas[-1:]])

    def hold(self, held: Held) -> None:
        """Start from the posteriors of an earlier pass instead of from a match everywhere."""
        points = self.sample_grid.points(self.device)
        self.held = held.grid.sample(self._tensor(held.posteriors), points)

    @torch.no_grad()
    def generalised_errors(self, x: torch.Tensor, contrast: Contrast) -> list[float]:
        """Log squared errors of a contrast transform on voxels that it was not fitted to.

        Generalised cross-validation (Craven & Wahba, Numer. Math. 31, 377, 1979). The number of
        voxels in a window is reduced by the correlation length of the residuals. One for each
        channel, where tissue matches.
        """
        local = self.local_contrast(contrast)
        pulled = self.atlas_grid.sample(self.atlas, self.pulled_points(x))
        images, fraction = pulled[: len(contrast.orders)], pulled[-1]
        coefficients = local.fit(images, fraction, self.target, self.match)
        rest = local.apply(coefficients, images, fraction) - self.target
        mass = self.match * (self.target > 0.1)
        square = (mass * rest.square()).sum((1, 2, 3)) / mass.sum((1, 2, 3)).clamp_min(1e-6)
        errors, lengths = [], self._correlation_lengths(rest)
        for logarithm, length in zip(square.clamp_min(1e-12).log(), lengths):
            # voxels that say the same
            alike = length**3 / math.prod(self.sample_grid.spacing)
            share = (2 + sum(contrast.orders)) * max(alike, 1.0) / local.voxels
            errors.append(float(logarithm) - 2 * math.log(1 - share) if share < 1 else math.inf)
        return errors

    def local_contrast(self, contrast: Contrast) -> LocalContrast:
        """Contrast transform on the sample's grid."""
        return LocalContrast(self.sample_grid, contrast.orders, contrast.window, self.device)

    @torch.no_grad()
    def atlas_voxels(self, x: torch.Tensor) -> np.ndarray:
        """Atlas voxel in which every sample voxel lies, int64 (n,), -1 outside."""
        grid = self.atlas_grid
        index = torch.stack([
            torch.round((p - o) / s).long()
            for p, o, s in zip(self.pulled_points(x), grid.origin, grid.spacing)
        ])  # fmt: skip
        shape = torch.tensor(grid.shape, device=self.device)[:, None, None, None]
        inside = ((index >= 0) & (index < shape)).all(0)
        flat = (index[0] * grid.shape[1] + index[1]) * grid.shape[2] + index[2]
        return torch.where(inside, flat, -1).reshape(-1).cpu().numpy()

    def estimate_levels(self, x: torch.Tensor) -> np.ndarray:
        """Levels of the regions, from the voxels that match at x."""
        targets = self.target.reshape(len(self.target), -1).cpu().numpy()
        weight = self.match.reshape(-1).cpu().numpy()
        return self.painter.estimate(self.atlas_voxels(x), targets, weight)

    @torch.no_grad()
    def left_in_regions(self, x: torch.Tensor) -> np.ndarray:
        """Number of matching voxels and median residual of every region, shape (2, ids)."""
        rest = self.predict(x)[0] - self.target
        rest = rest[rest.square().mean((1, 2, 3)).argmax()]
        flat = (t.reshape(-1).cpu().numpy() for t in (rest, self.match))
        return self.painter.medians(self.atlas_voxels(x), *flat)

    # ------------------------------------------------------------------ held-back blocks
    def hold_back(self, used: np.ndarray) -> None:
        """Give no weight to voxels of the sample that are not ``used``, bool (z, y, x)."""
        share = self._tensor(used)
        self.held_back = self.weight * (1 - share)
        self.weight = self.weight * share

    def log_losses(self, x: torch.Tensor) -> torch.Tensor:
        """-log p of every voxel of the sample at x, shape (z, y, x)."""
        rest = self.predict(x)[0] - self.target
        return self.mixture.negative_log_likelihood(rest, self.target)

    def tissue(self, x: torch.Tensor) -> torch.Tensor:
        """Where tissue is expected at x or seen, and the atlas knows of it: 0 to 1, (z, y, x)."""
        expected = self.atlas_grid.sample(self.atlas, self.pulled_points(x))[-1]
        return self.known(x) * torch.maximum(expected, (self.target[0] > 0.1).float())

    # ------------------------------------------------------------------ unknowns
    def start(self, inverse: np.ndarray, velocity: torch.Tensor | None) -> torch.Tensor:
        """Vector of unknowns for B (3 x 4) and velocities on this grid (internal units).

        Unknowns are relative to this start: vectors of an earlier one are no longer valid.
        """
        self.base = torch.tensor(inverse, dtype=torch.float32, device=self.device)
        x = torch.zeros(self.n_velocity + 12, device=self.device)
        if velocity is not None:
            self.flow.follow(velocity)
            axes = (-3, -2, -1)
            spectrum = torch.fft.rfftn(velocity.double(), dim=axes)
            root = self.flow.root.double()
            # a wider kernel than before suppresses the finest waves: damp them instead of dividing
            white = spectrum * root / (root**2 + 1e-8)
            u = torch.fft.irfftn(white, s=self.flow.grid.shape, dim=axes).float()
            x[: self.n_velocity] = (u / self.white_scale).reshape(-1)
        return x

    def inverse_affine(self, x: torch.Tensor) -> torch.Tensor:
        """B (3 x 4), internal coordinates."""
        theta = x[self.n_velocity :].reshape(3, 4)
        linear, shift = theta[:, :3], theta[:, 3:]
        if self.model.affine == "fixed":
            return self.base
        if self.model.affine == "rigid":
            linear = (linear - linear.T) / 2
        generator = torch.cat([linear / self.space.radius, shift], 1)
        if self.model.affine == "affine":
            change = torch.eye(3, device=self.device) + generator[:, :3]
        else:
            change = torch.linalg.matrix_exp(generator[:, :3])
        turned = change @ self.base
        return torch.cat([turned[:, :3], turned[:, 3:] + generator[:, 3:]], 1)

    def velocity(self, x: torch.Tensor) -> torch.Tensor:
        """Velocities, shape (times, 3, z, y, x), internal units."""
        white = x[: self.n_velocity].reshape(self.velocity_shape) * self.white_scale
        return self.flow.velocity(white)

    # ------------------------------------------------------------------ energy
    def pulled_points(self, x: torch.Tensor, deform: bool = True) -> torch.Tensor:
        """phi^-1(B y) for every sample voxel y, shape (3, z, y, x)."""
        b = self.inverse_affine(x)
        nodes = self.sample_lattice.points
        points = torch.einsum("ij,jzyx->izyx", b[:, :3], nodes) + b[:, 3, None, None, None]
        if deform:
            displacement = self.flow.displacement(self.velocity(x), -1.0)
            points = points + self.flow.grid.sample(displacement, points)
        return self.sample_lattice.spread(points)

    def predict(self, x: torch.Tensor, deform: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Contrast-transformed atlas on the sample grid, (channels, z, y, x); coefficients."""
        pulled = self.atlas_grid.sample(self.atlas, self.pulled_points(x, deform))
        images, fraction = pulled[:-1], pulled[-1]
        coefficients = self.contrast.fit(images, fraction, self.target, self.match)
        return self.contrast.apply(coefficients, images, fraction), coefficients

    def pushed_points(
        self, x: torch.Tensor, points: torch.Tensor, deform: bool = True
    ) -> torch.Tensor:
        """B^-1 phi(a) for points a of the atlas, shape (3, ...)."""
        if deform:
            displacement = self.flow.displacement(self.velocity(x), 1.0)
            points = points + self.flow.grid.sample(displacement, points)
        b = self.inverse_affine(x)
        shifted = points.reshape(3, -1) - b[:, 3:]
        return torch.linalg.solve(b[:, :3], shifted).reshape(points.shape)

    def pushed_atlas(self, x: torch.Tensor, deform: bool = True) -> torch.Tensor:
        """B^-1 phi(a) for every atlas voxel a, shape (3, z, y, x)."""
        return self.atlas_lattice.spread(self.pushed_points(x, self.atlas_lattice.points, deform))

    def match_terms(self, x: torch.Tensor, deform: bool = True) -> Iterator[torch.Tensor]:
        """Parts of the match term at x, float64; their sum is M(x)."""
        if self.backward is None:
            yield self.forward_energy(x, deform)
            return
        yield (1 - self.backward_share) * self.forward_energy(x, deform)
        moved = self.pushed_atlas(x, deform)
        yield self.backward_share * self.backward.energy(moved)

    def forward_energy(self, x: torch.Tensor, deform: bool = True) -> torch.Tensor:
        """-log p of the sample, weighted mean per tissue volume, float64."""
        predicted, _ = self.predict(x, deform)
        nll = self.mixture.negative_log_likelihood(predicted - self.target, self.target)
        return (nll * self.weight).sum(dtype=torch.float64) * self.data_weight

    def landmark_energy(self, x: torch.Tensor, deform: bool = True) -> torch.Tensor | float:
        """1/V sum |B^-1 phi(a) - s|^2 / (2 sigma^2) over the landmarks; 0.0 without any."""
        if self.model.landmarks is None:
            return 0.0
        points, partners = self.marks
        moved = self.pushed_points(x, points, deform)
        return (moved - partners).double().square().sum() * self.mark_weight

    @torch.no_grad()
    def misfit(self, x: torch.Tensor) -> tuple[float, float]:
        """Match and landmark term at x."""
        return sum(float(term) for term in self.match_terms(x)), float(self.landmark_energy(x))

    def objective(self, x: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Total energy and its gradient, for the minimiser."""
        self.evaluations += 1
        return _value_and_gradient(self._terms, x)

    def affine_objective(self, theta: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Energy and gradient in the 12 affine parameters alone, without deformation."""
        self.evaluations += 1
        still = torch.zeros(self.n_velocity, device=self.device)
        return _value_and_gradient(lambda y: self._terms(torch.cat([still, y]), False), theta)

    def _terms(self, x: torch.Tensor, deform: bool = True) -> Iterator[torch.Tensor]:
        """Parts of the total energy."""
        yield from self.match_terms(x, deform)
        if deform:
            yield 0.5 * self.model.regularisation * x[: self.n_velocity].double().square().sum()
        if self.model.landmarks is not None:
            yield self.landmark_energy(x, deform)

    def regularisation(self, x: torch.Tensor) -> float:
        """lambda/2 1/V ||L v||^2 at x."""
        z = x[: self.n_velocity].double()
        return float(0.5 * self.model.regularisation * z.square().sum())

    @torch.no_grad()
    def residual_length(self, x: torch.Tensor) -> float:
        """Correlation length of the residuals at x, internal units."""
        lengths = self._correlation_lengths(self.predict(x)[0] - self.target)
        # fsum: from Python 3.12 on sum() of floats rounds otherwise
        return math.exp(math.fsum(map(math.log, lengths)) / len(lengths))

    def _correlation_lengths(self, residual: torch.Tensor) -> list[float]:
        """Correlation lengths: the integral scale (1 + r) / (1 - r) of an autoregressive process.

        r is the correlation of neighbouring voxels. Geometric mean over axes where tissue matches,
        one for each channel; one voxel for white noise.
        """
        lengths = []
        for rest, target in zip(residual, self.target):
            mass = self.match * (target > 0.1)
            logs = []
            for axis, spacing in enumerate(self.sample_grid.spacing):
                n = rest.shape[axis] - 1
                (a, b), (u, v) = (
                    (t.narrow(axis, 0, n), t.narrow(axis, 1, n)) for t in (rest, mass)
                )
                both = u * v
                square = (both * (a.square() + b.square())).sum(dtype=torch.float64) / 2
                r = float((both * a * b).sum(dtype=torch.float64) / square.clamp_min(1e-12))
                r = min(max(r, 0.0), 0.95)
                logs.append(math.log(spacing * (1 + r) / (1 - r)))
            lengths.append(math.exp(math.fsum(logs) / len(logs)))
        return lengths

    # ------------------------------------------------------------------ expectation-maximisation
    @torch.no_grad()
    def initial_mixture(self, x: torch.Tensor, sigma: Sequence[float] | None = None) -> None:
        """Start of EM: sigmas from the residuals, priors from the settings and presence map."""
        self.match = self.weight if self.held is None else self.weight * self.held[0]
        if sigma is None:
            predicted, _ = self.predict(x)
            shares = [(self.match * (p - t).square()).sum() / self.match.sum()
                      for p, t in zip(predicted, self.target)]  # fmt: skip
            sigma = [1.5 * float(share.sqrt()) for share in shares]
        sigma = [max(one, self.least_sigma) for one in sigma]
        self.mixture = self._mixture(sigma, self.bright, self._prior(x, self.held))
        self.match = self.weight * self.posterior(x)[0]
        self._update_backward(x)

    def _prior(self, x: torch.Tensor, found: torch.Tensor | None) -> torch.Tensor:
        """Probabilities of the classes: what is expected at x, or the mean of it and ``found``."""
        classes = torch.tensor([self.model.prior, _ABSENT], device=self.device)
        usual, absent = classes[:, :, None, None, None]
        there = self.presence_on_sample(x)
        prior = there * usual + (1 - there) * absent
        if found is not None:
            prior = 0.5 * found + 0.5 * prior
        prior = prior.clamp_min(1e-4)
        return prior / prior.sum(0)

    @torch.no_grad()
    def known(self, x: torch.Tensor) -> torch.Tensor:
        """0 where the sample lies beyond a cut face of the atlas, otherwise 1.

        It judges a fit and does not weigh it: a weight that moves with the deformation lets
        tissue that fits badly be pushed beyond the face.
        """
        if not self.cut:
            return torch.ones_like(self.weight)
        return 1 - self.atlas_grid.beyond(self.cut, self.pulled_points(x))

    def presence_on_sample(self, x: torch.Tensor) -> torch.Tensor:
        """Presence of the atlas at the sample's voxels, without the deformation."""
        return self.atlas_grid.sample(self.presence, self.pulled_points(x, deform=False))[0]

    @torch.no_grad()
    def expected_tissue(self, x: torch.Tensor) -> torch.Tensor:
        """Tissue that the atlas expects at the sample's voxels, 0 to 1; 0 without data.

        It rises from 0 in voxels half filled to 1 in full ones: at the rim, a surface that is
        off by a part of a voxel is no missing tissue.
        """
        fraction = self.atlas_grid.sample(self.atlas, self.pulled_points(x))[-1]
        inside = (2 * fraction - 1).clamp_min(0)
        return inside * self.presence_on_sample(x) * self.weight * self.known(x)

    @torch.no_grad()
    def posterior(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities of match, artefact, missing at every voxel, shape (3, z, y, x)."""
        predicted, _ = self.predict(x)
        return self.mixture.posterior(predicted - self.target, self.target)

    @torch.no_grad()
    def update_mixture(self, x: torch.Tensor) -> None:
        """One E step and one M step: sigmas, means and (smoothly varying) priors."""
        predicted, _ = self.predict(x)
        residual = predicted - self.target
        posterior = self.mixture.posterior(residual, self.target)
        mass = posterior * self.weight
        total = mass.sum((1, 2, 3)).clamp_min(1e-6)
        sigmas, artefacts = [], []
        for channel, (rest, target) in enumerate(zip(residual, self.target)):
            tissue = mass[0] * (target > 0.1)
            sigma = float(((tissue * rest.square()).sum() / tissue.sum().clamp_min(1e-6)).sqrt())
            sigmas.append(max(min(sigma, self.mixture.sigma[channel][0]), self.least_sigma))
            bright = float((mass[1] * target).sum() / total[1])
            artefacts.append(bright if float(total[1]) > 20 else self.mixture.mean[channel][0])
        prior = self._prior(x, self.priors.smooth(posterior, self.weight))
        self.mixture = self._mixture(sigmas, artefacts, prior)
        posterior = self.mixture.posterior(residual, self.target)
        self.match = self.weight * posterior[0]
        self._update_backward(x)

    def _update_backward(self, x: torch.Tensor) -> None:
        if self.backward is not None:
            moved = self.pushed_atlas(x)
            expansion = 1 / abs(float(torch.linalg.det(self.inverse_affine(x)[:, :3])))
            self.backward.update(moved, self.match, expansion)

    def _mixture(self, sigmas: Sequence[float], artefacts: Sequence[float], prior) -> Mixture:
        # missing tissue cannot be misplaced, so its sigma is not annealed
        empty = [sigma / self.model.annealing for sigma in sigmas]
        return Mixture(
            tuple((s, max(5 * s, 0.5), e) for s, e in zip(sigmas, empty)),
            tuple(zip(artefacts, self.background)),
            prior,
        )


def _value_and_gradient(
    terms: Callable[[torch.Tensor], Iterable[torch.Tensor]], x: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Sum of terms and its gradient, one term at a time, which frees its memory for the next."""
    y = x.detach().requires_grad_(True)
    total, gradient = 0.0, torch.zeros_like(x)
    for term in terms(y):
        (part,) = torch.autograd.grad(term, y)
        total, gradient = total + float(term.detach()), gradient + part
    return total, gradient
