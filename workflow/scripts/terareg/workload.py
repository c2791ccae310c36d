"""What every rule reads, writes, computes and holds (standard library only).

:data:`RULES` is the one place for it: requests for memory and time, the plan of a run, and the
report's comparison with what was measured come from there. Rates are those of one thread of a
server of 2026, measured as docs/scaling.md says; bytes are counted as asked of the storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from terareg import peaks
from terareg.planning import (
    Brain,
    block_batches,
    corrected_batches,
    fit_threads,
    grow,
    label_batches,
    pair_batches,
    pair_gb,
    row_blocks,
    sampled,
    sum_batches,
    tile_batches,
)
from terareg.stitching.overview import overview_planes

_ENGINE_MB = 400  # Snakemake's own two processes beside the job, on a cluster
_DISK_GB_PER_S = 0.1  # a slow shared disk, for time limits


# ------------------------------------------------------------------ requests
def request_mb(rule: str, brain: Brain, threads: int) -> float:
    """Memory that a job of a rule needs, Snakemake's own processes included."""
    return _ENGINE_MB + RULES[rule].memory_mb(brain, threads)


def threads_of(rule: str, brain: Brain) -> int:
    """CPUs of a job: what it computes with, and as many as its memory takes on AWS Batch.

    There is room for one retry with more memory.
    """
    least = fit_threads(brain.option("jobs.threads") if RULES[rule].heavy else 1)
    return fit_threads(least, grow(request_mb(rule, brain, least), 2))


def minutes(rule: str, brain: Brain, attempt: int) -> int:
    """Time limit of a job of a rule: four times the plan on a slow disk; doubles when retried."""
    one, load = RULES[rule], RULES[rule].load(brain)
    disk = (load.read_gb + load.written_gb) / _DISK_GB_PER_S
    seconds = max(load.cpu_s, disk) / max(1, load.jobs)
    return math.ceil((one.least_minutes + 4 * seconds / 60) * 2 ** (attempt - 1))


# ------------------------------------------------------------------ work of the rules
@dataclass(frozen=True)
class Load:
    """Work of all jobs of a rule for one sample.

    Attributes
    ----------
    jobs : int
    read_gb, written_gb : float
        Of planes and volumes; tables and metadata do not count.
    cpu_s : float
        Processor time without the start of the jobs.
    """

    jobs: int = 1
    read_gb: float = 0.0
    written_gb: float = 0.0
    cpu_s: float = 1.0


_PYRAMID = 1.15  # all levels, of the finest
_SHARE = {"ome-zarr": 0.6, "precomputed": 1.0}  # of the size of noisy tissue
_WRITE_CPU = {"ome-zarr": 7.0, "precomputed": 3.0}  # seconds for a GB of voxels, pyramid included
_GZIP_SHARE, _GZIP_CPU = 0.65, 40.0


def _share(brain: Brain, form: str) -> float:
    gzip = form == "precomputed" and brain.option("volume.precomputed") == "gzip"
    return _GZIP_SHARE if gzip else _SHARE[form]


def stored_gb(brain: Brain, volume_gb: float) -> float:
    """A volume with all its levels and formats, compressed."""
    shares = (_share(brain, form) for form in brain.option("volume.formats"))
    return volume_gb * _PYRAMID * sum(shares)


def store_gb(brain: Brain) -> float:
    """What a sample adds to the store at most, with no compression counted on."""
    volumes = brain.size.volume_gb + (brain.corrected_gb if brain.corrects_bias else 0)
    volumes *= len(brain.option("volume.formats")) * _PYRAMID
    tiles = 0 if brain.streams or not brain.tiled else brain.size.channel_gb
    return brain.size.channels * (volumes + tiles)


def _write_cpu(brain: Brain, volume_gb: float) -> float:
    gzip = brain.option("volume.precomputed") == "gzip"
    rates = {**_WRITE_CPU, "precomputed": _GZIP_CPU} if gzip else _WRITE_CPU
    return volume_gb * sum(rates[form] for form in brain.option("volume.formats"))


def _read_share(brain: Brain) -> float:
    """Bytes read of the finest level for each byte of its voxels."""
    formats = brain.option("volume.formats")
    return _share(brain, "ome-zarr" if "ome-zarr" in formats else "precomputed")


