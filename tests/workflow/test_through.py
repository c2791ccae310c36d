"""An atlas that the sample reaches through another one: jobs, labels, points, report, viewer."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
from running import job_counts
from test_volume_input import toy_brain, write_nifti

from terareg.storage.records import read_table
from terareg.storage.store import Store
from terareg.volumes.reader import Volume

# voxels z, y, x by which the light-sheet template lies further than the atlas of labels
SHIFT = (2, -1, 1)
REGISTERED = {"find_pose", "preview_alignment", "register", "assess_registration"}


def through(**over):
    return {"atlas": "lsfm", "transform": "known.tfm", "points_from": "ccf"} | over


def described(workspace, **over):
    """A sample of tiles with an atlas of labels that is reached through a template."""
    config = workspace.sample()
    config["atlases"] = {
        "lsfm": config["atlases"]["mouse"],
        "ccf": config["atlases"]["mouse"] | {"through": through(**over)},
    }
    (workspace.folder / "known.tfm").touch()
    return config


def dry_run(workspace, config, *arguments):
    workspace.write(config)
    return job_counts(workspace.snakemake("-n", *arguments, "--quiet", "rules"))


def test_only_the_template_is_registered(workspace):
    jobs = dry_run(workspace, described(workspace))
    assert {jobs[name] for name in REGISTERED} == {1} and jobs["first_look"] == 1
    assert jobs["compose_transforms"] == jobs["assess_composition"] == 1
    assert jobs["prepare_atlas"] == jobs["measure_regions"] == jobs["mesh_labels"] == 2
    assert jobs["transform_volume"] == 4, "two channels in two atlases"


def test_what_follows_a_transform_follows_a_composition(workspace):
    config = described(workspace)
    for name in ("c.csv", "s.csv", "a.csv"):
        (workspace.folder / name).touch()
    config |= {
        "points": {"cells": {"path": "c.csv", "atlas": "ccf"}},
        "cells": {"cfos": {"channel": "signal", "diameter_um": 10}},
        "fiducials": {"ccf": {"sample": "s.csv", "atlas": "a.csv"}},
        "registration": {"export": True, "error_bars": True},
        "export": {"fit": {"from": "registration/ccf/match"}, "own": {"from": "labels/ccf"}},
    }
    jobs = dry_run(workspace, config)
    assert jobs["transform_points"] == jobs["score_registration"] == 1
    assert jobs["count_cells"] == jobs["export_transform"] == 2
    assert jobs["export_volume"] == 2 and jobs["estimate_errors"] == jobs["draw_error_bars"] == 1


@pytest.mark.parametrize(
    ("target", "there", "absent"),
    [
        ("previews", "preview_alignment", "compose_transforms"),
        ("registration", "compose_transforms", "transform_labels"),
        ("results/brain/regions/ccf.tsv", "compose_transforms", "assess_composition"),
        ("results/brain/regions/lsfm.tsv", "register", "compose_transforms"),
    ],
)
def test_targets(workspace, target, there, absent):
    jobs = dry_run(workspace, described(workspace), target)
    assert there in jobs and absent not in jobs


def test_a_transform_may_be_several_files_with_braces_in_their_names(workspace):
    names = ["{1}Warp.nii.gz", "0Affine.mat"]
    config = described(workspace, transform=names)
    for name in names:
        (workspace.folder / name).touch()
    assert dry_run(workspace, config)["compose_transforms"] == 1


def registration(workspace, shapes=((40,) * 3, (40,) * 3), codes=("SAR", "SAR")):
    """What a dry run reads of the folder of a registration, and two atlases of 10 mm."""
    config = described(workspace, transform="known", points_from=None)
    for name in ("ccf", "lsfm"):
        files = {key: f"{name}_{key}.nii.gz" for key in ("template", "annotation")}
        for file in files.values():
            write_nifti(workspace.folder / file, np.zeros((40, 40, 40), np.uint16))
        config["atlases"][name] |= files | {"orientation": "SAR"}
    folder = workspace.folder / "known"
    folder.mkdir()
    for name in ("affine.txt", "forward.nrrd", "inverse.nrrd", "summary.json"):
        (folder / name).touch()
    frames = {
        key: {"shape": shape, "spacing_um": [250.0] * 3, "origin_um": [0.0] * 3,
              "orientation": code}
        for key, shape, code in zip(("atlas_frame", "sample_frame"), shapes, codes)
    }  # fmt: skip
    text = {"direction": "x_sample = affine @ phi(x_atlas); ..."} | frames
    (folder / "transform.json").write_text(json.dumps(text))
    return config


def test_a_registration_is_a_known_transform(workspace):
    assert dry_run(workspace, registration(workspace))["compose_transforms"] == 1


def smaller(workspace):
    return registration(workspace, ((20,) * 3, (40,) * 3))


def turned(workspace):
    return registration(workspace, codes=("SAR", "RIP"))


def damaged(workspace):
    config = registration(workspace)
    (workspace.folder / "known/transform.json").write_text("[")
    return config


def unfinished(workspace):
    config = registration(workspace)
    (workspace.folder / "known/inverse.nrrd").unlink()
    return config


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (smaller, "the atlas of this registration is 5 x 5 x 5 mm (z, y, x), not 10 x 10 x 10 mm"),
        (turned, "the sample of this registration has axes RIP, not SAR as in the atlas lsfm"),
        (damaged, "known/transform.json is damaged; give the folder of a registration"),
        (unfinished, "atlases.ccf.through.transform: 'known/inverse.nrrd' does not exist"),
    ],
)
def test_a_registration_of_other_atlases_stops_the_workflow_before_any_job(workspace, make, words):
    workspace.write(make(workspace))
    done = workspace.snakemake("-n")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and words in said, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_labels_points_and_report_come_through_the_template(workspace):
    """The template has the sample's contrast, the atlas of labels an image of nothing alike."""
    values, labels = toy_brain()
    shifted = [np.roll(a, [-n for n in SHIFT], (0, 1, 2)) for a in (values, labels)]
    images = {"lsfm": (values, labels), "ccf": (shifted[1] % 2 * 50 + 20, shifted[1])}
    config = workspace.sample("scan")
    config["atlases"] = {}
    ontology = workspace.folder / "atlas/ontology.csv"
    ontology.write_text("id,acronym,name\n1,B,brain\n2,F,front\n3,L,low\n")
    for name, (template, annotation) in images.items():
        files = {}
        for key, array in (("template", template), ("annotation", annotation)):
            files[key] = f"atlas/{name}_{key}.nii.gz"
            write_nifti(workspace.folder / files[key], array)
        config["atlases"][name] = files | {"ontology": str(ontology), "orientation": "SAR"}
    config["atlases"]["ccf"]["through"] = through()
    # index axes x and y run against those of ITK in these files
    vector = (-0.25 * SHIFT[2], -0.25 * SHIFT[1], 0.25 * SHIFT[0])
    sitk.WriteTransform(sitk.TranslationTransform(3, vector), str(workspace.folder / "known.tfm"))
    moved = [np.roll(a, (1, -2, 2), (0, 1, 2)) for a in (values, labels)]
    write_nifti(workspace.folder / "scan.nii.gz", moved[0])
    marks = np.array([[13, 18, 22], [21, 28, 18], [26, 10, 26]])
    (workspace.folder / "c.csv").write_text(
        "z_um,y_um,x_um\n" + "".join(f"{z},{y},{x}\n" for z, y, x in marks * 250)
    )
    config |= {
        "input": {"kind": "volume", "orientation": "SAR", "channels": {"t1": "scan.nii.gz"}},
        "intensity": {"bias": {"enabled": False}},
        "registration": {"iterations": 3, "levels": 1, "resolution_um": 500, "symmetric": False,
                         "pose": {"search": False, "extent": "whole",
                                  "translation_um": [250, -500, 500]}},
        "labels": {"resolution_um": 250},
        "volume": {"chunk": 16, "block": 32},
        "points": {"cells": {"path": "c.csv", "space": "sample", "atlas": "ccf"}},
        "export": {"fit": {"from": "registration/ccf/match"}},
    }  # fmt: skip
    workspace.write(config)
    wanted = [f"results/scan/{name}" for name in (
        "report.html", "points/cells.csv", "exports/fit.nii.gz", "registration/ccf/verdicts.json",
    )]  # fmt: skip
    done = workspace.snakemake("--cores", "2", *wanted, "--quiet")
    assert done.returncode == 0, done.stderr
    results = workspace.folder / "results/scan"

    store = Store(str(workspace.folder / "results"))
    found = Volume(store, "scan/labels/ccf").read(0)
    for region in (1, 2, 3):
        both = np.count_nonzero((found == region) & (moved[1] == region))
        dice = 2 * both / (np.count_nonzero(found == region) + np.count_nonzero(moved[1] == region))
        assert dice > 0.9, f"region {region}: {dice:.2f}"
    lsfm = Volume(store, "scan/labels/lsfm").read(0)
    assert np.mean(found != lsfm) < 0.002, "the same labels, on another way"
    with open(results / "points/cells.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    places = np.array([[float(row[f"{a}_um"]) for a in "zyx"] for row in rows]) / 250
    np.testing.assert_allclose(places, marks - (1, -2, 2) - SHIFT, atol=0.5)

    verdicts = json.loads((results / "registration/ccf/verdicts.json").read_text())
    assert {v["subject"] for v in verdicts} == {"ccf", "lsfm"}
    report = (results / "report.html").read_text()
    assert "Atlas ccf, reached through lsfm" in report and "known.tfm" in report
    assert "those of lsfm; the error of the known transform is not in them" in report
    listed = read_table(results / "registration/ccf/quality.tsv")
    assert {row["acronym"] for row in listed} == {"B", "F", "L"}
    state = json.loads((results / "views/neuroglancer.json").read_text())
    assert {"ccf", "lsfm"} <= {layer["name"] for layer in state["layers"]}
    assert not (results / "registration/ccf/velocity.nrrd").exists()
    again = workspace.snakemake("-n", *wanted, "--quiet", "rules")
    assert "Nothing to be done" in again.stdout + again.stderr
    # an edited transform composes again, and registers nothing
    known = workspace.folder / "known.tfm"
    known.write_text(re.sub(r"Parameters:.*", "Parameters: 0 0 0", known.read_text()))
    jobs = job_counts(workspace.snakemake("-n", *wanted, "--quiet", "rules"))
    assert jobs["compose_transforms"] == 1 and "register" not in jobs
