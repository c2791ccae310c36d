"""Folders in which Snakemake runs as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml
from colm_stub import write_metadata
from prefork import Snakemake

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

ATLAS = {
    "template": "atlas/template.nrrd",
    "annotation": "atlas/annotation.nrrd",
    "ontology": "atlas/ontology.json",
    "orientation": "RIP",
}


#: what Python or a program reads when it starts
OF_THE_START = {"PYTHONPATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"}
#: Snakemake for workspaces that share the workflow's code, and for those with code of their own
LINKED, COPIED = Snakemake(ROOT / "workflow/scripts"), Snakemake()


class Workspace:
    """A folder with links to the workflow, as a clone has them, and samples described in it.

    With ``own_code`` the workflow is a copy, whose code a test may change.
    """

    def __init__(self, folder: Path, *, own_code: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("workflow", "profiles", "config"):
            if own_code and name == "workflow":
                ignore = shutil.ignore_patterns("__pycache__", ".snakemake")
                shutil.copytree(ROOT / name, folder / name, ignore=ignore)
            else:
                (folder / name).symlink_to(ROOT / name)
        for name in ("slurm", "aws-batch"):
            (folder / name).symlink_to(f"profiles/{name}")

    @classmethod
    def at(cls, folder: Path) -> Workspace:
        """The workspace that another process has made in a folder."""
        workspace = cls.__new__(cls)
        workspace.folder = folder
        return workspace

    def sample(self, name: str = "brain", *, grid=(3, 4), planes=2000, **over) -> dict:
        """Configuration of a described (not stored) acquisition with one atlas."""
        raw = write_metadata(self.folder / f"raw-{name}", *grid, planes=planes)
        (self.folder / "atlas").mkdir(exist_ok=True)
        for key in ("template", "annotation"):
            (self.folder / ATLAS[key]).touch()
        if not (ontology := self.folder / ATLAS["ontology"]).exists():
            ontology.write_text('[{"id": 1, "acronym": "A", "name": "A"}]')
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

    def command(self, *arguments: str, configfile: str | None = "sample.yaml") -> list[str]:
        """Command line of snakemake."""
        chosen = ["--configfile", configfile] if configfile else []
        return [str(BIN / "snakemake"), *chosen, *arguments]

    def environment(self, **env: str) -> dict[str, str]:
        """Environment in which a user has activated the one of the workflow."""
        path = f"{BIN}:{os.environ['PATH']}"
        # a kernel that jobs in the cloud do not have: the workflow sets one for all
        around = {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem"}
        return {**os.environ, "PATH": path, **around, **env}

    def snakemake(
        self, *arguments: str, configfile: str | None = "sample.yaml", within=(), **env: str
    ):
        """Run snakemake in the folder; returns the finished process with text output.

        ``within`` is the beginning of a command that runs others.
        """
        command = self.command(*arguments, configfile=configfile)
        environment = self.environment(**env)
        if within or env.keys() & OF_THE_START:
            return subprocess.run(
                [*within, *command],
                cwd=self.folder, text=True, capture_output=True, timeout=600, env=environment,
            )  # fmt: skip
        server = LINKED if (self.folder / "workflow").is_symlink() else COPIED
        return server.run(command, self.folder, environment, 600)


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
