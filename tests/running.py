"""Runs of the workflow on the generated acquisition: copies, comparisons, what a dry run says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

#: volumes, which Snakemake does not track: a dry run needs none of them
VOLUMES = ("ome.zarr", "precomputed", "blocks")

#: targets that leave out pictures and files for other programs; what of a whole run begins with
#: these is then not there
WITHOUT_PICTURES = ("fused_volumes", "corrected_volumes", "regions", "derived_volumes")
PICTURES = (
    "views/", "report.html", "stitching/seams.json", "stitching/render/",
    "stitching/TileConfiguration", "registration/phantom/preview",
    "registration/phantom/verdicts.json", "registration/phantom/quality.tsv",
)  # fmt: skip

#: artefacts that name the place of the raw data
NAMES_ITS_PLACE = {
    "acquisition.json", "report.html", "stitching/render/tilespecs.json.gz",
    *(f"stitching/xml_{step}.xml" for step in ("import", "displcomp", "displproj", "displthres",
                                               "merging")),
}  # fmt: skip
#: a fingerprint covers the state of the raw files: tags on S3, times in a folder
FACTS_OF_FILES = ("run", "fingerprint")


def with_acquisition(workspace, acquired: Path, **over):
    """Put the generated acquisition (links to its files) and its configuration into a workspace."""
    shutil.copytree(acquired / "demo", workspace.folder / "demo", copy_function=link)
    config = yaml.safe_load((acquired / "demo/sample.yaml").read_text())
    workspace.write(changed(config, **over))
    return workspace


def link(source, target) -> None:
    """Copy a file by a second name for it."""
    os.link(source, target)


def copy_of(finished, workspace, *, volumes: bool = False):
    """Put a finished run with everything Snakemake knows about it into a fresh workspace."""
    with_acquisition(workspace, finished.folder)
    ignore = None if volumes else shutil.ignore_patterns(*VOLUMES)
    for name in ("results", ".snakemake"):
        shutil.copytree(finished.folder / name, workspace.folder / name, ignore=ignore)
    return workspace


def changed(config: dict, **over) -> dict:
    """The configuration with other values, given as section__key=value; None removes a section."""
    for path, value in over.items():
        part = config
        *parents, last = path.split("__")
        for key in parents:
            part = part.setdefault(key, {})
        if value is None:
            part.pop(last, None)
        else:
            part[last] = value
    return config


def configure(workspace, **over) -> None:
    """Change the configuration of a workspace."""
    path = workspace.folder / "sample.yaml"
    workspace.write(changed(yaml.safe_load(path.read_text()), **over))


def replace(path: Path, data: bytes) -> None:
    """Write a file anew: links to the old one keep the old content."""
    assert path.read_bytes() != data, f"{path} would not change"
    path.unlink()
    path.write_bytes(data)


def remove(folder: Path) -> None:
    """Remove a folder, which may be there or not."""
    if folder.exists():
        shutil.rmtree(folder)


def job_counts(done) -> dict[str, int]:
    """Jobs per rule from the table that a dry run prints."""
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    table = text[text.index("Job stats:") :]
    return {name: int(n) for name, n in re.findall(r"^([a-z_]+) +(\d+)$", table, re.MULTILINE)}


def planned(workspace, *arguments: str, **env: str) -> dict[str, int]:
    """Jobs per rule that a dry run announces, without targets."""
    done = workspace.snakemake("-n", *arguments, "--quiet", "rules", **env)
    text = done.stdout + done.stderr
    assert done.returncode == 0, f"status {done.returncode}: {text}"
    if "Job stats:" not in text:
        assert "Nothing to be done" in text, text
        return {}
    return {name: n for name, n in job_counts(done).items() if name not in ("all", "total")}


def tracked_files(text: str) -> tuple[int, int]:
    """Output files that a verbose dry run names, and the same with logs and benchmarks."""
    found = {
        kind: {
            name.strip()
            for line in re.findall(rf"^    {kind}: (.+)$", text, re.MULTILINE)
            for name in line.split(",")
        }
        for kind in ("output", "log", "benchmark")
    }
    return len(found["output"]), sum(map(len, found.values()))


def states(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and digest of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, _digest(path.read_bytes()))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


NO_ARTEFACTS = ("logs/", "benchmarks/", "checksums/")


def artefacts(folder: Path, *without: str, facts: tuple[str, ...] = ("run",)) -> dict[str, str]:
    """Digest of every artefact below a folder: no logs, benchmarks, checksums, no wall clock.

    ``without`` are beginnings of paths that are left out as well, ``facts`` the keys of JSON
    files that do not count.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith((*NO_ARTEFACTS, *without)):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json_without(data, facts)
            found[name] = _digest(data)
    return found


def voxels_of(workspace, sample: str = "demo") -> dict[str, str]:
    """Digests of all objects of the fused volume of channel 0, in both formats."""
    found = artefacts(workspace.folder / f"results/{sample}/fused/ch0")
    return {k: v for k, v in found.items() if k.startswith(("ome.zarr/", "precomputed/"))}


def in_store(name: str) -> bool:
    """Whether an artefact lies in the store, and not among the files that Snakemake tracks."""
    *folders, file = name.split("/")
    kept = {*VOLUMES, "line_gains"}
    return bool(kept & set(folders)) or file in ("volume.json", "pyramid.json", "line_gains.json")


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the artefacts that only one has, or that differ."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def phantom(workspace, *arguments: str):
    """Run the phantom's command line in a workspace."""
    return subprocess.run(
        [sys.executable, "-m", "terareg.phantom", *arguments],
        cwd=workspace.folder, text=True, capture_output=True, timeout=300,
        env=workspace.environment(PYTHONPATH=str(workspace.folder / "workflow/scripts")),
    )  # fmt: skip


def json_without(data: bytes, facts: tuple[str, ...]) -> bytes:
    """A JSON file without the values of some keys, at any depth."""

    def rest(value):
        if isinstance(value, dict):
            return {k: rest(v) for k, v in value.items() if k not in facts}
        return [rest(v) for v in value] if isinstance(value, list) else value

    return json.dumps(rest(json.loads(data)), sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
