"""``terareg check``: what a run would say before its first job, on one screen."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from terareg.acquisition.indexing import IndexSettings, check_files
from terareg.acquisition.layout import Survey
from terareg.atlas.brainglobe import find_atlas
from terareg.atlas.ontology import read_ontology
from terareg.atlas.prepare import AtlasSettings, read_atlas, read_further_image
from terareg.cohort.model import design_of
from terareg.core.errors import AtlasError, ConfigError, TeraregError, few
from terareg.core.extents import Extent
from terareg.execution import comparisons, inputs, raw_data, sizing
from terareg.execution.config import asked_of
from terareg.execution.run import Run, load_run
from terareg.execution.run_plan import make_plan, plan_text, size_text, store_gb
from terareg.execution.sides import second_sides
from terareg.execution.yaml_files import merge, read_yaml
from terareg.intake.stated_size import disagreement, spacing_of_image, spacing_of_tiles
from terareg.views.first_look import image_sections
from terareg.volumes.headers import first_of_several, read_header
from terareg.volumes.importing import describe_input, frame_of_input

#: settings of all samples of a folder, which Snakemake reads first
_SHARED = Path("config/config.yaml")
# voxels are read where that takes seconds: atlases of so many millions of voxels (a mouse brain of
# 25 um has 77), images of so many bytes
_ATLAS_MEGAVOXELS = 100
_IMAGE_BYTES = 1 << 30
_IMAGE_BYTES_ELSEWHERE = 1 << 26
# a half of a brain, or a brain in much medium, stays within these factors of the atlas's size
_LEAST_OF_ATLAS, _MOST_OF_ATLAS = 0.4, 2.5
_DIRECTIONS = {"front to back": "AP", "top to bottom": "SI", "side to side": "RL"}
# stands in for what is left blank, where the rest can be checked without it
_STAND_INS = {"input.orientation": "SAR"}


def check(path: Path) -> int:
    """Check a sample file and print what its run needs; 1 if something has to be corrected.

    What is left blank is told of at once, and then the first thing that the run would stop at.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    config = read_yaml(path)
    if _SHARED.is_file():
        config = merge(read_yaml(_SHARED), config)
    stated = _stated_orientation(config)
    asked = asked_of(config, stated)
    wrong = [f"{key} is left blank; {what}" for key, what in asked.items()]
    stand_ins = _STAND_INS | ({"input.orientation": stated} if stated else {})
    if asked.keys() <= stand_ins.keys():
        try:
            wrong += _check_rest(path, _filled(config, asked, stand_ins), asked)
        except TeraregError as error:
            wrong.append(str(error))
    for sentence in wrong:
        _say(f"To do: {sentence}")
    if not wrong:
        _say(f"Nothing to correct. Next: terareg run {path} {_next_target(config)}")
    return 1 if wrong else 0


def _next_target(config: Mapping[str, Any]) -> str:
    """The target that shows most for the least time."""
    if "cohort" in config:
        return "previews"
    if "sample" not in config:
        return "cohort"
    if "input" not in config:
        return "derived_volumes"
    # without an atlas there is nothing to see the sample beside
    return "previews" if config.get("atlases") else "fused_volumes"


def _check_rest(path: Path, config: dict[str, Any], asked: Mapping[str, str]) -> list[str]:
    """Check what is filled in and print what the run needs; return what has to be corrected."""
    absent = _take_absent_atlases(config)
    run = load_run(config, files=[path])
    if not run.samples and not run.comparisons:
        raise ConfigError(f"{path}: key sample is missing; give the brain a name")
    comparisons.check(run)
    for name in run.comparisons:
        cohort = comparisons.cohort_of(run, name)
        sizes = (sum(m.group == group for m in cohort.members) for group in cohort.groups)
        groups = ", ".join(f"{group} {size}" for group, size in zip(cohort.groups, sizes))
        _say(f"comparison {name}: {groups} samples; covariates: {few(cohort.covariates) or 'none'}")
        if cohort.others:
            others = ", ".join(f"{group} {size}" for group, size in cohort.others.items())
            _say(f"note: comparison {name} leaves out the samples of {others}; is a name misspelt?")
        try:
            design_of(cohort)
        except TeraregError as error:
            absent.append(f"comparisons.{name}: {error}")
    raw_data.check(run)
    sizing.check_extents(run)
    sizing.check_cells(run)
    several = len(run.samples) > 1
    for sample in run.samples:
        absent += _show(run, sample, asked)
        if several:
            _say("")
    if several:
        _say(_sum_of(run))
    return absent + _check_room(run) + _wrong_atlases(run) + _wrong_images(run)