# how many there are of something
def _sample(brain: Brain) -> int:
    return 1


def _channels(brain: Brain) -> int:
    return brain.size.channels


def _bias_fields(brain: Brain) -> int:
    return brain.size.channels if brain.corrects_bias else 0


def _image_volumes(brain: Brain) -> int:
    return _channels(brain) + _bias_fields(brain)


def _atlases(brain: Brain) -> int:
    return len(brain.atlases)


def _atlas_images(brain: Brain) -> int:
    return sum(peaks.images(brain, atlas) - 1 for atlas in brain.atlases)


def _atlas_spaces(brain: Brain) -> int:
    return _channels(brain) * _atlases(brain) if brain.option("atlas_space.enabled") else 0


def _volumes(brain: Brain) -> int:
    return _image_volumes(brain) + _atlases(brain) + _atlas_spaces(brain)


def _given(key: str) -> Callable[[Brain], int]:
    """Atlases for which the configuration gives something of the user's."""
    return lambda brain: sum(atlas in brain.option(key) for atlas in brain.atlases)


_scored = _given("fiducials")
_labelled = _given("sample_labels")


def _exported(brain: Brain) -> int:
    return len(brain.atlases) if brain.option("registration.export") else 0


def _points(brain: Brain) -> int:
    return len(brain.option("points"))


def _dropped(brain: Brain) -> int:
    temporary = brain.option("intensity.corrected_tiles") == "temporary"
    return brain.size.channels if temporary else 0


def _for_each(count: Callable[[Brain], int], cpu_s: float = 1.0) -> Callable[[Brain], Load]:
    """One job for each, of so much processor time."""
    return lambda brain: Load(count(brain), cpu_s=cpu_s * count(brain))


_once = _for_each(_sample)


def _verify(brain: Brain) -> Load:
    """No part of the usual work; the time that one job takes to read a volume in every format."""
    formats = len(brain.option("volume.formats"))
    return Load(0, formats * brain.size.volume_gb, cpu_s=10 * formats * brain.size.volume_gb)


def _if_measured(load: Callable[[Brain], Load]) -> Callable[[Brain], Load]:
    """Work for the displacements, unless the user brings them or the positions."""

    def measured(brain: Brain) -> Load:
        own = set(brain.option("stitching.xml")) - {"xml_import"}
        return Load(0) if own else load(brain)

    return measured


def _sum_tiles(channels: int | None = None) -> Callable[[Brain], Load]:
    """Statistics of so many channels, all of them by default."""

    def load(brain: Brain) -> Load:
        tiles, share = sampled(brain)
        count = brain.size.channels if channels is None else channels
        read = count * brain.size.tile_gb * tiles * share
        return Load(count * sum_batches(brain), read, cpu_s=10 * read)

    return load


def _solve_flatfield(channels: int | None = None) -> Callable[[Brain], Load]:
    """Flat-fields of so many channels from their statistics, all of them by default."""

    def load(brain: Brain) -> Load:
        count = brain.size.channels if channels is None else channels
        return Load(count, cpu_s=count * (5 + 0.3 * sampled(brain)[0]))

    return load


def _striped(brain: Brain) -> int:
    return 0 if brain.option("intensity.destriping") == "none" else brain.size.channels


def _sum_lines(brain: Brain) -> Load:
    if not _striped(brain):
        return Load(0)
    raw = brain.raw_gb
    jobs = brain.size.channels * tile_batches(brain)
    return Load(jobs, raw, raw * _share_of_lines(brain), 1.5 * raw)


def _share_of_lines(brain: Brain) -> float:
    """Means of lines, per byte of raw data: 4 x 4 bytes for each line of each overlap."""
    length = max(brain.size.tile_shape[1:])
    return 32 * (1 + brain.overlap) / (length * brain.size.bytes_per_voxel)


def _estimate_stripes(brain: Brain) -> Load:
    raw, channels = brain.raw_gb, _striped(brain)
    if not channels:
        return Load(0)
    share = _share_of_lines(brain)
    return Load(channels, 2 * raw * share, raw * share / 8, channels * 5 + 0.4 * raw)


