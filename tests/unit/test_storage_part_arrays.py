"""Arrays inside of files that hold many: right boxes, and one sentence for what cannot be."""

from __future__ import annotations

import json
import os
import random
import shutil

import container_files as files
import h5py
import numpy as np
import pytest
from microscope_folders import stack

from terareg.acquisition.image_files import read_pages
from terareg.core.errors import AcquisitionError, TeraregError
from terareg.intake.recognise import recognise
from terareg.storage import array_folders, czi, hdf5, lif
from terareg.storage.part_arrays import missing_package, open_part, part_facts
from terareg.storage.store import Store

IMS = "a.ims#DataSet:ResolutionLevel 0:TimePoint 0:Channel 1:Data"
#: writer of a folder, key of one array in it, and its values
KINDS = {
    "imaris": (
        lambda root: files.write_imaris(root / "a.ims", [stack((0, 0), c) for c in (0, 1)]),
        IMS,
        stack((0, 0), 1),
    ),
    "hdf5": (files.big_stitcher, "dataset.h5#t00000:s07:0:cells", stack((0, 1), 1)),
    "n5": (
        lambda root: files.big_stitcher(root, form="n5"),
        "dataset.n5#setup7:timepoint0:s0",
        stack((0, 1), 1),
    ),
    "zarr": (
        lambda root: files.big_stitcher(root, form="zarr"),
        "dataset.ome.zarr#s7-t0.zarr:0:T0:C0",
        stack((0, 1), 1),
    ),
    "czi": (files.zeiss, "brain.czi#C1:M1:S0", stack((0, 1), 1)),
    "lif": (files.leica, "brain.lif#1:M1:C1", stack((0, 1), 1)),
}

#: of arrays in folders, what describes them
METADATA = {"n5": "setup7/timepoint0/s0/attributes.json", "zarr": "s7-t0.zarr/0/.zarray"}


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    """Kind, folder, key and values."""
    write, key, values = KINDS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    write(root)
    return request.param, root, key, values


def read(root, key, box=np.s_[0:4, 0:20, 0:30]) -> np.ndarray:
    with open_part(Store(str(root)), key, AcquisitionError) as array:
        return array.read(*box)


def refused(root, key, words: str) -> None:
    with pytest.raises(AcquisitionError, match=words):
        read(root, key)


def test_boxes_of_every_format(written):
    _, root, key, values = written
    facts = part_facts(Store(str(root)), key, AcquisitionError)
    assert (facts.shape, facts.dtype, facts.absent[0]) == (values.shape, "uint16", 0)
    for box in (np.s_[0:4, 0:20, 0:30], np.s_[1:3, 5:20, 7:8], np.s_[3:4, 0:1, 29:30]):
        found = read(root, key, box)
        np.testing.assert_array_equal(found, values[box])
        assert found.dtype == np.uint16 and found.flags.c_contiguous


@pytest.mark.parametrize(
    ("kind", "part", "words"),
    [
        (
            "imaris",
            "DataSet:ResolutionLevel 7:TimePoint 0:Channel 0:Data",
            "no 'ResolutionLevel 7'",
        ),
        ("imaris", "DataSet:ResolutionLevel 0", "is a group of 'TimePoint 0'; name a dataset"),
        ("hdf5", "t00000:s99:0:cells", "no 's99', but 's00', 's01'"),
        ("n5", "setup99:timepoint0:s0", "there is no array in .*dataset.n5/setup99"),
        (
            "zarr",
            "s7-t0.zarr:0:T0:C3",
            r"axis C has positions 0 to 0, not 3\); check that the file is complete",
        ),
        ("zarr", "s7-t0.zarr:0:Q1", r"it has no axis \['Q'\]"),
        ("czi", "C1:M99:S0", r"it has no stack .*only C0:M0:S0, C0:M1:S0"),
        ("czi", "nothing", "'nothing' is not a dimension and index"),
        ("lif", "9:M0:C0", r"contains 2 images, so there is no image 9\);"),
        ("lif", "1:M9:C0", "axis M of image 1 has 6"),
        ("lif", "1:M0", "give an index for each"),
        ("lif", "one", "'one' is not the number of an image"),
    ],
)
def test_parts_that_are_not_there(tmp_path, kind, part, words):
    write, key, _ = KINDS[kind]
    write(tmp_path)
    refused(tmp_path, f"{key.partition('#')[0]}#{part}", words)


def test_damaged_files_end_in_a_sentence(written, tmp_path):
    """Cut off and with wrong bytes, more of them where the structure is."""
    kind, root, key, _ = written
    folder = tmp_path / "damaged"
    shutil.copytree(root, folder)
    path = folder / key.partition("#")[0]
    if kind in METADATA:
        path /= METADATA[kind]
    good, chance, ends = path.read_bytes(), random.Random(5), []
    for _ in range(40):
        data = bytearray(good)
        for _ in range(chance.choice([1, 4, 40])):
            data[chance.randrange(min(len(data), 6000))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        for attempt in (lambda: recognise(str(folder)), lambda: read(folder, key)):
            try:
                attempt()
            except TeraregError as error:
                ends.append(str(error))
                assert ";" in str(error) and "\n" not in str(error) and len(str(error)) < 700
    assert len(ends) > 15, "some damage is told"


def test_a_pipe_in_place_of_a_file(tmp_path):
    for key in ("a.ims#a", "b.czi#C0", "c.lif#0", "d.h5#a"):
        os.mkfifo(tmp_path / key.partition("#")[0])
        refused(tmp_path, key, "it is not a regular file")


def test_a_missing_package_is_named():
    error = missing_package(ModuleNotFoundError("no", name="czifile"))
    assert "the package czifile, which is not installed; install it" in str(error)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - METADATA.keys()))
