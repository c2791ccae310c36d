"""A known transform between two atlases: formats, directions, frames, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from examples import examples, spoiled
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.registration.known import KnownAtlas, itk_space, read_known
from terareg.registration.known_files import check_described, known_files
from terareg.registration.transform import Transform

OWN = Frame((24, 20, 28), (100.0, 100.0, 100.0), (0.0, 0.0, 0.0), "RIP")
OTHER = Frame((30, 34, 26), (90.0, 100.0, 110.0), (0.0, 0.0, 0.0), "RIP")
# where ITK sees the two images: neither has identity direction or origin 0
HEADERS = {
    "ccf": ((0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (-3.0, 2.0, 7.0)),
    "lsfm": ((1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0), (4.0, -1.0, 0.5)),
}
FRAMES = {"ccf": OWN, "lsfm": OTHER}
LINEAR = np.array([[1.05, 0.03, 0, 120], [-0.04, 0.98, 0.02, 500], [0.02, 0, 0.95, -40],
                   [0, 0, 0, 1.0]])  # fmt: skip


def bent(points, size_um):
    """Points (n, 3) of ccf moved by a smooth wave, um."""
    phase = points / 2800.0 * np.pi
    return points + size_um * np.column_stack(
        [np.sin(phase[:, 1]), np.sin(phase[:, 2] + 1), np.sin(phase[:, 0] + 2)]
    )


def truth(points, size_um):
    """Points of ccf to points of lsfm."""
    return bent(points, size_um) @ LINEAR[:3, :3].T + LINEAR[:3, 3]


@pytest.fixture
def atlases(tmp_path):
    found = {}
    for name, frame in FRAMES.items():
        image = sitk.Image(frame.shape[::-1], sitk.sitkUInt8)
        image.SetSpacing([s / 1000 for s in frame.spacing_um[::-1]])
        image.SetDirection(HEADERS[name][0])
        image.SetOrigin(HEADERS[name][1])
        path = tmp_path / f"{name}.nrrd"
        sitk.WriteImage(image, str(path))
        inner = [a[3:-3:2] for a in frame.axes_um()]
        brain = np.stack(np.meshgrid(*inner, indexing="ij")).reshape(3, -1).T
        found[name] = KnownAtlas(name, frame, brain, path)
    return found


def physical(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def linear_file(atlases, path):
    """The linear part as ITK's transform, from ccf to lsfm."""
    own, other = (itk_space(atlases[name]) for name in ("ccf", "lsfm"))
    matrix = other @ LINEAR @ np.linalg.inv(own)
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    if path is not None:
        sitk.WriteTransform(affine, str(path))
    return affine


def field_image(atlases, move, finer=1):
    """Vectors of a map of ccf's points, um to um, on a grid as ccf's image has it, or finer."""
    reference = sitk.ReadImage(str(atlases["ccf"].template))
    size = [finer * n for n in reference.GetSize()]
    spacing = [s / finer for s in reference.GetSpacing()]
    image = sitk.Image(size, sitk.sitkVectorFloat64, 3)
    image.SetSpacing(spacing)
    image.SetDirection(reference.GetDirection())
    index = [(1 / finer - 1) / 2] * 3
    image.SetOrigin(reference.TransformContinuousIndexToPhysicalPoint(index))
    steps = np.stack(np.meshgrid(*[np.arange(n) for n in size[::-1]], indexing="ij"))
    direction = np.array(image.GetDirection()).reshape(3, 3) * spacing
    points = steps[::-1].reshape(3, -1).T @ direction.T + image.GetOrigin()
    own = itk_space(atlases["ccf"])
    vectors = move(physical(np.linalg.inv(own), points)) - points
    filled = sitk.GetImageFromArray(vectors.reshape(*size[::-1], 3), isVector=True)
    filled.CopyInformation(image)
    return filled


def bending(atlases, size_um):
    own = itk_space(atlases["ccf"])
    return lambda points: physical(own, bent(points, size_um))


def whole(atlases, size_um):
    other = itk_space(atlases["lsfm"])
    return lambda points: physical(other, truth(points, size_um))


def written(kind, atlases, folder):
    """Files of one kind, and the size of the wave in them, um."""
    if kind in ("affine.mat", "affine.txt", "affine.tfm"):
        linear_file(atlases, folder / kind)
        return str(folder / kind), 0.0
    if kind in ("whole.nii.gz", "whole.nrrd"):
        sitk.WriteImage(field_image(atlases, whole(atlases, 90.0)), str(folder / kind))
        return str(folder / kind), 90.0
    image = field_image(atlases, bending(atlases, 90.0))
    if kind == "two files":
        sitk.WriteImage(image, str(folder / "1Warp.nii.gz"))
        linear_file(atlases, folder / "0Affine.mat")
        return [str(folder / "1Warp.nii.gz"), str(folder / "0Affine.mat")], 90.0
    # the part that was added last acts first
    parts = [linear_file(atlases, None), sitk.DisplacementFieldTransform(image)]
    sitk.WriteTransform(sitk.CompositeTransform(parts), str(folder / kind))
    return str(folder / kind), 90.0