def _correct_tile(brain: Brain) -> Load:
    if brain.streams:
        return Load(0)
    raw = brain.raw_gb
    return Load(brain.size.channels * tile_batches(brain), raw, 0.6 * raw, 3 * raw)


def _estimate_steps(brain: Brain) -> Load:
    planes = overview_planes(brain.size.tile_shape[0])
    read = min(brain.size.tiles, 96) * planes * brain.size.plane_mb / 1e3
    return Load(1, read, cpu_s=6 * read)


def _measure_displacements(brain: Brain) -> Load:
    read = brain.size.pairs * pair_gb(brain)
    return Load(pair_batches(brain), read, cpu_s=6 * read)


def _fuse_block(brain: Brain) -> Load:
    size, edge = brain.size, brain.option("volume.block")
    if brain.streams:
        # a tile at the end of a part of a row is read for the next part as well
        parts = math.ceil(size.volume_shape[2] / edge / row_blocks(brain))
        across = max(1.0, size.volume_shape[2] / size.tile_shape[2])
        read = size.channel_gb * (1 + (parts - 1) / across)
        cpu = 2.0 * size.channel_gb
    else:
        # chunks of 16 x 256 x 256 pixels are read whole for each slab and row that they lie in
        read = 0.6 * size.channel_gb * (1 + 15 / peaks.SLAB_PLANES) * (1 + 255 / edge)
        cpu = 1.5 * size.channel_gb
    cpu += 2.0 * size.volume_gb + _write_cpu(brain, size.volume_gb)
    n, written = size.channels, stored_gb(brain, size.volume_gb)
    return Load(n * block_batches(brain), n * read, n * written, n * cpu)


def _import_volume(brain: Brain) -> Load:
    n, size = brain.size.channels, brain.size
    jobs = n * block_batches(brain)
    # a file is read whole by every job
    read = jobs * size.held_gb / 2 if size.held_gb else n * size.volume_gb
    cpu = n * (size.volume_gb + _write_cpu(brain, size.volume_gb))
    return Load(jobs, read, n * stored_gb(brain, size.volume_gb), cpu)


def _correct_volume(brain: Brain) -> Load:
    if not brain.corrects_bias:
        return Load(0)
    n, volume_gb = brain.size.channels, brain.corrected_gb
    read = n * volume_gb * _read_share(brain)
    cpu = n * (9 * volume_gb + _write_cpu(brain, volume_gb))
    return Load(n * corrected_batches(brain), read, n * stored_gb(brain, volume_gb), cpu)


def _level_gb(brain: Brain, resolution_um: float) -> float:
    """What is read of a channel for a resolution."""
    voxel_gb = brain.size.bytes_per_voxel * 1e-3
    return voxel_gb * brain.level(resolution_um).megavoxels * _read_share(brain)


def _estimate_bias(brain: Brain) -> Load:
    if not brain.corrects_bias:
        return Load(0)
    n, resolution = brain.size.channels, brain.option("intensity.bias.resolution_um")
    return Load(n, n * _level_gb(brain, resolution), cpu_s=n * (1 + 60 * brain.grid.at(resolution)))


def _of_atlases(
    cpu_per_mvox: float, channels: Callable[[Brain], int], sums: float = 0.0
) -> Callable[[Brain], Load]:
    """Work for each atlas, in proportion to the sample at the registration's finest voxel.

    ``channels`` of the sample are read; the share ``sums`` of the processor time grows with the
    sums of the contrast transform.
    """

    def load(brain: Brain) -> Load:
        read, cpu = 0.0, 5.0 * len(brain.atlases)
        for name, atlas in brain.atlases.items():
            working = peaks.working_mvox(brain, atlas)
            voxel_um = (brain.grid.megavoxels / working) ** (1 / 3) * min(brain.grid.spacing_um)
            read += channels(brain) * _level_gb(brain, voxel_um) + 6e-3 * atlas.megavoxels
            more = sums * (peaks.contrast_sums(brain, name) / 17 - 1)
            cpu += cpu_per_mvox * working * (1 + more)
        return Load(len(brain.atlases), read, cpu_s=cpu)

    return load


