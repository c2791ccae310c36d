"""Points: CSV and Neuroglancer, both directions, all of them in order (D35, D36, F1)."""

import json
from dataclasses import replace

import numpy as np
import pytest
from regions_helpers import AffineMap, rotation, toy_atlas

from terareg.core.errors import PointsError
from terareg.core.frames import Frame
from terareg.regions.points import (
    Points,
    annotation_layer,
    carry_points,
    check_inside,
    marked_outside,
    point_names,
    read_neuroglancer_points,
    read_points,
    transform_points,
    write_neuroglancer_points,
    write_points_csv,
)

FRAME = Frame((20, 30, 40), (5.0, 2.0, 2.0), (1.0, 2.0, 3.0))


def some_points(count=7, seed=0):
    position = np.random.default_rng(seed).uniform(0, 100, (count, 3))
    return Points(tuple(f"cell {n}" for n in range(count)), position)


@pytest.mark.slow
def test_d35_all_25000_points_come_back_in_order(tmp_path):
    points, transform, atlas = some_points(25000), AffineMap(rotation()), toy_atlas()
    there = carry_points(points, transform, atlas, to="atlas")
    back = transform_points(there, transform, to="sample")
    assert back.names == points.names
    assert np.allclose(back.position_um, points.position_um, atol=1e-9)
    for name in ("points.csv", "points.json"):
        if name.endswith("csv"):
            write_points_csv(tmp_path / name, there)
        else:
            write_neuroglancer_points(tmp_path / name, there, name="cells")
        read = read_points(tmp_path / name, FRAME)
        assert read.names == points.names
        assert np.allclose(read.position_um, there.position_um, atol=1e-4)


def test_points_are_labelled_by_their_place_in_the_atlas():
    atlas, transform = toy_atlas(), AffineMap(rotation())
    index = np.array([[0, 0, 0], [5, 4, 6], [10, 8, 12], [99, 0, 0]])
    in_atlas = Points(("a", "b", "c", "far"), atlas.frame.to_um(index))
    to_sample = carry_points(in_atlas, transform, atlas, to="sample")
    back = carry_points(replace(to_sample, region_ids=None), transform, atlas, to="atlas")
    wanted = [int(atlas.annotation[tuple(i)]) for i in index[:3]] + [0]
    for result in (to_sample, back):
        assert result.region_ids.tolist() == wanted
        assert result.acronyms == tuple(atlas.ontology[i].acronym if i else "" for i in wanted)
        assert result.hemispheres[0] == "left" and result.hemispheres[2:] == ("right", "")


def test_d36_the_centre_of_a_voxel_is_one_place_in_every_file(tmp_path):
    atlas = toy_atlas()
    index = np.argwhere(atlas.annotation > 0)[::7]
    rows = "".join(f"p,{z},{y},{x}\n" for z, y, x in index)
    (tmp_path / "vox.csv").write_text("name,z_vox,y_vox,x_vox\n" + rows)
    points = read_points(tmp_path / "vox.csv", atlas.frame)
    labelled = carry_points(points, AffineMap(), atlas, to="atlas")
    assert np.array_equal(labelled.region_ids, atlas.annotation[tuple(index.T)])
    assert np.allclose(atlas.frame.to_index(labelled.position_um), index)
    write_neuroglancer_points(tmp_path / "ng.json", labelled, name="p")
    again = read_points(tmp_path / "ng.json", atlas.frame)
    assert np.allclose(again.position_um, atlas.frame.to_um(index), atol=1e-4)


