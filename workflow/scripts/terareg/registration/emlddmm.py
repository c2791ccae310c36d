"""EM-LDDMM: register an atlas to a sample of any contrast, with artefacts and missing tissue.

The model is that of Tward 2020: a diffeomorphism and an affine, a contrast transform, and a
mixture of matching, artefact and missing voxels. What differs is how it is solved: the velocity
is whitened by its kernel and found together with the twelve affine numbers by L-BFGS with a
strong-Wolfe search (no step sizes); the contrast varies in space and is projected out exactly;
variances and priors are re-estimated; resolutions go from coarse to fine.

References
----------
Beg, M. F. et al. Int. J. Comput. Vis. 61, 139 (2005). Ashburner, J. NeuroImage 38, 95 (2007).
Tward, D. et al. Front. Neurosci. 14, 52 (2020). Liu & Nocedal, Math. Program. 45, 503 (1989).
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from terareg.errors import RegistrationError
from terareg.frames import Frame
from terareg.registration import checkpoint as checkpoints
from terareg.registration import lbfgs
from terareg.registration.checkpoint import State
from terareg.registration.flow import Flow, Grid, Kernel, change_grid, inverse_displacement
from terareg.registration.images import (
    Image,
    WorkingImage,
    check_overlap,
    correct_grid,
    crop_to_tissue,
    prepare,
    resample,
)
from terareg.registration.pose import presence
from terareg.registration.problem import Model, Problem, Space, velocity_grid
from terareg.registration.result import RegistrationResult
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform, check_affine, jacobian_determinant
from terareg.storage.records import content_hash, fingerprint

logger = logging.getLogger(__name__)

_STEPS_PER_ROUND = 8
_SQUARINGS = 6


def register(
    atlas: Image,
    sample: Image,
    settings: RegistrationSettings,
    initial_affine: np.ndarray,
    checkpoint: str | Path | None = None,
    extent: str = "whole",
) -> RegistrationResult:
    """Register an atlas to a sample.

    Parameters
    ----------
    atlas, sample : Image
        At the resolution wanted or finer; anything finer is averaged.
    settings : RegistrationSettings
    initial_affine : numpy.ndarray, shape (4, 4)
        Atlas um to sample um, see :func:`terareg.registration.pose.initial_affine`.
    checkpoint : path, optional
        File that is written after every level; if it is there and belongs to the same images and
        settings, the levels in it are not computed again. The result is the same.
    extent : str
        Part of the atlas that the sample shows: "whole", "left" or "right" (``info["extent"]``).

    Returns
    -------
    RegistrationResult
        Its transform maps atlas points to sample points.

    Raises
    ------
    RegistrationError
        Images that cannot be registered, or an energy that is not a number.
    """
    affine = check_affine(initial_affine, "initial affine")
    check_overlap(atlas.frame, sample.frame, affine)
    device = choose_device(settings.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        run = _Registration(atlas, sample, settings, affine, extent, device)
        return run.solve(None if checkpoint is None else Path(checkpoint))
    finally:
        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu" or "cuda" into a device; "cuda" without one is an error."""
    if name == "cuda" and not torch.cuda.is_available():
        raise RegistrationError(
            "device cuda was asked for but PyTorch finds no CUDA device; set device: auto or cpu"
        )
    wanted = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if wanted == "auto" else wanted)


