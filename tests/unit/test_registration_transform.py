"""Transform: directions, blocks, round trips, files, and what ITK makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from terareg.core.errors import RegistrationError
from terareg.core.frames import Frame
from terareg.regions.warp import channel_block
from terareg.registration.export import COMPOSITES, FIELDS, write_itk
from terareg.registration.transform import (
    Transform,
    jacobian_determinant,
    read_affine,
    write_affine,
)

ATLAS = Frame((12, 14, 10), (100.0, 90.0, 110.0), (50.0, -20.0, 5.0), "RIP")
SAMPLE = Frame((13, 11, 15), (95.0, 105.0, 100.0), (-200.0, 30.0, 400.0), "PIR")
GRID = Frame((18, 19, 17), (100.0, 100.0, 100.0), (-150.0, -250.0, -200.0), "RIP")


def smooth_displacement(frame, seed, size_um=60.0):
    rng = np.random.default_rng(seed)
    field = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(frame.shape), 3.0) for _ in range(3)]
    )
    return (size_um * field / np.abs(field).max()).astype(np.float32)


def inverse_of(displacement, frame):
    points = np.stack(np.meshgrid(*frame.axes_um(), indexing="ij"))
    inverse = np.zeros_like(displacement)
    for _ in range(40):
        index = [
            (p + f - o) / s
            for p, f, o, s in zip(points, inverse, frame.origin_um, frame.spacing_um)
        ]
        inverse = -np.stack(
            [ndimage.map_coordinates(d, index, order=1, mode="nearest") for d in displacement]
        )
    return inverse.astype(np.float32)


@pytest.fixture(scope="module")
def transform():
    forward = smooth_displacement(GRID, 0)
    affine = np.array(
        [[0.05, 1.1, 0.02, -180.0], [0.03, -0.04, 0.95, 60.0], [1.02, 0.1, -0.03, 380.0],
         [0, 0, 0, 1]]
    )  # fmt: skip
    return Transform(affine, GRID, forward, inverse_of(forward, GRID), ATLAS, SAMPLE)


def test_points_follow_the_documented_order(transform):
    """x = A @ phi(p): at a voxel of the grid, phi adds that voxel's displacement."""
    index = (7, 9, 6)
    p = GRID.to_um(np.array(index))
    moved = p + transform.displacement[(slice(None), *index)]
    expected = transform.affine[:3, :3] @ moved + transform.affine[:3, 3]
    np.testing.assert_allclose(transform.to_sample(p[None])[0], expected, atol=1e-3)


def test_round_trip_of_points_is_within_a_quarter_voxel(transform):
    rng = np.random.default_rng(1)
    low = np.array(ATLAS.origin_um)
    points = low + rng.random((500, 3)) * np.array(ATLAS.extent_um)
    back = transform.to_atlas(transform.to_sample(points))
    assert np.linalg.norm(back - points, axis=1).max() < 25.0
    there = transform.to_sample(points)
    again = transform.to_sample(transform.to_atlas(there))
    assert np.linalg.norm(again - there, axis=1).max() < 25.0
    assert transform.inverse_error_um() < 25.0


@pytest.mark.parametrize("method, frame", [("to_atlas_grid", SAMPLE), ("to_sample_grid", ATLAS)])
@pytest.mark.parametrize("factor", [(1, 1, 1), (3, 2, 1), (0.3, 1, 0.25)])
def test_blocks_equal_the_whole_grid_bit_for_bit(transform, method, frame, factor):
    frame = Frame(
        tuple(n * 2 for n in frame.shape),
        tuple(s / 2 * f * 1.01 for s, f in zip(frame.spacing_um, factor)),
        frame.origin_um,
    )
    whole = getattr(transform, method)(frame)
    assert whole.shape == (3, *frame.shape) and whole.dtype == np.float32
    for start, stop in (((0, 0, 0), (5, 7, 9)), ((5, 7, 9), frame.shape), ((3, 0, 2), (4, 1, 3))):
        block = getattr(transform, method)(frame.cropped(start, stop))
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        np.testing.assert_array_equal(block, whole[(slice(None), *box)])


def test_grid_equals_points(transform):
    grid = transform.to_atlas_grid(SAMPLE)
    points = np.stack(np.meshgrid(*SAMPLE.axes_um(), indexing="ij")).reshape(3, -1).T
    np.testing.assert_allclose(grid.reshape(3, -1).T, transform.to_atlas(points), atol=1e-3)