def _take_absent_atlases(config: dict[str, Any]) -> list[str]:
    """Take out atlases that are not on this machine, and say so, so that the rest is checked."""
    described = config.get("atlases")
    told = []
    for key, atlas in list(described.items()) if isinstance(described, dict) else ():
        name = atlas.get("name") if isinstance(atlas, dict) else None
        if isinstance(name, str):
            try:
                find_atlas(name, atlas.get("version"))
            except AtlasError as error:
                told.append(f"atlases.{key}.name: {error}")
                config["atlases"] = {k: v for k, v in config["atlases"].items() if k != key}
    return told


def _wrong_atlases(run: Run) -> list[str]:
    """What the jobs that prepare the atlases would stop at, of files on this machine."""
    wrong = []
    for key in run.atlases:
        images = run.atlas(key)["images"]
        settings = AtlasSettings(**inputs.atlas_settings(run, key))
        paths = (settings.template, settings.annotation, settings.ontology)
        if not all(path and Path(path).exists() for path in paths):
            continue  # on S3, or told of already
        try:
            read_ontology(settings.ontology)
            if not _is_small(run, key):
                continue
            read_atlas(settings)
            for name, path in images.items():
                read_further_image(settings, path, name)
        except TeraregError as error:
            told = str(error).replace("atlases.NAME", f"atlases.{key}")
            wrong.append(told if f"atlases.{key}" in told else f"atlases.{key}: {told}")
    return wrong


def _is_small(run: Run, key: str) -> bool:
    """Whether an atlas is read in seconds; says so if it is not."""
    extent = sizing.known_extent(run, run.atlas(key))
    if extent is None or extent.megavoxels <= _ATLAS_MEGAVOXELS:
        return True
    _say(
        f"note: the {extent.megavoxels:.0f} million voxels of atlas {key} are not read here; its "
        "first job checks them"
    )
    return False


def _wrong_images(run: Run) -> list[str]:
    """What is wrong with the middle planes of images that are imported."""
    wrong = []
    for sample in filter(run.is_imported, run.samples):
        found = raw_data.image_headers(run, sample)
        code = run.samples[sample]["input"]["orientation"]
        frame = frame_of_input(describe_input(found, code))
        for channel, header in found.items():
            image = dict(raw_data.image_of_channel(run, sample, channel))
            path = image.pop("path")
            most = _IMAGE_BYTES_ELSEWHERE if "://" in path else _IMAGE_BYTES
            if header.whole_bytes > most:
                continue
            try:
                sections = image_sections(path, frame, image, os.cpu_count() or 1)
            except TeraregError as error:
                wrong.append(f"sample {sample}, channel {channel}: {error}")
                continue
            ends = [(np.nanmin(s.image), np.nanmax(s.image)) for s in sections]
            low, high = min(one for one, _ in ends), max(one for _, one in ends)
            if low == high:
                _say(
                    f"note: sample {sample}, channel {channel}: the middle planes of {path} hold "
                    f"nothing but {low:g}; is it the right channel?"
                )
    return wrong


def _filled(
    config: Mapping[str, Any], asked: Mapping[str, str], stand_ins: Mapping[str, str]
) -> dict[str, Any]:
    """The configuration with stand-ins where it is left blank."""
    filled = dict(config)
    for key in asked:
        section, name = key.split(".")
        filled[section] = {**filled[section], name: stand_ins[key]}
    return filled


def _stated_orientation(config: Mapping[str, Any]) -> str | None:
    """Orientation in the header of a NIfTI file, for one that is left blank."""
    source = config.get("input")
    if not isinstance(source, Mapping) or source.get("kind") != "volume":
        return None
    images = source.get("channels")
    blank = source.get("orientation") is None and not source.get("spacing_um")
    if not blank or not isinstance(images, Mapping) or not images:
        return None
    first = next(iter(images.values()))
    address = first.get("path") if isinstance(first, Mapping) else first
    try:
        return read_header(str(address)).orientation
    except (TeraregError, OSError):
        return None  # told of by the check of the rest


def _show(run: Run, sample: str, asked: Mapping[str, str]) -> list[str]:
    """Print what a sample is and needs; return what stands in its way."""
    planned = sizing.sized(run, sample)
    notes, wrong = _raw_files(run, sample)
    for line in _facts(run, sample, asked, notes):
        _say(line)
    _say("")
    _say(plan_text(sample, planned))
    rows = make_plan(planned)
    hours = sum(row.cpu_hours for row in rows)
    cores, memory = os.cpu_count() or 1, _memory_mb()
    least = max(hours / cores, max((row.longest_minutes for row in rows), default=0) / 60)
    _say(
        f"on this machine ({cores} cores, {memory / 1000:.0f} GB of memory): {least:.1f} h or more"
    )
    largest = max((row.memory_mb for row in rows), default=0)
    if largest > memory:
        wrong.append(
            f"sample {sample}: its largest job needs {largest / 1000:.1f} GB of memory but this "
            f"machine has {memory / 1000:.1f} GB; use a larger machine, a coarser "
            "registration.resolution_um or smaller blocks (docs/scaling.md)"
        )
    return wrong


