"""Voxels of files whose headers were looked at before."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from terareg.volumes.headers import describe_image
from terareg.volumes.voxels import file_voxels

SHAPE = (3, 4, 5)


@pytest.fixture
def values():
    return np.random.default_rng(1).integers(0, 60000, SHAPE).astype(np.uint16)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_voxels_are_those_that_were_written(tmp_path, values, name):
    path = str(tmp_path / name)
    sitk.WriteImage(sitk.GetImageFromArray(values), path)
    found = file_voxels(path, describe_image(path, believed=False))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_is_none_any_more_is_refused(tmp_path, values, name):
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    header = describe_image(str(path), believed=False)
    pack = gzip.compress if name.endswith(".gz") else bytes
    path.write_bytes(pack(bytes(352 + values.nbytes)))
    with pytest.raises(ValueError, match="its header has changed since it was read"):
        file_voxels(str(path), header)
