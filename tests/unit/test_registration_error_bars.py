"""Error bars of a registration: large where images say nothing, as large as errors, repeatable."""

import numpy as np
import pytest
import registration_phantom as phantom
from scipy import ndimage

from terareg.registration import checkpoint
from terareg.registration.emlddmm import register
from terareg.registration.error_bars import error_bars
from terareg.registration.images import Image
from terareg.registration.schedule import Hints, Plan
from terareg.registration.settings import RegistrationSettings
from terareg.storage import nrrd

FRAME = phantom.ATLAS_FRAME


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A phantom without its left part, its registration, plan and state."""
    truth = phantom.Truth(phantom.affine_about_centre((3, -4, 2), shift_um=(100, 0, 50)), 300.0)
    whole = truth.sample(noise=0.03)
    data = whole.data.copy()
    # half of the brain is cut away
    data[:13] = 100.0
    sample = Image(data, FRAME, name="sample")
    settings = RegistrationSettings(
        device="cpu", iterations=16, resolution_um=500.0, kernel_um=1500.0, velocity_um=900.0
    )
    start = phantom.affine_about_centre((2, -3, 1))
    path = tmp_path_factory.mktemp("errors") / "state.npz"
    result = register(phantom.atlas(), sample, settings, start, checkpoint=path)
    plan = Plan([phantom.atlas()], [sample], settings, start, Hints())
    state = checkpoint.load(path, None)
    return truth, result, plan, state, error_bars(plan, state)


def test_error_bars_are_large_where_tissue_is_missing_and_as_large_as_errors(case):
    truth, result, _, _, bars = case
    assert bars.deviation_um.shape == result.transform.sample_frame.shape
    grid = phantom.grid(FRAME)
    true = truth.to_atlas(grid)
    tissue = ndimage.binary_erosion(phantom.intensity(true)[1] > 0)
    error = result.transform.to_atlas_grid(FRAME) - true
    index = np.moveaxis(bars.sample_frame.to_index(np.moveaxis(grid, 0, -1)), -1, 0)
    deviation = ndimage.map_coordinates(bars.deviation_um, index, order=1, mode="nearest")
    z = grid[0]
    seen, lost = tissue & (z > FRAME.axes_um()[0][16]), tissue & (z < FRAME.axes_um()[0][9])
    held = np.abs(error[:, seen]) < 1.645 * deviation[seen]
    # the error of one case is a single draw of a smooth field, so the bound is wide
    assert 0.6 < held.mean()
    assert np.median(deviation[lost]) > 1.3 * np.median(deviation[seen])
    assert bars.summary["rest"] < 0.5


def test_ratios_of_volumes_scatter_about_one(case):
    bars = case[-1]
    assert bars.volume_ratios.shape[1:] == bars.frame.shape
    assert bars.volume_ratios.min() > 0
    assert 0.01 < np.log(bars.volume_ratios).std() < 0.5


@pytest.mark.slow
def test_the_same_state_gives_the_same_bars_and_files_hold_them(case, tmp_path):
    _, _, plan, state, bars = case
    again = error_bars(plan, state)
    assert np.array_equal(again.deviation_um, bars.deviation_um)
    assert np.array_equal(again.volume_ratios, bars.volume_ratios)
    assert np.array_equal(again.shifts_um, bars.shifts_um)
    bars.save(tmp_path)
    values, frame = nrrd.read_scalar(tmp_path / "deviation.nrrd")
    assert np.array_equal(values, bars.deviation_um) and frame.shape == bars.sample_frame.shape
    values, frame = nrrd.read_scalar(tmp_path / "shifts.nrrd")
    assert np.array_equal(values.reshape(bars.shifts_um.shape), bars.shifts_um)
    assert frame.shape == bars.part.shape
    # the deviation is that of the draws
    square = np.square(bars.shifts_um).mean((0, 1))
    axes = np.meshgrid(*bars.part.axes_um(), indexing="ij")
    index = bars.sample_frame.to_index(np.stack(axes, -1)[1:-1, 1:-1, 1:-1])
    there = ndimage.map_coordinates(bars.deviation_um, np.moveaxis(index, -1, 0), order=1)
    assert np.median(np.abs(there / np.sqrt(square[1:-1, 1:-1, 1:-1]) - 1)) < 0.05
    values, frame = nrrd.read_scalar(tmp_path / "volume_ratios.nrrd")
    assert np.array_equal(values, bars.volume_ratios)
    assert frame.spacing_um == pytest.approx(bars.frame.spacing_um)


@pytest.mark.slow
def test_an_affine_alone_has_error_bars_too(case):
    _, _, plan, state, _ = case
    alone = error_bars(plan, state, deformed=False)
    assert alone.summary["median_um"] > 0
    assert np.isfinite(alone.deviation_um).all() and alone.deviation_um.min() > 0
