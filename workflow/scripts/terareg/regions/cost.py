"""What the rules of regions need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from terareg.core.cost import (
    ITK_MB,
    Load,
    RuleCost,
    atlas,
    atlases,
    atlases_given,
    blocks,
    for_each,
)
from terareg.core.extents import Sample
from terareg.registration.cost import shifts_mb
from terareg.volumes.cost import PYRAMID, atlas_spaces, level_gb, read_share, row_batches

_LABEL_SHARE = 0.05  # compressed size of labels over their uncompressed size
_LABEL_GB = 4e-3  # gigabytes of a million voxels


def label_batches(sample: Sample) -> int:
    """Batches of the label volume, whose voxels are coarser and take four bytes."""
    return row_batches(sample, sample.labels, _LABEL_GB * sample.labels.megavoxels)


def _points(sample: Sample) -> int:
    return len(sample.option("points"))


def _counted_points(sample: Sample, threads: int) -> float:
    return atlas(4)(sample, threads) + shifts_mb(sample)


# ------------------------------------------------------------------ work
def _transform_labels(sample: Sample) -> Load:
    n, voxels = len(sample.atlases), sample.labels.megavoxels
    formats = len({*sample.option("volume.formats"), "precomputed"})
    written = _LABEL_SHARE * _LABEL_GB * voxels * formats
    read = n * label_batches(sample) * 2e-3 * sample.largest_atlas.megavoxels
    return Load(n * label_batches(sample), read, n * written, n * 0.15 * voxels)


def _transform_volume(sample: Sample) -> Load:
    if not sample.option("atlas_space.enabled"):
        return Load(0)
    n, jobs, read, written, cpu = sample.size.channels, 0, 0.0, 0.0, 0.0
    for extent in sample.atlases.values():
        voxels = sample.atlas_space_mvox(extent)
        resolution = sample.option("atlas_space.resolution_um") or min(extent.spacing_um)
        jobs, cpu = jobs + n, cpu + n * 0.4 * voxels
        read += n * level_gb(sample, resolution)
        written += n * 2e-3 * voxels * PYRAMID * read_share(sample)
    return Load(jobs, read, written, cpu)


def _sum_regions(sample: Sample) -> Load:
    n, voxels, count = len(sample.atlases), sample.labels.megavoxels, sample.size.channels
    channels = 2e-3 * voxels * count * read_share(sample)
    read = n * (channels + _LABEL_SHARE * _LABEL_GB * voxels)
    return Load(n * label_batches(sample), read, cpu_s=n * voxels * (0.1 + 0.05 * count))


# ------------------------------------------------------------------ memory
def _mesh_labels(sample: Sample, threads: int) -> float:
    """A job that holds the level of the labels from which meshes are made."""
    level = sample.level(sample.option("labels.mesh_resolution_um")).megavoxels
    return ITK_MB + 11 * min(level, sample.labels.megavoxels)


def _drawn_labels(sample: Sample, threads: int) -> float:
    """A job that holds the atlas, and a user's image of labels at 25 um or coarser."""
    return atlas(4)(sample, threads) + 8 * sample.grid.at(25.0)


RULES = {
    "init_labels": RuleCost("regions", atlas(4), for_each(atlases)),
    "transform_labels": RuleCost("regions", blocks(4.5, 3, 400), _transform_labels, heavy=True),
    "mesh_labels": RuleCost("regions", _mesh_labels, for_each(atlases, 60.0), heavy=True),
    "init_atlas_space": RuleCost("regions", load=for_each(atlas_spaces)),
    "transform_volume": RuleCost("regions", blocks(4), _transform_volume, heavy=True),
    "sum_regions": RuleCost("regions", blocks(4.5, 2, 240), _sum_regions, heavy=True),
    "measure_regions": RuleCost("regions", atlas(4), for_each(atlases, 2.0)),
    "transform_points": RuleCost("regions", atlas(4), for_each(_points)),
    "count_points": RuleCost("regions", _counted_points, for_each(_points)),
    "score_registration": RuleCost("regions", load=for_each(atlases_given("fiducials"))),
    "score_labels": RuleCost(
        "regions", _drawn_labels, for_each(atlases_given("sample_labels"), 10.0)
    ),
}
