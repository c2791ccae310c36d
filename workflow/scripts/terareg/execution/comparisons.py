"""Comparisons of groups: which samples, where their results lie, what is made of them.

Samples of the run are made by its rules. Results of other samples must be there when the workflow
is loaded. The module needs the standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from terareg.cohort.table import Cohort, read_cohort
from terareg.core.errors import CohortError
from terareg.core.extents import Extent, Sample, Size
from terareg.execution import derived_volumes
from terareg.execution.run import Run

#: the map that every registration has; others are those of cells
JACOBIAN = "log_jacobian"
_ANNOTATION = "annotation.nrrd"
_CELLS = "cells_"
_IMAGE = "image_"
_BRACES = re.compile(r"\{\s*\w")
_NO_IMAGES = Size(0, 0, 0, (0, 0, 0), (1, 1, 1))


def folder(run: Run, name: str = "") -> str:
    """Folder of a comparison, or of all."""
    return f"{run.results}/cohort/{name}".rstrip("/")


@cache
def cohort_of(run: Run, name: str) -> Cohort:
    """The samples of a comparison.

    Raises
    ------
    CohortError
        See :func:`terareg.cohort.table.read_cohort`.
    """
    settings = run.comparisons[name]
    return read_cohort(settings["table"], settings["groups"], settings["covariates"])


def maps(run: Run, name: str) -> list[str]:
    """Maps in the atlas that are compared voxel by voxel."""
    settings = run.comparisons[name]
    cells = [f"{_CELLS}{each}" for each in settings["cells"]]
    return [JACOBIAN, *cells, *(f"{_IMAGE}{channel}" for channel in settings["images"])]


def every_map(run: Run) -> list[str]:
    """The same of all comparisons."""
    return sorted({each for name in run.comparisons for each in maps(run, name)})


def check(run: Run) -> None:
    """Raise for the first sample whose results are neither there nor made by this run.

    Raises
    ------
    CohortError
    """
    prepared = {run.atlas_path(atlas, "atlas.json") for atlas in run.atlases}
    for name, settings in run.comparisons.items():
        results = [m.results for m in cohort_of(run, name).members]
        for path in [settings["table"], *results]:
            if _BRACES.search(path):
                raise CohortError(
                    f"comparisons.{name}: {path!r} contains a word in braces, which Snakemake "
                    "takes for a wildcard; rename the file or folder"
                )
        for member in cohort_of(run, name).members:
            where = f"comparisons.{name}: sample {member.sample!r}"
            if member.sample in run.samples and not member.results:
                _check_made(run, member.sample, settings, where)
                continue
            for path in _all_files(run, name, member.sample):
                if path not in prepared and not Path(path).is_file():
                    raise CohortError(
                        f"{where} has no results: {path} does not exist; run the sample first, or "
                        f"give its folder in the column results of {settings['table']}"
                    )


def _check_made(run: Run, sample: str, settings: Mapping[str, Any], where: str) -> None:
    for key, wanted, there in (
        ("atlas", [settings["atlas"]], run.atlases_of(sample)),
        ("cells", settings["cells"], list(run.option(sample, "cells"))),
        ("channels", settings["channels"], run.channels_of(sample)),
        ("images", settings["images"], _images_of(run, sample)),
        ("signals", settings["signals"], _signals_of(run, sample)),
    ):
        for each in wanted:
            if each not in there:
                raise CohortError(
                    f"{where} has no {key} {each!r} (it has {', '.join(there) or 'none'}); add it "
                    "to the sample, or correct the comparison"
                )


def _signals_of(run: Run, sample: str) -> list[str]:
    entries = derived_volumes.entries(run, sample)
    return [name for name, entry in entries.items() if entry.by_region]


def _images_of(run: Run, sample: str) -> list[str]:
    return run.channels_of(sample) if run.option(sample, "atlas_space.enabled") else []


def _folder_of(run: Run, name: str, sample: str) -> Path:
    member = next(m for m in cohort_of(run, name).members if m.sample == sample)
    return Path(member.results or run.path(sample, "").rstrip("/"))


def _file_of(run: Run, name: str, sample: str, path: str) -> str:
    return (_folder_of(run, name, sample) / path).as_posix()


def _atlas_of(run: Run, name: str, sample: str, file: str = "atlas.json") -> str:
    atlas = run.comparisons[name]["atlas"]
    return (_folder_of(run, name, sample).parent / f"atlases/{atlas}/{file}").as_posix()


def _all_files(run: Run, name: str, sample: str) -> list[str]:
    settings = run.comparisons[name]
    atlas = settings["atlas"]
    paths = [f"regions/{atlas}.tsv", f"registration/{atlas}/summary.json",
             f"registration/{atlas}/jacobian.nrrd"]  # fmt: skip
    for cells in settings["cells"]:
        paths += [f"cells/{cells}/{atlas}/{file}" for file in ("regions.tsv", "density.nrrd")]
    paths += [f"derived/{signal}/regions/{atlas}.tsv" for signal in settings["signals"]]
    paths += [f"atlas_space/{atlas}/{channel}/complete.json" for channel in settings["images"]]
    files = [_file_of(run, name, sample, path) for path in paths]
    return [*files, *(_atlas_of(run, name, sample, f) for f in ("atlas.json", _ANNOTATION))]


def _samples(run: Run, name: str) -> list[str]:
    return [member.sample for member in cohort_of(run, name).members]


# ------------------------------------------------------------------ inputs of the rules
def settings_of(run: Run, name: str) -> dict[str, Any]:
    """Configuration of a comparison."""
    return run.comparisons[name]


def table_of(run: Run, name: str) -> str:
    """The user's table of samples."""
    table: str = run.comparisons[name]["table"]
    return table


