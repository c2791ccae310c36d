"""The initial affine: orientations, poses, halves, and the user's own word."""

import numpy as np
import pytest
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid, intensity
from scipy import ndimage
from scipy.spatial.transform import Rotation

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame, all_orientations, orientation_matrix
from terareg.phantom.atlas import BrainSettings, make_atlas
from terareg.phantom.sample import GeneratedSample, SampleSettings
from terareg.registration.images import Image, prepare
from terareg.registration.pose import (
    Found,
    PoseSettings,
    better_explained,
    check_confirmed,
    initial_affine,
    mirrored,
)
from terareg.registration.search import Search, presence, rotation_matrix
from terareg.registration.transform import Transform

QUICK = PoseSettings(extent="whole", check_orientation=False)


def reoriented(image, code):
    """The same brain with its array axes stored in another orientation."""
    matrix = orientation_matrix(image.frame.orientation, code)
    order = [int(np.flatnonzero(row)[0]) for row in matrix]
    signs = [row[axis] for row, axis in zip(matrix, order)]
    data = np.transpose(image.data, order)[tuple(slice(None, None, int(s)) for s in signs)]
    frame = Frame(data.shape, image.frame.spacing_um, (0.0, 0.0, 0.0), code)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    size = np.array(image.frame.shape)[order] - 1
    shift = np.where(np.array(signs) < 0, size, 0) * np.array(image.frame.spacing_um)
    affine[:3, 3] = shift - matrix @ np.array(image.frame.origin_um)
    return Image(np.ascontiguousarray(data), frame, name="sample"), affine


def corner_error_um(found, true):
    corners = np.array(np.meshgrid(*[[1000.0, 6000.0]] * 3, indexing="ij")).reshape(3, -1)
    corners = np.concatenate([corners, np.ones((1, 8))])
    return float(np.linalg.norm(((found - true) @ corners)[:3], axis=0).max())


@pytest.mark.parametrize("code", all_orientations())
def test_every_orientation_code_starts_right(code):
    """All 48 codes, mirrored ones too: with the code given, the pose is the permutation."""
    sample, true = reoriented(atlas(), code)
    settings = PoseSettings(search=False, extent="whole", check_orientation=False)
    found, info = initial_affine(atlas(), sample, settings)
    assert corner_error_um(found, true) < 1.0
    assert info["unexplained"] < 0.01 and info["extent"] == "whole"


