"""Landmarks: their map alone, their part of the energy, and what they save where images fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.registration.emlddmm import register
from terareg.registration.images import Image
from terareg.registration.landmarks import Landmarks, fit_similarity, read_landmarks
from terareg.registration.pose import PoseSettings, initial_affine
from terareg.registration.schedule import Hints, Plan
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform
from terareg.storage.records import write_json

SETTINGS = RegistrationSettings(
    resolution_um=250.0, levels=1, iterations=4, kernel_um=900.0, velocity_um=480.0, device="cpu"
)
POINTS = np.random.default_rng(0).uniform(1500, 6000, (9, 3))


def marked(affine, points=POINTS, sigma_um=50.0):
    """Landmarks that an affine moves."""
    return Landmarks(points, points @ affine[:3, :3].T + affine[:3, 3], sigma_um)


def distance(transform, landmarks):
    found = transform.to_sample(landmarks.atlas_um)
    return np.linalg.norm(found - landmarks.sample_um, axis=1)


# ---------------------------------------------------------------------- their map alone
@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("count", [3, 9])
def test_a_similarity_is_recovered(mirror, count):
    axes = np.diag([1.0, 1.0, mirror])
    true = affine_about_centre((20, -35, 10), (1.2,) * 3, (500, -900, 100))
    true[:3, :3] = true[:3, :3] @ axes
    found = fit_similarity(marked(true, POINTS[:count]), axes, 200.0)
    np.testing.assert_allclose(found.matrix(), true[:3, :3], atol=1e-9)
    np.testing.assert_allclose(found.shift, true[:3, 3], atol=1e-5)


def test_a_fixed_scale_is_kept():
    true = affine_about_centre((10, 5, 0), (1.1, 0.9, 1.0))
    found = fit_similarity(marked(true), np.eye(3), 200.0, (1.1, 0.9, 1.0))
    np.testing.assert_allclose(found.matrix(), true[:3, :3], atol=1e-9)


def test_wrong_marks_do_not_turn_the_map():
    true = affine_about_centre((20, -35, 10), (1.1,) * 3)
    landmarks = marked(true)
    wrong = landmarks.sample_um.copy()
    wrong[[1, 4, 6]] += [[3000, 0, 0], [0, -2500, 900], [-1500, 1500, 2000]]
    found = fit_similarity(replace(landmarks, sample_um=wrong), np.eye(3), 100.0)
    right = np.delete(np.arange(9), [1, 4, 6])
    assert found.distances(landmarks)[right].max() < 50
    everything = np.linalg.lstsq(np.c_[POINTS, np.ones(9)], wrong, rcond=None)[0]
    assert np.abs(np.c_[POINTS, np.ones(9)] @ everything - landmarks.sample_um).max() > 500


@pytest.mark.parametrize("points", [POINTS[:2], np.outer(np.arange(5.0), [100, 200, -50])])
def test_too_few_or_on_a_line_give_no_map(points):
    assert fit_similarity(marked(np.eye(4), points), np.eye(3), 100.0) is None


# ---------------------------------------------------------------------- the energy
def problem(flow="stationary", landmarks=None):
    settings = replace(SETTINGS, flow=flow, time_steps=3)
    plan = Plan([atlas()], [Truth().sample()], settings, np.eye(4), Hints("whole", landmarks))
    return plan, plan.problem(0)[0]


def test_the_term_is_the_sum_of_squared_distances_over_two_variances():
    """In micrometres, beside images that count once per cube of the characteristic length."""
    affine = affine_about_centre((0, 0, 5), (1.05, 1, 1), (100, 0, -200))
    landmarks = Landmarks(POINTS, POINTS + [300.0, -100.0, 0.0], 80.0)
    plan, at = problem(landmarks=landmarks)
    x = at.start(plan.space.inverse_affine(affine), None)
    moved = POINTS @ affine[:3, :3].T + affine[:3, 3]
    squares = ((moved - landmarks.sample_um) ** 2).sum()
    tissue_um3 = plan.sample.tissue_volume_um3
    wanted = squares / (2 * 80.0**2) / (tissue_um3 / plan.space.length**3)
    assert float(at.landmark_energy(x)) == pytest.approx(wanted, rel=1e-3)
    assert float(at.landmark_energy(x, deform=False)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("flow", ["stationary", "time_dependent"])
@pytest.mark.parametrize("part", ["velocity", "affine"])
def test_the_gradient_is_that_of_finite_differences(flow, part):
    landmarks = Landmarks(POINTS, POINTS + [300.0, -100.0, 200.0], 100.0)
    plan, at = problem(flow, landmarks)
    torch.manual_seed(0)
    x = at.start(plan.space.inverse_affine(np.eye(4)), None)
    at.initial_mixture(x)
    x = x + 0.05 * torch.randn(x.shape)
    y = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(at.landmark_energy(y), y)
    along = gradient.clone()
    keep = slice(0, at.n_velocity) if part == "velocity" else slice(at.n_velocity, None)
    along[keep] = 0
    along = (gradient - along) / (gradient - along).norm()
    step = 0.02
    ahead, behind = (float(at.landmark_energy(x + s * along)) for s in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient @ along), rel=0.01)
    # and the minimiser sees it: the whole gradient differs by just this part
    full = at.objective(x)[1]
    bare = problem(flow)[1]
    bare.start(plan.space.inverse_affine(np.eye(4)), None)
    bare.mixture, bare.match = at.mixture, at.match
    torch.testing.assert_close(full - bare.objective(x)[1], gradient, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------- where images fail
def bland(noise=0.0):
    """The phantom's outline, all of one intensity."""
    solid = ndimage.binary_fill_holes(atlas().data > 0.04)
    data = ndimage.gaussian_filter(solid.astype(np.float32), 0.5)
    data += noise * np.random.default_rng(0).standard_normal(data.shape)
    return Image(data, ATLAS_FRAME, name="bland")


