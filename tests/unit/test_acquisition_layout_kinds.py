"""Each kind of raw tiles that a configuration can name opens the layout of that name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from colm_stub import write_metadata

from terareg.acquisition.colm import ColmLayout
from terareg.acquisition.folders import FolderLayout
from terareg.acquisition.layout_kinds import open_layout
from terareg.acquisition.table import TableLayout
from terareg.execution.config import check
from terareg.execution.schema import SCHEMA


def source(kind: str, folder: Path, **more) -> dict:
    """The input of a complete configuration of one channel."""
    over = {"kind": kind, "path": str(folder), "orientation": "SAR", "spacing_um": [5, 2, 2]}
    return check({"sample": "brain", "input": over | more})["input"]


def test_every_kind_of_tiles_has_its_layout(tmp_path):
    write_metadata(tmp_path, 1, 2)
    found = {
        "colm": open_layout(source("colm", tmp_path, channels={"a": 0})),
        "terastitcher": open_layout(source("terastitcher", tmp_path, channels={"a": "."})),
        "table": open_layout(source("table", tmp_path, channels={"a": 1}, table="t.csv")),
    }
    kinds = {"colm": ColmLayout, "terastitcher": FolderLayout, "table": TableLayout}
    assert {kind: type(layout) for kind, layout in found.items()} == kinds
    schema = yaml.safe_load(SCHEMA.read_text())
    named = set(schema["properties"]["input"]["properties"]["kind"]["enum"])
    assert named == {*kinds, "volume"}, "a volume has no tiles"


@pytest.mark.parametrize("name", ["green", "."])
def test_channels_are_those_of_the_configuration(tmp_path, name):
    layout = open_layout(source("terastitcher", tmp_path, channels={"a": name}))
    assert list(layout.numbers()) == ["a"]
