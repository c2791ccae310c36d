"""Sizes of a sample from its metadata."""

from __future__ import annotations

import pytest
from planned_samples import brain

from terareg.core.extents import Extent, Size

SIZE = Size(60, 107, 2, (2000, 2048, 2048), (2000, 12000, 18000))


def test_a_terabyte_has_the_sizes_that_it_has():
    assert SIZE.channel_gb == pytest.approx(1006, rel=0.01)
    assert SIZE.tile_gb == pytest.approx(16.8, rel=0.01)


def test_an_extent_averaged_to_a_resolution_keeps_coarser_axes():
    extent = Extent((100, 200, 200), (5.0, 1.0, 1.0))
    assert extent.length_um == 500 and extent.megavoxels == 4
    assert extent.at(2.0) == pytest.approx(1.0), "z is coarser already"
    assert extent.at(10.0) == pytest.approx(4 / (2 * 10 * 10))


def test_the_volume_without_bias_has_the_level_that_is_asked_for():
    sample = brain(intensity={"bias": {"volume_um": None}})
    assert sample.corrected == sample.grid
    coarse = brain(intensity={"bias": {"volume_um": 10.0}})
    assert max(coarse.corrected.spacing_um) <= 10 < 2 * max(coarse.corrected.spacing_um)
