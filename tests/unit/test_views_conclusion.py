"""The verdict on a run: in words, with its reasons and with what to do, the first cause first."""

from dataclasses import asdict

import pytest

from terareg.views import thresholds
from terareg.views.conclusion import conclude, next_steps


def judged(*measured):
    verdicts = [asdict(v) for v in thresholds.judge(measured)]
    return [v | {"shown": f"{v['value']:g} {v['unit']}".strip()} for v in verdicts]


GOOD = ("registration.matching_percent", "mouse", 95.0)
NEAR = ("registration.matching_percent", "mouse", 60.0)
BAD = ("registration.matching_percent", "mouse", 10.0)
DIM = ("volume.saturated_percent", "ch0", 50.0)
TORN = ("stitching.kept_percent", "", 20.0)
LOST = ("points.in_region_percent", "mine", 0.0)


@pytest.mark.parametrize(
    ("measured", "status", "title"),
    [
        ([GOOD], "pass", "Usable"),
        ([GOOD, TORN], "fail", "Not usable as it is"),
        ([NEAR], "warn", "Usable with care"),
        ([NEAR, DIM], "fail", "Usable for positions and volumes, not for brightness"),
        ([BAD, DIM], "fail", "Not usable as it is"),
        ([GOOD, LOST], "fail", "Usable for positions and volumes, not for counts"),
        ([LOST, DIM], "fail", "Usable for positions and volumes, not for brightness or counts"),
        ([BAD, LOST], "fail", "Not usable as it is"),
        ([], "none", "Not judged yet"),
    ],
)
def test_the_verdict_in_words(measured, status, title):
    found = conclude(judged(*measured))
    assert (found["status"], found["title"]) == (status, title)
    assert bool(found["reasons"]) == (status in ("warn", "fail"))


def test_reasons_name_what_where_and_how_much_and_the_first_cause_comes_first():
    found = conclude(judged(DIM, BAD, TORN, NEAR, ("accuracy.mean_um", "mouse", 900.0)))
    assert found["reasons"][0].endswith("whose measured displacement was used: 20 %")
    assert found["reasons"][1].endswith("(mouse): 10 %")
    assert "iducial" in found["reasons"][2]
    assert found["more"] == 2


def test_every_advice_is_given_once_failures_first():
    steps = next_steps(judged(NEAR, DIM, ("volume.saturated_percent", "ch1", 9.0), TORN))
    assert [s["status"] for s in steps] == ["fail", "fail", "warn"]
    assert steps[0]["advice"] == thresholds.THRESHOLDS["stitching.kept_percent"]["advice"]
    assert steps[1]["reason"].startswith("saturated voxels (ch0): 50")
    assert next_steps(judged(GOOD)) == []