def _transform_labels(brain: Brain) -> Load:
    n, voxels = len(brain.atlases), brain.labels.megavoxels
    formats = len({*brain.option("volume.formats"), "precomputed"})
    written = 0.05 * 4e-3 * voxels * formats
    read = n * label_batches(brain) * 2e-3 * brain.largest_atlas.megavoxels
    return Load(n * label_batches(brain), read, n * written, n * 0.15 * voxels)


def _transform_volume(brain: Brain) -> Load:
    if not brain.option("atlas_space.enabled"):
        return Load(0)
    n, jobs, read, written, cpu = brain.size.channels, 0, 0.0, 0.0, 0.0
    for atlas in brain.atlases.values():
        voxels = brain.atlas_space_mvox(atlas)
        resolution = brain.option("atlas_space.resolution_um") or min(atlas.spacing_um)
        jobs, cpu = jobs + n, cpu + n * 0.4 * voxels
        read += n * _level_gb(brain, resolution)
        written += n * 2e-3 * voxels * _PYRAMID * _read_share(brain)
    return Load(jobs, read, written, cpu)


def _sum_regions(brain: Brain) -> Load:
    n = len(brain.atlases)
    channels = 2e-3 * brain.labels.megavoxels * brain.size.channels * _read_share(brain)
    read = n * (channels + 0.05 * 4e-3 * brain.labels.megavoxels)
    cpu = n * brain.labels.megavoxels * (0.1 + 0.05 * brain.size.channels)
    return Load(n * label_batches(brain), read, cpu_s=cpu)


@dataclass(frozen=True)
class Rule:
    """What a rule needs.

    Attributes
    ----------
    stage : str
        Under which plans and reports list it.
    memory_mb : callable
        Peak of one job's process, of the brain and the threads.
    load : callable
        Work of all its jobs, of the brain.
    heavy : bool
        Whether it uses the threads of ``jobs.threads``, or one.
    least_minutes : int
        Time limit of a job that has next to nothing to do.
    needs : str
        "tiles" or "volume": samples that have the rule; "" for all.
    """

    stage: str
    memory_mb: peaks.Memory = peaks.table
    load: Callable[[Brain], Load] = _once
    heavy: bool = False
    least_minutes: int = 30
    needs: str = ""


