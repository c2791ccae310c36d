"""Least-squares displacement of sparse cells in noise, against the bound that the noise sets."""

import numpy as np
import pytest

from terareg.stitching import refinement
from terareg.stitching.filters import prepare
from terareg.stitching.least_squares import Cut, fit
from terareg.stitching.refinement import Patch

SHAPE = (32, 160, 64)
LEVEL, CELL, NOISE, WIDTH = 200.0, 150.0, 25.0, 2.0
LEVELS = (0.0, 400.0)


def cells(shift, places):
    """Gaussian cells on a flat ground, with the origin of the image moved by ``shift``."""
    grid = [np.arange(n, dtype=float) for n in SHAPE]
    total = np.full(SHAPE, LEVEL)
    for place in places:
        axes = [np.exp(-0.5 * ((g - p + s) / WIDTH) ** 2) for g, p, s in zip(grid, place, shift)]
        total += CELL * np.einsum("i,j,k->ijk", *axes)
    return total


def fitted(shift, places, rng, gain=1.0, noise=NOISE):
    noisy = [
        cells(s, places) * g + rng.normal(0, noise, SHAPE)
        for s, g in (((0, 0, 0), 1.0), (shift, gain))
    ]
    a, b = (prepare(image.astype(np.float32), LEVELS)[0] for image in noisy)
    return fit([Cut(a, b, np.zeros(3))], np.zeros(3), (0, 1, 2))


def scattered(rng, number):
    return rng.uniform((6, 8, 8), np.subtract(SHAPE, (6, 8, 8)), (number, 3))


@pytest.mark.slow
def test_sparse_cells_are_placed_nearly_as_well_as_the_noise_allows():
    rng = np.random.default_rng(1)
    errors, bounds = [], []
    for _ in range(8):
        places, shift = scattered(rng, 4), rng.uniform(-0.8, 0.8, 3)
        found, _ = fitted(shift, places, rng)
        errors.append(found - shift)
        slopes = np.stack(np.gradient(cells((0, 0, 0), places)))
        fisher = np.einsum("izyx,jzyx->ij", slopes, slopes) / (2 * NOISE**2)
        bounds.append(np.diag(np.linalg.inv(fisher)))
    error, bound = (np.sqrt(np.mean(v)) for v in (np.square(errors), bounds))
    assert error < 1.4 * bound  # counting all voxels alike gives 1.5
    assert error > 0.5 * bound  # less would mean that the bound is not one


def test_stripes_do_not_move_cells_that_lie_on_their_slopes():
    rng = np.random.default_rng(2)
    stripes = 1 + 0.35 * np.sin(np.arange(SHAPE[1]) / 2.5)[None, :, None]
    errors = [
        fitted(np.zeros(3), scattered(rng, 6), rng, gain=stripes, noise=2.0)[0][1] for _ in range(4)
    ]
    assert np.sqrt(np.mean(np.square(errors))) < 0.04


def test_axes_that_are_not_fitted_stay_and_one_axis_is_enough():
    rng = np.random.default_rng(3)
    image = cells((0, 0, 0), scattered(rng, 6)).astype(np.float32)
    cut = Cut(image, np.roll(image, 1, axis=2), np.zeros(3))
    found, sigma = fit([cut], np.array([0.0, 0.0, -0.6]), (2,))
    assert found == pytest.approx([0, 0, -1], abs=0.02)
    assert sigma[0] == sigma[1] == 0 < sigma[2]


def test_error_is_that_of_cuts_that_contradict_each_other():
    rng = np.random.default_rng(4)
    image = cells((0, 0, 0), scattered(rng, 6)).astype(np.float32)
    cuts = [
        Cut(image, cells((0, s, 0), scattered(np.random.default_rng(4), 6)), np.zeros(3))
        for s in (-0.4, 0.4)
    ]
    found, sigma = fit(cuts, np.zeros(3), (0, 1, 2))
    assert found[1] == pytest.approx(0, abs=0.1)
    assert sigma[1] == pytest.approx(0.4, rel=0.5)
    assert max(sigma[0], sigma[2]) < 0.1


def test_voxels_that_are_no_numbers_are_no_displacement():
    spoiled = np.full(SHAPE, np.nan, np.float32)
    assert fit([Cut(spoiled, spoiled, np.zeros(3))], np.zeros(3), (0, 1, 2)) is None


def test_nothing_to_see_is_no_displacement():
    flat = np.zeros((12, 20, 20), np.float32)
    assert fit([Cut(flat, flat, np.zeros(3))], np.zeros(3), (0, 1, 2)) is None
    thin = np.zeros((3, 20, 20), np.float32)
    assert fit([Cut(thin, thin, np.zeros(3))], np.zeros(3), (0, 1, 2)) is None


def patches_of(shift, number=6):
    """Patches of the two images, with the same cells in other noise each."""
    rng = np.random.default_rng(5)
    places = scattered(rng, 12)
    return [
        Patch(
            tuple(
                (cells(s, places) + rng.normal(0, 5, SHAPE)).astype(np.uint16)
                for s in ((0, 0, 0), shift)
            ),
            ((0, 0, 0), (0, 0, 0)), LEVELS, 1.0, (0, SHAPE[0]),
        )
        for _ in range(number)
    ]  # fmt: skip


@pytest.mark.parametrize("away", [0.05, 0.6])
def test_a_fit_far_from_the_maximum_of_the_correlations_is_not_believed(monkeypatch, away):
    shift = np.array([0.3, -0.4, 0.2])
    around = np.zeros(3, int), np.full(3, 3)
    wrong = shift + (0, away, 0), np.full(3, 0.02)
    monkeypatch.setattr(refinement, "fit", lambda *_: wrong)
    found = refinement.refine(refinement.cuts_of(patches_of(shift), *around), *around).displ
    believed = away < 0.1
    assert np.array_equal(found, wrong[0]) == believed
    assert found == pytest.approx(wrong[0] if believed else shift, abs=0.15)
