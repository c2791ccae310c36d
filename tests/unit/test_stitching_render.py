"""Render's JSON: what the placement says is what Render's reader would do."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from terareg.acquisition.model import Acquisition, Channel, Tile
from terareg.acquisition.raw import PlaneFiles
from terareg.core.errors import StitchingError
from terareg.stitching import render
from terareg.stitching.pairs import PairResult
from terareg.stitching.render import (
    RenderSettings,
    read_tilespecs,
    tile_origins,
    write_point_matches,
    write_stack,
    write_tilespecs,
)
from terareg.stitching.solver import place

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
    write_stack(tmp_path / "stack.json", acquisition, placement)
    stack = read(tmp_path / "stack.json")
    assert stack["versionNotes"] == f"terareg, sample {acquisition.sample}"
    assert stack["stackResolutionX"] == pytest.approx(400)
    assert stack["stackResolutionZ"] == 5000
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0", RenderSettings(z_step=2))
    assert {spec["z"] % 2 for spec in read(tmp_path / "t.json")} == {0}
    with pytest.raises(StitchingError, match=r"z_step 0 .* too small"):
        RenderSettings(z_step=0)


def test_the_stack_says_that_transforms_are_not_all_that_fusion_does(tmp_path, stitched):
    acquisition, placement, _ = stitched
    bent = dict(placement.tiles)
    bent["LOC000"] = replace(bent["LOC000"], field_vox=(((0.0, 1.0),) * 2,) * 2)
    bent["LOC001"] = replace(bent["LOC001"], height_vox=(2.0, 3.0, 0.0))
    bent["LOC002"] = replace(bent["LOC002"], lean_vox=(0.0, 3.0, 0.0))
    write_stack(tmp_path / "a.json", acquisition, replace(placement, tiles=bent))
    assert (
        f"; 2 of {len(bent)} tiles are distorted or tilted along z in the fused volume, which"
        in (read(tmp_path / "a.json")["versionNotes"])
    )
    write_stack(tmp_path / "b.json", acquisition, replace(placement, growth=0.01))
    assert read(tmp_path / "b.json")["versionNotes"] == f"terareg, sample {acquisition.sample}"


BENT = {"lean_vox": (0.0, 1.5, -2.0), "height_vox": (0.0, 0.4, 0.9), "width_vox": (0.0, -0.8, 0.6)}


@pytest.mark.parametrize("growth", [0.0, 0.02])
def test_transforms_put_pixels_where_fusion_puts_them(tmp_path, stitched, growth):
    """Of a tile that leans, is turned and larger, in a volume whose planes grow."""
    acquisition, placement, _ = stitched
    tiles = dict(placement.tiles)
    tiles["LOC002"] = replace(tiles["LOC002"], **BENT)
    placement = replace(placement, tiles=tiles, growth=growth)
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0")
    origin, middle = tiles["LOC002"].origin_vox, (np.array(SHAPE) - 1) / 2
    matrix = placement.matrices(SHAPE)["LOC002"]
    (grown,) = placement.growths({"LOC002": origin}, SHAPE).values() or [None]
    for spec in read(tmp_path / "t.json"):
        name, plane = spec["tileId"].split("_")[0], int(spec["tileId"].split("_")[1][1:])
        if name != "LOC002":
            assert growth or spec["transforms"]["specList"][0]["dataString"].startswith("1.0 0.0 0")
            continue
        seen = []
        for y, x in ((0, 0), (59, 0), (7, 49)):
            index = np.array([plane, y, x], float)
            place = np.linalg.solve(matrix, index - middle) + middle + origin
            if grown is not None:
                place = grown.done(place[None])[0]
            seen.append(corner(spec, x, y))
            assert np.abs(seen[-1] - place[:0:-1]).max() < 1e-9
        corners = [corner(spec, x, y) for x in (0, 49) for y in (0, 59)]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        assert (spec["minX"], spec["minY"]) == pytest.approx(tuple(low))
        assert (spec["maxX"], spec["maxY"]) == pytest.approx(tuple(high))


def test_tiles_that_lean_and_are_turned_are_read_at_the_same_positions(tmp_path, stitched):
    acquisition, placement, _ = stitched
    tiles = {name: replace(tile, **BENT) for name, tile in placement.tiles.items()}
    write_tilespecs(tmp_path / "t.json", acquisition, replace(placement, tiles=tiles), "ch0")
    origins = tile_origins(read_tilespecs(tmp_path / "t.json"), acquisition)
    for name, found in origins.items():
        assert found[1:] == pytest.approx(tiles[name].origin_vox[1:], abs=1e-6)


def test_matches_of_tiles_that_lean_follow_the_plane(tmp_path, stitched):
    acquisition, placement, pairs = stitched
    leaning = [replace(pair, lean_vox=(0, 3.0, -6.0), lean_sigma_vox=(0.1,) * 3) for pair in pairs]
    write_point_matches(tmp_path / "m.json", acquisition, placement, "ch0", leaning)
    moved = {}
    for match in read(tmp_path / "m.json"):
        if match["pId"].startswith("LOC000") and match["qId"].startswith("LOC002"):
            plane, points = int(match["pId"].split("_")[1][1:]), match["matches"]
            moved[plane] = np.subtract(points["p"], points["q"])[:, 0]
    first, last = min(moved), max(moved)
    change = (moved[last] - moved[first]) / (last - first)
    assert change == pytest.approx(np.array([-6.0, 3.0]) / 3)


# ---------------------------------------------------------------- import
def foreign(name, z, row, column, *leaves):
    """A tile specification as another program writes it."""
    return {
        "tileId": name, "z": z, "width": 50.0, "height": 60.0,
        "layout": {"imageRow": row, "imageCol": column},
        "transforms": {"type": "list", "specList": list(leaves)},
    }  # fmt: skip


def leaf(kind, data):
    return {"type": "leaf", "className": f"mpicbg.trakem2.transform.{kind}", "dataString": data}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "renamed"])
def test_what_is_written_is_read_as_the_same_positions(tmp_path, stitched, name, monkeypatch):
    acquisition, placement, _ = stitched
    packed = tmp_path / "t.json.gz" if name == "renamed" else tmp_path / name
    count = write_tilespecs(packed, acquisition, placement, "ch0")
    packed.rename(tmp_path / name)
    monkeypatch.setattr(render, "_CHUNK", 100)  # less than an item
    specs = read_tilespecs(tmp_path / name)
    assert len(specs) == count
    origins = tile_origins(specs, acquisition)
    assert origins.keys() == placement.tiles.keys()
    for tile, (z, y, x) in origins.items():
        assert (y, x) == placement.tiles[tile].origin_vox[1:]
        assert z == placement.tiles[tile].integer[0] + 1  # sections count from the first plane


def test_planes_that_are_missing_at_the_start_do_not_move_a_tile(tmp_path, stitched):
    acquisition, placement, _ = stitched
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0")
    specs = [s for s in read(tmp_path / "t.json") if "z0000" not in s["tileId"]]
    (tmp_path / "t.json").write_text(json.dumps(specs, indent=1))
    origins = tile_origins(read_tilespecs(tmp_path / "t.json"), acquisition)
    assert [o[0] for o in origins.values()] == [
        placement.tiles[name].integer[0] + 1 for name in origins
    ]


def test_foreign_specifications_are_placed_by_their_layout(tmp_path, stitched):
    acquisition, _, _ = stitched
    shift = leaf("TranslationModel2D", "1.5 -2")
    turn, back = leaf("AffineModel2D", "0 1 -1 0 10 0"), leaf("AffineModel2D", "0 -1 1 0 0 10")
    nested = {"type": "list", "specList": [turn, back, shift]}
    specs = [
        foreign(
            f"img{z}-{k}", z, k // 2, k % 2, leaf("AffineModel2D", f"1 0 0 1 {40 * k} 7"), nested
        )
        for z in (12.0, 11.0)
        for k in range(4)
    ]
    (tmp_path / "t.json").write_text(json.dumps(specs))
    origins = tile_origins(read_tilespecs(tmp_path / "t.json"), acquisition)
    # (x, y) -> (10 - y, x) -> (x, 10 - 10 + y) -> shifted
    assert origins["LOC000"] == (11.0, 5.0, 1.5)
    assert origins["LOC003"] == (11.0, 5.0, 121.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"not a complete JSON list of tile specifications \(at ''\)"),
        ('{"tileId": "a"}', "not a complete JSON list"),
        ('[{"tileId": "a"', "not a complete JSON list"),
        ("[" * 5000, "cannot be read|not a complete"),
        ("[]", "empty list"),
        ("[1]", "item 1 is not a tile specification"),
        ('[{"tileId": "a"}]', "item 1 is not a tile specification .*'z'"),
        ([foreign("a", 0, 0, 0, leaf("AffineModel2D", "1 0 0 1 2"))], "item 1 .'a'. is not a tile"),
        (
            [foreign("a", 0, 0, 0, leaf("AffineModel2D", "1 0 0 1 nan 0"))],
            "a finite number of pixels",
        ),
        (
            [foreign("a", 0, 0, 0, leaf("AffineModel2D", "1.1 0 0 1 0 0"))],
            "by 4.9 pixels at a corner",
        ),
        ([foreign("a", 0, 0, 0, leaf("PolynomialTransform2D", "1"))], "Poly.* AffineModel2D or"),
        ([foreign("a", 0, 0, 0, {"type": "ref", "refId": "lens"})], "transform of class 'ref'"),
    ],
)
def test_what_cannot_be_a_position_is_one_sentence(tmp_path, text, words):
    (tmp_path / "t.json").write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(StitchingError, match=words) as error:
        read_tilespecs(tmp_path / "t.json")
    assert "t.json" in str(error.value) and "\n" not in str(error.value)


def test_broken_gzip_and_absent_files(tmp_path, stitched):
    acquisition, placement, _ = stitched
    write_tilespecs(tmp_path / "t.json.gz", acquisition, placement, "ch0")
    (tmp_path / "t.json.gz").write_bytes((tmp_path / "t.json.gz").read_bytes()[:200])
    for name in ("t.json.gz", "absent.json"):
        with pytest.raises(StitchingError, match=f"{name} cannot be read"):
            read_tilespecs(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s + [replace(s[0], tile_id="x", row=7)],
            r"'x' \(row 7, column 0\) is not a tile",
        ),
        (
            lambda s: [x for x in s if x.column == 0],
            "has no tile specification for LOC001, LOC003;",
        ),
        (lambda s: s + [replace(s[0], origin_yx_vox=(9.0, 0.0))], "moves LOC002 by 42.5 pixels"),
    ],
)
def test_specifications_must_fit_the_acquisition(tmp_path, stitched, change, words):
    acquisition, placement, _ = stitched
    write_tilespecs(tmp_path / "t.json", acquisition, placement, "ch0")
    specs = change(list(read_tilespecs(tmp_path / "t.json")))
    with pytest.raises(StitchingError, match=words):
        tile_origins(specs, acquisition, "t.json")