def test_units_and_column_orders_of_csv(tmp_path):
    path = tmp_path / "p.csv"
    wanted = FRAME.to_um([[1, 2.5, 3], [4, 5, 6]])
    texts = {
        "vox": "name,x_vox,y_vox,z_vox\nA,3,2.5,1\nB,6,5,4\n",
        "um": "Z_um, y_um ,x_um,name\n"
        + "".join(f"{z},{y},{x},{n}\n\n" for (z, y, x), n in zip(wanted, "AB")),
        "mm": "name,z_mm,y_mm,x_mm\n"
        + "".join(f"{n},{z / 1000},{y / 1000},{x / 1000}\n" for (z, y, x), n in zip(wanted, "AB")),
    }
    for text in texts.values():
        path.write_text(text)
        points = read_points(path, FRAME)
        assert points.names == point_names(path) == ("A", "B")
        assert np.allclose(points.position_um, wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("z,y,x\n1,2,3\n", "columns x, y, z state no unit; call them"),
        ("a,b\n1,2\n", "no coordinates in the columns 'a', 'b'; use name"),
        ("z_um,y_um\n1,2\n", "not exactly one set of three coordinates"),
        ("z_um,y_um,x_um,z_vox\n1,2,3,4\n", "not exactly one set of three coordinates"),
        ("z_um,y_um,x_vox\n1,2,3\n", "not exactly one set of three coordinates in one unit"),
        ("z_um,y_um,x_um,x_um\n1,2,3,3\n", "two of the columns have the same name"),
        ("z_um,y_um,x_um\n\n", "has no points below its header"),
        ("z_um,y_um,x_um\n1,2\n", "line 2: 2 values for 3 columns"),
        ("z_um,y_um,x_um\n1,2,3\n1,2,abc\n", "line 3: .* are not three numbers"),
        ("z_um,y_um,x_um\n1,2,nan\n", "line 2: .* are not three numbers"),
        ('z_um,y_um,x_um,name\n1,2,3,"a\n4,5,6,b\n', "line 3: unexpected end of data"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(PointsError, match=message):
        read_points(path, FRAME)
    with pytest.raises(PointsError, match="cannot be read"):
        read_points(tmp_path / "none.csv", FRAME)


def state(source, annotations=None, **more):
    if annotations is None:
        annotations = [{"type": "point", "id": "i", "point": [10, 20, 30], "description": "A"}]
    layer = {"type": "annotation", "name": "cells", "source": source, "annotations": annotations}
    return {
        "dimensions": {"x": [2e-6, "m"], "y": [3e-6, "m"], "z": [5e-6, "m"]},
        "layers": [{"type": "image", "name": "img", "source": "precomputed://x"}, layer],
    } | more


def local(**transform):
    return {"url": "local://annotations", "transform": transform}


XYZ = {"x": [1e-6, "m"], "y": [1e-6, "m"], "z": [1e-6, "m"]}


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        # a plain source counts in the dimensions of the state
        ("local://annotations", (150, 60, 20)),
        ({"url": "local://annotations"}, (150, 60, 20)),
        (["local://annotations"], (150, 60, 20)),
        (local(outputDimensions=XYZ), (30, 20, 10)),
        ([local(outputDimensions=XYZ)], (30, 20, 10)),
        # names decide, not the order; prefixes of the unit count
        (
            local(outputDimensions={"z": [1, "um"], "y": [10, "nm"], "x": [1e-3, "mm"]}),
            (10, 0.2, 30),
        ),
        # points count in the input dimensions, translations in the output dimensions
        (
            local(
                outputDimensions=XYZ,
                inputDimensions={"0": [4e-6, "m"], "1": [1e-6, "m"], "2": [1e-6, "m"]},
                matrix=[[1, 0, 0, 100], [0, 0, 1, 0], [0, -1, 0, 0]],
            ),
            (-20, 30, 140),
        ),
    ],
)
def test_both_forms_of_a_source_and_its_transform(tmp_path, source, wanted):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state(source)))
    points = read_neuroglancer_points(path)
    assert points.names == point_names(path) == ("A",)
    assert np.allclose(points.position_um, [wanted])
    shifted = read_neuroglancer_points(path, layer="cells", offset_um=(-1, -2, -3))
    assert np.allclose(shifted.position_um, np.array([wanted]) - (1, 2, 3))


def test_further_dimensions_are_passed_over(tmp_path):
    path = tmp_path / "state.json"
    dimensions = {"t": [1, "s"], **XYZ}
    annotations = [{"type": "point", "id": "7", "point": [0, 10, 20, 30]}]
    path.write_text(json.dumps(state("local://annotations", annotations, dimensions=dimensions)))
    points = read_neuroglancer_points(path)
    assert points.names == ("7",) and np.allclose(points.position_um, [(30, 20, 10)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "is not a Neuroglancer state"),
        ({"layers": []}, r"there is no annotation layer \(found: none\)"),
        (
            {"layers": [{"type": "annotation", "name": n} for n in "ab"]},
            r"there are several annotation layers \(found: 'a', 'b'\)",
        ),
        (
            state("local://annotations", dimensions={"a": [1, "m"]}),
            "dimensions 'a' do not include x, y, z",
        ),
        (state("local://annotations", dimensions=None), "has no dimensions"),
        (
            state("local://annotations", dimensions={**XYZ, "x": [1, "s"]}),
            r"dimension \[1, 's'\] is not a length",
        ),
        (
            state("local://annotations", [{"type": "line", "pointA": [1, 2, 3]}]),
            "annotation 1 is 'line', not a point",
        ),
        (
            state("precomputed://x", []),
            r"contains no annotations of this layer; copy them to a local",
        ),
        (state("local://annotations", ["x"]), "annotation 1 is 'x', not a point"),
        (
            state("local://annotations", [{"type": "point", "point": [1, 2]}]),
            r"point \[1, 2\], but the layer has 3 dimensions",
        ),
        (
            state(local(outputDimensions=XYZ, matrix=[[1, 0], [0, 1]])),
            r"the matrix of the source has shape \(2, 2\)",
        ),
    ],
)
def test_bad_states(tmp_path, data, message):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(data))
    with pytest.raises(PointsError, match=message):
        read_neuroglancer_points(path)
    path.write_text("{")
    with pytest.raises(PointsError, match="cannot be read as JSON"):
        read_neuroglancer_points(path)


