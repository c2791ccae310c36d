"""From raw tiles to the report, once, on a generated brain: all there, right, and readable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import running
import tensorstore
import zarr
from cloudvolume import CloudVolume
from PIL import Image
from read_only import shut_in

pytestmark = pytest.mark.slow

CHANNELS = ("ch0", "ch1")
VOLUMES = [f"{kind}/{c}" for kind in ("fused", "corrected_volume") for c in CHANNELS]
VOLUMES += ["labels/phantom", *(f"atlas_space/phantom/{c}" for c in CHANNELS)]


def promised_files() -> list[str]:
    """What the README promises under ``results/demo``."""
    names = ["acquisition.json", "report.html", "views/neuroglancer.json"]
    names += [f"stitching/{x}" for x in ("placement.json", "steps.json", "pairs/0.json")]
    steps = ("import", "displcomp", "displproj", "displthres", "merging")
    names += [f"stitching/xml_{step}.xml" for step in steps]
    names += ["stitching/TileConfiguration.txt", "stitching/TileConfiguration.registered.txt"]
    render = ("tilespecs.json.gz", "point_matches.json.gz", "stack.json")
    names += [f"stitching/render/{x}" for x in render]
    for c in CHANNELS:
        names += [f"intensity/{c}/flatfield.tif", f"intensity/{c}/flatfield.json"]
        names += [f"bias/{c}.nrrd", f"bias/{c}.json"]
        views = ("flatfield", "tile_means", "fused", "bias", "corrected_volume")
        names += [f"views/{view}_{c}.png" for view in views]
    for volume in VOLUMES:
        names += [f"{volume}/{x}" for x in ("plan.json", "levels.json", "complete.json")]
        names += [f"{volume}/ome.zarr/zarr.json", f"{volume}/precomputed/info"]
    registration = (
        "initial_affine.txt", "pose.json", "preview.png", "affine.txt", "velocity.nrrd",
        "forward.nrrd", "inverse.nrrd", "transform.json", "jacobian.nrrd", "contrast.nrrd",
        "posteriors.nrrd", "predicted.nrrd", "energy.tsv", "summary.json", "verdicts.json",
        "sample_to_atlas_displacement.nrrd", "atlas_to_sample_displacement.nrrd",
    )  # fmt: skip
    names += [f"registration/phantom/{x}" for x in registration]
    names += ["labels/phantom/meshes.json", "regions/phantom.tsv"]
    names += ["accuracy/phantom.tsv", "accuracy/phantom.json"]
    pictures = ("overlay", "prediction", "posteriors", "energy", "jacobian", "regions", "fiducials")
    names += [f"views/{x}_phantom.png" for x in (*pictures, "quality", "first_look")]
    names += [
        f"views/{x}_phantom.jpg"
        for x in ("borders_coronal", "borders_horizontal", "borders_sagittal", "worst")
    ]
    names += ["views/slices_phantom.html", "registration/phantom/quality.tsv"]
    return names + [f"views/{x}.png" for x in ("placement", "seams", "loop_closure")]


def test_everything_that_is_promised_is_there(finished):
    results = finished.folder / "results/demo"
    absent = [x for x in promised_files() if not (results / x).is_file()]
    empty = [x for x in promised_files() if x not in absent and not (results / x).stat().st_size]
    assert absent == [] and empty == []
    atlas = finished.folder / "results/atlases/phantom"
    names = {p.name for p in atlas.iterdir() if p.is_file()}
    assert names == {
        "template.nrrd", "annotation.nrrd", "hemispheres.nrrd", "ontology.tsv", "atlas.json",
    }  # fmt: skip


def test_every_stage_recovers_the_truth(finished, tmp_path):
    done = running.phantom(
        finished, "score", "--truth", "demo/truth", "--results", "results/demo",
        "--store", "results", "--out", str(tmp_path / "score.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["tile_error_vox"]["max"] <= 1
    assert score["flatfield_rms_percent"] <= 3
    assert score["fused_psnr_db"] >= 30
    assert score["jacobian_min"] > 0
    assert score["dice_mean"] >= 0.85
    voxel_um = score["details"]["registration"]["working_voxel_um"]
    assert score["tre_um"]["mean"] < 0.5 * voxel_um
    assert score["tre_um"]["mean"] < score["details"]["registration"]["best_affine_um"]


def test_every_job_left_a_log_and_its_cost(finished):
    results = finished.folder / "results/demo"
    logs = {p.relative_to(results / "logs").with_suffix("") for p in results.rglob("logs/**/*.log")}
    costs = {
        p.relative_to(results / "benchmarks").with_suffix("")
        for p in results.rglob("benchmarks/**/*.tsv")
    }
    assert len(logs) > 50 and logs == costs
    quiet = [p for p in (results / "logs").rglob("*.log") if " done in " not in p.read_text()]
    assert quiet == []


@pytest.mark.parametrize("volume", VOLUMES)
def test_volumes_are_the_same_voxels_in_three_foreign_readers(finished, volume):
    folder = finished.folder / "results/demo" / volume
    group = zarr.open_group(folder / "ome.zarr", mode="r")
    paths = [x["path"] for x in group.attrs["ome"]["multiscales"][0]["datasets"]]
    scales = json.loads((folder / "precomputed/info").read_text())["scales"]
    assert len(paths) == len(scales) >= 2
    for level, path in enumerate(paths):
        expected = group[path][:]
        cloud = CloudVolume(f"file://{folder / 'precomputed'}", mip=level, progress=False)
        np.testing.assert_array_equal(cloud[:][..., 0].T, expected)
        for driver, where, options in (
            ("zarr3", folder / "ome.zarr" / path, {}),
            ("neuroglancer_precomputed", folder / "precomputed", {"scale_index": level}),
        ):
            store = {"driver": "file", "path": f"{where}/"}
            array = tensorstore.open({"driver": driver, "kvstore": store, **options}).result()
            voxels = array.read().result()
            if driver != "zarr3":
                voxels = voxels[..., 0].T
            np.testing.assert_array_equal(voxels, expected)
    assert group[paths[0]][:].any()


def test_a_second_run_has_nothing_to_do(finished, tmp_path):
    copy = running.copy_of(finished, type(finished)(tmp_path / "copy"))
    before = running.states(copy.folder / "results")
    done = copy.snakemake("--cores", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr
    assert running.states(copy.folder / "results") == before


def test_snakemakes_own_report_has_every_figure_with_its_caption(finished, tmp_path):
    copy = running.copy_of(finished, type(finished)(tmp_path / "copy"))
    done = copy.snakemake("--report", "run.html")
    assert done.returncode == 0, done.stderr
    page = (copy.folder / "run.html").read_text()
    assert "WARNING" not in done.stderr and "missing" not in done.stderr.lower()
    for name in ("preview.png", "report.html", "seams.png", "bias_ch1.png", "regions_phantom.png"):
        assert name in page, name
    for caption in (copy.folder / "workflow/report").glob("*.rst"):
        if caption.stem in ("stripes", "cells", "cohort", "error_bars", "sides"):  # not of this run
            continue
        first = re.split(r"[{`*\n.:]", caption.read_text().strip())[0].strip()
        assert first in page, f"{caption.name}: {first!r}"


def test_the_page_of_results_needs_no_other_file_and_no_network(finished):
    page = (finished.folder / "results/demo/report.html").read_text()
    targets = re.findall(r"""\b(?:src|href|action|data)\s*=\s*["']([^"']*)""", page)
    targets += re.findall(r"""url\(\s*["']?([^)"']*)""", page)
    targets += re.findall(r"""@import\s+["']?([^"';]*)""", page)
    assert len(targets) > 20
    # what the page shows is in it; what it links to lies beside it
    beside = [unquote(t) for t in targets if not t.startswith(("data:", "#"))]
    assert [t[:60] for t in beside if not (finished.folder / "results/demo" / t).exists()] == []
    assert set(beside) >= {"views/slices_phantom.html", "fused/ch0/ome.zarr", "regions/phantom.tsv"}
    anchors = {t[1:] for t in targets if t.startswith("#")}
    assert anchors <= set(re.findall(r"""\bid=["']([^"']+)""", page))
    assert str(finished.folder) not in page


def test_the_figure_of_the_readme_is_drawn_from_a_finished_run(finished, root, tmp_path):
    script, out = root / "docs/development/draw_readme_figure.py", tmp_path / "overview.png"
    done = subprocess.run(
        [sys.executable, script, "--out", out], cwd=finished.folder, text=True,
        capture_output=True, env=finished.environment(PYTHONPATH=str(root / "workflow/scripts")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn, shown = (np.asarray(Image.open(path)) for path in (out, root / "docs/overview.png"))
    assert drawn.shape == shown.shape, "another figure than the one in docs"
    third = drawn.shape[1] // 3
    colour = [np.ptp(drawn[:, i * third : (i + 1) * third], axis=2).max() for i in range(3)]
    assert colour[0] == colour[1] == 0 and colour[2] > 30, "regions are coloured, tiles are not"
    assert (root / "docs/overview.png").stat().st_size < 400_000


def test_raw_data_are_only_read(finished, acquired, raw_before):
    assert running.states(acquired / "demo/raw") == raw_before


def test_nothing_outside_the_configured_folders_is_touched(finished, acquired, home):
    """The run could not write there; nor has it, where mounts do not say so, or left anything."""
    probe = subprocess.run(
        [*shut_in([finished.folder / "results"]), "touch", "demo/raw/new"],
        cwd=finished.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert probe.returncode != 0 and "Read-only file system" in probe.stderr
    outside = {
        name: state
        for name, state in running.states(finished.folder).items()
        if not name.startswith(("results/", ".snakemake/"))
    }
    given = {f"demo/{name}": s for name, s in running.states(acquired / "demo").items()}
    assert outside == given | {"sample.yaml": outside.get("sample.yaml")}
    # caches of Snakemake and of matplotlib, which any program has there
    assert {path.name for path in home.iterdir()} <= {".cache", ".config"}
