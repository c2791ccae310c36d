"""Reading: levels for a resolution, averaging onto other grids, division by a bias field."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes import reader
from terareg.volumes.correction import correct_block
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SLOPE = (0.7, -0.2, 0.4)


def stored(folder, array, frame, **changes):
    options = {"chunk": 16, "block": 64, "formats": ("ome-zarr",), **changes}
    plan = make_plan("v", frame, str(array.dtype), VolumeSettings(**options))
    store = Store(str(folder))
    init_volume(store, "v", plan)
    write_blocks(
        store, "v", plan, plan.blocks(),
        lambda b: (array[tuple(slice(i, j) for i, j in zip(b.start, b.stop))].copy(), Clipped()),
        fingerprint="f",
    )  # fmt: skip
    finish_pyramid(store, "v", plan)
    return Volume(store, "v")


def ramp(frame):
    z, y, x = np.meshgrid(*frame.axes_um(), indexing="ij", sparse=True)
    return (100 + SLOPE[0] * z + SLOPE[1] * y + SLOPE[2] * x).astype(np.float32)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    frame = Frame((40, 96, 80), (4.0, 1.0, 1.0), (7.0, -3.0, 11.5))
    return stored(tmp_path_factory.mktemp("linear"), ramp(frame), frame)


# ---------------------------------------------------------------- position is preserved
@pytest.mark.parametrize("spacing", [4.0, 5.0, 6.3, 8.0, 11.0, (9.0, 4.5, 7.7)])
def test_a_linear_ramp_stays_where_it_is(linear, spacing):
    """D36: no shift of half a voxel between levels, grids and the origin."""
    array, frame = linear.resampled(spacing, workers=2)
    assert array.shape == frame.shape and array.dtype == np.float32
    expected = ramp(frame)
    inside = np.ones(frame.shape, bool)
    for axis in range(3):
        # the last voxel may reach out of the volume: the mean of what is inside
        last = linear.frame.origin_um[axis] + linear.frame.spacing_um[axis] * (
            linear.frame.shape[axis] - 0.5
        )
        beyond = frame.axes_um()[axis] + frame.spacing_um[axis] / 2 > last + 1e-6
        inside[(slice(None),) * axis + (beyond,)] = False
    assert inside.mean() > 0.5
    assert np.abs(array - expected)[inside].max() < 1e-3


def test_a_ramp_on_a_grid_of_its_own(linear):
    frame = Frame((9, 20, 15), (7.0, 3.0, 3.0), (30.0, 12.3, 21.7))
    array, same = linear.resampled(frame)
    assert same is frame
    assert np.abs(array - ramp(frame)).max() < 1e-3


def test_levels_of_a_ramp_lie_on_their_frames(linear):
    for level in range(linear.levels):
        assert np.abs(linear.read(level) - ramp(linear.level_frame(level))).max() < 1e-3


def test_whole_ratios_are_block_means_also_at_odd_ends(tmp_path):
    values = np.random.default_rng(0).integers(0, 4000, (9, 21, 17)).astype(np.uint16)
    volume = stored(tmp_path, values, Frame(values.shape, (1.0,) * 3), chunk=32, block=32)
    exact, frame = volume.resampled(3.0)
    assert frame.shape == (3, 7, 6) and frame.origin_um == (1.0, 1.0, 1.0)
    for index in np.ndindex(*frame.shape):
        cell = values[tuple(slice(3 * i, 3 * i + 3) for i in index)]
        assert abs(exact[index] - cell.mean()) < 1e-3


def test_outside_is_zero_and_partly_outside_is_the_mean_inside(tmp_path):
    values = np.full((8, 8, 8), 500, np.uint16)
    volume = stored(tmp_path, values, Frame(values.shape, (2.0,) * 3))
    array, _ = volume.resampled(Frame((6, 6, 6), (5.0,) * 3, (-6.0, -6.0, -6.0)))
    # voxels along an axis span -8.5 to -3.5, -3.5 to 1.5, ..., 16.5 to 21.5; the volume -1 to 15
    expected = np.zeros((6, 6, 6))
    expected[1:5, 1:5, 1:5] = 500
    np.testing.assert_allclose(array, expected, atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(1.0, 9.0), st.integers(0, 99))
def test_means_are_conserved(shape, spacing, seed):
    rng = np.random.default_rng(seed)
    values = rng.random(shape) * 100
    source = Frame(shape, (1.0, 2.0, 0.5))
    target = source.resampled((spacing,) * 3)
    out, inside = values, np.ones(target.shape)
    for axis in range(3):
        weights = reader.AxisWeights(source, source, target, axis)
        first, matrix = weights.rows(slice(0, target.shape[axis]))
        assert first == 0 and matrix.shape[1] == shape[axis]
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        out = reader.apply_along(matrix, out, axis)
        extent = shape[axis] * source.spacing_um[axis]
        lengths = np.minimum(extent, spacing * np.arange(1, target.shape[axis] + 1))
        inside = inside * np.diff(lengths, prepend=0).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
    np.testing.assert_allclose((out * inside).sum(), values.sum(), rtol=1e-9)


def test_blocks_of_the_target_do_not_show(linear, monkeypatch):
    whole, _ = linear.resampled(5.0)
    monkeypatch.setattr(reader, "_BLOCK_VOXELS", 500)
    np.testing.assert_array_equal(linear.resampled(5.0, workers=3)[0], whole)


def test_unsigned_volumes_stay_positive(tmp_path):
    values = np.zeros((12, 12, 12), np.uint16)
    values[::3] = 60000
    volume = stored(tmp_path, values, Frame(values.shape, (1.0,) * 3))
    assert volume.resampled(1.3)[0].min() >= 0


# ---------------------------------------------------------------- levels and boxes
def test_level_for_is_never_coarser_than_asked(linear, caplog):
    """D26: the level that is read follows the resolution asked for, and never surprises."""
    spacings = [linear.level_frame(i).spacing_um for i in range(linear.levels)]
    assert spacings[:4] == [(4, 1, 1), (4, 2, 2), (4, 4, 4), (8, 8, 8)]
    assert [linear.level_for(r) for r in (4.0, 7.9, 8.0, 1000.0)] == [2, 2, 3, linear.levels - 1]
    assert linear.level_for(2.0) == 1, "z is coarser than asked at every level"
    assert linear.level_for((8.0, 2.0, 2.0)) == 1
    with caplog.at_level(logging.WARNING):
        assert linear.level_for(0.5) == 0
    assert "no level is as fine as" in caplog.text


def test_boxes(linear):
    whole = linear.read(0)
    np.testing.assert_array_equal(linear.read(0, (3, 60, 2), (39, 70, 80)), whole[3:39, 60:70, 2:])
    assert linear.read(1, (0, 0, 0), (0, 4, 4)).shape == (0, 4, 4)
    with pytest.raises(VolumeError, match=r"box .*beyond level 0 of v, whose shape is"):
        linear.read(0, (0, 0, 0), (41, 2, 2))
    with pytest.raises(VolumeError, match="has levels 0 to 4, not 9"):
        linear.read(9)
    with pytest.raises(VolumeError, match="resolution -1 um is impossible"):
        linear.resampled(-1)
    with pytest.raises(VolumeError, match="has orientation SAR, not RIP"):
        linear.resampled(Frame((2, 2, 2), (9.0,) * 3, orientation="RIP"))


def test_labels_have_no_mean(tmp_path):
    values = np.full((8, 8, 8), 614454277, np.uint32)
    volume = stored(tmp_path, values, Frame(values.shape, (2.0,) * 3), kind="segmentation")
    assert (volume.read(0) == 614454277).all()
    with pytest.raises(VolumeError, match="contains labels, which cannot be averaged"):
        volume.resampled(4.0)


# ---------------------------------------------------------------- correction
def bias(frame):
    z, y, x = np.meshgrid(*frame.axes_um(), indexing="ij", sparse=True)
    return np.exp(0.004 * z - 0.002 * y + 0.003 * x).astype(np.float32)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_blocks_are_divided_by_the_field_and_never_wrap(tmp_path, dtype, level):
    """D4 to D8: edges keep their value, integers clip, the source is not touched."""
    top = {"uint8": 255, "uint16": 65535, "float32": 9000}[dtype]
    values = (np.random.default_rng(0).random((30, 41, 37)) ** 2 * top).astype(dtype)
    values[:, -1] = values[:, :, -1] = top
    volume = stored(tmp_path, values, Frame(values.shape, (5.0, 2.0, 1.0), (3.0, 0, 0)), block=16)
    before, frame = volume.read(level), volume.level_frame(level)
    exact = before.astype(np.float64) / bias(frame)
    limit = np.inf if dtype == "float32" else top
    clipped = Clipped()
    for block in make_plan("corrected", frame, dtype, volume.plan.settings).blocks():
        out, more = correct_block(volume, level, bias, block)
        clipped += more
        where = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        tolerance = 0.51 if dtype != "float32" else 0.01
        assert out.dtype == dtype
        assert np.abs(out - np.minimum(exact[where], limit)).max() < tolerance
    assert clipped.low == 0
    assert abs(clipped.high - np.count_nonzero(np.rint(exact) > limit)) <= 2
    np.testing.assert_array_equal(volume.read(level), before)


def test_fields_that_cannot_be_are_named(tmp_path):
    values = np.ones((8, 8, 8), np.uint16)
    volume = stored(tmp_path, values, Frame(values.shape, (2.0,) * 3))
    block = volume.plan.blocks()[0]
    with pytest.raises(VolumeError, match="bias field of v is not positive in block 0_0_0"):
        correct_block(volume, 0, lambda f: np.zeros(f.shape, np.float32), block)
    with pytest.raises(VolumeError, match=r"bias field has shape \(1,\)"):
        correct_block(volume, 0, lambda f: np.ones(1, np.float32), block)
