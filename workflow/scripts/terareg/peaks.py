"""Memory of the jobs of every rule, MB (standard library only).

Each is the peak of the job's process: interpreter and libraries, and what its data amount to.
tests/benchmarks/bench_requests.py holds them against what finished runs measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from terareg.planning import Brain, Grid, block_count, registered_channels, row_blocks
from terareg.stitching.overview import overview_planes

Memory = Callable[[Brain, int], float]  # of the sample and the number of threads
PerAtlas = Callable[[Brain, str], float]  # something of a sample and the name of one of its atlases

_PYTHON_MB = 120  # interpreter, NumPy, SciPy, tensorstore
_ITK_MB = 190  # the same with SimpleITK
_TORCH_MB = 420  # the same with PyTorch
SLAB_PLANES = 32  # that fusion works through at once


def table(brain: Brain, threads: int) -> float:
    """A job of tables and metadata."""
    return _ITK_MB


def flat(mb: float) -> Memory:
    """A job that needs the same whatever the data."""
    return lambda brain, threads: mb


def planes(count: float, per_thread: float = 0) -> Memory:
    """A job that holds ``count`` planes as stored, and ``per_thread`` more for each thread."""
    return lambda brain, threads: _PYTHON_MB + (count + per_thread * threads) * brain.size.plane_mb


def equations(brain: Brain, threads: int) -> float:
    """Statistics of all tiles, and the equations that are made of them."""
    options = brain.option("intensity.flatfield")
    means = brain.size.tiles * options["slabs"] * options["blocks"] ** 2
    return planes(16)(brain, threads) + 300e-6 * means


def line_gains(brain: Brain, threads: int) -> float:
    """A slab of planes of the lines of all tiles, and the equations of one plane."""
    return _PYTHON_MB + 1.6e-3 * brain.size.tiles * max(brain.size.tile_shape[1:])


def gains_of_a_tile(brain: Brain, threads: int) -> float:
    """A plane in several forms, and the gains of all lines of a tile, float32 and float64."""
    depth, *sides = brain.size.tile_shape
    return planes(24)(brain, threads) + 32e-6 * depth * max(sides)


def overviews(brain: Brain, threads: int) -> float:
    """Some planes of a tile for each thread, and the same planes of all tiles, binned, float32."""
    size = brain.size
    depth, *sides = size.tile_shape
    count = overview_planes(depth)
    binned = math.prod(sides) / max(1, min(sides) // 192) ** 2
    held_mb = min(size.tiles, 96) * count * binned * 4e-6
    return _PYTHON_MB + held_mb + 25 * threads * size.plane_mb


def strips(brain: Brain, threads: int) -> float:
    """For each thread strips of one window of two tiles, and the patches for the refinement."""
    size, depth = brain.size, brain.option("stitching.displacement")["window_planes"]
    side = max(size.tile_shape[1:])
    strip = max(64.0, 2 * brain.overlap * side) * side
    # measured: 326 MB with tiles of 2048 pixels, 10 % overlap and 60 pixels of search
    return _ITK_MB + threads * min(depth, size.tile_shape[0]) * strip * 12.5 / 1e6


def blocks(per_byte: float, per_atlas: float = 0, base_mb: float = _ITK_MB) -> Memory:
    """A job that makes blocks: ``per_byte`` bytes for each byte of one per thread.

    ``per_atlas`` bytes for each voxel of the atlas come on top.
    """

    def memory(brain: Brain, threads: int) -> float:
        block_mb = brain.block_mvox * brain.size.bytes_per_voxel
        at_once = min(threads, block_count(brain))
        return base_mb + at_once * per_byte * block_mb + per_atlas * brain.largest_atlas.megavoxels

    return memory


def fuse_job_mb(
    block: tuple[int, int, int],
    row_blocks: int,
    tile_width: int,
    threads: int,
    bytes_per_voxel: int = 2,
) -> float:
    """Peak of a job that fuses and writes rows of blocks, MB.

    A row's blocks are held. While they are made, each thread has of a slab of planes the windows
    of tiles that overlap at one place, and float32 copies of a cell; while they are written, what
    tensorstore keeps of a block until the shard is written, and the encoded shard.
    """
    block_mb = math.prod(block) * bytes_per_voxel / 1e6
    slab_mb = min(SLAB_PLANES, block[0]) * block[1] / 1e6
    making = slab_mb * (3 * bytes_per_voxel * tile_width + 3 * 4 * block[2])
    at_once = min(threads, row_blocks)
    return _ITK_MB + row_blocks * block_mb + max(threads * making, 1.45 * at_once * block_mb)


def fusion(brain: Brain, threads: int) -> float:
    """A job that fuses rows of blocks of this sample."""
    size = brain.size
    row, width = row_blocks(brain), size.tile_shape[2]
    return fuse_job_mb(brain.block, row, width, threads, size.bytes_per_voxel)


def coarse_blocks(brain: Brain, threads: int) -> float:
    """A job that makes the levels above the blocks, of the last level that these wrote."""
    steps = brain.option("volume.block") / brain.option("volume.chunk")
    coarse_mb = 1000 * brain.size.volume_gb / steps**3
    block_mb = brain.block_mvox * brain.size.bytes_per_voxel
    return _ITK_MB + 2.75 * min(coarse_mb, threads * block_mb)


def held_image(brain: Brain, threads: int) -> float:
    """A job that imports blocks of an image, which may be held whole."""
    return blocks(2.75)(brain, threads) + 1000 * brain.size.held_gb


def whole(resolution: str, per_voxel: float) -> Memory:
    """A job that holds the sample at a working resolution."""
    return lambda brain, threads: _ITK_MB + per_voxel * brain.grid.at(brain.option(resolution))


def mesh_labels(brain: Brain, threads: int) -> float:
    """A job that holds the level of the labels that meshes are made from."""
    level = brain.level(brain.option("labels.mesh_resolution_um")).megavoxels
    return _ITK_MB + 11 * min(level, brain.labels.megavoxels)


def atlas(per_voxel: float) -> Memory:
    """A job that holds the atlas."""
    return lambda brain, threads: _ITK_MB + per_voxel * brain.largest_atlas.megavoxels


def drawn_labels(brain: Brain, threads: int) -> float:
    """A job that holds the atlas, and an image of the user's of 25 um or coarser."""
    return atlas(4)(brain, threads) + 8 * brain.grid.at(25.0)


