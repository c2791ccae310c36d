"""The library as a package: what a wheel holds, and the command on an installed one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workspaces import BIN, ROOT

#: packages of requirements.in that only tests, engines, the viewer and an extra import
NOT_OF_THE_LIBRARY = {
    "czifile", "liffile",
    "pytest", "pytest-timeout", "pytest-cov", "pytest-xdist", "hypothesis", "nibabel", "moto",
    "ome-zarr-models", "nbclient", "ipykernel", "neuroglancer",
    "snakefmt", "shfmt-py", "ruff", "mypy",
    "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-aws-batch",
    "snakemake-storage-plugin-s3",
}  # fmt: skip


#: extras of which nothing here needs the package: their tests are skipped without it
NOT_PINNED = {"pyarrow"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(lines) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_dependencies_are_those_of_the_pinned_environment():
    lines = (ROOT / "requirements.in").read_text(encoding="utf-8").splitlines()
    direct = names(line for line in lines if line and not line.startswith("#"))
    stated = project()["project"]
    assert names(stated["dependencies"]) == direct - NOT_OF_THE_LIBRARY
    extras = (line for lines in stated["optional-dependencies"].values() for line in lines)
    assert names(extras) <= direct | NOT_PINNED


def test_every_file_of_the_workflow_is_in_the_wheel():
    given = project()["tool"]["setuptools"]["data-files"]
    carried = {path for patterns in given.values() for p in patterns for path in ROOT.glob(p)}
    left_out = {"__pycache__", ".snakemake", "terareg", "terareg.egg-info"}
    files = [
        path
        for path in (ROOT / "workflow").rglob("*")
        if path.is_file() and not left_out & set(path.relative_to(ROOT).parts)
    ]
    assert len(files) > 80
    assert [str(path) for path in files if path not in carried] == []
    for target, patterns in given.items():
        for pattern in patterns:
            folder = Path(pattern).parent.as_posix()
            assert target == f"share/terareg/{folder}".removesuffix("/."), pattern


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder in which the wheel of this tree is installed."""
    folder = tmp_path_factory.mktemp("package")
    ignore = shutil.ignore_patterns("__pycache__", ".snakemake", "*.egg-info")
    for name in ("workflow", "profiles", "config"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", "wheels", "./source"]
    for command in (built, ["install", "--no-deps", "--no-index", "--target", "site"]):
        if command[0] == "install":
            command += [str(path) for path in (folder / "wheels").glob("*.whl")]
        subprocess.run([*pip, *command], cwd=folder, check=True, timeout=300)
    return folder / "site"


@pytest.mark.slow
def test_an_installed_package_runs_without_a_clone(installed, tmp_path):
    """Plan, command and a job whose script imports the library, in a folder with a sample alone."""
    z, y, x = np.mgrid[:20, :24, :28]
    tifffile.imwrite(tmp_path / "brain.tif", (z + y + x).astype(np.uint16))
    sample = {
        "sample": "brain",
        "input": {
            "kind": "volume",
            "orientation": "SAR",
            "spacing_um": [50, 50, 50],
            "channels": {"grey": "brain.tif"},
        },
    }
    (tmp_path / "sample.yaml").write_text(yaml.safe_dump(sample))
    env = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def terareg(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "terareg.cli.main", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=300
        )

    done = terareg("check", "sample.yaml")
    assert done.returncode == 0 and "Nothing to correct" in done.stdout, done.stderr
    done = terareg("run", "sample.yaml", "results/brain/input.json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/brain/input.json").is_file()
    snakefile = installed / "share/terareg/workflow/Snakefile"
    shown = re.search(r"^snakemake .*", done.stdout, re.MULTILINE)[0]
    assert f"--snakefile {snakefile} --configfile sample.yaml --cores all" in shown
    done = terareg("run", "--profile", "aws-batch", "sample.yaml")
    assert done.returncode == 1 and "run from a clone" in done.stderr
