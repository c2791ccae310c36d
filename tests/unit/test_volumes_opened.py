"""The user's door: the same voxels as NumPy, dask and zarr, from a folder and from the web."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import SimpleITK as sitk
from web_server import serving

import terareg
from terareg.core.errors import ConfigError, StoreError, VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.storage.web import WebStore, plain_address, store_at
from terareg.volumes.opened import OpenVolume
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE, SPACING = (20, 37, 45), (5.0, 2.0, 2.0)
VALUES = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
BOX = np.s_[3:11, :, 20:45]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results with one volume in both formats, and one in precomputed alone."""
    top = tmp_path_factory.mktemp("results")
    for name, formats in (("a", ("ome-zarr", "precomputed")), ("b", ("precomputed",))):
        store, key = Store(str(top)), f"brain/fused/{name}"
        settings = VolumeSettings(chunk=16, block=32, formats=formats)
        plan = make_plan(name, Frame(SHAPE, SPACING, (0.0, 0.0, 1.0), "RIP"), "uint16", settings)
        init_volume(store, key, plan)
        write_blocks(
            store, key, plan, plan.blocks(),
            lambda b: (VALUES[tuple(map(slice, b.start, b.stop))].copy(), Clipped()),
            fingerprint="f",
        )  # fmt: skip
        finish_pyramid(store, key, plan)
    return top


@pytest.fixture(scope="module")
def web(folder):
    """The same folder on a web server."""
    with serving(folder) as address:
        yield address


@pytest.fixture(params=["folder", "web"])
def place(request, folder, web):
    return {"folder": str(folder), "web": web}[request.param]


@pytest.mark.parametrize("name", ["a", "b", "a/ome.zarr", "a/precomputed"])
def test_a_volume_of_terareg_is_known_by_its_folder(place, name):
    volume = terareg.open_volume(f"{place}/brain/fused/{name}")
    assert isinstance(volume, OpenVolume)
    assert volume.levels == 3 and volume.dtype == np.uint16 and not volume.is_segmentation
    assert volume.frame == Frame(SHAPE, SPACING, (0.0, 0.0, 1.0), "RIP")
    assert volume.spacing_um(1) == (5.0, 4.0, 4.0) and volume.shape(1) == (20, 19, 23)
    np.testing.assert_array_equal(volume.numpy(), VALUES)
    np.testing.assert_array_equal(volume.numpy(BOX), VALUES[BOX])
    np.testing.assert_array_equal(volume.numpy(np.s_[4:5]), VALUES[4:5])
    assert volume.level_for(4) == 1
    assert "uint16, 3 levels, (20, 37, 45) voxels" in repr(volume)


@pytest.mark.parametrize("level", [0, 1])
def test_dask_and_zarr_show_what_numpy_shows(place, level):
    volume = terareg.open_volume(f"{place}/brain/fused/a")
    expected = volume.numpy(level=level)
    lazy = volume.dask(level)
    assert lazy.dtype == np.uint16 and lazy.shape == expected.shape
    np.testing.assert_array_equal(lazy[2:9, ::3].compute(scheduler="sync"), expected[2:9, ::3])
    assert lazy.sum().compute(scheduler="sync") == expected.sum()
    array = volume.zarr(level)
    assert array.shape == expected.shape and array.dtype == np.uint16
    np.testing.assert_array_equal(array[3:11], expected[3:11])
    with pytest.raises(ValueError, match=r"read-only|read only"):
        array[0] = 0


def test_dask_reads_whole_chunks_of_the_store(folder, monkeypatch):
    monkeypatch.setattr("terareg.volumes.opened._DASK_BYTES", 2 * 16**3)
    lazy = terareg.open_volume(f"{folder}/brain/fused/a").dask()
    assert all(size % 16 == 0 for sizes in lazy.chunks for size in sizes[:-1])
    assert lazy.npartitions > 8


def test_an_open_volume_travels_to_other_processes(folder):
    volume = pickle.loads(pickle.dumps(terareg.open_volume(f"{folder}/brain/fused/a")))  # noqa: S301
    np.testing.assert_array_equal(volume.numpy(BOX), VALUES[BOX])


