"""Images and regions on the grid of an export, against plain loops over voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.exports import slabs
from terareg.exports.slabs import export_frame, export_slabs
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import finish_pyramid, init_volume, write_block

IDS = np.array([0, 1, 997, 614_454_277], np.uint32)


def image(array, spacing, orientation="SAR"):
    return OpenedImage("scan", [Frame(array.shape, spacing, orientation=orientation)], [array])


def whole(source, frame, interpolation, planes=None):
    with pytest.MonkeyPatch.context() as patch:
        if planes is not None:
            patch.setattr(slabs, "slab_planes", lambda plane_bytes: planes)
        parts = list(export_slabs(source, frame, interpolation))
    assert [first for first, _ in parts] == list(np.cumsum([0, *(len(p) for _, p in parts)])[:-1])
    return np.concatenate([part for _, part in parts])


def overlap_along(source, target, axis):
    """Shares of target voxels (rows) that source voxels (columns) fill."""

    def edges(frame):
        first = frame.origin_um[axis] - frame.spacing_um[axis] / 2
        return first + frame.spacing_um[axis] * np.arange(frame.shape[axis] + 1)

    a, b = edges(source), edges(target)
    low = np.maximum(a[None, :-1], b[:-1, None])
    high = np.minimum(a[None, 1:], b[1:, None])
    return np.maximum(0, high - low) / target.spacing_um[axis]


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.sampled_from([7.0, 10.0, 15.0, 25.0, 40.0])] * 3),
    st.integers(0, 999),
    st.integers(1, 3),
)  # fmt: skip
def test_the_id_that_fills_most_of_a_voxel_wins(shape, wanted, seed, planes):
    labels = np.random.default_rng(seed).choice(IDS, shape)
    source = image(labels, (10.0, 10.0, 10.0))
    frame = source.frame.resampled(wanted)
    found = whole(source, frame, "vote", planes)
    assert found.dtype == np.uint32 and found.shape == frame.shape
    shares = [overlap_along(source.frame, frame, axis) for axis in range(3)]
    for index in np.ndindex(*frame.shape):
        weight = np.einsum("i,j,k", *(s[i] for s, i in zip(shares, index)))
        votes = {i: weight[labels == i].sum() for i in IDS}
        assert votes[found[index]] >= max(votes.values()) - 1e-4


def test_of_equal_shares_the_smallest_id_wins():
    labels = np.array([[[997, 1, 614_454_277, 614_454_277]]], np.uint32)
    source = image(labels, (10.0, 10.0, 10.0))
    assert whole(source, source.frame.resampled((10.0, 10.0, 20.0)), "vote").tolist() == [
        [[1, 614_454_277]]
    ]


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(3, 40), st.integers(0, 99),
       st.integers(1, 3))  # fmt: skip
def test_nearest_takes_the_voxel_that_holds_the_centre(shape, spacing, seed, planes):
    labels = np.random.default_rng(seed).choice(IDS, shape)
    source = image(labels, (10.0, 20.0, 5.0))
    frame = source.frame.resampled((spacing,) * 3)
    index = []
    for centre, origin, step, size in zip(
        frame.axes_um(), source.frame.origin_um, source.frame.spacing_um, shape
    ):
        place = (centre - origin) / step + 0.5
        index.append(np.minimum(np.floor(place + 1e-6), size - 1).astype(int))
    np.testing.assert_array_equal(whole(source, frame, "nearest", planes), labels[np.ix_(*index)])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_means_are_those_of_boxes(dtype):
    array = (np.random.default_rng(1).random((8, 12, 16)) * 1000).astype(dtype)
    source = image(array, (10.0, 10.0, 10.0))
    frame = export_frame(source, (20.0, 40.0, 40.0))
    expected = array.reshape(4, 2, 3, 4, 4, 4).astype(float).mean(axis=(1, 3, 5))
    found = whole(source, frame, "mean", 3)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=0.51 if dtype == np.uint16 else 1e-3)


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory):
    """A stored image and stored labels of 40 x 36 x 33 voxels with several levels."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    made = {}
    for kind, dtype in (("image", "uint16"), ("segmentation", "uint32")):
        options = VolumeSettings(chunk=8, block=16, kind=kind)
        plan = make_plan(kind, Frame((40, 36, 33), (10.0,) * 3), dtype, options)
        init_volume(store, kind, plan, {})
        values = np.random.default_rng(2).integers(0, 900, (40, 36, 33)).astype(dtype)
        for block in plan.blocks():
            box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
            write_block(store, kind, plan, block, values[box].copy(), fingerprint="f")
        finish_pyramid(store, kind, plan)
        made[kind] = Volume(store, kind)
    return made


@pytest.mark.parametrize("kind, interpolation", [("image", "mean"), ("segmentation", "vote")])
def test_a_grid_that_a_level_has_is_that_level(pyramids, kind, interpolation):
    source = pyramids[kind]
    for resolution, level in ((None, 0), ((10.0,) * 3, 0), ((20.0,) * 3, 1), ((40.0,) * 3, 2)):
        frame = export_frame(source, resolution)
        np.testing.assert_array_equal(
            whole(source, frame, interpolation, 5), source.read(level), str(resolution)
        )


def test_slabs_do_not_show(pyramids):
    for kind, how in (("image", "mean"), ("image", "nearest"), ("segmentation", "vote")):
        frame = export_frame(pyramids[kind], (25.0, 30.0, 35.0))
        once = whole(pyramids[kind], frame, how)
        for planes in (1, 3):
            np.testing.assert_array_equal(whole(pyramids[kind], frame, how, planes), once)


def test_cubes_have_the_longest_edge():
    source = image(np.zeros((4, 10, 10), np.uint8), (50.0, 10.0, 20.0), "PIR")
    frame = export_frame(source, None, isotropic=True)
    assert frame.spacing_um == (50.0, 50.0, 50.0) and frame.shape == (4, 2, 4)
    assert frame.orientation == "PIR"
    assert export_frame(source, None) == source.frame


def test_means_that_the_type_cannot_hold_are_counted():
    array = np.zeros((1, 1, 12), np.uint8)
    array[..., 4:8] = 255
    clipped = []
    source = image(array, (10.0, 10.0, 10.0))
    frame = export_frame(source, (10.0, 10.0, 7.0))
    ((_, slab),) = export_slabs(source, frame, "mean", clipped=clipped)
    exact, _ = source.resampled(frame)
    assert sum(c.high for c in clipped) == np.count_nonzero(np.rint(exact) > 255) > 0
    assert slab.max() == 255


def test_a_resolution_that_is_finer_than_the_source_is_refused():
    source = image(np.zeros((4, 10, 10), np.uint8), (50.0, 10.0, 20.0))
    with pytest.raises(VolumeError, match=r"scan has voxels of 50 x 10 x 20 um.*5 x 5 x 5.*raise"):
        export_frame(source, (5.0, 5.0, 5.0))
    # along one axis it is wanted by whoever wants cubes
    assert export_frame(source, (10.0, 10.0, 10.0)).shape == (20, 10, 20)