def registration(per_voxel: float, per_atlas: float = 7.5) -> Memory:
    """A job that holds the atlas, and one image of the sample at the registration's finest voxel.

    ``per_voxel`` of the sample, ``per_atlas`` of the atlas.
    """
    return registered(lambda brain, name: per_voxel, lambda brain, name: per_atlas)


def registered(per_voxel: PerAtlas, per_atlas: PerAtlas) -> Memory:
    """As :func:`registration`, where both depend on the atlas."""

    def memory(brain: Brain, threads: int) -> float:
        needs = (
            per_voxel(brain, name) * working_mvox(brain, atlas)
            + per_atlas(brain, name) * atlas.megavoxels
            + 12 * atlas.at(atlas.length_um / 320)
            for name, atlas in brain.atlases.items()
        )
        return _TORCH_MB + max(needs, default=0)

    return memory


def images(brain: Brain, atlas: str) -> int:
    """Images of an atlas that are registered, the template among them."""
    return 1 + len(brain.config["atlases"].get(atlas, {}).get("images", ()))


def channels_registered(brain: Brain) -> int:
    """Channels that are registered together."""
    return len(registered_channels(brain.config))


def contrast_sums(brain: Brain, atlas: str) -> int:
    """Sums over windows that the contrast transform makes at every voxel; 17 by default.

    Moments of every image, products of every two, images times channels, and those with the
    fraction of tissue (:meth:`terareg.registration.contrast.LocalContrast.fit`). With regions there
    is a painted image for every channel, and polynomials are straight lines: the larger of both.
    """
    order = brain.option("registration.contrast_order")
    count, channels = images(brain, atlas), channels_registered(brain)

    def sums(order: int, count: int) -> int:
        terms = order * count + 1
        pairs = count * (count - 1) // 2
        return 2 * order * count + order**2 * pairs + (terms + 1) * (channels + 1) + 1

    if brain.option("registration.regions") == "none":
        return sums(order, count)
    return max(sums(order, count), sums(min(1, order), count + channels))


def working_mvox(brain: Brain, atlas: Grid) -> float:
    """Millions of voxels of the sample at the finest level of its registration.

    That level's voxel is 1/80 of the cube root of the tissue's volume, which is taken for 0.42 of
    the atlas's box.
    """
    box_um3 = math.prod(n * s for n, s in zip(atlas.shape, atlas.spacing_um))
    voxel_um = brain.option("registration.resolution_um") or (0.42 * box_um3) ** (1 / 3) / 80
    return brain.grid.at(max(voxel_um, *atlas.spacing_um))