def test_a_fine_grid_differs_from_points_by_less_than_the_field_bends(transform):
    fine = Frame((40, 30, 50), (9.0, 11.0, 8.0), (310.0, 420.0, 530.0))
    points = np.stack(np.meshgrid(*fine.axes_um(), indexing="ij")).reshape(3, -1).T
    for grid, exact, field in (
        (transform.to_atlas_grid, transform.to_atlas, transform.inverse_displacement),
        (transform.to_sample_grid, transform.to_sample, transform.displacement),
    ):
        error = np.linalg.norm(grid(fine).reshape(3, -1).T - exact(points), axis=1)
        bends = [np.linalg.norm(np.diff(field, 2, axis=axis), axis=0).max() for axis in (1, 2, 3)]
        assert 0 < error.max() < 0.1 * max(bends)
        assert error.mean() < 0.01 * max(bends)


def test_the_bound_of_a_fine_grid_is_that_of_a_field_with_kinks_on_all_axes():
    grid = Frame((18, 18, 18), (100.0,) * 3, (-137.5,) * 3, "RIP")
    z, y, x = np.meshgrid(*grid.axes_um(), indexing="ij")
    # nodes lie at multiples of 25 um: the kinks fall in the middle between two of them
    kinked = np.stack([sum(np.abs(axis - 662.5) for axis in (z, y, x))] * 3) * 0.1
    transform = Transform(np.eye(4), grid, kinked, -kinked, ATLAS, SAMPLE)
    fine = Frame((15, 15, 15), (3.0, 3.0, 3.0), (641.5, 641.5, 641.5))
    points = np.stack(np.meshgrid(*fine.axes_um(), indexing="ij")).reshape(3, -1).T
    found = transform.to_sample_grid(fine).reshape(3, -1).T
    bend = np.abs(np.diff(kinked, 2, axis=1)).max()
    error = np.abs(found - transform.to_sample(points)).max()
    assert 2 / 16 * bend < error <= 3 / 16 * bend + 1e-3


def test_jacobian_is_the_volume_ratio():
    points = np.stack(np.meshgrid(*GRID.axes_um(), indexing="ij"))
    stretched = points * np.array([0.1, -0.05, 0.2])[:, None, None, None]
    jacobian = jacobian_determinant(stretched, GRID)
    np.testing.assert_allclose(jacobian, 1.1 * 0.95 * 1.2, rtol=1e-5)


def test_files_give_the_same_transform_and_the_same_bytes(transform, tmp_path):
    transform.save(tmp_path / "a")
    transform.save(tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [
        "affine.txt", "atlas_to_sample_displacement.nrrd", "forward.nrrd", "inverse.nrrd",
        "jacobian.nrrd", "sample_to_atlas_displacement.nrrd", "transform.json",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = Transform.load(tmp_path / "a")
    assert loaded.frame == transform.frame
    np.testing.assert_array_equal(loaded.affine, transform.affine)
    np.testing.assert_allclose(loaded.displacement, transform.displacement, rtol=1e-6, atol=1e-6)
    points = np.array([[300.0, 400.0, 500.0], [-1e4, 0.0, 2e4]])
    np.testing.assert_allclose(loaded.to_atlas(points), transform.to_atlas(points), atol=1e-3)


@pytest.mark.parametrize(
    "name, frame, method",
    [
        ("sample_to_atlas_displacement", SAMPLE, "to_atlas"),
        ("atlas_to_sample_displacement", ATLAS, "to_sample"),
    ],
)
def test_itk_reproduces_the_transform(transform, tmp_path, name, frame, method):
    """SimpleITK applies the exported field (mm, x y z) and lands where the transform does."""
    transform.save(tmp_path)
    image = sitk.ReadImage(str(tmp_path / f"{name}.nrrd"), sitk.sitkVectorFloat64)
    np.testing.assert_allclose(image.GetSpacing()[::-1], np.array(frame.spacing_um) / 1000)
    np.testing.assert_allclose(image.GetOrigin()[::-1], np.array(frame.origin_um) / 1000)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-12)
    displacement = sitk.DisplacementFieldTransform(image)
    composite = getattr(
        transform, "itk_" + ("sample_to_atlas" if method == "to_atlas" else "atlas_to_sample")
    )()
    for index in ((0, 0, 0), (5, 6, 7), tuple(n - 1 for n in frame.shape)):
        point = frame.to_um(np.array(index))
        expected = getattr(transform, method)(point[None])[0]
        got = np.array(displacement.TransformPoint((point[::-1] / 1000).tolist()))[::-1] * 1000
        np.testing.assert_allclose(got, expected, atol=0.1)
    inside = np.array([frame.centre_um + [3.0, -11.0, 17.0]])
    got = np.array(composite.TransformPoint((inside[0][::-1] / 1000).tolist()))[::-1] * 1000
    np.testing.assert_allclose(got, getattr(transform, method)(inside)[0], atol=1e-2)


def test_resampling_the_atlas_into_the_sample_with_itk(transform, tmp_path):
    """The field named sample_to_atlas is the one for sitk.Resample(atlas, sample grid)."""
    z, y, x = np.meshgrid(*ATLAS.axes_um(), indexing="ij")
    atlas = (z + 2 * y - x).astype(np.float64)
    transform.save(tmp_path)
    field = sitk.ReadImage(
        str(tmp_path / "sample_to_atlas_displacement.nrrd"), sitk.sitkVectorFloat64
    )
    moving = sitk.GetImageFromArray(atlas)
    moving.SetSpacing([s / 1000 for s in ATLAS.spacing_um[::-1]])
    moving.SetOrigin([o / 1000 for o in ATLAS.origin_um[::-1]])
    reference = sitk.Image(SAMPLE.shape[::-1], sitk.sitkFloat64)
    reference.SetSpacing([s / 1000 for s in SAMPLE.spacing_um[::-1]])
    reference.SetOrigin([o / 1000 for o in SAMPLE.origin_um[::-1]])
    warped = sitk.Resample(
        moving, reference, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, -1e6
    )
    warped = sitk.GetArrayFromImage(warped)
    positions = transform.to_atlas_grid(SAMPLE)
    # ITK clamps within half a voxel of the faces, so compare where the ramp is interpolated
    index = ATLAS.to_index(np.moveaxis(positions, 0, -1))
    inside = np.all((index >= 0) & (index <= np.array(ATLAS.shape) - 1), axis=-1)
    assert inside.sum() > 200
    expected = positions[0] + 2 * positions[1] - positions[2]
    np.testing.assert_allclose(warped[inside], expected[inside], atol=0.5)


def itk_image(array, frame):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in frame.spacing_um[::-1]])
    image.SetOrigin([o / 1000 for o in frame.origin_um[::-1]])
    return image


