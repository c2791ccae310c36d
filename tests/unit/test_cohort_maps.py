"""Maps in the atlas: planes at a time are the whole at once."""

from __future__ import annotations

import numpy as np
import pytest
from cohort_truth import FRAME, MORE, write_cohort

from terareg.cohort.maps import common_frame, compare_maps, log_ratio
from terareg.cohort.model import Design, compare
from terareg.core.errors import CohortError
from terareg.core.frames import Frame
from terareg.storage import nrrd


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    samples = write_cohort(folder)
    group = np.array([float(group == "drug") for _, group in samples])
    return folder, [name for name, _ in samples], Design(group, np.ones((len(samples), 1)))


def test_every_voxel_is_what_the_model_says_of_it(cohort, monkeypatch):
    folder, samples, design = cohort
    monkeypatch.setattr(nrrd, "_SLAB_BYTES", 4 * 14 * 16 * 5)  # five planes at a time
    paths = {name: folder / name / "registration/ccf/jacobian.nrrd" for name in samples}
    assert common_frame(paths) == FRAME
    made = compare_maps(list(paths.values()), FRAME, design, log_ratio)
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


def test_maps_of_cells_are_read_on_the_grid_of_the_atlas(cohort):
    folder, samples, design = cohort
    paths = [folder / name / "cells/cfos/ccf/density.nrrd" for name in samples]
    made = compare_maps(paths, FRAME, design)
    more = made["mean_compared"] - made["mean_reference"]
    assert more[MORE].mean() == pytest.approx(60, abs=3)


def test_voxels_without_spread_have_no_difference(tmp_path):
    for n in range(4):
        nrrd.write_scalar(tmp_path / f"{n}.nrrd", np.full(FRAME.shape, 3.0, np.float32), FRAME)
    design = Design(np.array([0.0, 0, 1, 1]), np.ones((4, 1)))
    made = compare_maps([tmp_path / f"{n}.nrrd" for n in range(4)], FRAME, design)
    assert not made["cohens_d"].any() and not made["sd"].any()
    assert (made["mean_reference"] == 3).all()


def test_maps_on_different_grids_are_named(tmp_path):
    other = Frame(FRAME.shape, (50.0, 50.0, 50.0), orientation="SAR")
    for name, frame in (("one", FRAME), ("two", other)):
        nrrd.write_scalar(tmp_path / f"{name}.nrrd", np.ones(FRAME.shape, np.float32), frame)
    with pytest.raises(
        CohortError, match=r"those of 'two' have \(12, 14, 16\) of \(50.0, 50.0, 50.0\)"
    ):
        common_frame({name: tmp_path / f"{name}.nrrd" for name in ("one", "two")})