_BIAS_UM = "intensity.bias.resolution_um"
RULES = {
    "index_acquisition": Rule("acquisition", load=_for_each(_sample, 10.0), needs="tiles"),
    "index_input": Rule("acquisition", needs="volume"),
    "check_inputs": Rule("acquisition"),
    "sum_tiles": Rule(
        "intensity", peaks.planes(8), _if_measured(_sum_tiles(1)), heavy=True, needs="tiles"
    ),
    "estimate_flatfield": Rule(
        "intensity", peaks.equations, _if_measured(_solve_flatfield(1)), needs="tiles"
    ),
    "sum_placed_tiles": Rule("intensity", peaks.planes(8), _sum_tiles(), heavy=True, needs="tiles"),
    "refine_flatfield": Rule("intensity", peaks.equations, _solve_flatfield(), needs="tiles"),
    "sum_lines": Rule("intensity", peaks.planes(2, 5), _sum_lines, heavy=True, needs="tiles"),
    "estimate_stripes": Rule("intensity", peaks.line_gains, _estimate_stripes, needs="tiles"),
    "correct_tile": Rule(
        "intensity", peaks.planes(0, 40), _correct_tile, heavy=True, needs="tiles"
    ),
    "drop_corrected_tiles": Rule("intensity", load=_for_each(_dropped), needs="tiles"),
    "import_tiles": Rule("stitching", needs="tiles"),
    "estimate_steps": Rule(
        "stitching", peaks.overviews, _if_measured(_estimate_steps), heavy=True, needs="tiles"
    ),
    "measure_displacements": Rule(
        "stitching", peaks.strips, _if_measured(_measure_displacements), heavy=True, needs="tiles"
    ),
    "gather_displacements": Rule("stitching", needs="tiles"),
    "project_displacements": Rule("stitching", needs="tiles"),
    "threshold_displacements": Rule("stitching", needs="tiles"),
    "place_tiles": Rule("stitching", needs="tiles"),
    "export_render": Rule("stitching", needs="tiles"),
    "init_volume": Rule("fused", load=_for_each(_channels), needs="tiles"),
    "fuse_block": Rule("fused", peaks.fusion, _fuse_block, heavy=True, needs="tiles"),
    "init_import": Rule("fused", load=_for_each(_channels), needs="volume"),
    "import_volume": Rule("fused", peaks.held_image, _import_volume, heavy=True, needs="volume"),
    "finish_pyramid": Rule("fused", peaks.coarse_blocks, _for_each(_volumes, 2.0), heavy=True),
    "finalize_volume": Rule("fused", load=_for_each(_volumes)),
    "verify_volume": Rule("fused", peaks.blocks(2.75), _verify, heavy=True),
    "estimate_bias_field": Rule("bias", peaks.whole(_BIAS_UM, 48), _estimate_bias, heavy=True),
    "draw_bias_field": Rule("bias", peaks.whole(_BIAS_UM, 32), _for_each(_bias_fields, 2.0)),
    "init_corrected_volume": Rule("bias", load=_for_each(_bias_fields)),
    "correct_volume": Rule("bias", peaks.blocks(3.5), _correct_volume, heavy=True),
    "prepare_atlas": Rule("registration", peaks.atlas(14), _for_each(_atlases, 5.0)),
    "prepare_atlas_image": Rule("registration", peaks.atlas(14), _for_each(_atlas_images, 3.0)),
    "pair_landmarks": Rule("registration", load=_for_each(_given("registration.landmarks"))),
    "preview_alignment": Rule(
        "registration", peaks.registration(0, 15), _of_atlases(2.0, _sample), heavy=True
    ),
    "register": Rule(
        "registration",
        peaks.registered(
            lambda brain, name: 377 + 19 * peaks.contrast_sums(brain, name),
            lambda brain, name: 6.5 + 6 * peaks.images(brain, name),
        ),
        _of_atlases(190.0, peaks.channels_registered, sums=0.4),
        heavy=True,
        least_minutes=240,
    ),
    "export_transform": Rule("registration", peaks.registration(60, 0), _for_each(_exported, 5.0)),
    "draw_registration": Rule(
        "registration",
        peaks.registered(
            lambda brain, name: 35 + 25 * peaks.channels_registered(brain), lambda brain, name: 15
        ),
        _of_atlases(2.0, peaks.channels_registered),
    ),
    "init_labels": Rule("regions", peaks.atlas(4), _for_each(_atlases)),
    "transform_labels": Rule("regions", peaks.blocks(4.5, 3, 400), _transform_labels, heavy=True),
    "mesh_labels": Rule(
        "regions",
        peaks.mesh_labels,
        _for_each(_atlases, 60.0),
        heavy=True,
    ),
    "init_atlas_space": Rule("regions", load=_for_each(_atlas_spaces)),
    "transform_volume": Rule("regions", peaks.blocks(4), _transform_volume, heavy=True),
    "sum_regions": Rule("regions", peaks.blocks(4.5, 2, 240), _sum_regions, heavy=True),
    "measure_regions": Rule("regions", peaks.atlas(4), _for_each(_atlases, 2.0)),
    "transform_points": Rule("regions", peaks.atlas(4), _for_each(_points)),
    "score_registration": Rule("regions", load=_for_each(_scored)),
    "score_labels": Rule("regions", peaks.drawn_labels, _for_each(_labelled, 10.0)),
    "draw_flatfield": Rule("views", peaks.planes(24), _for_each(_channels, 3.0), needs="tiles"),
    "draw_stripes": Rule("views", peaks.gains_of_a_tile, _for_each(_striped), needs="tiles"),
    "draw_stitching": Rule("views", peaks.planes(8), needs="tiles"),
    "draw_volume": Rule("views", peaks.flat(230), _for_each(_image_volumes, 4.0)),
    "draw_regions": Rule("views", load=_for_each(_atlases)),
    "draw_fiducials": Rule("views", load=_for_each(_scored)),
    "write_neuroglancer_state": Rule("views"),
    "make_report": Rule("views"),
}


def jobs_of_rules(brain: Brain) -> dict[str, int]:
    """Number of jobs of every rule that a sample of this kind has, in the order of the work."""
    kind = "tiles" if brain.tiled else "volume"
    return {n: r.load(brain).jobs for n, r in RULES.items() if r.needs in ("", kind)}