def _sum_of(run: Run) -> str:
    """What all samples of a cohort take together."""
    rows = [row for sample in run.samples for row in make_plan(sizing.sized(run, sample))]
    jobs, hours = sum(row.jobs for row in rows), sum(row.cpu_hours for row in rows)
    cores = os.cpu_count() or 1
    return (
        f"all {len(run.samples)} samples: {jobs} jobs, {hours:.1f} CPU hours, "
        f"{hours / cores:.1f} h or more on this machine"
    )


def _raw_files(run: Run, sample: str) -> tuple[list[str], list[str]]:
    """What is unusual about the files of the tiles, and what the run would stop at."""
    if not run.is_tiled(sample):
        return [], []
    source = run.samples[sample]["input"]
    settings = IndexSettings(
        sample,
        source["orientation"],
        source["missing_planes"],
        second_sides=second_sides(source["sides"]),
        missing_sides=source["missing_sides"],
    )
    layout = raw_data.layout(run, sample)
    try:
        return check_files(layout, settings), []
    except TeraregError as error:
        return list(layout.survey.problems), [f"sample {sample}: {error}"]


def _facts(run: Run, sample: str, asked: Mapping[str, str], notes: Sequence[str]) -> Iterator[str]:
    config = run.samples[sample]
    source = config["input"]
    planned = sizing.sized(run, sample)
    if not run.has_images(sample):
        yield f"sample {sample}, without images of its own"
        yield f"  derived      {', '.join(config['derived'])}"
        return
    z, y, x = planned.grid.shape
    spacing = " x ".join(f"{s:g}" for s in planned.grid.spacing_um)
    size = " x ".join(f"{n * s / 1000:.2f}" for n, s in zip((z, y, x), planned.grid.spacing_um))
    yield f"sample {sample}, input.kind: {source['kind']}"
    if run.is_tiled(sample):
        found = raw_data.survey(run, sample)
        yield f"  raw tiles    {source['path']}"
        yield (
            f"  grid         {found.rows} rows x {found.columns} columns, {len(found.tiles)} tiles "
            f"of {found.planes} x {found.tile_pixels[0]} x {found.tile_pixels[1]} voxels"
        )
        yield (
            f"  overlap      {found.overlap[0]:.1%} between rows, {found.overlap[1]:.1%} between "
            "columns"
        )
        for note in [*notes, *_empty_cells(found, source["kind"])]:
            yield f"  note         {note}"
    for told in filter(None, (_other_size(run, sample), _earlier(run, sample))):
        yield f"  note         {told}"
    lines = [f"{name}: {_channel(value)}" for name, value in source["channels"].items()]
    apart = (
        f"\n{'':15}" if any(isinstance(v, Mapping) for v in source["channels"].values()) else ", "
    )
    yield f"  channels     {apart.join(lines)}"
    for header in {} if run.is_tiled(sample) else raw_data.image_headers(run, sample).values():
        if header.others:
            yield f"  note         {header.name}: {first_of_several(header)}"
    yield f"  volume       {z} x {y} x {x} voxels of {spacing} um: {size} mm (z, y, x)"
    if "input.orientation" not in asked:
        yield f"  orientation  {source['orientation']} (z, y, x)"
    for name in run.atlases_of(sample):
        extent = planned.atlases[name]
        voxel = " x ".join(f"{s:g}" for s in extent.spacing_um)
        shape = " x ".join(map(str, extent.shape))
        code = run.atlas(name)["orientation"]
        by = "" if run.is_registered(name) else f", reached through {run.registered_for(name)}"
        yield f"  atlas        {name}: {shape} voxels of {voxel} um, {code} (z, y, x){by}"
        if "input.orientation" not in asked:
            yield from _compared(planned.grid, source["orientation"], (name, extent, code))


def _empty_cells(found: Survey, kind: str) -> Iterator[str]:
    """A sentence if cells of the grid have no tile, and nothing says that they were not scanned."""
    there = {(tile.row, tile.column) for tile in found.tiles}
    cells = [(r, c) for r in range(found.rows) for c in range(found.columns)]
    empty = [f"row {row} column {column}" for row, column in cells if (row, column) not in there]
    if empty and kind != "colm":
        yield (
            f"{len(empty)} of {len(cells)} cells of the grid have no tile: {few(empty)} (counted "
            "from 0); right if they were not scanned, else copy them"
        )


def _other_size(run: Run, sample: str) -> str | None:
    """A sentence if the files give another voxel size than the sample file."""
    source = run.samples[sample]["input"]
    wanted = source["spacing_um"]
    # the survey of a COLM folder compares the two itself
    if wanted is None or source["kind"] == "colm":
        return None
    if run.is_tiled(sample):
        return disagreement(wanted, spacing_of_tiles(source["path"]))
    told = (
        disagreement(wanted, spacing_of_image(raw_data.image_address(run, sample, channel)))
        for channel in source["channels"]
    )
    return next(filter(None, told), None)


