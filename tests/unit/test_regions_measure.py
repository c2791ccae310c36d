"""Region table: exact, independent of the cutting, nothing left out (D37, F4, F5)."""

import csv

import numpy as np
import pytest
from regions_helpers import BIG_IDS, AffineMap, blocks, rotation, toy_atlas

from terareg.atlas.ontology import Ontology, Structure
from terareg.atlas.prepare import make_atlas
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.regions.labels import region_block
from terareg.regions.measure import (
    RegionSums,
    load_sums,
    region_coverage,
    region_table,
    save_sums,
)
from terareg.storage.records import write_table

SAMPLE = Frame((13, 12, 17), (20.0, 22.0, 18.0), (-10.0, 5.0, 0.0))
CHANNELS = ("red", "green")


@pytest.fixture(scope="module")
def case():
    atlas, transform = toy_atlas(), AffineMap(rotation())
    labels, sides = region_block(transform, atlas, SAMPLE)
    rng = np.random.default_rng(5)
    channels = {
        "red": rng.integers(0, 65536, SAMPLE.shape).astype(np.uint16),
        "green": rng.integers(0, 256, SAMPLE.shape).astype(np.uint8),
    }
    channels["green"][labels == 7] = 0
    return atlas, transform, labels, sides, channels


def measured(case, block=SAMPLE.shape):
    atlas, _, labels, sides, channels = case
    parts = []
    for start, stop in blocks(SAMPLE.shape, block):
        box = tuple(slice(a, b) for a, b in zip(start, stop))
        sums = RegionSums(atlas.ids, CHANNELS, SAMPLE.voxel_volume_um3)
        sums.add_block(labels[box], sides[box], {k: v[box] for k, v in channels.items()})
        parts.append(sums)
    return parts


def table(case, sums):
    atlas, transform = case[:2]
    rows = region_table(sums, atlas.ontology, region_coverage(transform, atlas, SAMPLE))
    return {(r["id"], r["scope"], r["hemisphere"]): r for r in rows}


def test_table_equals_plain_numpy(case):
    _, _, labels, sides, channels = case
    rows = table(case, measured(case)[0])
    tree = {10: [1, 7], 20: [312782632]}
    for region, scope in [(i, "own") for i in BIG_IDS] + [(i, "tree") for i in (10, 20, *BIG_IDS)]:
        ids = tree.get(region, [region])
        for hemisphere, codes in (("left", [1]), ("right", [2]), ("both", [0, 1, 2])):
            row = rows[region, scope, hemisphere]
            mask = np.isin(labels, ids) & np.isin(sides, codes)
            assert row["voxels"] == mask.sum() > 0
            assert row["volume_mm3"] == pytest.approx(mask.sum() * SAMPLE.voxel_volume_um3 / 1e9)
            for name in CHANNELS:
                values = channels[name][mask].astype(np.float64)
                assert row[f"{name}_sum"] == int(values.sum())
                assert row[f"{name}_mean"] == pytest.approx(values.mean(), rel=1e-14)
                assert row[f"{name}_sd"] == pytest.approx(values.std(), rel=1e-12, abs=1e-12)
                assert row[f"{name}_min"] == values.min() and row[f"{name}_max"] == values.max()
    assert (10, "own", "both") not in rows


def test_floating_point_channels_equal_plain_numpy(case):
    atlas, transform, labels, sides, _ = case
    values = np.random.default_rng(6).normal(-3, 1e4, SAMPLE.shape).astype(np.float32)
    whole, part = (
        measured((atlas, transform, labels, sides, {"red": values, "green": values * 0 + 2.5}), b)
        for b in (SAMPLE.shape, (5, 7, 6))
    )
    for other in part[1:]:
        part[0].merge(other)
    rows, cut = table(case, whole[0]), table(case, part[0])
    mask = (labels == 7) & (sides == 1)
    row = rows[7, "own", "left"]
    inside = values[mask].astype(np.float64)
    assert row["red_mean"] == pytest.approx(inside.mean(), rel=1e-12)
    assert row["red_sd"] == pytest.approx(inside.std(), rel=1e-12)
    assert (row["red_min"], row["red_max"]) == (inside.min(), inside.max())
    assert (row["green_mean"], row["green_sd"]) == (2.5, 0)
    for key, row in rows.items():
        for name, value in row.items():
            assert cut[key][name] == (
                pytest.approx(value, rel=1e-9) if name[:4] == "red_" else value
            )


