"""The match term the other way round, and that it counts like the first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registration_phantom import Truth, affine_about_centre, atlas
from scipy import ndimage

from terareg.core.frames import Frame
from terareg.registration.emlddmm import register
from terareg.registration.flow import SamplingGrid
from terareg.registration.images import crop_to_tissue, noise, prepare
from terareg.registration.problem import share_of_noise
from terareg.registration.schedule import Hints, Plan
from terareg.registration.settings import RegistrationSettings

CPU = torch.device("cpu")
SETTINGS = RegistrationSettings(resolution_um=250.0, levels=2, iterations=24, device="cpu")


def noisy(image, seed, sigma=0.03):
    """The image with noise; sigma is a share of its brightest value."""
    rest = np.random.default_rng(seed).standard_normal(image.data.shape).astype(np.float32)
    return replace(image, data=image.data + sigma * image.data.max() * rest)


def problem(sample=None, extent="whole", level=2, **settings):
    """A problem, and its unknowns where nothing moves; both images are noisy alike."""
    sample = noisy(Truth().sample(noise=0), 1) if sample is None else sample
    plan = Plan([noisy(atlas(), 2)], [sample], replace(SETTINGS, **settings), np.eye(4),
                Hints(extent))  # fmt: skip
    at, _ = plan.problem(level)
    x = at.start(plan.space.inverse_affine(np.eye(4)), None)
    return at, x


def backward_term(at, x):
    return list(at.match_terms(x))[1]


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.1])
def test_noise_is_told_from_structure(sigma):
    """Steps between parts, surfaces and gradients are no noise."""
    image = atlas()
    ramp = np.linspace(1.0, 1.3, image.data.shape[0], dtype=np.float32)[:, None, None]
    rest = np.random.default_rng(0).standard_normal(image.data.shape).astype(np.float32)
    prepared = prepare(replace(image, data=10 + 100 * (image.data * ramp + sigma * rest)))
    per_unit = np.polyfit(image.data.ravel() * np.broadcast_to(ramp, image.data.shape).ravel(),
                          prepared.values.ravel(), 1)[0]  # fmt: skip
    assert noise(prepared) == pytest.approx(sigma * per_unit, rel=0.15, abs=0.006)


def test_a_grid_contains_what_lies_between_its_outer_voxels():
    size = SamplingGrid((3, 4, 5), (1.0, 0.5, 2.0), (0.0, -1.0, 10.0))
    inside = torch.tensor([[0.0, 2.0, 1.0], [-1.0, 0.5, 0.0], [10.0, 18.0, 12.0]])
    outside = torch.tensor([[2.1, 1.0, 1.0, -0.1], [0.0, 0.6, 0.0, 0.0], [11.0, 11.0, 9.9, 11.0]])
    assert size.contains(inside).all() and not size.contains(outside).any()


def test_only_the_last_level_counts_both_directions():
    for level, symmetric, terms in ((0, True, 1), (1, True, 1), (2, True, 2), (2, False, 1)):
        at, x = problem(level=level, symmetric=symmetric)
        at.initial_mixture(x)
        assert len(list(at.match_terms(x))) == terms
        assert (at.backward is not None) == (terms == 2)


@pytest.mark.parametrize("flow", ["stationary", "time_dependent"])
@pytest.mark.parametrize("part", ["velocity", "affine"])
def test_the_gradient_is_that_of_finite_differences(flow, part):
    at, x = problem(flow=flow, time_steps=3)
    at.initial_mixture(x)
    torch.manual_seed(0)
    x = x + 0.02 * torch.randn(x.shape)
    y = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(backward_term(at, y), y)
    keep = torch.zeros_like(gradient)
    keep[slice(0, at.n_velocity) if part == "velocity" else slice(at.n_velocity, None)] = 1
    along = gradient * keep / (gradient * keep).norm()
    step = 0.02 if part == "velocity" else 0.005
    with torch.no_grad():
        ahead, behind = (float(backward_term(at, x + s * along)) for s in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient @ along), rel=0.05)


def test_the_minimiser_sees_the_sum_of_all_terms():
    at, x = problem()
    at.initial_mixture(x)
    torch.manual_seed(0)
    x = x + 0.01 * torch.randn(x.shape)
    y = x.clone().requires_grad_(True)
    total = sum(at.match_terms(y)) + at.regularisation(x)
    value, gradient = at.objective(x)
    assert value == pytest.approx(float(total.detach()), rel=1e-6)
    (match,) = torch.autograd.grad(sum(at.match_terms(y)), y)
    match[: at.n_velocity] += at.model.regularisation * x[: at.n_velocity]
    torch.testing.assert_close(gradient, match, rtol=1e-3, atol=1e-6)


def test_the_way_back_leads_where_the_way_came_from():
    at, x = problem()
    torch.manual_seed(0)
    x = x + 0.02 * torch.randn(x.shape)
    with torch.no_grad():
        pulled = at.pulled_points(x)
        points = at.sample_grid.points(pulled.device)
        moved = (pulled - points).norm(dim=0)
        again = at.pushed_points(x, pulled) - points
    assert moved.max() > 0.1
    assert again.norm(dim=0).max() < 0.05 * moved.max()


def test_an_image_explains_itself_to_the_floor_in_both_directions():
    at, x = problem(replace(noisy(atlas(), 2), name="same"))
    at.initial_mixture(x)
    for _ in range(4):
        at.update_mixture(x)
    assert at.mixture.matching == (at.least_sigma,)
    assert at.backward.sigma == [at.least_sigma]
    explained = float(backward_term(at, x))
    shifted = at.start(at.base.numpy() + 0.3 * np.eye(3, 4, 3), None)
    assert float(backward_term(at, shifted)) > explained + 0.2


def test_holes_their_border_and_what_was_not_imaged_do_not_count():
    same = noisy(atlas(), 1)
    mask = np.ones(same.data.shape, np.float32)
    mask[tuple(slice(n // 2 - 3, n // 2 + 3) for n in mask.shape)] = 0
    at, x = problem(replace(same, mask=mask, name="holed"))
    at.initial_mixture(x)
    weight = at.backward.weight
    points = at.atlas_grid.points(at.device)
    centre = torch.tensor([o + s * (n - 1) / 2 for o, s, n in zip(
        at.sample_grid.origin, at.sample_grid.spacing, at.sample_grid.shape)])  # fmt: skip
    near = (points - centre[:, None, None, None]).abs().amax(0) < 2.0 * at.sample_grid.spacing[0]
    assert near.any() and weight[near].max() == 0
    assert weight.max() > 0.9


def test_what_lies_outside_the_imaged_box_does_not_count():
    at, x = problem()
    x = at.start(at.space.inverse_affine(affine_about_centre(shift_um=(900.0, 0, 0))), None)
    at.initial_mixture(x)
    weight = at.backward.weight
    outside = ~at.sample_grid.contains(at.pushed_atlas(x))
    assert outside.any() and (weight[outside] == 0).all()
    assert weight[~outside].max() > 0.9


def test_one_side_of_the_atlas_counts_where_one_was_imaged():
    at, x = problem(extent="left")
    at.initial_mixture(x)
    there = at.presence[0]
    assert at.backward.weight[there == 0].abs().max() == 0
    assert at.backward.weight[there == 1].max() > 0.9


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_both_directions_have_the_same_total_whatever_the_scale(scale):
    """The tissue's volume, in the sample: 1 in its own unit, less what lies along the surface."""
    affine = affine_about_centre(scale=(scale,) * 3)
    frame = Frame((40, 36, 44), (250.0,) * 3, (-1250.0,) * 3, "RIP")
    sample = noisy(Truth(affine, frame=frame).sample(noise=0), 1)
    plan = Plan([noisy(atlas(), 2)], [sample], SETTINGS, affine, Hints())
    at, seen = plan.problem(2)
    at.initial_mixture(at.start(plan.space.inverse_affine(affine), None))
    tissue = torch.tensor(crop_to_tissue(plan.atlas, 0.15 * plan.size).tissue)
    total = float((at.backward.weight * tissue).sum()) * at.backward.scale
    forward = float((at.match * torch.tensor(seen.tissue)).sum()) * at.data_weight
    assert 0.8 < total < 1.05 and 0.9 < forward <= 1


