"""A change runs again what depends on it, and nothing else: dry runs over a finished run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import running
import tifffile

pytestmark = pytest.mark.slow

AFTER_REGISTRATION = {
    "transform_labels", "transform_volume", "sum_regions", "measure_regions", "mesh_labels",
    "score_registration", "assess_registration", "draw_regions", "draw_fiducials", "draw_brain",
    "make_slices", "write_neuroglancer_state", "make_report", "finish_pyramid", "finalize_volume",
}  # fmt: skip
FROM_POSE = {"find_pose", "preview_alignment", "register"} | AFTER_REGISTRATION
PIXELS = {"sum_tiles", "estimate_steps", "measure_displacements", "fuse_blocks", "draw_flatfield"}
TILES = PIXELS | {"index_acquisition", "estimate_flatfield", "import_tiles", "place_tiles"}


@pytest.fixture
def copy(finished, tmp_path):
    return running.copy_of(finished, type(finished)(tmp_path / "copy"))


@pytest.fixture
def own_code(finished, tmp_path):
    """A copy of the run with a copy of the workflow's code."""
    return running.copy_of(finished, type(finished)(tmp_path / "own", own_code=True))


def plane(workspace, channel=1):
    pattern = f"*CHN{channel:02d}_PLN*"
    return sorted((workspace.folder / "demo/raw").rglob(pattern))[0]


def test_a_copy_has_nothing_to_do_wherever_it_and_its_code_lie(copy, own_code):
    assert running.planned(own_code) == {}


# ---------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("over", "jobs"),
    [
        ({"registration__regularisation": 0.1}, {"register"} | AFTER_REGISTRATION),
        ({"registration__pose": {"extent": "whole"}}, FROM_POSE),
        # what a registration that stops for its sake advises
        ({"input__orientation_confirmed": True}, {"register"} | AFTER_REGISTRATION),
        (
            {"report__thresholds": {"stitching.residual_p95_vox": {"warn": 1}}},
            {"assess_registration", "draw_brain", "make_report"},
        ),
        (
            {"labels__mesh_resolution_um": 100},
            {"mesh_labels", "write_neuroglancer_state", "make_report"},
        ),
        ({"atlas_space__enabled": False}, {"make_report"}),
    ],
)  # fmt: skip
def test_a_parameter(copy, over, jobs):
    running.configure(copy, **over)
    planned = running.planned(copy)
    assert set(planned) == jobs
    # those of the labels and of the channels in the atlas, not of the sample's volumes
    assert planned.get("finalize_volume", 0) in (0, 3)


def test_a_parameter_of_the_bias_field_leaves_the_fused_volume_alone(copy):
    running.configure(copy, intensity__bias={"resolution_um": 300.0})
    planned = running.planned(copy)
    assert {"estimate_bias_field", "correct_volume"} | FROM_POSE <= planned.keys()
    assert planned["finalize_volume"] == 5, "corrected, labels, channels in the atlas; not fused"
    assert not planned.keys() & (TILES | {"init_volume", "fuse_blocks"})


def test_options_of_the_flatfield_alone_read_no_tile_again(copy):
    running.configure(copy, intensity__flatfield={"degree": 6})
    planned = running.planned(copy)
    assert {"estimate_flatfield", "refine_flatfield", "fuse_blocks"} <= planned.keys()
    assert not planned.keys() & {"index_acquisition", "sum_tiles"}


def test_a_flatfield_of_the_users_is_checked_first_and_followed(copy):
    path = copy.folder / "flat.tif"
    tifffile.imwrite(path, np.ones((5, 6), np.float32))
    running.configure(copy, intensity__flatfield={"method": "image", "image": str(path)})
    done = copy.snakemake("--cores", "1", "results/demo/inputs.json")
    assert done.returncode != 0 and "has shape (5, 6) but the tiles" in done.stderr
    shape = json.loads((copy.folder / "results/demo/acquisition.json").read_text())["tile_shape"]
    tifffile.imwrite(path, np.ones(shape[1:], np.float32))
    target = "results/demo/intensity/ch0/nominal/flatfield.json"
    done = copy.snakemake("--cores", "1", "results/demo/inputs.json", target)
    assert done.returncode == 0, done.stderr
    assert running.planned(copy, target) == {}
    path.unlink()
    tifffile.imwrite(path, np.full(shape[1:], 2, np.float32))
    assert "estimate_flatfield" in running.planned(copy, target)


def test_threads_change_no_result(copy):
    running.configure(copy, jobs__threads=2)
    assert set(running.planned(copy)) <= {"make_report"}


