"""NRRD files: every value and frame comes back, ITK sees the same, damage is noticed."""

import gzip
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.storage import nrrd

FRAME = Frame((3, 4, 5), (1.3, 2.6, 0.7), (-4.0, 0.1, 9.0), "AIR")
WHOLE = nrrd.Dialect("NRRD0005", "a test", number="", states_unit=False, whole_frame=True)


def numbers(shape, dtype):
    return np.random.default_rng(0).integers(0, 120, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("dialect", [nrrd.FIELD, WHOLE])
def test_volumes_keep_every_value_and_their_frame(tmp_path, dtype, dialect):
    array = numbers(FRAME.shape, dtype)
    path = tmp_path / "new" / "a.nrrd"
    nrrd.write_scalar(path, array, FRAME, dialect)
    read, frame = nrrd.read_scalar(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == dtype and frame == FRAME
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    np.testing.assert_allclose(image.GetSpacing(), [s / 1000 for s in FRAME.spacing_um[::-1]])
    np.testing.assert_allclose(image.GetOrigin(), [o / 1000 for o in FRAME.origin_um[::-1]])


def test_lists_keep_their_order(tmp_path):
    array = numbers((2, *FRAME.shape), np.float32)
    nrrd.write_scalar(tmp_path / "a.nrrd", array, FRAME)
    read, frame = nrrd.read_scalar(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read, array)
    assert frame == FRAME
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.moveaxis(array, 0, -1))


@pytest.mark.parametrize("steps", [(), (4,)])
def test_vectors_are_millimetres_and_x_y_z_in_the_file_only(tmp_path, steps):
    field_um = np.random.default_rng(0).standard_normal((*steps, 3, *FRAME.shape), np.float32)
    nrrd.write_field(tmp_path / "v.nrrd", field_um, FRAME)
    read, frame = nrrd.read_field(tmp_path / "v.nrrd")
    np.testing.assert_allclose(read, field_um, rtol=1e-6)
    assert frame == FRAME
    if not steps:
        image = sitk.ReadImage(str(tmp_path / "v.nrrd"))
        z, y, x = 1000 * np.moveaxis(sitk.GetArrayFromImage(image)[..., ::-1], -1, 0)
        np.testing.assert_allclose([z, y, x], field_um, rtol=1e-6)


def test_the_same_array_gives_the_same_bytes_whatever_its_layout(tmp_path):
    array = numbers(FRAME.shape, np.float32)
    nrrd.write_scalar(tmp_path / "a.nrrd", array, FRAME)
    nrrd.write_scalar(tmp_path / "b.nrrd", np.asfortranarray(array).astype(">f4"), FRAME)
    assert (tmp_path / "a.nrrd").read_bytes() == (tmp_path / "b.nrrd").read_bytes()


def test_what_a_header_says_stays_as_it_is(tmp_path):
    """Files of earlier runs have these headers, and other programs may look for their keys."""
    frame = Frame((1, 1, 2), (400, 50, 0.1), (0.3, 0, -7), "RIP")
    nrrd.write_field(tmp_path / "field.nrrd", np.zeros((3, 1, 1, 2)), frame)
    nrrd.write_scalar(tmp_path / "whole.nrrd", np.zeros((1, 1, 2), np.float32), frame, WHOLE)
    heads = [
        (tmp_path / name).read_bytes().split(b"\n\n")[0].decode().splitlines()
        for name in ("field.nrrd", "whole.nrrd")
    ]
    assert heads[0] == [
        "NRRD0004", "type: float", "dimension: 4", "space: left-posterior-superior",
        "sizes: 3 2 1 1",
        "space directions: none (0.0001,0,0) (0,0.050000000000000003,0) (0,0,0.40000000000000002)",
        "kinds: vector domain domain domain", "endian: little", "encoding: gzip",
        "space origin: (-0.0070000000000000001,0,0.00029999999999999997)",
        'space units: "mm" "mm" "mm"', "terareg orientation zyx:=RIP",
    ]  # fmt: skip
    assert heads[1] == [
        "NRRD0005", "content: a test", "type: float", "dimension: 3",
        "space: left-posterior-superior", "sizes: 2 1 1",
        "space directions: (0.0001,0,0) (0,0.05,0) (0,0,0.4)", "kinds: domain domain domain",
        "endian: little", "encoding: gzip", "space origin: (-0.007,0.0,0.0003)",
        'terareg_frame:={"orientation": "RIP", "origin_um": [0.3, 0.0, -7.0], "shape": [1, 1, 2], '
        '"spacing_um": [400.0, 50.0, 0.1]}',
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.float32])
@pytest.mark.parametrize("size", [1, 3 * 20 * 4, 2**23])
def test_images_come_back_whole_and_in_slabs(tmp_path, monkeypatch, dtype, size):
    monkeypatch.setattr(nrrd, "_SLAB_BYTES", size)
    frame = Frame((11, 4, 5), (50, 50, 25), orientation="RIP")
    array = numbers(frame.shape, dtype)
    nrrd.write_image(tmp_path / "i.nrrd", array, frame)
    assert [p.name for p in tmp_path.iterdir()] == ["i.nrrd"]
    np.testing.assert_array_equal(nrrd.read_image(tmp_path / "i.nrrd", frame), array)
    slabs = list(nrrd.image_slabs(tmp_path / "i.nrrd", frame))
    assert [start for start, _ in slabs] == list(
        np.cumsum([0, *[len(slab) for _, slab in slabs]])[:-1]
    )
    np.testing.assert_array_equal(np.concatenate([slab for _, slab in slabs]), array)


