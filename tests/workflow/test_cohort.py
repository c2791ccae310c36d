"""Two groups of finished samples, from their tables to one page."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from cohort_truth import (
    FRAME,
    MORE,
    write_cohort,
    write_images,
    write_sample,
    write_table_of,
)
from running import job_counts

from terareg.storage.nrrd import read_scalar
from terareg.storage.records import read_table


def described(workspace, **settings):
    samples = write_cohort(workspace.folder / "results", size=4)
    write_images(workspace.folder / "results", samples)
    ages = {"age": [9, 10, 11, 9, 10, 12, 8, 9]}
    write_table_of(workspace.folder / "cohort.tsv", samples, ages)
    comparison = {"table": "cohort.tsv", "atlas": "ccf", "cells": ["cfos"], "images": ["signal"]}
    comparison |= settings
    workspace.write({"comparisons": {"drug": comparison}})


@pytest.mark.slow
def test_a_difference_between_groups_is_found_and_told(workspace):
    described(workspace)
    bad = {"summary": {"jacobian_min": -0.3}}
    write_sample(workspace.folder / "results", "brain2", np.random.default_rng(9), False, **bad)
    done = workspace.snakemake("--cores", "2", "cohort", "--quiet")
    assert done.returncode == 0, done.stderr
    folder = workspace.folder / "results/cohort/drug"
    rows = read_table(folder / "statistics.tsv")
    found = {(r["measure"], r["acronym"]): float(r["q"]) for r in rows
             if (r["scope"], r["hemisphere"]) == ("tree", "both") and r["q"]}  # fmt: skip
    assert found["volume_mm3", "A"] < 0.01 and found["cfos_per_mm3", "A"] < 0.01
    assert found["volume_mm3", "B"] > 0.05
    with open(folder / "values.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 8 * 4 * 24
    d, frame = read_scalar(folder / "maps/log_jacobian/cohens_d.nrrd")
    assert frame == FRAME and d[MORE].mean() > 2
    means = {n: read_scalar(folder / f"maps/image_signal/mean_{n}.nrrd")[0][MORE].mean()
             for n in ("reference", "compared")}  # fmt: skip
    assert means["reference"] == pytest.approx(1000, abs=3)
    assert means["compared"] == pytest.approx(1200, abs=3)
    page = (folder / "report.html").read_text()
    assert "<strong>brain2</strong> (control)" in page and "brain2" in page
    assert page.count("data:image/png;base64,") == 5
    record = json.loads((folder / "logs/compare_regions.json").read_text())
    assert record["rule"] == "compare_regions"

    # nothing is left to do; another test runs what depends on it, and no map of a sample again
    again = workspace.snakemake("-n", "cohort", "--quiet", "rules")
    assert "Nothing to be done" in again.stdout + again.stderr
    config = {"table": "cohort.tsv", "atlas": "ccf", "cells": ["cfos"], "images": ["signal"],
              "test": "permutation"}  # fmt: skip
    workspace.write({"comparisons": {"drug": config}})
    jobs = job_counts(workspace.snakemake("-n", "--quiet", "rules"))
    assert jobs["compare_regions"] == jobs["report_cohort"] == 1


def test_what_cannot_be_compared_is_said_before_or_in_the_first_job(workspace):
    described(workspace)
    results = workspace.folder / "results"
    (results / "brain1/regions/ccf.tsv").unlink()
    done = workspace.snakemake("-n", "cohort", "--quiet", "all")
    assert done.returncode and "sample 'brain1' has no results" in done.stderr + done.stdout
    described(workspace)
    table = workspace.folder / "cohort.tsv"
    lines = table.read_text().splitlines()
    same = [f"{line}\t{line.split()[1]}2" for line in lines[1:]]
    table.write_text("\n".join([lines[0] + "\tbatch", *same]) + "\n")
    done = workspace.snakemake("--cores", "1", "cohort", "--quiet")
    assert done.returncode
    assert "covariate 'batch' coincides with the group" in done.stderr + done.stdout
