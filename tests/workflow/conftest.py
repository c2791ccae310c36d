"""Loading the workflow as Snakemake does, and running it as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from colm_stub import write_metadata

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

ATLAS = {
    "template": "atlas/template.nrrd",
    "annotation": "atlas/annotation.nrrd",
    "ontology": "atlas/ontology.json",
    "orientation": "RIP",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.workflow)


class Workspace:
    """A folder with links to the workflow, as a clone has them, and samples described in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("workflow", "profiles", "config"):
            (folder / name).symlink_to(ROOT / name)
        for name in ("slurm", "aws-batch"):
            (folder / name).symlink_to(f"profiles/{name}")

    def sample(self, name: str = "brain", *, grid=(3, 4), planes=2000, **over) -> dict:
        """Configuration of a described (not stored) acquisition with one atlas."""
        raw = write_metadata(self.folder / f"raw-{name}", *grid, planes=planes)
        (self.folder / "atlas").mkdir(exist_ok=True)
        for key in ("template", "annotation", "ontology"):
            (self.folder / ATLAS[key]).touch()
        config = {
            "sample": name,
            "input": {
                "path": str(raw),
                "orientation": "SAR",
                "channels": {"autofluorescence": 0, "signal": 1},
            },
            "atlases": {"mouse": dict(ATLAS)},
        }
        for path, value in over.items():
            part = config
            *parents, last = path.split("__")
            for key in parents:
                part = part.setdefault(key, {})
            part[last] = value
        return config

    def write(self, config: dict, name: str = "sample.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def snakemake(self, *arguments: str, configfile: str | None = "sample.yaml", **env: str):
        """Run snakemake in the folder; returns the finished process with text output."""
        command = [str(BIN / "snakemake")]
        if configfile:
            command += ["--configfile", configfile]
        return subprocess.run(
            [*command, *arguments],
            cwd=self.folder, text=True, capture_output=True, timeout=600,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **env},
        )  # fmt: skip


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


@contextmanager
def loaded_workflow(folder: Path, configfile: Path):
    """The workflow object that Snakemake builds for a configuration."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

    here = Path.cwd()
    os.chdir(folder)
    try:
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=2),
                config_settings=ConfigSettings(configfiles=[configfile]),
                snakefile=Path("workflow/Snakefile"),
            )._workflow
            yield workflow
    finally:
        os.chdir(here)
