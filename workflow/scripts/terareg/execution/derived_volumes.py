"""Entries of the section ``derived:`` as plans see them, and what their jobs need.

When the workflow is loaded, only headers and metadata of sources are read; what they contradict in
an entry is refused then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError, TeraregError
from terareg.core.extents import DerivedVolume, Extent, Sample, bytes_of
from terareg.core.levels import Box, level_factors
from terareg.derived.boxes import box_of
from terareg.derived.catalogue import IMAGE, LABELS, check_regions, contrast_regions
from terareg.derived.section import Entry, entries_of, output_options
from terareg.derived.tables import read_id_table
from terareg.execution.run import Run
from terareg.exports.settings import ExportSettings
from terareg.objects.line_reach import check_reach
from terareg.storage.web import is_web, plain_address
from terareg.volumes import headers
from terareg.volumes.encodings import encodable

_ZARR_SHARE, _LABEL_SHARE = 0.6, 0.05
_DTYPES = {1: "uint8", 2: "uint16", 4: "float32"}


@dataclass(frozen=True)
class _Source:
    """A source as far as it is known before a job runs; tiles say its shape only nearly.

    ``oriented`` says whether anybody states how its axes lie in the body.
    """

    levels: tuple[Extent, ...]
    dtype: str
    kind: str
    share: float = 1.0
    held_gb: float = 0.0
    passed_gb: float = 0.0
    kept_gb: float = 0.0
    exact: bool = True
    oriented: bool = True


def entries(run: Run, sample: str) -> dict[str, Entry]:
    """Entries of a sample by name, each after the one that it is made from."""
    return entries_of(run.samples[sample])


def entry(run: Run, sample: str, derived: str) -> Entry:
    """One entry."""
    return entries(run, sample)[derived]


def names(run: Run, *tools: str, volumes: bool | None = None) -> list[str]:
    """Names of entries of all samples: of some tools, and with or without a volume as result."""
    found = (e for sample in run.samples for e in entries(run, sample).values())
    return sorted(
        {
            e.name
            for e in found
            if (not tools or e.do in tools) and volumes in (None, bool(e.facts.makes))
        }
    )


# ------------------------------------------------------------------ sizes
def sizes(run: Run, sample: Sample, name: str) -> dict[str, DerivedVolume]:
    """Sizes of all entries of a sample, from headers and from the sizes of its own volumes.

    Raises
    ------
    ConfigError, VolumeError
        If a source cannot be read, or an entry or its export does not fit it.
    """
    made: dict[str, DerivedVolume] = {}
    sources: dict[str, _Source] = {}
    for each in entries(run, name).values():
        where = f"derived.{each.name}"
        try:
            source = _source_of(run, sample, each, sources)
            _check_mask(each, made)
            made[each.name] = _sized(each, source, sample.config["volume"])
            _check_grid(each, made[each.name].grid, sample)
        except ConfigError:
            raise
        except TeraregError as error:
            raise type(error)(f"{where}: {error}") from error
        if each.facts.makes:
            sources[each.key] = _as_source(made[each.name], source)
    _check_exports(run.option(name, "export"), made, sources)
    return made


def _check_exports(
    exports: Mapping[str, Mapping[str, Any]],
    made: Mapping[str, DerivedVolume],
    sources: Mapping[str, _Source],
) -> None:
    """Refuse exports that do not fit the derived volumes that they are made from."""
    for name, section in exports.items():
        key = f"export.{name}"
        settings = ExportSettings.from_config(section, key)
        if not settings.origin.derived:
            continue
        volume = made[settings.origin.derived]
        settings.settled(volume.kind == LABELS, volume.dtype, key)
        if settings.format in ("nifti", "nrrd") and not sources[settings.origin.text].oriented:
            raise ConfigError(
                f"{key}.format: {settings.format} stores the anatomical orientation, which is "
                f"unknown for the source of {settings.origin.text}; give orientation in its entry "
                "of derived, or use format: tiff"
            )


def _source_of(run: Run, sample: Sample, entry: Entry, made: Mapping[str, _Source]) -> _Source:
    if entry.address is not None:
        return _elsewhere(run, entry)
    volume = entry.volume or ""
    if volume in made:
        return made[volume]
    kind = volume.partition("/")[0]
    extent = {
        "fused": sample.grid,
        "corrected_volume": sample.corrected,
        "labels": sample.labels,
    }[kind]
    levels = _levels(extent, sample.option("volume.chunk"))
    if kind == "labels":
        return _Source(levels, "uint32", LABELS, _LABEL_SHARE, exact=not sample.tiled)
    share = _ZARR_SHARE if "ome-zarr" in sample.option("volume.formats") else 1.0
    dtype = _DTYPES[sample.size.bytes_per_voxel]
    return _Source(levels, dtype, IMAGE, share, exact=not sample.tiled)


def _elsewhere(run: Run, entry: Entry) -> _Source:
    address = address_of(run, entry)
    header = _header(
        address, entry.settings.get("spacing_um") and tuple(entry.settings["spacing_um"])
    )
    channel = entry.settings.get("channel")
    if channel is None and header.channels > 1:
        raise ConfigError(
            f"derived.{entry.name}.channel: {address} has {header.channels} channels; give the "
            f"number of one, from 0 to {header.channels - 1}"
        )
    channel = channel or 0
    if channel >= header.channels:
        raise ConfigError(
            f"derived.{entry.name}.channel: {address} has channels 0 to {header.channels - 1}, "
            f"not {channel}"
        )
    labels = entry.settings.get("labels")
    labels = header.is_segmentation if labels is None else labels
    assert header.spacing_um is not None, "a header without voxel size is an error before"
    shapes = _shapes(address)
    finest = shapes[0]
    levels = tuple(
        Extent(shape, tuple(s * n / m for s, n, m in zip(header.spacing_um, finest, shape)))
        for shape in shapes
    )
    kind = LABELS if labels else IMAGE
    believed = entry.settings.get("spacing_um") is None
    stated = header.orientation is not None or header.form == "NRRD"
    oriented = entry.settings.get("orientation") is not None or (believed and stated)
    return _Source(
        levels, header.dtype, kind, oriented=oriented,
        held_gb=header.held_bytes / 1e9, passed_gb=header.passed_bytes / 1e9,
        kept_gb=header.kept_bytes / 1e9,
    )  # fmt: skip


@cache
def _header(address: str, spacing_um: tuple[float, float, float] | None) -> headers.Header:
    try:
        return headers.read_header(address, spacing_um)
    except ConfigError as error:
        text = str(error).replace("input.spacing_um", "spacing_um of its entry")
        raise ConfigError(text) from error


_shapes = cache(headers.level_shapes)


def address_of(run: Run, entry: Entry) -> str:
    """Address of a source elsewhere, which jobs must be able to reach."""
    address = plain_address(entry.address or "")
    if run.remote is not None and not (address.startswith("s3://") or is_web(address)):
        raise ConfigError(
            f"derived.{entry.name}.from: {address} is a local path, which jobs on other machines "
            "cannot read; give a volume on s3:// or https://"
        )
    return address


def _sized(entry: Entry, source: _Source, volume: Mapping[str, Any]) -> DerivedVolume:
    where, facts, settings = f"derived.{entry.name}", entry.facts, entry.settings
    if settings.get("labels") is not None and entry.address is None:
        source = replace(source, kind=LABELS if settings["labels"] else IMAGE)
    if source.kind not in facts.accepts:
        raise ConfigError(
            f"{where}.do: {entry.do} works on {' or '.join(facts.accepts)}, but "
            f"{entry.volume or entry.address} is {source.kind}; give another source, or set "
            "labels: if its metadata are wrong"
        )
    if source.kind == LABELS and source.dtype.startswith("float"):
        raise ConfigError(
            f"{where}.labels: {entry.volume or entry.address} has type {source.dtype}, which "
            "cannot be labels; convert it to integers"
        )
    level = settings.get("level") or 0
    if level >= len(source.levels):
        if source.exact:
            raise ConfigError(
                f"{where}.level: {level} is not a level of {entry.volume or entry.address}, "
                f"which has levels 0 to {len(source.levels) - 1}"
            )
        level = len(source.levels) - 1
    extent = source.levels[level]
    start, stop = box_of(settings, extent.shape, extent.spacing_um, where, clip=not source.exact)
    read = Extent(tuple(b - a for a, b in zip(start, stop)), extent.spacing_um)
    if entry.thickest_um is not None:
        check_reach(entry.thickest_um, extent.spacing_um, f"{where}.thickest_um")
    kind = facts.made_kind(source.kind)
    if kind == LABELS and settings.get("downsampling") in ("mean", "sparse"):
        raise ConfigError(
            f"{where}.downsampling: labels cannot be averaged; use mode, max, min or stride"
        )
    dtype = facts.dtype(settings, source.kind, source.dtype)
    _check_codec(entry, dtype, kind)
    output = output_options(entry, volume, kind or source.kind)
    _check_table(entry, dtype, where)
    _check_local(entry, read, output["block"])
    grid = facts.grid(settings, read)
    return DerivedVolume(
        tool=entry.do,
        source=read,
        source_dtype=source.dtype,
        source_share=source.share,
        held_gb=source.held_gb,
        passed_gb=source.passed_gb,
        kept_gb=source.kept_gb,
        grid=grid,
        dtype=dtype,
        kind=kind,
        output=output,
        measured=entry.measures,
        halo=facts.halo(settings, read.spacing_um),
        masked=entry.mask is not None,
    )


def _check_mask(entry: Entry, made: Mapping[str, DerivedVolume]) -> None:
    """A mask that is an image."""
    kind, _, name = (entry.settings.get("within") or "").partition("/")
    if kind == "derived" and made[name].kind != LABELS:
        raise ConfigError(
            f"derived.{entry.name}.within: {kind}/{name} is an image; give a volume of labels, for "
            "example one of do: tissue"
        )


def _check_local(entry: Entry, read: Extent, block: int) -> None:
    """Regions of local contrast that are too small, or larger than blocks."""
    regions = contrast_regions(entry.settings, read.spacing_um)
    try:
        check_regions(regions, entry.settings.get("local_um"), read.shape, block)
    except ConfigError as error:
        raise ConfigError(f"derived.{entry.name}.{error}") from error


def _check_grid(entry: Entry, grid: Extent, sample: Sample) -> None:
    """Signal that was found elsewhere lies on the grid of its channel, where that is known."""
    if not entry.by_region or entry.channel == entry.volume or sample.tiled:
        return
    wanted = sample.grid if entry.channel.startswith("fused/") else sample.corrected
    near = all(abs(a / b - 1) < 1e-3 for a, b in zip(grid.spacing_um, wanted.spacing_um))
    if grid.shape != wanted.shape or not near:
        raise ConfigError(
            f"derived.{entry.name}.image: {entry.channel} has {wanted.shape} voxels of "
            f"{wanted.spacing_um} um, and {entry.volume or entry.address} {grid.shape} of "
            f"{grid.spacing_um} um; give a volume on the grid of the channel, or take image away, "
            "which leaves the mask without tables of regions"
        )


def _check_table(entry: Entry, dtype: str, where: str) -> None:
    """Ids of a table that the result cannot hold, where the table can be seen from here."""
    path = entry.files.get("table")
    if path is None or not Path(path).is_file():
        return
    most = 2 ** (8 * bytes_of(dtype)) - 1
    for old, new in read_id_table(path).items():
        if new > most:
            raise ConfigError(
                f"{where}.table: {path} maps id {old} to {new}, too large for {dtype}; set ids: "
                "uint64"
            )


def _check_codec(entry: Entry, dtype: str, kind: str) -> None:
    codec = entry.settings.get("codec")
    fitting = encodable(codec, dtype)
    if kind and dtype not in fitting:
        raise ConfigError(
            f"derived.{entry.name}.codec: {codec} stores {' or '.join(fitting)}, not {dtype}; use "
            "another codec, or convert to 8 bits first (do: quantize)"
        )


def _as_source(made: DerivedVolume, source: _Source) -> _Source:
    levels = _levels(
        made.grid,
        made.output["chunk"],
        made.output.get("halved", "finest"),
        made.output.get("levels"),
    )
    zarr = "ome-zarr" in made.output["formats"]
    share = _LABEL_SHARE if made.kind == LABELS else _ZARR_SHARE if zarr else 1.0
    return replace(
        source,
        levels=levels,
        dtype=made.dtype,
        kind=made.kind,
        share=share,
        held_gb=0.0,
        passed_gb=0.0,
        kept_gb=0.0,
    )


def _levels(
    grid: Extent, chunk: int, halved: str = "finest", most: int | None = None
) -> tuple[Extent, ...]:
    found = []
    for factor in level_factors(grid.shape, grid.spacing_um, chunk, halved)[:most]:
        shape: Box = tuple(-(-n // f) for n, f in zip(grid.shape, factor))
        found.append(Extent(shape, tuple(s * f for s, f in zip(grid.spacing_um, factor))))
    return tuple(found)
