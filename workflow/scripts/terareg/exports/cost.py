"""What exports need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from terareg.core.cost import ITK_MB, Load, RuleCost
from terareg.core.extents import Extent, Sample, bytes_of
from terareg.exports.settings import TERAFLY, TERAFLY_EDGE, ExportSettings, slab_planes
from terareg.volumes.cost import PYRAMID

_WRITE_CPU = 30.0  # seconds to compress a GB
_PACKED = 0.6  # of what is written to what is held
_IDS_BYTES = 4
_SITE_BYTES, _SITE_MPX = 110, 17.0  # statistics of a pixel of a site, pixels of a large camera
_EVEN_CPU = 25.0  # seconds for a GB


def _exports(sample: Sample) -> Iterator[tuple[ExportSettings, Extent, int]]:
    """Settings of every export, the grid of its source, and bytes of a voxel of it."""
    for entry in sample.option("export").values():
        settings = ExportSettings.from_config(entry)
        origin, atlas = settings.origin, sample.atlases.get(settings.origin.atlas)
        grid, size = sample.grid, sample.size.bytes_per_voxel
        if origin.kind == "corrected_volume":
            grid = sample.corrected
        elif origin.kind == "derived":
            made = sample.derived[origin.derived]
            grid, size = made.grid, bytes_of(made.dtype)
        elif origin.kind == "labels":
            grid, size = sample.labels, _IDS_BYTES
        elif origin.kind == "registration":
            grid, size = atlas or sample.grid, 4
        elif atlas is not None:
            grid = atlas
            size = _IDS_BYTES if origin.is_segmentation else size
        yield settings, grid, size


def _read_gb(settings: ExportSettings, grid: Extent, size: int) -> float:
    """Voxels that are read: of a level that is at most twice as fine along each axis."""
    voxels = grid.megavoxels
    if settings.resolution_um is not None:
        coarser = (max(1.0, r / 2 / s) for r, s in zip(settings.resolution_um, grid.spacing_um))
        voxels /= math.prod(coarser)
    return voxels * size / 1e3


def _load(series: bool):
    def load(sample: Sample) -> Load:
        jobs, read, written, cpu = 0, 0.0, 0.0, 0.0
        for settings, grid, size in _exports(sample):
            if settings.is_series == series:
                gigabytes = _read_gb(settings, grid, size)
                if settings.format == TERAFLY:
                    gigabytes *= PYRAMID
                if settings.is_evened:
                    cpu += _EVEN_CPU * gigabytes
                jobs, read = jobs + 1, read + gigabytes * (2 if settings.is_evened else 1)
                written, cpu = written + _PACKED * gigabytes, cpu + _WRITE_CPU * gigabytes
        return Load(jobs, read, written, cpu)

    return load


def _slabs_mb(sample: Sample, threads: int) -> float:
    """Memory of a job: a slab with what is made of it, and a map or an atlas that is held whole."""
    most = 0.0
    for settings, grid, size in _exports(sample):
        height, width, held = *grid.shape[1:], 0.0
        if settings.format == TERAFLY:
            # blocks of levels are made from voxels that are up to twice as fine; one is written
            height, width = (min(n, 2 * TERAFLY_EDGE) for n in (height, width))
            held = 2 * size * TERAFLY_EDGE**3 / 1e6
        plane = height * width * max(size, 4) / 1e6
        depth = min(grid.shape[0], slab_planes(plane * 1e6))
        if settings.origin.kind == "registration":
            held += 16 * sample.largest_atlas.megavoxels
        elif not settings.origin.is_volume or settings.origin.is_segmentation:
            held += 8 * sample.largest_atlas.megavoxels
        if settings.is_evened:
            held += _SITE_BYTES * min(math.prod(grid.shape[1:]) / 1e6, _SITE_MPX)
        most = max(most, 3 * plane * depth + held)
    return ITK_MB + most


def _tables(sample: Sample) -> Load:
    chosen = [s for s, _, _ in _exports(sample) if s.origin.is_segmentation and s.labels != "rgb"]
    return Load(len(chosen), cpu_s=2.0 * len(chosen))


def _bids(sample: Sample) -> Load:
    """Objects of the fused volumes, linked in a folder and copied on S3."""
    if not sample.option("bids.enabled"):
        return Load(0)
    gigabytes = sample.size.channels * sample.size.volume_gb
    copied = sample.on_s3 or sample.option("bids.files") == "copy"
    moved = _PACKED * PYRAMID * gigabytes if copied else 0.0
    return Load(1, moved, moved, 1.0 + moved)


def _bids_mb(sample: Sample, threads: int) -> float:
    """Whole objects on every thread, where they are copied by way of this machine."""
    return ITK_MB + 2000 * threads * sample.held_gb


RULES = {
    "export_volume": RuleCost("exports", _slabs_mb, _load(False), heavy=True),
    "export_planes": RuleCost("exports", _slabs_mb, _load(True), heavy=True),
    "export_bids": RuleCost("exports", _bids_mb, _bids, heavy=True),
    "export_regions": RuleCost(
        "exports", lambda sample, threads: ITK_MB + 4 * sample.largest_atlas.megavoxels, _tables
    ),
}