def test_named_layer_that_is_not_there(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state("local://annotations")))
    with pytest.raises(PointsError, match=r"no annotation layer named 'dots' \(found: 'cells'\)"):
        read_neuroglancer_points(path, layer="dots")


def test_written_layers_are_read_by_neuroglancer_itself():
    viewer_state = pytest.importorskip("neuroglancer.viewer_state")
    points = carry_points(some_points(), AffineMap(), toy_atlas(), to="atlas")
    layer = viewer_state.AnnotationLayer(annotation_layer(points, "cells"))
    assert [a.description for a in layer.annotations] == list(points.names)
    assert np.allclose([a.point[::-1] for a in layer.annotations], points.position_um, atol=1e-4)
    scales = layer.source[0].transform.output_dimensions.scales
    assert np.allclose(scales, 1e-6)


def test_points_outside_are_an_error_that_names_the_first():
    points = Points(("in", "out"), np.array([[10.0, 10, 10], [10, 10, 100]]))
    with pytest.raises(
        PointsError,
        match=(
            r"cells.csv against the sample: 1 of 2 points lie outside the volume, the first "
            r"being number 2 \('out'\) at z, y, x = \(10.0, 10.0, 100.0\) um while the "
            r"volume extends from \(-1.5, 1.0, 2.0\) to \(98.5, 61.0, 82.0\) um; check units"
        ),
    ):
        check_inside(points, FRAME, "cells.csv against the sample")
    check_inside(replace(points, position_um=points.position_um[:1], names=("in",)), FRAME, "x")


def test_no_points_and_wrong_direction():
    empty = Points((), np.empty((0, 3)))
    assert len(carry_points(empty, AffineMap(), toy_atlas(), to="atlas")) == 0
    with pytest.raises(PointsError, match="'sample' or 'atlas', not to 'moon'"):
        transform_points(empty, AffineMap(), to="moon")


def test_csv_is_deterministic_text(tmp_path):
    points = Points(("a", 'b, "c"'), np.array([[1.0, 2, 3], [4, 5.00004, -6]]))
    write_points_csv(tmp_path / "p.csv", points)
    assert (tmp_path / "p.csv").read_text() == (
        'name,z_um,y_um,x_um\na,1.0000,2.0000,3.0000\n"b, ""c""",4.0000,5.0000,-6.0000\n'
    )
    assert read_points(tmp_path / "p.csv", FRAME).names == points.names


def test_points_outside_are_kept_and_marked_unless_all_are(tmp_path, caplog):
    atlas = toy_atlas()
    frame = replace(atlas.frame, shape=(11, 9, 6))
    inside = frame.to_um(np.argwhere(atlas.annotation[:, :, :6] > 0)[40])
    position = np.array([inside, (75, 90, 200), (1e6, 0, 0)])
    names = ("in", "out", "far")
    points = Points(names, position, further={"size": ("7", "8", "9"), "Name": ("x", "y", "z")})
    marked = marked_outside(points, frame, "cells.csv against the sample")
    assert "cells.csv against the sample: 2 of 3 points lie outside" in caplog.text
    carried = carry_points(marked, AffineMap(), atlas, to="atlas")
    assert carried.region_ids[0] and carried.region_ids[1:].tolist() == [0, 0]
    assert carried.hemispheres[1:] == ("", "")
    write_points_csv(tmp_path / "p.csv", carried)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == (
        "name,z_um,y_um,x_um,region_id,acronym,hemisphere,in_volume,size,Name_given"
    )
    assert lines[2] == "out,75.0000,90.0000,200.0000,0,,,0,8,y" and lines[1].endswith(",1,7,x")
    again = read_points(tmp_path / "p.csv", frame)
    assert again.further == {"size": ("7", "8", "9"), "Name_given": ("x", "y", "z")}
    with pytest.raises(PointsError, match="3 of 3 points lie outside the volume"):
        marked_outside(points, frame.cropped((0, 0, 0), (1, 1, 1)), "cells.csv")
