"""TeraStitcher's five files: written, read back, and not trusted."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terareg.acquisition.model import Acquisition, Channel, Tile
from terareg.acquisition.raw import PlaneFiles
from terareg.core.errors import StitchingError
from terareg.stitching.pairs import PairResult, WindowResult
from terareg.stitching.solver import place
from terareg.stitching.terastitcher import exchange, model, reading, stages, writing

GOLDEN_IMPORT = """\
<?xml version="1.0" encoding="UTF-8" ?>
<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">
<TeraStitcher volume_format="TiledXY|2Dseries" input_plugin="tiff2D">
    <stacks_dir value="/raw/VW0" />
    <mdata_bin value="./mdata.bin" />
    <ref_sys ref1="1" ref2="2" ref3="3" />
    <voxel_dims V="2" H="2" D="5" />
    <origin V="0" H="0" D="0" />
    <mechanical_displacements V="180" H="170" />
    <dimensions stack_rows="1" stack_columns="2" stack_slices="20" />
    <STACKS>
        <Stack N_CHANS="1" N_BYTESxCHAN="2" ROW="0" COL="0" ABS_V="0" ABS_H="0" ABS_D="0" \
STITCHABLE="no" DIR_NAME="LOC000" Z_RANGES="[0,5);[7,20)" IMG_REGEX="CHN00_PLN[0-9]+[.]tif">
            <NORTH_displacements />
            <EAST_displacements />
            <SOUTH_displacements />
            <WEST_displacements />
        </Stack>
        <Stack N_CHANS="1" N_BYTESxCHAN="2" ROW="0" COL="1" ABS_V="0" ABS_H="85" ABS_D="0" \
STITCHABLE="no" DIR_NAME="" Z_RANGES="" IMG_REGEX="^$">
            <NORTH_displacements />
            <EAST_displacements />
            <SOUTH_displacements />
            <WEST_displacements />
        </Stack>
    </STACKS>
