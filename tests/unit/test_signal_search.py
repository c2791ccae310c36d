"""Sizes of the search for cells."""

import pytest

from terareg.core.errors import VolumeError
from terareg.signal.search import check_size


def test_cells_smaller_than_a_voxel_are_an_error():
    with pytest.raises(
        VolumeError, match=r"cells x: a diameter of 3 um is 0.6 voxels of 5 um along z"
    ):
        check_size((3.0,) * 3, (90, 90, 90), (5.0, 1.0, 1.0), "cells x")
    check_size((6.0,) * 3, (90, 90, 90), (5.0, 1.0, 1.0), "cells x")


def test_cells_as_large_as_the_volume_have_another_unit():
    with pytest.raises(VolumeError, match=r"cells x: a diameter of 120 um is 27% of the whole"):
        check_size((60.0, 120.0, 60.0), (90, 90, 90), (5.0, 1.0, 1.0), "cells x")
    # a thin section is no thicker than a cell
    check_size((12.0, 6.0, 6.0), (10, 900, 900), (1.0, 1.0, 1.0), "cells x")
