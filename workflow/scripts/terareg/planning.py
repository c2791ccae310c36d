"""How much work there is, in how many jobs, and what a job needs (standard library only).

Sizes come from the metadata at the time the workflow is loaded, before any file exists; they set
the number of batches and the requests for memory and time, never a result. One brain is at most
about 500 jobs, at 100 GB as at 40 TB and with any number of channels: a job costs seconds of
start-up and a tracked file some 24 requests on S3.

What the rules need of time, memory and storage is in :mod:`terareg.workload`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from terareg.core.levels import coarsest_level, level_factors

MAX_BATCHES = 60  # of a stage and channel
_MAX_OF_ALL_CHANNELS = 100  # of a stage
_ROW_GB = 4.3  # 16 blocks of 512 x 512 x 512 voxels of two bytes
_UNSURE = 4  # jobs of all channels, most of which find that nothing is to be done
_LIGHT = 4  # gigabytes of pairs take as long as one that is read, computed with and written

# vCPU: (least, most, step) in MB, what AWS Batch accepts
_BATCH_MEMORY = {
    1: (2048, 8192, 1024),
    2: (4096, 16384, 1024),
    4: (8192, 30720, 1024),
    8: (16384, 61440, 4096),
    16: (32768, 122880, 8192),
}


@dataclass(frozen=True)
class Size:
    """What the metadata say about one sample.

    Attributes
    ----------
    tiles, pairs, channels : int
        Counts.
    tile_shape : tuple of int
        (z, y, x) voxels of one tile.
    volume_shape : tuple of int
        Nominal (z, y, x) voxels of the fused volume.
    bytes_per_voxel : int
    held_gb : float
        The largest image file that is read into memory whole; none where tiles are read.
    """

    tiles: int
    pairs: int
    channels: int
    tile_shape: tuple[int, int, int]
    volume_shape: tuple[int, int, int]
    bytes_per_voxel: int = 2
    held_gb: float = 0.0

    @property
    def tile_gb(self) -> float:
        """One tile of one channel."""
        return math.prod(self.tile_shape) * self.bytes_per_voxel / 1e9

    @property
    def plane_mb(self) -> float:
        """One plane of one tile."""
        return self.tile_shape[1] * self.tile_shape[2] * self.bytes_per_voxel / 1e6

    @property
    def channel_gb(self) -> float:
        """All raw tiles of one channel, or its image."""
        return self.tile_gb * self.tiles if self.tiles else self.volume_gb

    @property
    def volume_gb(self) -> float:
        """The fused volume of one channel at full resolution."""
        return math.prod(self.volume_shape) * self.bytes_per_voxel / 1e9


@dataclass(frozen=True)
class Grid:
    """Voxels along (z, y, x) and their size in micrometres."""

    shape: tuple[int, int, int]
    spacing_um: tuple[float, float, float]

    @property
    def megavoxels(self) -> float:
        """Number of voxels in millions."""
        return math.prod(self.shape) / 1e6

    @property
    def length_um(self) -> float:
        """Longest side."""
        return max(n * s for n, s in zip(self.shape, self.spacing_um))

    def at(self, resolution_um: float) -> float:
        """Millions of voxels where the grid is averaged to ``resolution_um``."""
        return self.megavoxels / math.prod(max(1.0, resolution_um / s) for s in self.spacing_um)


def aligned_channel(config: Mapping[str, Any]) -> str:
    """The channel whose tiles are compared."""
    return config["stitching"]["channel"] or next(iter(config["input"]["channels"]))


def registered_channels(config: Mapping[str, Any]) -> list[str]:
    """The channels that are registered together, the one that finds the pose first."""
    chosen = config["registration"]["channel"] or aligned_channel(config)
    return [chosen] if isinstance(chosen, str) else list(chosen)


@dataclass(frozen=True)
class Brain:
    """A sample as plans see it.

    Attributes
    ----------
    size : Size
    config : mapping
        Its complete configuration.
    grid : Grid
        Of the fused or imported volume.
    overlap : float
        Largest nominal overlap of neighbours, a fraction of the tile.
    atlases : mapping of str to Grid
        Grids of the atlases that it is registered to.
    """

    size: Size
    config: Mapping[str, Any]
    grid: Grid
    overlap: float = 0.0
    atlases: Mapping[str, Grid] = field(default_factory=dict)

    def option(self, path: str) -> Any:
        """Value at a dotted path of the configuration."""
        found: Any = self.config
        for key in path.split("."):
            found = found[key]
        return found

    @property
    def raw_gb(self) -> float:
        """Raw data of all channels."""
        return self.size.channels * self.size.channel_gb

    @property
    def tiled(self) -> bool:
        """Whether there are tiles to be stitched."""
        return self.size.tiles > 0

    @property
    def streams(self) -> bool:
        """Whether tiles are corrected wherever they are read."""
        return self.option("intensity.corrected_tiles") == "stream"

    @property
    def corrects_bias(self) -> bool:
        """Whether there is a corrected volume beside the fused one."""
        return self.option("intensity.bias.enabled")

    @property
    def block(self) -> tuple[int, int, int]:
        """Voxels of the largest block."""
        return tuple(min(self.option("volume.block"), n) for n in self.size.volume_shape)

    @property
    def block_mvox(self) -> float:
        """Millions of voxels of the largest block."""
        return math.prod(self.block) / 1e6

    @property
    def largest_atlas(self) -> Grid:
        """The atlas with most voxels; a point if there is none."""
        return max(self.atlases.values(), key=lambda g: g.megavoxels, default=_POINT)

    def level(self, resolution_um: float) -> Grid:
        """Grid of the coarsest level of the volume that is at least this fine."""
        shape, spacing = self.grid.shape, self.grid.spacing_um
        factors = level_factors(shape, spacing, self.option("volume.chunk"))
        spacings = [tuple(s * f for s, f in zip(spacing, factor)) for factor in factors]
        level = coarsest_level(spacings, (resolution_um,) * 3) or 0
        sizes = (-(-n // f) for n, f in zip(shape, factors[level]))
        return Grid(tuple(sizes), spacings[level])

    @property
    def labels(self) -> Grid:
        """Grid of the labels."""
        return self.level(self.option("labels.resolution_um"))

    @property
    def corrected(self) -> Grid:
        """Grid of the volume without bias."""
        resolution = self.option("intensity.bias.volume_um")
        return self.grid if resolution is None else self.level(resolution)

    @property
    def corrected_gb(self) -> float:
        """The volume of one channel without bias, at its finest level."""
        return self.corrected.megavoxels * self.size.bytes_per_voxel / 1e3

    def atlas_space_mvox(self, atlas: Grid) -> float:
        """Millions of voxels of a channel in an atlas."""
        resolution = self.option("atlas_space.resolution_um")
        if resolution is None:
            return atlas.megavoxels
        return atlas.megavoxels * math.prod(s / resolution for s in atlas.spacing_um)


_POINT = Grid((1, 1, 1), (1.0, 1.0, 1.0))


# ------------------------------------------------------------------ batches
def max_batches(channels: int) -> int:
    """Most batches of a stage for each of so many channels."""
    return max(1, min(MAX_BATCHES, _MAX_OF_ALL_CHANNELS // max(1, channels)))


def batches(total_gb: float, items: int, gb_per_job: float, channels: int = 1) -> int:
    """Number of batches for ``items`` pieces of work of ``total_gb`` together, at least 1.

    Every one of ``channels`` is cut into as many.
    """
    return max(1, min(items, max_batches(channels), math.ceil(total_gb / gb_per_job)))


def tile_batches(brain: Brain) -> int:
    """Batches of the tiles of one channel."""
    size = brain.size
    return batches(size.channel_gb, size.tiles, brain.option("jobs.gb_per_job"), size.channels)


def sum_batches(brain: Brain) -> int:
    """Batches of the flat-field's statistics of one channel: sampled tiles, sampled planes."""
    tiles, share = sampled(brain)
    gigabytes = brain.size.tile_gb * tiles * share
    return batches(gigabytes, tiles, brain.option("jobs.gb_per_job"), brain.size.channels)


