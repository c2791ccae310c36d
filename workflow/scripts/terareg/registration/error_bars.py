"""Error bars of a registration: how far its borders, and the volumes of regions, may be off.

At the minimum x of the energy (:mod:`terareg.registration.problem`) the prediction is linearised,
J = df/dx, so that the curvature of the energy is the Gauss-Newton matrix::

    H = J' W J + lambda I        W = match / sigma^2

The unknowns are white, which makes the prior of the deformation a normal distribution with
variance s^2 on every unknown of the velocity (the affine has none). If the truth is a draw t of it
and the images carry noise n, the minimum is off by d with ``H d = lambda t + J' W n``: the first
term is what the regularisation keeps from being followed, the second follows noise. Twelve pairs
(t, n) are drawn and as many systems solved ("perturb and MAP", Papandreou & Yuille 2010), which
gives samples of the error of every position and, through the volume ratio of each, of every volume.
Where no image says anything, the error is that of the prior.

- Voxels are twice as large as those of the last level, which is an eighth of the work.
- n is what the registration left: its local size is that of the residuals, its correlation length
  is theirs. W weighs voxels as the registration did and says nothing about their noise.
- s^2 is such that the deformation found is as large as expected: |x|^2 = s^2 |t - d|^2 + what noise
  adds, with one pair more, of variance 1, that is solved for t and n apart. Long waves are larger
  than short ones beyond what the kernel says; s falls with the wave number by a power that is
  fitted to the same equation, in bins.
- The systems are solved by conjugate gradients, preconditioned as if the images were alike
  everywhere; twelve steps bring the deviation to within a tenth of its limit.
- The model is stiffer than brains are, and its misfit is not noise: it follows borders, so that it
  does not average out. Two factors, the same for all images, one for positions and one for volumes,
  make up for both: see :data:`CALIBRATION`.

References
----------
Papandreou, G. & Yuille, A. NIPS 23 (2010). Bui-Thanh, T. et al. SIAM J. Sci. Comput. 35, A2494
(2013). Risholm, P. et al. Med. Image Anal. 17, 538 (2013).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.core.resampling import resampled
from terareg.registration.assemble import fine_flow
from terareg.registration.checkpoint import State
from terareg.registration.flow import Flow, SamplingGrid, change_grid
from terareg.registration.problem import Problem
from terareg.registration.schedule import Plan
from terareg.registration.transform import jacobian_determinant
from terareg.storage import nrrd
from terareg.storage.records import write_json

logger = logging.getLogger(__name__)

#: deviations of positions and of logarithms of volumes are multiplied by these; found on four
#: generated cases and tried on four others, see tests/benchmarks/bench_error_bars.py
CALIBRATION = {"position": 1.1, "volume": 2.2}
DRAWS = 12
_ITERATIONS = 12
# curvature that the preconditioner takes for that of the images, relative to its mean
_PRECONDITIONED = 1.0
# largest displacement of a finite difference, voxels
_STEP = 0.02
# bins of log(1 + a^2 k^2): width and number; least and largest power by which deformations fall
_BIN = 0.5
_BINS = 7
_FALLS = (0.0, 3.0)
# share of the deformation found that is its least beyond noise; weight below which a window of
# residuals says nothing
_LEAST = 0.05
_SEEN = 1e-3
_SEED = 16


@dataclass(frozen=True)
class ErrorBars:
    """Result of :func:`error_bars`.

    Attributes
    ----------
    deviation_um : numpy.ndarray, float32, shape (z, y, x)
        Standard deviation, um in the sample, of the place of the atlas at every voxel of
        ``sample_frame``, along any one axis: a border moves by this much across itself. Beyond the
        part of the sample that the registration used, that of the nearest voxel in it.
    sample_frame : Frame
    shifts_um : numpy.ndarray, float32, shape (draws, 3, z, y, x)
        By how much every draw of the error moves the atlas at the voxels of ``part``, along
        (z, y, x) of the sample. The opposite of a draw is as probable as the draw.
    part : Frame
        Of the shifts: the part of the sample that the registration used.
    volume_ratios : numpy.ndarray, float32, shape (draws, z, y, x)
        By how much every draw of the error changes the volume in the sample of a piece of the atlas
        that lies at the voxels of ``frame``; 1 is no change.
    frame : Frame
        Of the deformation, in atlas space.
    summary : dict
        ``draws``, ``calibration``, ``prior_sd`` (s of the longest waves), ``prior_fall`` (power of
        1 + a^2 k^2 by which it falls), ``noise_voxels`` (correlation length of the
        residuals), ``rest`` (what the equations lack in the end, of their right side, the worst),
        ``median_um`` (of the deviation in the tissue that the atlas expects).
    """

    deviation_um: np.ndarray
    sample_frame: Frame
    shifts_um: np.ndarray
    part: Frame
    volume_ratios: np.ndarray
    frame: Frame
    summary: dict = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        """Write all as NRRD files and, last, ``error_bars.json``.

        ``deviation.nrrd``, ``shifts.nrrd`` (three components for every draw) and
        ``volume_ratios.nrrd``.
        """
        folder = Path(folder)
        nrrd.write_scalar(folder / "deviation.nrrd", self.deviation_um, self.sample_frame)
        listed = self.shifts_um.reshape(-1, *self.part.shape)
        nrrd.write_scalar(folder / "shifts.nrrd", listed, self.part)
        nrrd.write_scalar(folder / "volume_ratios.nrrd", self.volume_ratios, self.frame)
        write_json(folder / "error_bars.json", self.summary)


def error_bars(plan: Plan, state: State, *, deformed: bool = True) -> ErrorBars:
    """Error bars of the registration that ended in ``state``.

    Parameters
    ----------
    plan : Plan
    state : State
        At the end of the last level.
    deformed : bool
        Whether the registration kept its deformation; otherwise it is its affine alone whose errors
        are asked for.

    Returns
    -------
    ErrorBars
        The same for the same plan and state: draws come from fixed seeds.
    """
    doublings = min(1, plan.doublings[0])
    level = max(n for n, other in enumerate(plan.doublings) if other == doublings)
    before = replace(state, facts=state.facts[:-1])
    last = plan.model(len(plan.voxels_um) - 1, before)
    # every voxel of the sample is evidence once, so the atlas is not predicted from it
    problem, seen = plan.problem(
        level, before, symmetric=False, annealing=1.0,
        kernel=last.kernel, velocity_spacing=last.velocity_spacing,
    )  # fmt: skip
    velocity = change_grid(
        torch.tensor(state.velocity, device=plan.device), problem.flow.grid.shape
    )
    x = problem.start(state.inverse_affine, velocity)
    ours = x
    if not deformed:
        velocity = torch.zeros_like(velocity)
        x = problem.start(plan.start(state), None)
    problem.initial_mixture(x, state.sigma)
    problem.update_mixture(x)
    assert problem.mixture is not None
    fit = _Linearised(problem, x, problem.mixture.matching)
    truth, noise = fit.draw(0)
    # a truth of variance 1 is mostly invisible: what is missed of it is almost all
    missed, followed = fit.solve(fit.prior(truth), truth), fit.solve(noise)
    scale, fall = fit.size_by_wave(ours, truth - missed, followed)
    errors = []
    for number in range(1, DRAWS + 1):
        truth, noise = fit.draw(number)
        truth = fit.coloured(truth, scale, fall)
        errors.append(fit.solve(fit.prior(truth) + noise))
    shifts = CALIBRATION["position"] * torch.stack([fit.moved(error) for error in errors])
    deviation = shifts.square().mean((0, 1)).sqrt()
    flow = fine_flow(problem)
    usual = fit.volumes(flow, torch.zeros_like(x))
    factor = CALIBRATION["volume"]
    ratios = np.stack([fit.volumes(flow, factor * error) / usual for error in errors])
    with torch.no_grad():
        expected = problem.expected_tissue(x)
    unit = np.float32(plan.space.length)
    deviation_um = deviation.cpu().numpy() * unit
    summary = {
        "draws": DRAWS,
        "calibration": CALIBRATION,
        "prior_sd": scale,
        "prior_fall": fall,
        "noise_voxels": fit.noise_voxels,
        "rest": max(fit.rests),
        "median_um": float(np.median(deviation_um[expected.cpu().numpy() > 0])),
    }
    logger.info(
        "error bars: prior %.3g, fall %.2f, noise over %.2f voxels, equations left %.2g, "
        "median %.3g um",
        scale, fall, fit.noise_voxels, summary["rest"], summary["median_um"],
    )  # fmt: skip
    whole = plan.working(plan.sample, plan.voxels_um[-1]).frame
    return ErrorBars(
        resampled(deviation_um, seen.frame, whole),
        whole,
        shifts.cpu().numpy() * unit,
        seen.frame,
        ratios.astype(np.float32),
        _frame_of(plan, flow.grid),
        summary,
    )


class _Linearised:
    """A problem near its minimum x: the prediction is linear there, the energy a quadric.

    Vectors are unknowns, as x. ``noise_voxels`` is the correlation length of the residuals,
    ``rests`` what is left of the right side of every system that was solved.
    """

    def __init__(self, problem: Problem, x: torch.Tensor, sigmas: Sequence[float]) -> None:
        self.problem, self.x, self.n = problem, x, problem.n_velocity
        self.stiffness = problem.model.regularisation
        self.voxel = min(problem.sample_grid.spacing)
        self.rests: list[float] = []
        with torch.no_grad():
            self.observed = self._observations(x)
            self.points = problem.pulled_points(x)
            slopes = torch.gradient(self.points, spacing=problem.sample_grid.spacing, dim=(1, 2, 3))
            self.slope = torch.stack(slopes, 1).reshape(3, 3, -1).permute(2, 0, 1)
            shape = (-1, 1, 1, 1)
            sigma = torch.tensor(sigmas, device=x.device).reshape(shape)
            self.weights = [problem.match * problem.data_weight / sigma**2]
            residual = self.observed[0] - problem.target
            match = problem.match[None]
            spread = problem.priors.smooth(match * residual.square(), problem.weight)
            there = problem.priors.smooth(match, problem.weight)
            self.sizes = [(spread / there.clamp_min(_SEEN)).clamp_min(0).sqrt()]
            if problem.model.landmarks is not None:
                self.weights.append(torch.tensor(2 * problem.mark_weight, device=x.device))
                self.sizes.append(torch.tensor(problem.model.landmarks.sigma, device=x.device))
            self.length = problem.residual_length(x)
        self.noise_voxels = self.length / self.voxel
        rng = np.random.default_rng(_SEED)
        trial = torch.zeros_like(x)
        trial[: self.n] = self._normal(rng, self.n)
        self.steep = _dot(trial, self.curvature(trial)) / _dot(trial, self._kernel(trial, _same))
        columns = []
        for number in range(self.n, len(x)):
            trial = torch.zeros_like(x)
            trial[number] = 1
            columns.append(self.curvature(trial)[self.n :].double())
        bend = torch.stack(columns)
        own = self.stiffness * torch.eye(len(bend), dtype=bend.dtype, device=x.device)
        self.unbend = torch.linalg.inv((bend + bend.T) / 2 + own).float()

    def _normal(self, rng: np.random.Generator, *shape: int) -> torch.Tensor:
        values = rng.standard_normal(shape, np.float32)
        return torch.tensor(values, device=self.x.device)

    def _observations(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the energy compares with data: predicted images, and moved landmarks if any."""
        problem = self.problem
        found = [problem.predict(x)[0]]
        if problem.model.landmarks is not None:
            found.append(problem.pushed_points(x, problem.marks[0]))
        return found

    # ------------------------------------------------------------------ linear maps
    def curvature(self, d: torch.Tensor) -> torch.Tensor:
        """J' W J d, by a finite difference and its transpose."""
        with torch.no_grad():
            step = self._step(d)
            there = self._observations(self.x + step * d)
            changes = [(a - b) / step for a, b in zip(there, self.observed)]
        return self._transposed([w * change for w, change in zip(self.weights, changes)])

    def _transposed(self, values: list[torch.Tensor]) -> torch.Tensor:
        """J' of ``values``, which are shaped as observations."""
        y = self.x.clone().requires_grad_(True)
        terms = zip(self._observations(y), values)
        total = sum((seen * one).sum(dtype=torch.float64) for seen, one in terms)
        (gradient,) = torch.autograd.grad(total, y)
        return gradient

    def _step(self, d: torch.Tensor) -> float:
        """Factor on ``d`` with which positions move by a part of a voxel at most."""
        # affine unknowns are displacements at the surface
        most = float(self.problem.velocity(d).abs().max() + d[self.n :].abs().max())
        return _STEP * self.voxel / max(most, 1e-12)

    def prior(self, d: torch.Tensor) -> torch.Tensor:
        """lambda d on the velocity, 0 on the affine."""
        result = torch.zeros_like(d)
        result[: self.n] = self.stiffness * d[: self.n]
        return result

    def _kernel(self, d: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]):
        """A function of the kernel K, a multiplier of Fourier coefficients, on the velocity."""
        axes, flow = (-3, -2, -1), self.problem.flow
        white = d[: self.n].reshape(self.problem.velocity_shape)
        spectrum = torch.fft.rfftn(white, dim=axes) * function(flow.root**2)
        result = d.clone()
        result[: self.n] = torch.fft.irfftn(spectrum, s=flow.grid.shape, dim=axes).reshape(-1)
        return result

    def coloured(self, d: torch.Tensor, scale: float, fall: float) -> torch.Tensor:
        """``d`` times scale (1 + a^2 k^2)^-fall, k the wave number, on the velocity."""
        share = fall / (2 * self.problem.model.kernel.power)
        return self._kernel(d, lambda kernel: scale * kernel**share)

    def size_by_wave(
        self, ours: torch.Tensor, found: torch.Tensor, noise: torch.Tensor
    ) -> tuple[float, float]:
        """Standard deviation of the truth by wave number, as for :meth:`coloured`.

        A straight line of its logarithm, by least squares, through bins of wave numbers. ``ours``
        is the velocity that was found, ``found`` what is found of a truth of variance 1, ``noise``
        what is found of noise alone.
        """
        axes, flow = (-3, -2, -1), self.problem.flow
        log = -flow.root.double().log().cpu().numpy() / self.problem.model.kernel.power
        bins = np.minimum((log / _BIN).astype(int), _BINS).reshape(-1)
        sizes = []
        for d in (ours, found, noise):
            white = d[: self.n].reshape(self.problem.velocity_shape)
            power = torch.fft.rfftn(white, dim=axes).abs().double().square().sum((0, 1))
            sizes.append(np.bincount(bins, power.cpu().numpy().reshape(-1), _BINS + 1)[:_BINS])
        mine, there, followed = sizes
        used = there > 0
        square = np.maximum(mine - followed, _LEAST * mine)[used] / there[used]
        middle = (np.arange(_BINS) + 0.5)[used] * _BIN
        fall, scale = np.polyfit(middle, np.log(square.clip(1e-12)) / 2, 1, w=np.sqrt(there[used]))
        return float(np.exp(scale)), float(np.clip(-fall, *_FALLS))

    def _preconditioned(self, d: torch.Tensor) -> torch.Tensor:
        usual = _PRECONDITIONED * self.steep
        result = self._kernel(d, lambda kernel: 1 / (self.stiffness + usual * kernel))
        result[self.n :] = self.unbend @ d[self.n :]
        return result

    # ------------------------------------------------------------------ draws
    def draw(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw of the truth, of variance 1, and J' W n for one of the noise n."""
        rng = np.random.default_rng([_SEED, number])
        truth = torch.zeros_like(self.x)
        truth[: self.n] = self._normal(rng, self.n)
        # a smoothed field whose correlation adds up to that of the residuals
        spacings = self.problem.sample_grid.spacing
        blur = [self.length / step / (2 * math.sqrt(math.pi)) for step in spacings]
        noise = []
        for channel in self.problem.target:
            values = rng.standard_normal(tuple(channel.shape), np.float32)
            smooth = ndimage.gaussian_filter(values, blur, mode="wrap")
            noise.append(torch.tensor(smooth / smooth.std(), device=self.x.device))
        fields = [torch.stack(noise)]
        if len(self.observed) > 1:
            fields.append(self._normal(rng, *self.observed[1].shape))
        parts = zip(self.weights, self.sizes, fields)
        return truth, self._transposed([w * size * one for w, size, one in parts])

    def solve(self, right: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
        """d with H d = ``right``, by conjugate gradients from ``start``.

        Without it they start from the preconditioner's own solution.
        """
        x = self._preconditioned(right) if start is None else start
        rest = right - self.curvature(x) - self.prior(x)
        direction = z = self._preconditioned(rest)
        square = _dot(rest, z)
        whole = _dot(right, self._preconditioned(right))
        for _ in range(_ITERATIONS):
            product = self.curvature(direction) + self.prior(direction)
            bend = _dot(direction, product)
            if not bend > 0:
                break
            x = x + (square / bend) * direction
            rest = rest - (square / bend) * product
            z = self._preconditioned(rest)
            square, before = _dot(rest, z), square
            direction = z + (square / before) * direction
        self.rests.append(math.sqrt(square / whole) if whole > 0 else 0.0)
        return x

    # ------------------------------------------------------------------ consequences
    @torch.no_grad()
    def moved(self, d: torch.Tensor) -> torch.Tensor:
        """By how much an error d moves the atlas at the voxels of the sample, (3, z, y, x)."""
        step = self._step(d)
        there = (self.problem.pulled_points(self.x + step * d) - self.points) / step
        here = torch.linalg.solve(self.slope, there.reshape(3, -1).T)
        return -here.T.reshape(there.shape)

    @torch.no_grad()
    def volumes(self, flow: Flow, d: torch.Tensor) -> np.ndarray:
        """Volume in the sample of pieces of the atlas, relative to theirs, at the flow's voxels."""
        y, grid = self.x + d, flow.grid
        velocity = change_grid(self.problem.velocity(y), grid.shape)
        flow.follow(velocity)
        displacement = flow.displacement(velocity, 1.0).cpu().numpy()
        local = jacobian_determinant(displacement, Frame(grid.shape, grid.spacing))
        inverse = self.problem.inverse_affine(y)[:, :3]
        return local / abs(float(torch.linalg.det(inverse.double())))


def _frame_of(plan: Plan, grid: SamplingGrid) -> Frame:
    unit = plan.space.length
    return Frame(
        grid.shape,
        tuple(s * unit for s in grid.spacing),
        tuple(o * unit + c for o, c in zip(grid.origin, plan.space.atlas_centre)),
        plan.atlas.frame.orientation,
    )


def _same(kernel: torch.Tensor) -> torch.Tensor:
    return kernel


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.double(), b.double()))
