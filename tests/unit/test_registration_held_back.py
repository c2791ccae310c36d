"""A deformation must explain tissue that it was not fitted to."""

import math
from dataclasses import replace

import numpy as np
import pytest
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid, intensity
from scipy import ndimage
from test_registration_emlddmm import SETTINGS

from terareg.registration.emlddmm import register
from terareg.registration.flow import SamplingGrid
from terareg.registration.held_back import halved_blocks, mean_of_blocks
from terareg.registration.problem import Problem
from terareg.registration.regions import RegionFit, Regions
from terareg.registration.schedule import Hints, Plan
from terareg.views.thresholds import beyond_chance, judge, of_registration

AFFINE = affine_about_centre((3, 0, -2), shift_um=(150, 0, 0))
HINTS = Hints(regions=Regions(intensity(grid(ATLAS_FRAME))[1], {}))
FREE = replace(SETTINGS, regularisation=0.012, affine="fixed", iterations=40)


def status(result):
    verdicts = judge(of_registration(result.summary, "phantom"))
    return {v.key.removeprefix("registration."): v.status for v in verdicts}


@pytest.mark.slow
def test_a_deformation_that_is_right_carries_on_through_blocks_held_back():
    result = register(atlas(), Truth(AFFINE, 450.0).sample(), FREE, AFFINE, hints=HINTS)
    assert result.summary["held_back_gain"] > 0.3
    assert result.summary["worse_regions"] == []
    assert status(result)["held_back_gain"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_a_deformation_that_follows_texture_does_not_pass(seed):
    """The affine is right, and the sample has coarse texture that the atlas has not."""
    texture = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal((30, 26, 34)), 1.5
    )
    texture *= 0.3 / texture.std()
    sample = Truth(AFFINE).sample(contrast=lambda value, label, _: value + texture * (label > 0))
    result = register(atlas(), sample, FREE, AFFINE, hints=HINTS)
    # seen on the voxels to which it was fitted, all is well
    assert result.summary["match_affine"] - result.summary["match_deformed"] > 0.03
    assert status(result)["gain"] == "pass" and status(result)["held_back_gain"] != "pass"


def test_what_is_worse_or_better_by_chance_is_neither():
    assert beyond_chance(-0.05, 0.08) == 0 and beyond_chance(0.05, 0.08) == 0
    assert beyond_chance(-0.2, 0.08) == pytest.approx(-0.04)
    assert beyond_chance(0.4, 0.06) == pytest.approx(0.28)
    assert beyond_chance(0.4, None) is None and beyond_chance(None, 0.1) is None
    summary = {"held_back_gain": -0.05, "held_back_error": 0.08}
    (verdict,) = judge(f for f in of_registration(summary, "atlas") if f[2] is not None)
    assert verdict.key == "registration.held_back_gain" and verdict.status == "warn"


def test_the_error_of_a_mean_is_that_of_its_blocks():
    """Voxels of a block are alike, so that only the number of blocks counts."""
    rng = np.random.default_rng(5)
    grid = SamplingGrid((24, 24, 24), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
    blocks, _ = halved_blocks(grid, 2.0)
    assert blocks.max() + 1 == 6**3 and len({*blocks[:4, :4, :4].flat}) == 1
    found = []
    for _ in range(200):
        values = (0.3 + rng.standard_normal(blocks.max() + 1))[blocks]
        found.append(mean_of_blocks(values, np.ones(blocks.shape), blocks))
    means, errors = np.array(found).T
    assert means.mean() == pytest.approx(0.3, abs=0.02)
    assert errors.mean() == pytest.approx(means.std(), rel=0.15)
    assert mean_of_blocks(values, blocks == 0, blocks)[1] == math.inf


def test_half_of_the_blocks_is_held_back_the_same_every_time():
    plan = Plan([atlas()], [atlas()], SETTINGS, np.eye(4), HINTS)
    halves = []
    for level in (0, 1):
        problem: Problem = plan.problem(level)[0]
        whole = problem.weight
        _, used = halved_blocks(problem.sample_grid, 5.0)
        problem.hold_back(used)
        np.testing.assert_array_equal(problem.weight + problem.held_back, whole)
        assert (problem.weight * problem.held_back).max() == 0
        halves.append(float(problem.held_back.sum() / whole.sum()))
    assert halves[0] == pytest.approx(halves[1], abs=0.05) and 0.3 < halves[0] < 0.7


def test_regions_are_worse_only_beyond_chance():
    fit = RegionFit(np.arange(3), np.ones(3), np.zeros(3), np.array([-0.3, -0.1, 0.2]),
                    np.array([0.1, 0.1, 0.1]))  # fmt: skip
    assert fit.worse.tolist() == [True, False, False]
