"""Foreign bytes end in a right result or in one sentence, whatever they are, and soon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bounded import SECONDS, read_within_bounds
from examples import PROFILE, examples, spoiled_text
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from terareg.acquisition.metadata import load_colm_metadata
from terareg.acquisition.table_lines import read_table
from terareg.atlas.ontology import read_ontology
from terareg.cohort.table import read_cohort
from terareg.core.errors import (
    AcquisitionError,
    AtlasError,
    CohortError,
    ConfigError,
    PointsError,
    StitchingError,
    TeraregError,
)
from terareg.core.frames import Frame
from terareg.derived.tables import read_id_table, read_order
from terareg.execution.config import check
from terareg.execution.yaml_files import read_yaml
from terareg.regions.points import read_points
from terareg.signal.marks import read_marks
from terareg.stitching.render import read_tilespecs
from terareg.stitching.terastitcher.reading import read_xml
from terareg.stitching.tile_configuration import read_tile_configuration
from terareg.storage.foreign import boundary, load_json, parse_table, read_bytes
from terareg.storage.store import Store

FRAME = Frame((10, 10, 10), (10.0, 10.0, 10.0))
QUICK = examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])

POINTS = b"name,z_um,y_um,x_um\na,1,2,3\nb,4,5.5,6\n"
STATE = json.dumps(
    {
        "dimensions": {a: [1e-6, "m"] for a in "xyz"},
        "layers": [
            {"type": "annotation", "name": "p",
             "annotations": [{"type": "point", "id": "1", "point": [1, 2, 3]}]}
        ],
    }
).encode()  # fmt: skip
ONTOLOGY = b"id,acronym,name,parent,colour\n1,root,root,,FF0000\n2,a,left part,1,00FF00\n"
NESTED = json.dumps(
    [{"id": 1, "acronym": "r", "name": "root",
      "children": [{"id": 2, "acronym": "a", "name": "part"}]}]
).encode()  # fmt: skip
FIJI = b"dim = 3\nLOC000; ; (0.0, 0.0, 0.0)\nLOC001; ; (85.5, 0.0, 0.0)\n"
XML = b"""<?xml version="1.0"?><TeraStitcher volume_format="TiledXY|2Dseries">
<stacks_dir value="raw"/><voxel_dims V="1" H="1" D="2"/><origin V="0" H="0" D="0"/>
<mechanical_displacements V="10" H="10"/>
<dimensions stack_rows="1" stack_columns="1" stack_slices="3"/>
<STACKS><Stack ROW="0" COL="0" ABS_V="0" ABS_H="0" ABS_D="0" DIR_NAME="a" Z_RANGES="[0,3)"
STITCHABLE="yes" IMG_REGEX=".*"/></STACKS></TeraStitcher>"""
SPECS = json.dumps(
    [{"tileId": "LOC000_z0000_ch0", "z": 0.0, "width": 10, "height": 10,
      "transforms": {"type": "list", "specList": []}}]
).encode()  # fmt: skip
YAML = b"sample: brain\ninput:\n  path: raw\n  orientation: RIP\n  channels: {a: 0}\n"
TABLE = b"path,row,column\nt0,0,0\nt1,0,1\n"

COHORT = b"sample,group,age,sex,results\n" + b"".join(
    b"s%d,%s,%d,f,r\n" % (n, b"old" if n > 2 else b"young", 8 + n) for n in range(6)
)
MARKERS = b"""<?xml version="1.0"?><CellCounter_Marker_File><Marker_Data>
<Current_Type>1</Current_Type><Marker_Type><Type>2</Type><Marker><MarkerX>3</MarkerX><MarkerY>4</MarkerY><MarkerZ>5</MarkerZ>
</Marker></Marker_Type></Marker_Data></CellCounter_Marker_File>"""
INI = b"""[Experiment Settings]
X Resolution = "2048"
Num in stack (Top Left Corner) = "512"
[North Scan Region]
Num Horizontal = "2"
Num Vertical = "1"
Stack Step (mm) = "0.002500"
[North Scan Region Stats]
Actual Horizontal Overlap (%) = "12.5"
Actual Vertical Overlap (%) = "15.000000"
[Objectives]
North = "10x"
"""


def read_microscope(path):
    """Metadata of a COLM microscope, of which one file is the one that is spoiled."""
    folder = Path(path).parent
    for name, content in (("Experiment.ini", INI), ("Scanned Cells.txt", b"1,1\n")):
        if name != Path(path).name:
            (folder / name).write_bytes(content)
    return load_colm_metadata(Store(str(folder)))


READERS = {
    "points.csv": (POINTS, lambda p: read_points(p, FRAME), PointsError),
    "points.json": (STATE, lambda p: read_points(p, FRAME), PointsError),
    "ontology.csv": (ONTOLOGY, read_ontology, AtlasError),
    "ontology.json": (NESTED, read_ontology, AtlasError),
    "tiles.txt": (FIJI, read_tile_configuration, StitchingError),
    "project.xml": (XML, read_xml, StitchingError),
    "specs.json": (SPECS, read_tilespecs, StitchingError),
    "sample.yaml": (YAML, lambda p: check(read_yaml(Path(p))), ConfigError),
    "cells.xml": (MARKERS, lambda p: read_points(p, FRAME), PointsError),
    "ids.csv": (b"from,to\n1,2\n2,2\n", read_id_table, ConfigError),
    "ids.json": (b'{"1": 2, "3": 4}', read_id_table, ConfigError),
    "order.txt": (b"0\n2\n1\n", read_order, ConfigError),
    "Experiment.ini": (INI, read_microscope, AcquisitionError),
    "Scanned Cells.txt": (b"1,1\n", read_microscope, AcquisitionError),
    "cohort.csv": (COHORT, read_cohort, CohortError),
    "marks.csv": (b"z_um,y_um,x_um,cell\n1,2,3,yes\n4,5,6,no\n", lambda p: read_marks(p, FRAME),
                  PointsError),
    "tiles.csv": (TABLE, lambda p: read_table(read_bytes(p), "tiles.csv", ["a"]),
                  AcquisitionError),
}  # fmt: skip

# those that the user names by a path, and not by a folder or below one
FILES = [
    name for name in READERS if name not in ("tiles.csv", "Experiment.ini", "Scanned Cells.txt")
]


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(tmp_path, name):
    data, read, _ = READERS[name]
    (tmp_path / name).write_bytes(data)
    assert read(str(tmp_path / name)) is not None


@pytest.mark.parametrize("name", READERS)
@QUICK
@given(data=st.data())
def test_spoiled_text_is_read_or_refused(tmp_path, name, data):
    content, read, _ = READERS[name]
    path = tmp_path / name
    path.write_bytes(spoiled_text(content, data.draw))
    try:
        read(str(path))
    except TeraregError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


NESTS = {
    "json": b'{"layers":' + b"[" * 100_000,
    "closed json": b'{"layers":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "list": b"[" * 100_000 + b"]" * 100_000,
    "cell": b"id,acronym,name,z_um,y_um,x_um,path\n" + b"a" * 500_000 + b",1,1\n",
    "digits": b"id,acronym,name\n" + b"9" * 5000 + b",a,b\n",
    "utf-16 without a mark": "id,acronym,name\n1,a,b\n".encode("utf-16-le"),
    "nothing": b"",
    "zeros": bytes(1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("name", READERS)
def test_deep_long_and_binary_files_are_one_sentence(tmp_path, name, nest):
    _, read, error = READERS[name]
    (tmp_path / name).write_bytes(NESTS[nest])
    with pytest.raises(error) as raised:
        read(str(tmp_path / name))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 2000


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "link to itself", "folder", "absent", "nul", "endless"])
def test_what_is_no_file_is_one_sentence(tmp_path, name, kind):
    _, read, error = READERS[name]
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "nul":
        path = tmp_path / ("a\0b" + path.suffix)
    with pytest.raises(error, match="cannot be read"):
        read(str(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_larger_than_any_of_their_kind(tmp_path, name):
    _, read, error = READERS[name]
    with open(tmp_path / name, "wb") as stream:
        stream.truncate(600 * 2**20)
    with pytest.raises(error):
        read(str(tmp_path / name))


# what a parser makes many objects of, or may walk through more than once
MEGABYTES = 20 if PROFILE == "explore" else 1
FILLERS = {
    "lists": b"[],", "objects": b"{},", "nested": b"[", "numbers": b"1,", "commas": b",",
    "lines": b"\n", "returns": b"\r", "rows": b"1,2,3,4\n", "elements": b"<a/>", "text": b"a",
    "quotes": b'"', "blanks": b" ", "keys": b"[a]\nb = 1\n",
}  # fmt: skip
BEGINS = {".json": b"[", ".xml": b"<a>", ".yaml": b"a: [", ".ini": b"[a]\n"}
ENDS = {".json": b"0]", ".xml": b"</a>"}


@pytest.mark.slow
def test_the_largest_files_are_read_within_bounds(tmp_path):
    """Of every kind of filling, in a process with one gigabyte, within seconds."""
    cases = []
    for name, (content, _, _) in READERS.items():
        for filler, unit in FILLERS.items():
            folder = tmp_path / f"{filler} {name}"
            folder.mkdir()
            begin = BEGINS.get(Path(name).suffix, content[: content.find(b"\n") + 1])
            filling = unit * (MEGABYTES * 2**20 // len(unit))
            (folder / name).write_bytes(begin + filling + ENDS.get(Path(name).suffix, b""))
            cases.append((name, folder / name))
    for result in read_within_bounds("test_storage_foreign", cases):
        assert result["error"] in ("", "TeraregError"), result
        assert result["cpu_s"] < SECONDS, result


def test_metadata_of_a_microscope_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "Experiment.ini")
    with pytest.raises(AcquisitionError, match="it is not a regular file"):
        load_colm_metadata(Store(str(tmp_path)))


# ---------------------------------------------------------------------- YAML
def test_a_key_that_is_there_twice(tmp_path):
    (tmp_path / "a.yaml").write_text("sample: a\ninput:\n  path: x\n  path: y\n")
    with pytest.raises(ConfigError, match=r"line 4: key path appears twice \(first on line 3\)"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("base: &b {x: 1}\nother: {<<: *b, x: 2}\n")
    assert read_yaml(tmp_path / "b.yaml")["other"] == {"x": 2}
    with pytest.raises(ValueError, match="its key 'a' has two values; remove one of them"):
        load_json(b'{"b": [{"a": 1, "c": 2, "a": [3]}]}')
    assert load_json(b'{"a": {"b": 1}, "a": {"b": 1}}') == {"a": {"b": 1}}


def test_aliases_that_grow_or_return(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="over 100000 values when its aliases"):
        read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "self.yaml").write_text("a: &a\n  b: *a\n")
    with pytest.raises(ConfigError, match="50 levels"):
        read_yaml(tmp_path / "self.yaml")
    config = {"sample": "s"}
    config["input"] = config
    with pytest.raises(ConfigError, match="more than 50 levels"):
        check(config)


# ---------------------------------------------------------------------- tables
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(encoding, delimiter, end):
    decimal = "." if delimiter == "," else ","
    rows = [["name", "z_um", "y_um", "x_um"], ["Bregma µ", f"1{decimal}5", "-2", "3e1"]]
    text = end.join(delimiter.join(row) for row in rows) + end
    table = parse_table(text.encode(encoding))
    assert table.columns == tuple(rows[0])
    ((line, cells),) = table.rows
    assert (line, cells[0]) == (2, "Bregma µ")
    assert [table.number(c) for c in cells[1:]] == [1.5, -2.0, 30.0]


def test_columns_and_lines_that_spreadsheets_add():
    table = parse_table(b"sep=;\r\na;b;;\r\n\r\n1;2;;\r\n;;;\r\n3;4;;\r\n")
    assert table.columns == ("a", "b")
    assert table.rows == ((4, ("1", "2")), (6, ("3", "4")))
    # between commas, a comma is not a decimal sign: 1,234 may be a thousand
    assert parse_table(b'a,b\n"1,234",2\n').number("1,234") != parse_table(b"a;b\n").number("1,2")


def test_the_same_points_in_every_dress(tmp_path):
    (tmp_path / "a.csv").write_bytes(POINTS)
    (tmp_path / "b.csv").write_bytes(POINTS.replace(b",", b";").replace(b"5.5", b"5,5"))
    one, other = (read_points(tmp_path / f"{name}.csv", FRAME) for name in "ab")
    assert (one.position_um == other.position_um).all() and one.names == other.names


@pytest.mark.parametrize("value", ["NaN", "1e306", "-1e306", "1e999", "Infinity"])
def test_points_that_are_nowhere(tmp_path, value):
    (tmp_path / "a.csv").write_bytes(POINTS.replace(b"5.5", value.encode()))
    (tmp_path / "a.json").write_bytes(STATE.replace(b"[1, 2, 3]", f"[1, 2, {value}]".encode()))
    for name in ("a.csv", "a.json"):
        with pytest.raises(PointsError):
            read_points(tmp_path / name, FRAME)


def test_a_chain_of_parents_is_no_hierarchy(tmp_path):
    rows = [f"{n},a{n},b,{n - 1 if n > 1 else ''}" for n in range(1, 20_000)]
    (tmp_path / "o.csv").write_text("id,acronym,name,parent\n" + "\n".join(rows))
    with pytest.raises(AtlasError, match="has 19998 ancestors, more than the 100 allowed; correct"):
        read_ontology(tmp_path / "o.csv")


# ---------------------------------------------------------------------- the door itself
def test_whatever_a_parser_raises_is_a_sentence_of_its_own_class():
    for problem in (RecursionError(), KeyError("sizes"), OverflowError("x"), ValueError("a\nb")):
        with pytest.raises(AtlasError, match=r"^f cannot be read \([^\n]+\); do it$"):
            with boundary("f", AtlasError, "do it"):
                raise problem
    with pytest.raises(AtlasError, match=r"^f cannot be read as X: no; give y$"):
        with boundary("f", AtlasError, "do it", "X"):
            raise ValueError("no; give y")
    with pytest.raises(MemoryError):
        with boundary("f", AtlasError, "do it"):
            raise MemoryError
    with pytest.raises(ConfigError, match="as it is"):
        with boundary("f", AtlasError, "do it"):
            raise ConfigError("as it is")


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_json_comes_back(value):
    assert load_json(json.dumps(value).encode()) == value or "\0" in json.dumps(value)