class _Registration:
    """One registration: prepared images, the plan of its levels, and the solver."""

    def __init__(self, atlas, sample, settings, affine, extent, device) -> None:
        if settings.missing_data_correction:
            sample = _without_zeros(sample)
        if settings.grid_correction:
            sample = correct_grid(sample)
        self.settings, self.affine, self.extent, self.device = settings, affine, extent, device
        self.atlas, self.sample = prepare(atlas), prepare(sample)
        self.warnings = [*self.atlas.warnings, *self.sample.warnings]
        self.size = self.atlas.tissue_volume_um3 ** (1 / 3)
        self.space = Space(
            self.size / 10, self.atlas.tissue_centre_um, self.sample.tissue_centre_um, radius=5.0
        )
        finest = max(
            settings.resolution_um or self.size / 80,
            min(self.atlas.frame.spacing_um),
            min(self.sample.frame.spacing_um),
        )
        count = settings.levels
        if count is None:
            count = 1 + max(0, round(math.log2(self.size / 20 / finest)))
        self.voxels_um = [finest * 2**i for i in reversed(range(count))]
        self.fingerprint = fingerprint(
            {k: v for k, v in asdict(settings).items() if k != "device"},
            [content_hash(a) for a in (self.atlas.values, self.atlas.weight)],
            [content_hash(a) for a in (self.sample.values, self.sample.weight)],
            [self.atlas.frame.to_json(), self.sample.frame.to_json()],
            [affine.tolist(), extent, str(device)],
        )

    # ------------------------------------------------------------------ plan
    def model(self, level: int) -> Model:
        """Settings of one level in internal units."""
        s, unit = self.settings, self.space.length
        kernel = (s.kernel_um or self.size / 10) / unit
        velocity = s.velocity_um / unit if s.velocity_um else 0.45 * kernel
        window = (s.contrast_window_um or 0.15 * self.size) / unit
        return Model(
            kernel=Kernel((kernel,), (1.0,), s.kernel_power),
            velocity_spacing=velocity,
            squarings=_SQUARINGS,
            times=1 if s.flow == "stationary" else s.time_steps,
            order=s.contrast_order,
            window=window,
            regularisation=s.regularisation,
            affine=s.affine,
            prior=s.priors,
            sigma_floor=s.sigma_floor,
            prior_window=0.06 * self.size / unit,
        )

    def working(self, image: WorkingImage, voxel_um: float) -> WorkingImage:
        """Image at a level: as isotropic as the data allow, at least four voxels along an axis."""
        spacing = [
            min(max(voxel_um, s), max(s, e / 4))
            for s, e in zip(image.frame.spacing_um, image.frame.extent_um)
        ]
        return resample(image, spacing)

    def problem(self, level: int) -> tuple[Problem, WorkingImage]:
        """Energy at a level, and the part of the sample that it looks at."""
        voxel, model = self.voxels_um[level], self.model(level)
        atlas = self.working(self.atlas, voxel)
        near = 0.15 * self.size
        sample = crop_to_tissue(self.working(self.sample, voxel), near)
        margin = (self.settings.margin_um or 0.2 * self.size) / self.space.length
        # the box follows from the atlas as given, so that it is the same at every level
        grid = velocity_grid(self.atlas, self.space, model.velocity_spacing, margin)
        there = presence(atlas, self.extent)
        return Problem(atlas, sample, there, self.space, model, grid, self.device), sample

    # ------------------------------------------------------------------ solve
    def solve(self, path: Path | None) -> RegistrationResult:
        """Run all levels, from the checkpoint where it fits, and assemble the result."""
        state = checkpoints.load(path, self.fingerprint)
        if state is None:
            state = State(inverse=self.space.inverse_affine(self.affine))
            if self.settings.affine != "fixed":
                state = self._affine_stage(state)
            checkpoints.save(path, self.fingerprint, state)
        for level in range(state.level, len(self.voxels_um)):
            state = self._level(level, state)
            checkpoints.save(path, self.fingerprint, state)
        return self._finish(state)

    def _affine_stage(self, state: State) -> State:
        """Affine alone, at the coarsest level: the result that a deformation must beat."""
        problem, _ = self.problem(0)
        x = problem.start(state.inverse, None)
        problem.initial_mixture(x)
        memory = lbfgs.Memory()
        theta = x[problem.n_velocity :]
        for _ in range(3):
            end = lbfgs.minimise(
                problem.affine_objective, theta, memory,
                iterations=_STEPS_PER_ROUND, first_step=0.1,
            )  # fmt: skip
            theta = end.x
            x = torch.cat([x[: problem.n_velocity], theta])
            self._check(end.value, "affine")
            problem.update_mixture(x)
        logger.info("affine: match %.4f, sigma %.3f", end.value, problem.mixture.sigma[0])
        inverse = problem.inverse(x).cpu().numpy().astype(np.float64)
        return replace(state, inverse=inverse, affine_inverse=inverse)

    def _level(self, level: int, state: State) -> State:
        """Rounds of minimiser steps and EM updates until the energy rests."""
        problem, _ = self.problem(level)
        voxel = self.voxels_um[level]
        velocity = None
        if state.velocity is not None:
            velocity = torch.tensor(state.velocity, device=self.device)
            velocity = change_grid(velocity, problem.flow.grid.shape)
        x = problem.start(state.inverse, velocity)
        problem.initial_mixture(x, state.sigma)
        memory = lbfgs.Memory()
        rows, previous, reason = [], math.inf, "iterations"
        rounds = math.ceil(self.settings.iterations / _STEPS_PER_ROUND)
        for number in range(rounds):

            def report(x, total, evaluations, number=number):
                smooth = problem.regularisation(x)
                rows.append(
                    dict(zip(
                        ("level", "voxel_um", "round", "evaluation", "match", "regularisation",
                         "total", "sigma"),
                        (level, voxel, number, problem.evaluations, total - smooth, smooth, total,
                         problem.mixture.sigma[0]),
                    ))
                )  # fmt: skip

            steps = min(_STEPS_PER_ROUND, self.settings.iterations - number * _STEPS_PER_ROUND)
            end = lbfgs.minimise(
                problem.objective, x, memory, iterations=steps, first_step=0.1, report=report
            )
            x = end.x
            self._check(end.value, f"level {level}")
            problem.update_mixture(x)
            if previous - end.value < self.settings.tolerance:
                reason = "converged"
                break
            previous = end.value
        with torch.no_grad():
            velocity = problem.velocity(x)
            inverse = problem.inverse(x).cpu().numpy().astype(np.float64)
            displacement = problem.flow.displacement(velocity, -1.0).cpu().numpy()
        unit_frame = Frame(problem.flow.grid.shape, problem.flow.grid.spacing)
        jacobian = 1 / jacobian_determinant(displacement, unit_frame)
        facts = {
            "voxel_um": voxel,
            "sample_shape": list(problem.target.shape),
            "velocity_shape": list(problem.flow.grid.shape),
            "evaluations": problem.evaluations,
            "stopped": reason,
            "total": end.value,
            "sigma_match": problem.mixture.sigma[0],
            "jacobian_min": float(jacobian.min()),
            "jacobian_max": float(jacobian.max()),
        }
        logger.info(
            "level %d (%.4g um): %s after %d evaluations, energy %.4f, sigma %.3f, "
            "Jacobian %.2f to %.2f",
            level, voxel, reason, problem.evaluations, end.value, problem.mixture.sigma[0],
            facts["jacobian_min"], facts["jacobian_max"],
        )  # fmt: skip
        return replace(
            state,
            level=level + 1,
            inverse=inverse,
            velocity=velocity.cpu().numpy(),
            sigma=problem.mixture.sigma[0],
            energy=[*state.energy, *rows],
            facts=[*state.facts, facts],
        )

    def _check(self, value: float, where: str) -> None:
        if not math.isfinite(value):
            raise RegistrationError(
                f"the registration energy is {value} at {where}; check the images for extreme "
                "values, or raise regularisation"
            )

    # ------------------------------------------------------------------ result
    def _finish(self, state: State) -> RegistrationResult:
        problem, seen = self.problem(len(self.voxels_um) - 1)
        velocity = torch.tensor(state.velocity, device=self.device)
        x = problem.start(state.inverse, velocity)
        problem.initial_mixture(x, state.sigma)
        problem.update_mixture(x)
        before = state.affine_inverse
        if before is None:
            before = self.space.inverse_affine(self.affine)
        with torch.no_grad():
            deformed = float(problem.energy(x)[0])
            still = problem.start(before, None)
            affine_only = float(problem.energy(still)[0])
        kept = "deformation"
        warnings = list(self.warnings)
        inverse = state.inverse
        if not deformed < affine_only:
            kept, inverse, x = "affine", before, still
            velocity = torch.zeros_like(velocity)
            warnings.append(
                f"deformation_rejected: it explains the data worse ({deformed:.4f}) than the "
                f"affine alone ({affine_only:.4f}); the affine was kept"
            )
        transform = self._transform(problem, inverse, velocity)
        jacobian = transform.jacobian()
        if jacobian.min() <= 0.1:
            warnings.append(
                f"jacobian: the volume ratio falls to {jacobian.min():.3f}; raise regularisation "
                "or look at the damage map there"
            )
        with torch.no_grad():
            predicted, coefficients, _ = problem.predict(x)
            posteriors = problem.posterior(x)
        error = transform.inverse_error_um()
        summary = {
            "kept": kept,
            "stopped": state.facts[-1]["stopped"],
            "extent": self.extent,
            "levels": state.facts,
            "mixture": {
                "sigma": list(problem.mixture.sigma),
                "mean_artefact": problem.mixture.mean[0],
                "mean_missing": problem.mixture.mean[1],
                "shares": _shares(posteriors, seen),
            },
            "match_affine": affine_only,
            "match_deformed": deformed,
            "jacobian_min": float(jacobian.min()),
            "jacobian_max": float(jacobian.max()),
            "inverse_error_um": error,
            "atlas_size_um": self.size,
            "fingerprint": self.fingerprint,
            "warnings": warnings,
        }
        full = transform.sample_frame
        return RegistrationResult(
            transform=transform,
            posteriors=_embed(posteriors.cpu().numpy(), seen.frame, full, (1.0, 0.0, 0.0)),
            contrast=coefficients.cpu().numpy(),
            contrast_frame=self._contrast_frame(problem, seen),
            predicted=_embed(predicted[None].cpu().numpy(), seen.frame, full, (0.0,))[0],
            energy=state.energy,
            summary=summary,
        )

    def _transform(self, problem: Problem, inverse: np.ndarray, velocity) -> Transform:
        # on twice as many voxels, so that linear interpolation of the files costs no accuracy
        unit, model = self.space.length, problem.model
        coarse = problem.flow.grid
        grid = Grid(
            tuple(2 * n for n in coarse.shape), tuple(s / 2 for s in coarse.spacing), coarse.origin
        )
        flow = Flow(
            grid, model.kernel, steps=model.squarings, times=model.times, device=self.device
        )
        with torch.no_grad():
            velocity = change_grid(velocity, grid.shape)
            pulled = flow.displacement(velocity, -1.0)
            guess = flow.displacement(velocity, 1.0)
            pushed = inverse_displacement(grid, pulled, guess)
        finest = self.voxels_um[-1]
        return Transform(
            affine=self.space.affine_um(inverse),
            frame=Frame(
                grid.shape,
                tuple(s * unit for s in grid.spacing),
                tuple(o * unit + c for o, c in zip(grid.origin, self.space.atlas_centre)),
                self.atlas.frame.orientation,
            ),
            forward=pushed.cpu().numpy() * np.float32(unit),
            inverse=pulled.cpu().numpy() * np.float32(unit),
            atlas_frame=self.working(self.atlas, finest).frame,
            sample_frame=self.working(self.sample, finest).frame,
            velocity=_stationary_or_timed(velocity.cpu().numpy() * np.float32(unit)),
        )

    def _contrast_frame(self, problem: Problem, seen: WorkingImage) -> Frame:
        unit = self.space.length
        spacing, origin = [], []
        for axis, nodes in enumerate(problem.contrast.axes):
            step = (nodes[1] - nodes[0]) * unit if len(nodes) > 1 else seen.frame.extent_um[axis]
            spacing.append(step)
            origin.append(seen.frame.origin_um[axis] + nodes[0] * unit)
        shape = tuple(len(nodes) for nodes in problem.contrast.axes)
        return Frame(shape, tuple(spacing), tuple(origin), seen.frame.orientation)


def _stationary_or_timed(velocity: np.ndarray) -> np.ndarray:
    return velocity[0] if len(velocity) == 1 else velocity


def _shares(posteriors: torch.Tensor, seen: WorkingImage) -> dict[str, float]:
    """Mean posterior of each class over the sample's tissue."""
    tissue = torch.tensor(seen.tissue, device=posteriors.device)
    means = posteriors[:, tissue].mean(1).tolist()
    return dict(zip(("match", "artefact", "missing"), means))


def _embed(values: np.ndarray, part: Frame, whole: Frame, fill: tuple[float, ...]) -> np.ndarray:
    """Put (c, z, y, x) of a cropped frame into the whole frame."""
    out = np.empty((len(values), *whole.shape), np.float32)
    out[:] = np.array(fill, np.float32)[:, None, None, None]
    start = np.rint(whole.to_index(np.array(part.origin_um))).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, part.shape))
    out[(slice(None), *box)] = values
    return out


def _without_zeros(sample: Image) -> Image:
    mask = np.ones(sample.data.shape, np.float32) if sample.mask is None else sample.mask
    return replace(sample, mask=mask * (sample.data != 0))