def test_both_is_the_sum_of_sides_and_tree_the_sum_of_children(case):
    rows = table(case, measured(case)[0])
    for key in ("voxels", "red_sum", "atlas_volume_mm3"):
        for region, scope in {k[:2] for k in rows}:
            left, right, both = (rows[region, scope, h][key] for h in ("left", "right", "both"))
            assert left + right == pytest.approx(both)
        for side in ("left", "right", "both"):
            children = rows[1, "tree", side][key] + rows[7, "tree", side][key]
            assert rows[10, "tree", side][key] == pytest.approx(children)


@pytest.mark.parametrize("block", [(1, 12, 17), (5, 5, 5), (4, 12, 3)])
def test_any_cutting_order_and_batching_gives_the_same_bytes(case, tmp_path, block):
    whole = measured(case)[0]
    parts = measured(case, block)
    order = np.random.default_rng(1).permutation(len(parts))
    batches = [parts[i] for i in order]
    first, *rest = batches
    for sums in rest:
        first.merge(sums)
    assert first.to_json() == whole.to_json()
    save_sums(tmp_path / "a.json", first)
    save_sums(tmp_path / "b.json", whole)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_sums_survive_their_files_and_add_up(case, tmp_path):
    parts = measured(case, (6, 6, 9))
    paths = []
    for n, sums in enumerate(parts):
        paths.append(tmp_path / f"{n}.json")
        save_sums(paths[-1], sums)
    assert load_sums(paths).to_json() == measured(case)[0].to_json()


def test_sums_stay_exact_beyond_64_bits():
    ontology = Ontology([Structure(5, "a", "a")])
    shape = (8, 8, 8)
    atlas = make_atlas(np.full(shape, 5, np.uint32), Frame(shape, (1, 1, 1)), ontology)
    sums = RegionSums([5], ["ch"], 1.0)
    labels, sides = np.full(shape, 5, np.uint32), np.ones(shape, np.uint8)
    values = np.full(shape, 65535, np.uint16)
    values[0, 0, 0] = 65534
    sums.add_block(labels, sides, {"ch": values})
    for _ in range(43):  # as many voxels as a terabyte brain has, and more
        sums.merge(RegionSums.from_json(sums.to_json()))
    rows = region_table(sums, ontology, region_coverage(AffineMap(), atlas, atlas.frame))
    row = next(r for r in rows if r["hemisphere"] == "both")
    n = 512 * 2**43
    assert row["voxels"] == n
    assert row["ch_sum"] == 65535 * n - 2**43 > 2**64
    assert row["ch_sd"] == pytest.approx(np.sqrt(1 / 512 - 1 / 512**2), rel=1e-12)


def test_d37_regions_without_signal_or_voxels_are_listed(case):
    atlas, _, labels, sides, channels = case
    rows = table(case, measured(case)[0])
    assert rows[7, "own", "both"]["green_sum"] == rows[7, "own", "both"]["green_mean"] == 0
    sums = RegionSums(atlas.ids, CHANNELS, SAMPLE.voxel_volume_um3)
    sums.add_block(np.where(labels == 7, 0, labels).astype(np.uint32), sides, channels)
    row = table(case, sums)[7, "own", "left"]
    assert row["voxels"] == row["volume_mm3"] == row["red_sum"] == 0
    assert row["red_mean"] is row["red_max"] is None
    assert row["atlas_volume_mm3"] > 0 and row["name"] == "Part two of A"


def test_coverage_is_the_imaged_share_of_the_atlas():
    atlas = toy_atlas(shape=(10, 9, 12), spacing_um=(10, 10, 10))
    # the sample images the first six planes only; the next begins on the outer face
    sample = Frame((6, 9, 12), (10, 10, 10))
    coverage = region_coverage(AffineMap(), atlas, sample)
    sums = RegionSums(atlas.ids, [], 1.0)
    rows = {
        (r["id"], r["hemisphere"]): r
        for r in region_table(sums, atlas.ontology, coverage)
        if r["scope"] == "tree"
    }
    for region in BIG_IDS:
        mask = atlas.annotation == region
        assert rows[region, "left"]["coverage"] == 1
        assert rows[region, "both"]["coverage"] == pytest.approx(mask[:6].sum() / mask.sum())
        assert rows[region, "right"]["coverage"] == pytest.approx(mask[5].sum() / mask[5:].sum())
    nothing = region_coverage(AffineMap(), atlas, sample, imaged=lambda p: p[0] > 1e9)
    assert not any(nothing.imaged.values()) and any(nothing.atlas.values())


def test_voxels_on_the_midplane_are_shared():
    ontology = Ontology([Structure(5, "a", "a")])
    frame = Frame((7, 2, 2), (100, 100, 100), orientation="RIP")
    atlas = make_atlas(np.full(frame.shape, 5, np.uint32), frame, ontology)
    coverage = region_coverage(AffineMap(), atlas, frame)
    assert coverage.atlas == {(5, 1): 28, (5, 2): 28}