</TeraStitcher>
"""

# as TeraStitcher's own GUI and older releases write it: blocks, comments, CRLF, tabs, wrong ROW and
# COL, no ref_sys, no WEST and NORTH, attributes in another order, reliability not yet computed
FOREIGN = """\
<?xml version='1.0' encoding='UTF-8'?>
<!DOCTYPE TeraStitcher SYSTEM "TeraStitcher.DTD">
<!-- exported -->
<TeraStitcher input_plugin="tiff3D" volume_format="TiledXY|3Dseries">
\t<stacks_dir value="C:\\data\\brain" />
\t<voxel_dims V="1.599" H="-1.599" D="1" />
\t<origin V="17.156" H="11.126" D="10" />
\t<mechanical_displacements V="2783" H="2784" />
\t<dimensions stack_rows="1" stack_columns="2" stack_slices="120" />
\t<subimage resolution="0" timepoint="0" />
\t<STACKS>
\t\t<Stack N_BLOCKS="2" BLOCK_SIZES="60,60" BLOCKS_ABS_D="0,60" N_CHANS="1" N_BYTESxCHAN="1" \
ROW="7" COL="7" ABS_V="0" ABS_H="0" ABS_D="0" STITCHABLE="yes" DIR_NAME="000000/000000_000000" \
Z_RANGES="[0,120)" IMG_REGEX="">
\t\t\t<!-- measured -->
\t\t\t<EAST_displacements>
\t\t\t\t<Displacement TYPE="MIP_NCC">
\t\t\t\t\t<V displ="-2" default_displ="0" reliability="0.787502" nccPeak="0.840414" nccWidth="7" />
\t\t\t\t\t<H displ="1735" default_displ="1741" reliability="-1" nccPeak="0.5" nccWidth="30" \
nccWRangeThr="25" nccInvWidth="26" delay="25" />
\t\t\t\t\t<D displ="3" default_displ="0" reliability="0.9" nccPeak="0.9" nccWidth="3" />
\t\t\t\t</Displacement>
\t\t\t</EAST_displacements>
\t\t\t<SOUTH_displacements />
\t\t</Stack>
\t\t<Stack N_BLOCKS="1" BLOCK_SIZES="120" BLOCKS_ABS_D="0" N_CHANS="1" N_BYTESxCHAN="1" ROW="0" \
COL="0" ABS_V="-2" ABS_H="1735" ABS_D="3" STITCHABLE="no" DIR_NAME="000000/000000_027840" \
Z_RANGES="[0,120)" IMG_REGEX=".*[.]tif" SERIES_NO="1" />
\t</STACKS>
</TeraStitcher>
""".replace("\n", "\r\n")


def acquisition_of(rows=2, columns=3, missing=(), planes=20, spacing=(5.0, 2.0, 2.0)):
    step = (90.0, 85.0)
    tiles, files = [], {}
    for r in range(rows):
        for c in range(columns):
            if (r, c) in missing:
                continue
            name = f"LOC{c + r * columns:03d}"
            tiles.append(Tile(name, r, c, f"VW0/{name}", (0.0, r * step[0], c * step[1])))
            files[name] = {"ch0": PlaneFiles("CHN00_PLN", ".tif", 4)}
    return Acquisition(
        "s", "colm", "/raw", rows, columns, tuple(tiles), (Channel("ch0", 0),), (planes, 100, 100),
        "uint16", spacing, "SAR", (0.1, 0.15), files,
    )  # fmt: skip


def pair(a, b, direction, displ, reliability=0.9994, status="ok", scatter=1.0):
    windows = tuple(
        WindowResult(
            (z, z + 5), (0, 100), tuple(v + scatter * (z == 5) for v in displ), 0.4, 0.1, True,
            status == "ok" and z != 10,
        )
        for z in (0, 5, 10)
    )  # fmt: skip
    return PairResult(
        a, b, direction, status, tuple(displ), (0.1, 0.1, 0.1), reliability, 0.4, 2, 3,
        (0.0, 0.0, 85.0), (4, 10, 10), windows,
    )  # fmt: skip


def measured(acquisition, seed=0):
    """Pairs of a consistent set of positions, and the positions (z, y, x)."""
    rng = np.random.default_rng(seed)
    place_of = {
        (t.row, t.column): np.array(t.origin_vox) + rng.uniform(-3, 3, 3) for t in acquisition.tiles
    }
    pairs = [
        pair(a.name, b.name, d, place_of[b.row, b.column] - place_of[a.row, a.column])
        for a, b, d in acquisition.pairs()
    ]
    return pairs, place_of


# ------------------------------------------------------------------ writing
def test_import_file_is_as_documented(tmp_path):
    """C1, D13: every attribute of xml_import; steps are not truncated."""
    acquisition = acquisition_of(1, 2, missing={(0, 1)})
    acquisition.planes["LOC000"]["ch0"] = PlaneFiles("CHN00_PLN", ".tif", 4, missing=(5, 6))
    project = stages.from_acquisition(acquisition, "ch0")
    assert writing.format_xml(project) == GOLDEN_IMPORT
    writing.write_xml(tmp_path / "new" / "xml_import.xml", project)
    assert (tmp_path / "new" / "xml_import.xml").read_bytes() == GOLDEN_IMPORT.encode()
    assert reading.read_xml(tmp_path / "new" / "xml_import.xml") == project


def test_line_ends_are_a_choice():
    project = reading.parse_xml(GOLDEN_IMPORT)
    crlf = writing.format_xml(project, "\r\n")
    assert crlf == GOLDEN_IMPORT.replace("\n", "\r\n")
    assert reading.parse_xml(crlf) == project


@pytest.mark.parametrize("overlap", [0.1, 0.12, 0.15, 0.2, 0.3])
@pytest.mark.parametrize("voxel", [0.234, 0.585, 1.46])
def test_nominal_step_survives_truncation(overlap, voxel):
    acquisition = replace(
        acquisition_of(2, 2, spacing=(5.0, voxel, voxel)), overlap=(overlap, overlap)
    )
    steps = acquisition.nominal_step_vox
    project = stages.from_acquisition(acquisition, "ch0")
    assert project.default_displ == tuple(int(s + 1e-9) for s in steps)


def test_file_pattern_matches_the_channel_only():
    import re

    acquisition = acquisition_of(1, 1)
    files = PlaneFiles("VW0_LOC000D_CM0_CHN01_PLN", ".tif", 4, odd={3: "a+b (1).tiff"})
    acquisition.planes["LOC000"]["ch0"] = files
    pattern = re.compile(stages.from_acquisition(acquisition, "ch0").stacks[0].img_regex)
    assert all(pattern.fullmatch(files.name(z)) for z in range(20))
    for other in ("VW0_LOC000D_CM0_CHN00_PLN0001.tif", "CHN01_bias.tiff", "x.tif", ""):
        assert not pattern.fullmatch(other)


def test_displcomp_holds_one_displacement_per_window():
    acquisition = acquisition_of(1, 2)
    project = stages.from_acquisition(acquisition, "ch0")
    found = stages.with_displacements(
        project, [pair("LOC000", "LOC001", "EAST", (1.2, -2.4, 83.6))]
    )
    east = found.stack(0, 0).displacements["EAST"]
    assert [tuple(a.displ for a in d.axes) for d in east] == [(-2, 84, 1), (-1, 85, 2), (-2, 84, 1)]
    assert [d.v.reliability for d in east] == pytest.approx([0.999, 0.997, 0.0])
    assert east[0].h.default == 85
    assert east[0].axes[2].delay == 4
    west = found.stack(0, 1).displacements["WEST"]
    assert tuple(axis.displ for axis in west[0].axes) == (2, -84, -1)
    assert reading.parse_xml(writing.format_xml(found)) == found


def test_projection_and_threshold():
    """C3: per axis the most reliable window; what is unreliable falls back to the nominal step."""
    acquisition = acquisition_of(2, 2)
    project = stages.from_acquisition(acquisition, "ch0")
    pairs = [
        pair("LOC000", "LOC001", "EAST", (1.2, -2.4, 83.6)),
        pair("LOC000", "LOC002", "SOUTH", (0.0, 93.0, 4.0), 0.2, "disagree"),
    ]
    projected = stages.project(stages.with_displacements(project, pairs))
    (east,) = projected.stack(0, 0).displacements["EAST"]
    assert tuple(a.displ for a in east.axes) == (-2, 84, 1)
    (south,) = projected.stack(0, 1).displacements["SOUTH"]
    assert tuple((a.displ, a.reliability) for a in south.axes) == ((90, 0), (0, 0), (0, 0))
    limited = stages.threshold(projected, 0.7)
    assert limited.stack(0, 0).displacements["EAST"] == (east,)
    (south,) = limited.stack(0, 0).displacements["SOUTH"]
    assert tuple((a.displ, a.reliability) for a in south.axes) == ((90, 0), (0, 0), (0, 0))
    assert [s.stitchable for s in limited.stacks] == [True, True, False, False]
    with pytest.raises(StitchingError, match="threshold 7 is not a reliability; give 0 to 1"):
        stages.threshold(projected, 7)


@pytest.mark.parametrize("reliability", [0.0, 0.123, 0.5, 0.95, 0.999])
def test_reliability_survives_being_recomputed(reliability):
    """TeraStitcher's -4 computes it from peak and width and ignores what the file says."""
    axis = model.Axis.encoded(5, 0, reliability)
    narrow = 1 - axis.width / axis.inf_width
    anew = math.sqrt((narrow**2 + axis.peak**2) / 2)
    assert anew == pytest.approx(axis.reliability, abs=1e-12)
    assert axis.reliability == pytest.approx(reliability, abs=5e-4)


