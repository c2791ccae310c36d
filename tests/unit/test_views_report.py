"""Report: failures on top, only what exists, everything escaped, nothing from outside."""

import json
import re
import shlex
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from terareg.core.errors import ConfigError
from terareg.execution.measured_costs import cost_table
from terareg.execution.run_plan import Planned
from terareg.views import report, thresholds
from terareg.views.figures import intensity

USUAL = {
    key: {"value": value, "default": value, "changed": False}
    for key, value in {
        "intensity.flatfield.method": "statistics", "intensity.destriping": "auto",
        "stitching.displacement.engine": "ncc", "fusion.blending": "cosine",
        "registration.regularisation": 0.012,
    }.items()
}  # fmt: skip
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects elements and checks that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [a for t, a in self.elements if t == tag]


def link(a, b, state, residual, reason=""):
    return {"a": a, "b": b, "direction": "EAST", "state": state, "residual_vox": residual,
            "displ_vox": [0, 0, 1], "reason": reason}  # fmt: skip


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


@pytest.fixture(scope="module")
def picture():
    return intensity.flatfield_map(np.ones((9, 8)), {}, channel="ch0")


@pytest.fixture
def results(tmp_path, picture):
    folder = tmp_path / "brain7"
    write(folder, "acquisition.json", {
        "rows": 1, "columns": 2, "tiles": [{"name": "LOC000"}, {"name": "LOC001"}],
        "channels": [{"name": "ch0", "index": 0}], "tile_shape": [64, 100, 120],
        "dtype": "uint16", "spacing_um": [5, 1.8, 1.8], "orientation": "SAR",
        "overlap": [0.15, 0.15], "missing_planes": "blank",
        "planes": {"LOC000": {"ch0": {"missing": [3, 4]}}, "LOC001": {"ch0": {"missing": []}}},
        "problems": ["Experiment.ini says <3> channels, the files hold 1"],
    })  # fmt: skip
    write(folder, "intensity/ch0/flatfield.json", {
        "method": "statistics", "background": 101.25, "tiles": 2, "planes": 128,
        "seam_percent": {"before": 14.2, "after": 0.5, "noise": 0.3, "beyond": 0.4},
        "warnings": ["few planes"],
    })  # fmt: skip
    write(folder, "stitching/placement.json", {
        "tiles": {
            n: {"origin_vox": [0, 0, 0], "state": state}
            for n, state in (
                ("LOC000", "linked"), ("LOC001", "linked"), ("LOC002", "model"),
                ("LOC003", "linked"), ("LOC004", "model"),
            )
        },
        "links": [link("LOC000", "LOC001", "kept", [0, 0.3, 0.4]),
                  link("LOC001", "LOC002", "rejected", [0, 30, 40], "residual 50 > 3"),
                  link("LOC000", "LOC002", "unused", [0, 0, 0], "windows disagree (1 of 6 agree)"),
                  link("LOC001", "LOC003", "kept", [0, 0.3, 0.4]),
                  link("LOC002", "LOC003", "empty", [0, 0, 0], "no signal in the overlap"),
                  link("LOC003", "LOC004", "empty", [0, 0, 0], "no signal in the overlap")],
        "loops": [{"row": 0, "column": 0, "closure_vox": [0, 3, 4], "kept": False},
                  {"row": 0, "column": 1, "closure_vox": [0, 0, 6], "kept": True}],
        "model": {"EAST": [0, 0, 102.5]}, "summary": {}, "warnings": ["one tile by the model"],
    })  # fmt: skip
    write(folder, "fused/ch0/complete.json", {
        "shape": [64, 100, 222], "voxels": 1000, "saturated": 1, "clipped_low": 0,
        "clipped_high": 0, "sha256": "abc", "bytes": 2_000_000,
    })  # fmt: skip
    write(folder, "registration/allen/summary.json", {
        "kept": "deformation", "jacobian_min": -0.05, "jacobian_max": 1.9,
        "inverse_error_um": 12.5, "match_affine": 1.5, "match_deformed": 1.2,
        "mixture": {"shares": {"match": 0.93, "artefact": 0.02, "missing": 0.05},
                    "sigma": [[0.06, 0.5, 0.06], [0.2, 1.0, 0.2]]},
        "expected_tissue": {"match": 0.35, "artefact": 0.05, "missing": 0.6},
        "scale": 0.8, "scale_ratio": 1.1, "unexplained_percent": 45.0, "worse_percent": 0.0,
        "levels": [{"voxel_um": 200.0}, {"voxel_um": 100.0}], "warnings": ["anisotropy: 25:1"],
    })  # fmt: skip
    write(folder, "registration/allen/pose.json", {
        "warnings": ["anisotropy: 25:1", "mirrored_affine: left and right"],
        "left_right": "contradicted, see the warnings",
    })  # fmt: skip
    write(
        folder,
        "registration/allen/energy.tsv",
        "level\tvoxel_um\tround\tmatch\ttotal\n0\t400\t0\t5\t5\n0\t400\t1\t4\t4.5\n1\t200\t0\t3\t3.5\n",
    )
    write(
        folder,
        "registration/allen/quality.tsv",
        "id\tacronym\tname\themisphere\tvolume_mm3\tfit_percent\tmissing_percent\t"
        "artefact_percent\tvolume_ratio\tvolume_ratio_low\tvolume_ratio_high\tscore\treason\t"
        "z_um\ty_um\tx_um\n"
        "1\tCP\tCaudoputamen\tleft\t12\t\t60\t1\t1\t0.9\t1.1\t3\tmissing\t1\t2\t3\n"
        "2\tTH\tThalamus\tright\t6\t1.234\t0\t1e-9\t1\t0.9\t1.1\t0.2\tfit\t1\t2\t3\n",
    )
    write(
        folder,
        "regions/allen.tsv",
        "id\tacronym\tname\tscope\themisphere\tvolume_mm3\tatlas_volume_mm3\tcoverage\tch0_mean\n"
        "1\tCP\tCaudoputamen\town\tboth\t25.5\t30\t1\t312.5\n"
        "2\tTH\tThalamus\town\tboth\t12\t10\t0.8\t200\n"
        "2\tTH\tThalamus\ttree\tboth\t99\t99\t0\t1\n",
    )
    write(
        folder,
        "accuracy/allen.tsv",
        "kind\tname\terror_um\taffine_error_um\nfiducial\ta\t30\t90\nfiducial\tb\t50\t80\n"
        "summary\tmean\t40\t85\n",
    )
    write(
        folder,
        "overlap/allen.tsv",
        "kind\tid\tacronym\tname\tdice\taffine_dice\nregion\t1\tCP\tCaudoputamen\t0.9\t0.7\n"
        "region\t2\tTH\tThalamus\t0.8\t0.6\nsummary\t\t\tmean\t0.85\t0.65\n",
    )
    (folder / "views").mkdir()
    (folder / "views" / "flatfield_ch0.png").write_bytes(picture)
    write(folder, "views/neuroglancer.json", {"layers": [{"source": "zarr3://{store}/brain7"}]})
    return folder