def test_slabs_hold_a_part_of_the_image_only(tmp_path):
    frame = Frame((64, 1024, 1024), (1, 1, 1))
    nrrd.write_image(tmp_path / "i.nrrd", np.zeros(frame.shape, np.uint8), frame)
    tracemalloc.start()
    planes = sum(len(slab) for _, slab in nrrd.image_slabs(tmp_path / "i.nrrd", frame))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert planes == 64 and most < 40e6


def readers(path, frame):
    return {
        "scalar": lambda: nrrd.read_scalar(path),
        "field": lambda: nrrd.read_field(path),
        "image": lambda: nrrd.read_image(path, frame),
        "slabs": lambda: list(nrrd.image_slabs(path, frame)),
    }


def written(path, kind):
    if kind == "scalar":
        nrrd.write_scalar(path, numbers(FRAME.shape, np.float32), FRAME)
    elif kind == "field":
        nrrd.write_field(path, numbers((3, *FRAME.shape), np.float32), FRAME)
    else:
        nrrd.write_image(path, numbers(FRAME.shape, np.uint16), FRAME)


DAMAGES = {
    "a part": lambda data: data[:-20],
    "another checksum": lambda data: data[:-8] + b"\0\0\0\0" + data[-4:],
    "too much": lambda data: data.split(b"\n\n", 1)[0] + b"\n\n" + gzip.compress(bytes(9999)),
    "too little": lambda data: data.split(b"\n\n", 1)[0] + b"\n\n" + gzip.compress(bytes(20)),
    "no type": lambda data: data.replace(b"\ntype:", b"\nkind:", 1),
    "nothing": lambda data: b"",
    "another file": lambda data: b"NRRD0004\ntype: float\n\nxx",
}


@pytest.mark.parametrize("kind", ["scalar", "field", "image", "slabs"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_named(tmp_path, kind, damage):
    path = tmp_path / "x.nrrd"
    written(path, kind)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(StoreError, match=r"x\.nrrd is damaged, or not .*; delete it and run the"):
        readers(path, FRAME)[kind]()


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "x.nrrd"
    written(path, "scalar")
    with pytest.raises(StoreError, match="no vectors"):
        nrrd.read_field(path)
    with pytest.raises(StoreError, match=r"shape \(3, 4, 5\) instead of \(3, 4, 6\)"):
        nrrd.read_image(path, Frame((3, 4, 6), (1, 1, 1)))
    written(path, "image")
    with pytest.raises(StoreError, match="'terareg orientation zyx' is missing"):
        nrrd.read_scalar(path)
    with pytest.raises(StoreError, match="No such file"):
        nrrd.read_scalar(tmp_path / "absent.nrrd")
    with pytest.raises(StoreError, match=r"cannot write .*check free space and permissions"):
        nrrd.write_image(tmp_path / "absent" / "x.nrrd", np.zeros((1, 1, 1), np.uint8), FRAME)
