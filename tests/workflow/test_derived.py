"""Derived volumes without any tiles: from an image file to 8 bits in another format, and again."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest
import running
import SimpleITK as sitk
import tifffile
from running import job_counts

from terareg.storage.store import Store
from terareg.views.serve import FolderServer
from terareg.volumes.reader import Volume

TARGETS = (
    "--cores",
    "2",
    "derived_volumes",
    "exports",
    "results/tools/derived/dark/verified.json",
    "--quiet",
)


def described(workspace):
    """A stack of planes, cut, and then made 8 bits of; and the stack."""
    stack = np.random.default_rng(0).gamma(2, 300, (21, 40, 50)).astype(np.uint16)
    tifffile.imwrite(workspace.folder / "stack.tif", stack)
    # of the part, which begins at 0 and 10 um along y and x
    table = "plate,well,y_um,x_um,height_um,width_um\np,A1,-1,9,20,30\np,A2,-1,49,20,30\n"
    (workspace.folder / "wells.csv").write_text(table)
    derived = {
        "dark": {"from": "part", "do": "quantize", "format": "precomputed", "sharded": False},
        "part": {
            "from": "stack.tif",
            "do": "convert",
            "spacing_um": [4, 2, 2],
            "box_um": [[8, 0, 10], [80, 70, 100]],
        },
    }
    return {
        "sample": "tools",
        "volume": {"chunk": 8, "block": 16},
        "derived": derived,
        "export": {
            "dark": {"from": "derived/dark", "format": "tiff"},
            "shown": {"from": "derived/dark", "format": "pyramid_8bit", "outlines": "wells.csv"},
        },
    }, stack


@pytest.mark.slow
def test_an_image_file_becomes_derived_volumes_without_any_tiles(workspace):
    config, stack = described(workspace)
    workspace.write(config)
    done = workspace.snakemake(*TARGETS)
    assert done.returncode == 0, done.stderr
    store = Store(str(workspace.folder / "results"))
    part = stack[2:20, 0:35, 5:50]
    np.testing.assert_array_equal(Volume(store, "tools/derived/part").read(0), part)
    low, high = np.percentile(part, (0.1, 99.9), method="inverted_cdf")
    wanted = np.clip((part.astype(float) - low) / (high - low) * 255, 0, 255)
    dark = Volume(store, "tools/derived/dark")
    np.testing.assert_allclose(dark.read(0), wanted, atol=0.501)
    info = json.loads(store.read("tools/derived/dark/precomputed/info"))
    assert info["scales"][0]["voxel_offset"] == [5, 0, 2], "the part keeps its place"
    assert info["scales"][0]["resolution"] == [2000, 2000, 4000]
    with tifffile.TiffFile(workspace.folder / "results/tools/exports/dark.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), dark.read(0))
    page = store.read("tools/exports/shown/index.html").decode()
    told = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    outlines = {name: edges for name, edges, _ in told["outlines"]}
    assert outlines == {"p": [0, 0, 35, 10], "p A1": [0, 0, 15, 10], "p A2": [20, 0, 35, 10]}
    state = json.loads((workspace.folder / "results/tools/views/neuroglancer.json").read_text())
    assert [layer["name"] for layer in state["layers"]] == ["derived part", "derived dark"]
    assert state["dimensions"] == {"x": [2e-6, "m"], "y": [2e-6, "m"], "z": [4e-6, "m"]}
    # the middle of the part, in voxels of the stack
    assert np.abs(np.array(state["position"]) - (27.5, 17.5, 11)).max() <= 0.5

    # a run that is complete has nothing to do; another setting runs what depends on it
    again = workspace.snakemake("-n", *TARGETS[2:4], "--quiet", "rules")
    assert "Nothing to be done" in again.stdout + again.stderr
    config["derived"]["dark"]["percent"] = [1, 99]
    workspace.write(config)
    jobs = job_counts(workspace.snakemake("-n", *TARGETS[2:4], "--quiet", "rules"))
    assert jobs["derive_blocks"] == jobs["measure_derived"] == jobs["init_derived"] == 1
    tifffile.imwrite(workspace.folder / "stack.tif", stack[::-1].copy())
    jobs = job_counts(workspace.snakemake("-n", *TARGETS[2:4], "--quiet", "rules"))
    assert jobs["derive_blocks"] == 2


def test_folders_of_planes_become_volumes_in_one_call(workspace):
    derived, series = {}, {}
    for number, name in enumerate(("a", "b")):
        series[name] = np.random.default_rng(number).integers(0, 9999, (11, 20, 18), np.uint16)
        (workspace.folder / name).mkdir()
        for plane, image in enumerate(series[name]):
            path = workspace.folder / name / f"{name} {plane}.tif"
            tifffile.imwrite(path, image, compression="zlib" if number else None)
        derived[name] = {"from": f"./{name}", "do": "convert", "format": "precomputed",
                         "levels": 1, "spacing_um": [4, 2, 2]}  # fmt: skip
    export = {"blocks": {"from": "derived/a", "format": "terafly"}}
    workspace.write({"sample": "tools", "volume": {"chunk": 8, "block": 16}, "derived": derived,
                     "export": export})  # fmt: skip
    done = workspace.snakemake("--cores", "2", "--quiet", "all", "--", "derived_volumes", "exports")
    assert done.returncode == 0, done.stderr
    results = workspace.folder / "results"
    for name, planes in series.items():
        volume = Volume(Store(str(results)), f"tools/derived/{name}")
        np.testing.assert_array_equal(volume.read(0), planes)
        assert volume.frame.spacing_um == (4.0, 2.0, 2.0)
    blocks = results / "tools/exports/blocks"
    record = json.loads((results / "tools/exports/blocks.planes.json").read_text())
    assert sorted(record["levels"]) == sorted(path.name for path in blocks.iterdir())
    block = tifffile.imread(blocks / "RES(20x18x11)/000000/000000_000000/000000_000000_000000.tif")
    np.testing.assert_array_equal(block, series["a"])


def test_a_dry_run_prints_jobs_bytes_and_memory_of_derived_volumes(workspace):
    config, _ = described(workspace)
    config["derived"]["part"]["from"] = "absent.tif"
    workspace.write(config)
    done = workspace.snakemake("-n", "derived_volumes")
    assert "absent.tif does not exist; correct the path" in done.stdout + done.stderr
    config["derived"]["part"]["from"] = "stack.tif"
    workspace.write(config)
    done = workspace.snakemake("-n", "derived_volumes")
    (row,) = [line for line in done.stderr.splitlines() if line.startswith("Derived volumes")]
    assert row.split()[2] == "6", "two plans, one measurement, one gathering, two batches"
    assert "MB of sources" in done.stderr and "space needed in the store" in done.stderr
    assert not (workspace.folder / "results").exists()


@pytest.mark.slow
def test_the_viewer_has_layers_of_what_is_derived(finished, workspace):
    """Of a sample of tiles: a volume, and meshes of regions with the atlas' colours and names."""
    workspace = running.copy_of(finished, workspace, volumes=True)
    running.configure(
        workspace,
        derived={
            "small": {"from": "fused/ch0", "do": "convert", "level": 1, "format": "ome-zarr-0.4"},
            "shapes": {"from": "labels/phantom", "level": 1, "do": "mesh", "error_nm": 20000},
        },
    )
    target = "results/demo/views/neuroglancer.json"
    done = workspace.snakemake("--cores", "2", "--quiet", "--", target)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((workspace.folder / target).read_text())
    layers = {layer["name"]: layer for layer in state["layers"]}
    small, shapes = layers["derived small"], layers["derived shapes"]
    assert small["source"] == "zarr2://{store}/demo/derived/small/ome.zarr"
    assert shapes["segmentColors"] == layers["phantom"]["segmentColors"]
    objects, names = shapes["source"]
    assert objects["url"] == "precomputed://{store}/demo/derived/shapes/mesh"
    store = Store(str(workspace.folder / "results"))
    properties = json.loads(store.read(names.removeprefix("precomputed://{store}/") + "/info"))
    assert set(shapes["segments"]) <= set(properties["inline"]["ids"])
    info = json.loads(store.read("demo/labels/phantom/precomputed/mesh/info"))
    assert info["@type"] == "neuroglancer_multilod_draco"


