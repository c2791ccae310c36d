"""Engines other than this machine and its folders: real SLURM, an S3 server."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from slurm_cluster import Cluster


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
