"""What the rules of intensity need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

from collections.abc import Callable

from terareg.core.cost import (
    PYTHON_MB,
    Load,
    RuleCost,
    batches,
    blocks,
    for_each,
    planes,
    whole,
)
from terareg.core.extents import Sample
from terareg.volumes.cost import level_gb, read_share, row_batches, stored_gb, write_cpu

_LIGHT = 4  # gigabytes that are only read take as long as one that is read and corrected
_UNSURE = 4  # jobs of all channels together, most of which find that there is nothing to do


# ------------------------------------------------------------------ batches
def tile_batches(sample: Sample) -> int:
    """Batches of the tiles of one channel."""
    size = sample.size
    return batches(size.channel_gb, size.tiles, sample.option("jobs.gb_per_job"), size.raw_channels)


def line_batches(sample: Sample) -> int:
    """Batches of the means of lines of one channel, which cost little more than reading tiles."""
    size = sample.size
    gb_per_job = _LIGHT * sample.option("jobs.gb_per_job")
    count = batches(size.channel_gb, size.tiles, gb_per_job, size.raw_channels)
    if sample.option("intensity.destriping") == "auto":
        count = min(count, max(1, _UNSURE // size.raw_channels))
    return count


def sum_batches(sample: Sample) -> int:
    """Batches of the flat-field's statistics of one channel: sampled tiles, sampled planes."""
    tiles, share = _sampled(sample)
    gigabytes = sample.size.tile_gb * tiles * share
    return batches(gigabytes, tiles, sample.option("jobs.gb_per_job"), sample.size.raw_channels)


def corrected_batches(sample: Sample) -> int:
    """Batches of the blocks of one channel without bias."""
    return row_batches(sample, sample.corrected, sample.corrected_gb, sample.size.channels)


