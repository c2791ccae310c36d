"""Counts of blocks, merged, are those of NumPy and scikit-image on the whole volume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import blocks_of
from skimage.measure import regionprops

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.objects.counting import (
    count_block,
    merge_counts,
    object_rows,
    region_rows,
)

IDS = np.array([0, 3, 614454277, 2**32 - 1], np.uint32)


def counted(labels, edge, image=None, regions=None):
    tables = []
    for block in blocks_of(labels.shape, edge):
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        parts = [None if a is None else a[box] for a in (image, regions)]
        tables.append(count_block(labels[box], block.start, *parts))
    return merge_counts(tables)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 11)] * 3), st.tuples(*[st.integers(1, 6)] * 3),
       st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))  # fmt: skip
def test_any_blocks_against_regionprops(shape, edge, seed, dtype):
    rng = np.random.default_rng(seed)
    labels = IDS[rng.integers(0, len(IDS), shape)]
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    frame = Frame(shape, (3.0, 2.0, 1.0), (10.0, 20.0, -5.0))
    rows = list(object_rows(counted(labels, edge, image), frame))
    ids, counts = np.unique(labels[labels > 0], return_counts=True)
    assert [r["label"] for r in rows] == ids.tolist()
    assert [r["voxels"] for r in rows] == counts.tolist()
    compact = np.searchsorted(IDS, labels)
    for row, region in zip(rows, regionprops(compact, image)):
        values = image[labels == row["label"]].astype(object)
        assert (
            row["sum"] == values.sum() and row["min"] == values.min() and row["max"] == values.max()
        )
        assert row["mean"] == pytest.approx(region.intensity_mean, rel=1e-12)
        assert row["sd"] == pytest.approx(values.astype(float).std(), rel=1e-9, abs=1e-9)
        centre = [row[f"centroid_{a}_um"] for a in "zyx"]
        assert centre == pytest.approx(frame.to_um(np.array(region.centroid)))
        low, high = ([row[f"{a}_{end}"] for a in "zyx"] for end in ("min", "max"))
        assert tuple(low + high) == region.bbox
        assert row["volume_um3"] == row["voxels"] * 6


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 11)] * 3), st.tuples(*[st.integers(1, 6)] * 3),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_regions_of_any_blocks(shape, edge, seed):
    rng = np.random.default_rng(seed)
    labels = IDS[rng.integers(0, len(IDS), shape)]
    regions = np.array([0, 5, 2**32 - 1], np.uint32)[rng.integers(0, 3, shape)]
    frame = Frame(shape, (1.0, 1.0, 1.0))
    table = counted(labels, edge, regions=regions)
    homes = {}
    for label in np.unique(labels[labels > 0]):
        names, counts = np.unique(regions[labels == label], return_counts=True)
        homes[label] = names[counts.argmax()], counts.max() / counts.sum()
    if regions[labels > 0].any():
        for row in object_rows(table, frame):
            assert (row["region"], row["region_share"]) == pytest.approx(homes[row["label"]])
    for row in region_rows(table, frame):
        inside = (regions == row["region"]) & (labels > 0)
        assert row["voxels"] == inside.sum()
        assert row["objects"] == sum(home == row["region"] for home, _ in homes.values())


def test_sums_of_squares_beyond_64_bits_are_exact():
    """2^34 voxels of 65535: their squares add up to more than 2^64."""
    labels, image = np.ones((1, 1, 2), np.uint32), np.array([[[65535, 65533]]], np.uint16)
    table = count_block(labels, (0, 0, 0), image)
    for _ in range(33):
        table = merge_counts([table, table])
    (row,) = object_rows(table, Frame((1, 1, 2), (1, 1, 1)))
    assert row["voxels"] == 2**34 and row["sum"] == 65534 * 2**34
    assert row["mean"] == 65534 and row["sd"] == 1


def test_floating_point_intensities():
    values = np.random.default_rng(0).random((4, 5, 6), np.float32)
    labels = np.ones(values.shape, np.uint32)
    (row,) = object_rows(counted(labels, (3, 2, 4), values), Frame(values.shape, (1, 1, 1)))
    assert row["mean"] == pytest.approx(values.mean(dtype=float))
    assert row["sd"] == pytest.approx(values.std(dtype=float))
    assert row["max"] == values.max()


def test_background_alone_has_no_rows():
    table = counted(np.zeros((3, 3, 3), np.uint32), (2, 2, 2))
    assert list(object_rows(table, Frame((3, 3, 3), (1, 1, 1)))) == []
    assert list(region_rows(table, Frame((3, 3, 3), (1, 1, 1)))) == []


def test_errors():
    with pytest.raises(
        VolumeError, match=r"image have shape \(2, 2, 1\) but the labels have \(2, 2, 2\)"
    ):
        count_block(np.zeros((2, 2, 2), np.uint32), (0, 0, 0), np.zeros((2, 2, 1)))
    with pytest.raises(VolumeError, match="no blocks to count"):
        merge_counts([])
