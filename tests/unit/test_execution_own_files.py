"""Files of the user: where the configuration says, or copied where Snakemake cannot follow them."""

from __future__ import annotations

import json

import pytest
from planned_samples import run_of, scan

from terareg.core.errors import ConfigError
from terareg.execution import inputs, own_files, sizing
from terareg.execution.rule_table import jobs_of_rules

#: a file of the user at every place of the configuration that takes one, beside the raw data
OWN = {
    "stitching": {"xml": {"xml_displcomp": "own.xml"}, "tile_configuration": "own.txt"},
    "intensity": {"flatfield": {"method": "image", "image": "flat.tif"}},
    "fiducials": {"mouse": {"sample": "fs.csv", "atlas": "fa.csv"}},
    "points": {"cells": {"path": "cells.csv", "atlas": "mouse"}},
    "sample_labels": {"mouse": {"path": "own.nrrd"}},
    "registration": {"landmarks": {"mouse": {"sample": "ls.csv", "atlas": "la.csv"}}},
}
FILES = {"own.xml", "own.txt", "flat.tif", "fs.csv", "fa.csv", "cells.csv", "own.nrrd", "ls.csv",
         "la.csv"}  # fmt: skip


@pytest.fixture
def plain(workspace):
    return run_of(workspace, workspace.sample(), scan(workspace))


@pytest.fixture
def own(workspace):
    return run_of(workspace, workspace.sample(**OWN))


def test_every_file_of_the_user_is_named_and_checked(own, plain):
    assert set(own_files.own_files(own, "brain")) == FILES
    told = str(inputs.checked_settings(own, "brain"))
    assert [name for name in FILES if name not in told] == []
    assert own_files.own_files(plain, "brain") == own_files.own_files(plain, "scan") == []


def test_rules_find_each_file_of_the_user_where_it_is_wanted(own, plain):
    assert own_files.own_xml(own, "brain", "xml_displcomp") == ["own.xml"]
    assert own_files.own_xml(own, "brain", "xml_merging") == []
    assert own_files.own_tile_configuration(own, "brain") == ["own.txt"]
    assert own_files.own_profile(own, "brain") == ["flat.tif"]
    assert own_files.own_profile(plain, "brain") == []
    assert own_files.user_points(own, "brain", "mouse", "fiducials", "atlas") == "fa.csv"
    assert own_files.marked_points(own, "brain") == ["fs.csv"]
    assert own_files.user_labels_file(own, "brain", "mouse") == ["own.nrrd"]
    assert own_files.point_file(own, "brain", "cells") == "cells.csv"


# ---------------------------------------------------------------- words in braces
@pytest.fixture
def braced(workspace):
    """The same files in a folder that Snakemake takes for a wildcard."""
    (workspace.folder / "{sample} ü").mkdir()
    text = json.dumps(OWN)
    for name in FILES:
        text = text.replace(f'"{name}"', f'"{{sample}} ü/{name}"')
    config = workspace.sample(**json.loads(text))
    config["derived"] = {
        "few": {"do": "remap", "from": "labels/mouse", "table": "{sample} ü/{ids}.csv"}
    }
    return config


def test_tables_that_snakemake_cannot_follow_are_copied(workspace, braced):
    run = run_of(workspace, braced)
    copies = own_files.copied_files(run, "brain")
    assert len(copies) == len(FILES) - 1 + 1, "the labels are an image; the derived table counts"
    given = own_files.own_xml(run, "brain", "xml_displcomp")
    given += own_files.own_tile_configuration(run, "brain") + own_files.own_profile(run, "brain")
    for path in given:
        folder, copy = path.rsplit("/", 1)
        assert folder == "results/brain/own" and not set("{} ü") & set(copy)
        assert copies[copy].startswith("{sample} ü/")
    (ids,) = own_files.derived_own_files(run, "brain", "few")
    assert ids.endswith("-ids-.csv")
    assert own_files.copied_file(run, "brain", ids.rsplit("/", 1)[1]) == "{sample} ü/{ids}.csv"
    assert own_files.names_of_copies(run) == sorted(copies)
    followed = own_files.followed_tables(run, "brain")
    assert len(followed) == len(own_files.own_tables(run, "brain")) == len(FILES) - 1


def test_a_change_of_a_copied_file_is_seen(workspace, braced):
    run = run_of(workspace, braced)
    copy = own_files.point_file(run, "brain", "cells").rsplit("/", 1)[1]
    before = own_files.copied_state(run, "brain", copy)
    (workspace.folder / "{sample} ü/cells.csv").write_text("z_um,y_um,x_um\n")
    assert own_files.copied_state(run, "brain", copy) != before
    assert own_files.user_labels_file(run, "brain", "mouse") == []
    (state,) = own_files.user_labels_state(run, "brain", "mouse")
    assert state[0] == "{sample} ü/own.nrrd" and own_files.labels_state(run, "brain") == [state]
    assert own_files.followed_labels(run, "brain") == []


def test_plans_count_the_copies(workspace):
    points = {"cells": {"path": "{x}.csv", "atlas": "mouse"}}
    run = run_of(workspace, scan(workspace, points=points))
    assert jobs_of_rules(sizing.sized(run, "scan"))["copy_own_file"] == 1


def test_other_machines_cannot_copy(workspace, braced):
    run = run_of(workspace, braced)
    elsewhere = type(run)(run.samples, "s3://bucket/prefix")
    copy = next(iter(own_files.copied_files(run, "brain")))
    with pytest.raises(ConfigError, match=r"a word in braces, which Snakemake takes.*; rename the"):
        own_files.copied_file(elsewhere, "brain", copy)
