"""Signal per region: sums at full resolution, whatever the pieces, with sides and roll-up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regions_helpers import blocks, toy_atlas

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.regions import signal
from terareg.regions.measure import RegionSums
from terareg.regions.signal import (
    SUMS,
    SUMS_AND_LENGTH,
    check_one_grid,
    signal_sums,
    signal_table,
    voxels_within,
)

FACTOR = (2, 3, 3)


class Held:
    """An array that is read by boxes."""

    def __init__(self, array, spacing_um=(1.0, 1.0, 1.0)):
        self.array, self.frame = array, Frame(array.shape, spacing_um)

    def read(self, start, stop):
        return self.array[tuple(slice(a, b) for a, b in zip(start, stop))]


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 17)] * 3), st.integers(0, 99), st.integers(1, 9))
def test_sums_are_those_of_every_voxel(shape, seed, piece):
    rng = np.random.default_rng(seed)
    mask, channel = rng.integers(0, 2, shape), rng.integers(0, 60000, shape).astype(np.uint16)
    grid = Frame(shape, (1.0, 1.0, 1.0)).downsampled(FACTOR).shape
    counts, sums = np.zeros(grid), np.zeros(grid)
    for index in np.argwhere(mask):
        place = tuple(i // f for i, f in zip(index, FACTOR))
        counts[place] += 1
        sums[place] += channel[tuple(index)]
    found = np.zeros(grid), np.zeros(grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "_PIECE_VOX", piece)
        for box in blocks(grid, (2, 3, 4)):
            part = tuple(slice(a, b) for a, b in zip(*box))
            for whole, of_box in zip(found, signal_sums(Held(mask), Held(channel), box, FACTOR)[0]):
                whole[part] = of_box
    assert np.array_equal(found[0], counts) and np.array_equal(found[1], sums)


def test_the_table_divides_by_the_volume_and_adds_up():
    atlas = toy_atlas()
    rng = np.random.default_rng(2)
    shape = atlas.frame.shape
    counts = rng.integers(0, 18, shape).astype(np.float32)
    brightness = (counts * 100 + rng.integers(0, 50, shape) * (counts > 0)).astype(np.float32)
    sides = rng.integers(0, 3, shape).astype(np.uint8)
    sums = RegionSums(atlas.ids, SUMS, 1.0)
    for start, stop in blocks(shape, (4, 5, 6)):
        part = tuple(slice(a, b) for a, b in zip(start, stop))
        arrays = {"voxels": counts[part], "intensity": brightness[part]}
        sums.add_block(atlas.annotation[part], sides[part], arrays)
    measured = [
        {"id": str(region.id), "scope": scope, "hemisphere": side, "volume_mm3": "0.5",
         "coverage": "1"}
        for region in atlas.ontology for scope in ("own", "tree")
        for side in ("left", "right", "both")
    ]  # fmt: skip
    table = signal_table(RegionSums.from_json(sums.to_json()), measured, atlas.ontology, 0.001)
    rows = {(r["id"], r["scope"], r["hemisphere"]): r for r in table}
    inside = atlas.annotation == 7
    row = rows[7, "own", "both"]
    assert row["signal_mm3"] == pytest.approx(0.001 * counts[inside].sum())
    assert row["signal_percent"] == pytest.approx(0.2 * counts[inside].sum())
    assert row["intensity_per_mm3"] == pytest.approx(2 * brightness[inside].sum())
    assert row["intensity_mean"] == pytest.approx(brightness[inside].sum() / counts[inside].sum())
    left = inside & (sides == 1)
    assert rows[7, "own", "left"]["intensity_sum"] == pytest.approx(brightness[left].sum())
    above = np.isin(atlas.annotation, (1, 7, 10))
    assert rows[10, "tree", "both"]["signal_mm3"] == pytest.approx(0.001 * counts[above].sum())
    assert rows[10, "own", "both"]["intensity_mean"] is None  # it has no voxels of its own


@pytest.mark.slow
def test_lengths_are_summed_by_region_whatever_the_blocks():
    """A fibre along x through two regions, found in pieces of the mask."""
    atlas = toy_atlas()
    frame = Frame((12, 12, 90), (1.0, 1.0, 1.0))
    mask = np.zeros(frame.shape, np.uint32)
    mask[5:8, 5:8, 4:86] = 1
    regions = np.zeros(frame.downsampled(FACTOR).shape, np.uint32)
    regions[:, :, :15], regions[:, :, 15:] = 7, 1
    sides = np.ones(regions.shape, np.uint8)
    tables = []
    for cut, piece in (((6, 4, 30), 256), ((6, 4, 11), 20)):
        sums = RegionSums(atlas.ids, SUMS_AND_LENGTH, 1.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signal, "_PIECE_VOX", piece)
            for box in blocks(regions.shape, cut):
                totals, thick = signal_sums(Held(mask), Held(mask), box, FACTOR, 4.0)
                part = tuple(slice(a, b) for a, b in zip(*box))
                arrays = dict(zip(SUMS_AND_LENGTH, totals))
                sums.add_block(regions[part], sides[part], arrays)
                assert thick == 0
        measured = [
            {"id": region, "scope": "own", "hemisphere": "both", "volume_mm3": 0.5, "coverage": 1}
            for region in (7, 1)
        ]
        tables.append(signal_table(sums, measured, atlas.ontology, 1e-9))
    assert tables[0] == tables[1]
    one, other = tables[0]
    assert one["length_mm"] == pytest.approx(0.041, abs=0.001)
    assert other["length_mm"] == pytest.approx(0.041, abs=0.001)
    assert one["length_mm_per_mm3"] == pytest.approx(2 * one["length_mm"])


def test_regions_must_hold_whole_voxels_of_the_mask():
    mask = Frame((40, 40, 41), (4.0, 2.0, 2.0))
    assert voxels_within(mask.downsampled((1, 2, 4)), mask, "derived.axons") == (1, 2, 4)
    other = Frame((40, 20, 20), (4.0, 4.0, 4.1))
    check_one_grid(mask, mask, "derived.axons.image")
    with pytest.raises(VolumeError, match=r"axons.image: the channel has \(40, 20, 20\) voxels"):
        check_one_grid(mask, other, "derived.axons.image")
    with pytest.raises(VolumeError, match=r"derived.axons: regions of \(40, 20, 20\) voxels"):
        voxels_within(other, mask, "derived.axons")