KINDS = ["affine.mat", "affine.txt", "affine.tfm", "whole.nii.gz", "whole.nrrd", "two files",
         "composite.h5", "composite.tfm"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_points_go_where_the_files_say_in_both_directions(atlases, tmp_path, kind):
    files, size_um = written(kind, atlases, tmp_path)
    known = read_known(files, atlases["ccf"], atlases["lsfm"], "ccf")
    points = atlases["ccf"].brain_um + 17.0
    true = truth(points, size_um)
    assert np.linalg.norm(known.transform.to_sample(points) - true, axis=1).max() < 10.0
    assert np.linalg.norm(known.transform.to_atlas(true) - points, axis=1).max() < 10.0
    assert known.facts["outside_percent"] == 0 and 0.5 < known.facts["jacobian_min"] <= 1


@pytest.mark.parametrize("kind", ["affine.mat", "whole.nii.gz", "two files"])
def test_points_of_the_other_atlas_lead_back(atlases, tmp_path, kind):
    """The same files, with the atlases in each other's place."""
    files, size_um = written(kind, atlases, tmp_path)
    known = read_known(files, atlases["lsfm"], atlases["ccf"], "ccf")
    points = atlases["ccf"].brain_um + 17.0
    true = truth(points, size_um)
    assert np.linalg.norm(known.transform.to_atlas(points) - true, axis=1).max() < 10.0
    assert np.linalg.norm(known.transform.to_sample(true) - points, axis=1).max() < 10.0


def test_a_registration_of_terareg_is_a_known_transform(atlases, tmp_path):
    folder = registration(tmp_path)
    known = read_known(str(folder), atlases["ccf"], atlases["lsfm"], "ccf")
    points = atlases["ccf"].brain_um
    assert known.facts["kind"] == "registration"
    np.testing.assert_allclose(known.transform.to_sample(points), truth(points, 0.0), atol=1e-3)
    back = read_known(str(folder), atlases["lsfm"], atlases["ccf"], "ccf")
    np.testing.assert_allclose(back.transform.to_atlas(points), truth(points, 0.0), atol=0.1)


def registration(folder, frames=(OWN, OTHER)):
    Transform.from_affine(LINEAR, *frames).save(folder / "registration")
    (folder / "registration/summary.json").write_text("{}")
    return folder / "registration"


def test_the_wrong_direction_is_seen_from_the_frames(atlases, tmp_path):
    folder = str(registration(tmp_path))
    with pytest.raises(RegistrationError, match=r"its direction is the other .* points_from: ccf"):
        read_known(folder, atlases["ccf"], atlases["lsfm"], "lsfm")


def test_a_registration_of_another_atlas_is_refused(atlases, tmp_path):
    larger = Frame((60, 40, 50), (100.0,) * 3, (0.0,) * 3, "RIP")
    folder = str(registration(tmp_path, (larger, OTHER)))
    with pytest.raises(RegistrationError, match=r"is 6 x 4 x 5 mm .* not 2.4 x 2 x 2.8 mm as in"):
        read_known(folder, atlases["ccf"], atlases["lsfm"], "ccf")


def test_frames_that_are_turned_are_told_before_sizes():
    described = {
        "direction": "x_sample = affine @ phi(x_atlas); ...",
        "atlas_frame": OWN.to_json() | {"orientation": "SAR"},
        "sample_frame": OTHER.to_json(),
    }
    ours, theirs = ({"name": n} | FRAMES[n].to_json() for n in ("ccf", "lsfm"))
    with pytest.raises(RegistrationError, match="has axes SAR, not RIP as in the atlas ccf"):
        check_described("x", described, ours, theirs)
    with pytest.raises(RegistrationError, match=r"no transform\.json of a registration of terareg"):
        check_described("x", {}, ours, theirs)


def test_a_field_that_ends_within_the_brain_is_refused(atlases, tmp_path):
    image = field_image(atlases, whole(atlases, 90.0))
    half = image[:, : image.GetSize()[1] // 2, :]
    sitk.WriteImage(half, str(tmp_path / "half.nii.gz"))
    with pytest.raises(RegistrationError, match=r"half.nii.gz does not reach 4\d % of the brain"):
        read_known(str(tmp_path / "half.nii.gz"), atlases["ccf"], atlases["lsfm"], "ccf")


def test_a_transform_that_folds_is_refused(atlases, tmp_path):
    sitk.WriteImage(field_image(atlases, whole(atlases, 1500.0)), str(tmp_path / "folds.nrrd"))
    with pytest.raises(RegistrationError, match=r"folds.nrrd folds: .* that can be inverted"):
        read_known(str(tmp_path / "folds.nrrd"), atlases["ccf"], atlases["lsfm"], "ccf")


def test_a_field_that_is_no_number_somewhere_is_refused(atlases, tmp_path):
    """ITK reads NaN in NIfTI files as 0, where a voxel then stays in its place."""
    image = field_image(atlases, whole(atlases, 90.0))
    image.SetPixel(4, 5, 6, (np.nan, 0.0, 0.0))
    for name in ("nan.nii.gz", "nan.nii", "nan.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(RegistrationError, match=f"{name} contains values that are not finite"):
            read_known(str(tmp_path / name), atlases["ccf"], atlases["lsfm"], "ccf")


WRITERS = {
    "a.tfm": lambda p: sitk.WriteTransform(sitk.AffineTransform(3), p),
    "a.mat": lambda p: sitk.WriteTransform(sitk.AffineTransform(3), p),
    "a.nii": lambda p: sitk.WriteImage(sitk.Image((9, 8, 7), sitk.sitkVectorFloat32, 3), p),
    "a.nii.gz": lambda p: sitk.WriteImage(sitk.Image((9, 8, 7), sitk.sitkVectorFloat32, 3), p),
    "a.nrrd": lambda p: sitk.WriteImage(sitk.Image((9, 8, 7), sitk.sitkVectorFloat32, 3), p),
}


@pytest.mark.parametrize("name", WRITERS)
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_spoiled_files_are_read_or_refused(atlases, tmp_path, name, data):
    """ITK ends the whole process where sizes in a .mat file are wrong."""
    path = tmp_path / name
    WRITERS[name](str(path))
    path.write_bytes(spoiled(path.read_bytes(), data.draw))
    try:
        read_known(str(path), atlases["ccf"], atlases["lsfm"], "ccf")
    except RegistrationError as error:
        assert "\n" not in str(error) and "; " in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("place", [300, 2400, 5000])
def test_a_damaged_hdf5_file_does_not_end_the_process(atlases, tmp_path, place):
    path = tmp_path / "a.h5"
    sitk.WriteTransform(sitk.CompositeTransform([sitk.AffineTransform(3)]), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes(175) + whole[place:])
    with pytest.raises(RegistrationError, match=r"a\.h5 cannot be read"):
        read_known(str(path), atlases["ccf"], atlases["lsfm"], "ccf")


def test_other_files_are_one_sentence(atlases, tmp_path):
    (tmp_path / "text.mat").write_text("no transform")
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "image.nrrd"))
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "spline.tfm"))
    flat = sitk.AffineTransform(2)
    sitk.WriteTransform(flat, str(tmp_path / "flat.tfm"))
    for name, message in (
        ("text.mat", "text.mat cannot be read"),
        ("image.nrrd", "image.nrrd is an image without vectors"),
        ("spline.tfm", "neither linear nor a displacement field"),
        ("flat.tfm", "a transform of 2 dimensions"),
    ):
        with pytest.raises(RegistrationError, match=message):
            read_known(str(tmp_path / name), atlases["ccf"], atlases["lsfm"], "ccf")


def test_files_of_a_transform():
    assert known_files("s3://b/r/") == [
        f"s3://b/r/{name}.{end}"
        for name, end in (
            ("affine", "txt"), ("forward", "nrrd"), ("inverse", "nrrd"), ("summary", "json"),
            ("transform", "json"),
        )
    ]  # fmt: skip
    assert known_files("a/Warp.NII.gz") == ["a/Warp.NII.gz"]
    assert known_files(["b.mat", "a.nrrd"]) == ["b.mat", "a.nrrd"]


def test_an_image_without_header_has_plain_axes(atlases):
    plain = KnownAtlas("ccf", OWN, atlases["ccf"].brain_um, "template.tif")
    place = itk_space(plain) @ np.array([1000.0, 2000.0, 3000.0, 1])
    np.testing.assert_allclose(place[:3], [3.0, 2.0, 1.0])


def test_what_is_read_is_described_for_the_summary(atlases, tmp_path):
    files, _ = written("whole.nrrd", atlases, tmp_path)
    facts = read_known(files, atlases["ccf"], atlases["lsfm"], "ccf").facts
    assert facts["kind"] == "displacement field" and facts["sampling_error_um"] < 1
    assert json.dumps(facts)
