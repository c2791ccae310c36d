"""Targets ask for what the configuration of each sample calls for, and for nothing else."""

from __future__ import annotations

import pytest
from planned_samples import run_of, scan

from terareg.execution import targets

SIDES = {"mouse": {"sample": "s.csv", "atlas": "a.csv"}}


def names_of(files: list[str]) -> set[str]:
    """Files without the folder of the sample; each is asked for once."""
    assert len(files) == len(set(files))
    return {path.split("/", 2)[2] for path in files}


def all_of(workspace, **over) -> set[str]:
    return names_of(targets.all_files(run_of(workspace, workspace.sample(**over)), "brain"))


def test_everything_of_tiles(workspace):
    found = all_of(workspace)
    for name in ("stitching/xml_merging.xml", "fused/signal/complete.json", "report.html",
                 "corrected_volume/signal/complete.json", "registration/mouse/transform.json",
                 "regions/mouse.tsv", "atlas_space/mouse/signal/complete.json"):  # fmt: skip
        assert name in found
    assert not [name for name in found if name.startswith(("accuracy", "overlap", "points"))]


@pytest.mark.parametrize(
    ("over", "more", "less"),
    [
        ({"intensity": {"bias": {"enabled": False}}}, set(),
         {f"corrected_volume/{c}/complete.json" for c in ("autofluorescence", "signal")}),
        ({"intensity": {"corrected_tiles": "temporary"}},
         {f"corrected/{c}/dropped.json" for c in ("autofluorescence", "signal")}, set()),
        ({"atlas_space": {"enabled": False}}, set(),
         {f"atlas_space/mouse/{c}/complete.json" for c in ("autofluorescence", "signal")}),
        ({"registration": {"export": True}},
         {"registration/mouse/itk/sample_to_atlas_composite.tfm"}, set()),
        ({"fiducials": SIDES}, {"accuracy/mouse.tsv"}, set()),
        ({"sample_labels": {"mouse": {"path": "l.nrrd"}}}, {"overlap/mouse.tsv"}, set()),
        ({"points": {"cells": {"path": "c.csv", "atlas": "mouse"}}},
         {"points/cells.csv", "points/cells.tsv"}, set()),
        ({"cells": {"cfos": {"channel": "signal", "diameter_um": 10}}},
         {"cells/cfos.csv", "cells/cfos/mouse/regions.tsv"}, set()),
        ({"intensity": {"destriping": "rows"}}, set(), set()),
        ({"stitching": {"channel_shift": "none"}}, set(), {"stitching/channels/signal.json"}),
        ({"stitching": {"channel": "signal"}}, {"stitching/channels/autofluorescence.json"},
         {"stitching/channels/signal.json"}),
    ],
)  # fmt: skip
def test_an_option_adds_or_removes_its_own_files_alone(workspace, over, more, less):
    usual, other = all_of(workspace), all_of(workspace, **over)
    assert (other - usual, usual - other) == (more, less)


def test_a_sample_with_one_channel_has_no_job_for_its_shift(workspace):
    found = all_of(workspace, input__channels={"autofluorescence": 0})
    assert not [name for name in found if name.startswith("stitching/channels")]


def test_without_an_atlas_nothing_of_one_is_asked_for(workspace):
    found = all_of(workspace, atlases={})
    assert "fused/signal/complete.json" in found and "report.html" in found
    assert not [name for name in found if "mouse" in name or name.startswith("regions")]


def test_a_volume_has_nothing_of_tiles(workspace):
    run = run_of(workspace, scan(workspace))
    assert targets.flatfield_files(run, "scan") == targets.stitching_files(run, "scan") == []
    found = names_of(targets.all_files(run, "scan"))
    found |= names_of(targets.reported_files(run, "scan"))
    assert "fused/t1/complete.json" in found
    of_tiles = ("stitching", "intensity", "corrected/", "views/flatfield", "views/seams")
    assert not [name for name in found if name.startswith(of_tiles)]


@pytest.mark.parametrize(("kind", "kept"), [("stream", False), ("keep", True)])
def test_corrected_tiles_are_a_target_where_they_are_files(workspace, kind, kept):
    run = run_of(workspace, workspace.sample(intensity={"corrected_tiles": kind}))
    found = names_of(targets.flatfield_files(run, "brain"))
    assert "intensity/signal/flatfield.tif" in found
    assert any(name.startswith("corrected/signal/batches/") for name in found) is kept


def test_stripes_are_a_target_and_in_the_report_where_they_are_removed(workspace):
    for destriping in ("none", "columns"):
        run = run_of(workspace, workspace.sample(intensity={"destriping": destriping}))
        wanted = destriping != "none"
        made = names_of(targets.flatfield_files(run, "brain"))
        shown = names_of(targets.reported_files(run, "brain"))
        assert ("intensity/signal/stripes.json" in made) is wanted
        assert {"intensity/signal/stripes.json", "views/stripes_signal.png"} <= shown or not wanted
        assert ("views/stripes_signal.png" in shown) is wanted


def test_every_volume_that_is_made_can_be_verified(workspace):
    run = run_of(workspace, workspace.sample())
    made = names_of(targets.all_files(run, "brain"))
    volumes = {n.removesuffix("/complete.json") for n in made if n.endswith("/complete.json")}
    assert {"fused/signal", "corrected_volume/signal", "atlas_space/mouse/signal"} <= volumes
    verified = names_of(targets.verified_files(run, "brain"))
    wanted = {f"{volume}/verified.json" for volume in volumes}
    assert verified == wanted | {"labels/mouse/objects_verified.json"}


def test_parts_of_the_work_are_parts_of_the_whole(workspace):
    run = run_of(workspace, workspace.sample(fiducials=SIDES, registration={"export": True}))
    whole = set(targets.all_files(run, "brain"))
    for part in (targets.stitching_files, targets.fused_files, targets.corrected_volume_files,
                 targets.registration_files, targets.scores, targets.region_files):  # fmt: skip
        files = part(run, "brain")
        assert files and set(files) <= whole, part.__name__


def test_the_report_shows_scores_where_there_are_some(workspace):
    for over, there in (({}, False), ({"fiducials": SIDES}, True)):
        run = run_of(workspace, workspace.sample(**over))
        shown = names_of(targets.reported_files(run, "brain"))
        assert ("views/fiducials_mouse.png" in shown) is there
        assert ("accuracy/mouse.tsv" in shown) is there
        assert {"registration/mouse/preview.png", "views/neuroglancer.json"} <= shown


def test_previews_come_before_any_registration(workspace):
    run = run_of(workspace, workspace.sample())
    assert targets.preview_files(run, "brain") == [
        "results/brain/views/first_look_mouse.png",
        "results/brain/registration/mouse/preview.png",
    ]


def test_a_volume_is_looked_at_first_too(workspace):
    config = workspace.sample()
    config["input"] = {"kind": "volume", "orientation": "SAR", "channels": {"t1": {"path": "a"}}}
    run = run_of(workspace, config)
    looks = ["results/brain/views/first_look_mouse.png"]
    previews = ["results/brain/registration/mouse/preview.png"]
    assert targets.preview_files(run, "brain") == looks + previews
    assert set(looks) <= set(targets.reported_files(run, "brain"))
