"""A folder of planes is a volume, in the order of the numbers in their names."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from terareg.core.errors import ConfigError, VolumeError
from terareg.storage.store import Store
from terareg.volumes.headers import describe_image, level_shapes, read_header
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.plane_series import plane_names, read_series

VALUES = np.random.default_rng(0).integers(0, 60000, (12, 9, 8)).astype(np.uint16)
KNOWN = ImageSettings((3.0, 2.0, 2.0), "RIP")


def written(folder, kind: str, name: str = "brain 2_z{}", values=VALUES) -> str:
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(values):
        path = folder / name.format(number)
        if kind == "png":
            path.with_name(path.name + ".png").write_bytes(imagecodecs.png_encode(plane))
        else:
            codec = "zlib" if kind == "packed" else None
            tifffile.imwrite(path.with_name(path.name + ".tif"), plane, compression=codec)
    return str(folder)


@pytest.mark.parametrize("kind", ["plain", "packed", "png"])
def test_any_box_is_that_of_the_planes(tmp_path, kind):
    folder = written(tmp_path / "planes", kind)
    (tmp_path / "planes/notes.txt").write_text("of the microscope")
    written(tmp_path / "planes/other", kind)
    header = read_header(folder, KNOWN.spacing_um)
    assert (header.shape, header.dtype) == (VALUES.shape, "uint16")
    assert level_shapes(folder) == [VALUES.shape]
    image = open_image(folder, KNOWN)
    np.testing.assert_array_equal(image.read(0), VALUES)
    np.testing.assert_array_equal(image.read(0, (9, 2, 1), (12, 8, 5)), VALUES[9:12, 2:8, 1:5])
    assert image.frame.spacing_um == KNOWN.spacing_um
    with pytest.raises(ConfigError, match="states no voxel size"):
        read_header(folder)


def refused(folder, words: str) -> None:
    with pytest.raises(VolumeError, match=words) as error:
        describe_image(str(folder))
    assert "\n" not in str(error.value)


def test_planes_that_are_no_series_are_one_sentence(tmp_path):
    folder = tmp_path / "planes"
    written(folder, "plain")
    (folder / "brain 2_z5.tif").rename(tmp_path / "away.tif")
    refused(folder, r"11 planes from number 0 to 11, but 1 are missing, the first behind .*_z4")
    (folder / "brain 2_z05.tif").write_bytes((tmp_path / "away.tif").read_bytes())
    (folder / "brain 2_z5.tif").write_bytes((tmp_path / "away.tif").read_bytes())
    refused(folder, r"plane 5 twice, .* and .*; remove one of them")
    (folder / "brain 2_z05.tif").rename(folder / "brain 3_z12.tif")
    refused(folder, "differ in more than one number")
    (folder / "brain 3_z12.tif").rename(folder / "other_12.tif")
    refused(folder, "unlike names, brain 2_z0.tif and other_12.tif; give each series")


def test_steps_of_names_are_no_gaps(tmp_path):
    folder = tmp_path / "planes"
    written(folder, "plain", "{}00")
    store = Store(str(folder))
    series = read_series(store, plane_names(store))
    assert series.names[:3] == ("000.tif", "100.tif", "200.tif") and series.plain
    np.testing.assert_array_equal(open_image(str(folder), KNOWN).read(0), VALUES)


def test_a_plane_unlike_the_others_or_damaged_is_named(tmp_path):
    folder = written(tmp_path / "planes", "packed")
    bad = tmp_path / "planes/brain 2_z7.tif"
    tifffile.imwrite(bad, VALUES[7, :5], compression="zlib")
    with pytest.raises(VolumeError, match=r"_z7.tif has 5 x 8 pixels .* other planes have 9 x 8"):
        open_image(folder, KNOWN).read(0)
    bad.write_bytes(b"II*\0 of no use")
    with pytest.raises(VolumeError, match=r"_z7.tif .*; copy it again"):
        open_image(folder, KNOWN).read(0)
    tifffile.imwrite(tmp_path / "planes/brain 2_z0.tif", VALUES.astype("f4")[0])
    refused(tmp_path / "planes", r"is not an image .*; give one of its files, .* \(brain 2_z0")


def test_planes_on_s3_are_those_of_the_folder(tmp_path, bucket):
    folder = written(tmp_path / "planes", "packed")
    for path in (tmp_path / "planes").iterdir():
        bucket.put_object(Bucket="scope", Key=f"lab/planes/{path.name}", Body=path.read_bytes())
    address = "s3://scope/lab/planes"
    assert describe_image(address).shape == describe_image(folder).shape
    np.testing.assert_array_equal(open_image(address, KNOWN).read(0), VALUES)
