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


def test_tiles_that_were_not_measured_are_told_with_the_first_pictures(workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    run = run_of(workspace, scan(workspace, "one"))
    make("results/one/registration/mouse/preview.png")
    for kept, empty, told in ((0, 1, True), (1, 1, False), (0, 4, False)):
        counts = {"links": 4, "links_kept": kept, "links_empty": empty}
        make("results/one/stitching/placement.json", json.dumps({"summary": counts}))
        words = "warning: sample one: none of the displacements of 3 pairs of neighbouring tiles"
        assert (words in what_to_look_at(run, SINCE)) == told
    make("results/one/stitching/placement.json", "as it was before this run", at=SINCE - 1)
    assert "warning" not in what_to_look_at(run, SINCE)


def test_the_page_of_a_comparison_is_among_it(workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    run = run_of(workspace, scan(workspace, "one"))
    run.comparisons["drug"] = {}
    make("results/cohort/drug/report.html")
    assert what_to_look_at(run, SINCE) == "To look at:\n  results/cohort/drug/report.html\n"