def gather(folder, **options):
    return report.gather_report(folder, sample="brain7", **options)


def test_what_an_earlier_run_left_is_not_shown(results, picture):
    before = gather(results)
    made = [p for p in results.rglob("*") if p.is_file()]
    seams = {"before": 9.0, "after": 3.0, "noise": 2.9, "beyond": 0.1}
    write(results, "intensity/ch0/stripes.json",
          {"lines": "rows", "spread_percent": 3.0, "seam_percent": seams})  # fmt: skip
    (results / "views" / "stripes_ch0.png").write_bytes(picture)
    assert gather(results, files=made) == before
    shown = gather(results)
    assert shown != before and "Stripe artefacts of channel ch0" in json.dumps(shown)
    step = [v["value"] for v in shown["verdicts"] if v["key"] == "intensity.seam_percent"]
    assert step == [0.1]
    write(results, "intensity/ch0/stripes.json",
          {"lines": "rows", "spread_percent": 0.0, "seam_percent": None})  # fmt: skip
    step = [v["value"] for v in gather(results)["verdicts"] if v["key"] == "intensity.seam_percent"]
    assert step == [v["value"] for v in before["verdicts"] if v["key"] == "intensity.seam_percent"]


def test_a_tile_with_tissue_in_its_middle_alone_is_loose(results):
    """Its neighbours see nothing of it, so only its own brightness tells."""
    info = {"method": "statistics", "seam_percent": 0.4}
    for shares, loose in (({"LOC004": 0.2, "LOC000": 0.9}, 2), ({"LOC004": 0.002}, 1)):
        write(results, "intensity/ch0/flatfield.json", info | {"tissue_by_tile": shares})
        (verdict,) = (v for v in gather(results)["verdicts"] if v["key"] == "stitching.loose_tiles")
        assert (verdict["value"], verdict["status"]) == (loose, "warn")


def test_seams_are_off_where_that_was_measured(results):
    """A share that is foretold says nothing by itself."""
    path = results / "stitching/placement.json"
    data = json.loads(path.read_text())
    for one, share in zip(data["links"], (1.0, 0.0, None, 0.99, None, None)):
        one["seam_share"] = share
    write(results, "stitching/placement.json", data)

    def verdict():
        shown = gather(results)
        found = [v for v in shown["verdicts"] if v["key"] == "stitching.seams_off_percent"]
        stage = next(s for s in shown["stages"] if s["id"] == "stitching")
        return found[0]["value"], found[0]["status"], stage["warnings"]

    fits = (
        ({"at_best": 0.5, "as_placed": 0.9, "off": False}, [], 0, "pass"),
        ({"at_best": 0.9, "as_placed": 0.1, "off": True}, ["LOC001-LOC002"], 100 / 3, "fail"),
    )
    for fit, told, percent, status in fits:
        seams = [{"a": "LOC001", "b": "LOC002"} | fit]
        write(results, "stitching/seams.json", {"seams": seams, "warnings": told})
        value, given, warnings = verdict()
        assert (value, given) == (pytest.approx(percent), status)
        assert sorted(warnings) == sorted(["one tile by the model", *told])


def test_what_the_run_took_stands_beside_its_plan(results):
    assert "Per stage" not in report.render_report(gather(results))
    plan = [Planned("fused", 4, 2.0, 12.0, 100.0, 60.0, 8192)]
    record = {"rule": "fuse_blocks", "seconds": 90, "cpu_s": 360, "peak_mb": 777,
              "bytes_read": 3 * 10**9, "bytes_written": 10**9}  # fmt: skip
    page = report.render_report(gather(results, costs=cost_table(plan, [record], 2.0)))
    for words in ("Per stage", "Fused volume", "1 (4)", "777 (8192)", "<strong>2.0</strong>"):
        assert words in page, words
    page = report.render_report(gather(results, costs=cost_table(plan, [], 2.0)))
    assert "<strong>–</strong>" in page