def ball(noise=0.0):
    """Looks alike from every side."""
    points = grid(ATLAS_FRAME) - ATLAS_FRAME.centre_um[:, None, None, None]
    data = np.clip((2500 - np.linalg.norm(points, axis=0)) / 250 + 0.5, 0, 1)
    data += noise * np.random.default_rng(0).standard_normal(data.shape)
    return Image(data.astype(np.float32), ATLAS_FRAME, name="ball")


@pytest.mark.slow
def test_inside_a_constant_region_landmarks_tell_what_images_cannot():
    """A swirl deep in tissue without texture: seen by no voxel, told by twelve landmarks."""
    frame, centre = ATLAS_FRAME, ATLAS_FRAME.centre_um
    image, sample = bland(), bland(noise=0.03)

    def swirl(points):
        away = points - centre
        size = np.exp(-(away**2).sum(-1, keepdims=True) / (2 * 900.0**2))
        return points + 0.5 * size * np.cross([1.0, 0.0, 0.0], away)

    rng = np.random.default_rng(1)
    places = centre + rng.uniform(-1100, 1100, (12, 3))
    held_out = centre + rng.uniform(-900, 900, (40, 3))
    landmarks = Landmarks(places, swirl(places), 20.0)
    settings = replace(SETTINGS, iterations=16)
    blind = register(image, sample, SETTINGS, np.eye(4)).transform
    result = register(image, sample, settings, np.eye(4), hints=Hints(landmarks=landmarks))
    truth = swirl(held_out)
    before = np.linalg.norm(blind.to_sample(held_out) - truth, axis=1).mean()
    after = np.linalg.norm(result.transform.to_sample(held_out) - truth, axis=1).mean()
    assert before > 150 and after < 0.5 * before
    assert distance(result.transform, landmarks).mean() < 60
    assert result.transform.jacobian().min() > 0.3
    assert result.summary["landmarks"]["count"] == 12
    assert result.summary["kept"] == "deformation"
    far = (ndimage.distance_transform_edt(image.data > 0.5) == 0)[..., None] * np.ones(3)
    moved = np.moveaxis(result.transform.to_sample_grid(frame) - grid(frame), 0, -1)
    assert np.abs(moved[far > 0]).mean() < 60


@pytest.mark.slow
def test_a_turn_about_an_axis_of_symmetry_is_told_by_landmarks():
    """A ball looks alike from every side; three landmarks say which side it is."""
    image = ball()
    true = affine_about_centre((0, 70, 40))
    settings = PoseSettings(extent="whole", check_orientation=False)
    landmarks = marked(true, POINTS[:3], 100.0)

    def error(affine):
        turn = affine[:3, :3] @ true[:3, :3].T
        return np.degrees(np.arccos(np.clip((np.trace(turn) / np.cbrt(np.linalg.det(turn)) - 1) / 2,
                                            -1, 1)))  # fmt: skip

    assert error(initial_affine(image, image, settings)[0]) > 30
    found, info = initial_affine(image, image, settings, landmarks)
    assert error(found) < 2 and max(info["landmark_um"].values()) < 150
    alone, _ = initial_affine(image, image, replace(settings, search=False), landmarks)
    np.testing.assert_allclose(alone, true, atol=1e-3)


