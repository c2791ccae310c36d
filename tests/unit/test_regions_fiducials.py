"""Fiducial errors by name (D38, F3)."""

import csv
import logging

import numpy as np
import pytest
from regions_helpers import AffineMap, rotation

from terareg.core.errors import PointsError
from terareg.core.frames import Frame, orientation_matrix
from terareg.regions.fiducials import (
    check_pairs,
    pair_landmarks,
    score_fiducials,
)
from terareg.regions.points import Points
from terareg.storage.records import write_table

FRAME = Frame((400, 400, 400), (10, 10, 10), (-500, -500, -500))
NAMES = tuple(f"landmark {n}" for n in range(9))


class Bent(AffineMap):
    """Adds a known displacement after the affine."""

    def __init__(self, affine, bend_um):
        super().__init__(affine, FRAME, FRAME)
        self.bend = np.array(bend_um, float)

    def to_sample(self, points_um):
        return super().to_sample(points_um) + self.bend

    def to_atlas(self, points_um):
        return super().to_atlas(np.asarray(points_um) - self.bend)


@pytest.fixture
def case():
    atlas = Points(NAMES, np.random.default_rng(0).uniform(0, 1500, (9, 3)))
    transform = Bent(rotation(15, (2.0, 1.0, 1.0)), (0, 30, 40))
    known = np.zeros((9, 3))
    known[:, 0] = np.arange(9) * 10.0
    sample = Points(NAMES, transform.to_sample(atlas.position_um) + known)
    return atlas, sample, transform


def test_known_errors_are_recovered(case, tmp_path):
    atlas, sample, transform = case
    order = np.random.default_rng(1).permutation(9)
    shuffled = Points(tuple(NAMES[n] for n in order), sample.position_um[order])
    rows = score_fiducials(atlas, shuffled, transform)
    fiducials, summary = rows[:9], {r["name"]: r for r in rows[9:]}
    assert [r["name"] for r in fiducials] == list(NAMES)
    assert np.allclose([r["error_um"] for r in fiducials], np.arange(9) * 10)
    # z is stretched by 2, so that the atlas sees half of it
    assert np.allclose([r["error_atlas_um"] for r in fiducials], np.arange(9) * 5)
    wanted = np.hypot(np.arange(9) * 10, 50)
    assert np.allclose([r["affine_error_um"] for r in fiducials], wanted)
    assert np.allclose([r["residual_z_um"] for r in fiducials], np.arange(9) * 10)
    assert np.allclose([r["residual_x_um"] for r in fiducials], 0)
    assert summary["mean"]["error_um"] == pytest.approx(40)
    assert summary["median"]["error_um"] == pytest.approx(40)
    assert summary["p95"]["error_um"] == pytest.approx(76)
    assert summary["max"]["error_um"] == pytest.approx(80)
    write_table(tmp_path / "a.tsv", rows, ".3f")
    with open(tmp_path / "a.tsv", newline="") as stream:
        read = list(csv.DictReader(stream, delimiter="\t"))
    assert read[-1]["kind"] == "summary" and read[-1]["error_um"] == "80.000"
    assert read[-1]["residual_z_um"] == ""


@pytest.mark.parametrize("orientation", ["RIP", "SAL", "PIR"])
def test_d38_the_orientation_of_the_sample_counts(orientation):
    atlas = Points(NAMES, np.random.default_rng(3).uniform(0, 2000, (9, 3)))
    affine = np.eye(4)
    affine[:3, :3] = orientation_matrix("RIP", orientation)
    affine[:3, 3] = 1000
    frame = Frame((400, 400, 400), (20, 20, 20), (-4000, -4000, -4000), orientation)
    transform = AffineMap(affine, frame, frame)
    sample = Points(NAMES, transform.to_sample(atlas.position_um))
    assert score_fiducials(atlas, sample, transform)[-1]["error_um"] < 1e-9
    wrong = AffineMap(np.eye(4), frame, frame)
    assert score_fiducials(atlas, sample, wrong)[-1]["error_um"] > 500


def test_missing_partners_are_named_or_warned_of(case, caplog):
    atlas, sample, transform = case
    fewer = Points(("extra", *NAMES[2:]), sample.position_um[1:])
    message = (
        r"3 without a counterpart: 'landmark 0' \(atlas only\), 'landmark 1' \(atlas "
        r"only\), 'extra' \(sample only\)"
    )
    with pytest.raises(PointsError, match=message):
        score_fiducials(atlas, fewer, transform)
    with caplog.at_level(logging.WARNING):
        rows = score_fiducials(atlas, fewer, transform, unpaired="warn")
    assert "3 without a counterpart: '" in caplog.text
    assert [r["name"] for r in rows if r["kind"] == "fiducial"] == list(NAMES[2:])
    none = Points(("other",), sample.position_um[:1])
    with pytest.raises(
        PointsError, match=r"none of the 9 names in the atlas \(first: 'landmark 0'\) is in the"
    ):
        score_fiducials(atlas, none, transform, unpaired="warn")


