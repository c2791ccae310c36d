"""Precomputed annotations: every point is there once, where it is, as Neuroglancer encodes it."""

import json

import numpy as np
import pytest
import tensorstore as ts

from terareg.core.frames import Frame
from terareg.regions import annotations
from terareg.storage.store import Store
from terareg.volumes.chunks import morton

FRAME = Frame((30, 50, 80), (5.0, 2.0, 2.0))


def written(tmp_path, points, contrast):
    store = Store(str(tmp_path))
    annotations.write_annotations(store, "b/cells/x/annotations", points, {"c": contrast}, FRAME)
    folder = tmp_path / "b/cells/x/annotations"
    return folder, json.loads((folder / "info").read_text())


def opened(folder, part):
    """The objects under one key, by TensorStore's reader of sharded objects."""
    spec = {
        "driver": "neuroglancer_uint64_sharded",
        "metadata": part["sharding"],
        "base": {"driver": "file", "path": f"{folder}/{part['key']}/"},
    }
    return ts.KvStore.open(spec).result()


def decoded(data):
    """Ids, points (x, y, z) and property of a cell of the index, by the format's description."""
    (count,) = np.frombuffer(data[:8], "<u8").tolist()
    records = np.frombuffer(data[8 : 8 + 16 * count], "<f4").reshape(count, 4)
    ids = np.frombuffer(data[8 + 16 * count :], "<u8")
    assert len(ids) == count
    return ids, records[:, :3], records[:, 3]


@pytest.mark.parametrize("most", [4000, 40])
def test_every_point_lies_in_one_cell_of_the_index_and_can_be_had_by_its_number(
    tmp_path, monkeypatch, most
):
    monkeypatch.setattr(annotations, "_MOST_SHOWN", most)
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (300, 3)) * (145, 98, 158)
    contrast = rng.uniform(5, 50, 300).astype(np.float32)
    folder, info = written(tmp_path, points, contrast)
    assert info["annotation_type"] == "POINT" and list(info["dimensions"]) == ["x", "y", "z"]
    low = np.array(info["lower_bound"])
    seen = {}
    for level in info["spatial"]:
        reader, size = opened(folder, level), np.array(level["chunk_size"])
        grid = level["grid_shape"]
        assert np.allclose(low + size * grid, info["upper_bound"])
        bits = tuple(int(n - 1).bit_length() for n in grid[::-1])
        for x, y, z in np.ndindex(*grid):
            key = morton((z, y, x), bits).to_bytes(8, "big")
            found = reader.read(key).result()
            if found.state != "value":
                continue
            ids, places, property_ = decoded(found.value)
            assert len(ids) <= level["limit"]
            assert (np.floor((places - low) / size).astype(int) == (x, y, z)).all()
            for number, place, value in zip(ids.tolist(), places, property_):
                assert number not in seen, "a point lies in two cells"
                seen[number] = (place, value)
    assert sorted(seen) == list(range(1, 301))
    assert len(info["spatial"]) == 1 if most == 4000 else len(info["spatial"]) > 2
    by_id = opened(folder, info["by_id"])
    for number in (1, 2, 255, 256, 257, 300):
        value = by_id.read(number.to_bytes(8, "big")).result().value
        assert np.allclose(np.frombuffer(value, "<f4")[:3][::-1], points[number - 1], atol=1e-4)
        assert np.frombuffer(value, "<f4")[3] == contrast[number - 1]
        assert np.array_equal(seen[number][0], np.frombuffer(value, "<f4")[:3])
    assert by_id.read((301).to_bytes(8, "big")).result().state == "missing"


def test_a_point_is_encoded_as_neuroglancer_encodes_it(tmp_path):
    module = pytest.importorskip("neuroglancer.write_annotations")
    coordinates = pytest.importorskip("neuroglancer.coordinate_space")
    space = coordinates.CoordinateSpace(names=["x", "y", "z"], units="um", scales=[1, 1, 1])
    properties = [pytest.importorskip("neuroglancer").viewer_state.AnnotationPropertySpec(
        id="c", type="float32")]  # fmt: skip
    writer = module.AnnotationWriter(space, "point", properties=properties)
    writer.add_point([30.0, 20.0, 10.0], id=1, c=7.5)
    writer.write(str(tmp_path / "theirs"))
    theirs = (tmp_path / "theirs/by_id/1").read_bytes()
    folder, info = written(tmp_path, np.array([[10.0, 20, 30]]), np.array([7.5]))
    ours = opened(folder, info["by_id"]).read((1).to_bytes(8, "big")).result().value
    assert ours == theirs
    their_info = json.loads((tmp_path / "theirs/info").read_text())
    assert info["dimensions"] == their_info["dimensions"]
    assert info["properties"] == their_info["properties"]
    assert info.keys() == their_info.keys()


def test_levels_thin_points_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "_MOST_SHOWN", 300)
    points = np.random.default_rng(0).uniform(0, 1, (6000, 3)) * (145, 98, 158)
    _, info = written(tmp_path, points, np.ones(6000))
    assert 200 < info["spatial"][0]["limit"] < 400


def test_no_points_are_a_layer_without_points_and_old_ones_are_gone(tmp_path):
    written(tmp_path, np.ones((9, 3)), np.ones(9))
    folder, info = written(tmp_path, np.zeros((0, 3)), np.zeros(0))
    assert info["lower_bound"] == [-1.0, -1.0, -2.5] and len(info["spatial"]) == 1
    assert opened(folder, info["by_id"]).read((1).to_bytes(8, "big")).result().state == "missing"
    assert opened(folder, info["spatial"][0]).read(bytes(8)).result().state == "missing"


def test_the_same_points_are_the_same_bytes(tmp_path):
    points = np.random.default_rng(0).uniform(0, 90, (500, 3))
    bytes_of = []
    for name in "ab":
        folder, _ = written(tmp_path / name, points, np.arange(500))
        bytes_of.append({p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert bytes_of[0] == bytes_of[1]
