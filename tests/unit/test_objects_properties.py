"""Properties of objects in Neuroglancer's list."""

from __future__ import annotations

import json

from terareg.objects import properties
from terareg.storage.store import Store

ROWS = [{"label": 2**40, "voxels": 7, "name": "a"}, {"label": 3, "voxels": 9, "name": "b"}]


def test_columns_of_numbers_by_id(tmp_path):
    store = Store(str(tmp_path))
    found = properties.write_numbers(store, "mesh", ROWS)
    assert list(found) == ["mesh/segment_properties/info"]
    written = json.loads(store.read("mesh/segment_properties/info"))
    assert written == json.loads(json.dumps(properties.numbers_json(ROWS)))
    assert written["@type"] == "neuroglancer_segment_properties"
    assert written["inline"]["ids"] == ["1099511627776", "3"]
    assert [p["id"] for p in written["inline"]["properties"]] == ["voxels"]
    assert written["inline"]["properties"][0]["values"] == [7, 9]


def test_too_many_objects_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(properties, "MOST", 1)
    assert properties.write_numbers(Store(str(tmp_path)), "mesh", ROWS) == {}
    assert properties.write_numbers(Store(str(tmp_path)), "mesh", []) == {}