@pytest.mark.parametrize("vector", [(0.3, -0.2, 0.7), (1e-9, 0, 0), (2, 1, -1)])
def test_a_rotation_and_its_slopes(vector):
    vector = np.array(vector, float)
    turn, slopes = rotation_matrix(vector)
    np.testing.assert_allclose(turn, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
    for slope, step in zip(slopes, 1e-5 * np.eye(3)):
        ends = [Rotation.from_rotvec(vector + s * step).as_matrix() for s in (1, -1)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("code", ["PIR", "LSA", "SAL"])
def test_search_after_an_orientation_code(code):
    sample, true = reoriented(atlas(), code)
    found, _ = initial_affine(atlas(), sample, QUICK)
    assert corner_error_um(found, true) < 250.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "rotation, scale, shift",
    [
        ((30, 0, 0), (1, 1, 1), (0, 0, 0)),
        ((0, -30, 0), (1.2, 1.2, 1.2), (1500, 0, 0)),
        ((10, 20, -15), (0.8, 0.85, 0.9), (0, -800, 700)),
    ],
)
def test_wide_poses_are_found_in_inverted_contrast(rotation, scale, shift):
    true = affine_about_centre(rotation, scale, shift)
    frame = Frame((44, 40, 46), (250.0,) * 3, (-1700.0, -1700.0, -1500.0), "RIP")
    sample = Truth(true, frame=frame).sample(
        contrast=lambda v, label, p: np.where(label > 0, 1.1 - v, 0)
    )
    found, info = initial_affine(atlas(), sample, QUICK)
    assert corner_error_um(found, true) < 700.0
    assert info["unexplained"] < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hemisphere_is_recognised(side):
    true = affine_about_centre((5, 0, 4), shift_um=(300, 200, 0))
    x_middle = ATLAS_FRAME.centre_um[0]

    def half(value, label, points):
        there = Truth(true).to_atlas(points)[0] > x_middle
        return np.where(there if side == "right" else ~there, value, 0)

    sample = Truth(true).sample(contrast=half)
    settings = PoseSettings(check_orientation=False)
    found, info = initial_affine(atlas(), sample, settings)
    assert info["extent"] == side
    assert corner_error_um(found, true) < 800.0
    there = presence(prepare(atlas()), side)
    assert there[-1 if side == "right" else 0].min() == 1
    assert there[0 if side == "right" else -1].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("extent", ["whole", "right"])
def test_a_half_that_both_searches_found_has_to_leave_clearly_less(extent):
    """Light that fades to one side looks like an absent half, until contrast may vary."""
    true = affine_about_centre((5, 0, 4), shift_um=(300, 200, 0))

    def seen(value, label, points):
        side = (Truth(true).to_atlas(points)[0] - ATLAS_FRAME.centre_um[0]) / ATLAS_FRAME.extent_um[
            0
        ]
        return value * (np.exp(5 * (side - 0.5)) if extent == "whole" else side > 0)

    search = Search(prepare(atlas()), prepare(Truth(true).sample(contrast=seen)), None)
    assert search.unexplained(true, "right") < search.unexplained(true, "whole") - 0.03
    codes = orientation_matrix("RIP", "RIP"), (np.zeros(3), np.zeros(3))
    _, found, _ = better_explained(search, *codes, [Found(true, "right", true)] * 2)
    assert found == extent


@pytest.mark.slow
@pytest.mark.parametrize("normal", [(0, 0, -1), (-0.5, -0.2, -0.8), (0.3, 0.2, 0.9)])
def test_a_brain_that_was_cut_is_found_whole_and_gets_no_advice(normal):
    """The image goes on beyond the cut, as it does around a piece that lies in a chamber."""
    brain = make_atlas(BrainSettings(seed=1, atlas_spacing_um=200.0))
    frame = Frame((30, 42, 58), (200.0,) * 3, (0.0, 0.0, 0.0), "ILA")
    sample = GeneratedSample(brain, frame, SampleSettings(seed=1, cells=10))
    values = sample.block((0, 0, 0), frame.shape)[0]
    labels, _ = sample.labels_grid(frame.axes_um())
    along = np.einsum("i,i...->...", normal, np.indices(frame.shape))
    there = along <= np.quantile(along[labels > 0], 0.62)
    values = np.where(there, values, np.percentile(values, 1))
    found, info = initial_affine(
        Image(brain.template, brain.frame, name="atlas"), Image(values, frame, name="b")
    )
    seen = np.argwhere(there & (labels > 0))[::50] * 200.0
    true = np.stack(sample.atlas_grid(frame.axes_um()))[:, there & (labels > 0)].T[::50]
    error = np.linalg.norm(true @ found[:3, :3].T + found[:3, 3] - seen, axis=1)
    assert error.mean() < 600.0
    assert info["extent"] == "whole" and info["better_orientations"] == []


@pytest.mark.slow
def test_light_that_fades_with_depth_gives_no_advice():
    true = affine_about_centre((4, -3, 5), (0.95, 1.0, 1.05), (200, 100, -300))
    whole = Truth(true).sample()
    fading = np.exp(-2.5 * np.linspace(0, 1, whole.data.shape[1]))[:, None]
    sample = Image(whole.data * fading.astype(np.float32), whole.frame, name="b")
    found, info = initial_affine(atlas(), sample)
    assert corner_error_um(found, true) < 800.0
    assert info["better_orientations"] == []


@pytest.mark.slow
def test_wrong_orientation_is_named():
    sample, _ = reoriented(atlas(), "PIR")
    wrong = Image(
        sample.data,
        Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), "ASR"),
        name="brain7",
    )
    _, info = initial_affine(atlas(), wrong, PoseSettings(extent="whole"))
    assert sorted(info["better_orientations"][:2]) == ["PIL", "PIR"]
    (words,) = [w for w in info["warnings"] if w.startswith("orientation: ")]
    assert "sample brain7 is declared ASR but fits the atlas much better as PI" in words
    _, right = initial_affine(atlas(), sample, PoseSettings(extent="whole"))
    assert not any(w.startswith("orientation") for w in right["warnings"])