def shortest_path_positions(text):
    """Where TeraStitcher's -5 puts the tiles: per axis, along the paths of least 1/reliability."""
    root = ET.fromstring(text)
    size = root.find("dimensions")
    rows, columns = int(size.get("stack_rows")), int(size.get("stack_columns"))
    edges = []
    for k, stack in enumerate(root.find("STACKS")):
        for side, other in (("EAST", k + 1), ("SOUTH", k + columns)):
            for d in stack.find(f"{side}_displacements"):
                edges.append((k, other, list(d)))
    result = np.zeros((rows * columns, 3), int)
    for axis in range(3):
        cost = np.full(rows * columns, np.inf)
        cost[0] = 0
        for _ in range(rows * columns):
            for a, b, axes in edges:
                r = float(axes[axis].get("reliability"))
                weight, displ = (1 / r if r else 1000), int(axes[axis].get("displ"))
                for p, q, sign in ((a, b, 1), (b, a, -1)):
                    if cost[p] + weight < cost[q]:
                        cost[q] = cost[p] + weight
                        result[q, axis] = result[p, axis] + sign * displ
    return result


@pytest.mark.parametrize("missing", [(), {(0, 2), (1, 0)}])
def test_original_placement_reproduces_ours(missing):
    """C4, C5: every loop of the merging file closes, so any path gives the same positions."""
    acquisition = acquisition_of(3, 3, missing)
    pairs, _ = measured(acquisition)
    pairs[1] = pair(pairs[1].a, pairs[1].b, pairs[1].direction, (0, 0, 0), 0.0, "no_signal")
    placement = place(acquisition, pairs)
    imported = stages.from_acquisition(acquisition, "ch0")
    merged = stages.with_placement(stages.with_displacements(imported, pairs), placement)
    found = shortest_path_positions(writing.format_xml(merged))
    assert [tuple(v) for v in found.tolist()] == [s.abs_vhd for s in merged.stacks]
    assert merged.stacks[0].abs_vhd == (0, 0, 0)
    assert reading.parse_xml(writing.format_xml(merged)) == merged
    back = exchange.to_placement(reading.parse_xml(writing.format_xml(merged)), acquisition)
    assert back.origins() == placement.origins()
    assert back.unscanned == placement.unscanned