def test_files_on_s3_are_read_in_parts(tmp_path, bucket, kind):
    write, key, values = KINDS[kind]
    write(tmp_path)
    name = key.partition("#")[0]
    bucket.put_object(Bucket="scope", Key=f"{kind}/{name}", Body=(tmp_path / name).read_bytes())
    found = read(f"s3://scope/{kind}", key, np.s_[1:4, 2:20, 0:30])
    np.testing.assert_array_equal(found, values[1:4, 2:20])


# ---------------------------------------------------------------------- HDF5
def hdf5_file(folder, **options) -> Store:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("a", **options)
    return Store(str(folder))


def test_values_that_lie_in_another_file_are_not_read(tmp_path):
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"\7" * 48)
    store = hdf5_file(
        tmp_path, shape=(2, 4, 6), dtype="u1", external=[(str(outside), 0, 48)]
    )  # fmt: skip
    refused(tmp_path, "x.h5#a", "stores its values in other files")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = h5py.ExternalLink("x.h5", "a")
        file["soft"] = h5py.SoftLink("/a")
        file["deep/soft"] = h5py.SoftLink("/soft")
        file["round"] = h5py.SoftLink("/round")
        file["b"] = h5py.SoftLink("/c")
        file["c"] = np.ones((2, 4, 6), np.uint8)
    for part in ("a", "soft", "deep:soft"):
        refused(tmp_path, f"y.h5#{part}", "is a link to another file, 'x.h5'; name that file")
    refused(tmp_path, "y.h5#round", "the links of 'round' form a circle")
    assert hdf5.linked_file(store, "y.h5", "a") == ("x.h5", "a")
    assert read(tmp_path, "y.h5#b", np.s_[0:1, 0:1, 0:1]) == 1


