"""EM-LDDMM on small phantoms with known truth."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid, intensity
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration import lbfgs
from terareg.registration.contrast import LocalContrast, Mixture
from terareg.registration.emlddmm import register
from terareg.registration.flow import (
    Flow,
    Kernel,
    SamplingGrid,
    change_grid,
    inverse_displacement,
)
from terareg.registration.images import Image, prepare, soften_cut, tissue_fraction
from terareg.registration.schedule import Hints, Plan, choose_device, freedom
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform, jacobian_determinant

CPU = torch.device("cpu")
SETTINGS = RegistrationSettings(
    resolution_um=250.0, levels=2, iterations=24, kernel_um=900.0, kernel_power=2.0,
    velocity_um=480.0, regularisation=0.05, device="cpu",
)  # fmt: skip
BOX = SamplingGrid((24, 20, 30), (0.4, 0.5, 0.35), (-3.0, 1.0, 0.0))


# ---------------------------------------------------------------------- building blocks
def test_flow_and_its_inverse_cancel():
    flow = Flow(BOX, Kernel((1.0,)), times=1, device=CPU)
    torch.manual_seed(0)
    v = flow.velocity(6 * torch.randn(1, 3, *BOX.shape))
    assert v.abs().max() > 0.3
    inverse, forward = flow.displacement(v, -1.0), flow.displacement(v, 1.0)
    points = BOX.points(CPU)
    inner = (slice(None), *[slice(4, -4)] * 3)
    there = points + forward
    back = there + BOX.sample(inverse, there)
    assert (back - points)[inner].abs().max() < 0.03
    exact = inverse_displacement(BOX, inverse, forward)
    there = points + exact
    assert (there + BOX.sample(inverse, there) - points)[inner].abs().max() < 1e-4


def test_a_steep_flow_takes_more_steps_and_its_inverse_does_not_fold():
    """A fixed-point iteration for the inverse diverges where the slope is above 1."""
    flow = Flow(BOX, Kernel((1.2,)), times=1, device=CPU)
    usual = flow.squarings
    inner = np.s_[2:-2, 2:-2, 2:-2]
    z, y, x = (BOX.points(CPU) - torch.tensor([1.6, 6.0, 5.2])[:, None, None, None]) / 1.5
    bump = torch.exp(-(z**2 + y**2 + x**2))
    velocity = (3.0 * bump * torch.stack([z, y, -x]))[None]
    flow.follow(0.01 * velocity)
    assert flow.squarings == usual
    flow.follow(velocity)
    assert flow.squarings > usual
    pulled = flow.displacement(velocity, -1.0)
    assert torch.stack(torch.gradient(pulled, spacing=BOX.spacing, dim=(1, 2, 3))).abs().max() > 1
    pushed = inverse_displacement(BOX, pulled, flow.displacement(velocity, 1.0))
    frame = Frame(BOX.shape, BOX.spacing)
    for one in (pulled, pushed):
        assert jacobian_determinant(one.numpy(), frame)[inner].min() > 0
    there = BOX.points(CPU) + pushed
    left = (pushed + BOX.sample(pulled, there))[(slice(None), *inner)]
    assert left.norm(dim=0).max() < 0.01


def test_constant_velocities_in_time_are_the_stationary_flow():
    torch.manual_seed(0)
    still = Flow(BOX, Kernel((1.5,)), times=1, device=CPU)
    timed = Flow(BOX, Kernel((1.5,)), times=24, device=CPU)
    v = still.velocity(4 * torch.randn(1, 3, *BOX.shape))
    for sign in (1.0, -1.0):
        a = still.displacement(v, sign)
        b = timed.displacement(v.expand(24, -1, -1, -1, -1), sign)
        inner = (slice(None), *[slice(4, -4)] * 3)
        assert (a - b)[inner].abs().max() < 0.05 * a.abs().max()


def test_kernel_smooths_by_its_width():
    torch.manual_seed(0)
    noise = torch.randn(1, 3, *BOX.shape)
    rough = [Flow(BOX, Kernel((a,)), times=1, device=CPU).velocity(noise) for a in (0.5, 1, 2)]
    change = [float((v.diff(dim=-1) ** 2).mean() / (v**2).mean()) for v in rough]
    assert change[0] > change[1] > change[2]


@pytest.mark.parametrize("shape", [(24, 20, 30), (36, 30, 45), (25, 27, 32)])
def test_changing_the_grid_of_a_smooth_field_is_exact(shape):
    def wave(n):
        z, y, x = np.meshgrid(*[np.arange(m) / m for m in n], indexing="ij")
        return torch.tensor(np.cos(2 * np.pi * (z + 2 * y)) + np.sin(4 * np.pi * x)).float()

    result = change_grid(wave((16, 18, 15))[None], shape)
    assert torch.allclose(result[0], wave(shape), atol=1e-5)
    assert torch.allclose(change_grid(result, (16, 18, 15))[0], wave((16, 18, 15)), atol=1e-5)


def test_contrast_fit_recovers_a_polynomial_that_varies_in_space():
    size = SamplingGrid((20, 18, 22), (0.25, 0.25, 0.25), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.random((1, *size.shape)), dtype=torch.float32)
    z = size.points(CPU)[0]
    full = torch.ones(size.shape)
    target = (0.2 + 0.1 * z) - (0.8 - 0.05 * z) * image + 0.3 * image**2
    contrast = LocalContrast(size, (2,), 1.0, CPU)
    predicted = contrast.apply(contrast.fit(image, full, target, full), image, full)
    local = (predicted - target).square().mean().sqrt()
    whole = LocalContrast(size, (2,), float("inf"), CPU)
    rest = whole.apply(whole.fit(image, full, target, full), image, full) - target
    assert local < 0.5 * rest.square().mean().sqrt()


def test_contrast_ignores_voxels_without_weight():
    size = SamplingGrid((16, 16, 16), (0.3, 0.3, 0.3), (0.0, 0.0, 0.0))
    image = torch.rand((1, *size.shape), generator=torch.Generator().manual_seed(0))
    target = 1 - image
    broken = target.clone()
    broken[..., 10:] = 5.0
    weight = torch.ones(size.shape)
    weight[:, :, 10:] = 0
    full = torch.ones(size.shape)
    contrast = LocalContrast(size, (1,), 1.2, CPU)
    predicted = contrast.apply(contrast.fit(image, full, broken, weight), image, full)
    assert (predicted - target).abs().max() < 0.02


def test_a_surface_stays_where_it_is_when_dark_tissue_turns_bright():
    """Partial volume: the sample at a surface is as bright as the share of tissue, not brighter."""
    n = 48
    spacing = (0.1,) * 3
    z, y, x = np.meshgrid(*[np.arange(n) - n / 2] * 3, indexing="ij")
    depth = 17.3 - np.sqrt(z**2 + y**2 + x**2)
    level = np.where(np.cos(z / 5) * np.cos(y / 6) > 0, 0.55, 0.95)
    inside = depth > 0
    atlas = ndimage.gaussian_filter(np.where(inside, level, 0), 1.0)
    sample = ndimage.gaussian_filter(np.where(inside, 1.4 - level, 0), 1.0)
    image = prepare(Image(atlas, Frame(atlas.shape, (100.0,) * 3)))
    fraction = tissue_fraction(image)
    assert fraction[depth > 4].min() == 1 and fraction[depth < -6].max() < 1e-3
    truth = ndimage.gaussian_filter(inside.astype(float), 1.0)
    assert np.abs(fraction - truth).mean() < 0.02
    grid = SamplingGrid(atlas.shape, spacing, (0.0, 0.0, 0.0))
    contrast = LocalContrast(grid, (3,), 1.2, CPU)
    values, full, target = (torch.tensor(a, dtype=torch.float32)
                            for a in (image.values, fraction, sample))  # fmt: skip
    weight = torch.ones_like(target)
    edge = torch.tensor(np.abs(depth) < 1.5)
    bias = []
    for share in (full, torch.ones_like(full)):
        found = contrast.fit(values[None], share, target[None], weight)
        rest = contrast.apply(found, values[None], share)[0] - target
        bias.append(float(rest[edge].mean()))
    assert abs(bias[0]) < 0.5 * bias[1], bias


@pytest.mark.slow
def test_mixture_posteriors_sum_to_one_and_name_the_class():
    prior = torch.tensor([0.8, 0.1, 0.1])[:, None, None, None]
    mixture = Mixture(((0.1, 0.5, 0.1),), ((1.8, 0.0),), prior)
    residual = torch.tensor([0.0, -1.0, 0.8]).reshape(1, 1, 1, 3)
    target = torch.tensor([0.7, 1.9, 0.0]).reshape(1, 1, 1, 3)
    posterior = mixture.posterior(residual, target)
    torch.testing.assert_close(posterior.sum(0), torch.ones(1, 1, 3))
    assert posterior.argmax(0).ravel().tolist() == [0, 1, 2]


def test_minimiser_solves_rosenbrock():
    def rosenbrock(x):
        a, b = x[0::2].double(), x[1::2].double()
        value = (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()
        g = torch.empty_like(x)
        g[0::2] = (-400 * a * (b - a**2) - 2 * (1 - a)).float()
        g[1::2] = (200 * (b - a**2)).float()
        return float(value), g

    values = []
    end = lbfgs.minimise(
        rosenbrock, torch.tensor([-1.2, 1.0] * 5), lbfgs.Memory(), iterations=200,
        tolerance=1e-10, report=lambda x, value, n: values.append(value),
    )  # fmt: skip
    assert (end.x - 1).abs().max() < 1e-2
    assert all(b <= a for a, b in itertools.pairwise(values))


# ---------------------------------------------------------------------- registrations
def varied(value, label, points):
    """Contrast inverted in half of the parts and shaded across the field."""
    inverted = np.where(label % 2 == 0, 1.0 - 0.8 * value, value)
    shade = 1 + 0.25 * (points[2] - points[2].mean()) / 4000
    return np.where(label > 0, inverted * shade, 0.0)


@pytest.mark.slow
def test_known_affine_is_recovered():
    true = affine_about_centre((6, -4, 5), (1.05, 0.96, 1.02), (300, -200, 250))
    truth = Truth(true)
    start = affine_about_centre((4, -4, 7), shift_um=(200, -100, 350))
    result = register(atlas(), truth.sample(), SETTINGS, start)
    assert truth.error_um(Transform.from_affine(start, ATLAS_FRAME, ATLAS_FRAME)) > 150
    assert truth.error_um(result.transform) < 0.5 * 250


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [None, varied], ids=["same", "varied"])
def test_known_deformation_is_recovered(contrast):
    truth = Truth(affine_about_centre((3, 0, -2), shift_um=(150, 0, 0)), amplitude_um=450.0)
    result = register(atlas(), truth.sample(contrast=contrast), SETTINGS, np.eye(4))
    before = truth.error_um(Transform.from_affine(np.eye(4), ATLAS_FRAME, ATLAS_FRAME))
    after = truth.error_um(result.transform)
    assert before > 380 and after < 0.75 * 250
    assert result.summary["kept"] == "deformation"
    assert result.summary["jacobian_min"] > 0.3
    assert result.summary["inverse_error_um"] < 250 / 4


@pytest.mark.slow
def test_time_dependent_flow_recovers_it_as_well():
    truth = Truth(amplitude_um=450.0)
    settings = replace(SETTINGS, flow="time_dependent", time_steps=4)
    result = register(atlas(), truth.sample(), settings, np.eye(4))
    assert truth.error_um(result.transform) < 0.6 * 250
    assert result.transform.velocity.shape[:2] == (4, 3)


@pytest.mark.slow
def test_posteriors_find_the_missing_patch_and_the_artefact():
    truth = Truth(amplitude_um=300.0)
    points = grid(ATLAS_FRAME)
    hole_at = np.array([2200.0, 2000.0, 5200.0])[:, None, None, None]
    blob_at = np.array([5000.0, 3800.0, 2600.0])[:, None, None, None]
    hole = np.linalg.norm(points - hole_at, axis=0) < 1100
    blob = np.linalg.norm(points - blob_at, axis=0) < 700

    def damaged(value, label, points):
        return np.where(blob, 3.0, np.where(hole, 0.0, varied(value, label, points)))

    result = register(atlas(), truth.sample(contrast=damaged), SETTINGS, np.eye(4))
    match, artefact, missing = result.posteriors
    np.testing.assert_allclose(result.posteriors.sum(0), 1, atol=1e-5)
    tissue = np.linalg.norm(points - ATLAS_FRAME.centre_um[:, None, None, None], axis=0) < 1800
    assert artefact[blob].mean() > 0.9
    assert match[tissue & ~hole & ~blob].mean() > 0.8
    inside = np.linalg.norm(points - hole_at, axis=0) < 700
    assert missing[inside].mean() > 0.5
    expected = intensity(truth.to_atlas(points))[1] > 0
    shares = result.summary["expected_tissue"]
    for name, damage in (("missing", hole & ~blob), ("artefact", blob)):
        true = (expected & damage).sum() / expected.sum()
        assert shares[name] == pytest.approx(true, abs=0.01), name
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert truth.error_um(result.transform) < 0.8 * 250


@pytest.mark.slow
def test_a_start_that_cannot_be_improved_is_in_the_table_of_energies(monkeypatch):
    def no_step(objective, x, value, *rest):
        return None, None, None, 1

    monkeypatch.setattr(lbfgs, "_strong_wolfe", no_step)
    result = register(atlas(), atlas(), SETTINGS, np.eye(4))
    assert [(row["level"], row["round"]) for row in result.energy] == [(0, 0), (1, 0)]


@pytest.mark.slow
def test_masked_voxels_do_not_count():
    truth = Truth(amplitude_um=300.0)
    sample = truth.sample()
    mask = np.ones(ATLAS_FRAME.shape, np.float32)
    mask[:, :, :10] = 0
    other = sample.data.copy()
    other[:, :, :10] = 3.0 * sample.data[:, :, 20:30]
    spoiled = Image(other, ATLAS_FRAME, mask, "sample")
    result = register(atlas(), spoiled, SETTINGS, np.eye(4))
    found = result.transform.to_atlas_grid(ATLAS_FRAME)
    error = np.linalg.norm(found - truth.to_atlas(grid(ATLAS_FRAME)), axis=0)
    assert error[8:22, 8:18, 14:26].mean() < 0.6 * 250


@pytest.mark.slow
@pytest.mark.parametrize(("kernel_um", "done"), [(900.0, 1), (None, 2)])
def test_resuming_gives_the_same_bytes(tmp_path, kernel_um, done):
    truth = Truth(amplitude_um=300.0)
    sample, settings = truth.sample(), replace(SETTINGS, iterations=4, kernel_um=kernel_um)
    from terareg.registration import checkpoint

    written = []
    original = checkpoint.save

    def keep(path, fingerprint, state):
        written.append((fingerprint, state))
        original(path, fingerprint, state)

    checkpoint.save = keep
    try:
        register(atlas(), sample, settings, np.eye(4), tmp_path / "state.npz").save(tmp_path / "a")
    finally:
        checkpoint.save = original
    register(atlas(), sample, settings, np.eye(4)).save(tmp_path / "b")
    # a run that ended before the last level
    fingerprint, state = written[done]
    assert state.level == done == len(state.facts)
    checkpoint.save(tmp_path / "half.npz", fingerprint, state)
    resumed = register(atlas(), sample, settings, np.eye(4), tmp_path / "half.npz")
    resumed.save(tmp_path / "c")
    for name in sorted(p.name for p in (tmp_path / "a").iterdir()):
        first = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == first, name
        assert (tmp_path / "c" / name).read_bytes() == first, name
    assert (tmp_path / "state.npz").read_bytes() == (tmp_path / "half.npz").read_bytes()


@pytest.mark.slow
def test_the_predicted_image_is_that_of_the_transform_and_not_of_the_first_affine():
    truth = Truth(affine_about_centre((0, 0, 10), (1.1, 1, 0.95)), amplitude_um=500.0)
    sample = truth.sample()
    result = register(atlas(), sample, SETTINGS, np.eye(4))
    places = result.transform.to_atlas_grid(result.transform.sample_frame)
    index = [(p - o) / s for p, o, s in zip(places, ATLAS_FRAME.origin_um, ATLAS_FRAME.spacing_um)]
    pulled = ndimage.map_coordinates(prepare(atlas()).values, index, order=1, mode="nearest")
    seen = prepare(sample)
    rest = {
        name: float(np.sqrt(np.mean((image - seen.values)[seen.tissue] ** 2)))
        for name, image in (("pulled", pulled), ("predicted", result.predicted[0]))
    }
    # the contrast transform makes of the atlas what the sample shows there
    assert rest["predicted"] < 0.8 * rest["pulled"] < 0.08, rest


def test_images_cut_by_a_mask_enter_with_a_soft_surface():
    image = atlas()
    inside = ndimage.binary_erosion(prepare(image).tissue)
    stripped = replace(image, data=np.where(inside, image.data + 50, 0), name="stripped")
    plan = Plan([stripped], [replace(stripped, name="same")], SETTINGS, np.eye(4), Hints())
    cut, soft = prepare(stripped), soften_cut(prepare(stripped))
    assert np.abs(soft.values - cut.values).max() > 0.1
    for working in (plan.atlas, plan.sample):
        np.testing.assert_array_equal(working.values, soft.values)


@pytest.mark.slow
def test_sigma_keeps_to_its_floor_which_is_higher_at_coarse_levels():
    same = atlas()
    settings = replace(SETTINGS, iterations=16, sigma_floor=0.05)
    result = register(same, replace(same, name="sample"), settings, np.eye(4))
    coarse, fine = (level["sigma_match"][0] for level in result.summary["levels"])
    assert coarse == pytest.approx(0.15)
    assert fine == pytest.approx(0.05)


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_or_code_is_not_used(tmp_path, caplog):
    caplog.set_level("INFO")
    sample, settings = Truth().sample(), replace(SETTINGS, iterations=2, levels=1)
    register(atlas(), sample, settings, np.eye(4), tmp_path / "state.npz")
    stiff = replace(settings, regularisation=0.5)
    register(atlas(), sample, stiff, np.eye(4), tmp_path / "state.npz")
    assert "other images, settings or code" in caplog.text
    caplog.clear()
    register(atlas(), sample, stiff, np.eye(4), tmp_path / "state.npz")
    assert "resuming at level 1" in caplog.text
    register(atlas(), sample, stiff, np.eye(4), tmp_path / "state.npz", code="newer")
    assert "other images, settings or code" in caplog.text
    (tmp_path / "state.npz").write_bytes(b"broken")
    register(atlas(), sample, settings, np.eye(4), tmp_path / "state.npz")
    assert "cannot be read" in caplog.text


@pytest.mark.slow
def test_saved_tables_are_readable(tmp_path):
    settings = replace(SETTINGS, iterations=6)
    result = register(atlas(), Truth(amplitude_um=200.0).sample(), settings, np.eye(4))
    result.save(tmp_path)
    lines = (tmp_path / "energy.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:3] == ["level", "voxel_um", "round"]
    assert len(lines) == 1 + len(result.energy)
    rows = result.energy
    for a, b in itertools.pairwise(rows):
        if (a["level"], a["round"]) == (b["level"], b["round"]):
            assert b["total"] <= a["total"]
    contrast = json.loads((tmp_path / "contrast.json").read_text())
    assert len(contrast["terms"]) == settings.contrast_order + 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["levels"][0]["voxel_um"] == 500.0
    assert summary["match_deformed"] < summary["match_affine"]
    loaded = Transform.load(tmp_path)
    points = np.array([[3000.0, 3000.0, 4000.0]])
    np.testing.assert_allclose(loaded.to_atlas(points), result.transform.to_atlas(points), atol=0.1)


@pytest.mark.slow
def test_ten_times_larger_gives_the_same_result():
    truth = Truth(amplitude_um=300.0)
    settings = RegistrationSettings(levels=1, iterations=8, device="cpu")

    def scaled(image):
        frame = Frame(image.frame.shape, (2500.0,) * 3, (0, 0, 0), "RIP")
        return Image(image.data, frame, name=image.name)

    small = register(atlas(), truth.sample(), settings, np.eye(4))
    large = register(scaled(atlas()), scaled(truth.sample()), settings, np.eye(4))
    np.testing.assert_allclose(
        large.transform.inverse_displacement / 10, small.transform.inverse_displacement, atol=10.0
    )
    assert abs(large.summary["match_deformed"] - small.summary["match_deformed"]) < 0.01


@pytest.mark.slow
def test_stiffer_settings_deform_less():
    sample = Truth(amplitude_um=450.0).sample()
    settings = replace(SETTINGS, levels=1, iterations=16)
    soft = register(atlas(), sample, settings, np.eye(4))
    stiff = register(atlas(), sample, replace(settings, regularisation=5.0), np.eye(4))
    assert (
        np.abs(stiff.transform.inverse_displacement).max()
        < 0.7 * np.abs(soft.transform.inverse_displacement).max()
    )


@pytest.mark.slow
def test_a_level_that_folds_is_repeated_with_more_stiffness(monkeypatch, caplog):
    from terareg.registration import emlddmm

    original, asked = emlddmm.volume_ratios, []

    def fold_twice(flow, velocity):
        asked.append(velocity)
        if len(asked) <= 2:
            raise emlddmm.FoldsError("it folds")
        return original(flow, velocity)

    monkeypatch.setattr(emlddmm, "volume_ratios", fold_twice)
    settings = replace(SETTINGS, iterations=8)
    result = register(atlas(), Truth(amplitude_um=300.0).sample(), settings, np.eye(4))
    used = [level["regularisation"] for level in result.summary["levels"]]
    assert used == pytest.approx([4 * settings.regularisation] * 2)
    assert any(text.startswith("folding: ") for text in result.summary["warnings"])


@pytest.mark.slow
def test_brains_of_another_size_may_differ_more_in_shape():
    def scaled(factor):
        return freedom(np.diag([factor, factor, factor, 1.0]))

    assert scaled(1.0) == scaled(1.06) == scaled(1 / 1.06) == 1.0
    assert 1 < scaled(1.12) < scaled(1.25) < scaled(2.0) == 4.0
    assert scaled(0.8) == pytest.approx(scaled(1.25))
    # volumes count, not single lengths
    assert freedom(np.diag([1.3, 1 / 1.3, 1.0, 1.0])) == 1.0


def test_hardly_any_regularisation_does_not_make_it_fold():
    settings = replace(
        SETTINGS, kernel_um=500.0, kernel_power=1.5, velocity_um=None, regularisation=1e-5,
        sigma_floor=0.02,
    )  # fmt: skip
    result = register(atlas(), Truth(amplitude_um=700.0).sample(0.1), settings, np.eye(4))
    assert 0 < result.summary["jacobian_min"]


@pytest.mark.slow
def test_fixed_and_rigid_affines_stay_so():
    sample = Truth(affine_about_centre(scale=(1.1, 1.1, 1.1))).sample()
    settings = replace(SETTINGS, levels=1, iterations=8)
    fixed = register(atlas(), sample, replace(settings, affine="fixed"), np.eye(4))
    np.testing.assert_allclose(fixed.transform.affine, np.eye(4), atol=1e-6)
    rigid = register(atlas(), sample, replace(settings, affine="rigid"), np.eye(4))
    np.testing.assert_allclose(np.linalg.svd(rigid.transform.affine[:3, :3])[1], 1, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"flow": "fast"}, "flow 'fast' is unknown"),
        ({"regularisation": 0.0}, "regularisation 0.0 is impossible"),
        ({"contrast_order": 9}, "choose 0 to 5"),
        ({"priors": (0.5, 0.5, 0.5)}, "not probabilities"),
        ({"resolution_um": -1.0}, "positive length"),
        ({"levels": 0}, "choose 1 to 8"),
        ({"iterations": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(RegistrationError, match=message):
        RegistrationSettings(**change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(RegistrationError, match="finds no CUDA device"):
        choose_device("cuda")
