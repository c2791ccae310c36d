"""Does the deformation explain tissue that it was not fitted to?

A deformation always explains the voxels to which it was fitted better than the affine alone, also
where it follows noise, texture that only one side has, or a contrast that the model does not know.
Whether it is right there is seen on other voxels: the deformation is fitted once more from the
affine, to a random half of the blocks of the sample, and both are compared on the other half. The
voxels are twice as large as those of the last level.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from terareg.registration import lbfgs
from terareg.registration.checkpoint import State
from terareg.registration.schedule import Plan

# side of a block relative to the size of the atlas: larger than the kernel, so that what a
# deformation follows in one block, such as texture, says nothing about the next; a deformation that
# is right carries on nevertheless
_BLOCK = 0.25
_ROUNDS = 5
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
    doublings = min(1, plan.doublings[0])
    level = max(n for n, other in enumerate(plan.doublings) if other == doublings)
    # a fit that stands alone: without the backward term and without annealing
    before = replace(state, facts=state.facts[:-1])
    problem, _ = plan.problem(level, before, symmetric=False, annealing=1.0)
    problem.hold_back(_BLOCK * plan.size / plan.space.length)
    still = x = problem.start(plan.start(state), None)
    problem.initial_mixture(x)
    memory = lbfgs.Memory()
    for _ in range(_ROUNDS):
        x = lbfgs.minimise(problem.objective, x, memory, iterations=_STEPS, first_step=0.1).x
        problem.update_mixture(x)
    with torch.no_grad():
        return problem.mean_held_back(x, problem.log_losses(still) - problem.log_losses(x))
