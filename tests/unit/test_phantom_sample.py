"""The phantom brain: its truth, and that blocks of it agree."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from terareg.core.frames import Frame
from terareg.phantom.atlas import BrainSettings, make_atlas
from terareg.phantom.sample import GeneratedSample, SampleSettings
from terareg.phantom.truth import TruthSettings, write_fiducials, write_sample_truth

FRAME = Frame((24, 86, 112), (240.0, 93.0, 93.0), (0, 0, 0), "ILA")


@pytest.fixture(scope="module")
def atlas():
    return make_atlas(BrainSettings(seed=3, atlas_spacing_um=100.0))


@pytest.fixture(scope="module")
def sample(atlas):
    return GeneratedSample(atlas, FRAME, SampleSettings(seed=3, cells=300))


# ------------------------------------------------------------------ transform
def test_inverse_transform_undoes_the_transform(sample):
    rng = np.random.default_rng(0)
    atlas_um = rng.uniform(0, 1, (500, 3)) * sample.atlas.frame.extent_um
    there = sample.to_sample(atlas_um)
    assert np.abs(sample.to_atlas(there) - atlas_um).max() < 0.01


def test_grid_and_points_see_the_same_transform(sample):
    axes = [np.linspace(100, 5000, 5), np.linspace(0, 8000, 6), np.linspace(0, 10000, 7)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    grid = sample.atlas_grid(axes).reshape(3, -1).T
    assert np.abs(grid - sample.to_atlas(points)).max() < 0.05


def test_deformation_does_not_fold(sample):
    axes = [np.arange(0, e, 120.0) for e in FRAME.extent_um]
    field = sample.atlas_grid(axes).astype(float)
    gradient = np.stack([np.stack(np.gradient(field[k], 120.0), -1) for k in range(3)], -2)
    determinant = np.linalg.det(gradient) * np.linalg.det(sample.affine[:3, :3])
    assert determinant.min() > 0.3


def test_pose_turns_the_axes_as_declared(atlas):
    still = SampleSettings(seed=1, rotation_deg=0, scale=0, shift_um=0, coarse_um=0, fine_um=0)
    sample = GeneratedSample(atlas, FRAME, replace(still, cells=10))
    centre, ahead = atlas.frame.centre_um, np.array([0, 0, -1000.0])
    step = sample.to_sample((centre + ahead)[None])[0] - FRAME.centre_um
    # RIP to ILA: anterior is towards higher x of the sample
    assert step == pytest.approx([0, 0, 1000], abs=1e-3)
    right = sample.to_sample((centre + [1000.0, 0, 0])[None])[0] - FRAME.centre_um
    assert right == pytest.approx([0, -1000, 0], abs=1e-3)


# ------------------------------------------------------------------ appearance
def test_blocks_agree_with_the_whole(sample):
    whole = sample.block((0, 0, 0), FRAME.shape)
    assert whole.shape == (2, *FRAME.shape) and whole.dtype == np.float32
    for start, stop in (((3, 17, 40), (9, 50, 71)), ((20, 60, 100), FRAME.shape)):
        inner = tuple(slice(a, b) for a, b in zip(start, stop))
        part = sample.block(start, stop)
        assert np.allclose(part, whole[(slice(None), *inner)], rtol=1e-3, atol=2)


def test_tissue_is_brighter_than_the_medium_and_no_single_map_explains_it(sample):
    whole = sample.block((0, 0, 0), FRAME.shape)
    axes = FRAME.axes_um()
    labels, _ = sample.labels_grid(axes)
    missing, artefact = sample.damage_grid(axes)
    tissue = (labels > 0) & (missing == 0) & (artefact == 0)
    outside = whole[0][(labels == 0) & (artefact == 0)]
    assert np.median(whole[0][tissue]) > 20 * np.median(outside)
    assert np.median(whole[0][(missing == 1) & (labels > 0)]) < 0.1 * np.median(whole[0][tissue])
    assert np.median(whole[0][artefact == 1]) > 2 * np.median(whole[0][tissue])
    index = np.rint(
        sample.atlas_grid(axes) / np.array(sample.atlas.frame.spacing_um)[:, None, None, None]
    ).astype(int)
    template = sample.atlas.template[
        tuple(np.clip(i, 0, n - 1) for i, n in zip(index, sample.atlas.frame.shape))
    ]
    # the slope of intensity over template has either sign, depending on the place
    slopes = []
    bright = tissue & (template > 0.45)
    for block in np.ndindex(3, 4, 4):
        cut = tuple(slice(8 * b, 8 * b + 8) if k == 0 else slice(28 * b, 28 * b + 28)
                    for k, b in enumerate(block))  # fmt: skip
        here = bright[cut]
        if here.sum() > 300:
            slopes.append(np.corrcoef(template[cut][here], whole[0][cut][here])[0, 1])
    assert min(slopes) < -0.2 and max(slopes) > 0.2


def test_cells_are_in_the_second_channel_only(sample):
    drawn = sample.draw_cells((0, 0, 0), FRAME.shape)
    quiet = GeneratedSample(sample.atlas, FRAME, replace(sample.settings, cells=0))
    with_cells, without = (s.block((0, 0, 0), FRAME.shape) for s in (sample, quiet))
    assert drawn.max() > 0.5
    assert np.array_equal(with_cells[0], without[0])
    brighter = with_cells[1] - without[1]
    assert not brighter[drawn == 0].any() and (brighter[drawn > 0.01] > 0).all()


@pytest.mark.slow
def test_counted_cells_stand_where_the_truth_says_and_only_if_asked_for(sample, atlas, tmp_path):
    settings = replace(sample.settings, counted_cells=200, counted_cell_um=400.0)
    counted = GeneratedSample(atlas, FRAME, settings)
    quiet = GeneratedSample(atlas, FRAME, replace(sample.settings, cells=0))
    assert 50 < len(counted.counted_cells) <= 200 and not len(sample.counted_cells)
    whole = counted.block((0, 0, 0), FRAME.shape) - quiet.block((0, 0, 0), FRAME.shape)
    assert not whole[0].any()
    part = counted.block((5, 20, 30), (15, 60, 70)) - quiet.block((5, 20, 30), (15, 60, 70))
    assert np.allclose(part, whole[:, 5:15, 20:60, 30:70], atol=0.01)
    truth = write_sample_truth(counted, tmp_path, TruthSettings(landmarks=10))
    rows = np.genfromtxt(tmp_path / truth["cells"], delimiter=",", names=True, encoding="utf-8",
                         dtype=None)  # fmt: skip
    places = np.stack([rows[f"{a}_um"] for a in "zyx"], -1)
    assert (rows["region_id"] == counted.labels_at(places)).all() and (rows["region_id"] > 0).all()
    at = tuple(np.rint(FRAME.to_index(places)).astype(int).T)
    height = settings.texture * settings.tissue_counts[1] * rows["contrast"]
    assert np.median(whole[1][at] / height) == pytest.approx(1, abs=0.3)
    assert "cells" not in write_sample_truth(sample, tmp_path, TruthSettings(landmarks=10))


# ------------------------------------------------------------------ truth files
def test_truth_files_tell_what_the_sample_is(sample, tmp_path):
    settings = TruthSettings(label_stride=(2, 3, 3), volume_stride=(1, 1, 1), landmarks=200)
    truth = write_sample_truth(sample, tmp_path, settings)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / truth["labels"])))
    whole, right = sample.labels_grid(FRAME.axes_um())
    assert np.array_equal(labels, whole[::2, ::3, ::3])
    pairs = np.loadtxt(tmp_path / truth["landmarks"], delimiter=",", skiprows=1)
    assert pairs.shape == (200, 6)
    assert np.abs(sample.to_atlas(pairs[:, 3:]) - pairs[:, :3]).max() < 0.01
    assert (sample.labels_at(pairs[:, 3:]) > 0).all() and not sample.damaged(pairs[:, 3:]).any()
    rows = [r.split("\t") for r in (tmp_path / truth["region_volumes"]).read_text().splitlines()]
    left = {int(r[0]): float(r[3]) for r in rows[1:] if r[2] == "left"}
    number = int(sample.atlas.region_ids()[4])
    expected = np.count_nonzero((whole == number) & ~right) * FRAME.voxel_volume_um3 / 1e9
    assert left[number] == pytest.approx(expected, abs=1e-6)
    assert sum(float(r[3]) for r in rows[1:]) == pytest.approx(
        np.count_nonzero(whole) * FRAME.voxel_volume_um3 / 1e9, abs=1e-3
    )


def test_fiducials_have_partners(sample, tmp_path):
    atlas_csv, sample_csv = write_fiducials(sample, tmp_path, 12)
    tables = [
        [line.split(",") for line in path.read_text().splitlines()]
        for path in (atlas_csv, sample_csv)
    ]
    assert tables[0][0] == ["name", "z_um", "y_um", "x_um"]
    assert [r[0] for r in tables[0]] == [r[0] for r in tables[1]] and len(tables[0]) == 13
    atlas_um, sample_um = (np.array([r[1:] for r in t[1:]], float) for t in tables)
    assert np.abs(sample.to_sample(atlas_um) - sample_um).max() < 0.01
    assert FRAME.contains(sample_um).all()
