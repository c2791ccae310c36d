"""Volumes of regions in draws of a registration's error: exact for affine changes, rolled up."""

import numpy as np
import pytest
from regions_helpers import toy_atlas

from terareg.core.frames import Frame
from terareg.regions.measure import RegionSums, region_coverage, region_table
from terareg.regions.volume_errors import interval, volume_draws
from terareg.registration.transform import Transform

ATLAS = toy_atlas()
TRANSFORM = Transform.from_affine(np.diag([1.1, 0.9, 1.2, 1.0]), ATLAS.frame, ATLAS.frame)
# a field of ratios on a coarser grid that reaches beyond the atlas
FIELD = Frame((8, 8, 9), (45.0, 45.0, 45.0), (-40.0, -40.0, -40.0), "RIP")


def ratios():
    z = FIELD.axes_um()[0]
    slope = 1 + 0.001 * (z - ATLAS.frame.centre_um[0])
    field = np.broadcast_to(slope[:, None, None], FIELD.shape)
    return np.stack([np.full(FIELD.shape, 1.1), np.full(FIELD.shape, 1 / 1.1), field, 2 - field])


def test_volumes_of_draws_are_sums_of_ratios_over_the_voxels_of_a_region():
    draws = volume_draws(TRANSFORM, ratios().astype(np.float32), FIELD, ATLAS)
    labels, z = ATLAS.annotation, ATLAS.frame.axes_um()[0][:, None, None]
    slope = np.broadcast_to(1 + 0.001 * (z - ATLAS.frame.centre_um[0]), labels.shape)
    for region in (1, 7, 2**32 - 1):
        volumes = sum(v for (i, _), v in draws.items() if i == region)
        relative = volumes / volumes[0]
        inside = slope[labels == region]
        expected = [1, 1.1, 1 / 1.1, inside.mean(), 2 - inside.mean()]
        assert relative == pytest.approx(expected, rel=1e-5)
    assert all(region for region, _ in draws)


def test_the_table_has_intervals_and_parents_add_draws_not_deviations():
    draws = volume_draws(TRANSFORM, ratios().astype(np.float32), FIELD, ATLAS)
    sums = RegionSums(ATLAS.ids, (), ATLAS.frame.voxel_volume_um3)
    sums.add_block(ATLAS.annotation, ATLAS.hemispheres, {})
    coverage = region_coverage(TRANSFORM, ATLAS, ATLAS.frame)
    rows = region_table(sums, ATLAS.ontology, coverage, draws)
    row = next(r for r in rows if (r["id"], r["scope"], r["hemisphere"]) == (10, "tree", "both"))
    both = sum(v for (i, _), v in draws.items() if i in (1, 7))
    deviation = np.sqrt(np.mean(np.log(both[1:] / both[0]) ** 2))
    assert row["volume_sd_mm3"] == pytest.approx(row["volume_mm3"] * deviation)
    assert row["volume_low_mm3"] < row["volume_mm3"] < row["volume_high_mm3"]
    without = region_table(sums, ATLAS.ontology, coverage)
    assert "volume_sd_mm3" not in without[0]


def test_nine_in_ten_intervals_of_few_draws_hold_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        draws = np.exp(np.append(0, 0.1 * rng.standard_normal(8)))
        _, low, high = interval(5.0, draws)
        held += low <= 5.0 * np.exp(0.1 * rng.standard_normal()) <= high
    assert 0.87 < held / 2000 < 0.93