@pytest.fixture(scope="module")
def foreign(folder):
    """The OME-Zarr and precomputed copies, away from what terareg keeps beside them."""
    for name in ("ome.zarr", "precomputed"):
        (folder / "elsewhere" / name).parent.mkdir(exist_ok=True)
        (folder / "elsewhere" / name).symlink_to(folder / "brain/fused/a" / name)
    return "elsewhere"


@pytest.mark.slow
def test_foreign_volumes_are_read_without_an_orientation(place, foreign):
    for name in ("ome.zarr", "precomputed"):
        volume = terareg.open_volume(f"{place}/{foreign}/{name}")
        np.testing.assert_array_equal(volume.numpy(BOX), VALUES[BOX])
        np.testing.assert_allclose(volume.spacing_um(), SPACING)
        assert volume.dask(1).shape == (20, 19, 23)
        with pytest.raises(ConfigError, match="states no orientation; open it with"):
            volume.frame  # noqa: B018
        known = terareg.open_volume(f"{place}/{foreign}/{name}", orientation="RIP")
        assert known.frame.orientation == "RIP"
    with pytest.raises(VolumeError, match=r"is not stored as Zarr; use .numpy\(\) or .dask\(\)"):
        volume.zarr()
    zarr = terareg.open_volume(f"zarr://{place}/{foreign}/ome.zarr").zarr(1)
    assert zarr.shape == (20, 19, 23)


@pytest.mark.parametrize(
    "form", ["gs://{}/precomputed", "precomputed://gs://{}/precomputed/", "zarr3://gs://{}/ome.zarr",
             "gs://{}/ome.zarr/|zarr3:", "gs://{}/precomputed/|neuroglancer-precomputed:"],
)  # fmt: skip
def test_public_buckets_of_google_are_read_from_the_web(web, foreign, form, monkeypatch):
    monkeypatch.setattr("terareg.storage.web.GOOGLE", web)
    volume = terareg.open_volume(form.format(foreign))
    np.testing.assert_array_equal(volume.numpy(BOX), VALUES[BOX])


def test_addresses_keep_what_is_no_name_of_a_format():
    assert plain_address("a|b") == "a|b" and plain_address("a|zarr:/0") == "a|zarr:/0"
    assert plain_address("gs://b/c/") == "https://storage.googleapis.com/b/c"
    with pytest.raises(StoreError, match="graphene://https://x' is not supported"):
        terareg.open_volume("graphene://https://x/y")


def test_an_image_file_is_a_volume_of_one_level(tmp_path):
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((0.002, 0.002, 0.005))
    sitk.WriteImage(image, str(tmp_path / "t1.nii.gz"))
    volume = terareg.open_volume(f"{tmp_path}/t1.nii.gz")
    assert volume.levels == 1
    np.testing.assert_allclose(volume.spacing_um(), SPACING, rtol=1e-6)
    np.testing.assert_array_equal(volume.dask().compute(scheduler="sync"), VALUES)
    mean, frame = volume.resampled(10.0)
    assert frame.spacing_um == (10.0, 10.0, 10.0) and mean.shape == frame.shape


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (np.s_[0:21], "beyond level 0"),
        (np.s_[-3:], "negative numbers are not supported)"),
        (np.s_[::2], "has a step"),
        (np.s_[3], "give up to three slices"),
        ((3, 4, 5), "give up to three slices"),
        (np.s_[:, :, :, :], "give up to three slices"),
    ],
)
def test_a_box_that_is_none_is_one_sentence(folder, box, words):
    volume = terareg.open_volume(f"{folder}/brain/fused/a")
    with pytest.raises(VolumeError) as error:
        volume.numpy(box)
    assert words in str(error.value)


def test_what_is_lost_is_an_error_and_never_zeros(folder, tmp_path):
    import shutil

    shutil.copytree(folder / "brain", tmp_path / "brain")
    (tmp_path / "brain/fused/a/ome.zarr/0/c/0/0/0").unlink()
    volume = terareg.open_volume(f"{tmp_path}/brain/fused/a")
    with pytest.raises(VolumeError):
        volume.numpy()
    with pytest.raises(VolumeError, match="levels 0 to 2, not 3"):
        volume.numpy(level=3)