def test_what_was_never_written_is_counted(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("a", (4, 8, 8), "u2", chunks=(2, 8, 8))
        file.create_dataset("none", (4, 8, 8), "u2")
        data[2:] = 5
    store = Store(str(tmp_path))
    assert part_facts(store, "x.h5#a", AcquisitionError).absent == (1, 2)
    assert part_facts(store, "x.h5#none", AcquisitionError).absent == (1, 1)


@pytest.mark.parametrize("kind", METADATA)
def test_chunks_that_a_folder_lacks_are_counted_and_a_tile_without_any_is_refused(tmp_path, kind):
    """A tile whose chunks were not copied is as black as one outside of the tissue."""
    write, key, _ = KINDS[kind]
    write(tmp_path)
    store, folder = Store(str(tmp_path)), (tmp_path / key.partition("#")[0] / METADATA[kind]).parent
    facts = part_facts(store, key, AcquisitionError)
    chunks = [p for p in folder.rglob("*") if p.is_file() and p.name[0] not in ".a"]
    assert facts.absent == (0, len(chunks)) and not facts.is_empty
    chunks[0].unlink()
    assert part_facts(store, key, AcquisitionError).absent == (1, len(chunks))
    assert part_facts(store, key, AcquisitionError, counted=False).absent == (0, 0)
    for path in chunks[1:]:
        path.unlink()
    assert part_facts(store, key, AcquisitionError).is_empty
    with pytest.raises(AcquisitionError, match="has a shape but no values, so it was never writ"):
        read_pages(store, key)


@pytest.mark.parametrize(("stated", "other"), [("/", "."), (".", "/")])
def test_chunks_of_zarr_under_other_names_are_told(tmp_path, stated, other):
    files.write_array(tmp_path / "a.zarr/0", "zarr", stack((0, 0), 0))
    file = tmp_path / "a.zarr/0/.zarray"
    metadata = json.loads(file.read_text())
    if metadata.get("dimension_separator", ".") != other:
        for path in [p for p in file.parent.rglob("*") if p.is_file() and p != file]:
            name = other.join(path.relative_to(file.parent).as_posix().replace("/", ".").split("."))
            (file.parent / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(file.parent / name)
    file.write_text(json.dumps(metadata | {"dimension_separator": stated}))
    message = rf"names of its chunks have '\{other}' between their numbers but its .* '\{stated}'"
    with pytest.raises(AcquisitionError, match=message):
        part_facts(Store(str(tmp_path)), "a.zarr#0", AcquisitionError)


def test_bits_of_unsigned_integers_are_signed_only_where_the_format_says_so(tmp_path):
    values = np.array([[[0, -1, -32768, 32767]]], ">i2")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["t00000/s00/0/cells"] = values
        file["other"] = values
    box = np.s_[0:1, 0:1, 0:4]
    assert read(tmp_path, "x.h5#t00000:s00:0:cells", box).ravel().tolist() == [
        0, 65535, 32768, 32767,
    ]  # fmt: skip
    assert part_facts(Store(str(tmp_path)), "x.h5#other", AcquisitionError).dtype == "int16"


@pytest.mark.parametrize("shape", [(4, 5), (2, 2, 3, 4)])
def test_arrays_of_another_number_of_axes(tmp_path, shape):
    hdf5_file(tmp_path, shape=shape, dtype="u2")
    refused(tmp_path, "x.h5#a", "give an array with three dimensions")


@pytest.mark.parametrize("text", ["99", "0", "3.5", "many"])
def test_sizes_that_imaris_states_and_cannot_be(tmp_path, text):
    KINDS["imaris"][0](tmp_path)
    with h5py.File(tmp_path / "a.ims", "r+") as file:
        group = file["DataSet/ResolutionLevel 0/TimePoint 0/Channel 1"]
        group.attrs["ImageSizeZ"] = files.letters(text)
    refused(tmp_path, IMS, f"ImageSizeZ is '{text}' but 4 are stored")


def test_attributes_of_imaris_are_letters_texts_or_numbers(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["letters"], file.attrs["text"] = files.letters("12.5"), "12.5"
        file.attrs["number"], file.attrs["cut"] = 12.5, np.bytes_(b"12.5\0xx")
        assert {hdf5.attribute(file, n) for n in file.attrs} == {"12.5"}
        assert hdf5.attribute(file, "none") is None


# ---------------------------------------------------------------------- N5 and Zarr
def test_an_array_of_several_channels_asks_for_one(tmp_path):
    files.write_array(tmp_path / "x.zarr/0", "zarr", np.arange(48, dtype="u2").reshape(2, 2, 3, 4))
    refused(tmp_path, "x.zarr#0", "it has 2 positions along C; choose one")
    assert read(tmp_path, "x.zarr#0:C1", np.s_[0:1, 0:1, 0:2]).ravel().tolist() == [24, 25]


def test_metadata_of_arrays_that_cannot_be(tmp_path):
    (tmp_path / "x.n5/s0").mkdir(parents=True)
    path = tmp_path / "x.n5/s0/attributes.json"
    for text, words in [
        ('{"dimensions": [4, 4, true], "blockSize": [4, 4, 4]}', "a size of True"),
        ('{"dimensions": [4, 4, 4]}', "'blockSize' is missing"),
        ('{"dimensions": [9, 9, 9], "blockSize": [9999, 9999, 9999]}', "in smaller"),
        ("[" * 100_000, "nested too deeply"),
    ]:
        path.write_text(text)
        refused(tmp_path, "x.n5#s0", words)
    name, found = array_folders.DRIVERS, Store(str(tmp_path))
    assert set(name.values()) == {"n5", "zarr", "zarr3"} and found.exists("x.n5/s0/attributes.json")


# ---------------------------------------------------------------------- Zeiss
def czi_of(folder, blocks) -> None:
    files.write_czi(folder / "x.czi", blocks, files.zeiss_xml())


def test_czi_stacks_begin_anywhere_along_z_and_have_no_holes(tmp_path):
    plane = stack((0, 0))[0]
    czi_of(tmp_path, {(("C", 0), ("Z", z)): (plane + z, (0, 0), 1) for z in (5, 6)})
    index = czi.read_index(Store(str(tmp_path)), "x.czi")
    (one,) = index.stacks.values()
    assert sorted(one.planes) == [5, 6]
    np.testing.assert_array_equal(read(tmp_path, "x.czi#C0", np.s_[1:2, 0:20, 0:30])[0], plane + 6)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({("C0", 0): (0, 0), ("C0", 2): (0, 0)}, "1 of its planes are missing .first: 1."),
        ({("C0", 0): (0, 0), ("C0", 1): (0, 3)}, "planes of C0 are at 2"),
    ],
)
def test_czi_stacks_that_are_none(tmp_path, blocks, words):
    plane = stack((0, 0))[0]
    czi_of(tmp_path, {(("C", 0), ("Z", z)): (plane, place, 1) for (_, z), place in blocks.items()})
    refused(tmp_path, "x.czi#C0", words)


# ---------------------------------------------------------------------- Leica
def test_lif_planes_follow_the_strides_that_the_file_states(tmp_path):
    values = np.arange(2 * 3 * 2 * 4 * 5, dtype="u2").reshape(2, 3, 2, 4, 5)
    files.write_lif(tmp_path / "x.lif", [("a", values, "")])
    opened, source = lif.open_file(Store(str(tmp_path)), "x.lif")
    assert len(opened.images) == 1
    opened.close(), source.close()
    for tile, channel in np.ndindex(2, 2):
        found = read(tmp_path, f"x.lif#0:M{tile}:C{channel}", np.s_[0:3, 0:4, 0:5])
        np.testing.assert_array_equal(found, values[tile, :, channel])