# ------------------------------------------------------------------ reading
def test_foreign_file_is_understood():
    project = reading.parse_xml(FOREIGN, "theirs.xml")
    assert project.volume_format == "TiledXY|3Dseries"
    assert project.voxel_vhd_um == (1.599, -1.599, 1.0)
    assert project.ref_sys is None and project.mdata_bin is None
    assert project.subimage == (0, 0)
    assert project.default_displ == (1740, 1741)
    first, second = project.stacks
    assert (second.row, second.column) == (0, 1)  # the document's order, not ROW and COL
    assert first.block_sizes == (60, 60) and first.blocks_abs_d == (0, 60)
    assert second.series_no == 1 and second.abs_vhd == (-2, 1735, 3)
    (east,) = first.displacements["EAST"]
    assert east.v == model.Axis(-2, 0, 0.787502, 0.840414, 7, 29, 30, -1)
    assert east.h.reliability == -1 and east.h.inf_width == 26
    again = writing.format_xml(project)
    assert reading.parse_xml(again) == project
    assert writing.format_xml(reading.parse_xml(again)) == again


def test_pairs_of_a_foreign_file():
    acquisition = acquisition_of(1, 2)
    project = stages.with_displacements(
        stages.from_acquisition(acquisition, "ch0"),
        [pair("LOC000", "LOC001", "EAST", (1.0, -2.0, 84.0))],
    )
    for stage in (project, stages.project(project), stages.threshold(project, 0.5)):
        (found,) = exchange.to_pairs(stage, acquisition)
        assert found.displ_vox == (1.0, -2.0, 84.0)
        assert (found.a, found.b, found.status, found.engine) == ("LOC000", "LOC001", "ok", "xml")
        assert found.reliability == pytest.approx(0.999)
    placement = place(acquisition, exchange.to_pairs(project, acquisition))
    assert placement.origins()["LOC001"] == (1, -2, 84)
    (found,) = exchange.to_pairs(stages.threshold(project, 1.0), acquisition)
    assert found.status == "no_signal" and found.displ_vox == (0.0, 0.0, 85.0)
    assert exchange.to_pairs(stages.from_acquisition(acquisition, "ch0")) == []