@pytest.mark.parametrize(
    ("as_placed", "at_best", "kept"),
    [(0.9, 0.4, 75), (0.3, 0.1, 50), (0.6, 0.9, 50), (None, 0.9, 50), (0.8, None, 75)],
)
def test_a_rejected_link_whose_seam_fits_is_not_missed(results, as_placed, at_best, kept):
    fit = {"a": "LOC001", "b": "LOC002", "as_placed": as_placed, "at_best": at_best, "off": False}
    used = fit | {"a": "LOC000", "b": "LOC001", "as_placed": 1.0, "at_best": 1.0}
    write(results, "stitching/seams.json", {"seams": [fit, used], "warnings": []})
    values = {v["key"]: v["value"] for v in gather(results)["verdicts"]}
    assert values["stitching.kept_percent"] == kept


def test_measures_are_taken_from_the_files(results):
    found = {(v["key"], v["subject"]): v for v in gather(results)["verdicts"]}
    values = {key: v["value"] for key, v in found.items()}
    assert values["acquisition.problems", ""] == 1
    assert values["overlap.dice_mean", "allen"] == 0.85
    assert values["acquisition.missing_planes", ""] == 2
    assert values["intensity.seam_percent", "ch0"] == 0.4
    assert values["stitching.kept_percent", ""] == 50, "links without signal are not missed"
    assert values["stitching.loose_tiles", ""] == 1, "LOC002: nothing shows that LOC004 has tissue"
    assert values["stitching.residual_p95_vox", ""] == 0.5
    assert values["stitching.loop_closure_vox", ""] == 6
    assert values["volume.saturated_percent", "ch0, fused"] == pytest.approx(0.1)
    assert values["registration.jacobian_min", "allen"] == -0.05
    assert values["registration.gain", "allen"] == pytest.approx(0.3)
    assert values["registration.matching_percent", "allen"] == 93
    judged = {"missing": (60, "fail"), "artefact": (5, "pass"), "residual": (20, "warn")}
    for name, (value, status) in judged.items():
        assert values[f"registration.{name}_percent", "allen"] == pytest.approx(value)
        assert found[f"registration.{name}_percent", "allen"]["status"] == status
    assert values["registration.jacobian_max", "allen"] == 1.9
    assert values["registration.inverse_error_vox", "allen"] == pytest.approx(0.125)
    assert values["registration.scale_factor", "allen"] == pytest.approx(1.25)
    assert found["registration.scale_factor", "allen"]["status"] == "warn"
    assert found["registration.unexplained_percent", "allen"]["status"] == "fail"
    assert values["regions.coverage_percent", "allen"] == pytest.approx(95)
    assert values["accuracy.mean_um", "allen"] == 40
    assert found["registration.jacobian_min", "allen"]["status"] == "fail"


def test_failures_come_first(results):
    order = [v["status"] for v in gather(results)["verdicts"]]
    assert order == sorted(order, key=["fail", "warn", "pass"].index)
    assert set(order) == {"fail", "warn", "pass"}
    text = report.render_report(gather(results))
    assert text.index("✗ failed") < text.index("! look") < text.index("✓ passed")
    assert text.index("✗ failed") < text.index('id="acquisition"')


def test_page_is_self_contained_and_accessible(results):
    text = report.render_report(
        gather(results, provenance={"config_hash": "a1", "software": {"numpy": "2"}})
    )
    page = Page(text)
    for tag, attributes in page.elements:
        # what the page shows is in the page; what it links to lies beside it
        inside = ("#", "data:")
        assert attributes.get("src", "#").startswith(inside), (tag, attributes)
        href = attributes.get("href", "#")
        beside = tag == "a" and "//" not in href and (results / unquote(href)).is_file()
        assert href.startswith(inside) or beside, (tag, href)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(image["alt"].strip() for image in page.all("img"))
    assert page.all("th") and all(th["scope"] in ("row", "col") for th in page.all("th"))
    assert any("width=device-width" in m.get("content", "") for m in page.all("meta"))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"][0] == "#"} <= set(ids)
    assert "software numpy" in page.words and "a1" in page.words


def test_what_came_from_files_is_escaped(results):
    text = report.render_report(gather(results) | {"sample": "<img src=x onerror=alert(1)>"})
    assert "<img src=x" not in text
    assert "says &lt;3&gt; channels" in text


def test_a_panel_appears_only_if_its_files_exist(results, tmp_path):
    data = gather(results)
    assert [s["id"] for s in data["stages"]] == [
        "acquisition", "intensity", "stitching", "fused", "registration", "regions", "accuracy",
    ]  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    data = gather(empty)
    assert data["stages"] == [] and data["verdicts"] == [] and data["files"] == []
    text = report.render_report(data)
    Page(text)
    assert "No figure of this run has been judged yet" in text
    assert "Time and memory" not in text


