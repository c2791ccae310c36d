"""What all tests share: the repository's paths, the order of cost, one finished run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import running
import yaml
from read_only import shut_in
from s3_server import Server
from workspaces import ROOT, Workspace

# the small phantom's structures are large enough for its checks with this seed, and the
# measured displacements of its tiles are exact
SEED = 0
_ORDER = {"unit": 0, "workflow": 1, "engines": 2, "browser": 3}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=2, help="how often Snakemake is killed on each engine"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: units, then workflow, then engines and browser."""

    def cost(item: pytest.Item) -> int:
        parts = Path(item.fspath).relative_to(ROOT).parts
        return _ORDER.get(parts[1], 4) if len(parts) > 1 else 4

    items.sort(key=cost)


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
    folder = tmp_path_factory.mktemp("acquired")
    subprocess.run(
        [sys.executable, "-m", "terareg.phantom", "make", "--small", "--out", "demo",
         "--seed", str(SEED)],
        cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")},
    )  # fmt: skip
    config = yaml.safe_load((folder / "demo/sample.yaml").read_text())
    config["volume"] = {"formats": ["ome-zarr", "precomputed"]}
    (folder / "demo/sample.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def raw_before(acquired) -> dict[str, tuple[int, str]]:
    """Time and content of every raw file before anything has run."""
    return running.states(acquired / "demo/raw")


@pytest.fixture(scope="session")
def _run(acquired, raw_before, tmp_path_factory) -> tuple[Workspace, Path | None]:
    """The finished run, and its home folder if it was shut in."""
    workspace = running.with_acquisition(Workspace(tmp_path_factory.mktemp("finished")), acquired)
    own = [tmp_path_factory.mktemp(name) for name in ("home", "temporary")]
    configured = [workspace.folder / name for name in ("results", ".snakemake")]
    for folder in configured:
        folder.mkdir()
    within = shut_in((*configured, *own))
    done = workspace.snakemake(
        "--cores", "2", "--quiet", within=within, HOME=str(own[0]), TMPDIR=str(own[1])
    )
    assert done.returncode == 0, done.stderr
    return workspace, own[0] if within else None


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