@pytest.mark.parametrize("code", ["PIR", "LSA"])
def test_a_place_on_the_right_side_tells_a_sample_from_its_mirror_image(code):
    sample, true = reoriented(atlas(), code)
    axis = next(k for k, letter in enumerate(ATLAS_FRAME.orientation) if letter in "RL")
    to_right = 1 if ATLAS_FRAME.orientation[axis] == "R" else -1

    def judged(declared, away_um):
        place = ATLAS_FRAME.centre_um
        place[axis] += to_right * away_um
        frame = Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), declared)
        _, info = initial_affine(
            atlas(), Image(sample.data, frame, name="brain7"),
            PoseSettings(search=False, extent="whole", check_orientation=False),
            right_side_um=(true @ [*place, 1])[:3],
        )  # fmt: skip
        return info

    confirmed = judged(code, 1000)
    assert confirmed["left_right"].startswith("confirmed by input.right_side_um, 1000 um right")
    check_confirmed(confirmed, "brain7", False)
    mirror = judged(mirrored(code), 1000)
    assert mirror["left_right"] == "contradicted, see the warnings"
    with pytest.raises(RegistrationError, match=f"sample brain7: .* um left .* to {code}, or"):
        check_confirmed(mirror, "brain7", True)
    between = judged(code, 20)
    assert "images cannot tell" in between["left_right"] and not between["mirrored_by_mark"]
    assert any("give a place farther from the middle" in text for text in between["warnings"])


@pytest.mark.slow
def test_a_pose_that_the_search_turned_into_another_orientation_is_named():
    """The search may reach a neighbouring orientation by itself; the code is wrong all the same."""
    sample, true = reoriented(atlas(), "ILP")
    declared = Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), "RIP")
    wrong = Image(sample.data, declared, name="brain7")
    settings = PoseSettings(extent="whole", affine=true)
    found, info = initial_affine(atlas(), wrong, settings)
    np.testing.assert_array_equal(found, true)
    assert info["better_orientations"] == ["ILP", "IRP"]
    assert any("as ILP or IRP (the pose found without constraint" in w for w in info["warnings"])
    turned = PoseSettings(extent="whole", affine=true, rotation_deg=(90.0, 0.0, 0.0))
    _, info = initial_affine(atlas(), wrong, turned)
    assert info["better_orientations"] == []


@pytest.mark.slow
def test_a_shear_is_found_in_a_contrast_that_changes_over_the_brain():
    true = affine_about_centre((4, -3, 5))
    true[:3, :3] @= np.eye(3) + np.array([[0, 0.1, 0], [0, 0, -0.08], [0, 0, 0]])
    true[:3, 3] = ATLAS_FRAME.centre_um + [200, 0, -150] - true[:3, :3] @ ATLAS_FRAME.centre_um
    shaded = Truth(true).sample(
        contrast=lambda v, label, p: v * (0.6 + 0.8 * (p[2] - p[2].min()) / np.ptp(p[2]))
    )
    found, _ = initial_affine(atlas(), shaded, QUICK)
    assert corner_error_um(found, true) < 100.0


@pytest.mark.slow
@pytest.mark.parametrize("behind_um", [1100, 500])
def test_a_sample_without_its_end_does_not_shrink_the_atlas(behind_um):
    """A third and two fifths of the brain are cut away: half an axis is 3300 um."""
    true = affine_about_centre((4, -3, 5), shift_um=(200, 0, -150))
    cut = ATLAS_FRAME.centre_um[2] + behind_um
    sample = Truth(true).sample(
        contrast=lambda v, label, p: np.where(Truth(true).to_atlas(p)[2] > cut, 0, v)
    )
    found, info = initial_affine(atlas(), sample, QUICK)
    assert corner_error_um(found, true) < 500.0
    np.testing.assert_allclose(info["scale"], 1.0, atol=0.1)


