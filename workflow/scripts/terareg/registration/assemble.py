"""Turn the state at the end of the last level into a :class:`RegistrationResult`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.checkpoint import State
from terareg.registration.contrast import CLASSES
from terareg.registration.flow import Flow, SamplingGrid, change_grid, inverse_displacement
from terareg.registration.held_back import gain_held_back
from terareg.registration.images import WorkingImage, noise
from terareg.registration.problem import Problem
from terareg.registration.regions import RegionFit
from terareg.registration.result import RegistrationResult
from terareg.registration.schedule import Plan
from terareg.registration.transform import Transform

# adult brains of a species differ in length by a few percent; clearing changes it by up to ten
_USUAL_SCALE = 1.15
# median residual, relative to bright tissue, above which a region is not explained; percentage of
# the tissue in such regions above which they are named
_UNEXPLAINED = 0.08
_SHARE = 10.0


def assemble(plan: Plan, state: State) -> RegistrationResult:
    """Final E step, the comparison with the affine alone, and the transform both ways.

    The deformation is kept only if it explains the data (and the landmarks, if there are any)
    better than the affine alone did, by the match term under the same mixture.
    """
    last = len(plan.voxels_um) - 1
    # the grid of the velocity was chosen by the residuals of the level before the last
    problem, seen = plan.problem(last, replace(state, facts=state.facts[:-1]))
    velocity = torch.tensor(state.velocity, device=plan.device)
    x = problem.start(state.inverse_affine, velocity)
    problem.initial_mixture(x, state.sigma)
    problem.update_mixture(x)
    before = plan.start(state)
    deformed, pull = problem.misfit(x)
    affine_only, affine_pull = problem.misfit(problem.start(before, None))
    kept = "deformation"
    warnings = list(plan.warnings)
    inverse = state.inverse_affine
    if not deformed + pull < affine_only + affine_pull:
        kept, inverse = "affine", before
        velocity = torch.zeros_like(velocity)
        warnings.append(
            f"deformation_rejected: the deformation explains the data worse ({deformed:.4f}) than "
            f"the affine alone ({affine_only:.4f}), so only the affine was kept"
        )
    x = problem.start(inverse, velocity)
    held_back = gain_held_back(plan, state)
    regional: dict[str, Any] = {
        "held_back_gain": held_back.mean,
        "held_back_error": held_back.error,
    }
    if plan.regions is not None:
        fit = plan.tree.judged(*problem.left_in_regions(x), *held_back.regions)
        regional |= regional_facts(fit, plan, warnings)
    transform = _transform(plan, problem, inverse, velocity)
    jacobian = transform.jacobian()
    check_folding(jacobian, plan, state.stiffness)
    if state.stiffness > 1:
        used = plan.settings.regularisation * state.stiffness
        warnings.append(
            f"folding: with a regularisation of {plan.settings.regularisation:g} the deformation "
            f"folded; {used:g} was used; set registration.regularisation to that value or more"
        )
    if jacobian.min() <= 0.1:
        warnings.append(
            f"jacobian: the volume ratio falls to {jacobian.min():.3f}; raise "
            "registration.regularisation, or look at the damage map there"
        )
    with torch.no_grad():
        predicted, coefficients = problem.predict(x)
        known = problem.known(x)
        # the atlas says nothing about tissue beyond its end
        predicted, posteriors = known * predicted, known * problem.posterior(x)
        posteriors[0] += 1 - known
        expected = problem.expected_tissue(x)
    error = transform.inverse_error_um()
    summary = {
        "kept": kept,
        "stopped": state.facts[-1]["stopped"],
        "extent": plan.extent,
        "levels": state.facts,
        "images": plan.names,
        "mixture": {
            "sigma": [list(sigma) for sigma in problem.mixture.sigma],
            "mean_artefact": [artefact for artefact, _ in problem.mixture.mean],
            "mean_missing": [missing for _, missing in problem.mixture.mean],
            "shares": _shares(posteriors, torch.tensor(seen.tissue, device=posteriors.device)),
        },
        "expected_tissue": _shares(posteriors, expected),
        "match_affine": affine_only,
        "match_deformed": deformed,
        "jacobian_min": float(jacobian.min()),
        "jacobian_max": float(jacobian.max()),
        "inverse_error_um": error,
        "atlas_size_um": plan.size,
        "fingerprint": plan.fingerprint,
        "warnings": warnings,
    }
    if plan.landmarks is not None:
        summary |= _landmark_facts(plan, transform, before)
        warnings += plan.landmarks.far(
            np.array(list(summary["landmark_um"].values())), plan.landmarks.sigma_um
        )
    summary |= regional
    summary |= scale_facts(transform.affine, warnings)
    full = transform.sample_frame
    return RegistrationResult(
        transform=transform,
        posteriors=_embed(posteriors.cpu().numpy(), seen.frame, full, (1.0, 0.0, 0.0)),
        contrast=coefficients.cpu().numpy(),
        contrast_frame=_contrast_frame(plan, problem, seen),
        terms=problem.contrast.terms(),
        predicted=_embed(predicted.cpu().numpy(), seen.frame, full, (0.0,)),
        energy=state.energy,
        summary=summary,
    )


def regional_facts(fit: RegionFit, plan: Plan, warnings: list[str]) -> dict:
    """Regions, by name, in which the registered atlas does not explain the sample."""
    limit = max(_UNEXPLAINED, 3 * noise(plan.sample))
    unexplained, lost = np.abs(fit.residual) > limit, fit.worse
    facts: dict[str, Any] = {
        "unexplained_percent": fit.share(unexplained),
        "worse_percent": fit.share(lost),
    }
    texts = (
        ("unexplained", unexplained, "differ from the prediction of the atlas by more than noise"),
        (
            "worse_regions",
            lost,
            "are explained worse by the deformation than by the affine, in blocks held back from "
            "the fit",
        ),
    )
    for key, chosen, text in texts:
        order = np.flatnonzero(chosen)[np.argsort(-fit.voxels[chosen], kind="stable")]
        ids = fit.ids[order].tolist()
        names = [plan.regions.names.get(i, f"region {i}") for i in ids]
        facts[key] = names
        if facts["unexplained_percent" if key == "unexplained" else "worse_percent"] > _SHARE:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            warnings.append(f"{key}: {', '.join(names[:8])}{more} {text}; look at their borders")
    return facts


def scale_facts(affine: np.ndarray, warnings: list[str]) -> dict:
    """Size of the sample relative to the atlas: mean scale, and ratio of largest to smallest."""
    stretches = np.linalg.svd(affine[:3, :3], compute_uv=False)
    scale, ratio = float(np.prod(stretches) ** (1 / 3)), float(stretches[0] / stretches[-1])
    if max(scale, 1 / scale) > _USUAL_SCALE:
        warnings.append(
            f"scale: the sample is {scale:.2f} times as long as the atlas, but brains of one "
            f"species and age differ by {_USUAL_SCALE - 1:.0%} at most; check the voxel size, or "
            "give an atlas of this age"
        )
    return {"scale": scale, "scale_ratio": ratio}


def check_folding(volumes: np.ndarray, plan: Plan, stiffness: float) -> None:
    """Raise :class:`RegistrationError` if volume ratios of a deformation are not all positive.

    The flow is invertible, but its samples on a grid may fold where the velocity is too steep.
    """
    least = float(volumes.min())
    if not least > 0:
        raise RegistrationError(
            f"the deformation folds (volume ratio {least:.2g}) even with a regularisation of "
            f"{plan.settings.regularisation * stiffness:g}; raise registration.kernel_um above "
            f"{plan.kernel_um(len(plan.voxels_um) - 1, None):.4g}"
        )


def fine_flow(problem: Problem) -> Flow:
    """Flow of the transform: twice as many voxels along each axis as that of the problem.

    With them linear interpolation of the displacement loses no accuracy.
    """
    coarse, model = problem.flow.grid, problem.model
    grid = SamplingGrid(
        tuple(2 * n for n in coarse.shape), tuple(s / 2 for s in coarse.spacing), coarse.origin
    )
    return Flow(grid, model.kernel, times=model.times, device=problem.device)


def _transform(plan: Plan, problem: Problem, inverse: np.ndarray, velocity) -> Transform:
    unit, flow = plan.space.length, fine_flow(problem)
    grid = flow.grid
    with torch.no_grad():
        velocity = change_grid(velocity, grid.shape)
        flow.follow(velocity)
        pulled = flow.displacement(velocity, -1.0)
        guess = flow.displacement(velocity, 1.0)
        pushed = inverse_displacement(grid, pulled, guess)
    finest = plan.voxels_um[-1]
    return Transform(
        affine=plan.space.affine_um(inverse),
        frame=Frame(
            grid.shape,
            tuple(s * unit for s in grid.spacing),
            tuple(o * unit + c for o, c in zip(grid.origin, plan.space.atlas_centre)),
            plan.atlas.frame.orientation,
        ),
        displacement=pushed.cpu().numpy() * np.float32(unit),
        inverse_displacement=pulled.cpu().numpy() * np.float32(unit),
        atlas_frame=plan.working(plan.atlas, finest).frame,
        sample_frame=plan.working(plan.sample, finest).frame,
        velocity=_stationary_or_timed(velocity.cpu().numpy() * np.float32(unit)),
    )


def _landmark_facts(plan: Plan, transform: Transform, before: np.ndarray) -> dict:
    """Distances that remain between landmarks and their partners, um in the sample."""
    marks = plan.landmarks
    left = np.linalg.norm(transform.to_sample(marks.atlas_um) - marks.sample_um, axis=1)
    affine = plan.space.affine_um(before)
    start = marks.atlas_um @ affine[:3, :3].T + affine[:3, 3] - marks.sample_um
    return {
        "landmarks": {
            "count": len(marks),
            "sigma_um": marks.sigma_um,
            "affine_mean_um": float(np.linalg.norm(start, axis=1).mean()),
            "mean_um": float(left.mean()),
        },
        "landmark_um": dict(zip(marks.names, left.tolist())),
    }


def _contrast_frame(plan: Plan, problem: Problem, seen: WorkingImage) -> Frame:
    unit = plan.space.length
    spacing, origin = [], []
    for axis, nodes in enumerate(problem.contrast.axes):
        step = (nodes[1] - nodes[0]) * unit if len(nodes) > 1 else seen.frame.extent_um[axis]
        spacing.append(step)
        origin.append(seen.frame.origin_um[axis] + nodes[0] * unit)
    shape: tuple[int, int, int] = tuple(len(nodes) for nodes in problem.contrast.axes)
    return Frame(shape, tuple(spacing), tuple(origin), seen.frame.orientation)


def _stationary_or_timed(velocity: np.ndarray) -> np.ndarray:
    return velocity[0] if len(velocity) == 1 else velocity


def _shares(posteriors: torch.Tensor, tissue: torch.Tensor) -> dict[str, float]:
    """Mean posterior of each class over ``tissue``, a mask or weights."""
    sums = (posteriors * tissue).sum((1, 2, 3), dtype=torch.float64)
    return dict(zip(CLASSES, (sums / tissue.sum().clamp_min(1e-6)).tolist()))


def _embed(values: np.ndarray, part: Frame, whole: Frame, fill: tuple[float, ...]) -> np.ndarray:
    """Embed values (c, z, y, x) on a cropped frame in the whole frame."""
    out = np.empty((len(values), *whole.shape), np.float32)
    out[:] = np.array(fill, np.float32)[:, None, None, None]
    start = np.rint(whole.to_index(np.array(part.origin_um))).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, part.shape))
    out[(slice(None), *box)] = values
    return out