def _sampled(sample: Sample) -> tuple[int, float]:
    """Tiles that the flat-field's statistics read, and the share of their planes."""
    options, depth = sample.option("intensity.flatfield"), sample.size.tile_shape[0]
    step = 1 if options["tiles"] == "all" else options["tiles"]
    return -(-sample.size.tiles // step), min(1.0, (options["planes"] or depth) / depth)


# ------------------------------------------------------------------ work
def _sum_tiles(first: bool = False) -> Callable[[Sample], Load]:
    """Statistics of all channels, or of those that are needed before any tile is placed."""

    def load(sample: Sample) -> Load:
        tiles, share = _sampled(sample)
        count = sample.first_flatfields if first else sample.size.raw_channels
        read = count * sample.size.tile_gb * tiles * share
        return Load(count * sum_batches(sample), read, cpu_s=10 * read)

    return load


def _solve_flatfield(first: bool = False) -> Callable[[Sample], Load]:
    """Flat-fields of all channels, or of those that are needed before any tile is placed."""

    def load(sample: Sample) -> Load:
        count = sample.first_flatfields if first else sample.size.raw_channels
        return Load(count, cpu_s=count * (5 + 0.3 * _sampled(sample)[0]))

    return load


def destriped_channels(sample: Sample) -> int:
    """Number of channels whose stripe artefacts are removed, or looked for."""
    wanted = sample.option("intensity.destriping")
    if wanted == "auto" and sample.option("intensity.flatfield.method") != "statistics":
        wanted = "none"
    return 0 if wanted == "none" else sample.size.raw_channels


def _share_of_lines(sample: Sample) -> float:
    """Bytes of the means of lines per byte of raw data: 4 x 4 for each line of each overlap."""
    length = max(sample.size.tile_shape[1:])
    return 32 * (1 + sample.overlap) / (length * sample.size.bytes_per_voxel)


def _sum_lines(sample: Sample) -> Load:
    if not destriped_channels(sample):
        return Load(0)
    raw = sample.raw_gb
    jobs = sample.size.raw_channels * line_batches(sample)
    return _if_found(sample, Load(jobs, raw, raw * _share_of_lines(sample), 1.5 * raw))


def _estimate_stripes(sample: Sample) -> Load:
    raw, count = sample.raw_gb, destriped_channels(sample)
    if not count:
        return Load(0)
    share = _share_of_lines(sample)
    work = Load(count, 2 * raw * share, raw * share / 8, count * 5 + 0.4 * raw)
    return _if_found(sample, work)


def _if_found(sample: Sample, work: Load) -> Load:
    """Work of destriping; usually none where stripe artefacts are looked for first ("auto")."""
    auto = sample.option("intensity.destriping") == "auto"
    return Load(work.jobs, cpu_s=work.jobs, most=work) if auto else work


def _correct_tiles(sample: Sample) -> Load:
    if sample.streams:
        return Load(0)
    raw = sample.raw_gb
    return Load(sample.size.raw_channels * tile_batches(sample), raw, raw, 2 * raw)


def _dropped(sample: Sample) -> int:
    temporary = sample.option("intensity.corrected_tiles") == "temporary"
    return sample.size.raw_channels if temporary else 0


def bias_fields(sample: Sample) -> int:
    """Number of channels whose bias field is estimated."""
    return sample.size.channels if sample.corrects_bias else 0


def _estimate_bias(sample: Sample) -> Load:
    if not sample.corrects_bias:
        return Load(0)
    n, resolution = sample.size.channels, sample.option(BIAS_RESOLUTION)
    cpu = n * (1 + 60 * sample.grid.at(resolution))
    return Load(n, n * level_gb(sample, resolution), cpu_s=cpu)


def _correct_volume(sample: Sample) -> Load:
    if not sample.corrects_bias:
        return Load(0)
    n, volume_gb = sample.size.channels, sample.corrected_gb
    read = n * volume_gb * read_share(sample)
    cpu = n * (9 * volume_gb + write_cpu(sample, volume_gb))
    return Load(n * corrected_batches(sample), read, n * stored_gb(sample, volume_gb), cpu)


# ------------------------------------------------------------------ memory
def _corrected_slabs(sample: Sample, threads: int) -> float:
    """A job that corrects 16 planes at a time on each thread, and a shard of them for S3."""
    return planes(0, 40 if sample.on_s3 else 20)(sample, threads)


def _equations(sample: Sample, threads: int) -> float:
    """Statistics of all tiles, and the equations formed from them."""
    options = sample.option("intensity.flatfield")
    means = sample.size.tiles * options["slabs"] * options["blocks"] ** 2
    return planes(16)(sample, threads) + 300e-6 * means


def _line_gains(sample: Sample, threads: int) -> float:
    """Means of the lines of all tiles in a slab of planes, and the equations of one plane."""
    return PYTHON_MB + 1.6e-3 * sample.size.tiles * max(sample.size.tile_shape[1:])


BIAS_RESOLUTION = "intensity.bias.resolution_um"
RULES = {
    "sum_tiles": RuleCost(
        "intensity", planes(8), _sum_tiles(first=True), heavy=True, needs="tiles"
    ),
    "estimate_flatfield": RuleCost(
        "intensity", _equations, _solve_flatfield(first=True), needs="tiles"
    ),
    "sum_placed_tiles": RuleCost("intensity", planes(8), _sum_tiles(), heavy=True, needs="tiles"),
    "refine_flatfield": RuleCost("intensity", _equations, _solve_flatfield(), needs="tiles"),
    "sum_lines": RuleCost("intensity", planes(2, 5), _sum_lines, heavy=True, needs="tiles"),
    "estimate_stripes": RuleCost("intensity", _line_gains, _estimate_stripes, needs="tiles"),
    "correct_tiles": RuleCost(
        "intensity", _corrected_slabs, _correct_tiles, heavy=True, needs="tiles"
    ),
    "drop_corrected_tiles": RuleCost("intensity", load=for_each(_dropped), needs="tiles"),
    "estimate_bias_field": RuleCost("bias", whole(BIAS_RESOLUTION, 48), _estimate_bias, heavy=True),
    "init_corrected_volume": RuleCost("bias", load=for_each(bias_fields)),
    "correct_volume": RuleCost("bias", blocks(3.5), _correct_volume, heavy=True),
}