@pytest.mark.slow
def test_fixed_scale_stays_fixed():
    sample = Truth(affine_about_centre(scale=(1.1, 1.1, 1.1))).sample()
    settings = PoseSettings(extent="whole", scale=(1.0, 1.0, 1.0), check_orientation=False)
    found, _ = initial_affine(atlas(), sample, settings)
    np.testing.assert_allclose(np.linalg.svd(found[:3, :3])[1], 1.0, atol=1e-6)
    free, _ = initial_affine(atlas(), sample, QUICK)
    np.testing.assert_allclose(np.linalg.svd(free[:3, :3])[1], 1.1, atol=0.02)


def test_own_affine_is_taken_as_it_is():
    own = affine_about_centre((3, 2, 1), shift_um=(100, 0, -50))
    settings = PoseSettings(affine=tuple(map(tuple, own)), check_orientation=False)
    found, info = initial_affine(atlas(), Truth(own).sample(), settings)
    np.testing.assert_array_equal(found, own)
    assert info["extent"] == "whole"


def test_settings_are_checked():
    with pytest.raises(RegistrationError, match="extent 'front' is unknown"):
        PoseSettings(extent="front")
    with pytest.raises(RegistrationError, match="three positive numbers"):
        PoseSettings(scale=(1, 0, 1))


@pytest.mark.slow
def test_units_do_not_matter():
    true = affine_about_centre((5, -4, 8), shift_um=(200, 0, 100))
    sample = Truth(true).sample()
    found, _ = initial_affine(atlas(), sample, QUICK)

    def ten_times(image):
        f = image.frame
        frame = Frame(f.shape, [10 * s for s in f.spacing_um], [10 * o for o in f.origin_um],
                      f.orientation)  # fmt: skip
        return Image(image.data, frame, name=image.name)

    large, _ = initial_affine(ten_times(atlas()), ten_times(sample), QUICK)
    np.testing.assert_allclose(large[:3, :3], found[:3, :3], atol=2e-3)
    np.testing.assert_allclose(large[:3, 3] / 10, found[:3, 3], atol=15)


def test_pose_of_the_phantom_is_not_trivial():
    """The phantom itself is asymmetric: mirrored along any axis it looks different."""
    value, _ = intensity(grid(ATLAS_FRAME))
    for axis in range(3):
        assert np.abs(value - np.flip(value, axis)).mean() > 0.002
    assert Transform.from_affine(np.eye(4), ATLAS_FRAME, ATLAS_FRAME).inverse_error_um() == 0


@pytest.mark.slow
@pytest.mark.parametrize("axis", range(3))
def test_one_wrong_letter_is_never_answered_by_the_mirror_image_alone(axis):
    """It changes the handedness: advice that kept it would exchange left and right."""
    sample, _ = reoriented(atlas(), "AIR")
    flip = dict(zip("RLAPSI", "LRPAIS"))
    declared = "".join(flip[c] if i == axis else c for i, c in enumerate("AIR"))
    frame = Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), declared)
    wrong = Image(sample.data, frame, name="sample brain7")
    _, info = initial_affine(atlas(), wrong, PoseSettings(extent="whole"))
    if declared == "AIL":
        assert info["better_orientations"] == [], "a symmetric brain does not tell"
        assert info["left_right"] == "as declared by input.orientation; the images cannot tell"
        return check_confirmed(info, "brain7", False)
    assert sorted(info["better_orientations"][:2]) == ["AIL", "AIR"]
    with pytest.raises(
        RegistrationError, match=r"AI[LR] or AI[LR].* which only a mark on one side can tell"
    ):
        check_confirmed(info, "brain7", False)
    check_confirmed(info, "brain7", True)