def itk_points(itk, points_um):
    moved = [itk.TransformPoint((p[::-1] / 1000).tolist()) for p in points_um]
    return np.array(moved)[:, ::-1] * 1000


def inside(frame, n=200, seed=0):
    """Random points anywhere between the outer faces of a frame."""
    rng = np.random.default_rng(seed)
    return frame.to_um(rng.random((n, 3)) * np.array(frame.shape) - 0.5)


@pytest.mark.parametrize(
    "name, frame, method",
    [("sample_to_atlas", SAMPLE, "to_atlas"), ("atlas_to_sample", ATLAS, "to_sample")],
)
def test_exported_composites_move_points_like_the_transform(
    transform, tmp_path, name, frame, method
):
    """Also where the volumes reach beyond the grid of the deformation, and for every file."""
    write_itk(tmp_path, transform)
    points = inside(frame)
    expected = getattr(transform, method)(points)
    composite = sitk.ReadTransform(str(tmp_path / f"{name}_composite.tfm"))
    np.testing.assert_allclose(itk_points(composite, points), expected, atol=0.01)
    field = sitk.ReadImage(str(tmp_path / f"{name}_displacement.nii.gz"))
    assert field.GetPixelIDTypeAsString() == "vector of 32-bit float"
    nodes = frame.to_um(np.array([[0, 0, 0], [3, 5, 2], [n - 1 for n in frame.shape]]))
    displacement = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    at_nodes = getattr(transform, method)(nodes)
    np.testing.assert_allclose(itk_points(displacement, nodes), at_nodes, atol=0.05)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(first) == {*COMPOSITES, *FIELDS}
    write_itk(tmp_path, transform)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first


def test_fields_reach_beyond_their_grid_like_the_transform(transform):
    """A sample much larger than the deformation's box: ITK alone would move nothing out there."""
    far = Frame((30, 30, 30), (150.0,) * 3, (-1500.0, -1500.0, -1500.0))
    wide = replace(transform, sample_frame=far, atlas_frame=far)
    points = inside(far)
    assert not GRID.contains(points).all()
    for itk, method in (
        (wide.itk_sample_to_atlas(), wide.to_atlas),
        (wide.itk_atlas_to_sample(), wide.to_sample),
    ):
        np.testing.assert_allclose(itk_points(itk, points), method(points), atol=0.01)


class ArrayReader:
    def __init__(self, array, frame):
        self.array, self.frame = array, frame

    def read(self, start, stop):
        return self.array[tuple(slice(a, b) for a, b in zip(start, stop))]


def test_resampling_the_sample_into_the_atlas_with_itk_is_transform_volume(transform, tmp_path):
    rng = np.random.default_rng(3)
    sample = ndimage.gaussian_filter(rng.random(SAMPLE.shape), 1).astype(np.float32)
    write_itk(tmp_path, transform)
    to_sample = sitk.ReadTransform(str(tmp_path / "atlas_to_sample_composite.tfm"))
    grid = itk_image(np.zeros(ATLAS.shape, np.float32), ATLAS)
    moved = sitk.Resample(itk_image(sample, SAMPLE), grid, to_sample, sitk.sitkLinear, -1.0)
    ours = channel_block(transform, ArrayReader(sample, SAMPLE), ATLAS, outside=-1.0)
    both = (sitk.GetArrayFromImage(moved) != -1) & (ours != -1)
    assert both.mean() > 0.3
    np.testing.assert_allclose(sitk.GetArrayFromImage(moved)[both], ours[both], atol=1e-4)
    assert ((sitk.GetArrayFromImage(moved) != -1) != (ours != -1)).mean() < 0.01


