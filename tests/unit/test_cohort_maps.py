"""Maps in the atlas: planes at a time are the whole at once."""

from __future__ import annotations

import numpy as np
import pytest
from cohort_truth import FRAME, MORE, write_cohort, write_images

from terareg.cohort.maps import compare_maps, in_regions, in_slabs, log_ratios, volume_slabs
from terareg.cohort.model import Design, compare
from terareg.core.errors import CohortError
from terareg.core.frames import Frame
from terareg.storage import nrrd
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    samples = write_cohort(folder)
    group = np.array([float(group == "drug") for _, group in samples])
    return folder, [name for name, _ in samples], Design(group, np.ones((len(samples), 1)))


def test_every_voxel_is_what_the_model_says_of_it(cohort):
    folder, samples, design = cohort
    paths = {name: folder / name / "registration/ccf/jacobian.nrrd" for name in samples}
    frame, logs = log_ratios(paths)
    assert frame == FRAME
    made = compare_maps([in_slabs(log) for log in logs], frame, design)
    ratios = np.stack([np.log(nrrd.read_scalar(path)[0]) for path in paths.values()])
    flat = ratios.reshape(len(samples), -1).astype(float)
    expected = compare(design, flat)
    assert np.allclose(made["cohens_d"].reshape(-1), expected.d, atol=1e-4)
    assert np.allclose(made["sd"].reshape(-1), expected.sd, atol=1e-6)
    assert np.allclose(
        made["mean_compared"].reshape(-1), flat[design.group == 1].mean(0), atol=1e-5
    )
    assert made["mean_compared"][MORE].mean() == pytest.approx(np.log(1.5), abs=0.05)
    elsewhere = np.ones(FRAME.shape, bool)
    elsewhere[MORE] = False
    assert made["cohens_d"][MORE].min() > 1 > abs(made["cohens_d"][elsewhere].mean()) * 20


def test_maps_of_cells_are_read_on_the_grid_of_the_atlas(cohort, monkeypatch):
    monkeypatch.setattr(nrrd, "_SLAB_BYTES", 4 * 14 * 16 * 5)  # five planes at a time
    folder, samples, design = cohort
    paths = [folder / name / "cells/cfos/ccf/density.nrrd" for name in samples]
    made = compare_maps([nrrd.image_slabs(path, FRAME) for path in paths], FRAME, design)
    more = made["mean_compared"] - made["mean_reference"]
    assert more[MORE].mean() == pytest.approx(60, abs=3)


def test_images_in_the_atlas_are_read_in_slabs_on_its_grid(cohort):
    folder, samples, design = cohort
    write_images(folder, [(name, ("control", "drug")[n % 2]) for n, name in enumerate(samples)],
                 unseen=samples[3])  # fmt: skip
    volumes = [Volume(Store(str(folder)), f"{name}/atlas_space/ccf/signal") for name in samples]
    seen = np.ones(FRAME.shape, bool)
    slabs = [volume_slabs(volume, FRAME, seen) for volume in volumes]
    made = compare_maps(slabs, FRAME, design)
    whole = np.stack([volume.read(0) for volume in volumes]).astype(float)
    np.testing.assert_allclose(made["mean_compared"], whole[1::2].mean(0), rtol=1e-6)
    assert (made["mean_compared"] - made["mean_reference"])[MORE].mean() == pytest.approx(
        200, abs=3
    )
    assert not seen[0].any() and seen[1:].all(), "one sample has not seen the first plane"
    coarse = Frame((6, 7, 8), (200.0, 200.0, 200.0), (50.0, 50.0, 50.0), "SAR")
    seen = np.ones(coarse.shape, bool)
    (only,) = [planes for _, planes in volume_slabs(volumes[0], coarse, seen)]
    np.testing.assert_allclose(only, whole[0].reshape(6, 2, 7, 2, 8, 2).mean((1, 3, 5)), rtol=1e-6)


def test_voxels_without_spread_have_no_difference():
    alike = np.full(FRAME.shape, 3.0, np.float32)
    design = Design(np.array([0.0, 0, 1, 1]), np.ones((4, 1)))
    made = compare_maps([in_slabs(alike) for _ in range(4)], FRAME, design)
    assert not made["cohens_d"].any() and not made["sd"].any()
    assert (made["mean_reference"] == 3).all()


def test_deformations_on_grids_of_their_own_are_compared_on_the_finest(tmp_path):
    """One box, as registrations make it: the same length, other numbers of voxels."""
    frames = [Frame(shape, tuple(2400.0 / n for n in shape), (-200.0, 50.0, 0.0), "SAR")
              for shape in ((12, 14, 16), (20, 24, 25), (15, 12, 16))]  # fmt: skip
    paths = {}
    for number, frame in enumerate(frames):
        z, y, x = np.meshgrid(*frame.axes_um(), indexing="ij", sparse=True)
        paths[str(number)] = tmp_path / f"{number}.nrrd"
        log = (2e-4 * z - 1e-4 * y + 3e-4 * x + 0.1 * number).astype(np.float32)
        nrrd.write_scalar(paths[str(number)], np.exp(log), frame)
    frame, logs = log_ratios(paths)
    assert frame == nrrd.read_scalar(paths["1"])[1]
    inner = (slice(2, -2),) * 3  # beyond the last node of a coarser grid nothing is known
    for number in (0, 2):
        assert logs[number].shape == frame.shape
        assert np.allclose((logs[number] - logs[1])[inner], 0.1 * (number - 1), atol=1e-5)


def test_what_lies_in_no_region_is_known_on_any_grid(tmp_path, monkeypatch):
    """A ball of regions in an atlas, seen on a coarser grid that begins outside of it."""
    monkeypatch.setattr(nrrd, "_SLAB_BYTES", 4 * 24 * 26 * 5)  # five planes at a time
    atlas = Frame((22, 24, 26), (50.0, 40.0, 40.0), (10.0, 0.0, -20.0), "SAR")
    frame = Frame((9, 9, 9), (170.0, 150.0, 160.0), (-150.0, -100.0, -120.0), "SAR")

    def ball(of):
        z, y, x = np.meshgrid(*of.axes_um(), indexing="ij", sparse=True)
        return (z - 500) ** 2 + (y - 480) ** 2 + (x - 470) ** 2 < 400**2

    nrrd.write_image(tmp_path / "annotation.nrrd", 614454277 * ball(atlas).astype(np.uint32), atlas)
    found = in_regions(tmp_path / "annotation.nrrd", atlas, frame)
    # a voxel's centre is at most half a voxel of the atlas away from what it was compared with
    z, y, x = np.meshgrid(*frame.axes_um(), indexing="ij", sparse=True)
    away = np.sqrt((z - 500) ** 2 + (y - 480) ** 2 + (x - 470) ** 2)
    assert found[away < 400 - 40].all() and not found[away > 400 + 40].any()
    assert found.any() and not found.all()


def test_deformations_in_different_boxes_are_named(tmp_path):
    other = Frame(FRAME.shape, (50.0, 50.0, 50.0), orientation="SAR")
    for name, frame in (("one", FRAME), ("two", other)):
        nrrd.write_scalar(tmp_path / f"{name}.nrrd", np.ones(FRAME.shape, np.float32), frame)
    with pytest.raises(
        CohortError, match=r"'two' and 'one' are in .* voxels of \(50.0, 50.0, 50.0"
    ):
        log_ratios({name: tmp_path / f"{name}.nrrd" for name in ("one", "two")})