def line_batches(brain: Brain) -> int:
    """Batches of the means of lines of one channel, for which tiles are hardly more than read."""
    size = brain.size
    gb_per_job = _LIGHT * brain.option("jobs.gb_per_job")
    count = batches(size.channel_gb, size.tiles, gb_per_job, size.channels)
    if brain.option("intensity.destriping") == "auto":
        count = min(count, max(1, _UNSURE // size.channels))
    return count


def pair_batches(brain: Brain) -> int:
    """Batches of pairs of neighbours, by what is read of them."""
    pairs = max(1, brain.size.pairs)
    gb_per_job = _LIGHT * brain.option("jobs.gb_per_job")
    return batches(pair_gb(brain) * pairs, pairs, gb_per_job)


def block_batches(brain: Brain) -> int:
    """Batches of the blocks of one channel."""
    return _row_batches(brain, brain.grid, brain.size.volume_gb, brain.size.channels)


def corrected_batches(brain: Brain) -> int:
    """Batches of the blocks of one channel without bias."""
    return _row_batches(brain, brain.corrected, brain.corrected_gb, brain.size.channels)


def label_batches(brain: Brain) -> int:
    """Batches of the label volume, whose voxels are coarser and take four bytes."""
    return _row_batches(brain, brain.labels, 4e-3 * brain.labels.megavoxels)


def _row_batches(brain: Brain, grid: Grid, gigabytes: float, channels: int = 1) -> int:
    """Batches of a volume by whole rows of blocks along x."""
    planes, rows, _ = _blocks_along(brain, grid)
    return batches(gigabytes, planes * rows, brain.option("jobs.gb_per_job"), channels)


def block_count(brain: Brain) -> int:
    """Blocks of one channel."""
    return math.prod(_blocks_along(brain, brain.grid))


def row_blocks(brain: Brain) -> int:
    """Most blocks of a row that are in memory at once where tiles are fused."""
    block_gb = brain.block_mvox * brain.size.bytes_per_voxel / 1e3
    return max(1, min(_blocks_along(brain, brain.grid)[2], int(_ROW_GB / block_gb)))


def _blocks_along(brain: Brain, grid: Grid) -> tuple[int, int, int]:
    """Blocks along (z, y, x) of a volume of the sample."""
    edge = brain.option("volume.block")
    return tuple(-(-n // edge) for n in grid.shape)


def sampled(brain: Brain) -> tuple[int, float]:
    """Tiles that the flat-field's statistics read, and the share of their planes."""
    options, planes = brain.option("intensity.flatfield"), brain.size.tile_shape[0]
    step = 1 if options["tiles"] == "all" else options["tiles"]
    return -(-brain.size.tiles // step), min(1.0, (options["planes"] or planes) / planes)


def pair_gb(brain: Brain) -> float:
    """What is read of a pair: whole rows where tiles lie side by side, strips where one is below.

    mip_ncc reads the whole depth.
    """
    options, size = brain.option("stitching.displacement"), brain.size
    planes = options["windows"] * options["window_planes"]
    # windows without signal are not read whole
    share = 1.0 if options["engine"] == "mip_ncc" else min(1.0, 0.5 * planes / size.tile_shape[0])
    return 2 * size.tile_gb * share * (1 + 2 * brain.overlap) / 2


# ------------------------------------------------------------------ requests
def fit(mem_mb: float, threads: int = 1) -> int:
    """Round a request for memory up to what AWS Batch accepts with ``threads`` CPUs.

    A request above the most for that many CPUs gets that most: ask for more threads instead
    (:func:`fit_threads`). Other engines take any number.
    """
    least, most, step = _BATCH_MEMORY[fit_threads(threads)]
    return int(min(most, max(least, math.ceil(mem_mb / step) * step)))


def fit_threads(threads: int, mem_mb: float = 0) -> int:
    """Round threads up to a size that AWS Batch offers and that can have ``mem_mb``."""
    for count, (_, most, _) in _BATCH_MEMORY.items():
        if threads <= count and mem_mb <= most:
            return count
    return max(_BATCH_MEMORY)


def grow(mem_mb: float, attempt: int) -> float:
    """Memory for a retry: half as much again for each attempt."""
    return mem_mb * 1.5 ** (attempt - 1)
