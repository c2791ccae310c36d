"""Counts of points per region: against a plain count, with roll-up, hemispheres and densities."""

import numpy as np
import pytest
from regions_helpers import AffineMap, rotation, toy_atlas

from terareg.atlas.prepare import make_atlas
from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.regions.counts import count_table
from terareg.regions.drawn_regions import Shifts
from terareg.regions.measure import RegionSums, region_coverage, region_table
from terareg.regions.points import located_in_atlas
from terareg.storage.records import read_table, write_table


def measured(atlas, tmp_path):
    """The region table as the workflow writes it, for a sample that is the atlas."""
    sums = RegionSums(atlas.ids, (), atlas.frame.voxel_volume_um3)
    index = np.arange(atlas.frame.shape[0])[:, None, None]
    right = np.broadcast_to(index >= 6, atlas.frame.shape)
    sums.add_block(atlas.annotation, np.where(right, 2, 1).astype(np.uint8), {})
    coverage = region_coverage(AffineMap(), atlas, atlas.frame)
    write_table(tmp_path / "r.tsv", region_table(sums, atlas.ontology, coverage))
    return read_table(tmp_path / "r.tsv")


def test_every_point_is_counted_once_in_its_region_and_in_those_above(tmp_path):
    atlas = toy_atlas()
    rng = np.random.default_rng(1)
    points = rng.uniform(-30, 280, (5000, 3))
    where, ids, sides = located_in_atlas(points, AffineMap(), atlas)
    assert np.array_equal(where, points)
    table = count_table((ids, sides), measured(atlas, tmp_path), atlas.ontology)
    rows = {(r["id"], r["scope"], r["hemisphere"]): r for r in table}
    for region in atlas.ids[1:].tolist():
        for side in ("left", "right"):
            wanted = sum(i == region and s == side for i, s in zip(ids.tolist(), sides))
            assert rows[region, "own", side]["count"] == wanted
        assert rows[region, "own", "both"]["count"] == np.count_nonzero(ids == region) > 0
    assert rows[10, "tree", "both"]["count"] == np.count_nonzero(np.isin(ids, (10, 1, 7)))
    own = sum(r["count"] for r in table if r["scope"] == "own" and r["hemisphere"] == "both")
    assert own == len(points), "nothing is lost or counted twice"
    assert rows[0, "own", "both"]["count"] == np.count_nonzero(ids == 0) > 0
    row = rows[1, "own", "both"]
    volume = np.count_nonzero(atlas.annotation == 1) * atlas.frame.voxel_volume_um3 / 1e9
    assert row["volume_mm3"] == pytest.approx(volume, rel=1e-8)
    assert row["per_mm3"] == pytest.approx(row["count"] / volume)
    assert (row["acronym"], row["coverage"]) == ("A1", 1.0)


def test_no_points_are_a_table_of_zeros(tmp_path):
    atlas = toy_atlas()
    table = count_table((np.zeros(0, np.uint32), []), measured(atlas, tmp_path), atlas.ontology)
    assert {r["count"] for r in table} == {0} and len(table) > 20


def test_a_region_that_the_table_lacks_is_an_error(tmp_path):
    atlas = toy_atlas()
    rows = [r for r in measured(atlas, tmp_path) if r["id"] != "7"]
    with pytest.raises(PointsError, match="2 points are in region 7, which is not in the table"):
        count_table((np.array([7, 7, 1], np.uint32), ["left"] * 3), rows, atlas.ontology)


def test_points_are_carried_in_parts_as_they_are_in_one(monkeypatch):
    atlas, transform = toy_atlas(), AffineMap(rotation())
    points = np.random.default_rng(0).uniform(0, 250, (1000, 3))
    whole = located_in_atlas(points, transform, atlas)
    monkeypatch.setattr("terareg.regions.points._AT_ONCE", 77)
    parts = located_in_atlas(points, transform, atlas)
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])
    assert whole[2] == parts[2] and set(whole[2]) == {"left", "right", ""}
    none = located_in_atlas(np.zeros((0, 3)), transform, atlas)
    assert none[0].shape == (0, 3) and none[2] == []


def test_counts_near_a_border_that_may_lie_elsewhere_have_an_interval_that_holds_the_truth():
    """Two halves, whose border is moved by errors of 6 um; 40 % of points lie within 12 um."""
    annotation = np.ones((40, 8, 8), np.uint32)
    annotation[20:] = 7
    frame = Frame(annotation.shape, (5.0, 25.0, 25.0), orientation="RIP")
    atlas = make_atlas(annotation, frame, toy_atlas().ontology)
    measured = [
        {"id": i, "scope": "own", "hemisphere": "both", "volume_mm3": 1.0, "coverage": 1.0}
        for i in (1, 7)
    ]
    rng = np.random.default_rng(5)
    border = frame.origin_um[0] + 19.5 * 5
    grid, held = Frame((2, 2, 2), (195.0, 175.0, 175.0)), 0
    for _ in range(60):
        points = np.column_stack([rng.uniform(border - 30, border + 30, 400),
                                  rng.uniform(0, 175, (400, 2))])  # fmt: skip
        shifts = np.zeros((12, 3, 2, 2, 2), np.float32)
        shifts[:, 0] = rng.normal(0, 6, (12, 1, 1, 1))
        drawn = list(Shifts(shifts, grid).regions(points, AffineMap(), atlas))
        assert len(drawn) == 24 and not np.array_equal(drawn[0][0], drawn[1][0])
        _, ids, sides = located_in_atlas(points, AffineMap(), atlas)
        rows = count_table((ids, sides), measured, atlas.ontology, drawn)
        assert list(rows[0])[7:10] == ["count", "count_low", "count_high"]
        assert rows[0]["count"] + rows[1]["count"] == 400 and rows[2]["count"] == 0
        true = np.count_nonzero(points[:, 0] - rng.normal(0, 6) < border)
        held += rows[0]["count_low"] <= true <= rows[0]["count_high"]
    assert 0.8 < held / 60 < 0.99


def test_a_registration_without_errors_leaves_no_interval():
    atlas, points = toy_atlas(), np.random.default_rng(0).uniform(0, 250, (300, 3))
    still = Shifts(np.zeros((2, 3, 2, 2, 2), np.float32), Frame((2, 2, 2), (99.0, 99.0, 99.0)))
    _, ids, sides = located_in_atlas(points, AffineMap(), atlas)
    for other, its_sides in still.regions(points, AffineMap(), atlas):
        assert np.array_equal(other, ids) and its_sides == sides
    rows = [
        {"id": i, "scope": "own", "hemisphere": "both", "volume_mm3": 1.0, "coverage": 1.0}
        for i in atlas.ids[1:].tolist()
    ]
    drawn = still.regions(points, AffineMap(), atlas)
    for row in count_table((ids, sides), rows, atlas.ontology, drawn):
        assert row["count_low"] == row["count"] == row["count_high"]
