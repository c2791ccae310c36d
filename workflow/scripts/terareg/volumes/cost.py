"""What the rules of volumes need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math

from terareg.acquisition.chunking import CORRECTED_CHUNK
from terareg.core.cost import (
    ITK_MB,
    Load,
    RuleCost,
    atlases,
    batches,
    blocks,
    channels,
    for_each,
)
from terareg.core.extents import Extent, Sample, bytes_of
from terareg.core.parallel import batch_range

PYRAMID = 1.15  # size of all levels relative to the finest
_SHARE = {"ome-zarr": 0.6, "precomputed": 1.0}  # compressed size relative to raw, noisy tissue
_WRITE_CPU = {"ome-zarr": 4.0, "precomputed": 2.0}  # seconds for a GB of voxels, pyramid included
_GZIP_SHARE, _GZIP_CPU = 0.65, 12.0
_ROW_VOXELS = 8192  # of the blocks of a row that are written together: four tiles, many open files
_HELD_GB = 4.3  # of their objects, which are held in memory until they are sent to S3
INFLATE_CPU = 6.0  # seconds for a GB of voxels of a compressed file (noise 5.4, and to be kept)
_LAYER_PLANES = 64  # that fusion processes at once: those of a chunk


# ------------------------------------------------------------------ batches
def row_batches(sample: Sample, extent: Extent, gigabytes: float, of_channels: int = 1) -> int:
    """Number of batches of a volume, each of whole rows of blocks along x."""
    planes, rows, _ = sample.blocks_along(extent)
    return batches(gigabytes, planes * rows, sample.option("jobs.gb_per_job"), of_channels)


def block_batches(sample: Sample) -> int:
    """Number of batches of the blocks of one channel."""
    return row_batches(sample, sample.grid, sample.size.volume_gb, sample.size.channels)


def row_blocks(sample: Sample) -> int:
    """Largest number of blocks of a row that are fused and written at once."""
    along = sample.blocks_along(sample.grid)[2]
    most = min(along, _ROW_VOXELS // sample.option("volume.block"))
    if sample.held_gb:
        most = min(most, int(_HELD_GB / sample.held_gb))
    return max(1, most)


# ------------------------------------------------------------------ counts and bytes
def image_volumes(sample: Sample) -> int:
    """Number of volumes of the channels, without labels and atlas spaces."""
    return channels(sample) * (2 if sample.corrects_bias else 1)


def atlas_spaces(sample: Sample) -> int:
    """Number of channels carried into atlases, over all atlases."""
    return channels(sample) * atlases(sample) if sample.option("atlas_space.enabled") else 0


def volumes(sample: Sample) -> int:
    """Number of volumes of all kinds."""
    own = image_volumes(sample) + atlases(sample) + atlas_spaces(sample)
    return own + derived_volumes(sample)


def derived_volumes(sample: Sample) -> int:
    """Number of entries of the section ``derived:`` that make volumes."""
    return sum(bool(each.kind) for each in sample.derived.values())


def _share(sample: Sample, form: str) -> float:
    gzip = form == "precomputed" and sample.option("volume.precomputed") == "gzip"
    return _GZIP_SHARE if gzip else _SHARE[form]


def stored_gb(sample: Sample, volume_gb: float) -> float:
    """Size of a volume with all its levels and formats, compressed."""
    shares = (_share(sample, form) for form in sample.option("volume.formats"))
    return volume_gb * PYRAMID * sum(shares)


def uncompressed_gb(sample: Sample, volume_gb: float) -> float:
    """Size of a volume with all its levels and formats, assuming no compression."""
    return volume_gb * PYRAMID * len(sample.option("volume.formats"))


def write_cpu(sample: Sample, volume_gb: float) -> float:
    """Seconds to encode and write a volume with its pyramid, in every format."""
    gzip = sample.option("volume.precomputed") == "gzip"
    rates = {**_WRITE_CPU, "precomputed": _GZIP_CPU} if gzip else _WRITE_CPU
    return volume_gb * sum(rates[form] for form in sample.option("volume.formats"))


def read_share(sample: Sample) -> float:
    """Stored bytes that are read for each byte of voxels."""
    formats = sample.option("volume.formats")
    return _share(sample, "ome-zarr" if "ome-zarr" in formats else "precomputed")


def level_gb(sample: Sample, resolution_um: float) -> float:
    """What a job reads of a channel at a resolution."""
    voxel_gb = sample.size.bytes_per_voxel * 1e-3
    return voxel_gb * sample.level(resolution_um).megavoxels * read_share(sample)


# ------------------------------------------------------------------ work
def _fuse_blocks(sample: Sample) -> Load:
    size, edge = sample.size, sample.option("volume.block")
    if sample.streams:
        # a tile at the end of a part of a row is read again for the next part
        parts = math.ceil(size.volume_shape[2] / edge / row_blocks(sample))
        across = max(1.0, size.volume_shape[2] / size.tile_shape[2])
        read = size.channel_gb * (1 + (parts - 1) / across)
        cpu = 1.2 * size.channel_gb
    else:
        # chunks are read whole, once for each layer and row in which they lie
        depth, height, _ = CORRECTED_CHUNK
        more = (1 + (depth - 1) / _LAYER_PLANES) * (1 + (height - 1) / edge)
        read, cpu = size.channel_gb * more, 1.5 * size.channel_gb
    n, sides, written = size.channels, size.raw_channels, stored_gb(sample, size.volume_gb)
    cpu = sides * cpu + n * (0.8 * size.volume_gb + write_cpu(sample, size.volume_gb))
    return Load(n * block_batches(sample), sides * read, n * written, cpu)


def _import_volume(sample: Sample) -> Load:
    n, size = sample.size.channels, sample.size
    jobs = n * block_batches(sample)
    # a file that is compressed as one is read by every job up to its planes
    read = jobs * size.passed_gb if size.passed_gb else n * size.volume_gb
    cpu = n * (size.volume_gb + write_cpu(sample, size.volume_gb))
    cpu += INFLATE_CPU * (jobs * size.passed_gb or n * size.kept_gb)
    return Load(jobs, read, n * stored_gb(sample, size.volume_gb), cpu)


def temporary_gb(kept: tuple[float, float], blocks: tuple[int, int], jobs: int) -> float:
    """The most that one job keeps of a decoded image file in a temporary file.

    Parameters
    ----------
    kept : tuple of float
        ``kept_gb`` and ``passed_gb`` of the file.
    blocks : tuple of int
        Blocks along z and y of what is made of it; jobs have whole rows of them.
    jobs : int
    """
    kept_gb, passed_gb = kept
    if passed_gb:
        return kept_gb
    layers, lines = blocks
    of_jobs = (batch_range(layers * lines, job, jobs) for job in range(jobs))
    touched = max(rows[-1] // lines - rows[0] // lines + 1 for rows in of_jobs if rows)
    return kept_gb * touched / layers


def import_lines(sample: Sample) -> list[str]:
    """What importing an image file needs besides memory, in a line of text."""
    size = sample.size
    if not size.kept_gb:
        return []
    planes, lines, _ = sample.blocks_along(sample.grid)
    jobs = block_batches(sample)
    most = temporary_gb((size.kept_gb, size.passed_gb), (planes, lines), jobs)
    number = size.channels * jobs
    who = "its job" if number == 1 else f"each of {number} jobs"
    much = f"{most:.1f} GB" if most >= 0.1 else f"{1000 * most:.0f} MB"
    return [
        f"import_volume: the image is decoded plane by plane; {who} keeps up to {much} in TMPDIR"
    ]


def _verify(sample: Sample) -> Load:
    """Not part of the usual work: time of one job that reads a volume in every format."""
    formats = len(sample.option("volume.formats"))
    gigabytes = formats * sample.size.volume_gb
    return Load(0, gigabytes, cpu_s=10 * gigabytes)


def _verify_objects(sample: Sample) -> Load:
    """Not part of the usual work: time of one job that reads the objects of a layer."""
    return Load(0, cpu_s=10.0)


# ------------------------------------------------------------------ memory
def fuse_job_mb(
    block: tuple[int, int, int],
    row_blocks: int,
    tile_width: int,
    threads: int,
    bytes_per_voxel: int = 2,
) -> float:
    """Peak memory of a job that fuses and writes rows of blocks into a folder, MB.

    For one layer of chunks it holds the parts of the tiles that overlap at one place and, per
    thread, a block's part of the layer with what is made from it. For every block of a row it also
    holds the planes of coarser levels that do not yet fill a layer.
    """
    planes = min(_LAYER_PLANES, block[0])
    windows = 3 * planes * block[1] * tile_width * bytes_per_voxel / 1e6
    layer = planes * block[1] * block[2] * bytes_per_voxel / 1e6
    return ITK_MB + windows + 1.6 * min(threads, row_blocks) * layer + 0.2 * row_blocks * layer


def _fusion(sample: Sample, threads: int) -> float:
    size = sample.size
    # if tiles are interpolated, float32 copies of them are held as well; whether channels are
    # shifted or tiles lean is not known beforehand
    interpolated = (
        sample.option("fusion.subpixel")
        or sample.option("stitching.model") != "translation"
        or (size.raw_channels > 1 and sample.option("stitching.channel_shift") != "none")
    )
    width = size.tile_shape[2] * (3 if interpolated else 1) * sample.most_sides
    row = row_blocks(sample)
    made = fuse_job_mb(sample.block, row, width, threads, size.bytes_per_voxel)
    return made + 1000 * row * sample.held_gb


def _coarse_blocks(sample: Sample, threads: int) -> float:
    """Memory of a job that makes the levels above the blocks, from the last level of the blocks."""
    steps = sample.option("volume.block") / sample.option("volume.chunk")
    coarse_mb = 1000 * sample.size.volume_gb / steps**3
    block_mb = sample.block_mvox * sample.size.bytes_per_voxel
    held = [min(coarse_mb, threads * block_mb)]
    for each in sample.derived.values():
        steps = each.output["block"] / each.output["chunk"]
        block_mb = math.prod(each.block) * bytes_of(each.dtype) / 1e6
        held.append(min(1000 * each.made_gb / steps**3, threads * block_mb))
    return ITK_MB + 2.75 * max(held)


def _held_image(sample: Sample, threads: int) -> float:
    """Memory of a job that imports blocks of an image, and holds planes of a file."""
    return blocks(2.75)(sample, threads) + 1000 * sample.size.held_gb


RULES = {
    "init_volume": RuleCost("fused", load=for_each(channels), needs="tiles"),
    "fuse_blocks": RuleCost("fused", _fusion, _fuse_blocks, heavy=True, needs="tiles"),
    "init_import": RuleCost("fused", load=for_each(channels), needs="volume"),
    "import_volume": RuleCost("fused", _held_image, _import_volume, heavy=True, needs="volume"),
    "finish_pyramid": RuleCost("fused", _coarse_blocks, for_each(volumes, 2.0), heavy=True),
    "finalize_volume": RuleCost("fused", load=for_each(volumes)),
    "verify_volume": RuleCost("fused", blocks(2.75), _verify, heavy=True),
    "verify_objects": RuleCost("fused", load=_verify_objects),
}
