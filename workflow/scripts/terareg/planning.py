"""How much work there is, in how many jobs, and what a job needs (standard library only).

Sizes come from the metadata at the time the workflow is loaded, before any file exists; they set
the number of batches and the requests for memory and time, never a result. One brain is at most
about 500 jobs, at 100 GB as at 40 TB and with any number of channels: a job costs seconds of
start-up and a tracked file some 24 requests on S3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_BATCHES = 60  # of a stage and channel
_MAX_OF_ALL_CHANNELS = 100  # of a stage
_START_MB = 700  # interpreter, libraries and Snakemake's own two processes
_MINUTES_PER_GB = 1.5  # decode, work and encode on one thread, with a factor of three in hand

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
        """All raw tiles of one channel."""
        return self.tile_gb * self.tiles

    @property
    def volume_gb(self) -> float:
        """The fused volume of one channel at full resolution."""
        return math.prod(self.volume_shape) * self.bytes_per_voxel / 1e9


def max_batches(channels: int) -> int:
    """Most batches of a stage for each of so many channels."""
    return max(1, min(MAX_BATCHES, _MAX_OF_ALL_CHANNELS // max(1, channels)))


def batches(total_gb: float, items: int, gb_per_job: float, channels: int = 1) -> int:
    """Number of batches for ``items`` pieces of work of ``total_gb`` together, at least 1.

    Every one of ``channels`` is cut into as many.
    """
    return max(1, min(items, max_batches(channels), math.ceil(total_gb / gb_per_job)))


def batch_range(items: int, batch: int, count: int) -> range:
    """Indices of batch ``batch`` of ``count``: contiguous, sizes differ by one at most."""
    return range(items * batch // count, items * (batch + 1) // count)


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


# ---------------------------------------------------------------- memory and time of the stages
def small_job_mb() -> float:
    """A job that reads and writes tables and metadata."""
    return _START_MB


def plane_job_mb(size: Size, threads: int) -> float:
    """A job that streams planes: a few float32 copies of a plane for each thread."""
    return _START_MB + 12 * 2 * size.plane_mb * (threads + 2)


def pair_job_mb(size: Size, threads: int, overlap: float, planes: int) -> float:
    """A job that compares strips of two tiles: raw, float32 and complex copies of one window."""
    strip = max(64.0, 2 * overlap * max(size.tile_shape[1:])) * max(size.tile_shape[1:])
    return _START_MB + threads * planes * (strip * 4 * 10 + 2 * size.plane_mb * 1e6) / 1e6


def block_job_mb(size: Size, threads: int, block: tuple[int, int, int], extra: float) -> float:
    """A job that makes output blocks: ``extra`` float32-sized copies of a block per thread."""
    voxels = math.prod(min(b, n) for b, n in zip(block, size.volume_shape))
    return _START_MB + threads * voxels * (4 * extra + 3.5 * size.bytes_per_voxel) / 1e6


def image_job_mb(size: Size, spacing_um: tuple, resolution_um: float, copies: float) -> float:
    """A job that holds ``copies`` float32 images of the whole sample at ``resolution_um``."""
    voxels = math.prod(
        max(1.0, n * s / max(s, resolution_um)) for n, s in zip(size.volume_shape, spacing_um)
    )
    return _START_MB + voxels * 4 * copies / 1e6


def minutes(gb: float, attempt: int, *, per_gb: float = _MINUTES_PER_GB, least: int = 30) -> int:
    """Time limit of a job that moves ``gb``; doubles with each attempt."""
    return math.ceil((least + gb * per_gb) * 2 ** (attempt - 1))
