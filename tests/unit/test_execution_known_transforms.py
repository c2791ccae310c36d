"""Known transforms between atlases: frames of their folders are compared at load."""

from __future__ import annotations

import json

import pytest
from planned_samples import run_of

from terareg.core.errors import ConfigError
from terareg.execution.known_transforms import check

FRAME = {"shape": [40] * 3, "spacing_um": [250.0] * 3, "origin_um": [0.0] * 3}
DIRECTION = "x_sample = affine @ phi(x_atlas)"


def run_with(workspace, transform="known", **more):
    brain = workspace.sample("brain")
    through = {"atlas": "mouse", "transform": transform, "points_from": "ccf"} | more
    brain["atlases"]["ccf"] = brain["atlases"]["mouse"] | {"through": through}
    brain["atlases"]["ccf"]["orientation"] = "SAR"
    return run_of(workspace, brain)


@pytest.fixture
def folder(workspace, monkeypatch):
    """A registration of ccf (SAR) to mouse, in its folder."""
    monkeypatch.chdir(workspace.folder)
    path = workspace.folder / "known"
    path.mkdir()
    return path


def describe(folder, run, turned=False):
    codes = ["SAR", run.atlas("mouse")["orientation"]]
    frames = [FRAME | {"orientation": code} for code in (codes[::-1] if turned else codes)]
    described = {"direction": DIRECTION, **dict(zip(("atlas_frame", "sample_frame"), frames))}
    (folder / "transform.json").write_text(json.dumps(described))


def test_frames_that_are_those_of_the_two_atlases_pass(workspace, folder):
    run = run_with(workspace)
    assert run.atlas("mouse")["orientation"] != "SAR"
    describe(folder, run)
    check(run)
    describe(folder, run, turned=True)
    check(run_with(workspace, points_from="mouse"))


def test_a_transform_the_other_way_round_is_told_with_the_remedy(workspace, folder):
    run = run_with(workspace)
    describe(folder, run, turned=True)
    words = r"atlases\.ccf\.through\.transform: known.* set points_from: mouse"
    with pytest.raises(ConfigError, match=words):
        check(run)


@pytest.mark.parametrize("text", ["[", "{}", '{"direction": 3}', "[1]"])
def test_what_is_no_description_is_refused(workspace, folder, text):
    (folder / "transform.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^atlases\.ccf\.through\.transform: "):
        check(run_with(workspace))


def test_files_of_other_programs_are_left_to_the_first_job(workspace, folder):
    check(run_with(workspace, transform=["a.mat", "b.nii.gz"]))
