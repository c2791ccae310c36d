"""What is known of raw data when the workflow is loaded: their state, where they lie."""

from __future__ import annotations

import os

import numpy as np
import pytest
from colm_stub import write_linked_planes
from planned_samples import run_of, scan
from plate_files import write_plate
from web_server import serving

from terareg.core.errors import ConfigError, TeraregError
from terareg.execution import inputs, raw_data


@pytest.fixture
def config(workspace) -> dict:
    """A stored acquisition of 2 x 2 tiles, 3 planes, 2 channels."""
    config = workspace.sample(grid=(2, 2), planes=3)
    write_linked_planes(workspace.folder / "raw-brain", 2, 2, pixels=16, planes=3)
    return config


def states(workspace, config) -> dict[str, str]:
    """Digests as a newly loaded workflow has them."""
    run = run_of(workspace, config)
    found = {channel: raw_data.raw_state(run, "brain", channel) for channel in run.channels}
    return found | {"layout": raw_data.raw_layout(run, "brain")}


def plane(workspace, channel: int):
    return workspace.folder / f"raw-brain/VW0/LOC002/CHN{channel:02d}_PLN0001.tif"


def test_nothing_changes_where_nothing_has_changed(workspace, config):
    assert states(workspace, config) == states(workspace, config)


def test_another_time_of_a_plane_counts_for_its_channel_alone(workspace, config):
    before = states(workspace, config)
    data = plane(workspace, 1).read_bytes()
    plane(workspace, 1).unlink()
    plane(workspace, 1).write_bytes(data)
    os.utime(plane(workspace, 1), (1, 1))
    after = states(workspace, config)
    assert {k for k in before if before[k] != after[k]} == {"signal"}


def test_another_size_counts_for_the_layout_too(workspace, config):
    before = states(workspace, config)
    data = plane(workspace, 0).read_bytes()
    plane(workspace, 0).unlink()
    plane(workspace, 0).write_bytes(data + b"\0")
    after = states(workspace, config)
    assert {k for k in before if before[k] != after[k]} == {"autofluorescence", "layout"}


def test_a_lost_plane_counts_for_the_layout(workspace, config):
    before = states(workspace, config)
    plane(workspace, 0).unlink()
    after = states(workspace, config)
    assert {k for k in before if before[k] != after[k]} == {"autofluorescence", "layout"}


def test_the_state_of_the_aligned_channel_is_that_of_the_channel(workspace, config):
    run = run_of(workspace, config | {"stitching": {"channel": "signal"}})
    expected = raw_data.raw_state(run, "brain", "signal")
    assert raw_data.alignment_raw_state(run, "brain") == expected


def test_files_that_snakemake_can_see_are_named_and_others_are_not(workspace, config):
    source = config["input"]["path"]
    run = run_of(workspace, config)
    names = {f"{source}/{name}" for name in ("Experiment.ini", "Scanned Cells.txt")}
    assert set(raw_data.metadata_files(run, "brain")) == names
    assert raw_data.raw_addresses(run, "brain") == source
    config["input"]["path"] = "s3://brains/raw"
    assert raw_data.metadata_files(run_of(workspace, config), "brain") == []


def test_metadata_that_snakemake_cannot_follow_have_a_state(workspace, config):
    raw = workspace.folder / "raw {x}"
    (workspace.folder / "raw-brain").rename(raw)
    config["input"]["path"] = str(raw)
    run = run_of(workspace, config)
    assert raw_data.metadata_files(run, "brain") == []
    before = raw_data.metadata_state(run, "brain")
    assert [path for path, _, _ in before] == [
        f"{raw}/Experiment.ini", f"{raw}/Scanned Cells.txt",
    ]  # fmt: skip
    with open(raw / "Experiment.ini", "a") as stream:
        stream.write("\n")
    assert raw_data.metadata_state(run, "brain") != before


def test_what_is_wrong_names_its_sample(workspace, config):
    (workspace.folder / "raw-brain/Experiment.ini").unlink()
    with pytest.raises(TeraregError, match=r"^sample brain: there is no Experiment\.ini in "):
        raw_data.check(run_of(workspace, config))
    volume = scan(workspace)
    (workspace.folder / "scan.nii").write_bytes(b"no image")
    with pytest.raises(TeraregError, match=r"^sample scan: .*scan"):
        raw_data.check(run_of(workspace, volume))