@pytest.mark.parametrize(
    ("of_atlas", "of_sample", "low", "high"),
    [(0.0, 0.05, 0.0, 0.05), (0.05, 0.05, 0.4, 0.6), (0.05, 0.0, 0.95, 1.0)],
)
def test_directions_weigh_as_the_noise_of_what_they_predict(of_atlas, of_sample, low, high):
    one, other = (
        (prepare(noisy(image, seed, sigma)),)
        for image, seed, sigma in ((atlas(), 1, of_atlas), (Truth().sample(noise=0), 2, of_sample))
    )
    assert low <= share_of_noise(one, other) <= high


@pytest.mark.slow
@pytest.mark.parametrize("noisy_side", ["atlas", "sample"])
def test_the_noise_of_neither_side_draws_the_map(noisy_side):
    """The sample predicts a noisy atlas better than the other way round; and as it was before
    where the atlas is an average without noise."""
    truth = Truth(affine_about_centre((0, 0, 4)), amplitude_um=300.0)
    of_atlas, of_sample = (0.05 if noisy_side == side else 0.0 for side in ("atlas", "sample"))
    images = noisy(atlas(), 2, of_atlas), truth.sample(noise=of_sample)
    both, one = (
        truth.error_um(register(*images, replace(SETTINGS, symmetric=s), np.eye(4)).transform)
        for s in (True, False)
    )
    assert both < 0.8 * one if noisy_side == "atlas" else both == one, (both, one)