def test_points_that_were_read_wrongly_are_in_the_verdict(results):
    told = (
        "points mine: 41 % of them are inside a region, but 98 % would be if z and x were exchanged"
    )
    write(results, "points/mine/summary.json", {
        "points": 500, "atlas": "allen", "in_region_percent": 41.0, "outside_volume": 3,
        "other": "if z and x were exchanged", "other_percent": 98.0, "warnings": [told],
    })  # fmt: skip
    write(
        results,
        "points/mine.tsv",
        "id\tacronym\tname\tscope\themisphere\tcount\tper_mm3\n"
        "1\tCP\tCaudoputamen\town\tboth\t205\t4.5\n",
    )
    data = gather(results)
    (stage,) = [s for s in data["stages"] if s["id"] == "cells"]
    facts, regions = stage["tables"]
    assert ["points", "500"] in facts["rows"] and stage["warnings"] == [told]
    assert regions["rows"] == [["CP", "Caudoputamen", "205", "4.5"]]
    assert "points per mm³" in report.render_report(data)
    found = {v["key"]: v for v in data["verdicts"] if v["key"].startswith("points.")}
    assert {v["status"] for v in found.values()} == {"warn"}
    assert found["points.other_reading_percent"]["value"] == 57
    assert any("section Cells and signal says which" in s["advice"] for s in data["steps"])


def test_cells_and_signal_per_region(results):
    write(results, "cells/cfos.json", {
        "cells": 12, "per_mm3": 3.5, "saturated": 0, "quartiles": {"contrast": [6, 8, 11]},
        "settings": {"channel": "ch0", "diameter_um": 10, "threshold": 6},
    })  # fmt: skip
    head = "id\tacronym\tname\tscope\themisphere\t"
    write(
        results,
        "cells/cfos/allen/regions.tsv",
        head + "count\tper_mm3\n1\tCP\tCaudoputamen\town\tboth\t3\t4.5\n"
        "2\tTH\tThalamus\town\tboth\t9\t7\n2\tTH\tThalamus\ttree\tboth\t99\t7\n"
        "0\t\tin no region\town\tboth\t4\t\n",
    )
    write(
        results,
        "derived/axons/regions/allen.tsv",
        head + "signal_mm3\tsignal_percent\tintensity_mean\n"
        "1\tCP\tCaudoputamen\town\tboth\t0.5\t2.25\t900\n",
    )
    data = gather(results)
    (stage,) = [s for s in data["stages"] if s["id"] == "cells"]
    facts, cells, signal = stage["tables"]
    assert ["cells", "12"] in facts["rows"] and ["diameter (µm)", "10"] in facts["rows"]
    assert [row[:3] for row in cells["rows"]] == [
        ["TH", "Thalamus", "9"],
        ["CP", "Caudoputamen", "3"],
    ]
    assert signal["rows"] == [["CP", "Caudoputamen", "0.5", "2.25", "900"]]
    assert "cells per mm³" in report.render_report(data) and not stage["warnings"]
    (outside,) = [v for v in data["verdicts"] if v["key"].startswith("points.")]
    assert outside["subject"] == "cfos, allen" and outside["shown"] == "66.67\u00a0%"
    assert outside["status"] == "warn"
    write(results, "cells/cfos.json", {"cells": 0, "settings": {"channel": "ch0"}})
    (stage,) = [s for s in gather(results)["stages"] if s["id"] == "cells"]
    assert "no cell was found; check the channel" in stage["warnings"][0]


def test_derived_volumes_name_the_labels_that_they_lie_within(results):
    chosen = {
        "derived.tissue.do": "tissue", "derived.tissue.from": "fused/ch0",
        "derived.small.do": "downsample", "derived.small.from": "fused/ch0",
        "derived.small.within": "derived/tissue",
    }  # fmt: skip
    settings = {k: {"value": v, "default": None, "changed": True} for k, v in chosen.items()}
    write(results, "derived/tissue/complete.json", {"blocks": 12})
    write(results, "derived/small/complete.json", {"blocks": 12, "blocks_outside": 5})
    data = gather(results, settings=settings | USUAL)
    ((table,),) = [s["tables"] for s in data["stages"] if s["id"] == "derived"]
    assert table["columns"][3:] == [
        "only within the labels", "blocks without these labels", "of blocks"
    ]  # fmt: skip
    assert table["rows"] == [
        ["small", "downsample", "fused/ch0", "derived/tissue", "5", "12"],
        ["tissue", "tissue", "fused/ch0", "–", "–", "–"],
    ]
    page = report.render_report(data)
    assert "only within the labels" in page and "derived/tissue" in page
    chosen.pop("derived.small.within")
    (results / "derived/small/complete.json").unlink()
    settings = {key: settings[key] for key in chosen}
    data = gather(results, settings=settings | USUAL)
    ((table,),) = [s["tables"] for s in data["stages"] if s["id"] == "derived"]
    assert table["columns"] == ["volume or objects", "tool", "made from"]


def test_figures_are_embedded_beside_their_stage(results):
    stage = next(s for s in gather(results)["stages"] if s["id"] == "intensity")
    (figure,) = stage["figures"]
    assert figure["source"].startswith("data:image/png;base64,iVBOR")
    assert figure["caption"].startswith("ch0: Flat-field")
    (results / "views" / "something_new.png").write_bytes(b"\x89PNG")
    assert gather(results)["stages"][-1]["figures"][0]["alt"] == "something new"


def test_unused_links_are_listed_with_their_reason(results):
    stage = next(s for s in gather(results)["stages"] if s["id"] == "stitching")
    rows = stage["tables"][1]["rows"]
    assert rows == [
        ["LOC001", "LOC002", "contradicts the others, not used", "50", "residual 50 > 3"],
        ["LOC000", "LOC002", "poorly measured, not used", "0", "windows disagree (1 of 6 agree)"],
    ]
    assert stage["warnings"] == ["one tile by the model"]


