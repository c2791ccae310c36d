"""What a run knows of its samples."""

from __future__ import annotations

import pytest
from planned_samples import run_of, scan

from terareg.core.errors import ConfigError
from terareg.execution.run import Run, load_run

REMOTE = "s3://brains/terareg"
ON_S3 = {"input__path": "s3://brains/raw", "store": "s3://brains/terareg-volumes"}


@pytest.fixture
def run(workspace) -> Run:
    """Tiles of two channels and two atlases, and a volume that shares one of these."""
    brain = workspace.sample("brain", points={"cells": {"path": "c.csv", "atlas": "mouse"}})
    brain["atlases"]["rat"] = brain["atlases"]["mouse"] | {"images": {"nissl": "n.nrrd"}}
    brain["fiducials"] = {"rat": {"sample": "s.csv", "atlas": "a.csv"}}
    return run_of(workspace, brain, scan(workspace, intensity__bias={"enabled": False}))


def test_names_of_all_samples_are_each_there_once(run):
    assert (run.tiled, run.imported) == (["brain"], ["scan"])
    assert run.channels == ["autofluorescence", "signal", "t1"]
    assert (run.atlases, run.atlas_images, run.points) == (["mouse", "rat"], ["nissl"], ["cells"])


def test_files_lie_below_the_results_and_the_sample(run):
    assert run.path("brain", "report.html") == "results/brain/report.html"
    assert run.atlas_path("rat", "atlas.json") == "results/atlases/rat/atlas.json"
    expected = [f"results/brain/bias/{c}.json" for c in ("autofluorescence", "signal")]
    assert run.of_channels("brain", "bias/{channel}.json") == expected
    expected = [f"results/brain/regions/{a}.tsv" for a in ("mouse", "rat")]
    assert run.of_atlases("brain", "regions/{atlas}.tsv") == expected
    assert run.of_atlases("brain", "accuracy/{atlas}.tsv", ["rat"]) == [
        "results/brain/accuracy/rat.tsv"
    ]


def test_an_atlas_is_shared_by_the_samples_that_name_it(run):
    assert run.users_of("mouse") == ["brain", "scan"] and run.users_of("rat") == ["brain"]
    assert run.atlas("mouse")["annotation"] == "atlas/annotation.nrrd"


def test_one_name_for_two_atlases_is_refused(workspace):
    other = workspace.sample("other", atlases__mouse__orientation="SAR")
    run = run_of(workspace, workspace.sample("brain"), other)
    with pytest.raises(ConfigError, match="atlas 'mouse' is described differently in two samples"):
        run.atlas("mouse")


def test_a_section_counts_for_registered_atlases_only(workspace, run):
    assert run.atlases_with("brain", "fiducials") == ["rat"]
    brain = dict(run.samples["brain"])
    brain["registration"] = brain["registration"] | {"atlases": ["mouse"]}
    chosen = Run({"brain": brain})
    assert chosen.registered_atlases("brain") == ["mouse"]
    assert chosen.atlases_with("brain", "fiducials") == []


def test_an_atlas_may_be_reached_through_another_one(workspace, run):
    brain = workspace.sample("brain")
    through = {"atlas": "mouse", "transform": "known.tfm", "points_from": "ccf"}
    brain["atlases"]["ccf"] = brain["atlases"]["mouse"] | {"through": through}
    brain["fiducials"] = {"ccf": {"sample": "s.csv", "atlas": "a.csv"}}
    both = run_of(workspace, brain)
    assert both.atlases_of("brain") == ["mouse", "ccf"] and both.composed_atlases == ["ccf"]
    assert both.registered_atlases("brain") == ["mouse"]
    assert (both.registered_for("ccf"), both.registered_for("mouse")) == ("mouse", "mouse")
    assert both.atlases_with("brain", "fiducials") == ["ccf"]
    assert both.of_atlases("brain", "regions/{atlas}.tsv")[-1].endswith("ccf.tsv")
    assert run.composed_atlases == [] and run.registered_atlases("brain") == ["mouse", "rat"]


@pytest.mark.parametrize(
    ("over", "aligned", "registered"),
    [
        ({}, "autofluorescence", ["autofluorescence"]),
        ({"stitching__channel": "signal"}, "signal", ["signal"]),
        ({"stitching__channel": "signal", "registration": {"channel": "autofluorescence"}},
         "signal", ["autofluorescence"]),
        ({"registration": {"channel": ["signal", "autofluorescence"]}},
         "autofluorescence", ["signal", "autofluorescence"]),
    ],
)  # fmt: skip
def test_channels_that_are_aligned_and_registered(workspace, over, aligned, registered):
    run = run_of(workspace, workspace.sample(**over))
    assert run.alignment_channel("brain") == aligned
    assert run.registration_channels("brain") == registered


def test_later_stages_read_the_volume_without_bias_where_there_is_one(run):
    assert run.measured_volume("brain") == "corrected_volume"
    assert run.measured_volume("scan") == "fused"


def test_an_option_is_found_by_its_dotted_path(run):
    assert run.option("scan", "intensity.bias.enabled") is False
    with pytest.raises(KeyError):
        run.option("scan", "intensity.bias.absent")


def test_a_wrong_threshold_of_the_report_names_its_sample(workspace):
    thresholds = {"stitching.no_such_number": {"warn": 1}}
    with pytest.raises(ConfigError, match=r"sample brain: .*no_such_number"):
        load_run(workspace.sample(report={"thresholds": thresholds}))


# ---------------------------------------------------------------- machines that share no files
def test_data_on_s3_beside_the_tracked_files_can_be_reached(workspace):
    run = run_of(workspace, workspace.sample(**ON_S3), remote=REMOTE)
    assert run.remote == REMOTE


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"store": "results"}, "sample brain: store: results is a local folder, which jobs on"),
        ({"input__path": "raw"}, "sample brain: input.path: raw is a local folder, which jobs on"),
        ({"store": f"{REMOTE}/volumes"}, "lies among the tracked files in s3://brains/terareg,"),
        ({"store": REMOTE}, "lies among the tracked files in s3://brains/terareg,"),
    ],
)
def test_what_other_machines_cannot_reach_is_refused_for_them_alone(workspace, over, words):
    config = workspace.sample(**ON_S3 | over)
    assert load_run(config).remote is None
    for prefix in (REMOTE, f"{REMOTE}/"):
        with pytest.raises(ConfigError) as error:
            load_run(config, prefix)
        assert words in str(error.value)