def test_analytic_volume_of_a_ball():
    frame = Frame((40, 40, 40), (25, 25, 25), orientation="RIP")
    distance = np.linalg.norm(np.indices(frame.shape).T - 19.5, axis=-1).T * 25
    ontology = Ontology([Structure(614454277, "b", "ball")])
    atlas = make_atlas(np.where(distance < 400, 614454277, 0).astype(np.uint32), frame, ontology)
    affine = rotation(20, (1.2, 1.1, 0.9))
    centre = affine[:3, :3] @ np.full(3, 19.5 * 25) + affine[:3, 3]
    sample = Frame((70, 70, 70), (18, 18, 18), tuple(centre - 34.5 * 18))
    labels, sides = region_block(AffineMap(affine), atlas, sample)
    sums = RegionSums(atlas.ids, ["c"], sample.voxel_volume_um3)
    sums.add_block(labels, sides, {"c": np.full(sample.shape, 9, np.uint8)})
    rows = region_table(sums, ontology, region_coverage(AffineMap(affine), atlas, sample))
    row = next(r for r in rows if r["hemisphere"] == "both")
    atlas_mm3 = (distance < 400).sum() * 0.025**3
    true = atlas_mm3 * 1.2 * 1.1 * 0.9
    assert atlas_mm3 == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    assert row["volume_mm3"] == pytest.approx(true, rel=0.005)
    assert row["coverage"] == 1 and row["c_mean"] == 9 and row["c_sd"] == 0
    sides = [r["volume_mm3"] for r in rows if r["scope"] == "own"][:2]
    assert sides[0] == pytest.approx(sides[1], rel=0.01)


def test_written_table(case, tmp_path):
    atlas, transform = case[:2]
    rows = region_table(
        measured(case)[0], atlas.ontology, region_coverage(transform, atlas, SAMPLE)
    )
    write_table(tmp_path / "a.tsv", rows)
    with open(tmp_path / "a.tsv", newline="") as stream:
        read = list(csv.DictReader(stream, delimiter="\t"))
    assert len(read) == len(rows)
    assert [r["id"] for r in read] == [str(r["id"]) for r in rows]
    assert read[0]["parent"] == "" and read[0]["scope"] == "tree"
    assert [int(r["red_sum"]) for r in read] == [r["red_sum"] for r in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [  # D37: ids that the atlas lacks are not merged into a nameless row
        ({"labels": 99}, r"labels contain id 99 \(3 voxels here\), which is not in the atlas"),
        ({"labels": 2**32 - 2}, "labels contain id 4294967294"),
        (
            {"channels": {"red": np.zeros((2, 2, 2), np.uint16)}},
            r"channels \['red'\] but the measu",
        ),
        ({"red": np.zeros((2, 2, 3), np.uint16)}, r"red has shape \(2, 2, 3\) but the labels"),
        ({"red": np.zeros((2, 2, 2), np.float64)}, "red has type float64"),
    ],
)
def test_bad_blocks(case, change, message):
    sums = RegionSums(case[0].ids, CHANNELS, 1.0)
    labels = np.zeros((2, 2, 2), np.uint32)
    if "labels" in change:
        labels[0, 0, 0] = labels[1, 1] = change["labels"]
    channels = {c: np.zeros((2, 2, 2), np.uint16) for c in CHANNELS}
    if "red" in change:
        channels["red"] = change["red"]
    with pytest.raises(VolumeError, match=message):
        sums.add_block(labels, np.ones((2, 2, 2), np.uint8), change.get("channels", channels))


def test_different_measurements_do_not_add():
    one = RegionSums([1], ["a"], 1.0)
    for other in (
        RegionSums([2], ["a"], 1.0),
        RegionSums([1], ["b"], 1.0),
        RegionSums([1], ["a"], 2),
    ):
        with pytest.raises(VolumeError, match="different atlases, channels or grids"):
            one.merge(other)


def test_large_blocks_are_cut_so_that_squares_stay_exact(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (9, 9, 9)).astype(np.uint32)
    sides = rng.integers(0, 3, labels.shape).astype(np.uint8)
    values = rng.integers(0, 65536, labels.shape).astype(np.uint16)
    results = []
    for size in (7, 2**20):
        monkeypatch.setattr("terareg.regions.measure._EXACT_VOXELS", size)
        sums = RegionSums([1, 2], ["v"], 1.0)
        sums.add_block(labels, sides, {"v": values})
        results.append(sums.to_json())
    assert results[0] == results[1]
    assert 2**20 * 65535**2 < 2**53
