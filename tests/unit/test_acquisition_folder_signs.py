"""A folder of another kind than the configured one: the message says which kind it is."""

from __future__ import annotations

import microscope_folders as folders
import pytest
from colm_stub import write_metadata

from terareg.acquisition.folder_signs import likely_kind
from terareg.acquisition.layout_kinds import open_layout
from terareg.core.errors import AcquisitionError
from terareg.storage.store import Store

SOURCE = {
    "kind": "colm", "view": "VW0", "first_level": "V", "table": None, "grid": None,
    "channels": {"signal": 0}, "spacing_um": (5.0, 1.5, 2.0), "overlap": None,
}  # fmt: skip


def survey(path, kind, **source):
    return open_layout({**SOURCE, "path": str(path), "kind": kind, **source}).survey


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            folders.zeiss,
            r"the folder contains 12 OME-TIFF files, for which input.kind is table \(terareg",
        ),
        (
            folders.smartspim,
            "tiles in TeraStitcher's two levels .*, for which input.kind is terastit",
        ),
        (folders.fiji, "contains 6 TIFF or PNG files, for which input.kind is table"),
    ],
)
def test_tiles_of_others_in_place_of_a_colm(tmp_path, write, words):
    write(tmp_path / "raw")
    with pytest.raises(AcquisitionError, match=rf"there is no Experiment.ini in .*{words}") as told:
        survey(tmp_path / "raw", "colm")
    assert "\n" not in str(told.value)


def test_a_colm_in_place_of_other_tiles(tmp_path):
    raw = write_metadata(tmp_path / "raw", 2, 3)
    words = r".*; the folder contains the Experiment.ini of a COLM .*, for which input.kind is colm"
    with pytest.raises(AcquisitionError, match="contains no tile folder" + words):
        survey(raw, "terastitcher", channels={"signal": "."})
    with pytest.raises(AcquisitionError, match="there is no tiles.tsv in" + words):
        survey(raw, "table", table="tiles.tsv")


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    assert likely_kind(Store(str(tmp_path / "none"))) is None
    (tmp_path / "notes.txt").write_text("x")
    assert likely_kind(Store(str(tmp_path))) is None
    with pytest.raises(AcquisitionError) as told:
        survey(tmp_path, "colm")
    assert "the folder holds" not in str(told.value)
    (tmp_path / "a.nii.gz").touch()
    assert likely_kind(Store(str(tmp_path))) == ("1 NIfTI or NRRD files", "volume")
    (tmp_path / "zarr.json").touch()
    assert likely_kind(Store(str(tmp_path))) == ("an OME-Zarr or precomputed volume", "volume")