def _earlier(run: Run, sample: str) -> str | None:
    """A sentence if the sample's results were made from other raw data."""
    given, before = raw_data.raw_addresses(run, sample), _raw_of_results(run, sample)
    now = {name: _absolute(raw) for name, raw in _named(given).items()}
    shared = now.keys() & before.keys()
    # a channel that is no longer listed says nothing of the others
    names = shared or before.keys()
    other = next((before[n] for n in before if n in names and before[n] not in now.values()), None)
    if other is None:
        return None
    return (
        f"{run.results}/{sample} holds results of {other}, which a run replaces; to keep both, "
        "give this sample another name (sample:)"
    )


def _raw_of_results(run: Run, sample: str) -> dict[str, str]:
    """Where the raw data of the results that are there were: of each image, or of all tiles."""
    for name in ("acquisition.json", "input.json"):
        try:
            told = json.loads(Path(run.path(sample, name)).read_text(encoding="utf-8"))
            found = told.get("raw") or {c: i["source"] for c, i in told["channels"].items()}
        except (OSError, ValueError, KeyError):
            continue  # not there, or not written by this version
        return {n: _absolute(raw) for n, raw in _named(found).items()}
    return {}


def _named(raw: str | dict[str, str]) -> dict[str, str]:
    """Raw data by channel; all tiles are under no name."""
    return raw if isinstance(raw, dict) else {"": raw}


def _absolute(address: str) -> str:
    """An address, or the whole path of a folder or file of this machine."""
    return address if "://" in address else str(Path(address).resolve())


def _compared(grid: Extent, code: str, atlas: tuple[str, Extent, str]) -> Iterator[str]:
    """The size of a sample beside that of an atlas, along the same directions of a brain."""
    name, extent, code_of_atlas = atlas
    own, other = _lengths_mm(grid, code), _lengths_mm(extent, code_of_atlas)
    sizes = (" x ".join(f"{mm:.2f}" for mm in lengths.values()) for lengths in (own, other))
    yield f"{'':15}{next(sizes)} mm beside {next(sizes)} mm of the atlas ({', '.join(own)})"
    apart = [
        f"{own[axis]:.3g} mm {axis} beside {other[axis]:.3g} mm"
        for axis in own
        if not _LEAST_OF_ATLAS <= own[axis] / other[axis] <= _MOST_OF_ATLAS
    ]
    if apart:
        yield (
            f"  note         the sample has {few(apart)} of atlas {name}; unless it is a part of a "
            "brain, correct input.spacing_um (micrometres, in the order z, y, x) or "
            "input.orientation"
        )


def _lengths_mm(extent: Extent, code: str) -> dict[str, float]:
    """Edges of a volume by the direction that they run along."""
    return {
        axis: next(
            n * s / 1000 for n, s, c in zip(extent.shape, extent.spacing_um, code) if c in letters
        )
        for axis, letters in _DIRECTIONS.items()
    }


def _channel(value: Any) -> str:
    """A channel of tiles: its number; of volumes: the image, and the keys that were set."""
    if not isinstance(value, Mapping):
        return str(value)
    unset = (value["path"], None, False)
    more = [f"{key} {v}" for key, v in value.items() if not any(v is one for one in unset)]
    return ", ".join([str(value["path"]), *more])


def _check_room(run: Run) -> list[str]:
    """Print what the samples need on each disk that holds their stores; return what is too much."""
    disks: dict[int, tuple[Path, dict[str, float], set[str]]] = {}
    for sample, settings in run.samples.items():
        if settings["store"].startswith("s3://"):
            continue
        folder = Path(settings["store"]).absolute()
        while not folder.exists():
            folder = folder.parent
        _, needs, stores = disks.setdefault(folder.stat().st_dev, (folder, {}, set()))
        needs[sample] = store_gb(sizing.sized(run, sample))
        stores.add(settings["store"])
    wrong = []
    for folder, needs, stores in disks.values():
        free_gb, needed_gb = shutil.disk_usage(folder).free / 1e9, sum(needs.values())
        named = few(sorted(stores))
        _say(
            f"on the disk of store ({named}): {free_gb:.1f} GB free, up to {size_text(needed_gb)} "
            "needed"
        )
        if free_gb < needed_gb:
            whose = "sample" if len(needs) == 1 else "samples"
            wrong.append(
                f"{whose} {few(list(needs))}: store {named} has {free_gb:.1f} GB free but the "
                f"volumes may take {needed_gb:.1f} GB; free some space, or point store: to a "
                "larger disk"
            )
    return wrong


def _memory_mb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
