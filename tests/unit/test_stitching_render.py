"""Render's JSON: what the placement says is what Render's reader would do."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from terareg.acquisition.model import Acquisition, Channel, Tile
from terareg.acquisition.raw import PlaneFiles
from terareg.errors import StitchingError
from terareg.stitching.displacement import PairResult
from terareg.stitching.placement import place
from terareg.stitching.render import (
    RenderSettings,
    write_point_matches,
    write_stack,
    write_tilespecs,
)

SHAPE = (4, 60, 50)
TRUE = {(0, 0): (0, 0, 0), (0, 1): (1, -2.25, 40.5), (1, 0): (-1, 51.5, 3.0), (1, 1): (0, 49, 43.5)}


@pytest.fixture
def stitched():
    names = {cell: f"LOC{k:03d}" for k, cell in enumerate(TRUE)}
    tiles = tuple(
        Tile(name, r, c, f"VW 0/{name}", (0.0, 50.0 * r, 40.0 * c))
        for (r, c), name in names.items()
    )
    files = PlaneFiles("CHN00_PLN", ".tif", 4, missing=(3,))
    acquisition = Acquisition(
        "s", "colm", "/raw data", 2, 2, tiles, (Channel("ch0", 0),), SHAPE, "uint16",
        (5.0, 0.5, 0.4), "SAR", (1 / 6, 0.2), {t.name: {"ch0": files} for t in tiles},
    )  # fmt: skip
    pairs = [
        PairResult(
            a.name, b.name, d, "ok",
            tuple(float(v) for v in np.subtract(TRUE[b.row, b.column], TRUE[a.row, a.column])),
            (0.1, 0.1, 0.1), 0.9995, 0.5, 3, 3, (0.0, 0.0, 0.0), (2, 9, 9),
        )
        for a, b, d in acquisition.pairs()
    ]  # fmt: skip
    return acquisition, place(acquisition, pairs), pairs


def read(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def corner(spec, x, y):
    (leaf,) = spec["transforms"]["specList"]
    m00, m10, m01, m11, b0, b1 = map(float, leaf["dataString"].split())
    return np.array([m00 * x + m01 * y + b0, m10 * x + m11 * y + b1])


def test_tilespecs_map_corners_to_the_placement(tmp_path, stitched):
    acquisition, placement, _ = stitched
    count = write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0")
    specs = read(tmp_path / "t.json")
    assert count == len(specs) == 4 * 3  # one plane of each tile is missing
    assert len({spec["tileId"] for spec in specs}) == count
    for spec in specs:
        tile = acquisition.tile(spec["tileId"].split("_")[0])
        plane = int(spec["tileId"].split("_")[1][1:])
        _z, y, x = placement.tiles[tile.name].origin_vox
        assert np.abs(corner(spec, 0, 0) - [x, y]).max() < 1e-9
        assert (spec["minX"], spec["maxY"]) == pytest.approx((x, y + 59))
        assert spec["z"] == placement.tiles[tile.name].integer[0] + plane + 1  # first plane is -1
        assert spec["layout"]["sectionId"] == spec["groupId"] == f"{spec['z']:.1f}"
        assert (spec["layout"]["imageRow"], spec["layout"]["imageCol"]) == (tile.row, tile.column)
        url = spec["mipmapLevels"]["0"]["imageUrl"]
        assert url == f"file:/raw%20data/VW%200/{tile.name}/CHN00_PLN{plane:04d}.tif"


def test_matches_leave_the_residual_of_the_link(tmp_path, stitched):
    acquisition, placement, pairs = stitched
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0")
    specs = {spec["tileId"]: spec for spec in read(tmp_path / "t.json")}
    write_point_matches(tmp_path / "m.json", acquisition, placement, "ch0", pairs)
    matches = read(tmp_path / "m.json")
    assert matches
    residual = {(link.a, link.b): link.residual_vox for link in placement.links}
    for match in matches:
        assert (match["pGroupId"], match["pId"]) < (match["qGroupId"], match["qId"])
        points = match["matches"]
        assert len(points["p"]) == len(points["q"]) == 2  # by dimension: [[x...], [y...]]
        assert len(points["w"]) == len(points["p"][0]) == len(points["q"][1]) == 4
        if match["pId"] not in specs or match["qId"] not in specs:
            continue
        a, b = match["pId"].split("_")[0], match["qId"].split("_")[0]
        for k in range(4):
            p = corner(specs[match["pId"]], points["p"][0][k], points["p"][1][k])
            q = corner(specs[match["qId"]], points["q"][0][k], points["q"][1][k])
            assert np.abs((q - p) + np.array(residual[a, b])[[2, 1]]).max() < 1e-6
            assert 0 <= points["p"][0][k] <= 49
            assert 0 <= points["q"][1][k] <= 59


def test_rejected_links_weigh_nothing(tmp_path, stitched):
    acquisition, placement, pairs = stitched
    links = tuple(
        replace(link, state="rejected") if k == 0 else link
        for k, link in enumerate(placement.links)
    )
    write_point_matches(
        tmp_path / "m.json", acquisition, replace(placement, links=links), "ch0", pairs
    )
    weights = {
        (m["pId"].split("_")[0], m["qId"].split("_")[0]): m["matches"]["w"][0]
        for m in read(tmp_path / "m.json")
    }
    assert weights["LOC000", "LOC001"] == 0
    assert weights["LOC000", "LOC002"] == 0.9995


def test_gzip_is_the_same_every_time(tmp_path, stitched):
    acquisition, placement, _pairs = stitched
    for k in (1, 2):
        write_tilespecs(tmp_path / f"{k}.json.gz", acquisition, placement, "ch0")
    write_tilespecs(tmp_path / "plain.json", acquisition, placement, "ch0")
    assert (tmp_path / "1.json.gz").read_bytes() == (tmp_path / "2.json.gz").read_bytes()
    assert read(tmp_path / "1.json.gz") == read(tmp_path / "plain.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.json.gz", "2.json.gz", "plain.json"]


def test_stack_and_thinned_sections(tmp_path, stitched):
    acquisition, placement, _ = stitched
    write_stack(tmp_path / "stack.json", acquisition)
    stack = read(tmp_path / "stack.json")
    assert stack["stackResolutionX"] == pytest.approx(400)
    assert stack["stackResolutionZ"] == 5000
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0", RenderSettings(z_step=2))
    assert {spec["z"] % 2 for spec in read(tmp_path / "t.json")} == {0}
    with pytest.raises(StitchingError, match=r"z_step 0 .* too small"):
        RenderSettings(z_step=0)