@pytest.mark.slow
@pytest.mark.engine
def test_image_files_on_s3_and_the_web_become_what_those_on_disk_become(workspace, s3):
    stack = np.random.default_rng(0).gamma(2, 300, (21, 40, 50)).astype(np.uint16)
    image = sitk.GetImageFromArray(stack)
    image.SetSpacing((0.002, 0.002, 0.004))
    sitk.WriteImage(image, str(workspace.folder / "stack.nii.gz"))
    sitk.WriteImage(image, str(workspace.folder / "stack.mha"))
    tifffile.imwrite(workspace.folder / "stack.tif", stack, compression="zlib")
    client = s3.client()
    client.create_bucket(Bucket="lab")
    for name in ("stack.nii.gz", "stack.tif"):
        client.upload_file(str(workspace.folder / name), "lab", f"images/{name}")
    server = FolderServer(workspace.folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    quantized = {"do": "quantize", "values": [0, 2000]}
    config = {
        "sample": "tools",
        "volume": {"chunk": 8, "block": 16},
        "derived": {
            "here": quantized | {"from": "./stack.nii.gz"},
            "s3": quantized | {"from": "s3://lab/images/stack.nii.gz"},
            "meta": quantized | {"from": f"{server.url}/stack.mha"},
            "web": quantized | {"from": f"{server.url}/stack.tif", "spacing_um": [4, 2, 2]},
        },
    }
    try:
        workspace.write(config)
        done = workspace.snakemake("--cores", "2", "derived_volumes", "--quiet", **s3.env)
        assert done.returncode == 0, done.stderr
        store = Store(str(workspace.folder / "results"))
        here, *others = (Volume(store, f"tools/derived/{name}") for name in config["derived"])
        for other in others:
            np.testing.assert_array_equal(other.read(0), here.read(0))
            assert other.frame.spacing_um == here.frame.spacing_um
        # what changed is read again, and nothing else
        tifffile.imwrite(workspace.folder / "stack.tif", stack[::-1].copy(), compression="zlib")
        again = workspace.snakemake("-n", "derived_volumes", "--quiet", "rules", **s3.env)
        assert job_counts(again)["derive_blocks"] == 1
        config["derived"]["s3"]["from"] = "s3://lab/images/other.nii.gz"
        workspace.write(config)
        absent = workspace.snakemake("-n", "derived_volumes", "--quiet", "rules", **s3.env)
        told = "s3://lab/images/other.nii.gz does not exist; correct the path"
        assert told in absent.stdout + absent.stderr
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
