"""What all tests share: the repository's paths, how workers share the tests, one finished run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import examples  # noqa: F401  loads the profile of hypothesis before any test asks for one
import pytest
import running
import yaml
from read_only import shut_in
from s3_server import Server
from sharing import group_of, made_once, place_in_queue
from workspaces import ROOT, Workspace

# the small phantom's structures are large enough for its checks with this seed, and the
# measured displacements of its tiles are exact
SEED = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=2, help="how often Snakemake is killed on each engine"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Workers share the cores; a test that is about threads asks for them itself.

    It is set for them before they start: plug-ins of pytest import NumPy, which reads it once.
    """
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One process runs fast tests first; workers begin with what takes longest."""
    parallel = hasattr(config, "workerinput")
    items.sort(key=lambda item: place_in_queue(item.nodeid, parallel))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Tests that share a costly fixture, a cluster or a port go to one worker, in our order."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say which files take the time."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    total = sum(seconds.values())
    if total > 60:
        terminalreporter.section("seconds by file, waits for shared fixtures included")
        for name, value in seconds.most_common(20):
            terminalreporter.line(f"{value:7.0f} {name}")
        terminalreporter.line(f"{total:7.0f} of all files and workers together")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def kills(request) -> int:
    """How often to kill Snakemake."""
    return request.config.getoption("--kills")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def s3(monkeypatch) -> Server:
    """An empty S3, which the environment leads to."""
    pytest.importorskip("moto")
    with Server() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def acquired(tmp_path_factory) -> Path:
    """A small generated acquisition with known truth, in ``demo/`` of an otherwise empty folder.

    Paths in its configuration are relative, so that the folder can be copied with its results.
    Nothing may be written to it: copies share its files.
    """
    return Path(made_once(tmp_path_factory, "acquired", _acquire)["folder"])


def _acquire(folder: Path) -> dict:
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "terareg.phantom", "make", "--small", "--out", "demo",
         "--seed", str(SEED)],
        cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")},
    )  # fmt: skip
    config = yaml.safe_load((folder / "demo/sample.yaml").read_text())
    config["volume"] = {"formats": ["ome-zarr", "precomputed"]}
    # coarser than the default: every engine runs the chain, and shows equal bytes at any voxel
    config["registration"] = {"resolution_um": 150}
    (folder / "demo/sample.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return {"folder": str(folder), "raw": running.states(folder / "demo/raw")}


@pytest.fixture(scope="session")
def raw_before(acquired, tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Time and content of every raw file before anything has run."""
    raw = made_once(tmp_path_factory, "acquired", _acquire)["raw"]
    return {name: (time_ns, digest) for name, (time_ns, digest) in raw.items()}


@pytest.fixture(scope="session")
def _run(acquired, tmp_path_factory) -> tuple[Workspace, Path | None]:
    """The finished run, and its home folder if it was shut in."""
    told = made_once(tmp_path_factory, "finished", lambda folder: _finish(folder, acquired))
    return Workspace.at(Path(told["folder"])), told["home"] and Path(told["home"])


def _finish(folder: Path, acquired: Path) -> dict:
    workspace = running.with_acquisition(Workspace(folder), acquired)
    own = [folder.with_name(f"{folder.name}-{name}") for name in ("home", "temporary")]
    configured = [folder / name for name in ("results", ".snakemake")]
    for path in (*own, *configured):
        path.mkdir()
    within = shut_in((*configured, *own))
    done = workspace.snakemake(
        "--cores", "2", "--quiet", within=within, HOME=str(own[0]), TMPDIR=str(own[1])
    )
    assert done.returncode == 0, done.stderr
    return {"folder": str(folder), "home": str(own[0]) if within else None}


@pytest.fixture(scope="session")
def finished(_run) -> Workspace:
    """The whole chain over the generated acquisition, run once; nothing may be written to it.

    Where that can be had, the file system lets it write into ``results`` and ``.snakemake`` only.
    """
    return _run[0]


@pytest.fixture(scope="session")
def home(_run) -> Path:
    """The home folder of the finished run; skips where that could write anywhere."""
    if _run[1] is None:
        pytest.skip("no process can get a mount namespace of its own here (unshare --mount)")
    return _run[1]
