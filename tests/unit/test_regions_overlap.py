"""Dice of regions where the sample has labels of its own."""

import logging

import numpy as np
import pytest
import SimpleITK as sitk
from regions_helpers import BIG_IDS, rotation, toy_atlas

from terareg.core.errors import AtlasError, VolumeError
from terareg.core.frames import Frame
from terareg.regions.labels import label_block
from terareg.regions.overlap import read_sample_labels, score_labels
from terareg.registration.transform import Transform
from terareg.volumes.headers import describe_image

SAMPLE = Frame((14, 12, 16), (22.0, 28.0, 21.0), (-30.0, 10.0, 5.0), "RIP")


@pytest.fixture
def atlas():
    return toy_atlas()


def transform_of(atlas, affine):
    return Transform.from_affine(affine, atlas.frame, SAMPLE)


def test_perfect_labels_score_one_and_shifted_ones_what_a_plain_count_says(atlas):
    transform = transform_of(atlas, rotation())
    found = label_block(transform, atlas, SAMPLE)
    rows = score_labels(found, SAMPLE, transform, atlas)
    assert all(row["dice"] == 1 == row["affine_dice"] for row in rows)
    assert {row["id"] for row in rows if row["kind"] == "region"} == set(BIG_IDS)
    shifted = np.roll(found, 1, axis=2)
    rows = score_labels(shifted, SAMPLE, transform, atlas)
    regions = [row for row in rows if row["kind"] == "region"]
    for row in regions:
        a, b = shifted == row["id"], found == row["id"]
        assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        cube = SAMPLE.voxel_volume_um3 / 1e9
        assert row["sample_mm3"] == pytest.approx(a.sum() * cube)
        assert row["atlas_mm3"] == pytest.approx(b.sum() * cube)
        assert row["common_mm3"] == pytest.approx((a & b).sum() * cube)
    summary = {row["name"]: row["dice"] for row in rows if row["kind"] == "summary"}
    dice = [row["dice"] for row in regions]
    assert summary["mean"] == pytest.approx(np.mean(dice))
    assert summary["median"] == pytest.approx(np.median(dice))
    assert summary["p10"] == pytest.approx(np.percentile(dice, 10))


def test_the_affine_alone_is_scored_beside_the_deformation(atlas):
    zero = np.zeros((3, 2, 2, 2), np.float32)
    push = zero.copy()
    push[2] = 40.0
    frame = Frame((2, 2, 2), (400.0,) * 3, (-100.0,) * 3, "RIP")
    deformed = Transform(rotation(), frame, push, -push, atlas.frame, SAMPLE)
    labels = label_block(deformed, atlas, SAMPLE)
    rows = score_labels(labels, SAMPLE, deformed, atlas)
    assert rows[-3]["dice"] == 1 and rows[-3]["affine_dice"] < 0.5


def test_groups_are_the_nearest_ancestors_on_both_sides(atlas):
    transform = transform_of(atlas, np.eye(4))
    found = label_block(transform, atlas, SAMPLE)
    swapped = found.copy()
    swapped[found == 1], swapped[found == 7] = 7, 1
    alone = {r["id"]: r["dice"] for r in score_labels(swapped, SAMPLE, transform, atlas)}
    assert alone[1] == 0 == alone[7] and alone[312782632] == 1
    rows = score_labels(swapped, SAMPLE, transform, atlas, [10, 312782632])
    assert [r["id"] for r in rows if r["kind"] == "region"] == [10, 312782632]
    assert all(r["dice"] == 1 for r in rows)
    rows = score_labels(swapped, SAMPLE, transform, atlas, [10, 7])
    assert {r["acronym"]: r["dice"] for r in rows if r["kind"] == "region"} == {"A": 0, "A2": 0}


def test_regions_that_nobody_labelled_are_not_judged(atlas, caplog):
    transform = transform_of(atlas, np.eye(4))
    found = label_block(transform, atlas, SAMPLE)
    rows = score_labels(np.where(found == 7, found, 0), SAMPLE, transform, atlas)
    assert [r["id"] for r in rows if r["kind"] == "region"] == [7]
    far = np.eye(4)
    far[0, 3] = 1e5
    with caplog.at_level(logging.WARNING):
        rows = score_labels(found, SAMPLE, transform_of(atlas, far), atlas)
    assert all(r["dice"] == 0 for r in rows)
    assert (
        "5 labelled regions have no voxel in the transformed atlas labels: A1, A2, B1"
        in caplog.text
    )


