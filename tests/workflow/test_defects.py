"""Defects D1 to D45 of the pipeline that terareg replaces: none of them again.

Most have their test beside the room that they concern; here are those that concern the workflow
as a whole, and the list itself.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import running
from workspaces import BIN, ROOT

from terareg.core.errors import TeraregError
from terareg.core.frames import Frame
from terareg.execution.config import load_samples
from terareg.storage.store import Store
from terareg.volumes.objects import record_key
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume, write_block

sys.path.insert(0, str(ROOT / "tests/unit"))

MINIMAL = {
    "sample": "brain",
    "input": {"path": "raw-brain", "orientation": "SAR", "channels": {"auto": 0}},
}
#: no connection is made and nothing but the working folder is written to
OFFLINE = """
import socket

def refuse(*_):
    raise OSError("a job wanted the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def named_defects(text: str) -> set[int]:
    """Numbers that a test names: D7, test_d7_..., and the ends and middles of D1-D3, D4 to D8."""
    found = {int(n) for n in re.findall(r"(?:\b|_)[Dd](\d{1,2})(?=\b|_)", text)}
    for first, last in re.findall(r"\bD(\d{1,2})(?:-| to )D(\d{1,2})\b", text):
        found |= set(range(int(first), int(last) + 1))
    return found


def test_every_defect_has_a_test_that_names_it():
    here = inspect.getsource(test_every_defect_has_a_test_that_names_it)
    sources = [p.read_text() for p in (ROOT / "tests").rglob("test_*.py")]
    own = Path(__file__).read_text()
    sources.remove(own)
    # in this file names in documentation of the list do not count, only those of tests
    tests = own.replace(here, "")[own.index("# ----") :]
    found = set().union(*map(named_defects, [*sources, tests]))
    assert sorted(set(range(1, 46)) - found) == []


# ---------------------------------------------------------------- failures are seen
@pytest.mark.parametrize("form", ["ome-zarr", "precomputed"])
def test_d7_a_write_that_fails_is_an_error_and_leaves_no_record(tmp_path, form):
    array = np.arange(16**3, dtype=np.uint16).reshape(16, 16, 16)
    settings = VolumeSettings(chunk=16, block=16, formats=(form,))
    plan = make_plan("v", Frame(array.shape, (1.0,) * 3), "uint16", settings)
    store = Store(str(tmp_path))
    init_volume(store, "v", plan)
    (block,) = plan.blocks()
    written = write_block(store, "v", plan, block, array, fingerprint="f")["objects"]
    store.delete(record_key("v", block))
    for key in written:
        store.delete(key)
        # a folder cannot be replaced by an object, whoever asks
        (store.path(key) / "taken").mkdir(parents=True)
    with pytest.raises((TeraregError, OSError)):
        write_block(store, "v", plan, block, array, fingerprint="f")
    assert not store.exists(record_key("v", block))


def test_d7_a_store_that_cannot_be_written_stops_the_run_before_any_work(acquired, workspace):
    running.with_acquisition(workspace, acquired, store="taken/store")
    (workspace.folder / "taken").write_text("a file where a folder should be")
    done = workspace.snakemake("--cores", "1", "fused_volumes", "--quiet")
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("check_inputs: ")]
    assert "cannot write taken/store" in line
    made = [p.name for p in (workspace.folder / "results").rglob("*.json")]
    assert made == ["acquisition.json"]


def test_d21_a_failing_script_fails_snakemake(workspace):
    workspace.write(workspace.sample(input__channels={"only": 0}))
    done = workspace.snakemake("--cores", "1", "--until", "index_acquisition", "--quiet")
    assert done.returncode != 0


# ---------------------------------------------------------------- configuration
def test_d20_what_is_optional_may_be_absent(workspace):
    workspace.sample("brain", grid=(2, 2), planes=50)
    workspace.write(MINIMAL)
    planned = running.planned(workspace)
    assert {"fuse_blocks", "correct_volume", "make_report"} <= planned.keys()
    assert not planned.keys() & {"register", "score_registration", "transform_points"}


