"""The page of a comparison: what is found, who is suspect, how it was tested; nothing from afar."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from cohort_truth import FRAME, MORE, write_cohort
from PIL import Image

from terareg.cohort.model import Design
from terareg.cohort.regions import Inference, compare_regions, side_by_side
from terareg.cohort.values import KEYS, Measured, values_of
from terareg.storage.records import read_json, read_table, write_table
from terareg.views.cohort import ComparisonFiles, gather_page, map_title, verdict_of, write_page
from terareg.views.figures.cohort import heat_map, shown_rows, value_key, volcano, voxel_maps

SETTINGS = {"atlas": "ccf", "test": "linear_model", "min_coverage": 0.9, "fdr": 0.05}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    samples = write_cohort(folder, size=4)
    rows = [
        {"sample": sample} | row
        for sample, _ in samples
        for row in values_of(Measured(read_table(folder / sample / "regions/ccf.tsv"), {}), [], 0.9)
    ]
    values = side_by_side(rows, [name for name, _ in samples])
    group = np.array([float(group == "drug") for _, group in samples])
    effects = compare_regions(values, Design(group, np.ones((8, 1))), Inference())
    write_table(folder / "statistics.tsv", effects)
    return folder, samples, read_table(folder / "statistics.tsv"), values


def sample_rows(samples, failed=()):
    return [
        {"sample": s, "group": g, "used": "yes", "verdict": "fail" if s in failed else "pass",
         "reasons": "it folds: 0.01" if s in failed else "", "age": "9"}
        for s, g in samples
    ]  # fmt: skip


def test_the_page_tells_what_was_found_and_whom_not_to_trust(compared, tmp_path):
    _, samples, effects, _ = compared
    picture = tmp_path / "volcano.png"
    picture.write_bytes(volcano(effects, {"volume_mm3": "Volume"}, 0.05))
    files = ComparisonFiles(effects, sample_rows(samples, ["brain2"]), {picture: "Volcano <b>"})
    data = gather_page("drug", files, SETTINGS, ("control", "drug"))
    assert data["found"][0] == ("Volume (mm³)", 2, 3)  # A and TOP, of TOP, A and B
    write_page(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "drug (4 samples) against control (4 samples)" in page
    assert re.search(r"<strong>brain2</strong> \(control\): it folds", page)
    assert "Volcano &lt;b&gt;" in page and "age" in page
    assert "linear model of the group with age" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and not re.findall("https?:", page)


def test_a_page_without_any_test_says_why(compared, tmp_path):
    """One brain under two names leaves no noise to compare a difference with."""
    _, samples, effects, _ = compared
    untested = [row | {"t": "", "p": "", "q": "", "tests": "0"} for row in effects]
    files = ComparisonFiles(untested, sample_rows(samples), {})
    data = gather_page("drug", files, SETTINGS, ("control", "drug"))
    assert data["found"][0][2] == 0
    write_page(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "Volume (mm³): no region could be tested" in page and "0 of 0" not in page


def test_a_registration_is_judged_as_in_its_own_report(compared):
    folder, *_ = compared
    summary = read_json(folder / "brain0/registration/ccf/summary.json")
    assert verdict_of(summary, "ccf") == ("pass", "")
    status, reasons = verdict_of(summary | {"jacobian_min": -0.2}, "ccf")
    assert status == "fail" and "-0.2" in reasons


def test_a_registration_that_failed_fails_what_comes_through_it():
    composed = {"through": "lsfm", "jacobian_min": 0.5, "registered": {"jacobian_min": -0.2}}
    assert verdict_of(composed, "ccf")[0] == "fail"
    assert verdict_of(composed | {"registered": {"jacobian_min": 0.5}}, "ccf") == ("pass", "")


def test_pictures_show_the_regions_that_differ(compared):
    _, samples, effects, values = compared
    shown = shown_rows(effects, "volume_mm3")
    assert sorted(row["acronym"] for row in shown) == ["A", "B", "B1", "TOP"]
    titles = {"volume_mm3": "Volume", "nothing": "Nothing"}
    named = {value_key(dict(zip(KEYS, key))): column
             for key, column in zip(values.keys, values.array.T)}  # fmt: skip
    for picture in (volcano(effects, titles, 0.05), heat_map(effects, named, titles, samples)):
        assert picture.startswith(b"\x89PNG") and 5000 < len(picture) < 300_000
    assert volcano(effects, titles, 0.05) != volcano(effects, titles, 1e-9)  # colours and line


def test_maps_are_drawn_through_the_clearest_difference():
    d = np.zeros(FRAME.shape, np.float32)
    d[MORE] = 3
    maps = {"mean_reference": d * 0, "mean_compared": d, "sd": d * 0 + 1, "cohens_d": d}
    rows = {"mean_compared": "compared", "cohens_d": "d"}
    pixels = np.asarray(Image.open(io.BytesIO(voxel_maps(maps, rows, FRAME, "map"))).convert("RGB"))
    red = (pixels[..., 0] > 90) & (pixels[..., 1] < 30) & (pixels[..., 2] < 60)
    assert red.sum() > 500


def test_maps_have_their_unit_in_their_title():
    assert map_title("cells_cfos") == "cfos: density (per mm³)"
    assert "natural logarithm" in map_title("log_jacobian")