def test_a_layout_that_seems_to_be_wrong_is_something_to_look_at(results):
    write(results, "stitching/steps.json", {"warnings": ["only 2"], "contradicted": ["EAST"]})
    data = gather(results)
    stage = next(s for s in data["stages"] if s["id"] == "stitching")
    assert stage["warnings"] == ["only 2", "one tile by the model"]
    (found,) = (v for v in data["verdicts"] if v["key"] == "stitching.contradicted_steps")
    assert (found["value"], found["status"]) == (1, "warn")
    assert "The stage runs the other way, or its axes are exchanged" in found["advice"]


def test_warnings_of_pose_and_registration_are_shown_once(results):
    stage = next(s for s in gather(results)["stages"] if s["id"] == "registration")
    assert stage["warnings"] == [
        "allen: anisotropy: 25:1",
        "allen: mirrored_affine: left and right",
    ]
    facts = str(next(t for t in stage["tables"] if t["title"] == "Registration to allen"))
    assert "left and right" in facts and "contradicted, see the warnings" in facts


def test_equal_results_give_equal_pages_in_any_folder(results, tmp_path):
    text = report.render_report(gather(results))
    moved = results.rename(tmp_path / "elsewhere")
    assert report.render_report(gather(moved)) == text
    assert str(tmp_path) not in text


def test_thresholds_can_be_changed_and_mistakes_are_named(results):
    limits = {"registration.jacobian_min": {"fail": -1, "warn": -0.5}}
    found = {v["key"]: v["status"] for v in gather(results, limits=limits)["verdicts"]}
    assert found["registration.jacobian_min"] == "pass"
    for wrong, message in (
        ({"a": {}}, "threshold 'a' is unknown"),
        ({"accuracy.mean_um": {"alarm": 1}}, "'alarm' is unknown; give warn or fail"),
        ({"accuracy.mean_um": {"warn": "1"}}, "warn '1' is not a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            gather(results, limits=wrong)


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("registration.jacobian_min", 0.0, "fail"),
        ("registration.jacobian_min", 0.05, "warn"),
        ("registration.jacobian_min", 0.3, "pass"),
        ("accuracy.mean_um", 150.0, "pass"),
        ("accuracy.mean_um", 151.0, "warn"),
        ("accuracy.mean_um", 501.0, "fail"),
        ("acquisition.problems", 0, "pass"),
        ("acquisition.problems", 99, "warn"),
    ],
)
def test_limits(key, value, status):
    (verdict,) = thresholds.judge([(key, "", value)])
    assert verdict.status == status


def test_what_was_not_measured_gets_no_verdict():
    assert (
        thresholds.judge([("accuracy.mean_um", "", None), ("accuracy.mean_um", "", np.nan)]) == []
    )


def test_every_threshold_is_complete():
    for key, row in thresholds.THRESHOLDS.items():
        assert set(row) == {"text", "unit", "worse", "warn", "fail", "advice"}, key
        assert row["worse"] in ("above", "below") and row["text"] and row["advice"]
        limits = [v for v in (row["warn"], row["fail"]) if v is not None]
        assert limits == sorted(limits, reverse=row["worse"] == "below"), key


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (1234567, "1\u202f234\u202f567"), (0.123456, "0.1235"), (12.0, "12"),
     (54321.7, "54\u202f322"), (1.5e-7, "1.50e-07"), (None, "–"), (float("nan"), "–"),
     (True, "yes"), ([1, 2.5], "1, 2.5"), ("x", "x"), (0.0, "0")],
)  # fmt: skip
def test_numbers_are_written_for_people(value, shown):
    assert report.show(value) == shown


def test_written_page_is_the_rendered_one(results, tmp_path):
    data = gather(results)
    report.write_report(tmp_path / "new" / "report.html", data)
    written = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert written == report.render_report(data)
    assert re.search(r"Content-Security-Policy.*default-src 'none'", written)


def test_the_command_of_the_viewer_can_be_pasted_whatever_the_folder_is_called(results):
    command = gather(results, store_url="/data/my brain; rm -rf $HOME")["viewer"]["command"]
    words = shlex.split(command)
    assert words[:2] == ["terareg", "view"]
    assert words[2] == "/data/my brain; rm -rf $HOME" and words[3] == "--state"


