"""Does the deformation explain tissue that it was not fitted to?

A deformation always explains the voxels to which it was fitted better than the affine alone, also
where it follows noise, texture that only one side has, or a contrast that the model does not know.
Whether it is right there is seen on other voxels: the deformation is fitted once more from the
affine, to a random half of the blocks of the sample, and both are compared on the other half.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from terareg.registration import lbfgs
from terareg.registration.checkpoint import State
from terareg.registration.flow import change_grid
from terareg.registration.schedule import Plan

# side of a block relative to the size of the atlas: larger than the kernel, so that what a
# deformation follows in one block, such as texture, says nothing about the next; a deformation that
# is right carries on nevertheless
_BLOCK = 0.25
_ROUNDS = 3
_STEPS = 8


def gain_held_back(plan: Plan, state: State) -> tuple[float, np.ndarray]:
    """Gain of a deformation over the affine alone on held-back blocks, nats per voxel.

    Parameters
    ----------
    plan : Plan
    state : State
        At the end of the last level.

    Returns
    -------
    mean : float
        Over all tissue.
    regions : numpy.ndarray, shape (2, ids)
        Mean and standard error of every region of the annotation; no ids without one.
    """
    finest = plan.voxels_um[-1]
    voxels = sorted({finest, min(2 * finest, max(plan.voxels_um))}, reverse=True)
    first, velocity = plan.start(state), None
    affine, sigma = first, None
    for voxel in voxels:
        level = max(n for n, other in enumerate(plan.voxels_um) if other == voxel)
        problem, _ = plan.problem(level, replace(state, facts=state.facts[:-1]), symmetric=False)
        problem.hold_back(_BLOCK * plan.size / plan.space.length)
        if velocity is not None:
            velocity = change_grid(velocity, problem.flow.grid.shape)
        x = problem.start(affine, velocity)
        problem.initial_mixture(x, sigma)
        memory = lbfgs.Memory()
        for _ in range(_ROUNDS):
            x = lbfgs.minimise(problem.objective, x, memory, iterations=_STEPS, first_step=0.1).x
            problem.update_mixture(x)
        with torch.no_grad():
            velocity = problem.velocity(x)
            affine = problem.inverse_affine(x).cpu().numpy().astype(np.float64)
        sigma = problem.mixture.matching
    with torch.no_grad():
        before = problem.log_losses(problem.start(first, None))
        x = problem.start(affine, velocity)
        return problem.mean_held_back(x, before - problem.log_losses(x))
