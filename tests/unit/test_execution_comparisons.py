"""Comparisons as the workflow is loaded: what is asked of which sample, and what is missing."""

from __future__ import annotations

import re

import pytest
from cohort_truth import write_cohort, write_table_of

from terareg.core.errors import CohortError, ConfigError
from terareg.execution import comparisons
from terareg.execution.requests import request_mb
from terareg.execution.run import load_run


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = write_cohort(tmp_path / "results", size=2)
    write_table_of(tmp_path / "cohort.tsv", samples)
    return samples


def run_of(**settings):
    return load_run({"comparisons": {"drug": {"table": "cohort.tsv", "atlas": "ccf"} | settings}})


def test_finished_samples_need_no_configuration_of_their_own(finished):
    run = run_of(cells=["cfos"])
    comparisons.check(run)
    assert run.results == "results" and not run.samples
    tables = comparisons.sample_tables(run, "drug")
    assert tables["regions"][1] == "results/brain1/regions/ccf.tsv"
    assert tables["counts"] == [f"results/{s}/cells/cfos/ccf/regions.tsv" for s, _ in finished]
    assert set(tables["atlases"]) == {"results/atlases/ccf/atlas.json"}
    assert comparisons.every_map(run) == ["cells_cfos", "log_jacobian"]
    maps = comparisons.sample_maps(run, "drug", "log_jacobian")["images"]
    assert maps[3] == "results/brain3/registration/ccf/jacobian.nrrd"
    assert comparisons.report_files(run) == ["results/cohort/drug/report.html"]


def test_a_sample_may_have_its_results_elsewhere(finished, tmp_path):
    (tmp_path / "results/brain3").rename(tmp_path / "moved")
    (tmp_path / "atlases").symlink_to(tmp_path / "results/atlases")
    write_table_of(tmp_path / "cohort.tsv", finished, {"results": ["", "", "", "moved"]})
    run = run_of()
    comparisons.check(run)
    assert comparisons.sample_tables(run, "drug")["regions"][3] == "moved/regions/ccf.tsv"


def test_a_path_that_snakemake_would_misread_is_refused(finished, tmp_path):
    (tmp_path / "cohort.tsv").rename(tmp_path / "{mine}.tsv")
    with pytest.raises(
        CohortError, match=r"comparisons.drug: '\{mine\}.tsv' contains a word in braces"
    ):
        comparisons.check(run_of(table="{mine}.tsv"))


def test_a_sample_without_results_is_named(finished, tmp_path):
    (tmp_path / "results/brain2/registration/ccf/summary.json").unlink()
    sentence = (
        "comparisons.drug: sample 'brain2' has no results: results/brain2/registration/ccf/"
        "summary.json does not exist; run the sample first, or give its folder in the column "
        "results of cohort.tsv"
    )
    with pytest.raises(CohortError, match=re.escape(sentence)):
        comparisons.check(run_of())


def test_samples_of_the_run_are_made_by_it_if_they_have_what_is_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("t.nrrd", "a.nrrd", "o.json"):
        (tmp_path / name).touch()
    names = [f"s{n}" for n in range(4)]
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(
            f"sample: {name}\ninput: {{path: ., orientation: SAR, channels: {{signal: 0}}}}\n"
            "atlases: {ccf: {template: t.nrrd, annotation: a.nrrd, ontology: o.json, "
            "orientation: RIP}}\n"
        )
    write_table_of(tmp_path / "cohort.tsv", list(zip(names, "aabb")))

    def load(**over):
        settings = {"table": "cohort.tsv", "atlas": "ccf", "channels": ["signal"]} | over
        files = [f"{name}.yaml" for name in names]
        return load_run({"cohort": files, "comparisons": {"ab": settings}})

    run = load()
    comparisons.check(run)
    assert "comparisons" not in run.samples["s0"]  # it changes nothing of the sample's own files
    assert comparisons.sized(run, "ab").config["comparison"]["samples"] == 4
    for over, sentence in (
        ({"atlas": "rat"}, "sample 's0' has no atlas 'rat' (it has ccf)"),
        ({"cells": ["cfos"]}, "sample 's0' has no cells 'cfos' (it has none)"),
        ({"channels": ["gfp"]}, "sample 's0' has no channels 'gfp' (it has signal)"),
    ):
        with pytest.raises(CohortError, match=re.escape(sentence)):
            comparisons.check(load(**over))


def test_memory_grows_with_samples_and_atlas(finished):
    small = comparisons.sized(run_of(), "drug")
    large = comparisons.sized(run_of(cells=["cfos"], channels=["signal"]), "drug")
    assert request_mb("gather_cohort", large, 1) > request_mb("gather_cohort", small, 1)
    assert small.largest_atlas.shape == (12, 14, 16)
    assert request_mb("map_cohort", small, 1) < 1200


def test_where_the_section_belongs(tmp_path, monkeypatch, finished):
    sample = {"sample": "a", "input": {"path": ".", "orientation": "SAR", "channels": {"c": 0}}}
    (tmp_path / "a.yaml").write_text(
        "sample: a\ninput: {path: ., orientation: SAR, channels: {c: 0}}\n"
        "comparisons: {x: {table: cohort.tsv, atlas: ccf}}\n"
    )
    with pytest.raises(ConfigError, match="comparisons: belongs beside cohort:"):
        load_run({"cohort": ["a.yaml"]})
    both = load_run({**sample, "comparisons": {"x": {"table": "cohort.tsv", "atlas": "ccf"}}})
    assert list(both.comparisons) == ["x"] and list(both.samples) == ["a"]
    for wrong, sentence in (
        ({"table": "t"}, "key atlas is missing"),
        ({"table": "t", "atlas": "a", "test": "perm"}, "use linear_model, permutation"),
        ({"table": "t", "atlas": "a", "groups": ["one"]}, "comparisons.x.groups: "),
    ):
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            load_run({"comparisons": {"x": wrong}})
    with pytest.raises(ConfigError, match="cannot be compared; copy the small files"):
        load_run({"comparisons": {"x": {"table": "t", "atlas": "a"}}}, "s3://bucket/results")
    with pytest.raises(ConfigError, match="'cohort' is reserved for comparisons of groups"):
        load_run({**sample, "sample": "cohort"})
