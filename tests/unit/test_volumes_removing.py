"""Volumes that lose levels, regions, or all; what lies beside them stays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from cloudvolume import CloudVolume
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from s3_server import put_folder

from terareg.cli.main import main
from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.core.levels import level_factors
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.removing import find_parts, remove_parts
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SHAPE = (21, 19, 35)
ARRAY = np.random.default_rng(0).integers(1, 60000, SHAPE).astype(np.uint16)
OTHERS = ("precomputed/mesh/info", "precomputed/provenance", "other/0/0-8_0-8_0-8")


def precomputed(tmp_path, **over):
    """A volume with chunks of 8, an odd shape and an offset, and files beside it; its folder."""
    settings = {
        "chunk": 8, "block": 16, "formats": ("precomputed",), "sharded": False,
        "offset_vox": (5, 0, 2), **over,
    }  # fmt: skip
    plan = make_plan("v", Frame(SHAPE, (4.0, 4.0, 4.0)), "uint16", VolumeSettings(**settings))
    store = Store(str(tmp_path / "made"))
    init_volume(store, "v", plan)

    def make(block):
        return ARRAY[tuple(map(slice, block.start, block.stop))].copy(), Clipped()

    write_blocks(store, "v", plan, plan.blocks(), make, fingerprint="f")
    finish_pyramid(store, "v", plan)
    (tmp_path / "made/v/precomputed").rename(tmp_path / "precomputed")
    for name in OTHERS:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path / "precomputed"


def zarr_2(tmp_path):
    """An OME-Zarr 0.4 by zarr-python, with an axis of channels; its folder."""
    factors = level_factors(SHAPE, (4.0, 4.0, 4.0), 8)
    group = zarr.create_group(tmp_path / "image.zarr", zarr_format=2)
    datasets = []
    for level, factor in enumerate(factors):
        part = ARRAY[tuple(slice(None, None, f) for f in factor)][None]
        array = group.create_array(
            str(level), shape=part.shape, chunks=(1, 8, 8, 8), dtype="uint16",
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip
        array[:] = part
        scale = [1.0, *(4.0 * f for f in factor)]
        datasets.append(
            {"path": str(level),
             "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )  # fmt: skip
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return tmp_path / "image.zarr"


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", [precomputed, zarr_2])
def test_of_a_whole_volume_nothing_is_left_and_what_is_beside_it_stays(tmp_path, make):
    folder = make(tmp_path)
    before = files(tmp_path)
    found = find_parts(str(folder))
    assert files(tmp_path) == before
    own = {f"{folder.name}/{key}" for key in found.keys}
    assert found.size == sum((tmp_path / name).stat().st_size for name in own)
    remove_parts(str(folder))
    assert files(tmp_path) == before - own
    kept = {name for name in files(tmp_path) if not name.startswith("made/")}
    assert kept == (set(OTHERS) if make is precomputed else set())


def test_a_level_goes_with_its_edge_chunks_and_others_are_read_as_before(tmp_path):
    folder = precomputed(tmp_path)
    before = files(tmp_path)
    whole = CloudVolume(f"file://{folder}", mip=0, progress=False)[:]
    gone = find_parts(str(folder), [1])
    # chunks of 8 in a level of 11 x 10 x 18 voxels
    assert len(gone.keys) == 2 * 2 * 3 and all(key.startswith("1/") for key in gone.keys)
    remove_parts(str(folder), [1])
    assert before - files(tmp_path) == {f"precomputed/{key}" for key in gone.keys}
    volume = CloudVolume(f"file://{folder}", mip=0, progress=False)
    assert [scale["key"] for scale in volume.info["scales"]] == ["0", "2", "3"]
    np.testing.assert_array_equal(volume[:], whole)


def test_a_level_of_zarr_goes_from_its_metadata_first(tmp_path):
    folder = zarr_2(tmp_path)
    zarr.consolidate_metadata(str(folder), zarr_format=2)
    remove_parts(str(folder), [0])
    assert not [name for name in files(folder) if name.startswith(("0/", ".zmetadata"))]
    image = json.loads((folder / ".zattrs").read_text())["multiscales"][0]
    assert [dataset["path"] for dataset in image["datasets"]] == ["1", "2", "3"]
    np.testing.assert_array_equal(zarr.open_array(folder / "1")[0], ARRAY[::2, ::2, ::2])


@pytest.mark.parametrize("levels", [(), (0,), (1,)])
def test_of_a_region_the_chunks_in_it_go_and_no_others(tmp_path, levels):
    """Of chunks of 8, [8, 21) x [0, 19) x [3, 24) holds z 8-21, y all, x 8-24."""
    folder = zarr_2(tmp_path)
    arrays = [zarr.open_array(folder / str(n)) for n in range(4)]
    wanted = [array[0].copy() for array in arrays]
    for n in levels or (0, 1):
        edge = 8 // 2**n
        inside = slice(edge, None), slice(None), slice(edge, 3 * edge)
        if n == 1:  # chunks of 16 voxels of the finest level: only z 16-21, y all, x none
            inside = slice(8, None), slice(None), slice(8, 8)
        wanted[n][inside] = 0
    if levels == (1,):
        with pytest.raises(VolumeError, match="no chunk of level 1 is"):
            find_parts(str(folder), levels, ((8, 0, 3), (21, 19, 24)))
        return
    remove_parts(str(folder), levels, ((8, 0, 3), (21, 19, 24)))
    for array, expected in zip(arrays, wanted):
        np.testing.assert_array_equal(array[0], expected)


@examples(25)
@given(data=st.data())
def test_of_any_region_the_chunks_in_it_go_and_no_others(tmp_path_factory, data):
    folder = zarr_2(tmp_path_factory.mktemp("region"))
    array = zarr.open_array(folder / "0")
    wanted = array[0].copy()
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in SHAPE]
    box = tuple(zip(*((a, max(b, a + 1)) if a < n else (n - 1, n)
                      for (a, b), n in zip(ends, SHAPE))))  # fmt: skip
    gone = 0
    for place in np.ndindex(*(-(-n // 8) for n in SHAPE)):
        chunk = [(8 * p, min(8 * p + 8, n)) for p, n in zip(place, SHAPE)]
        if all(a <= low and high <= b for (low, high), a, b in zip(chunk, *box)):
            wanted[tuple(slice(*c) for c in chunk)] = 0
            gone += 1
    before = files(folder)
    if not gone:
        with pytest.raises(VolumeError, match="no chunk of level 0 is"):
            find_parts(str(folder), (0,), box)
        return
    remove_parts(str(folder), (0,), box)
    assert len(before - files(folder)) == gone
    np.testing.assert_array_equal(zarr.open_array(folder / "0")[0], wanted)


def test_of_shards_no_part_is_removed(tmp_path):
    folder = precomputed(tmp_path, sharded=True)
    with pytest.raises(VolumeError, match="chunks in shards, which can only be removed"):
        find_parts(str(folder), box_vox=((0, 0, 0), (8, 8, 8)))


@pytest.mark.parametrize("make", [precomputed, zarr_2])
@pytest.mark.parametrize("step", range(1, 15, 3))
def test_a_removal_that_was_interrupted_goes_on_with_the_same_level(
    tmp_path, monkeypatch, make, step
):
    """However far it came; asked again for level 1, it does not take what is level 1 now."""
    folder = make(tmp_path)
    before = files(folder)
    gone = {name for name in before if name.startswith("1/")}
    left = [step]

    def dying(name):
        act = getattr(Store, name)

        def method(self, *arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return act(self, *arguments)

        return method

    with monkeypatch.context() as patched:
        for name in ("write", "delete"):
            patched.setattr(Store, name, dying(name))
        with pytest.raises(KeyboardInterrupt):
            remove_parts(str(folder), [1])
    rest = find_parts(str(folder), [1])
    assert "the rest of level 1" in rest.what
    assert {key for key in rest.keys if not key.startswith("1/")} <= {".zmetadata"}
    remove_parts(str(folder), [1])
    assert files(folder) == before - gone
    again = find_parts(str(folder), [1])
    assert again.keys and all(key.startswith("2/") for key in again.keys)


@pytest.mark.parametrize("make", [precomputed, zarr_2])
def test_the_removal_of_a_volume_that_was_interrupted_can_be_asked_for_again(
    tmp_path, monkeypatch, make
):
    folder = make(tmp_path)
    keys = find_parts(str(folder)).keys
    act, left = Store.delete, [len(keys) - 1]

    def delete(self, key):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        act(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            remove_parts(str(folder))
    assert find_parts(str(folder), [1]).what == f"the rest of {folder}"
    remove_parts(str(folder), [1])
    assert not [key for key in keys if (folder / key).exists()]
    assert not (folder / "removing.json").exists()


@pytest.mark.slow
def test_a_level_in_a_bucket(tmp_path, s3):
    folder = precomputed(tmp_path)
    client = s3.client()
    client.create_bucket(Bucket="lab")
    put_folder(client, "lab", "layers/brain/", folder)
    before = {entry.key for entry in Store("s3://lab/layers/brain").list("")}
    found = remove_parts("s3://lab/layers/brain", [1])
    left = {entry.key for entry in Store("s3://lab/layers/brain").list("")}
    assert before - left == set(found.keys) and all(key.startswith("1/") for key in found.keys)
    info = json.loads(Store("s3://lab/layers/brain").read("info"))
    assert [scale["key"] for scale in info["scales"]] == ["0", "2", "3"]


def test_what_cannot_be_removed_is_one_sentence(tmp_path):
    folder = precomputed(tmp_path)
    with pytest.raises(VolumeError, match="no level 4; it has levels 0 to 3"):
        find_parts(str(folder), [4])
    with pytest.raises(VolumeError, match="other level; to remove the whole volume"):
        find_parts(str(folder), [0, 1, 2, 3])
    (tmp_path / "volume.json").write_text("{}")
    with pytest.raises(VolumeError, match=r"made by a run.*remove_derived"):
        find_parts(str(folder))


def test_the_command_lists_first_and_removes_when_confirmed(tmp_path, capsys):
    folder = precomputed(tmp_path)
    before = files(folder)
    assert main(["remove", str(folder), "--level", "2"]) == 0
    said = capsys.readouterr().out
    assert f"level 2 of {folder}" in said and "nothing was removed" in said and "--confirm" in said
    assert files(folder) == before
    assert main(["remove", str(folder), "--level", "2", "--confirm"]) == 0
    assert "removed" in capsys.readouterr().out
    assert before - files(folder) == {name for name in before if name.startswith("2/")}
