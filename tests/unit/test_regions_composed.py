"""Labels of one atlas through the registration of another one: composition and its checks."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from terareg.atlas.ontology import Ontology, Structure
from terareg.atlas.prepare import make_atlas
from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.regions.composed import Reached, brain_places, compose, labels_before
from terareg.registration.transform import Transform

CCF = Frame((26, 24, 30), (100.0, 100.0, 100.0), (0.0, 0.0, 0.0), "RIP")
LSFM = Frame((28, 30, 24), (100.0, 90.0, 110.0), (0.0, 0.0, 0.0), "RIP")
BRAIN = Frame((30, 30, 30), (110.0,) * 3, (-100.0, 50.0, 0.0), "SAR")
GRID = Frame((20, 20, 20), (200.0,) * 3, (-400.0,) * 3, "RIP")
# of the light-sheet template to the brain
POSE = np.array([[0.02, 1.02, 0, 100], [0.97, 0.05, 0, 30], [0, 0.03, 1.1, -20], [0, 0, 0, 1.0]])
SHIFT_UM = np.array([60.0, 140.0, -250.0])


def ellipsoid(frame, centre_um, radii_um):
    points = np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"), -1)
    return ((((points - centre_um) / radii_um) ** 2).sum(-1) < 1).astype(np.uint32)


def wave(points, size_um):
    phase = points / 3000.0 * np.pi
    return size_um * np.column_stack(
        [np.sin(phase[:, 1]), np.sin(phase[:, 2] + 1), np.sin(phase[:, 0] + 2)]
    )


def to_lsfm(points):
    """The known transform, ccf um to lsfm um."""
    return points + SHIFT_UM + wave(points, 80.0)


def registered():
    """Registration with a deformation that its inverse undoes by iteration."""
    axes = np.stack(np.meshgrid(*GRID.axes_um(), indexing="ij")).reshape(3, -1).T
    inverse = np.zeros_like(axes)
    for _ in range(60):
        inverse = -wave(axes + inverse, 50.0)
    forward, inverse = (
        d.T.reshape(3, *GRID.shape).astype(np.float32) for d in (wave(axes, 50.0), inverse)
    )
    return Transform(POSE, GRID, forward, inverse, LSFM, BRAIN)


def exact(points):
    """Points of ccf in the brain."""
    moved = to_lsfm(points)
    moved = moved + wave(moved, 50.0)
    return moved @ POSE[:3, :3].T + POSE[:3, 3]


def headed(path, frame):
    image = sitk.Image(frame.shape[::-1], sitk.sitkUInt8)
    image.SetSpacing([s / 1000 for s in frame.spacing_um[::-1]])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def pair(tmp_path):
    ontology = Ontology([Structure(1, "brain", "brain")])
    centre, radii = np.array([1250.0, 1050, 1450]), np.array([850.0, 750, 1000])
    middle = to_lsfm(centre[None])[0]
    found = []
    for name, frame, at in (("ccf", CCF, centre), ("lsfm", LSFM, middle)):
        atlas = make_atlas(ellipsoid(frame, at, radii), frame, ontology)
        found.append(Reached(name, atlas, headed(tmp_path / f"{name}.nrrd", frame)))
    return found


@pytest.fixture
def field(pair, tmp_path):
    """The known transform as ANTs writes it for an image of lsfm on the grid of ccf."""
    reference = sitk.ReadImage(str(pair[0].template))
    points = np.stack(np.meshgrid(*CCF.axes_um(), indexing="ij")).reshape(3, -1).T
    vectors = (to_lsfm(points) - points)[:, ::-1].reshape(*CCF.shape, 3) / 1000
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.CopyInformation(reference)
    sitk.WriteImage(image, str(tmp_path / "1Warp.nii.gz"))
    return str(tmp_path / "1Warp.nii.gz")


def settings(transform, points_from="ccf"):
    return {"transform": transform, "points_from": points_from}


def test_points_go_through_both_and_come_back(pair, field):
    found = compose((registered(), {"scale": 1.0}), *pair, settings(field))
    points = brain_places(pair[0].atlas) + 31.0
    there = found.transform.to_sample(points)
    assert np.linalg.norm(there - exact(points), axis=1).max() < 10.0, "a tenth of a voxel"
    assert np.linalg.norm(found.transform.to_atlas(there) - points, axis=1).max() < 10.0
    assert np.linalg.norm(found.transform.to_atlas(exact(points)) - points, axis=1).max() < 10.0


def test_the_summary_says_what_came_from_where(pair, field):
    found = compose((registered(), {"scale": 1.07}), *pair, settings(field))
    summary = found.summary
    assert (summary["through"], summary["points_from"], summary["files"]) == (
        "lsfm",
        "ccf",
        [field],
    )
    assert summary["registered"] == {"scale": 1.07} and "known_registration" not in summary
    assert summary["known"]["overlap_percent"] > 90 > summary["known"]["reversed_overlap_percent"]
    assert summary["composition_error_um"] < 10 and summary["inverse_error_um"] < 10
    assert 0.5 < summary["jacobian_min"] < 1 < summary["jacobian_max"] and not summary["warnings"]


def test_a_composition_is_saved_and_loaded_like_a_registration(pair, field, tmp_path):
    transform = compose((registered(), {}), *pair, settings(field)).transform
    transform.save(tmp_path / "registration")
    loaded = Transform.load(tmp_path / "registration")
    points = brain_places(pair[0].atlas)
    np.testing.assert_allclose(loaded.to_sample(points), transform.to_sample(points), atol=0.01)
    assert loaded.atlas_frame == CCF and loaded.sample_frame == BRAIN


def test_a_registration_brings_its_own_summary(pair, tmp_path):
    affine = np.eye(4)
    affine[:3, 3] = SHIFT_UM
    folder = tmp_path / "known"
    Transform.from_affine(affine, CCF, LSFM).save(folder)
    (folder / "summary.json").write_text('{"scale": 1.01}')
    found = compose((registered(), {}), *pair, settings(str(folder), None))
    assert found.summary["known_registration"] == {"scale": 1.01}
    assert found.summary["points_from"] == "ccf" and found.summary["files"] == [str(folder)]


def test_the_opposite_direction_is_told(pair, field):
    """The two boxes are alike, so that only the brains tell it."""
    with pytest.raises(RegistrationError, match=r"with its inverse by \d+ %; set points_from: ccf"):
        compose((registered(), {}), *pair, settings(field, "lsfm"))


@pytest.mark.parametrize(("axis", "words"), [(2, "front"), (1, "top"), (0, "right")])
def test_a_mirrored_transform_is_told(pair, tmp_path, axis, words):
    """A brain lies on its mirror image as well as on itself."""
    affine = np.eye(4)
    affine[:3, 3] = SHIFT_UM
    centre = np.array([1250.0, 1050, 1450])[axis]
    affine[axis, axis], affine[axis, 3] = -1, 2 * centre + SHIFT_UM[axis]
    folder = tmp_path / "known"
    Transform.from_affine(affine, CCF, LSFM).save(folder)
    (folder / "summary.json").write_text("{}")
    with pytest.raises(RegistrationError, match=rf"carries the {words} of ccf to the other side"):
        compose((registered(), {}), *pair, settings(str(folder), None))


def test_brains_that_do_not_meet_are_refused(pair, tmp_path):
    far = sitk.TranslationTransform(3, (1.9, 0.0, 0.0))
    sitk.WriteTransform(far, str(tmp_path / "far.tfm"))
    with pytest.raises(RegistrationError, match=r"of ccf and lsfm overlap by only \d+ %; give"):
        compose((registered(), {}), *pair, settings(str(tmp_path / "far.tfm")))


def test_labels_before_are_those_of_the_first_affine(pair, field):
    transform, brain = registered(), pair[0].atlas
    composed = compose((transform, {}), *pair, settings(field)).transform
    labels = labels_before((composed, transform), POSE, brain, BRAIN)
    points = np.stack(np.meshgrid(*BRAIN.axes_um(), indexing="ij")).reshape(3, -1).T
    back = np.linalg.inv(POSE)
    own = points @ back[:3, :3].T + back[:3, 3]
    # the known transform backwards, by iteration
    place = own - SHIFT_UM
    for _ in range(60):
        place = own - SHIFT_UM - wave(place, 80.0)
    index = np.rint(CCF.to_index(place)).astype(int)
    inside = ((index >= 0) & (index < CCF.shape)).all(1)
    expected = np.zeros(len(points), np.uint32)
    expected[inside] = brain.annotation[tuple(index[inside].T)]
    assert np.mean(labels.ravel() != expected) < 0.005