def test_two_landmarks_help_a_search_but_give_no_pose():
    true = affine_about_centre((5, 0, 0), shift_um=(300, 0, 0))
    settings = PoseSettings(extent="whole", check_orientation=False)
    marks = marked(true, POINTS[:2])
    _, info = initial_affine(atlas(), Truth(true).sample(), settings, marks)
    assert max(info["landmark_um"].values()) < 200
    assert any(w.startswith("few_landmarks: 2 landmarks") for w in info["warnings"])


@pytest.mark.slow
def test_far_and_mirrored_landmarks_are_named():
    settings = PoseSettings(extent="whole", check_orientation=False)
    landmarks = replace(marked(np.eye(4)), names=tuple("abcdefghi"))
    wrong = landmarks.sample_um.copy()
    wrong[3] += 2500
    sample = Truth().sample()
    _, info = initial_affine(atlas(), sample, settings, replace(landmarks, sample_um=wrong))
    (warning,) = [w for w in info["warnings"] if w.startswith("landmark:")]
    assert "'d' is still" in warning
    flipped = landmarks.sample_um * [1, 1, -1] + [0, 0, 2 * ATLAS_FRAME.centre_um[2]]
    _, info = initial_affine(atlas(), sample, settings, replace(landmarks, sample_um=flipped))
    assert any(w.startswith("mirrored_landmarks:") for w in info["warnings"])


@pytest.mark.slow
def test_landmarks_are_in_the_affine_the_table_and_the_checkpoint(tmp_path):
    true = affine_about_centre((0, 0, 12))
    image, sample = ball(), ball(noise=0.03)
    landmarks = marked(true)
    path = tmp_path / "state.npz"
    with_marks = register(
        image, sample, SETTINGS, np.eye(4), path, hints=Hints(landmarks=landmarks)
    )
    rows = with_marks.energy
    for row in rows:
        parts = row["match"] + row["regularisation"] + row["landmarks"]
        assert row["total"] == pytest.approx(parts)
    with_marks.save(tmp_path)
    assert (tmp_path / "energy.tsv").read_text().splitlines()[0].endswith("sigma\tlandmarks")
    assert with_marks.summary["landmarks"]["affine_mean_um"] < 200
    assert distance(Transform.from_affine(np.eye(4), ATLAS_FRAME, ATLAS_FRAME),
                    landmarks).mean() > 300  # fmt: skip
    again = register(image, sample, SETTINGS, np.eye(4), path)
    assert "landmarks" not in again.summary and "landmarks" not in again.energy[0]


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "change, message",
    [
        ({"sample_um": POINTS[:8]}, "9 points in the atlas and 8 in the sample"),
        ({"sample_um": POINTS[:, :2]}, r"sample_um has shape \(9, 2\) or values that are not"),
        ({"atlas_um": np.full((9, 3), np.nan)}, "rows of z, y, x in"),
        ({"atlas_um": np.zeros((0, 3)), "sample_um": np.zeros((0, 3))}, "0 points in the atlas"),
        ({"sigma_um": 0.0}, "deviation of 0.0 um is impossible"),
        ({"names": ("a", "b")}, "2 names for 9 points"),
    ],
)
def test_impossible_landmarks_are_named(change, message):
    given = {"atlas_um": POINTS, "sample_um": POINTS, "sigma_um": 100.0} | change
    with pytest.raises(RegistrationError, match=message):
        Landmarks(**given)


def test_the_file_gives_the_same_landmarks(tmp_path):
    landmarks = replace(marked(affine_about_centre((3, 2, 1))), names=tuple("abcdefghi"))
    write_json(tmp_path / "landmarks.json", landmarks.to_json())
    read = read_landmarks(tmp_path / "landmarks.json")
    np.testing.assert_array_equal(read.atlas_um, landmarks.atlas_um)
    np.testing.assert_array_equal(read.sample_um, landmarks.sample_um)
    assert (read.names, read.sigma_um) == (landmarks.names, landmarks.sigma_um)
    assert read_landmarks(None) is None