def test_outside_twice_and_unnamed(case):
    atlas, sample, transform = case
    far = Points(NAMES, sample.position_um + [9e5, 0, 0])
    with pytest.raises(PointsError, match=r"fiducials of the sample: 9 of 9 points lie outside"):
        score_fiducials(atlas, far, transform)
    with pytest.raises(PointsError, match=r"fiducials of the atlas: 9 of 9 points lie outside"):
        score_fiducials(Points(NAMES, atlas.position_um - 1e5), sample, transform)
    twice = Points(("a", "a", *NAMES[2:]), atlas.position_um)
    with pytest.raises(PointsError, match="fiducials of the atlas: 'a' appears twice"):
        score_fiducials(twice, sample, transform)
    with pytest.raises(PointsError, match=r"fiducials of the sample: number 2 has no name"):
        score_fiducials(atlas, Points(("a", "", *NAMES[2:]), sample.position_um), transform)
    with pytest.raises(PointsError, match="policy 'skip' is unknown"):
        score_fiducials(atlas, sample, transform, unpaired="skip")


def test_files_are_checked_before_anything_is_registered(tmp_path):
    sample, atlas = tmp_path / "sample.csv", tmp_path / "atlas.csv"
    atlas.write_text("name,z_vox,y_vox,x_vox\na,1,2,3\nb,4,5,6\n")
    sample.write_text("name,z_vox,y_vox,x_vox\nb,399,0,0\na,1,2,3\n")
    check_pairs(sample, atlas, FRAME)
    sample.write_text("name,z_vox,y_vox,x_vox\nb,400,0,0\na,1,2,3\n")
    with pytest.raises(PointsError, match=r"sample.csv against the sample: 1 of 2 points lie out"):
        check_pairs(sample, atlas, FRAME)
    sample.write_text("name,z_vox,y_vox,x_vox\nc,1,2,3\na,1,2,3\n")
    with pytest.raises(PointsError, match=r"'b' \(atlas only\), 'c' \(sample only\)"):
        check_pairs(sample, atlas, FRAME)
    atlas.write_text("name,z,y,x\na,1,2,3\n")
    with pytest.raises(PointsError, match="columns x, y, z state no unit"):
        check_pairs(sample, atlas, FRAME)


def test_landmarks_are_paired_by_name_and_checked_alike(tmp_path):
    paths = {"sample": tmp_path / "sample.csv", "atlas": tmp_path / "atlas.csv"}
    frames = {"sample": FRAME, "atlas": Frame((50, 60, 70), (20, 20, 20))}
    paths["atlas"].write_text("name,z_vox,y_vox,x_vox\na,1,2,3\nb,4,5,6\nc,7,8,9\n")
    paths["sample"].write_text("name,x_um,y_um,z_um\nc,30,20,10\na,6,5,4\nb,9,8,7\n")
    landmarks = pair_landmarks(paths, frames, 80.0)
    assert landmarks.names == ("a", "b", "c") and landmarks.sigma_um == 80.0
    np.testing.assert_allclose(landmarks.atlas_um, [[20, 40, 60], [80, 100, 120], [140, 160, 180]])
    np.testing.assert_allclose(landmarks.sample_um, [[4, 5, 6], [7, 8, 9], [10, 20, 30]])
    paths["sample"].write_text("name,x_um,y_um,z_um\nc,30,20,10\na,6,5,4\n")
    with pytest.raises(
        PointsError, match=r"landmarks: 1 without a counterpart: 'b' \(atlas only\)"
    ):
        pair_landmarks(paths, frames, 80.0)
    with pytest.raises(PointsError, match="landmarks: 1 without a counterpart: '"):
        check_pairs(paths["sample"], paths["atlas"], FRAME, "landmark")
    paths["sample"].write_text("name,x_um,y_um,z_um\nc,30,20,10\na,6,5,4\nb,9e9,8,7\n")
    with pytest.raises(PointsError, match=r"landmarks .*sample.csv against the sample: 1 of 3 poi"):
        pair_landmarks(paths, frames, 80.0)
    paths["atlas"].write_text("name,z_vox,y_vox,x_vox\na,1,2,3\nb,4,5,6\nc,7,8,70\n")
    with pytest.raises(PointsError, match=r"landmarks .*atlas.csv against the atlas: 1 of 3 point"):
        pair_landmarks(paths, frames, 80.0)