def test_voxels_are_those_of_metadata_or_header(workspace, config):
    run = run_of(workspace, config, scan(workspace))
    raw_data.check(run)
    assert raw_data.spacing_um(run, "brain")[0] == pytest.approx(5.0)
    assert raw_data.spacing_um(run, "scan") == pytest.approx((30, 20, 10))
    assert raw_data.image_headers(run, "scan")["t1"].shape == (3, 4, 5)


# ---------------------------------------------------------------- volumes
def test_an_image_of_two_channels_is_one_file(workspace):
    config = scan(workspace)
    path = config["input"]["channels"]["t1"]
    config["input"]["channels"]["again"] = {"path": path, "channel": 1}
    run = run_of(workspace, config)
    assert raw_data.sample_images(run, "scan") == [path]
    assert raw_data.raw_addresses(run, "scan") == {"t1": path, "again": path}
    state = raw_data.sample_state(run, "scan")
    assert state["t1"] == state["again"] == raw_data.channel_state(run, "scan", "t1")


def test_the_first_look_follows_the_image_of_the_channel_that_finds_the_pose(workspace, config):
    over = scan(workspace)
    path = over["input"]["channels"]["t1"]
    over["input"]["channels"]["t2"] = {"path": path, "channel": 1}
    over["registration"] = {"channel": "t2"}
    run = run_of(workspace, config, over)
    expected = {"path": path, "channel": 1, "fill_missing": False}
    assert raw_data.pose_image(run, "scan") == expected
    assert raw_data.pose_files(run, "scan") == [path]
    assert raw_data.pose_raw_state(run, "scan") == raw_data.channel_state(run, "scan", "t2")
    assert raw_data.pose_image(run, "brain") is None and raw_data.pose_files(run, "brain") == []


def test_outlines_and_illumination_of_sites_are_of_plates_alone(workspace):
    config = scan(workspace) | {
        "export": {"page": {"from": "fused/t1", "format": "pyramid_8bit", "outlines": True}}
    }
    told = r"scan: export\.page\.outlines: the input is a volume, which has neither tiles nor wells"
    with pytest.raises(ConfigError, match=told):
        raw_data.check(run_of(workspace, config))
    page = config["export"]["page"]
    page |= {"outlines": False, "illumination": "log_statistics"}
    with pytest.raises(ConfigError, match="illumination: the input is a volume, which has no"):
        raw_data.check(run_of(workspace, config))
    wells = {"B/2": [np.ones((9, 8), np.uint16)] * 2}
    plate = write_plate(workspace.folder / "plate", wells, axes="yx")
    config["input"] |= {"channels": {"t1": str(plate)}, "spacing_um": None}
    run = run_of(workspace, config)
    raw_data.check(run)
    assert raw_data.image_headers(run, "scan")["t1"].shape == (1, 9, 16)
    assert inputs.export_source(run, "scan", "page")["index"].endswith("scan/input.json")
    page |= {"outlines": True, "illumination": "none"}
    run = run_of(workspace, config)
    raw_data.check(run)
    assert inputs.export_source(run, "scan", "page")["index"].endswith("scan/input.json")


def test_a_local_image_is_refused_where_jobs_see_no_local_files(workspace):
    config = scan(workspace) | {"store": "s3://brains/volumes"}
    run = run_of(workspace, config, remote="s3://brains/terareg")
    with pytest.raises(ConfigError, match=r"sample scan: channel t1: .*scan\.nii is a local path"):
        raw_data.image_address(run, "scan", "t1")
    for address in ("s3://lab/scan.nii", "https://lab.org/scan.nii"):
        config["input"]["channels"]["t1"] = address
        run = run_of(workspace, config, remote="s3://brains/terareg")
        assert raw_data.image_address(run, "scan", "t1") == address


def test_an_image_on_the_web_is_described_and_followed_like_a_file(workspace):
    config = scan(workspace)
    with serving(workspace.folder) as url:
        config["input"]["channels"]["t1"] = f"{url}/scan.nii"

        def state() -> str:
            run = run_of(workspace, config)
            raw_data.source_state.cache_clear()
            assert raw_data.image_headers(run, "scan")["t1"].shape == (3, 4, 5)
            assert raw_data.sample_images(run, "scan") == [], "nothing that Snakemake could follow"
            return raw_data.channel_state(run, "scan", "t1")

        before = state()
        assert state() == before
        os.utime(workspace.folder / "scan.nii", (1, 1))
        assert state() != before
        config["input"]["channels"]["t1"] = f"{url}/none.nii"
        with pytest.raises(
            TeraregError, match=r"^sample scan: .*none\.nii does not exist; correct"
        ):
            raw_data.check(run_of(workspace, config))
