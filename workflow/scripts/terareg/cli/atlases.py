"""``terareg atlas``: BrainGlobe atlases on this machine, and their download."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from terareg.atlas.brainglobe import (
    DOWNLOAD_RECORD,
    InstalledAtlas,
    atlas_keys,
    atlas_metadata,
    brainglobe_folder,
    find_atlas,
    installed_atlases,
)
from terareg.atlas.download import SERVER, available_atlases, download_atlas, get_installed
from terareg.atlas.ontology import Ontology, read_ontology
from terareg.storage.records import read_json

_EVERY_S = 5.0


def list_atlases(server: str | None, *, remote: bool) -> int:
    """Print the installed atlases and, if asked for, those that a server has."""
    found = installed_atlases()
    _say(f"in {brainglobe_folder()}:")
    for atlas in found:
        _say(f"  {atlas.name:40} {atlas.version}")
    if not found:
        _say("  none; download one with: terareg atlas get allen_mouse_25um")
    if not remote:
        _say("list all atlases of BrainGlobe with: terareg atlas list --remote")
        return 0
    there = {atlas.name: atlas.version for atlas in found}
    _say(f"at {server or SERVER}:")
    for name, version in sorted(available_atlases(server).items()):
        note = f"  (here: {there[name]})" if name in there else ""
        _say(f"  {name:40} {version}{note}")
    return 0


def show_atlas(name: str) -> int:
    """Print what an installed atlas is, and how a sample file names it."""
    atlas = find_atlas(name)
    keys, data = atlas_keys(atlas), atlas_metadata(atlas)
    ontology = read_ontology(keys["ontology"])
    _say(f"{atlas.name} {atlas.version} in {atlas.folder}")
    for key in ("species", "citation", "atlas_link"):
        if data.get(key):
            _say(f"  {key.replace('_', ' '):12} {data[key]}")
    if data.get("shape"):
        _say(f"  {'voxels':12} {' x '.join(map(str, data['shape']))} (z, y, x)")
    _say(f"  {'voxel size':12} {' x '.join(f'{v:g}' for v in keys['spacing_um'])} um")
    _say(f"  {'orientation':12} {keys['orientation']} (z, y, x), as in a sample file")
    sides = "an image of the hemispheres" if "hemispheres" in keys else "the middle plane"
    _say(f"  {'left, right':12} by {sides}")
    _say(f"  {'regions':12} {len(ontology)}: {_top(ontology)}")
    record = atlas.folder / DOWNLOAD_RECORD
    if record.is_file():
        known = read_json(record)
        _say(f"  {'downloaded':12} {known['url']} (SHA-256 {known['sha256']})")
    shown = atlas.name if get_installed(atlas.name) else str(Path(name).absolute())
    _say(f"in a sample file:\n  atlases:\n    {_short(atlas)}: {{name: {shown}}}")
    return 0


def get_atlas(name: str, version: str | None, server: str | None, sha256: str | None) -> int:
    """Download an atlas unless it is there."""
    here = get_installed(name, version)
    if here is not None:
        _say(f"{here.name} {here.version} is in {here.folder}")
        return 0
    atlas = download_atlas(name, version, server, sha256, _Progress())
    record = read_json(atlas.folder / DOWNLOAD_RECORD)
    _say(f"{atlas.name} {atlas.version} is in {atlas.folder} (SHA-256 {record['sha256']})")
    return 0


class _Progress:
    """A line from time to time: on the screen one that is renewed, else new ones."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY_S and done != whole:
            return
        self._last = now
        of = f" of {whole / 1e6:.0f}" if whole else ""
        end = "\r" if sys.stderr.isatty() and done != whole else "\n"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"downloaded {done / 1e6:.0f}{of} MB"[:width] + end)
        sys.stderr.flush()


def _top(ontology: Ontology) -> str:
    names = [ontology[i].acronym for depth in (0, 1) for i in ontology.level(depth)]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _short(atlas: InstalledAtlas) -> str:
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in atlas.name)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