@pytest.mark.parametrize("value", ["False", "no", "true", 0, 1])
@pytest.mark.parametrize(
    "key", ["intensity.bias.enabled", "fusion.subpixel", "registration.missing_data_correction"]
)
def test_d28_a_flag_is_true_or_false_and_no_text_that_counts_as_true(key, value):
    config = json.loads(json.dumps(MINIMAL))
    running.changed(config, **{key.replace(".", "__"): value})
    with pytest.raises(TeraregError, match=re.escape(key)):
        load_samples(config)


# ---------------------------------------------------------------- the machine it runs on
@pytest.mark.slow
def test_d27_d39_d40_figures_viewer_and_report_need_no_home_and_no_network(finished, tmp_path):
    """D27: no fixed names in $HOME. D39: no server. D40: results are in the store, always."""
    copy = running.copy_of(finished, type(finished)(tmp_path / "copy"))
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline/sitecustomize.py").write_text(OFFLINE)
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    targets = [f"results/demo/{x}" for x in ("views/neuroglancer.json", "views/placement.png")]
    for name in targets:
        (copy.folder / name).unlink()
    done = copy.snakemake(
        "--cores", "2", *targets, "--quiet",
        HOME=str(home), XDG_CACHE_HOME=str(cache), PYTHONPATH=str(tmp_path / "offline"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [p for p in home.rglob("*") if p.is_file()] == []
    state = (copy.folder / targets[0]).read_text()
    assert state == (finished.folder / targets[0]).read_text()
    assert "http" not in state
    for layer in json.loads(state)["layers"]:
        for source in re.findall(r"(?:zarr|precomputed)://[^\"|]*", json.dumps(layer)):
            key = source.split("://", 1)[1].rstrip("/")
            assert "demo/" in key, source
            assert (finished.folder / "results" / key[key.index("demo/") :]).is_dir(), source


@pytest.mark.slow
def test_d29_the_run_on_this_machine_alone_reaches_the_end(finished):
    assert (finished.folder / "results/demo/regions/phantom.tsv").stat().st_size > 1000


@pytest.mark.parametrize(
    "command", ["terareg.phantom", "terareg.cli.main", "terareg.execution.schema"]
)
def test_d42_every_command_line_starts(command):
    assert 'if __name__ == "__main__":' in _main_of(command)
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-m", command, "--help"],
        text=True, capture_output=True, env={"PYTHONPATH": str(ROOT / "workflow/scripts")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr


def _main_of(module: str) -> str:
    path = ROOT / "workflow/scripts" / module.replace(".", "/")
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def test_d42_no_other_module_claims_to_be_a_command():
    found = {
        p.relative_to(ROOT / "workflow/scripts").with_suffix("").as_posix().replace("/", ".")
        for p in (ROOT / "workflow/scripts/terareg").rglob("*.py")
        if 'if __name__ == "__main__"' in p.read_text()
    }
    assert found == {"terareg.phantom.__main__", "terareg.cli.main", "terareg.execution.schema"}


@pytest.mark.slow
def test_d41_nothing_deprecated_is_imported_or_used_on_planes(tmp_path):
    names = sorted(
        p.relative_to(ROOT / "workflow/scripts").with_suffix("").as_posix().replace("/", ".")
        for p in (ROOT / "workflow/scripts/terareg").rglob("*.py")
        if not p.name.startswith("__")
    )
    program = (
        "import importlib, warnings, sys\n"
        "for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):\n"
        "    warnings.filterwarnings('error', category=kind, module=r'terareg')\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "import numpy, tifffile\n"
        "from terareg.phantom.cli import read_volume\n"
        "tifffile.imwrite('v.tif', numpy.zeros((3, 4, 5), 'u2'))\n"
        "assert read_volume(__import__('pathlib').Path('v.tif')).shape == (3, 4, 5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True,
        env={"PYTHONPATH": str(ROOT / "workflow/scripts"), "PATH": str(BIN), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_d41_no_job_of_the_chain_was_warned_of_deprecation(finished):
    logs = (finished.folder / "results/demo/logs").rglob("*.log")
    assert [p.name for p in logs if re.search(r"(Deprecation|Future)Warning", p.read_text())] == []


# ---------------------------------------------------------------- intensity and volumes
def test_d33_every_axis_is_averaged_by_its_own_factor(tmp_path):
    from test_volumes_reader import stored

    values = np.random.default_rng(33).integers(0, 4000, (12, 30, 24)).astype(np.uint16)
    volume = stored(tmp_path, values, Frame(values.shape, (4.0, 1.0, 2.0)), chunk=32, block=32)
    array, frame = volume.resampled((8.0, 5.0, 6.0))
    assert frame.shape == (6, 6, 8)
    blocks = values.reshape(6, 2, 6, 5, 8, 3).mean((1, 3, 5))
    np.testing.assert_allclose(array, blocks, rtol=1e-5)


def test_d43_a_dark_offset_that_is_given_is_used():
    from intensity_truth import Scene, TruthSource

    from terareg.intensity.flatfield import estimate_flatfield
    from terareg.intensity.settings import FlatfieldSettings
    from terareg.intensity.sums import sum_tiles

    source = TruthSource(Scene())
    given = source.scene.dark - 40.0
    settings = FlatfieldSettings(background=given)
    flatfield, _ = estimate_flatfield([sum_tiles(source, source.names, settings)], settings)
    assert flatfield.background == given
    free, _ = estimate_flatfield([sum_tiles(source, source.names)])
    assert abs(free.background - given) > 30
    assert not np.array_equal(free.profile, flatfield.profile)


# ---------------------------------------------------------------- registration
def test_d19_a_registration_resumes_from_the_name_that_it_saved(tmp_path, caplog):
    from registration_phantom import Truth, atlas
    from test_registration_emlddmm import SETTINGS

    from terareg.registration.emlddmm import register

    settings = replace(SETTINGS, iterations=4)
    sample = Truth(amplitude_um=200.0).sample()
    first = register(atlas(), sample, settings, np.eye(4), tmp_path / "state.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    caplog.clear()
    with caplog.at_level("INFO", logger="terareg"):
        again = register(atlas(), sample, settings, np.eye(4), tmp_path / "state.npz")
    assert "state.npz" in caplog.text or "continu" in caplog.text or "resum" in caplog.text
    np.testing.assert_array_equal(again.transform.displacement, first.transform.displacement)


@pytest.mark.parametrize("scale", [0.85, 1.15])
def test_d30_the_scale_is_estimated(scale):
    from registration_phantom import Truth, affine_about_centre, atlas
    from test_registration_pose import QUICK

    from terareg.registration.pose import initial_affine

    sample = Truth(affine_about_centre(scale=(scale,) * 3)).sample()
    _, info = initial_affine(atlas(), sample, QUICK)
    np.testing.assert_allclose(info["scale"], scale, rtol=0.02)


@pytest.mark.slow
def test_d32_weights_enter_the_affine():
    """A half that shows another place, with weight 0, does not pull at the affine."""
    from registration_phantom import ATLAS_FRAME, Truth, affine_about_centre, atlas
    from test_registration_emlddmm import SETTINGS

    from terareg.registration.emlddmm import register
    from terareg.registration.images import Image

    true = affine_about_centre(shift_um=(0.0, 250.0, 0.0))
    data = Truth(true).sample().data.copy()
    elsewhere = Truth(affine_about_centre(shift_um=(0.0, -750.0, 0.0))).sample().data
    data[:, :, :13] = elsewhere[:, :, :13]
    mask = np.ones(ATLAS_FRAME.shape, np.float32)
    mask[:, :, :13] = 0
    # so stiff that nothing but the affine moves
    settings = replace(SETTINGS, regularisation=1e4, iterations=16)
    errors = {}
    for name, weights in (("masked", mask), ("whole", None)):
        sample = Image(data, ATLAS_FRAME, weights, "sample")
        found = register(atlas(), sample, settings, np.eye(4)).transform.affine
        centre = np.append(ATLAS_FRAME.centre_um, 1.0)
        errors[name] = np.linalg.norm(((found - true) @ centre)[:3])
    assert errors["masked"] < 100
    assert errors["masked"] < 0.5 * errors["whole"]


def test_d34_a_registration_goes_from_coarse_to_fine(finished):
    path = finished.folder / "results/demo/registration/phantom/summary.json"
    voxels = [level["voxel_um"] for level in json.loads(path.read_text())["levels"]]
    *passes, last = voxels
    once = passes[: passes.index(min(passes)) + 1]
    assert len(once) >= 2 and last == once[-1]  # the finest is gone through once more
    assert passes == once or passes == once * 3  # again where regions have levels of their own
    assert all(coarse == pytest.approx(2 * fine) for coarse, fine in pairwise(once))
