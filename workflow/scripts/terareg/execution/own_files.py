"""Files of the user besides the images, and where the jobs that read them find them.

Snakemake takes ``{word}`` in a path for a wildcard, also in paths that a function returns, and
knows no way to write it otherwise. A table whose path has one is copied by a rule, and jobs read
the copy; of an image its state is a parameter of the rules that read it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError
from terareg.execution import derived_volumes
from terareg.execution.raw_data import tracked, untracked_state
from terareg.execution.run import Run

Files = list[str]


def own_tables(run: Run, sample: str) -> Files:
    """Files of the user besides the images: XML, positions, flat-field, marks, points, outlines."""
    config = run.samples[sample]
    files = list(config["stitching"]["xml"].values())
    for key in ("stitching.tile_configuration", "intensity.flatfield.image"):
        files += [path for path in (run.option(sample, key),) if path]
    for pairs in (config["fiducials"], config["registration"]["landmarks"]):
        for pair in pairs.values():
            files += [pair["sample"], pair["atlas"]]
    files += [entry["marks"] for entry in config["cells"].values() if entry["marks"]]
    outlines = [entry["outlines"] for entry in config["export"].values()]
    files += [path for path in outlines if isinstance(path, str)]
    return files + [entry["path"] for entry in config["points"].values()]


def own_labels(run: Run, sample: str) -> Files:
    """The user's own labels of a sample."""
    return [entry["path"] for entry in run.option(sample, "sample_labels").values()]


def own_files(run: Run, sample: str) -> Files:
    """Files of the user besides the raw data, by the paths of the configuration."""
    return own_tables(run, sample) + own_labels(run, sample)


def followed_tables(run: Run, sample: str) -> Files:
    """:func:`own_tables` where jobs read them."""
    return [followed(run, sample, path) for path in own_tables(run, sample)]


def followed_labels(run: Run, sample: str) -> Files:
    """:func:`own_labels`, if Snakemake can follow them."""
    return tracked(own_labels(run, sample))


def labels_state(run: Run, sample: str) -> list[list[Any]]:
    """State of those that it cannot follow."""
    return untracked_state(own_labels(run, sample))


def own_xml(run: Run, sample: str, name: str) -> Files:
    """The user's own file for one TeraStitcher step, if there is one."""
    return _given(run, sample, run.option(sample, "stitching.xml").get(name))


def own_tile_configuration(run: Run, sample: str) -> Files:
    """The user's own nominal positions from Fiji or Render, if there are any."""
    return _given(run, sample, run.option(sample, "stitching.tile_configuration"))


def own_profile(run: Run, sample: str) -> Files:
    """The user's own flat-field, if there is one."""
    return _given(run, sample, run.option(sample, "intensity.flatfield.image"))


def _given(run: Run, sample: str, path: str | None) -> Files:
    return [followed(run, sample, path)] if path else []


# ------------------------------------------------------------------ points and labels
def user_points(run: Run, sample: str, atlas: str, section: str, side: str) -> str:
    """The user's points of one side ("sample" or "atlas"): landmarks or fiducials."""
    return followed(run, sample, run.option(sample, section)[atlas][side])


def user_labels(run: Run, sample: str, atlas: str) -> dict[str, Any]:
    """Description of the sample's own labels."""
    labels: dict[str, Any] = run.option(sample, "sample_labels")[atlas]
    return labels


def user_labels_file(run: Run, sample: str, atlas: str) -> Files:
    """The image of the sample's own labels, if Snakemake can follow it."""
    return tracked([user_labels(run, sample, atlas)["path"]])


def user_labels_state(run: Run, sample: str, atlas: str) -> list[list[Any]]:
    """Its state otherwise."""
    return untracked_state([user_labels(run, sample, atlas)["path"]])


def marked_points(run: Run, sample: str) -> Files:
    """Fiducials in the sample, of the registered atlases that have some."""
    atlases = run.atlases_with(sample, "fiducials")
    return [user_points(run, sample, atlas, "fiducials", "sample") for atlas in atlases]


def point_settings(run: Run, sample: str, points: str) -> dict[str, Any]:
    """Description of a set of points."""
    settings: dict[str, Any] = run.option(sample, "points")[points]
    return settings


def point_file(run: Run, sample: str, points: str) -> str:
    """The user's file of a set of points."""
    return followed(run, sample, point_settings(run, sample, points)["path"])


def drawn_points(run: Run, sample: str) -> Files:
    """Files with the places of all sets of points in the sample: the user's, or carried there."""
    return [
        point_file(run, sample, name)
        if entry["space"] == "sample"
        else run.path(sample, f"points/{name}.csv")
        for name, entry in run.option(sample, "points").items()
    ]


def cell_marks(run: Run, sample: str, cells: str) -> Files:
    """Places that the user marked as cells or none, if there are any."""
    return _given(run, sample, run.option(sample, "cells")[cells]["marks"])


def derived_own_files(run: Run, sample: str, derived: str) -> Files:
    """Files of the user that the tool of an entry reads."""
    files = derived_volumes.entry(run, sample, derived).files.values()
    return [followed(run, sample, path) for path in files]


# ------------------------------------------------------------------ copies
def followed(run: Run, sample: str, path: str) -> str:
    """A file of the user, or the copy of one that Snakemake cannot follow."""
    return path if tracked([path]) else run.path(sample, f"own/{_copy_name(path)}")


def copied_files(run: Run, sample: str) -> dict[str, str]:
    """Files of the user that are copied, because Snakemake cannot follow them, by their copies."""
    files = own_tables(run, sample)
    for entry in derived_volumes.entries(run, sample).values():
        files += entry.files.values()
    return {_copy_name(path): path for path in files if not tracked([path])}


def names_of_copies(run: Run) -> list[str]:
    """Names of copies of the user's files, of all samples."""
    return sorted({name for sample in run.samples for name in copied_files(run, sample)})


def copied_file(run: Run, sample: str, copy: str) -> str:
    """The file of the user that a copy is made from."""
    path = copied_files(run, sample)[copy]
    if run.remote is not None:
        raise ConfigError(
            f"sample {sample}: {path!r} contains a word in braces, which Snakemake takes for a "
            "wildcard when files are in remote storage; rename the file or folder"
        )
    return path


def copied_state(run: Run, sample: str, copy: str) -> list[list[Any]]:
    """Its state."""
    return untracked_state([copied_file(run, sample, copy)])


def _copy_name(path: str) -> str:
    """Name of a copy: that of the file without special characters, and what tells paths apart."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", Path(path).name)
    return f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}-{plain}"