def test_sides_of_a_channel_are_judged_and_described(results):
    match = {
        "channel": "signal", "sides": ["left", "right"], "ends": ["-x", "+x"], "across": "volume",
        "weights": "content", "own_percent": [60.0, 40.0],
        "gain": 0.4, "gain_sigma": 0.01, "left_percent": 4.0, "places": 9, "sharper": 0.8,
        "warnings": ["swap the ends"],
    }  # fmt: skip
    shift = {"channel": "right", "against": "left", "state": "measured", "bend_vox": 0.0,
             "shift_vox": [1.0, -2.0, 0.5], "sigma_vox": [0.02] * 3, "agree": 8, "of": 9,
             "warnings": []}  # fmt: skip
    write(results, "stitching/sides/signal.json", match)
    write(results, "stitching/channels/right.json", shift)
    data = gather(results, settings=USUAL)
    found = {v["key"]: v for v in data["verdicts"] if v["subject"] == "signal"}
    assert found["stitching.sides_brightness"]["value"] == 2.5
    assert found["stitching.sides_brightness"]["status"] == "warn"
    assert found["stitching.sides_left_percent"]["status"] == "warn"
    assert found["stitching.sides_sharper"]["status"] == "fail"
    stage = next(s for s in data["stages"] if s["id"] == "stitching")
    assert "swap the ends" in stage["warnings"]
    (table,) = [t for t in stage["tables"] if t["title"] == "Sides of one channel"]
    assert table["rows"][0][:6] == [
        "signal",
        "left (-x)",
        "right (+x)",
        "content",
        "volume",
        "60, 40",
    ]
    links = json.loads((results / "stitching/placement.json").read_text())
    for link in links["links"]:
        link |= {"side": "right", "state": "kept", "displ_vox": [0.0, 1.0, 100.0]}
    write(results, "stitching/placement.json", links)
    stage = next(s for s in gather(results)["stages"] if s["id"] == "stitching")
    count = len(links["links"])
    assert ["displacements used that were measured on side right", str(count)] in [
        row[:2] for table in stage["tables"] for row in table["rows"]
    ]
    text = data["methods"]["text"]
    assert "The sides left and right of channel signal, which were 5.0, " in text
    assert "right was multiplied by 0.4 to match left" in text


def test_channels_that_do_not_coincide_are_judged_and_one_that_was_not_measured_is_named(results):
    common = {"against": "ch0", "reason": "", "bend_vox": 0.0, "agree": 80, "of": 90}
    for channel, state, shift, sigma, texts in (
        ("ch1", "measured", [1.5, -2.0, 3.0], [0.02, 0.3, 0.02], []),
        ("ch2", "not measured", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], ["the shift of ch2 is not"]),
        ("ch3", "given", [0.0, 25.0, 0.0], [0.0, 0.0, 0.0], []),
    ):
        data = {"channel": channel, "state": state, "shift_vox": shift, "sigma_vox": sigma}
        write(results, f"stitching/channels/{channel}.json", common | data | {"warnings": texts})
    data = gather(results)
    found = {(v["key"], v["subject"]): v["status"] for v in data["verdicts"]}
    assert found["stitching.channel_shift_vox", "ch1"] == "pass"
    assert found["stitching.channel_left_vox", "ch1"] == "warn"
    assert found["stitching.channel_shift_vox", "ch3"] == "warn"
    assert found["stitching.channels_unmeasured", ""] == "warn"
    assert not [subject for _, subject in found if subject == "ch2"]
    stage = next(s for s in data["stages"] if s["id"] == "stitching")
    assert "the shift of ch2 is not" in stage["warnings"]
    (table,) = [t for t in stage["tables"] if t["title"] == "Shifts between channels"]
    assert [row[0] for row in table["rows"]] == ["ch1", "ch2", "ch3"]


def test_the_first_page_says_whether_why_and_what_next(results, picture):
    (results / "views" / "borders_coronal_allen.jpg").write_bytes(picture)
    write(results, "views/slices_allen.html", "<!doctype html>")
    data = gather(results)
    assert data["conclusion"]["title"] == "Not usable as it is"
    assert data["steps"][0]["status"] == "fail"
    (brain,) = data["brains"]
    assert brain["slices"] == "views/slices_allen.html" and len(brain["planes"]) == 1
    assert brain["planes"][0]["source"].startswith("data:image/jpeg;base64,")
    assert brain["worst"][0] == {
        "name": "Caudoputamen (CP), left", "why": "60\u00a0% missing", "look": True,
    }  # fmt: skip
    assert brain["suspicious"] == 1
    text = report.render_report(data)
    places = [text.index(words) for words in (
        "Not usable as it is", "What to do next", "borders_coronal_allen", "Worst regions",
        "Where is it bad</h2>", 'id="checks"', 'id="acquisition"',
    )]  # fmt: skip
    assert places == sorted(places)


def test_regions_are_listed_the_worst_first_with_what_else_is_known_of_them(results):
    summary = json.loads((results / "registration/allen/summary.json").read_text())
    (one,) = gather(results)["where"]
    assert one["table"]["rows"][0] == [
        "CP", "Caudoputamen", "left", "12", "–", "60", "1", "1", "0.9", "1.1", "60\u00a0% missing",
    ]  # fmt: skip
    assert one["table"]["rows"][1][4:7] == ["1.23", "0", "0"]
    write(results, "registration/allen/summary.json", summary | {"worse_regions": ["TH"]})
    (one,) = gather(results)["where"]
    assert one["table"]["rows"][1][-1] == "the affine fits better"


def test_an_error_bar_is_a_column_where_there_is_one(results):
    path = results / "registration/allen/quality.tsv"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head}\terror_um", *(f"{row}\t45.67" for row in rows)]) + "\n")
    (one,) = gather(results)["where"]
    assert "error bar (µm)" in one["table"]["columns"]
    assert one["table"]["rows"][0][-2] == "45.7"


def test_numbers_of_one_name_are_one_number(results):
    """What is missing is told once: of the tissue that the atlas expects."""
    text = " ".join(Page(report.render_report(gather(results))).words)
    assert "missing from the sample" in text
    for number in ("5.0%", "0.05", "5 %"):
        assert f"missing {number}" not in text and f"missing (%) {number}" not in text