# ---------------------------------------------------------------------- the last pass
@pytest.mark.parametrize(("blur", "voxels"), [(0.0, 1.0), (1.0, 8.0)])
def test_residuals_tell_the_length_along_which_they_are_alike(blur, voxels):
    """White noise: one voxel. Blurred by s: neighbours correlate by r = exp(-1 / (4 s^2))."""
    rest = np.random.default_rng(0).standard_normal(atlas().data.shape)
    rest = ndimage.gaussian_filter(rest, blur) if blur else rest
    same = replace(atlas(), data=(atlas().data + 0.05 * rest / rest.std()).astype(np.float32))
    plan = Plan([atlas()], [replace(same, name="same")], SETTINGS, np.eye(4), Hints())
    at, _ = plan.problem(1)
    x = at.start(plan.space.inverse_affine(np.eye(4)), None)
    at.initial_mixture(x)
    found = at.residual_length(x) * at.space.length / 250.0
    assert found == pytest.approx(voxels, rel=0.3)


def planned(**settings) -> Plan:
    """The plan of a registration of an atlas of 100 um to itself."""
    frame = Frame((75, 65, 85), (100.0,) * 3, (-75.0,) * 3, "RIP")
    images = [atlas(frame)], [replace(atlas(frame), name="same")]
    return Plan(*images, replace(SETTINGS, resolution_um=100.0, **settings), np.eye(4), Hints())


def test_the_last_kernel_follows_the_residuals_between_its_bounds():
    plan = planned()
    *before, last = range(len(plan.voxels_um))
    lengths = np.geomspace(10, 2000, 400)
    widths = np.array([plan.kernel_um(last, length) for length in lengths])
    narrowest, widest = widths[0], widths[-1]
    # a share of the brain, never finer than the voxels can show, never the brain as a whole
    assert 2 * plan.voxels_um[-1] < narrowest < widest < 0.5 * plan.size
    assert np.all(np.diff(widths) >= 0)
    between = (widths > narrowest) & (widths < widest)
    ratios = widths[between] / lengths[between]
    assert len(ratios) > 3 and ratios == pytest.approx(ratios[0]) and ratios[0] > 1
    assert plan.kernel_um(last, None) == widest, "nothing is known of the residuals"
    for level in before:
        assert len({plan.kernel_um(level, length) for length in (None, 1.0, 5000.0)}) == 1
    assert plan.kernel_um(0, None) > widest, "the first kernels are wider still"


@pytest.mark.slow
def test_residuals_shorter_than_voxels_can_show_give_a_kernel_of_some_voxels():
    fine, coarse = planned(), planned()
    coarse.voxels_um = [1.1 * voxel for voxel in coarse.voxels_um]
    last = len(fine.voxels_um) - 1
    widths = [plan.kernel_um(last, 1.0) for plan in (fine, coarse)]
    assert widths[1] == pytest.approx(1.1 * widths[0])


@pytest.mark.slow
def test_the_finest_level_is_gone_through_twice_where_the_kernel_is_free():
    free, given = planned(), planned(kernel_um=900.0)
    assert free.voxels_um == [*given.voxels_um, given.voxels_um[-1]]
    assert given.voxels_um == sorted(set(given.voxels_um), reverse=True)


def test_a_kernel_that_is_given_is_kept_and_grows_with_the_voxels():
    plan = planned(kernel_um=900.0, kernel_continuation=1.5)
    *coarser, last = range(len(plan.voxels_um))
    assert coarser and plan.kernel_um(last, None) == plan.kernel_um(last, 300.0) == 900.0
    for level in coarser:
        ratio = plan.kernel_um(level, 300.0) / plan.kernel_um(level + 1, 300.0)
        assert ratio == pytest.approx(1.5)
