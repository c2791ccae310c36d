"""Sizes of the samples, from their metadata, and the numbers of batches that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from terareg.atlas.brainglobe import zarr_level_shape
from terareg.core.cost import Count
from terareg.core.errors import TeraregError
from terareg.core.extents import Extent, Sample, Size
from terareg.derived.cost import derived_batches
from terareg.execution import derived_volumes, raw_data
from terareg.execution.own_files import copied_files
from terareg.execution.run import Run
from terareg.intensity.cost import corrected_batches
from terareg.regions.cost import label_batches
from terareg.signal.search import check_size, three
from terareg.volumes import headers
from terareg.volumes.cost import block_batches

_NO_IMAGES = Size(0, 0, 0, (0, 0, 0), (1, 1, 1))
_ALLEN_25_UM = Extent((528, 320, 456), (25.0, 25.0, 25.0))
_STORED_BYTES = {"uint8": 1, "uint16": 2, "float32": 4}
_BATCHES = {
    "fused": block_batches,
    "corrected_volume": corrected_batches,
    "labels": label_batches,
}


@cache
def sized(run: Run, sample: str) -> Sample:
    """A sample as plans see it."""
    if not run.has_images(sample):
        alone = Sample(_NO_IMAGES, run.samples[sample], Extent((1, 1, 1), (1.0, 1.0, 1.0)))
        return _with_entries(run, alone, sample)
    size = _imported_size(run, sample) if run.is_imported(sample) else _tiled_size(run, sample)
    described = run.samples[sample]["atlases"]
    found = Sample(
        size=size,
        config=run.samples[sample],
        grid=Extent(size.volume_shape, raw_data.spacing_um(run, sample)),
        overlap=0.0 if run.is_imported(sample) else max(raw_data.survey(run, sample).overlap),
        atlases={a: _atlas_extent(run, described[a]) for a in run.atlases_of(sample)},
    )
    return _with_entries(run, found, sample)


def _with_entries(run: Run, known: Sample, sample: str) -> Sample:
    entries = derived_volumes.sizes(run, known, sample)
    return replace(known, derived=entries, copies=len(copied_files(run, sample)))


def check_extents(run: Run) -> None:
    """Refuse a sample and an atlas of very different sizes: one of them has the wrong unit.

    Raises
    ------
    ConfigError
        Names both, with their sizes.
    """
    for name in run.samples:
        sample = sized(run, name)
        own = sample.size.volume_shape, sample.grid.spacing_um
        for atlas, extent in sample.atlases.items():
            if extent is not _ALLEN_25_UM:
                headers.check_extents(own, (extent.shape, extent.spacing_um), (name, atlas))


def check_cells(run: Run) -> None:
    """Refuse cells that are too small for the voxels of their sample, or as large as a brain.

    Raises
    ------
    VolumeError
        Names the key.
    """
    for name in run.samples:
        grid = sized(run, name).grid
        for cells, entry in run.samples[name]["cells"].items():
            what = f"sample {name}, cells.{cells}.diameter_um"
            check_size(three(entry["diameter_um"]), grid.shape, grid.spacing_um, what)


def users_of_job(run: Run, sample: str | None, atlas: str | None) -> list[Sample]:
    """The sample of a job; all samples that use an atlas, for a job of the atlas."""
    names = [sample] if sample is not None else run.users_of(str(atlas))
    return [sized(run, name) for name in names]


def batches_of(run: Run, sample: str, count: Count) -> int:
    """Number of batches of a stage, for example ``terareg.intensity.cost.tile_batches``."""
    return count(sized(run, sample))


def volume_batches(run: Run, sample: str, volume: str) -> int:
    """Batches of any volume; a channel in the atlas is one job."""
    kind, name = volume.split("/")[:2]
    if kind == "derived":
        return derived_batches(sized(run, sample), name)
    count = _BATCHES.get(kind)
    return 1 if count is None else count(sized(run, sample))


def _imported_size(run: Run, sample: str) -> Size:
    images = list(raw_data.image_headers(run, sample).values())
    return Size(
        tiles=0,
        pairs=0,
        channels=len(images),
        tile_shape=(0, 0, 0),
        volume_shape=images[0].shape,
        bytes_per_voxel=max(_STORED_BYTES[image.stored_dtype] for image in images),
        held_gb=max(image.held_bytes for image in images) / 1e9,
        passed_gb=max(image.passed_bytes for image in images) / 1e9,
        kept_gb=max(image.kept_bytes for image in images) / 1e9,
    )


def _tiled_size(run: Run, sample: str) -> Size:
    found = raw_data.survey(run, sample)
    height, width = (n * (1 - o) for n, o in zip(found.tile_pixels, found.overlap))
    return Size(
        tiles=len(found.tiles),
        pairs=found.pairs(),
        channels=len(run.channels_of(sample)),
        raw_channels=len(run.all_sides(sample)),
        tile_shape=(found.planes, *found.tile_pixels),
        volume_shape=(
            found.planes,
            round(height * (found.rows - 1) + found.tile_pixels[0]),
            round(width * (found.columns - 1) + found.tile_pixels[1]),
        ),
    )


def known_extent(run: Run, settings: Mapping[str, Any]) -> Extent | None:
    """Extent of an atlas, or None where its files do not tell it."""
    extent = _atlas_extent(run, settings)
    return None if extent is _ALLEN_25_UM else extent


def _atlas_extent(run: Run, settings: Mapping[str, Any]) -> Extent:
    """Extent of an atlas from the header of its annotation.

    Errors of the file are left to prepare_atlas; until then a usual extent is assumed.
    """
    address = settings["annotation"]
    level = None if "://" in address else zarr_level_shape(address)
    if level is not None:
        z, y, x = settings["spacing_um"]
        return Extent(level, (z, y, x))
    if run.remote is not None and "://" not in address:
        address = f"{run.remote}/{address}"
    try:
        header = headers.read_header(address, settings["spacing_um"])
    except (TeraregError, OSError):
        return _ALLEN_25_UM
    assert header.spacing_um is not None, "a header without voxel size is an error before"
    return Extent(header.shape, header.spacing_um)
