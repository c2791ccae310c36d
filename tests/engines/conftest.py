"""Engines other than this machine and its folders: real SLURM, an S3 server."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import running
import yaml
from sharing import made_once
from slurm_cluster import Cluster
from workspaces import Workspace

#: what every engine runs: each rule of a chain, and each once. More channels, finer levels and more
#: steps are shown on this machine; here they would be more of the same jobs.
CHAIN = {
    "input__channels": {"ch0": 0},
    "stitching__displacement__windows": 4,
    "registration": {
        "resolution_um": 300, "iterations": 8,
        "pose": {"extent": "whole", "check_orientation": False},
    },
    "labels": {"resolution_um": 100, "mesh_resolution_um": 100},
    # a tool that first measures its source: numbers of blocks go from job to job through the store
    "derived": {"dark": {"from": "fused/ch0", "do": "quantize", "format": "precomputed"}},
}  # fmt: skip
OTHER_CHANNEL = "CHN01"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def _cluster():
    """A SLURM cluster of two nodes; skips, saying why, where SLURM is not installed."""
    missing = Cluster.missing()
    if missing:
        pytest.skip(f"SLURM is not installed (apt-get install {missing})")
    folder = Path(tempfile.mkdtemp(prefix="terareg-slurm-"))
    try:
        with Cluster(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(_cluster):
    """The SLURM cluster of all tests, with no job and no node lost."""
    _cluster.renew()
    return _cluster


@pytest.fixture(scope="session")
def acquired(acquired, tmp_path_factory) -> Path:
    """One channel of the generated acquisition, with the configuration of :data:`CHAIN`."""
    told = made_once(tmp_path_factory, "chain", lambda folder: _configure(folder, acquired))
    return Path(told["folder"])


def _configure(folder: Path, acquired: Path) -> dict:
    other = shutil.ignore_patterns(f"*{OTHER_CHANNEL}*")
    shutil.copytree(acquired, folder, copy_function=running.link, ignore=other)
    path = folder / "demo/sample.yaml"
    config = running.changed(yaml.safe_load(path.read_text()), **CHAIN)
    running.replace(path, yaml.safe_dump(config, sort_keys=False).encode())
    return {"folder": str(folder)}


@pytest.fixture(scope="session")
def raw_before(raw_before) -> dict[str, tuple[int, str]]:
    """Time and content of its raw files before anything has run."""
    return {name: state for name, state in raw_before.items() if OTHER_CHANNEL not in name}


@pytest.fixture(scope="session")
def finished(acquired, tmp_path_factory) -> Workspace:
    """The chain of the engines, run once on this machine; nothing may be written to it."""
    told = made_once(tmp_path_factory, "chain-finished", lambda folder: _finish(folder, acquired))
    return Workspace.at(Path(told["folder"]))


def _finish(folder: Path, acquired: Path) -> dict:
    workspace = running.with_acquisition(Workspace(folder), acquired)
    done = workspace.snakemake("--cores", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    return {"folder": str(folder)}
