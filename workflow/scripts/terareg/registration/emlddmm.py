"""EM-LDDMM: register an atlas to a sample of any contrast, with artefacts and missing tissue.

The model is that of Tward 2020: a diffeomorphism and an affine, a contrast transform, and a
mixture of matching, artefact and missing voxels. It is solved differently: the velocity is whitened
by its kernel and optimised together with the twelve affine parameters by L-BFGS with a strong-Wolfe
line search (no step sizes to choose); the contrast varies in space and is projected out exactly;
variances and priors are re-estimated; resolutions go from coarse to fine.

References
----------
Beg, M. F. et al. Int. J. Comput. Vis. 61, 139 (2005). Ashburner, J. NeuroImage 38, 95 (2007).
Tward, D. et al. Front. Neurosci. 14, 52 (2020). Liu & Nocedal, Math. Program. 45, 503 (1989).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration import checkpoint as checkpoints
from terareg.registration import lbfgs
from terareg.registration.assemble import assemble, check_folding, fine_flow
from terareg.registration.checkpoint import State
from terareg.registration.flow import Flow, change_grid, cpu_threads
from terareg.registration.images import Image, check_overlap
from terareg.registration.pace import Pace
from terareg.registration.problem import Problem
from terareg.registration.result import ENERGY_COLUMNS, RegistrationResult
from terareg.registration.schedule import ANNEALING, Hints, Plan, check_grids
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import check_affine, jacobian_determinant
from terareg.storage.records import fingerprint

logger = logging.getLogger(__name__)

_STEPS_PER_ROUND = 8
# largest factor on the regularisation of a deformation that folds
_STIFFEST = 2.0**20


def register(
    atlas: Image | Sequence[Image],
    sample: Image | Sequence[Image],
    settings: RegistrationSettings,
    initial_affine: np.ndarray,
    checkpoint: str | Path | None = None,
    hints: Hints | None = None,
    code: str = "",
) -> RegistrationResult:
    """Register an atlas to a sample.

    Parameters
    ----------
    atlas, sample : Image or sequence of Image
        At the working resolution or finer; finer images are averaged. Several images of the atlas
        share one grid, the template first; the contrast transform is the sum of their polynomials.
        Several channels of the sample share one grid; every channel is predicted from all images of
        the atlas and has its own variances. Deformation, affine and posteriors are common, and the
        weight of a voxel is the smallest of its weights in the channels.
    settings : RegistrationSettings
    initial_affine : numpy.ndarray, shape (4, 4)
        Atlas um to sample um, see :func:`terareg.registration.pose.initial_affine`.
    checkpoint : path, optional
        File that is written after every level. If it exists and belongs to the same images,
        settings and code, the levels in it are not computed again. The result is the same.
    hints : Hints, optional
        Part of the atlas that the sample shows (the pose's ``info["extent"]``), and landmarks.
    code : str
        Fingerprint of this code; levels computed by other code are not used.

    Returns
    -------
    RegistrationResult
        Its transform maps atlas points to sample points.

    Raises
    ------
    RegistrationError
        If images cannot be registered, or the energy is not a number.
    """
    affine = check_affine(initial_affine, "initial affine")
    atlas, sample = ([i] if isinstance(i, Image) else list(i) for i in (atlas, sample))
    check_overlap(check_grids(atlas)[0].frame, check_grids(sample)[0].frame, affine)
    with cpu_threads(settings.threads):
        plan = Plan(atlas, sample, settings, affine, hints or Hints())
        return _solve(plan, None if checkpoint is None else Path(checkpoint), code)


def _solve(plan: Plan, path: Path | None, code: str) -> RegistrationResult:
    """Run all levels, from the checkpoint if it belongs to the plan, and assemble the result."""
    made_of = fingerprint(plan.fingerprint, code)
    state = checkpoints.load(path, made_of)
    if state is None:
        state = State(inverse_affine=plan.space.inverse_affine(plan.affine))
        if plan.settings.affine != "fixed":
            state = _affine_stage(plan, state)
        checkpoints.save(path, made_of, state)
    while state.level < len(plan.voxels_um):
        state = _level(plan, state.level, state)
        if state.level in plan.passes[:1]:
            state = _choose_contrast(plan, state)
        elif state.contrast:
            problem, x = _at_finest(plan, state)
            state = replace(state, levels=problem.estimate_levels(x))
            if state.level in plan.passes:
                state = _from_affine(plan, state)
        checkpoints.save(path, made_of, state)
    return assemble(plan, state)


def _affine_stage(plan: Plan, state: State) -> State:
    """Fit the affine alone at the coarsest level: the result that a deformation must improve on."""
    problem, _ = plan.problem(0, state)
    x = problem.start(state.inverse_affine, None)
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
        _check(end.value, "affine")
        problem.update_mixture(x)
    logger.info("affine: match %.4f, sigma %s", end.value, _text(problem.mixture.matching))
    inverse = problem.inverse_affine(x).cpu().numpy().astype(np.float64)
    return replace(state, inverse_affine=inverse, first_inverse_affine=inverse)


def _choose_contrast(plan: Plan, state: State) -> State:
    """After the first pass: choose the stiffest contrast transform better than the template alone.

    Better means a smaller error on voxels that it was not fitted to, in any channel: one that shows
    nothing of the regions must not take them from the others. If one with regions is chosen, all
    levels are repeated from the affine, so that a wrong match of the first pass does not persist;
    if regions do not help, only the last level remains to be done.
    """
    problem, x = _at_finest(plan, state)
    levels = problem.estimate_levels(x)
    problem.set_levels(levels)
    errors = [problem.generalised_errors(x, one) for one in plan.contrasts()]
    better = (
        number for number, found in enumerate(errors)
        if any(error < alone for error, alone in zip(found, errors[0]))
    )  # fmt: skip
    best = next(better, 0)
    logger.info(
        "contrast %d of %d: log squared errors on unseen voxels %s",
        best, len(errors), "; ".join(_text(found) for found in errors),
    )  # fmt: skip
    state.facts[-1]["contrast_errors"] = errors
    if best == 0:
        return replace(state, level=len(plan.voxels_um) - 1)
    held = problem.posterior(x).cpu().numpy()
    return _from_affine(plan, replace(state, levels=levels, held=held, contrast=best))


def _at_finest(plan: Plan, state: State) -> tuple[Problem, torch.Tensor]:
    """Energy on the voxels of the last level, and its unknowns, after the levels done so far."""
    done = state.level == len(plan.voxels_um)
    problem, _ = plan.problem(
        len(plan.voxels_um) - 1, replace(state, facts=state.facts[:-1] if done else []),
        symmetric=False, annealing=1.0 if done else ANNEALING,
    )  # fmt: skip
    velocity = torch.tensor(state.velocity, device=plan.device)
    x = problem.start(state.inverse_affine, change_grid(velocity, problem.flow.grid.shape))
    problem.initial_mixture(x, state.sigma)
    problem.update_mixture(x)
    return problem, x


def _from_affine(plan: Plan, state: State) -> State:
    """Start of another pass: what was learned of the images stays, the map does not."""
    return replace(state, inverse_affine=plan.start(state), velocity=None, sigma=None)


class FoldsError(Exception):
    """The deformation of a level folds."""


def _level(plan: Plan, level: int, state: State) -> State:
    """One level; if its deformation folds, once more from its start, with twice the stiffness."""
    while True:
        try:
            return _minimised(plan, level, state)
        except FoldsError as fold:
            stiffness = 2 * state.stiffness
            logger.warning("level %d: %s; regularisation times %g", level, fold, stiffness)
            if stiffness > _STIFFEST:
                check_folding(np.zeros(1), plan, state.stiffness)
            state = replace(state, stiffness=stiffness)


def _minimised(plan: Plan, level: int, state: State) -> State:
    """Alternate minimiser steps and EM updates until the energy no longer falls.

    Raises
    ------
    FoldsError
        If the deformation folds, on the grid of the velocity or on that of the transform.
    """
    problem, _ = plan.problem(level, state)
    voxel = plan.voxels_um[level]
    velocity = None
    if state.velocity is not None:
        velocity = torch.tensor(state.velocity, device=plan.device)
        velocity = change_grid(velocity, problem.flow.grid.shape)
    x = problem.start(state.inverse_affine, velocity)
    problem.initial_mixture(x, state.sigma)
    memory = lbfgs.Memory()
    rows, previous, reason = [], math.inf, "iterations"
    rounds = math.ceil(plan.settings.iterations / _STEPS_PER_ROUND)
    done = [each["evaluations"] for each in state.facts]
    pace = Pace(level, plan.voxels_um, done, plan.settings.iterations)
    for number in range(rounds):

        def report(x, total, evaluations, number=number):
            smooth = problem.regularisation(x)
            row = {}
            if plan.landmarks is not None:
                with torch.no_grad():
                    row["landmarks"] = float(problem.landmark_energy(x))
            match = total - smooth - row.get("landmarks", 0.0)
            values = (
                level, voxel, number, problem.evaluations, match, smooth, total,
                problem.mixture.matching[0],
            )  # fmt: skip
            more = enumerate(problem.mixture.matching[1:], 2)
            row |= {f"sigma_{channel}": sigma for channel, sigma in more}
            rows.append(dict(zip(ENERGY_COLUMNS, values)) | row)
            pace.step(problem.evaluations, total)

        steps = min(_STEPS_PER_ROUND, plan.settings.iterations - number * _STEPS_PER_ROUND)
        end = lbfgs.minimise(
            problem.objective, x, memory, iterations=steps, first_step=0.1, report=report
        )
        x = end.x
        if not rows:  # the start of the level could not be improved
            report(x, end.value, end.evaluations)
        _check(end.value, f"level {level}")
        with torch.no_grad():
            velocity = problem.velocity(x)
            volume_ratios(problem.flow, velocity)
            problem.flow.follow(velocity)
        problem.update_mixture(x)
        if previous - end.value < plan.settings.tolerance:
            reason = "converged"
            break
        previous = end.value
    with torch.no_grad():
        velocity = problem.velocity(x)
        inverse = problem.inverse_affine(x).cpu().numpy().astype(np.float64)
        fine = fine_flow(problem)
        finely = change_grid(velocity, fine.grid.shape)
        fine.follow(finely)
        volume_ratios(fine, finely)
        jacobian = 1 / volume_ratios(problem.flow, velocity)
    facts = {
        "voxel_um": voxel,
        "sample_shape": list(problem.weight.shape),
        "velocity_shape": list(problem.flow.grid.shape),
        "evaluations": problem.evaluations,
        "regularisation": problem.model.regularisation,
        "squarings": problem.flow.squarings,
        "stopped": reason,
        "total": end.value,
        "kernel_um": problem.model.kernel.widths[0] * plan.space.length,
        "residual_um": problem.residual_length(x) * plan.space.length,
        "sigma_match": list(problem.mixture.matching),
        "jacobian_min": float(jacobian.min()),
        "jacobian_max": float(jacobian.max()),
    }
    logger.info(
        "level %d (%.4g um, kernel %.4g um): %s after %d evaluations, energy %.4f, sigma %s, "
        "Jacobian %.2f to %.2f",
        level, voxel, facts["kernel_um"], reason, problem.evaluations, end.value,
        _text(problem.mixture.matching), facts["jacobian_min"], facts["jacobian_max"],
    )  # fmt: skip
    return replace(
        state,
        level=level + 1,
        inverse_affine=inverse,
        velocity=velocity.cpu().numpy(),
        sigma=problem.mixture.matching,
        energy=[*state.energy, *rows],
        facts=[*state.facts, facts],
    )


def volume_ratios(flow: Flow, velocity: torch.Tensor) -> np.ndarray:
    """Volume ratios of phi^-1 on the flow's grid; raises :class:`FoldsError` at 0 and below."""
    displacement = flow.displacement(velocity, -1.0).cpu().numpy()
    volumes = jacobian_determinant(displacement, Frame(flow.grid.shape, flow.grid.spacing))
    if not volumes.min() > 0:
        raise FoldsError(f"the deformation folds (volume ratio {volumes.min():.2g})")
    return volumes


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _check(value: float, where: str) -> None:
    if not math.isfinite(value):
        raise RegistrationError(
            f"the registration energy is {value} at {where}; check the images for extreme values, "
            "or raise registration.regularisation"
        )