def ellipsoid(half_axes_um, grey, bend_um=0.0, seed=None):
    """A brain that is an ellipsoid with a brighter front and a darker floor, stored as SAR."""
    rng = np.random.default_rng(seed)
    shape = [int(2.5 * half / 150) for half in half_axes_um]
    axes = [(np.arange(n) - (n - 1) / 2) * 150 for n in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    if bend_um:
        field = [ndimage.gaussian_filter(rng.standard_normal(shape), 5) for _ in range(3)]
        places += bend_um * np.stack([f / np.abs(f).max() for f in field])
    z, y, _ = places / np.array(half_axes_um).reshape(3, 1, 1, 1)
    inside = ((places / np.array(half_axes_um).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    values = np.where(inside, grey[0], 0.0)
    values[inside & (y > 0.1)] = grey[1]
    values[inside & (z < -0.3) & (y <= 0.1)] = grey[2]
    values = ndimage.gaussian_filter(values, 1.0) + 100
    values += (30 if seed is not None else 0) * rng.standard_normal(shape)
    return Image(values.astype(np.float32), Frame(shape, (150.0,) * 3, (0, 0, 0), "SAR"), name="b")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("half_axes_um", "wrong"),
    [((950, 1300, 1375), ("SPR", "IAR")), ((1600, 1600, 1600), ("SPR",)),
     ((1500, 2600, 1500), ("SPR",))],
)  # fmt: skip
def test_a_wrong_letter_is_named_where_most_of_a_brain_is_its_outline(half_axes_um, wrong):
    """Ellipsoids: little of the variance tells front from back, but much of what is left."""
    grey, settings = (900, 1100, 700), PoseSettings(extent="whole")
    atlas_image = ellipsoid(half_axes_um, grey)
    sample = ellipsoid(half_axes_um, grey, bend_um=150.0, seed=1)
    for code in (*wrong, "SAR"):
        frame = Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), code)
        _, info = initial_affine(atlas_image, Image(sample.data, frame, name="b"), settings)
        expected = [] if code == "SAR" else ["SAL", "SAR"]
        assert sorted(info["better_orientations"]) == expected, code
        assert not any(w.startswith("undecided_orientation") for w in info["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("gain", [10, 30])
def test_a_brain_whose_ends_are_very_bright_is_found_and_gets_no_advice(gain):
    """As cerebellum and olfactory bulb in a nuclear stain, with the floor of the brain cut away."""
    true = affine_about_centre((4, 3, 5), (0.95, 0.9, 1.0), (200, 100, 0))

    def stained(value, label, points):
        along = Truth(true).to_atlas(points)[2] / ATLAS_FRAME.extent_um[2]
        return value * np.where((along < 0.25) | (along > 0.78), gain, 1)

    whole = Truth(true).sample(contrast=stained)
    data = whole.data[:, : int(0.6 * whole.data.shape[1])]
    frame = Frame(data.shape, whole.frame.spacing_um, whole.frame.origin_um, "RIP")
    found, info = initial_affine(
        atlas(), Image(data, frame, name="b"), PoseSettings(extent="whole")
    )
    assert corner_error_um(found, true) < 1500.0
    assert info["better_orientations"] == []


@pytest.mark.slow
def test_an_ellipsoid_that_is_the_same_both_ways_gets_no_advice_and_is_called_undecided():
    halves, grey = (1000, 1300, 1400), (900, 900, 900)
    sample = ellipsoid(halves, grey, bend_um=100.0, seed=2)
    frame = Frame(sample.frame.shape, sample.frame.spacing_um, (0, 0, 0), "SPR")
    settings = PoseSettings(extent="whole")
    _, info = initial_affine(ellipsoid(halves, grey), Image(sample.data, frame, name="b"), settings)
    assert info["better_orientations"] == []
    (told,) = [w for w in info["warnings"] if w.startswith("undecided_orientation")]
    assert "sample b, declared SPR, fits the atlas about as well in" in told and "IPR" in told
