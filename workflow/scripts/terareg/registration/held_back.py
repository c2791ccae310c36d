"""Does the deformation explain tissue that it was not fitted to?

A deformation always explains the voxels to which it was fitted better than the affine alone, also
where it follows noise, texture that only one side has, or a contrast that the model does not know.
Whether it is right there is seen on other voxels: the deformation is fitted once more from the
affine, to a random half of the blocks of the sample, and both are compared on the other half; then
the halves change places. The voxels are twice as large as those of the last level.

Where brains differ much, a deformation that is right says little about the next block, so that the
gain is small and differs from block to block: it comes with its standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from terareg.registration import lbfgs
from terareg.registration.checkpoint import State
from terareg.registration.flow import SamplingGrid
from terareg.registration.problem import Problem
from terareg.registration.schedule import Plan

# side of a block relative to the size of the atlas: larger than the kernel, so that what a
# deformation follows in one block, such as texture, says nothing about the next; a deformation that
# is right carries on nevertheless
_BLOCK = 0.25
_ROUNDS = 5
_STEPS = 8


@dataclass(frozen=True)
class HeldBackGain:
    """Gain of a deformation over the affine alone on blocks held back, nats per voxel.

    Attributes
    ----------
    mean, error : float
        Over all tissue that the atlas knows, and its standard error, by the scatter of the blocks.
    regions : numpy.ndarray, shape (2, ids)
        Mean and standard error of every region of the annotation; no ids without one.
    """

    mean: float
    error: float
    regions: np.ndarray


def gain_held_back(plan: Plan, state: State) -> HeldBackGain:
    """Compare the deformation with the affine alone on blocks that it was not fitted to.

    Parameters
    ----------
    plan : Plan
    state : State
        At the end of the last level.

    Returns
    -------
    HeldBackGain
    """
    doublings = min(1, plan.doublings[0])
    level = max(n for n, other in enumerate(plan.doublings) if other == doublings)
    # a fit that stands alone: without the backward term and without annealing
    before = replace(state, facts=state.facts[:-1])
    parts = []
    for half in (0, 1):
        problem, _ = plan.problem(level, before, symmetric=False, annealing=1.0)
        side = _BLOCK * plan.size / plan.space.length
        blocks, first = halved_blocks(problem.sample_grid, side)
        problem.hold_back(~first if half else first)
        parts.append(_fitted(problem, plan.start(state)))
    # each voxel from the fit that did not use it
    gain, weight, at = (np.where(first, late, early) for early, late in zip(*parts))
    mean, error = mean_of_blocks(gain, weight, blocks)
    if problem.painter is None:
        return HeldBackGain(mean, error, np.empty((2, 0)))
    flat = (a.reshape(-1) for a in (at, gain, weight))
    return HeldBackGain(mean, error, problem.painter.means(*flat))


def halved_blocks(grid: SamplingGrid, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Cubes of a grid, and the random half of them that comes first, the same every time.

    Returns
    -------
    blocks : numpy.ndarray of int64, shape (z, y, x)
        Number of the block in which every voxel lies.
    first : numpy.ndarray of bool, shape (z, y, x)
    """
    index = [(np.arange(n) * step / side).astype(int) for n, step in zip(grid.shape, grid.spacing)]
    # by the extent of the grid, so that the blocks are those of any voxel size
    counts = [math.ceil(n * step / side) for n, step in zip(grid.shape, grid.spacing)]
    blocks = np.ravel_multi_index(np.ix_(*index), counts)
    return blocks, (np.random.default_rng(0).permutation(math.prod(counts)) % 2 == 1)[blocks]


def mean_of_blocks(
    values: np.ndarray, weight: np.ndarray, blocks: np.ndarray
) -> tuple[float, float]:
    """Weighted mean, and its standard error if ``blocks`` are independent: infinite for one."""
    keys = blocks.reshape(-1)
    mass = np.bincount(keys, weight.reshape(-1))
    sums = np.bincount(keys, (weight * values).reshape(-1))
    whole, count = max(float(mass.sum()), 1e-6), int((mass > 0).sum())
    mean = float(sums.sum() / whole)
    if count < 2:
        return mean, math.inf
    square = float(((sums - mean * mass) ** 2).sum()) * count / (count - 1)
    return mean, math.sqrt(square) / whole


def _fitted(problem: Problem, affine: np.ndarray) -> tuple[np.ndarray, ...]:
    """Gain, nats, of a deformation fitted from the affine (3 x 4), at every voxel of the sample.

    With it the weight of the voxel where it was held back, and the atlas voxel in which it lies.
    """
    still = x = problem.start(affine, None)
    problem.initial_mixture(x)
    memory = lbfgs.Memory()
    for _ in range(_ROUNDS):
        x = lbfgs.minimise(problem.objective, x, memory, iterations=_STEPS, first_step=0.1).x
        problem.update_mixture(x)
    with torch.no_grad():
        gain = (problem.log_losses(still) - problem.log_losses(x)).cpu().numpy()
        weight = (problem.held_back * problem.tissue(x)).cpu().numpy()
    return gain, weight, problem.atlas_voxels(x).reshape(gain.shape)
