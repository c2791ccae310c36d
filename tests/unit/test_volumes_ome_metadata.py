"""What the metadata of OME-Zarr state of a level: voxel size, place, orientation."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from terareg.core.errors import ConfigError, VolumeError
from terareg.volumes.headers import read_header
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.ome_metadata import (
    ome_attributes,
    ome_orientation,
    ome_scale,
    ome_translation,
)


def test_a_level_with_a_scale_too_few_is_an_error():
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [4, 2]}]}
    with pytest.raises(VolumeError, match=r"level 0 of an OME-Zarr image has 2 scales for 3 axes"):
        ome_scale({}, level, 3)
    assert ome_scale({}, {"path": "0"}, 3) is None


def test_the_place_of_a_level_is_that_of_both_lists_of_transforms():
    def transforms(scale, *translation) -> dict:
        moved = [{"type": "translation", "translation": list(t)} for t in translation]
        return {"coordinateTransformations": [{"type": "scale", "scale": scale}, *moved]}

    level, whole = transforms([4, 2], (3, 5)), transforms([10, 100], (1, 1))
    assert ome_translation({}, level, 2) == [3, 5], "a translation after the scale"
    assert ome_translation(whole, level, 2) == [31, 501]
    assert ome_translation(whole, {}, 2) == [1, 1]
    assert ome_translation({}, transforms([1, 2]), 2) is None


def test_attributes_of_both_versions():
    inside = {"multiscales": []}
    assert ome_attributes(inside) == inside
    third = {"zarr_format": 3, "attributes": {"ome": inside}}
    assert ome_attributes(third) == inside
    assert ome_attributes({"zarr_format": 3}) == {}


@pytest.mark.parametrize(
    ("axes", "values", "code"),
    [
        ("zyx", ("inferior-to-superior", "posterior-to-anterior", "right-to-left"), "SAL"),
        ("cxyz", (None, "left-to-right", "anterior-to-posterior", "superior-to-inferior"), "IPR"),
        ("zyx", ("inferior-to-superior", "posterior-to-anterior", None), None),
        ("zyx", ("inferior-to-superior", "superior-to-inferior", "left-to-right"), None),
        ("zyx", ("dorsal-to-palmar", "posterior-to-anterior", "left-to-right"), None),
    ],
)
def test_axes_of_ome_zarr_that_say_where_they_lead(tmp_path, axes, values, code):
    named = [
        {"name": a, "type": "channel" if a == "c" else "space", "unit": "micrometer"}
        | ({"orientation": {"type": "anatomical", "value": value}} if value else {})
        for a, value in zip(axes, values)
    ]
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    image = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    assert ome_orientation(image) == code
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=np.ones((3,) * len(axes), np.uint8))
    group.attrs["multiscales"] = [image]
    address = str(tmp_path / "a.zarr")
    assert read_header(address).orientation == code
    assert read_header(address, (1, 1, 1)).orientation is None, "the user overrules the header"
    if code is None:
        with pytest.raises(ConfigError, match="states no orientation"):
            open_image(address)
    else:
        assert open_image(address).frame.orientation == code
        assert open_image(address, ImageSettings(orientation="RAS")).frame.orientation == "RAS"
