"""Generated tiles as OME-TIFF: the same pixels, at the same places."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from colm_stub import write_linked_planes

from terareg.core.errors import AcquisitionError
from terareg.intake.recognise import recognise
from terareg.phantom.cli import main
from terareg.phantom.ome_tiles import CORNER_UM, write_ome_tiles


def test_tiles_lie_where_the_stage_was(tmp_path, capsys):
    write_linked_planes(tmp_path / "raw", 2, 3, pixels=64, planes=5)
    files = write_ome_tiles(tmp_path / "raw", tmp_path / "ome")
    assert len(files) == 6
    first = next((tmp_path / "raw/VW0").rglob("*CHN01*"))
    found = tifffile.imread(files[0])
    assert found.shape == (2, 5, 64, 64)
    np.testing.assert_array_equal(found[1, 0], tifffile.imread(first))
    source = recognise(str(tmp_path / "ome"))
    assert list(source.source["channels"]) == ["ch0", "ch1"] and not source.asked
    lines = [line.split("\t") for line in source.table.splitlines()]
    assert lines[0] == ["path", "channel", "y_um", "x_um", "z_first", "z_last"]
    places = {(float(line[2]), float(line[3])) for line in lines[1:]}
    assert len(places) == 6 and min(places) == CORNER_UM
    again = ["ome", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "ome")]
    assert main(again) == 1 and "already exists" in capsys.readouterr().err
    assert main([*again[:-1], str(tmp_path / "one"), "--channels", "1"]) == 0
    assert tifffile.imread(tmp_path / "one/scan_000.ome.tif").shape == (5, 64, 64)
    with pytest.raises(AcquisitionError, match=r"Experiment\.ini"):
        write_ome_tiles(tmp_path / "none", tmp_path / "x")