integers = st.integers(-(10**6), 10**6)
unit = st.floats(0, 1, allow_nan=False)
axes = st.builds(
    model.Axis, integers, integers, unit, unit, st.integers(0, 2000), st.integers(0, 99),
    st.integers(1, 2000), st.integers(-1, 500),
)  # fmt: skip
displacements = st.lists(st.builds(model.Displacement, axes, axes, axes), min_size=1, max_size=3)
folders = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\~:."),
    min_size=1, max_size=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_written_is_read(data):
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    blocks = data.draw(st.booleans())
    stacks = []
    for k in range(rows * columns):
        edges = data.draw(st.lists(st.integers(0, 999), max_size=6, unique=True).map(sorted))
        edges = edges[: len(edges) // 2 * 2]
        sides = data.draw(
            st.dictionaries(st.sampled_from(["NORTH", "EAST", "SOUTH", "WEST"]), displacements)
        )
        stacks.append(
            model.Stack(
                k // columns,
                k % columns,
                tuple(data.draw(st.tuples(integers, integers, integers))),
                data.draw(folders | st.just("")),
                tuple(zip(edges[::2], edges[1::2])),
                data.draw(st.sampled_from([".*", "^$", "a\"<&>'b", "[0-9]+[.]tif"])),
                data.draw(st.booleans()),
                block_sizes=(60, 60) if blocks else None,
                blocks_abs_d=(0, 60) if blocks else None,
                displacements={s: tuple(sides[s]) for s in sides},
            )
        )
    size = st.floats(1e-3, 1e3)
    project = model.ProjectXml(
        "TiledXY|3Dseries" if blocks else "TiledXY|2Dseries",
        data.draw(folders),
        data.draw(st.tuples(size, size, size)),
        data.draw(st.tuples(size, size)),
        rows,
        columns,
        data.draw(st.integers(1, 9999)),
        tuple(stacks),
        origin_vhd_mm=data.draw(st.tuples(size, size, size)),
        mdata_bin=data.draw(st.none() | folders),
        ref_sys=data.draw(st.sampled_from([None, (1, 2, 3), (2, -1, 3)])),
        subimage=data.draw(st.sampled_from([None, (0, 0), (0, 0, 2)])),
    )
    text = writing.format_xml(project)
    assert reading.parse_xml(text) == project
    assert writing.format_xml(reading.parse_xml(text)) == text


def test_a_list_of_channels_is_no_project(tmp_path):
    path = tmp_path / "channels.xml"
    path.write_text(
        '<TeraStitcher volume_format="MultiVolume"><SUBVOLUMES><Subvolume xml_fname="a/c0.xml"/>'
        '<Subvolume xml_fname="a/c1.xml"/></SUBVOLUMES></TeraStitcher>'
    )
    with pytest.raises(StitchingError, match=r"MultiVolume file lists channels.*alignment channel"):
        reading.read_xml(path)


# ------------------------------------------------------------------ hostile and wrong files
BOMB = '<!DOCTYPE t [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><TeraStitcher>&b;'
OUTSIDE = '<!DOCTYPE t [<!ENTITY a SYSTEM "file:///etc/passwd">]><TeraStitcher>&a;'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (None, BOMB + "</TeraStitcher>", "declares entities"),
        (None, OUTSIDE + "</TeraStitcher>", "declares entities"),
        (None, "<TeraStitcher", "is not well-formed XML"),
        (None, "", "is not well-formed XML"),
        (None, "<html/>", "the root is <html>, not <TeraStitcher>"),
        ('"LOC000"', '"../../etc"', r"stack 0,0: DIR_NAME='../../etc' leads out of stacks_dir"),
        ('"LOC000"', '"/etc"', "leads out of stacks_dir"),
        ('"LOC000"', '"a/../../b"', "leads out of stacks_dir"),
        ('"LOC000"', '"..\\x"', "leads out of stacks_dir"),
        ('"LOC000"', '"C:\\x"', "leads out of stacks_dir"),
        ('"LOC000"', '"s3://bucket/x"', "leads out of stacks_dir"),
        ('volume_format="TiledXY|2Dseries" ', "", "volume_format is missing"),
        ("2Dseries", "9Dseries", "volume_format 'TiledXY|9Dseries' is not supported"),
        ('stack_rows="1"', 'stack_rows="1000000"', "1000000 x 2 tiles are impossible"),
        ('stack_rows="1"', 'stack_rows="3"', "2 Stack elements for a grid of 3 x 2"),
        ('stack_rows="1"', 'stack_rows="1.5"', "stack_rows='1.5' is not an integer"),
        ('ABS_H="85"', 'ABS_H="1e99"', "ABS_H='1e99' is not a number"),
        ('ABS_H="85"', 'ABS_H="nan"', "ABS_H='nan' is not a number"),
        (' ABS_H="85"', "", "<Stack> has no attribute ABS_H"),
        ('V="2" H="2" D="5"', 'V="0" H="2" D="5"', "voxel size .* is impossible"),
        ('<origin V="0" H="0" D="0" />', "", "<origin> is missing"),
        ("[0,5);[7,20)", "[0,5);[5,20)", "do not increase"),
        ("[0,5);[7,20)", "0-20", "is not a list of ranges"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, old, new, message):
    path = tmp_path / "bad.xml"
    path.write_text(new if old is None else GOLDEN_IMPORT.replace(old, new))
    with pytest.raises(StitchingError, match=message.replace("|", r"\|")) as caught:
        reading.read_xml(path)
    assert "bad.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_displacements():
    for old, new, message in (
        ('TYPE="MIP_NCC"', 'TYPE="X"', "displacement of type 'X'; only MIP_NCC"),
        ('displ="-2"', 'displ="a"', "displ='a' is not a number"),
        ('BLOCKS_ABS_D="0,60"', 'BLOCKS_ABS_D="0"', "contradict each other"),
        ('BLOCK_SIZES="60,60"', 'BLOCK_SIZES="60;60"', "is not a list of integers"),
    ):
        with pytest.raises(StitchingError, match=message):
            reading.parse_xml(FOREIGN.replace(old, new))


def test_unreadable_and_huge_files(tmp_path, monkeypatch):
    with pytest.raises(StitchingError, match=r"none.xml cannot be read \(No such file"):
        reading.read_xml(tmp_path / "none.xml")
    path = tmp_path / "huge.xml"
    path.write_text(GOLDEN_IMPORT)
    monkeypatch.setattr(reading, "_MAX_BYTES", 100)
    with pytest.raises(StitchingError, match="it is larger than"):
        reading.read_xml(path)


def test_xml_of_another_acquisition():
    acquisition = acquisition_of(2, 3, missing={(1, 1)})
    project = stages.from_acquisition(acquisition, "ch0")
    exchange.check_fits(project, acquisition)
    for other, message in (
        (acquisition_of(3, 2), "2 x 3 tiles but the acquisition has 3 x 2"),
        (acquisition_of(2, 3, {(1, 1)}, spacing=(5.0, 2.2, 2.2)), "voxel size 2 um along V"),
        (acquisition_of(2, 3, {(1, 1)}, planes=21), "20 slices per tile but the files have 21"),
        (acquisition_of(2, 3), "cell 1,1 was not acquired but"),
        (acquisition_of(2, 3, {(1, 1), (0, 0)}), "cell 0,0 was acquired but"),
        (replace(acquisition, dtype="uint8"), "2 bytes per pixel but the files have 1"),
    ):
        with pytest.raises(StitchingError, match=message):
            exchange.check_fits(project, other, "theirs.xml")
    stacks = list(project.stacks)
    stacks[1] = replace(stacks[1], abs_vhd=(0, 5000, 0))
    with pytest.raises(StitchingError, match=r"LOC001 5000 pixels from LOC000"):
        exchange.check_fits(replace(project, stacks=tuple(stacks)), acquisition)
    stacks[1] = replace(stacks[1], abs_vhd=(0, 85, 0), z_ranges=((0, 99),))
    with pytest.raises(StitchingError, match="slices up to 99"):
        exchange.check_fits(replace(project, stacks=tuple(stacks)), acquisition)


def test_placement_and_pairs_must_fit_the_project():
    project = stages.from_acquisition(acquisition_of(1, 2), "ch0")
    with pytest.raises(StitchingError, match="no position for cell"):
        stages.with_placement(project, place(acquisition_of(1, 1), []))
    with pytest.raises(StitchingError, match="is not in the project; import the tiles again"):
        stages.with_displacements(project, [pair("LOC000", "LOC007", "EAST", (0, 0, 85))])


def test_files_do_not_depend_on_where_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = stages.from_acquisition(acquisition_of(), "ch0")
    writing.write_xml(Path("a.xml"), project)
    writing.write_xml(tmp_path / "deep" / "b.xml", project)
    assert Path("a.xml").read_bytes() == Path("deep/b.xml").read_bytes()
