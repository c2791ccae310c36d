"""Lists of points that other programs write: the same points from every one of them."""

import numpy as np
import pytest

from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.regions.point_files import PointForm, read_listed
from terareg.regions.points import read_points

FRAME = Frame((20, 30, 40), (5.0, 2.0, 4.0), (1.0, 2.0, 3.0))
VOXELS = np.array([[1, 2, 3], [4.5, 5, 6], [19, 0, 39]])
UM = FRAME.to_um(VOXELS)

XML = """<?xml version="1.0" encoding="UTF-8"?>
<CellCounter_Marker_File>
  <Image_Properties><Image_Filename>placeholder.tif</Image_Filename></Image_Properties>
  <Marker_Data>
    <Current_Type>1</Current_Type>
    {groups}
  </Marker_Data>
</CellCounter_Marker_File>
"""


def group(kind, voxels):
    marks = "".join(
        f"<Marker><MarkerX>{x}</MarkerX><MarkerY>{y}</MarkerY><MarkerZ>{z}</MarkerZ></Marker>"
        for z, y, x in voxels
    )
    return f"<Marker_Type><Type>{kind}</Type>{marks}</Marker_Type>"


def rows(points, form):
    return "".join(form.format(*p) + "\n" for p in points)


FILES = {
    "cells.xml": (XML.format(groups=group(1, []) + group(2, VOXELS)), {}),
    "all_points.csv": (
        "coordinate_raw_axis_0,coordinate_raw_axis_1,coordinate_raw_axis_2,"
        "coordinate_atlas_axis_0,coordinate_atlas_axis_1,coordinate_atlas_axis_2,structure_name\n"
        + rows(VOXELS, "{},{},{},9,9,9,Cortex"),
        {},
    ),
    "napari.csv": ("index,axis-0,axis-1,axis-2,size\n" + rows(VOXELS, "0,{},{},{},10"), {}),
    "imaris.csv": (
        "\nPosition\n====================\n"
        "Position X,Position Y,Position Z,Unit,Category,Collection,Time,ID,\n"
        + rows(UM, "{2},{1},{0},um,Spot,Position,1,7,"),
        {},
    ),
    "plain.csv": ("x,y,z,score\n" + rows(VOXELS, "{2},{1},{0},0.5"), {"units": "vox"}),
    "upper.csv": ("X;Y;Z\n" + rows(UM / 1000, "{2};{1};{0}"), {"units": "mm"}),
    "own.csv": ("z_um,y_um,x_um,size\n" + rows(UM, "{},{},{},4"), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_program_gives_the_same_places(tmp_path, name):
    text, given = FILES[name]
    (tmp_path / name).write_text(text)
    points = read_points(tmp_path / name, FRAME, form=PointForm(**given))
    assert np.allclose(points.position_um, UM)


def test_further_columns_are_kept_as_they_are(tmp_path):
    kept = {}
    for name, (text, given) in FILES.items():
        (tmp_path / name).write_text(text)
        kept[name] = read_listed(tmp_path / name, PointForm(**given)).further
    assert kept["plain.csv"] == {"score": ("0.5",) * 3}
    assert kept["napari.csv"] == {"index": ("0",) * 3, "size": ("10",) * 3}
    assert kept["imaris.csv"]["ID"] == ("7",) * 3
    assert kept["cells.xml"] == {"type": ("2",) * 3}
    assert kept["all_points.csv"]["structure_name"] == ("Cortex",) * 3


def test_axes_say_along_what_the_coordinates_run(tmp_path):
    (tmp_path / "p.csv").write_text("x,y,z\n" + rows(VOXELS, "{1},{0},{2}"))
    form = PointForm(axes="yzx", units="vox")
    assert np.array_equal(read_listed(tmp_path / "p.csv", form).values, VOXELS)
    (tmp_path / "n.csv").write_text("axis-0,axis-1,axis-2\n" + rows(VOXELS, "{2},{1},{0}"))
    assert np.array_equal(read_listed(tmp_path / "n.csv", PointForm(axes="xyz")).values, VOXELS)
    (tmp_path / "c.xml").write_text(XML.format(groups=group(2, VOXELS[:, ::-1])))
    assert np.array_equal(read_listed(tmp_path / "c.xml", PointForm(axes="zyx")).values, VOXELS)


def test_voxels_of_another_image_of_the_same_field_of_view(tmp_path):
    """Image of twice the voxel size: voxel 0 there is the mean of voxels 0 and 1 here."""
    (tmp_path / "p.csv").write_text("x,y,z\n0,0,0\n7,3,2\n")
    form = PointForm(units=(10.0, 4.0, 8.0))
    points = read_points(tmp_path / "p.csv", FRAME, form=form)
    assert np.allclose(FRAME.to_index(points.position_um), [[0.5, 0.5, 0.5], [4.5, 6.5, 14.5]])


def test_the_atlas_coordinates_of_cellfinder_are_read_where_points_are_in_the_atlas(tmp_path):
    (tmp_path / "p.csv").write_text(FILES["all_points.csv"][0])
    listed = read_listed(tmp_path / "p.csv", PointForm(space="atlas"))
    assert (listed.values == 9).all() and listed.unit == "vox"


def test_types_of_markers_are_asked_for_and_chosen(tmp_path):
    path = tmp_path / "classified.xml"
    path.write_text(XML.format(groups=group(1, VOXELS[:1]) + group(2, VOXELS[1:])))
    with pytest.raises(PointsError, match=r"1 of type 1, 2 of type 2\); choose with types"):
        read_listed(path)
    assert np.array_equal(read_listed(path, PointForm(types=(2,))).values, VOXELS[1:])
    both = read_listed(path, PointForm(types=(1, 2)))
    assert both.further == {"type": ("1", "2", "2")}
    with pytest.raises(PointsError, match=r"no marker of types \[3\]"):
        read_listed(path, PointForm(types=(3,)))


@pytest.mark.parametrize(
    ("name", "text", "given", "message"),
    [
        (
            "p.csv",
            "z_um,y_um,x_um\n1,2,3\n",
            {"units": "um"},
            "already state axes and unit; remove",
        ),
        (
            "p.csv",
            "z_um,y_um,x_um\n1,2,3\n",
            {"axes": "xyz"},
            "already state axes and unit; remove",
        ),
        ("p.csv", "Position X,Position Y,Position Z,Unit\n1,2,3,px\n", {}, "has 'px', not um"),
        ("p.csv", "Position X,Position Y,Position Z\n1,2\n", {}, "line 2: 2 values for 3"),
        ("p.csv", "\nT\n=\nPosition X,Position Y,Position Z\n1,2,a\n", {}, "line 5: .* not three"),
        ("p.csv", "axis-0,axis-1\n1,2\n", {}, "no coordinates in the columns 'axis-0'"),
        (
            "p.csv",
            "index,axis-0,axis-1,axis-2,axis-3\n0,0,1,2,3\n",
            {},
            "axis-0 to axis-3 give positions along more than three axes",
        ),
        ("p.tsv", "z_vox\ty_vox\tx_vox\n1,024\t12.5\t3\n", {}, "with a point and with a comma"),
        ("p.csv", "z_vox;y_vox;x_vox\n1.024;12,5;3\n", {}, r"\(here 12,5\), one of which must"),
        ("p.xml", "<a/>", {}, "has no markers; give cellfinder's XML"),
        ("p.xml", XML.format(groups=group(2, [("a", 1, 2)])), {}, "cannot be read as XML"),
        ("p.xml", "<a>", {}, "cannot be read as XML"),
        (
            "p.xml",
            XML.format(groups=group(2, [("1e300", 1, 2)])),
            {},
            "a marker without a finite position",
        ),
        ("p.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', {}, "cannot be read as XML"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, text, given, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PointsError, match=message):
        read_listed(tmp_path / name, PointForm(**given))


def test_a_form_is_what_the_configuration_says():
    settings = {"axes": None, "units": [5, 2, 2], "types": [2], "space": "atlas"}
    assert PointForm.from_config(settings) == PointForm(None, (5.0, 2.0, 2.0), (2,), "atlas")
    settings = {"axes": "xyz", "units": "um", "types": None, "space": "sample"}
    assert PointForm.from_config(settings) == PointForm("xyz", "um")
