"""Points that were read in the wrong order or unit lie beside the brain."""

from __future__ import annotations

import numpy as np
import pytest

from terareg.core.frames import Frame
from terareg.regions.point_files import PointForm, read_listed
from terareg.regions.readings import judge_reading

FRAME = Frame((60, 200, 300), (20.0, 8.0, 8.0), (5.0, 0.0, 0.0))
CENTRE, RADII = FRAME.to_um(np.array(FRAME.shape) / 2), np.array([500.0, 700.0, 1100.0])


def in_brain(position_um):
    """An ellipsoid: flat, broad and long."""
    return (((position_um - CENTRE) / RADII) ** 2).sum(axis=1) < 1


def cells(count=400, seed=0, within=0.95):
    """Places in the brain, um."""
    rng = np.random.default_rng(seed)
    trial = rng.uniform(-1, 1, (20 * count, 3))
    return CENTRE + within * RADII * trial[(trial**2).sum(axis=1) < 1][:count]


def judged(tmp_path, header, rows, form=None, in_regions=in_brain):
    path = tmp_path / "p.csv"
    np.savetxt(path, rows, fmt="%.4f", delimiter=",", header=header, comments="")
    listed = read_listed(path, form)
    return judge_reading(listed, listed.position_um(FRAME), FRAME, in_regions)


def test_points_read_as_they_were_meant_are_left_alone(tmp_path):
    for header, rows, form in (
        ("z_um,y_um,x_um", cells(), None),
        ("z_vox,y_vox,x_vox", FRAME.to_index(cells()), None),
        ("x,y,z", cells()[:, ::-1] / 1000, PointForm(units="mm")),
    ):
        found = judged(tmp_path, header, rows, form)
        assert (found.points, found.in_region_percent, found.other) == (400, 100, "")
        assert found.sentence("cfos") == ""


@pytest.mark.parametrize(
    ("header", "order", "told"),
    [
        ("x_um,y_um,z_um", (0, 1, 2), "if z and x were exchanged"),
        ("z_um,y_um,x_um", (1, 0, 2), "if z and y were exchanged"),
        ("z_um,y_um,x_um", (1, 2, 0), "if what is read as x, z, y were z, y, x"),
        ("z_um,y_um,x_um", (2, 0, 1), "if what is read as y, x, z were z, y, x"),
    ],
)
def test_exchanged_axes_inside_the_image_are_told(tmp_path, header, order, told):
    """Most of them stay inside the image, so nothing else would say so."""
    places = np.clip(cells()[:, order], 10, None)
    found = judged(tmp_path, header, places)
    assert found.in_region_percent < 85 and found.other == told
    assert found.other_percent == pytest.approx(100, abs=2)
    assert f"100 % would be {told}; correct axes or units of points.cfos" in found.sentence("cfos")


def test_a_wrong_unit_is_told(tmp_path):
    found = judged(tmp_path, "z_um,y_um,x_um", FRAME.to_index(cells()))
    assert found.in_region_percent == 0 and found.other == "if the unit were voxels"
    found = judged(tmp_path, "z_vox,y_vox,x_vox", cells())
    assert found.other == "if the unit were micrometres"
    found = judged(tmp_path, "x_um,y_um,z_um", FRAME.to_index(cells()))
    assert found.other == "if z and x were exchanged and the unit were voxels"


def test_chance_and_points_that_lie_apart_are_no_other_reading(tmp_path):
    few = np.vstack([cells(6), CENTRE + [0, 0, 1150]])
    assert judged(tmp_path, "z_um,y_um,x_um", few[:, ::-1]).other == ""
    # a third lies in front of the brain, whatever the order
    apart = np.vstack([cells(), np.tile(CENTRE - [0, 0, 1150], (200, 1))])
    found = judged(tmp_path, "z_um,y_um,x_um", apart)
    assert found.in_region_percent == pytest.approx(66.7, abs=0.1) and found.other == ""


def test_a_file_that_states_everything_is_not_read_in_other_ways():
    found = judge_reading(None, cells()[:, ::-1], FRAME, in_brain)
    assert found.in_region_percent < 90 and found.other == "" and found.other_percent is None


def test_so_many_points_are_enough(tmp_path):
    asked = []

    def in_regions(position_um):
        asked.append(len(position_um))
        return in_brain(position_um)

    judged(tmp_path, "z_um,y_um,x_um", cells(20000), in_regions=in_regions)
    assert asked[0] == 20000 and max(asked[1:]) == 5000