def test_inverted_exchanges_atlas_and_sample(transform):
    back = transform.inverted()
    assert (back.atlas_frame, back.sample_frame) == (SAMPLE, ATLAS)
    points = inside(ATLAS)
    there = transform.to_sample(points)
    # what is left is linear interpolation between the voxels of two grids
    assert np.linalg.norm(back.to_atlas(points) - there, axis=1).max() < 5
    assert np.linalg.norm(back.to_sample(there) - transform.to_atlas(there), axis=1).max() < 5
    assert np.linalg.norm(there - points, axis=1).min() > 50
    assert back.jacobian().min() > 0.5


def test_then_is_one_after_the_other(transform):
    third = Frame((20, 20, 20), (80.0,) * 3, (-300.0, -100.0, 0.0), "SAR")
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0.9, 0.1], [1.1, 0, 0], [0, 0.05, -1]]
    affine[:3, 3] = (40, 90, 1500)
    grid = Frame((22, 22, 26), (100.0,) * 3, (-500.0, -300.0, 0.0), "PIR")
    forward = smooth_displacement(grid, 5)
    second = Transform(affine, grid, forward, inverse_of(forward, grid), SAMPLE, third)
    both = transform.then(second)
    assert (both.atlas_frame, both.sample_frame) == (ATLAS, third)
    points = inside(ATLAS)
    wanted = second.to_sample(transform.to_sample(points))
    assert np.linalg.norm(both.to_sample(points) - wanted, axis=1).max() < 8
    back = transform.to_atlas(second.to_atlas(wanted))
    assert np.linalg.norm(both.to_atlas(wanted) - back, axis=1).max() < 8
    other_order = transform.to_sample(second.to_sample(points))
    assert np.linalg.norm(both.to_sample(points) - other_order, axis=1).min() > 50


def test_there_and_back_again_is_nothing(transform):
    nothing = transform.then(transform.inverted())
    np.testing.assert_allclose(nothing.affine, np.eye(4), atol=1e-9)
    points = inside(ATLAS)
    assert np.linalg.norm(nothing.to_sample(points) - points, axis=1).max() < 15
    affine = Transform.from_affine(transform.affine, ATLAS, SAMPLE)
    exact = affine.then(affine.inverted())
    np.testing.assert_allclose(exact.to_sample(points), points, atol=1e-3)


def test_affine_only_transform_is_exact_everywhere():
    affine = np.eye(4)
    affine[:3, 3] = (10, 20, 30)
    transform = Transform.from_affine(affine, ATLAS, SAMPLE)
    points = np.array([[0.0, 0, 0], [1e5, -1e5, 3.0]])
    np.testing.assert_allclose(transform.to_sample(points), points + [10, 20, 30])
    np.testing.assert_allclose(transform.to_atlas(points), points - [10, 20, 30])
    np.testing.assert_allclose(transform.jacobian(), 1)


def test_affine_text_round_trip(tmp_path):
    affine = np.eye(4) + np.triu(np.random.default_rng(0).standard_normal((4, 4)), 1) / 3
    write_affine(tmp_path / "affine.txt", affine)
    assert "atlas micrometres -> sample micrometres" in (tmp_path / "affine.txt").read_text()
    np.testing.assert_array_equal(read_affine(tmp_path / "affine.txt"), affine)


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 0 0\n0 1 0\n", "4 x 4"),
        ("1 0 0 0\n1 0 0 0\n0 0 1 0\n0 0 0 1\n", "singular"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 5 1\n", "last row"),
        ("1 0 0 a\n", "cannot be read as a matrix"),
    ],
)
def test_bad_affines_are_named(tmp_path, text, message):
    (tmp_path / "affine.txt").write_text(text)
    with pytest.raises(RegistrationError, match=message):
        read_affine(tmp_path / "affine.txt")


def test_bad_fields_and_points_are_named(transform):
    broken = transform.displacement.copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(RegistrationError, match="not finite;"):
        Transform(transform.affine, GRID, broken, transform.inverse_displacement, ATLAS, SAMPLE)
    with pytest.raises(RegistrationError, match="do not belong together"):
        Transform(transform.affine, ATLAS, broken, transform.inverse_displacement, ATLAS, SAMPLE)
    with pytest.raises(RegistrationError, match="n rows"):
        transform.to_atlas(np.zeros((3, 2)))