def test_labels_that_do_not_belong_to_the_atlas_are_named(atlas):
    transform = transform_of(atlas, np.eye(4))
    found = label_block(transform, atlas, SAMPLE)
    with pytest.raises(VolumeError, match=r"id 99 is not in the atlas's ontology \(1 in all\)"):
        score_labels(np.where(found == 7, 99, found), SAMPLE, transform, atlas)
    with pytest.raises(VolumeError, match="groups: region 99 is not in the atlas's ontology"):
        score_labels(found, SAMPLE, transform, atlas, [99])
    with pytest.raises(VolumeError, match="no voxel has a label; check"):
        score_labels(np.zeros_like(found), SAMPLE, transform, atlas)
    with pytest.raises(VolumeError, match="no voxel has a label within the groups"):
        score_labels(np.where(found == 7, found, 0), SAMPLE, transform, atlas, [20])


def write(path, array, spacing_um):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([s / 1000 for s in spacing_um[::-1]])
    sitk.WriteImage(image, str(path))


def test_coarser_labels_lie_where_the_sample_lies(tmp_path):
    """Twice as coarse: the first voxel is the mean place of two, the outer faces are the same."""
    labels = np.random.default_rng(0).integers(0, 2**32, (7, 6, 8), dtype=np.uint32)
    write(tmp_path / "labels.nrrd", labels, [2 * s for s in SAMPLE.spacing_um])
    read, frame = read_sample_labels(tmp_path / "labels.nrrd", SAMPLE)
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.uint32
    assert frame.shape == (7, 6, 8)
    np.testing.assert_allclose(frame.origin_um, SAMPLE.downsampled((2, 2, 2)).origin_um)
    same, _ = read_sample_labels(tmp_path / "labels.nrrd", SAMPLE, frame.spacing_um)
    np.testing.assert_array_equal(same, labels)


def test_labels_of_another_field_of_view_or_without_ids_are_named(tmp_path):
    labels = np.ones((16, 12, 14), np.uint16)
    write(tmp_path / "turned.nrrd", labels, SAMPLE.spacing_um)
    with pytest.raises(
        VolumeError, match=r"turned.nrrd cover 352 x 336 x 294 um \(z, y, x\) but the"
    ):
        read_sample_labels(tmp_path / "turned.nrrd", SAMPLE)
    write(tmp_path / "mixed.nrrd", np.full(SAMPLE.shape, 0.5, np.float32), SAMPLE.spacing_um)
    with pytest.raises(AtlasError, match=r"mixed.nrrd has value 0.5, not an integer region id"):
        read_sample_labels(tmp_path / "mixed.nrrd", SAMPLE)


def test_a_header_of_labels_that_states_other_axes_is_no_warning(tmp_path):
    """Left and right of a brain are alike: a mirrored image has almost the same Dice."""
    labels = np.random.default_rng(0).integers(0, 9, SAMPLE.shape).astype(np.uint16)
    path = tmp_path / "labels.nii"
    write(path, labels, SAMPLE.spacing_um)
    assert describe_image(str(path)).orientation == "SPL" != SAMPLE.orientation
    message = rf"have orientation SPL .* but the sample {SAMPLE.orientation}; save them with"
    with pytest.raises(VolumeError, match=message):
        read_sample_labels(path, SAMPLE)
    np.testing.assert_array_equal(read_sample_labels(path, SAMPLE, SAMPLE.spacing_um)[0], labels)


def test_labels_of_several_components_are_refused(tmp_path):
    labels = np.zeros((*SAMPLE.shape, 3), np.uint8)
    image = sitk.GetImageFromArray(labels, isVector=True)
    sitk.WriteImage(image, str(tmp_path / "rgb.nrrd"))
    with pytest.raises(VolumeError, match=r"rgb.nrrd have 3 components per voxel; give one id"):
        read_sample_labels(tmp_path / "rgb.nrrd", SAMPLE, SAMPLE.spacing_um)
