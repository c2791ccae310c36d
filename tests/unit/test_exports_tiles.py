"""Deep Zoom: the right tiles, the right grey values, and a page that names them."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.exports import slabs
from terareg.exports.settings import TILES, ExportSettings, Origin
from terareg.exports.tiles import (
    TILE,
    box_of_all,
    grey_levels,
    level_sizes,
    outlines_on,
    shown_planes,
    tile_count,
    voxels_within,
    write_tiles,
)
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage

MINE = ExportSettings(Origin("fused", channel="signal"), TILES)
SHAPE = (6, 300, 520)
VALUES = np.random.default_rng(0).integers(100, 4000, SHAPE).astype(np.uint16)
SOURCE = OpenedImage("v", [Frame(SHAPE, (5.0, 2.0, 2.0), orientation="SAR")], [VALUES])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_levels_and_tiles_are_as_many_as_the_format_says(width, height):
    sizes = level_sizes(width, height)
    last = math.ceil(math.log2(max(width, height)))
    assert len(sizes) == last + 1 and sizes[-1] == (width, height) and sizes[0] == (1, 1)
    for level, size in enumerate(sizes):
        assert size == tuple(math.ceil(n / 2 ** (last - level)) for n in (width, height))
    assert tile_count(width, height) == sum(
        math.ceil(w / TILE) * math.ceil(h / TILE) for w, h in sizes
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_every_level_is_within_half_a_grey_level_of_exact_means(height, width, seed):
    plane = np.random.default_rng(seed).integers(0, 5000, (height, width)).astype(np.uint16)
    low, high = 400.0, 3100.0
    exact = np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1) * 255
    for grey in reversed(grey_levels(plane, low, high)):
        assert grey.dtype == np.uint8 and grey.shape == exact.shape
        assert np.abs(grey - exact).max() <= 0.501
        rows, columns = exact.shape
        exact = np.array([
            [exact[y : y + 2, x : x + 2].mean() for x in range(0, columns, 2)]
            for y in range(0, rows, 2)
        ])  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "planes", "expected"),
    [
        ("z", "middle", {"z0003": VALUES[3]}),
        ("y", "middle", {"y0150": VALUES[:, 150]}),
        ("x", (519, 3, 4), {"x0003": VALUES[:, :, 3], "x0004": VALUES[:, :, 4],
                            "x0519": VALUES[:, :, 519]}),
        ("z", "max", {"max": VALUES.max(0)}),
        ("y", "max", {"max": VALUES.max(1)}),
        ("z", "mean", {"mean": VALUES.mean(0, dtype=float).astype(np.float32)}),
        ("x", "mean", {"mean": VALUES.mean(2, dtype=float).astype(np.float32)}),
        ("z", "all", {f"z{n:04d}": plane for n, plane in enumerate(VALUES)}),
    ],
)  # fmt: skip
def test_planes_and_projections_are_those_of_the_volume(axis, planes, expected, monkeypatch):
    monkeypatch.setattr(slabs, "slab_planes", lambda plane_bytes: 4)
    mine = replace(MINE, axis=axis, planes=planes)
    found = dict(shown_planes(mine, SOURCE, SOURCE.frame))
    assert list(found) == list(expected)
    for name, plane in expected.items():
        np.testing.assert_allclose(found[name], plane, rtol=1e-6)


def test_the_folder_holds_all_tiles_and_a_page_that_needs_no_network(tmp_path):
    store = Store(str(tmp_path))
    store.write("b/exports/mine/max_files/0/0_0.jpg", b"of an earlier export")
    mine = replace(MINE, planes=(0, 5), clip_percent=(1.0, 99.0))
    record = write_tiles(store, "b/exports/mine", mine, SOURCE, workers=2)
    names = [entry.key for entry in store.list("b/exports/mine")]
    tiles = [name for name in names if name.endswith(".jpg")]
    assert record["planes"] == 2 and record["tiles"] == len(tiles) == 2 * tile_count(520, 300)
    assert "b/exports/mine/max_files/0/0_0.jpg" not in names
    size = ET.fromstring(store.read("b/exports/mine/z0005.dzi"))[0]
    assert (size.get("Width"), size.get("Height")) == ("520", "300")

    low, high = record["window"]
    shown = VALUES[[0, 5]]
    assert [low, high] == [np.percentile(shown, p, method="inverted_cdf") for p in (1, 99)]
    exact = grey_levels(VALUES[5], low, high)
    for level, (width, height) in enumerate(level_sizes(520, 300)):
        for x in range(0, width, TILE):
            for y in range(0, height, TILE):
                name = f"b/exports/mine/z0005_files/{level}/{x // TILE}_{y // TILE}.jpg"
                tile = imagecodecs.jpeg8_decode(store.read(name)).astype(int)
                wanted = exact[level][y : y + TILE, x : x + TILE]
                assert tile.shape == wanted.shape
                assert abs(tile.mean() - wanted.mean()) < 1.5, "only JPEG may add to it"

    page = store.read(record["page"]).decode()
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", page) and "http" not in page
    told = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert told["planes"] == ["z0000", "z0005"] and (told["width"], told["height"]) == (520, 300)
    assert told["title"] == "mine" and told["outlines"] == []
    assert told["letters"] == ["R", "A"] and told["spacing_um"] == [2.0, 2.0]
    again = write_tiles(store, "b/exports/mine", mine, SOURCE)
    assert again == record


def test_only_what_all_channels_have_seen_is_shown(tmp_path):
    frame, size = SOURCE.frame, np.array([4, 200, 300])
    shifts = [(0, 0, 0), (1.4, -20.0, 30.6), (-1, 5, 0)]
    places = ([0, 0, 0], [2, 100, 220])  # of two tiles, which cover the volume
    channels = []
    for shift in shifts:
        starts = [np.array(place) + shift - 0.5 for place in places]
        channels.append([tuple(frame.to_um(np.stack([s, s + size])).tolist()) for s in starts])
    start, stop = voxels_within(frame, box_of_all(channels))
    # the second channel begins at 1.4 and 30.6, and ends at y 280; the third ends at z 5
    assert (start, stop) == ((2, 5, 31), (5, 280, 520))
    shown = VALUES[2:5, 5:280, 31:520]

    store = Store(str(tmp_path))
    mine = replace(MINE, planes="all", common=True)
    tile = {"T": channels[0][1]}
    record = write_tiles(store, "e", mine, SOURCE, tile, within=box_of_all(channels))
    page = store.read(record["page"]).decode()
    told = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert told["planes"] == ["z0002", "z0003", "z0004"]
    assert (told["width"], told["height"]) == (489, 275)
    assert told["outlines"] == [["T", [189, 95, 489, 295], [2, 6]]]
    assert told["window"] == [np.percentile(shown, p, method="inverted_cdf") for p in (0.1, 99.9)]
    level = len(level_sizes(489, 275)) - 1
    left = imagecodecs.jpeg8_decode(store.read(f"e/z0003_files/{level}/0_0.jpg")).astype(int)
    wanted = grey_levels(shown[1], *told["window"])[-1][:TILE, :TILE]
    assert left.shape == wanted.shape and abs(left.mean() - wanted.mean()) < 1.5
    ((_, best),) = shown_planes(replace(mine, planes="max"), SOURCE, frame, box=(start, stop))
    np.testing.assert_array_equal(best, shown.max(0))

    with pytest.raises(VolumeError, match="no plane 5 along z; the export has planes 2 to 4"):
        list(shown_planes(replace(mine, planes=(3, 5)), SOURCE, frame, box=(start, stop)))
    apart = [channels[0], [tuple(np.array(box) + [100.0, 0, 0]) for box in channels[0]]]
    with pytest.raises(VolumeError, match="tiles of the channels have no place in common"):
        box_of_all(apart)
    with pytest.raises(VolumeError, match="channels have no voxel of the export in common"):
        voxels_within(frame, ([0, 0, 0], [1.0, 1.0, 1.0]))


@pytest.mark.parametrize("axis", "zyx")
def test_outlines_lie_where_the_boxes_do(axis):
    frame = Frame((6, 30, 52), (5.0, 2.0, 2.0), (100.0, 7.0, -4.0), "SAR")
    # from the outer corner of voxel (1, 2, 3) to that of (4, 20, 40)
    corners = frame.to_um(np.array([[0.5, 1.5, 2.5], [3.5, 19.5, 39.5]]))
    across = "zyx".index(axis)
    rows, columns = (a for a in range(3) if a != across)
    low, high = (1, 2, 3), (4, 20, 40)
    expected = (
        "T",
        [low[columns], low[rows], high[columns], high[rows]],
        [low[across], high[across]],
    )
    assert outlines_on(frame, {"T": (corners[1], corners[0])}, axis) == [expected]


def test_a_plane_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(VolumeError, match="plane 6 along z; the export has"):
        write_tiles(Store(str(tmp_path)), "x", replace(MINE, planes=(6,)), SOURCE)


def test_an_image_of_one_value_is_shown_all_the_same(tmp_path):
    flat = OpenedImage("f", [Frame((2, 3, 4), (1.0, 1.0, 1.0))], [np.full((2, 3, 4), 7.5, "f4")])
    record = write_tiles(Store(str(tmp_path)), "x", MINE, flat)
    assert record["window"][1] > record["window"][0] and record["tiles"] == tile_count(4, 3)
