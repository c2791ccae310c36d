"""Dry runs over configurations and profiles: the right jobs, and only those."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import running
import SimpleITK as sitk
import yaml
from brainglobe_truth import write_older
from colm_stub import write_linked_planes, write_metadata
from microscope_folders import SPACING_UM, own_table, smartspim
from running import job_counts
from workspaces import loaded_workflow

from terareg.execution import run_plan, sizing
from terareg.execution.rule_table import jobs_of_rules

CHAIN = {
    "index_acquisition", "check_inputs", "sum_tiles", "estimate_flatfield", "import_tiles",
    "estimate_steps", "measure_displacements", "gather_displacements", "project_displacements",
    "threshold_displacements", "place_tiles", "sum_placed_tiles", "refine_flatfield",
    "init_volume", "fuse_blocks", "finish_pyramid",
    "finalize_volume", "estimate_bias_field", "correct_volume", "prepare_atlas",
    "find_pose", "preview_alignment", "register", "transform_labels", "sum_regions",
    "measure_regions", "make_report",
}  # fmt: skip


def dry_run(workspace, config, *arguments, **env):
    workspace.write(config)
    return job_counts(workspace.snakemake("-n", *arguments, "--quiet", "rules", **env))


def test_the_whole_chain(workspace):
    jobs = dry_run(workspace, workspace.sample())
    assert CHAIN <= jobs.keys()
    assert jobs["estimate_flatfield"] == 1 and jobs["refine_flatfield"] == 2
    assert "correct_tiles" not in jobs


@pytest.mark.parametrize(
    ("target", "there", "absent"),
    [
        ("corrected_tiles", "refine_flatfield", "init_volume"),
        ("stitching", "place_tiles", "init_volume"),
        ("fused_volumes", "fuse_blocks", "estimate_bias_field"),
        ("corrected_volumes", "correct_volume", "prepare_atlas"),
        ("previews", "preview_alignment", "register"),
        ("registration", "register", "transform_labels"),
        ("regions", "measure_regions", "make_report"),
        ("results/brain/stitching/xml_merging.xml", "place_tiles", "export_render"),
        ("results/brain/regions/mouse.tsv", "measure_regions", "mesh_labels"),
    ],
)
def test_targets_do_a_part_of_the_work(workspace, target, there, absent):
    jobs = dry_run(workspace, workspace.sample(), target)
    assert there in jobs and absent not in jobs


def test_until_stops_there(workspace):
    jobs = dry_run(workspace, workspace.sample(), "--until", "place_tiles")
    assert "place_tiles" in jobs and "fuse_blocks" not in jobs


@pytest.mark.parametrize(
    ("over", "more", "less"),
    [
        ({"intensity__corrected_tiles": "keep"}, {"correct_tiles"}, {"drop_corrected_tiles"}),
        (
            {"intensity__destriping": "auto"},
            {"sum_lines", "estimate_stripes"},
            {"correct_tiles"},
        ),
        (
            {"intensity__destriping": "columns"},
            {"sum_lines", "estimate_stripes"},
            {"correct_tiles"},
        ),
        (
            {"intensity__destriping": "none"},
            {"refine_flatfield"},
            {"sum_lines", "estimate_stripes"},
        ),
        (
            {"intensity__flatfield": {"method": "none", "background": 100.0}},
            {"refine_flatfield"},
            {"sum_lines", "estimate_stripes"},
        ),
        (
            {"intensity__corrected_tiles": "temporary"},
            {"correct_tiles", "drop_corrected_tiles"},
            set(),
        ),
        ({"intensity__bias": {"enabled": False}}, set(), {"correct_volume"}),
        ({"atlases": {}}, set(), {"register", "prepare_atlas"}),
        ({"atlas_space": {"enabled": False}}, set(), {"transform_volume"}),
        (
            {"fiducials": {"mouse": {"sample": "s.csv", "atlas": "a.csv"}}},
            {"score_registration"},
            set(),
        ),
        (
            {"registration": {"landmarks": {"mouse": {"sample": "s.csv", "atlas": "a.csv"}}}},
            {"pair_landmarks"},
            {"score_registration"},
        ),
        ({"sample_labels": {"mouse": {"path": "a.csv"}}}, {"score_labels"}, {"pair_landmarks"}),
        (
            {"registration": {"export": True, "error_bars": True}},
            {"export_transform", "estimate_errors", "draw_error_bars"},
            {"pair_landmarks"},
        ),
        (
            {"points": {"cells": {"path": "c.csv", "atlas": "mouse"}}},
            {"transform_points", "count_points"},
            {"find_cells"},
        ),
        (
            {"cells": {"cfos": {"channel": "signal", "diameter_um": 10}}},
            {"find_cells", "gather_cells", "count_cells"},
            {"count_points"},
        ),
        (
            {
                "derived": {
                    "axons": {
                        "from": "fused/signal",
                        "do": "signal",
                        "threshold": 50,
                        "length": True,
                        "thickest_um": 10,
                    }
                }
            },
            {"measure_derived", "sum_signal", "measure_signal"},
            {"skeletonize"},
        ),
        (
            {
                "derived": {
                    "small": {"from": "fused/autofluorescence", "do": "convert"},
                    "axons": {
                        "from": "small",
                        "do": "signal",
                        "threshold": 0.5,
                        "method": "probability",
                        "image": "fused/signal",
                    },
                }
            },
            {"measure_derived", "sum_signal", "measure_signal"},
            {"skeletonize"},
        ),
        (
            {"stitching__xml": {"xml_merging": "own.xml"}},
            {"place_tiles"},
            {"measure_displacements", "estimate_steps"},
        ),
        ({"stitching__xml": {"xml_import": "own.xml"}}, {"measure_displacements"}, set()),
        (
            {"export": {"x": {"from": "labels/mouse"}}, "bids": {"enabled": True}},
            {"export_volume", "export_regions", "export_bids"},
            {"export_planes"},
        ),
        ({"stitching__tile_configuration": "t.txt"}, {"measure_displacements"}, set()),
        ({"volume__formats": ["precomputed"], "stitching__model": "elastic"}, CHAIN, set()),
        ({"stitching__channel": "signal", "registration": {"channel": "signal"}}, CHAIN, set()),
        (
            {
                "registration": {"channel": ["signal", "autofluorescence"]},
                "atlases__mouse__images": {"nissl": "n.nrrd"},
            },
            {*CHAIN, "prepare_atlas_image"},
            set(),
        ),
    ],
)
def test_configurations(workspace, over, more, less):
    for name in ("s.csv", "a.csv", "c.csv", "own.xml", "t.txt", "n.nrrd"):
        (workspace.folder / name).touch()
    jobs = dry_run(workspace, workspace.sample(**over))
    assert more <= jobs.keys()
    assert less.isdisjoint(jobs)


def _write_images(config: dict, folder: Path) -> None:
    """Small files where the sample names its images, and its table."""
    source = config["input"]
    spacing = source.get("spacing_um") or [100, 100, 100]
    for path in source["channels"].values():
        image = sitk.GetImageFromArray(np.ones((20, 20, 20), np.uint16))
        # the index of columns grows to the right, of rows to anterior, of planes to superior
        image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        image.SetSpacing([s / 1000 for s in spacing[::-1]])
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / path))


SHIPPED = sorted((Path(__file__).parents[2] / "config/samples").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_every_shipped_sample_plans_a_run_once_its_files_are_there(workspace, path):
    """With small files at the places that the sample names; BrainGlobe atlases by their names."""
    config = yaml.safe_load(path.read_text().replace("/data/", "data/"))
    config.pop("store", None)
    folder, source = workspace.folder, config["input"]
    kind = source["kind"]
    raw = folder / source.get("path", "data")
    raw.mkdir(parents=True)
    if kind == "volume":
        _write_images(config, folder)
    elif kind == "colm":
        write_metadata(raw, 1, 2, planes=100)
    elif kind == "terastitcher":
        smartspim(raw)
    else:
        own_table(raw)
        del source["channels"]["signal"]
        source["spacing_um"] = list(SPACING_UM)
    installed = folder / "brainglobe"
    for atlas in config["atlases"].values():
        if "name" in atlas:
            write_older(installed).rename(installed / f"{atlas['name']}_v1.2")
        for key in {"template", "annotation", "ontology"} & atlas.keys():
            (folder / atlas[key]).parent.mkdir(parents=True, exist_ok=True)
            (folder / atlas[key]).touch()
    jobs = dry_run(workspace, config, BRAINGLOBE_DIR=str(installed))
    assert {"prepare_atlas", "register", "measure_regions", "make_report"} <= jobs.keys()
    assert ("import_volume" in jobs) == (kind == "volume") == ("fuse_blocks" not in jobs)


def test_a_cohort_runs_several_samples(workspace):
    for name in ("one", "two"):
        workspace.write(workspace.sample(name), f"{name}.yaml")
    jobs = dry_run(workspace, {"cohort": ["one.yaml", "two.yaml"]})
    assert jobs["register"] == 2 and jobs["refine_flatfield"] == 4
    assert jobs["prepare_atlas"] == 1, "an atlas is shared"


def described(workspace, grid, channels):
    config = workspace.sample(grid=grid, planes=2000)
    config["input"]["channels"] = {f"ch{c}": c for c in range(channels)}
    workspace.write(config)
    return Path(config["input"]["path"])


def limited_jobs_and_files(workspace):
    done = workspace.snakemake("-n", "--verbose")
    jobs = job_counts(done)
    outputs, _ = running.tracked_files(done.stdout)
    assert jobs["total"] <= 500 and 0.9 * jobs["total"] < outputs <= 500, jobs
    assert max(n for name, n in jobs.items() if name != "total") <= 100
    return jobs


@pytest.mark.slow
def test_a_terabyte_of_plane_files_is_a_few_hundred_jobs(workspace):
    """A name for each of 120 000 planes, 33.6 GB a tile position, as a microscope leaves them."""
    write_linked_planes(described(workspace, (5, 6), 2), 5, 6, channels=2)
    jobs = limited_jobs_and_files(workspace)
    assert jobs["fuse_blocks"] >= 16 and jobs["sum_placed_tiles"] >= 2


@pytest.mark.parametrize(("grid", "channels"), [((6, 10), 2), ((5, 6), 4)])
def test_two_terabytes_are_at_most_500_tracked_files(workspace, grid, channels):
    """Outputs, logs and benchmarks, each of which costs requests on S3."""
    described(workspace, grid, channels)
    _, tracked = running.tracked_files(workspace.snakemake("-n", "--verbose").stdout)
    assert 200 < tracked <= 500


def test_forty_terabytes_are_no_more(workspace):
    described(workspace, (20, 30), 4)
    limited_jobs_and_files(workspace)


def brain_of(workspace):
    """The sample of a workspace as plans see it."""
    with loaded_workflow(workspace.folder, workspace.folder / "sample.yaml") as workflow:
        return sizing.sized(workflow.globals["RUN"], "brain")


@pytest.mark.parametrize(
    "over",
    [
        {"fiducials": {"mouse": {"sample": "s.csv", "atlas": "a.csv"}},
         "points": {"cells": {"path": "c.csv", "atlas": "mouse"}},
         "cells": {"cfos": {"channel": "signal", "diameter_um": 10}},
         "sample_labels": {"mouse": {"path": "c.csv"}},
         "registration": {"landmarks": {"mouse": {"sample": "c.csv", "atlas": "a.csv"}},
                          "export": True},
         "export": {"v": {"from": "fused/signal"}, "g": {"from": "registration/mouse/missing"},
                    "r": {"from": "labels/mouse", "format": "png_series", "labels": "rgb"},
                    "a": {"from": "atlases/mouse/annotation"}},
         "bids": {"enabled": True}},
        {"intensity": {"corrected_tiles": "temporary", "bias": {"enabled": False}},
         "input__channels": {"autofluorescence": 0, "left": 1, "right": 2},
         "input__sides": {"signal": {"left": "-x", "right": "+x"}},
         "atlas_space": {"enabled": False}, "stitching__xml": {"xml_merging": "own.xml"}},
    ],
)  # fmt: skip
def test_the_plan_counts_the_jobs_that_run(workspace, over):
    for name in ("s.csv", "a.csv", "c.csv", "own.xml"):
        (workspace.folder / name).touch()
    workspace.write(workspace.sample(**over))
    counted = running.planned(workspace)
    jobs = jobs_of_rules(brain_of(workspace))
    planned = {name: n for name, n in jobs.items() if n}
    assert planned == {name: n for name, n in counted.items() if name != "all"}


def test_the_plan_is_printed_and_runs_nothing(workspace):
    workspace.write(workspace.sample())
    done = workspace.snakemake("--cores", "1", "--quiet", "all", "--", "plan")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["brain", "jobs", "CPU", "h", "longest", "min"] == lines[0][:6]
    (fused,) = [line for line in lines if line[:2] == ["Fused", "volume"]]
    assert int(fused[2]) > 10 and float(fused[5]) > 400, "twelve tiles of 33.6 GB"
    assert [p.name for p in (workspace.folder / "results").iterdir()] == ["plan.txt"]


def stages_of(text: str) -> dict[str, list[float]]:
    """Numbers of a printed plan, by stage."""
    lines = re.findall(r"^([A-Z][A-Za-z -]+?) {2,}([0-9. ]+)$", text, re.MULTILINE)
    return {stage: [float(n) for n in numbers.split()] for stage, numbers in lines}


def test_a_dry_run_ends_with_the_plan_of_its_jobs(workspace):
    """Jobs, hours, bytes and room; of a part of the work, what the part takes."""
    workspace.write(workspace.sample())
    brain = brain_of(workspace)
    whole = stages_of(run_plan.plan_text("brain", brain))
    done = workspace.snakemake("-n")
    assert done.stdout.count("Job stats:") == 1 and "\nrule " not in done.stdout
    assert len((done.stdout + done.stderr).splitlines()) < 100, "one or two screens"
    assert done.returncode == 0 and stages_of(done.stderr) == whole and len(whole) == 8
    assert "space needed in the store: " in done.stderr
    one = workspace.snakemake("-n", "--", "results/brain/fused/signal/batches/0.json")
    found = stages_of(one.stderr)
    assert found["Fused volume"][0] == 2 and "Bias field" not in found
    jobs = jobs_of_rules(brain)["fuse_blocks"]
    read = [stages["Fused volume"][3] for stages in (found, whole)]
    assert read[0] == pytest.approx(read[1] / jobs, abs=0.1)


@pytest.mark.parametrize("arguments", [("-n", "--quiet", "all"), ("--summary",)])
def test_nothing_else_prints_a_plan(workspace, arguments):
    workspace.write(workspace.sample())
    done = workspace.snakemake(*arguments)
    assert done.returncode == 0 and "space needed in the store" not in done.stdout + done.stderr


def test_the_slurm_profile_gives_the_same_jobs(workspace):
    alone = dry_run(workspace, workspace.sample())
    assert dry_run(workspace, workspace.sample(), "--profile", "slurm") == alone


@pytest.mark.parametrize(
    ("flags", "mark"),
    [(("--dag",), "digraph"), (("--rulegraph",), "digraph"), (("--d3dag",), '"nodes"')],
)
def test_graphs_are_printed_clean(workspace, flags, mark):
    workspace.write(workspace.sample())
    done = workspace.snakemake(*flags)
    assert done.returncode == 0 and mark in done.stdout.lower()
    assert done.stdout.lstrip()[0] in "d{"


@pytest.mark.parametrize("target", ["all", "previews"])
def test_without_a_sample_a_run_says_how_to_give_one(workspace, target):
    done = workspace.snakemake("--cores", "1", "--", target, configfile=None)
    assert done.returncode == 1
    assert "no sample is configured, so there is nothing to do; give a sample" in done.stderr
    assert "Traceback" not in done.stderr
