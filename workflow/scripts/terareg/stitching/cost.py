"""What the rules of stitching need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math

from terareg.core.cost import (
    ITK_MB,
    PYTHON_MB,
    Load,
    RuleCost,
    batches,
    if_measured,
    planes,
)
from terareg.core.extents import Sample
from terareg.stitching.channel_sampling import (
    DEPTHS,
    FIELD,
    LOOKED_AT,
    MOST_PLACES,
    MOST_TILES,
    PATCH_PX,
    PLANES,
    SIDE_TILES,
    WIDEN,
    search_in_voxels,
    side_depths,
)
from terareg.stitching.overview import BINNED_TO, MAX_TILES, overview_planes

_PAIRS_PER_JOB = 4  # gigabytes of pairs take as long as one gigabyte of corrected tiles


def pair_batches(sample: Sample) -> int:
    """Batches of pairs of neighbours, by the bytes that are read."""
    pairs = max(1, sample.size.pairs)
    gb_per_job = _PAIRS_PER_JOB * sample.option("jobs.gb_per_job")
    return batches(_pair_gb(sample) * pairs, pairs, gb_per_job)


def _pair_gb(sample: Sample) -> float:
    """Gigabytes read for a pair: whole rows for EAST pairs, strips for SOUTH pairs.

    mip_ncc reads the whole depth.
    """
    options, size = sample.option("stitching.displacement"), sample.size
    compared = options["windows"] * options["window_planes"]
    # windows without signal are not read completely
    share = 1.0 if options["engine"] == "mip_ncc" else min(1.0, 0.5 * compared / size.tile_shape[0])
    return 2 * size.tile_gb * share * (1 + 2 * sample.overlap) / 2


def _estimate_steps(sample: Sample) -> Load:
    looked_at = overview_planes(sample.size.tile_shape[0])
    read = min(sample.size.tiles, MAX_TILES) * looked_at * sample.size.plane_mb / 1e3
    return Load(1, read, cpu_s=6 * read)


def _measure_displacements(sample: Sample) -> Load:
    read = sample.size.pairs * _pair_gb(sample)
    if sample.measured_sides > 1:  # a few planes of both, by which the side is chosen
        looked_at = min(LOOKED_AT, sample.size.tile_shape[0])
        read += sample.size.pairs * 4 * looked_at * sample.size.plane_mb / 1e3
    in_parts = sample.option("stitching.model") in ("affine", "elastic", "auto")
    return Load(pair_batches(sample), read, cpu_s=(7.5 if in_parts else 6) * read)


def _has_fields(sample: Sample) -> bool:
    """Whether tiles may be found to be distorted within themselves."""
    return sample.option("stitching.model") in ("elastic", "auto")


def _place_tiles(sample: Sample) -> Load:
    """Usually there are no fields; then the equations are small."""
    tiles = sample.size.tiles
    most = Load(1, cpu_s=5 + 0.3 * tiles) if _has_fields(sample) else None
    return Load(1, cpu_s=1 + 0.01 * tiles, most=most)


def _equations(sample: Sample, threads: int) -> float:
    """The normal equations of the fields of all tiles and their factors."""
    return ITK_MB + (2.0 * sample.size.tiles if _has_fields(sample) else 0.0)


def shifted_channels(sample: Sample) -> int:
    """Channels and sides whose shift against others is measured or given."""
    wanted = sample.option("stitching.channel_shift")
    return 0 if wanted == "none" or not sample.tiled else sample.size.raw_channels - 1


def _channel_search(sample: Sample) -> tuple[int, list[int]]:
    """Planes of a channel at one place, and the search, voxels (z, y, x)."""
    shape = sample.size.tile_shape
    search_um = [WIDEN * s for s in sample.option("stitching.channel_search_um")]
    search = search_in_voxels(search_um, sample.grid.spacing_um, shape)
    return min(shape[0], PLANES + 2 * search[0]), search


def _measure_channel_shift(sample: Sample) -> Load:
    count = shifted_channels(sample)
    if sample.option("stitching.channel_shift") == "given":
        return Load(count, cpu_s=count)
    size, (deep, _) = sample.size, _channel_search(sample)
    looked_at = 2 * min(size.tiles, MOST_TILES) * DEPTHS
    compared = min(MOST_PLACES, size.tiles * DEPTHS) * (min(PLANES, size.tile_shape[0]) + deep)
    read = count * (looked_at + compared) * size.plane_mb / 1e3
    return Load(count, read, cpu_s=count * 60 + 2 * read)


def _compared_patches(sample: Sample, threads: int) -> float:
    """Patches of both channels at all places, half precision, and for each thread a band of rows
    of both, and one patch while it is filtered and correlated, single precision."""
    size, (deep, search) = sample.size, _channel_search(sample)
    rows, columns = (min(n, PATCH_PX + 2 * s) for n, s in zip(size.tile_shape[1:], search[1:]))
    patch = deep * rows * columns + PLANES * PATCH_PX**2
    band = 2 * deep * min(size.tile_shape[1], rows + 30) * size.tile_shape[2]
    held = 2 * MOST_PLACES * FIELD**2 * patch
    return ITK_MB + (held + threads * (size.bytes_per_voxel * band + 40 * patch)) / 1e6


def _match_sides(sample: Sample) -> Load:
    count, size = len(sample.option("input.sides")), sample.size
    content = sample.option("fusion.sides.weights") == "content"
    depths = side_depths(size.tile_shape[0], sample.grid.spacing_um[0], 0, content)
    tiles = size.tiles if content else min(size.tiles, SIDE_TILES)
    read = count * 2 * 2 * tiles * min(depths, size.tile_shape[0]) * size.plane_mb / 1e3
    return Load(count, read, cpu_s=count * 5 + 25 * read)


def _overviews(sample: Sample, threads: int) -> float:
    """Some planes of a tile for each thread, and the same planes of all tiles, binned, float32."""
    size = sample.size
    depth, *sides = size.tile_shape
    count = overview_planes(depth)
    binned = math.prod(sides) / max(1, min(sides) // BINNED_TO) ** 2
    held_mb = min(size.tiles, MAX_TILES) * count * binned * 4e-6
    return PYTHON_MB + held_mb + 25 * threads * size.plane_mb


def _strips(sample: Sample, threads: int) -> float:
    """For each thread the strips of a window in both tiles, and the patches of the refinement."""
    size, depth = sample.size, sample.option("stitching.displacement")["window_planes"]
    side = max(size.tile_shape[1:])
    strip = max(64.0, 2 * sample.overlap * side) * side
    # measured: 326 MB with tiles of 2048 pixels, 10 % overlap and 60 pixels of search
    return ITK_MB + threads * min(depth, size.tile_shape[0]) * strip * 12.5 / 1e6


RULES = {
    "import_tiles": RuleCost("stitching", needs="tiles"),
    "estimate_steps": RuleCost(
        "stitching", _overviews, if_measured(_estimate_steps), heavy=True, needs="tiles"
    ),
    "measure_displacements": RuleCost(
        "stitching", _strips, if_measured(_measure_displacements), heavy=True, needs="tiles"
    ),
    "gather_displacements": RuleCost("stitching", needs="tiles"),
    "project_displacements": RuleCost("stitching", needs="tiles"),
    "threshold_displacements": RuleCost("stitching", needs="tiles"),
    "place_tiles": RuleCost("stitching", _equations, _place_tiles, needs="tiles"),
    "measure_channel_shift": RuleCost(
        "stitching", _compared_patches, _measure_channel_shift, heavy=True, needs="tiles"
    ),
    "match_sides": RuleCost("stitching", planes(4, 40), _match_sides, heavy=True, needs="tiles"),
    "export_render": RuleCost("stitching", needs="tiles"),
}
