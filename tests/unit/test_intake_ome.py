"""OME-XML of several writers: voxel sizes and positions in micrometres, and whose image it is."""

from __future__ import annotations

import pytest

from terareg.intake.ome import is_ome, read_ome

ZEISS = """<?xml version="1.0"?>
<ome:OME xmlns:ome="http://www.openmicroscopy.org/Schemas/OME/2016-06">
 <ome:Image ID="Image:0" Name="s1">
 <ome:StageLabel Name="Scene #0" X="1" XUnit="mm" Y="-2" YUnit="mm"/>
 <ome:Pixels SizeX="30" SizeY="20" SizeZ="4" SizeC="1" SizeT="1" PhysicalSizeX="500"
  PhysicalSizeXUnit="nm" PhysicalSizeY='0.5' PhysicalSizeZ="2" PhysicalSizeZUnit="&#181;m">
 <ome:Channel ID="Channel:0" ExcitationWavelength="488"/></ome:Pixels></ome:Image></ome:OME>"""


def pixels(name: str, x: float, file: str = "") -> str:
    uuid = f'<TiffData IFD="0"><UUID FileName="{file}">urn:uuid:1</UUID></TiffData>' if file else ""
    return (
        f'<Image Name="{name}"><Pixels SizeX="9" SizeZ="2" PhysicalSizeX="1">{uuid}'
        f'<Plane TheC="0" TheZ="0" TheT="0" PositionX="{x}" PositionY="5"/></Pixels></Image>'
    )


def test_units_stage_labels_and_wavelengths():
    image = read_ome(ZEISS, "any.tif")
    assert image.spacing_um == (2.0, 0.5, 0.5)
    assert image.position_um == (0.0, -2000.0, 1000.0) and image.unit_stated
    assert image.channels == ("488",) and image.sizes["Z"] == 4
    assert is_ome(ZEISS) and not is_ome("ImageJ=1.53")


def test_a_set_of_files_describes_all_and_each_finds_its_own_image():
    text = f"<OME>{pixels('Pos0', 1, 'a.tif')}{pixels('Pos1', 2, 'b.tif')}</OME>"
    assert read_ome(text, "b.tif").position_um == (0.0, 5.0, 2.0)
    assert not read_ome(text, "b.tif").unit_stated
    named = f"<OME>{pixels('Pos0', 1)}{pixels('Pos1', 2)}</OME>"
    assert read_ome(named, "scan_Pos1.ome.tif").position_um[2] == 2.0
    assert read_ome("<OME></OME>", "a.tif") is None


@pytest.mark.parametrize(
    ("text", "spacing"),
    [
        ('<Pixels PhysicalSizeX="x" PhysicalSizeY="1" PhysicalSizeZ="1">', (1.0, 1.0, None)),
        ('<Pixels PhysicalSizeX="0" PhysicalSizeY="-1" PhysicalSizeZ="nan">', (None, None, None)),
        ('<Pixels PhysicalSizeX="1" PhysicalSizeXUnit="pixel">', (None, None, None)),
    ],
)
def test_what_is_no_length_is_not_stated(text, spacing):
    image = read_ome(f"<OME><Image>{text}</Pixels></Image></OME>", "a.tif")
    assert image.spacing_um == spacing and image.position_um is None


def test_lavision_states_offset_and_overlap():
    offset = '<Offset Offset_0="-1861.4" Offset_1="7" Offset_2="0"/>'
    share = '<xyz-Table_XY_Overlap Value="10.000000"/>'
    text = f"<OME><Image><ca:CustomAttributes>{offset}</ca:CustomAttributes></Image>{share}</OME>"
    image = read_ome(text, "a.tif")
    assert image.position_um == (0.0, 7.0, -1861.4) and image.overlap == 0.1