# ---------------------------------------------------------------- input
def test_a_changed_plane_runs_what_reads_that_channel_and_no_more(copy):
    running.replace(plane(copy), plane(copy, channel=0).read_bytes())
    planned = running.planned(copy)
    once = (
        "sum_placed_tiles", "refine_flatfield", "fuse_blocks", "correct_volume", "transform_volume",
    )  # fmt: skip
    assert [planned[name] for name in once] == [1] * 5, "of channel 1 alone"
    assert {"measure_regions", "make_report"} <= planned.keys()
    # channel 0 is the one that is aligned and registered
    assert not planned.keys() & {"index_acquisition", "sum_tiles", "place_tiles", "register"}


def test_a_plane_written_again_with_the_same_content_counts_as_changed(copy):
    """Size and time stand for the content: hashing terabytes at each start is not an option."""
    path = plane(copy, channel=0)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert running.planned(copy).keys() >= PIXELS


def test_a_plane_that_is_gone_is_noticed_by_the_index(copy):
    plane(copy).unlink()
    assert running.planned(copy).keys() >= TILES


def test_changed_metadata_run_everything_and_touched_metadata_nothing(copy):
    path = copy.folder / "demo/raw/Experiment.ini"
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text)
    assert running.planned(copy) == {}
    running.replace(path, text + b"\n")
    assert running.planned(copy).keys() >= TILES


def test_fiducials_run_their_score_again(copy):
    path = copy.folder / "demo/fiducials/sample.csv"
    lines = path.read_text().splitlines()
    running.replace(path, "\n".join(lines[:-1]).encode() + b"\n")
    planned = running.planned(copy)
    assert set(planned) == {
        "check_inputs", "score_registration", "draw_fiducials", "write_neuroglancer_state",
        "make_report",
    }  # fmt: skip


# ---------------------------------------------------------------- code
def test_comments_count_for_nothing_and_code_for_what_runs_it(own_code):
    path = own_code.folder / "workflow/scripts/terareg/registration/pose.py"
    text = path.read_text()
    path.write_text(text.replace("\n\n\n", "\n\n\n# a remark\n\n", 1))
    assert running.planned(own_code) == {}
    path.write_text(text + "\nUNUSED = 1\n")
    assert set(running.planned(own_code)) == FROM_POSE


def test_code_of_pictures_runs_pictures_and_reports_alone(own_code):
    path = own_code.folder / "workflow/scripts/terareg/views/customary.py"
    path.write_text(path.read_text() + "\nUNUSED = 1\n")
    planned = running.planned(own_code)
    assert {"preview_alignment", "assess_registration", "make_report"} <= planned.keys()
    drawn = ("draw_", "make_", "preview_", "first_look", "assess_", "write_neuroglancer")
    assert [name for name in planned if not name.startswith(drawn)] == []


def test_code_of_the_stitching_leaves_the_index_and_the_flatfields_alone(own_code):
    path = own_code.folder / "workflow/scripts/terareg/stitching/terastitcher/reading.py"
    path.write_text(path.read_text() + "\nUNUSED = 1\n")
    planned = running.planned(own_code)
    assert {"check_inputs", "import_tiles", "place_tiles", "fuse_blocks"} <= planned.keys()
    assert not planned.keys() & {"index_acquisition", "sum_tiles", "estimate_flatfield"}


def test_a_remark_in_a_script_counts_for_nothing(own_code):
    path = own_code.folder / "workflow/scripts/register.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    assert running.planned(own_code) == {}


def test_code_of_the_bias_field_leaves_the_fused_volume_alone(own_code):
    path = own_code.folder / "workflow/scripts/terareg/intensity/bias.py"
    path.write_text(path.read_text() + "\nUNUSED = 1\n")
    planned = running.planned(own_code)
    assert {"estimate_bias_field", "correct_volume", "register"} <= planned.keys()
    assert not planned.keys() & (TILES | {"init_volume", "fuse_blocks"})


# ---------------------------------------------------------------- flags and lost files
def test_forcing_a_rule_forces_what_follows(copy):
    assert set(running.planned(copy, "-R", "register")) == {"register"} | AFTER_REGISTRATION


@pytest.mark.parametrize(
    ("lost", "jobs"),
    [
        ("report.html", {"make_report"}),
        ("regions/phantom.tsv", {"measure_regions", "draw_regions", "make_report"}),
        (
            "labels/phantom/meshes.json",
            {"mesh_labels", "write_neuroglancer_state", "make_report"},
        ),
        ("registration/phantom/transform.json", {"register"} | AFTER_REGISTRATION),
    ],
)
def test_a_lost_file_comes_back_with_what_follows_from_it(copy, lost, jobs):
    (copy.folder / "results/demo" / lost).unlink()
    assert set(running.planned(copy)) == jobs


def test_a_lost_volume_of_one_channel_leaves_the_registration_of_the_other_alone(copy):
    (copy.folder / "results/demo/corrected_volume/ch1/complete.json").unlink()
    planned = running.planned(copy)
    assert planned["finalize_volume"] == 2, "of the channel, in the sample and in the atlas"
    assert "measure_regions" in planned and "register" not in planned