def test_keys_of_files_never_reach_the_reader(results):
    """Only words of views/words.py, columns of tables, settings and names of files are shown."""
    info = {"method": "statistics", "a_new_key": 5, "seam_percent": {"before": 9, "after": 1}}
    write(results, "intensity/ch0/flatfield.json", info)
    write(results, "bias/ch0.json", {"field_99_percent": 1.257, "other_thing": [1, 2]})
    shown = [
        row for stage in gather(results)["stages"] for t in stage["tables"] for row in t["rows"]
    ]
    names = [row[0] for row in shown]
    assert not [n for n in names if "_" in n or "new key" in n or "other thing" in n]
    assert ["brightness, 99th percentile (factor of the mean)", "1.257"] in shown


def test_settings_are_all_there_and_changed_ones_by_themselves(results):
    settings = {
        "input.kind": {"value": "colm", "default": "colm", "changed": False},
        "input.bias": {"value": None, "default": 10.0, "changed": True},
    }
    data = gather(results, settings=settings | USUAL)
    assert [row["key"] for row in data["settings"]["changed"]] == ["input.bias"]
    assert data["settings"]["changed"][0]["value"] == "–"
    page = Page(report.render_report(data))
    assert "1 of " in " ".join(page.words) and "input.bias" in page.words


def test_methods_name_the_version_and_can_be_copied(results):
    origin = {"terareg": "9.8.7", "software": {"numpy": "2.0"}}
    data = gather(results, settings=USUAL, provenance=origin)
    assert "terareg 9.8.7" in data["methods"]["text"] and "numpy 2.0" in data["methods"]["text"]
    assert "@article{tward," in report.render_report(data)
    assert "Stripe" not in data["methods"]["text"]
    gains = {"lines": "rows", "spread_percent": 3.0, "seam_percent": {"before": 9, "after": 1}}
    write(results, "intensity/ch0/stripes.json", gains)
    assert "Stripe" in gather(results, settings=USUAL)["methods"]["text"], "the run found some"


def test_a_sample_without_atlas_shows_its_volume_first(tmp_path, picture):
    write(tmp_path, "views/.keep", "")
    for name in ("fused_ch0", "bias_ch0", "flatfield_ch0"):
        (tmp_path / "views" / f"{name}.png").write_bytes(picture)
    (brain,) = gather(tmp_path)["brains"]
    assert [p["file"] for p in brain["zooms"]] == ["views/fused_ch0.png"]
    text = report.render_report(gather(tmp_path))
    assert text.index("views/fused_ch0.png") < text.index('id="checks"')
    assert "Worst regions" not in text


def test_the_first_look_at_an_image_is_beside_what_is_said_of_it(tmp_path, results, picture):
    image = {"source": "a.nii", "form": "NIfTI", "source_dtype": "uint8", "dtype": "uint8"}
    frame = {"shape": [3, 4, 5], "spacing_um": [1.0, 1.0, 1.0], "orientation": "SAR"}
    own = tmp_path / "imported"
    write(own, "input.json", {"version": 1, "frame": frame, "channels": {"t1": image}})
    for folder, there in ((own, "input"), (results, "acquisition")):
        (folder / "views").mkdir(parents=True, exist_ok=True)
        (folder / "views/first_look_mouse.png").write_bytes(picture)
        stages = {stage["id"]: stage for stage in gather(folder)["stages"]}
        files = [figure["file"] for figure in stages[there]["figures"]]
        assert files == ["views/first_look_mouse.png"]
        assert {"input", "acquisition"} & stages.keys() == {there}


def test_volumes_are_links_where_a_browser_can_follow(results):
    write(results, "fused/ch0/complete.json", {"formats": ["ome-zarr", "precomputed"]})
    (results / "fused" / "ch0" / "ome.zarr").mkdir()
    shown = gather(results, store_url=str(results.parent))["volumes"]
    assert [v["form"] for v in shown] == ["ome-zarr", "precomputed"]
    assert shown[0]["address"] == f"{results.parent}/brain7/fused/ch0/ome.zarr"
    assert [v["href"] for v in shown] == ["fused/ch0/ome.zarr", ""]
    (bucket, _) = gather(results, store_url="s3://lab/brains")["volumes"]
    assert (bucket["address"], bucket["href"]) == ("s3://lab/brains/brain7/fused/ch0/ome.zarr", "")


def test_a_public_store_gives_a_link_to_the_viewer(results):
    state = {"layers": [], "title": "brain"}
    write(results, "views/neuroglancer.json", state)
    link = gather(results)["viewer"]["link"]
    assert link.startswith("https://neuroglancer-demo.appspot.com/#!")
    write(results, "views/neuroglancer.json", {"layers": [{"source": "zarr3://{store}/a"}]})
    assert gather(results)["viewer"]["link"] == ""