def test_what_cannot_be_opened_is_one_sentence(folder, web):
    for address, words in (
        (f"{folder}/nothing", "does not exist; correct the path"),
        (f"{web}/nothing", "does not exist; correct the path"),
        (f"{web}/t1.nii.gz", "does not exist; correct the path, or make it public"),
        ("ftp://server/x", "is not supported"),
    ):
        with pytest.raises((VolumeError, StoreError)) as error:
            terareg.open_volume(address)
        assert words in str(error.value) and "\n" not in str(error.value)


def test_a_store_on_the_web_is_read_only_and_public(web):
    store = store_at(web)
    assert isinstance(store, WebStore) and isinstance(store_at("s3://b/x"), Store)
    record = store.read("brain/fused/a/volume.json")
    assert store.size("brain/fused/a/volume.json") == len(record)
    part, entry = store.read_range("brain/fused/a/volume.json", 5, 10)
    assert part == record[5:15] and entry.size == len(record)
    assert store.size("brain/none") is None and list(store.walk()) == []
    for act in (lambda: store.write("x", b""), lambda: store.delete("x"),
                lambda: store.delete_folder("x"), lambda: store.create("x")):  # fmt: skip
        with pytest.raises(StoreError, match="is read-only"):
            act()
    with pytest.raises(StoreError, match="contains a user name or password"):
        store_at("https://me:secret@server/x")
    with pytest.raises(StoreError, match="not the web address of a folder"):
        store_at("https://server/x?token=1")


def test_a_server_that_fails_is_asked_again_and_then_named(monkeypatch):
    monkeypatch.setattr("terareg.storage.web._FIRST_WAIT_S", 0.0)
    with pytest.raises(StoreError, match=r"127.0.0.1:9/x/info cannot be read .*check the address"):
        store_at("http://127.0.0.1:9/x").read("info")


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_it_is_used(folder):
    code = (
        "import sys, terareg\n"
        "assert 'numpy' not in sys.modules\n"
        f"v = terareg.open_volume({str(folder / 'brain/fused/a')!r})\n"
        "v.numpy()\n"
        "assert not {'dask', 'zarr'} & set(sys.modules)\n"
        "v.dask(); assert 'zarr' not in sys.modules\n"
    )
    source = str(Store(terareg.__path__[0]).path("x").parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source})


def test_the_code_of_the_page_runs(folder, tmp_path, monkeypatch, capsys):
    """docs/python.md, on a volume at the place that it names."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs/python.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert code.count("volume.") > 8
    (tmp_path / "results/brain/fused").mkdir(parents=True)
    (tmp_path / "results/brain/fused/signal").symlink_to(folder / "brain/fused/a")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    box, level = names["box"], names["level"]
    np.testing.assert_array_equal(box, names["volume"].numpy(level=level)[2:6, :, 5:10])
    assert names["mean"] == pytest.approx(names["volume"].numpy(level=names["level"]).mean())
    assert "0 (20, 37, 45) (5.0, 2.0, 2.0)" in capsys.readouterr().out
    assert plt.imread("middle.png").std() > 0.05, "a picture of something"


@pytest.mark.slow
@pytest.mark.engine
def test_a_bucket_is_a_place_like_a_folder(folder, s3):
    """All three kinds of array, of a volume of terareg and of a foreign image."""
    s3.client().create_bucket(Bucket="brains")
    local, bucket = Store(str(folder)), Store("s3://brains/lab")
    for entry in local.list("brain/fused/a"):
        bucket.write(entry.key, local.read(entry.key))
        place = entry.key.removeprefix("brain/fused/a/")
        if place.startswith("ome.zarr"):
            bucket.write(f"elsewhere/{place}", local.read(entry.key))
    for name in ("brain/fused/a", "elsewhere/ome.zarr"):
        volume = terareg.open_volume(f"s3://brains/lab/{name}")
        np.testing.assert_array_equal(volume.numpy(BOX), VALUES[BOX])
        lazy = volume.dask()[BOX].compute(scheduler="sync")
        np.testing.assert_array_equal(lazy, VALUES[BOX])
        np.testing.assert_array_equal(volume.zarr()[BOX], VALUES[BOX])