def sample_tables(run: Run, name: str) -> dict[str, list[str]]:
    """Tables in the order of the samples; of cells, those of one sample together."""
    settings, samples = run.comparisons[name], _samples(run, name)
    atlas = settings["atlas"]

    def of_every(path: str) -> list[str]:
        return [_file_of(run, name, sample, path) for sample in samples]

    def of_each(names: list[str], pattern: str) -> list[str]:
        found = ((sample, pattern.format(each)) for sample in samples for each in names)
        return [_file_of(run, name, sample, path) for sample, path in found]

    return {
        "regions": of_every(f"regions/{atlas}.tsv"),
        "summaries": of_every(f"registration/{atlas}/summary.json"),
        "atlases": [_atlas_of(run, name, sample) for sample in samples],
        "counts": of_each(settings["cells"], f"cells/{{}}/{atlas}/regions.tsv"),
        "signals": of_each(settings["signals"], f"derived/{{}}/regions/{atlas}.tsv"),
    }


def sample_maps(run: Run, name: str, shown: str) -> dict[str, Any]:
    """A map of every sample, in the order of the samples, and the atlas of the first."""
    atlas, samples = run.comparisons[name]["atlas"], _samples(run, name)
    path = f"registration/{atlas}/jacobian.nrrd"
    if shown.startswith(_CELLS):
        path = f"cells/{shown.removeprefix(_CELLS)}/{atlas}/density.nrrd"
    elif shown.startswith(_IMAGE):
        path = f"atlas_space/{atlas}/{shown.removeprefix(_IMAGE)}/complete.json"
    images = [_file_of(run, name, sample, path) for sample in samples]
    of_atlas = {"atlas": "atlas.json", "annotation": _ANNOTATION}
    return {"images": images} | {
        key: _atlas_of(run, name, samples[0], file) for key, file in of_atlas.items()
    }


def sample_volumes(run: Run, name: str, shown: str) -> dict[str, list[str]]:
    """Store and key of the image that a map is made of, by sample; none for other maps.

    Volumes of samples that are not part of the run are beside their small files.
    """
    if not shown.startswith(_IMAGE):
        return {}
    found = {}
    for member in cohort_of(run, name).members:
        folder = _folder_of(run, name, member.sample)
        of_run = member.sample in run.samples and not member.results
        store = run.samples[member.sample]["store"] if of_run else folder.parent.as_posix()
        atlas, channel = run.comparisons[name]["atlas"], shown.removeprefix(_IMAGE)
        found[member.sample] = [store, f"{folder.name}/atlas_space/{atlas}/{channel}"]
    return found


def report_files(run: Run) -> list[str]:
    """Reports of all comparisons."""
    return [f"{folder(run, name)}/report.html" for name in run.comparisons]


def pictures(run: Run, name: str) -> list[str]:
    """Pictures of the maps of a comparison."""
    return [f"{folder(run, name)}/maps/{shown}.png" for shown in maps(run, name)]


# ------------------------------------------------------------------ size
@cache
def sized(run: Run, name: str) -> Sample:
    """A comparison as plans see it: a sample without images, with the size of the atlas."""
    settings = run.comparisons[name]
    sets = [*settings["cells"], *settings["signals"]]
    counts = {
        "samples": len(_samples(run, name)),
        "measures": 2 + len(settings["channels"]) + 2 * len(sets),
        "permutations": settings["permutations"] if settings["test"] == "permutation" else 0,
    }
    point = Extent((1, 1, 1), (1.0, 1.0, 1.0))
    known = _atlas_extent(Path(_atlas_of(run, name, _samples(run, name)[0])))
    return Sample(_NO_IMAGES, {"comparison": counts}, point, atlases={settings["atlas"]: known})


def _atlas_extent(path: Path) -> Extent:
    try:
        frame = json.loads(path.read_text(encoding="utf-8"))["frame"]
        return Extent(tuple(frame["shape"]), tuple(frame["spacing_um"]))
    except (OSError, ValueError, KeyError):
        # not prepared yet, or damaged, which the first job says
        return Extent((528, 320, 456), (25.0, 25.0, 25.0))