def test_an_atlas_that_is_reached_through_another_one_says_so(results):
    """Its figures are its own and the known transform's; those of the registration are there."""
    plain = {(v["key"], v["subject"]): v["value"] for v in gather(results)["verdicts"]}
    summary = {
        "through": "allen", "points_from": "ccf", "files": ["1Warp.nii.gz", "0.mat"],
        "jacobian_min": 0.4, "jacobian_max": 1.5, "inverse_error_um": 20.0, "voxel_um": 100.0,
        "warnings": ["positions move by up to 9 um"],
        "known": {"kind": "registration", "overlap_percent": 91.0},
        "known_registration": {"jacobian_min": 0.7, "scale": 1.5},
        "registered": {"jacobian_min": -0.05},
    }  # fmt: skip
    folder = results / "registration/ccf"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    data = gather(results)
    found = {(v["key"], v["subject"]): v["value"] for v in data["verdicts"]}
    assert found["registration.jacobian_min", "ccf"] == 0.4
    assert found["registration.inverse_error_vox", "ccf"] == 0.2
    assert found["registration.jacobian_min", "ccf to allen"] == 0.7
    assert found["registration.scale_factor", "ccf to allen"] == 1.5
    assert {k: v for k, v in found.items() if k[1] == "allen"} == {
        k: v for k, v in plain.items() if k[1] == "allen"
    }
    page = report.render_report(data)
    for words in ("Atlas ccf, reached through allen", "1Warp.nii.gz, 0.mat",
                  "ccf: positions move by up to 9 um", "nobody here measured it"):  # fmt: skip
        assert words in page, words


def test_halves_of_an_atlas_that_differ_are_told(results):
    """The middle plane of an image in which the brain lies to one side divides it wrongly."""
    head = "id\tacronym\tname\tscope\themisphere\tvolume_mm3\tatlas_volume_mm3\tcoverage\n"
    rows = {
        "off": [("left", 7), ("right", 5), ("both", 12)],
        "even": [("left", 6.1), ("right", 5.9), ("both", 12)],
        "half": [("left", 6), ("right", 0), ("both", 6)],
    }
    for name, sides in rows.items():
        lines = [f"1\tA\tA\town\t{side}\t1\t{volume}\t1\n" for side, volume in sides]
        write(results, f"regions/{name}.tsv", head + "".join(lines))
    stage = next(s for s in gather(results)["stages"] if s["id"] == "regions")
    (told,) = stage["warnings"]
    assert told.startswith("58 % of the regions of atlas off are left and 42 % right")
    assert "give atlases.off.hemispheres" in told


def test_shares_near_nothing_have_no_exponent(results):
    write(results, "fused/ch0/complete.json", {"voxels": 10**9, "saturated": 3,
                                               "clipped_low": 0, "clipped_high": 0})  # fmt: skip
    shown = {v["key"]: v["shown"] for v in gather(results)["verdicts"]}
    assert shown["volume.saturated_percent"] == "below 0.001\u00a0%"
    assert shown["volume.clipped_percent"] == "0\u00a0%"


def test_likelihoods_are_shown_as_percent(results):
    data = gather(results)
    shown = {v["key"]: (v["shown"], v["limits"]) for v in data["verdicts"]}
    # a logarithm of 0.3 per voxel
    assert shown["registration.gain"][0].split() == ["35", "%"]
    assert shown["registration.gain"][1] == "warns at or below 1 %, fails at or below 0 %"
    value, unit = thresholds.in_unit(9.11e-05, thresholds.LOG_RATIO)
    assert (value, unit) == (0.0, "%")


def test_an_image_is_imported_and_told_of_what_is_odd_about_it(tmp_path):
    folder = tmp_path / "scan"
    image = {"source": "a.zarr", "form": "OME-Zarr", "source_dtype": "uint16", "dtype": "uint16"}
    frame = {"shape": [3, 4, 5], "spacing_um": [9, 9, 9], "orientation": "SAR"}
    channels = {"t1": image | {"ignored_images": ["'dapi'"]}, "seg": image, "dark": image}
    write(folder, "input.json", {"frame": frame, "channels": channels})
    usual = {"voxels": 1000, "saturated": 0, "clipped_low": 0, "clipped_high": 0}
    write(folder, "fused/t1/complete.json", usual | {"grey_values": 300, "piled_percent": 7.5})
    write(folder, "fused/seg/complete.json", usual | {"grey_values": 41, "piled_percent": 0})
    write(folder, "fused/dark/complete.json", usual)
    for name, absent in (("t1", 3), ("seg", 0), ("dark", None)):
        write(folder, f"fused/{name}/plan.json", {"source": image | {"absent_chunks": absent}})
    data = gather(folder)
    warnings = [w for stage in data["stages"] for w in stage["warnings"]]
    told = [w for w in warnings if "are missing and were read as zeros" in w]
    assert [w.split(" of ")[0] for w in told] == ["channel t1: 3 chunks"]
    rows = next(s for s in data["stages"] if s["id"] == "input")["tables"][1]["rows"]
    assert [row[-1] for row in rows] == ["3", "0", "not counted on the web"]
    assert any(
        "lists further images (multiscales), which are ignored: 'dapi'" in w for w in warnings
    )
    assert sum("different values, as labels" in w for w in warnings) == 1
    assert any("channel seg has only 41 different values" in w for w in warnings)
    status = {v["subject"]: v["status"] for v in data["verdicts"] if "saturated" in v["key"]}
    assert status == {"t1, imported": "fail", "seg, imported": "pass", "dark, imported": "pass"}


def test_one_voxel_is_in_the_singular_and_means_are_of_grey_values(results):
    assert thresholds.in_unit(1.0, "voxels") == (1.0, "voxel")
    assert thresholds.in_unit(1.5, "voxels") == (1.5, "voxels")
    write(results, "regions/a.tsv", "acronym\tname\themisphere\tvolume_mm3\tcoverage\tred_mean\n"
          "A\tA\tboth\t2\t1\t700\n")  # fmt: skip
    stage = next(s for s in gather(results)["stages"] if s["id"] == "regions")
    assert "red: mean grey value" in str(stage["tables"])
