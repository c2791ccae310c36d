"""Whatever is given to a registration, it ends with a sentence or with finite fields."""

import numpy as np
import pytest
from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas, grid

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.emlddmm import register
from terareg.registration.images import Image
from terareg.registration.landmarks import Landmarks
from terareg.registration.pose import PoseSettings, initial_affine
from terareg.registration.settings import RegistrationSettings
from terareg.registration.transform import Transform

SETTINGS = RegistrationSettings(
    resolution_um=250.0, levels=1, iterations=6, kernel_um=900.0, velocity_um=480.0, device="cpu"
)
POSE = PoseSettings(extent="whole", check_orientation=False)
SHAPE = ATLAS_FRAME.shape


def stages(first, second):
    """Both stages that take images."""
    initial_affine(first, second, POSE)
    register(first, second, SETTINGS, np.eye(4))


def is_finite(result):
    transform = result.transform
    arrays = (
        transform.affine, transform.displacement, transform.inverse_displacement,
        transform.jacobian(), transform.velocity,
        result.posteriors, result.predicted, result.contrast,
    )  # fmt: skip
    return all(np.isfinite(a).all() for a in arrays)


def hot_voxel():
    data = np.zeros(SHAPE)
    data[15, 13, 17] = 5.0
    return data


@pytest.mark.parametrize("which", ["atlas", "sample"])
@pytest.mark.parametrize(
    "data, message",
    [
        (np.ones((1, 1, 1)), r"\(1, 1, 1\) voxels are too few to register; give a volume of"),
        (np.ones((1, 30, 30)), r"\(1, 30, 30\) voxels are too few"),
        (np.full(SHAPE, 7.0), "every voxel has the value 7; check the channel"),
        (np.zeros(SHAPE), "every voxel has the value 0; check the channel"),
        (np.full(SHAPE, np.nan), "all 26520 voxels are NaN; check the file"),
        (hot_voxel(), r"no tissue stands out from the background \(0\)"),
    ],
    ids=["one voxel", "one plane", "constant", "all background", "not a number", "a hot voxel"],
)
@pytest.mark.parametrize("stage", [0, 1])
def test_images_that_cannot_be_registered_are_named(which, data, message, stage):
    frame = Frame(data.shape, tuple(e / n for e, n in zip(ATLAS_FRAME.extent_um, data.shape)),
                  (0, 0, 0), "RIP")  # fmt: skip
    pair = {"atlas": atlas(), "sample": Truth().sample()}
    pair[which] = Image(data, frame, name=which)
    with pytest.raises(RegistrationError, match=f"^{which}: {message}"):
        if stage == 0:
            initial_affine(*pair.values(), POSE)
        else:
            register(*pair.values(), SETTINGS, np.eye(4))


def test_masks_without_tissue_and_of_another_shape_are_named():
    data = Truth().sample().data
    mask = np.zeros(SHAPE, np.float32)
    with pytest.raises(RegistrationError, match="sample: the mask leaves no voxel"):
        stages(atlas(), Image(data, ATLAS_FRAME, mask, "sample"))
    mask[:, :, :3] = 1
    with pytest.raises(RegistrationError, match="sample: the mask leaves no tissue; give a mask"):
        stages(atlas(), Image(data, ATLAS_FRAME, mask, "sample"))
    with pytest.raises(RegistrationError, match=r"mask has shape \(30, 26, 33\) but the image has"):
        Image(data, ATLAS_FRAME, mask[:, :, 1:], "sample")


def test_no_overlap_of_extents_is_named():
    away = np.eye(4)
    away[0, 3] = 9000.0
    with pytest.raises(RegistrationError, match=r"atlas at \[8875.0, .*outside the sample"):
        register(atlas(), Truth().sample(), SETTINGS, away)
    with pytest.raises(RegistrationError, match="outside the sample"):
        initial_affine(atlas(), Truth().sample(), PoseSettings(affine=away))


