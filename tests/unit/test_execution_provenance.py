"""The report's origins: the same for the same configuration, and only then."""

from __future__ import annotations

import json

import pytest
from planned_samples import run_of, scan

from terareg import __version__
from terareg.execution import provenance, sizing
from terareg.execution.rule_table import jobs_of_rules


def origin(workspace, *configs, sample="brain") -> dict:
    return provenance.provenance(run_of(workspace, *configs), sample)


def test_version_and_places_are_told(workspace):
    config = workspace.sample(store="s3://brains/volumes")
    told = origin(workspace, config)
    assert told["terareg"] == __version__
    assert (told["raw_data"], told["store"]) == (config["input"]["path"], "s3://brains/volumes")
    volume = scan(workspace)
    told = origin(workspace, volume, sample="scan")
    assert told["raw_data"] == volume["input"]["channels"]


def test_the_digest_does_not_depend_on_order_defaults_or_other_samples(workspace):
    config = workspace.sample()
    digest = origin(workspace, config)["config_hash"]
    written = dict(reversed(config.items())) | {"results": "results"}
    assert origin(workspace, written)["config_hash"] == digest
    assert origin(workspace, workspace.sample("other"), config)["config_hash"] == digest


@pytest.mark.parametrize(
    "over",
    [{"stitching": {"channel": "signal"}}, {"intensity": {"bias": {"enabled": False}}},
     {"registration": {"resolution_um": 77}}, {"atlases__mouse__orientation": "SAR"}],
)  # fmt: skip
def test_every_setting_counts_for_the_digest(workspace, over):
    usual = origin(workspace, workspace.sample())["config_hash"]
    assert origin(workspace, workspace.sample(**over))["config_hash"] != usual


def test_the_plan_of_the_report_is_that_of_the_run(workspace):
    run = run_of(workspace, workspace.sample())
    told = json.loads(json.dumps(provenance.planned_work(run, "brain")))
    sample = sizing.sized(run, "brain")
    assert told["jobs"] == jobs_of_rules(sample)
    assert told["raw_gb"] == pytest.approx(sample.raw_gb)
    assert sum(stage["jobs"] for stage in told["plan"]) == sum(told["jobs"].values())


def test_another_page_is_another_digest(monkeypatch, tmp_path):
    before = {name: provenance.page(name) for name in ("report", "slices")}
    assert before == {name: provenance.page(name) for name in before}
    assert len(set(before.values())) == 2
    for name in before:
        (tmp_path / f"{name}.html.j2").write_text("another")
    monkeypatch.setattr(provenance, "_VIEWS", tmp_path)
    assert all(provenance.page(name) != digest for name, digest in before.items())
