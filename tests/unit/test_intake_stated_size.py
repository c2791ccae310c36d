"""What files say of their voxel size, and when that is told."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from container_files import big_stitcher, imaris_tiles
from microscope_folders import SPACING_UM, SQUARE, smartspim, terastitcher, zeiss

from terareg.intake.stated_size import disagreement, spacing_of_image, spacing_of_tiles


@pytest.mark.parametrize(
    ("write", "size_um", "where"),
    [
        (smartspim, SQUARE.spacing_um, "from metadata.txt"),
        (zeiss, SPACING_UM, "from the OME-XML of "),
        (imaris_tiles, SPACING_UM, "from "),
        (big_stitcher, SPACING_UM, "from "),
    ],
)
def test_the_size_is_that_of_the_metadata_of_tiles(tmp_path, write, size_um, where):
    write(tmp_path / "raw")
    stated = spacing_of_tiles(str(tmp_path / "raw"))
    assert stated is not None
    assert stated[0] == pytest.approx(size_um) and stated[1].startswith(where)


def test_nothing_is_stated_where_files_or_folders_do_not_say_it(tmp_path):
    terastitcher(tmp_path / "raw")
    assert spacing_of_tiles(str(tmp_path / "raw")) is None
    assert spacing_of_tiles(str(tmp_path / "none")) is None
    assert spacing_of_image(str(tmp_path / "none.nii.gz")) is None


def test_the_header_of_an_image_states_it(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint16))
    image.SetSpacing((0.09, 0.08, 0.12))
    path = str(tmp_path / "brain.nii.gz")
    sitk.WriteImage(image, path)
    stated = spacing_of_image(path)
    assert stated is not None
    assert stated[0] == pytest.approx((120, 80, 90)) and stated[1].endswith(path)


def test_a_difference_of_more_than_a_percent_is_told():
    stated = ((120.0, 80.0, 90.0), "from the header of brain.nii")
    assert disagreement((120, 80.5, 90), stated) is None
    assert disagreement((180, 120, 135), None) is None
    assert disagreement((120, 80, 135), stated) == (
        "input.spacing_um is 120 x 80 x 135 um (z, y, x) but the files give 120 x 80 x 90 um, from "
        "the header of brain.nii; input.spacing_um is used"
    )