def test_boxes_that_overlap_without_tissue_keep_the_affine_and_say_so():
    beside = np.eye(4)
    beside[2, 3] = 8000.0
    result = register(atlas(), Truth().sample(), SETTINGS, beside)
    assert is_finite(result) and result.summary["kept"] == "affine"
    assert any(w.startswith("deformation_rejected") for w in result.summary["warnings"])


@pytest.mark.slow
def test_voxels_without_a_value_give_a_warning_and_finite_fields():
    truth = Truth(amplitude_um=300.0)
    data = truth.sample().data
    data[8:13, 5:12, 10:18] = np.nan
    data[9, 6, 10:18:2], data[9, 6, 11:18:2] = np.inf, -np.inf
    broken = Image(data, ATLAS_FRAME, name="sample")
    affine, info = initial_affine(atlas(), broken, POSE)
    assert np.isfinite(affine).all()
    result = register(atlas(), broken, SETTINGS, np.eye(4))
    assert is_finite(result)
    for warnings in (info["warnings"], result.summary["warnings"]):
        assert any(w.startswith("not_a_number: sample has 1.06 % of its voxels") for w in warnings)
    before = truth.error_um(Transform.from_affine(np.eye(4), ATLAS_FRAME, ATLAS_FRAME))
    assert truth.error_um(result.transform) < 0.7 * before


@pytest.mark.slow
def test_twenty_to_one_anisotropy_works_and_is_named():
    frame = Frame((6, 104, 136), (1250.0, 62.5, 62.5), (500.0, 0.0, 0.0), "RIP")
    true = affine_about_centre((0, 0, 6), shift_um=(0, 150, 100))
    truth = Truth(true, amplitude_um=300.0, frame=frame)
    sample = truth.sample()
    affine, info = initial_affine(atlas(), sample, POSE)
    assert any(w.startswith("anisotropy: sample has voxels of") for w in info["warnings"])
    result = register(atlas(), sample, SETTINGS, affine)
    assert is_finite(result)
    start = truth.error_um(Transform.from_affine(affine, ATLAS_FRAME, frame))
    assert truth.error_um(result.transform) < 0.6 * start < 200


@pytest.mark.parametrize(
    "affine, message",
    [
        (np.diag([1.0, 1, 0, 1]), r"initial affine: the affine is singular \(scales 1 to 0\)"),
        (np.full((4, 4), np.nan), "finite numbers; correct"),
        (np.eye(3), r"an affine of shape \(3, 3\)"),
        (np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 5, 1]]), "the last row of"),
    ],
)
def test_impossible_affines_are_named_by_both_stages(affine, message):
    sample = Truth().sample()
    with pytest.raises(RegistrationError, match=message):
        register(atlas(), sample, SETTINGS, affine)
    with pytest.raises(RegistrationError, match=message):
        initial_affine(atlas(), sample, PoseSettings(affine=affine))


@pytest.mark.slow
def test_a_mirrored_affine_is_used_and_named():
    mirrored = np.diag([1.0, 1.0, -1.0, 1.0])
    mirrored[2, 3] = 2 * ATLAS_FRAME.centre_um[2]
    sample = Truth().sample()
    found, info = initial_affine(
        atlas(), sample, PoseSettings(affine=mirrored, check_orientation=False)
    )
    np.testing.assert_array_equal(found, mirrored)
    (warning,) = [w for w in info["warnings"] if w.startswith("mirrored_affine")]
    assert "orientation codes RIP and RIP disagree about mirroring" in warning
    assert is_finite(register(atlas(), sample, SETTINGS, mirrored))


@pytest.mark.slow
def test_the_same_image_twice_gives_the_identity():
    """Nothing is left to explain: no division by a vanishing variance."""
    result = register(atlas(), atlas(), SETTINGS, np.eye(4))
    assert is_finite(result)
    there = result.transform.to_atlas_grid(ATLAS_FRAME)
    assert np.abs(there - grid(ATLAS_FRAME)).max() < 25


def test_landmark_lists_of_unequal_length_are_named():
    with pytest.raises(RegistrationError, match=r"4 points in the atlas and 5 in the sample; mark"):
        Landmarks(np.zeros((4, 3)), np.zeros((5, 3)), 100.0)
