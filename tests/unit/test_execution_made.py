"""The last lines of a run: what it made, and nothing that was there before."""

from __future__ import annotations

import json
import os
from pathlib import Path

from planned_samples import run_of, scan

from terareg.execution.made import what_to_look_at

SINCE = 1000.0


def make(path: str, text: str = "", at: float = SINCE) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    os.utime(path, (at, at))


def test_first_pictures_with_what_they_warn_of_then_the_report_alone(workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    run = run_of(workspace, scan(workspace, "one"), scan(workspace, "two"))
    assert what_to_look_at(run, SINCE) == ""
    make("results/one/views/first_look_mouse.png")
    make("results/one/registration/mouse/preview.png")
    doubt = "orientation: sample one is declared SAR but fits the atlas much better as ILA: see"
    make("results/one/registration/mouse/pose.json", json.dumps({"warnings": [doubt]}))
    make("results/two/report.html", at=SINCE - 1)
    assert what_to_look_at(run, SINCE).splitlines() == [
        "To look at:",
        "  results/one/views/first_look_mouse.png",
        "  results/one/registration/mouse/preview.png",
        "  warning: sample one is declared SAR but fits the atlas much better as ILA: see",
    ]
    make("results/one/report.html")
    assert what_to_look_at(run, SINCE) == "To look at:\n  results/one/report.html\n"
    assert what_to_look_at(run, SINCE + 1) == ""


def test_the_page_of_a_comparison_is_among_it(workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    run = run_of(workspace, scan(workspace, "one"))
    run.comparisons["drug"] = {}
    make("results/cohort/drug/report.html")
    assert what_to_look_at(run, SINCE) == "To look at:\n  results/cohort/drug/report.html\n"
