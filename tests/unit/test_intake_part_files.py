"""Files of Imaris, Zeiss and Leica: places, channels and what is left out."""

from __future__ import annotations

import container_files as files
import numpy as np
import pytest
from microscope_folders import SPACING_UM, stack

from terareg.core.errors import AcquisitionError
from terareg.intake.found import Look
from terareg.intake.part_files import imaris_as_ome, part_files
from terareg.storage.store import Store
from terareg.volumes.imaris import read_imaris


def found(folder, only=None):
    return part_files(Look(Store(str(folder))), only)


def test_a_folder_without_such_files(tmp_path):
    assert found(tmp_path) is None


def test_imaris_extents_are_those_of_the_first_voxel(tmp_path):
    files.write_imaris(tmp_path / "a.ims", [stack((0, 0))], place_um=(7, -30, 4))
    said = imaris_as_ome(read_imaris(Store(str(tmp_path)), "a.ims"), "a.ims")
    assert said.position_um == (7, -30, 4) and said.spacing_um == SPACING_UM
    assert said.sizes == {"Z": 4, "Y": 20, "X": 30}


def test_imaris_files_at_one_place_are_told_by_their_names(tmp_path):
    for row, column in np.ndindex(2, 2):
        files.write_imaris(tmp_path / f"t_y{row}_x{column}.ims", [stack((row, column))])
    guess = found(tmp_path)
    assert "overlap" in guess.asked and guess.table.splitlines()[2].endswith("\tAF488\t0\t1")
    for letter, path in zip("abcd", sorted(tmp_path.glob("t_*"))):
        path.rename(path.with_name(f"{letter}.ims"))
    with pytest.raises(AcquisitionError, match="contains 4 stacks of Imaris whose files state no"):
        found(tmp_path)


def czi(folder, blocks, xml=None) -> None:
    files.write_czi(folder / "x.czi", blocks, xml or files.zeiss_xml())


def test_one_czi_stack_is_one_tile(tmp_path):
    czi(tmp_path, {(("C", 0), ("Z", z)): (stack((0, 0))[z], (0, 0), 1) for z in range(4)})
    one = found(tmp_path)
    assert one.title == "one stack of CZI" and one.source["spacing_um"] == list(SPACING_UM)
    assert one.table.splitlines()[1] == "x.czi#C0\tAF488\t0\t0"


def test_czi_times_are_refused_and_illuminations_are_channels(tmp_path):
    plane = stack((0, 0))[0]
    czi(tmp_path, {(("C", 0), ("T", t)): (plane, (0, 0), 1) for t in (0, 1)})
    with pytest.raises(AcquisitionError, match="it has 2 positions along T; export one"):
        found(tmp_path)
    czi(tmp_path, {(("C", 0), ("I", i)): (plane, (0, 0), 1) for i in (0, 1)})
    assert list(found(tmp_path).source["channels"]) == ["AF488_side0", "AF488_side1"]


def test_views_of_a_light_sheet_lie_where_the_stage_was(tmp_path):
    plane = stack((0, 0))[0]
    views = "".join(
        f'<View Id="View:{k}"><PositionX>{40 * k}</PositionX><PositionY>7</PositionY></View>'
        for k in (0, 1)
    )
    xml = files.zeiss_xml().replace("</Channels>", f"</Channels><V><Views>{views}</Views></V>")
    czi(tmp_path, {(("C", 0), ("V", v)): (plane, (0, 0), 1) for v in (0, 1)}, xml)
    rows = found(tmp_path).table.splitlines()
    assert rows[1:] == ["x.czi#C0:V0\tAF488\t7\t0", "x.czi#C0:V1\tAF488\t7\t40"]


def test_a_czi_without_a_step_along_z_asks_for_it(tmp_path):
    xml = files.zeiss_xml((0.0, 1.5, 2.0))
    czi(tmp_path, {(("C", 0), ("Z", z)): (stack((0, 0))[z], (0, 0), 1) for z in range(4)}, xml)
    assert "spacing_um" in found(tmp_path).asked


def test_images_of_one_plane_in_a_lif_are_left_out(tmp_path):
    files.leica(tmp_path)
    rows = found(tmp_path, "brain.lif").table.splitlines()
    assert len(rows) == 13 and all(row.startswith("brain.lif#1:M") for row in rows[1:])


def test_what_is_left_out_is_told(tmp_path):
    """A tile of another size, a second scan in one file, and scenes."""
    for number, cell in enumerate([(0, 0), (0, 1)]):
        place = (0, 0, 48.0 * number)
        files.write_imaris(tmp_path / f"ims/{number}.ims", [stack(cell)], place_um=place)
    files.write_imaris(tmp_path / "ims/2.ims", [stack((0, 2))[:, :10]], place_um=(0, 0, 96))
    told = found(tmp_path / "ims").guesses["path"]
    assert "1 stacks of Imaris are left out" in told and "2.ims#" in told and "(10 x 30)" in told
    scan = np.ascontiguousarray(stack((0, 0))[None, :, None])
    images = [("a", np.concatenate([scan, scan]), tile_scan(2)), ("b", scan, tile_scan(1))]
    files.write_lif(tmp_path / "lif/x.lif", images)
    guess = found(tmp_path / "lif")
    assert "1 stacks of LIF are left out" in guess.guesses["path"]
    assert [row.partition("\t")[0] for row in guess.table.splitlines()[1:]] == [
        "x.lif#0:M0", "x.lif#0:M1",
    ]  # fmt: skip
    plane = stack((0, 0))[0]
    czi(tmp_path, {(("C", 0), ("S", s)): (plane, (0, 40 * s), 1) for s in (0, 1)})
    assert "2 scenes are taken for parts of one sample" in found(tmp_path).guesses["path"]


def tile_scan(tiles: int) -> str:
    places = "".join(f'<Tile PosX="{4e-5 * k}" PosY="0" PosZ="0"/>' for k in range(tiles))
    return f'<Attachment Name="TileScanInfo" FlipX="0" FlipY="0" SwapXY="0">{places}</Attachment>'


def test_stacks_that_begin_at_different_heights(tmp_path):
    blocks = {}
    for tile, first in enumerate((0, 2)):
        for z in range(4):
            blocks[("C", 0), ("Z", first + z), ("M", tile)] = stack((0, tile))[z], (0, 24 * tile), 1
    czi(tmp_path, blocks)
    rows = [row.split("\t") for row in found(tmp_path).table.splitlines()]
    assert rows[0][-1] == "z_um" and [row[-1] for row in rows[1:]] == ["0", "10"]


def test_a_lif_of_overviews_alone(tmp_path):
    files.write_lif(tmp_path / "x.lif", [("a", np.ones((1, 1, 1, 8, 8), np.uint16), "")])
    with pytest.raises(AcquisitionError, match="contains no stack of several planes"):
        found(tmp_path)
