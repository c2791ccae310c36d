"""What the rules of derived volumes need (standard library only), see :mod:`terareg.core.cost`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from terareg.core.cost import ITK_MB, Load, Memory, RuleCost, batches, blocks, for_each
from terareg.core.extents import DerivedVolume, Sample, bytes_of
from terareg.derived.catalogue import LABELS, SLAB_PLANES, TOOLS
from terareg.derived.section import entries_of
from terareg.objects.line_reach import line_reach_vox
from terareg.regions.cost import label_batches
from terareg.volumes.cost import INFLATE_CPU, temporary_gb

_PYRAMID = 1.15  # size of all levels relative to the finest
_READ_CPU = 1.0  # seconds for a GB of voxels
#: (seconds for a GB of voxels with its pyramid, compressed share) by format and encoding
_OME_ZARR = {
    "none": (2.0, 1.0), "gzip": (12.0, 0.65), "zstd": (6.0, 0.67), "blosc-lz4": (3.0, 0.6),
    "blosc-zstd": (4.0, 0.6),
}  # fmt: skip
_PRECOMPUTED = {
    "raw": (2.0, 1.0), "gzip": (12.0, 0.65), "png": (80.0, 0.6), "jpeg": (5.0, 0.06),
    "jpegxl": (12.0, 0.6),
    "compressed_segmentation": (20.0, 0.05),
}  # fmt: skip
_LABEL_SHARE = 0.05
_SHARD_MB = 4000.0  # surfaces of the labels of one shard, while they are joined
_SUM_CPU = 0.02  # seconds for a million voxels of a channel, of sums of signal
_PIECE_VOX = 256  # of the channel along each axis, which are read at once for sums of signal
_PIECE_MB = 300.0
# of lengths, for each voxel of a piece and around: as read, as masks, as lists of a tenth
_LENGTH_BYTES = 16.0
_LENGTH_CPU = 0.2  # seconds for a million of these voxels
_GATHERED_BYTES = 0.05  # for each voxel of the source
_JOINED_BYTES = 0.5  # for each voxel of a row of blocks, of pieces that are joined (noise at worst)
_JOINING = ("components", "signal")
# how often a block of the source and of the result is held at once, on each thread
_MEASURES, _MAKES = (2.5, 0.0), (2.0, 2.75)


# ------------------------------------------------------------------ batches, counts and bytes
def derived_batches(sample: Sample, name: str) -> int:
    """Number of batches of the blocks of an entry, each of whole rows of blocks along x."""
    return _batches(sample, sample.derived[name])


def _batches(sample: Sample, each: DerivedVolume) -> int:
    gigabytes, most = max(each.source_gb, each.made_gb), each.rows
    if each.passed_gb:
        # every job decompresses all that lies before its planes: more jobs than the work is worth
        # would only do that more often
        work = (_READ_CPU + TOOLS[each.tool].cpu_s) * each.source_gb + _written(each)[1]
        most = min(most, 1 + int(work / (INFLATE_CPU * each.passed_gb)))
    return batches(gigabytes, most, sample.option("jobs.gb_per_job"), max(1, len(sample.derived)))


def _inflating(sample: Sample, each: DerivedVolume) -> float:
    """Seconds that all jobs of an entry take to decompress its source."""
    return INFLATE_CPU * (_batches(sample, each) * each.passed_gb or each.kept_gb)


def derived_gb(sample: Sample) -> float:
    """The most that derived volumes add to the store, assuming no compression."""
    found = sample.derived.values()
    return sum(_PYRAMID * each.made_gb * len(each.output["formats"]) for each in found)


def _written(each: DerivedVolume) -> tuple[float, float]:
    """Gigabytes that an entry writes, and the seconds that encoding them takes."""
    gigabytes = seconds = 0.0
    if not each.kind:
        return 0.0, 0.0
    output = each.output
    for form in output["formats"]:
        if form == "ome-zarr":
            rate, share = _OME_ZARR[output["codec"]]
        elif each.kind == LABELS and output.get("encoding") is None:
            rate, share = _PRECOMPUTED["compressed_segmentation"]
        else:
            rate, share = _PRECOMPUTED[output.get("encoding") or output["precomputed"]]
        if each.kind == LABELS and share < 1:
            share = _LABEL_SHARE
        gigabytes += share * _PYRAMID * each.made_gb
        seconds += rate * each.made_gb
    return gigabytes, seconds


# ------------------------------------------------------------------ work
def _of_entries(
    sample: Sample,
    chosen: Iterable[DerivedVolume],
    work: Callable[[Sample, DerivedVolume], Load],
) -> Load:
    """Work of a rule over all entries that have it; time limits follow the longest job."""
    loads = [work(sample, each) for each in chosen]
    if not loads:
        return Load(0, cpu_s=0.0)
    longest = max(loads, key=lambda load: load.cpu_s / max(1, load.jobs))
    return Load(
        sum(load.jobs for load in loads),
        sum(load.read_gb for load in loads),
        sum(load.written_gb for load in loads),
        sum(load.cpu_s for load in loads),
        most=longest,
    )


def _read_gb(sample: Sample, each: DerivedVolume) -> float:
    """What is read once; a compressed file is read by every job up to its planes."""
    if each.passed_gb:
        return _batches(sample, each) * each.passed_gb
    return each.source_gb * each.source_share


def _all(sample: Sample) -> list[DerivedVolume]:
    return list(sample.derived.values())


def _measured(sample: Sample) -> list[DerivedVolume]:
    return [each for each in _all(sample) if each.measured]


def _made(sample: Sample) -> list[DerivedVolume]:
    return [each for each in _all(sample) if each.kind]


def _sharded(sample: Sample) -> list[DerivedVolume]:
    return [each for each in _all(sample) if TOOLS[each.tool].shards]


def _counted(sample: Sample) -> list[DerivedVolume]:
    return [each for each in _all(sample) if each.tool == "count"]


def _measure(sample: Sample, each: DerivedVolume) -> Load:
    # of a tool that makes a volume, what is around blocks counts when it is made
    again = _again(each) if not each.kind else 1.0
    rate = again * (_READ_CPU + TOOLS[each.tool].cpu_s)
    jobs = _batches(sample, each)
    seconds = rate * each.source_gb + _inflating(sample, each)
    return Load(jobs, again * _read_gb(sample, each), cpu_s=seconds)


def _derive(sample: Sample, each: DerivedVolume) -> Load:
    written, encoding = _written(each)
    again = _again(each)
    rate = _READ_CPU * again + TOOLS[each.tool].cpu_s
    if any(each.halo):
        rate += TOOLS[each.tool].halo_cpu_s
    seconds = rate * each.source_gb + encoding + _inflating(sample, each)
    return Load(_batches(sample, each), again * _read_gb(sample, each), written, seconds)


def _write_objects(sample: Sample, each: DerivedVolume) -> Load:
    return Load(_batches(sample, each), 0.1 * each.source_gb, 0.05 * each.source_gb,
                TOOLS[each.tool].cpu_s * each.source_gb)  # fmt: skip


def _by_region(sample: Sample) -> int:
    """Tables of signal in the regions of atlases."""
    found = [entry for entry in entries_of(sample.config).values() if entry.by_region]
    return len(found) * len(sample.atlases)


def _sum_signal(sample: Sample) -> Load:
    tables, voxels = _by_region(sample), sample.grid.megavoxels
    gigabytes = 1e-3 * voxels * (_LABEL_SHARE * 4 + sample.size.bytes_per_voxel)
    cpu = 0.15 * sample.labels.megavoxels + _SUM_CPU * voxels if tables else 0.0
    lengths = _length_megavoxels(sample)
    if lengths:
        cpu += _LENGTH_CPU * voxels * lengths / (_PIECE_VOX**3 / 1e6)
    return Load(tables * label_batches(sample) if tables else 0, tables * gigabytes,
                cpu_s=tables * cpu)  # fmt: skip


def _one_each(sample: Sample, each: DerivedVolume) -> Load:
    return Load(1, cpu_s=2.0)


# ------------------------------------------------------------------ memory
def _summed(sample: Sample, threads: int) -> float:
    """Labels, sides and sums of a block of labels, and a piece of the channel."""
    lengths = _LENGTH_BYTES * _length_megavoxels(sample)
    return blocks(8.5, 2, 240)(sample, threads) + (_PIECE_MB + lengths) * threads


def _length_megavoxels(sample: Sample) -> float:
    """Voxels of a piece, and around as far as lengths look, in millions; 0 without lengths."""
    found = [e.thickest_um for e in entries_of(sample.config).values() if e.thickest_um is not None]
    if not found:
        return 0.0
    reach = line_reach_vox(max(found), sample.grid.spacing_um)
    return math.prod(_PIECE_VOX + 2 * r for r in reach) / 1e6


def _blocks(
    held_times: tuple[float, float], chosen: Callable[[Sample], list[DerivedVolume]]
) -> Memory:
    """Memory of a job that holds, on each thread, some times a block of the source and the result.

    Of an image file, planes are held beside them.
    """

    def memory(sample: Sample, threads: int) -> float:
        found = (_job_mb(sample, each, threads, held_times) for each in chosen(sample))
        return max(found, default=ITK_MB)

    return memory


def _objects_mb(sample: Sample, threads: int) -> float:
    """Memory of a job that holds the surfaces or lines of the labels of a shard."""
    largest = max((each.source_gb for each in _sharded(sample)), default=0.0)
    return ITK_MB + min(2000 * largest, _SHARD_MB)


def _gathered_mb(sample: Sample, threads: int) -> float:
    """Memory of a job that holds some numbers for each label in each block, or joins pieces.

    Pieces are held of a row of blocks, and what blocks share of a layer.
    """
    found = [0.0]
    for each in _measured(sample):
        (depth, height, _), (planes, lines, width) = each.block, each.source.shape
        if each.tool in _JOINING:
            row, layer = depth * height * width, depth * lines * width
            found.append(_JOINED_BYTES * row + _GATHERED_BYTES * layer)
        else:
            found.append(_GATHERED_BYTES * planes * lines * width)
    return ITK_MB + max(found) / 1e6


def _with_halo(each: DerivedVolume, box: tuple[float, float, float]) -> tuple[float, float, float]:
    """Voxels of the source that are read for a block of ``box`` voxels of it."""
    z, y, x = (min(n, b + 2 * h) for b, h, n in zip(box, each.halo, each.source.shape))
    return z, y, x


def _again(each: DerivedVolume) -> float:
    """How often a voxel is read, because blocks see what is around them."""
    return math.prod(_with_halo(each, each.block)) / math.prod(each.block)


def _job_mb(
    sample: Sample, each: DerivedVolume, threads: int, held_times: tuple[float, float]
) -> float:
    """Memory of one job of an entry; how often its blocks are held is of the source and made."""
    block = math.prod(each.block) / 1e6
    depth, height, width = (
        b * n / m for b, n, m in zip(each.block, each.source.shape, each.grid.shape)
    )
    if TOOLS[each.tool].slabs:
        depth = min(depth, SLAB_PLANES)
    if held_times[1] or not each.kind:
        depth, height, width = _with_halo(each, (depth, height, width))
    read = depth * height * width / 1e6 * bytes_of(each.source_dtype)
    made = block * bytes_of(each.dtype) if each.kind else 0.0
    sent = 1.15 * len(each.output["formats"]) * made if sample.on_s3 else 0.0
    at_once = min(threads, each.blocks)
    # a part of a block of a mask: labels, their places, and a part of the source
    mask = 10 * min(depth, SLAB_PLANES) * height * width / 1e6 if each.masked else 0.0
    seen = block if each.kind else depth * height * width / 1e6
    worked = seen * TOOLS[each.tool].work_bytes + mask
    held = at_once * (held_times[0] * read + held_times[1] * made + sent + worked)
    return ITK_MB + held + 1000 * each.held_gb


def entry_lines(sample: Sample, threads: int) -> list[str]:
    """What each entry takes, a line of text for each."""
    lines = []
    for name, each in sample.derived.items():
        written, _ = _written(each)
        read = _read_gb(sample, each) * (2 if each.measured and each.kind else 1)
        times = _MAKES if each.kind else _MEASURES
        mega = _job_mb(sample, each, threads, times)
        block = " x ".join(map(str, each.block))
        kept = ""
        if each.kept_gb:
            along = each.rows_along
            most = temporary_gb((each.kept_gb, each.passed_gb), along, _batches(sample, each))
            kept = f", and up to {most:.1f} GB in TMPDIR"
        lines.append(
            f"derived {name}: {each.tool}, {each.blocks} blocks of {block} voxels in "
            f"{_batches(sample, each)} batches, reads {read:.1f} GB, writes {written:.1f} GB; "
            f"a job holds {mega / 1000:.1f} GB on {threads} threads{kept}"
            f"{_with_other_blocks(sample, each, threads, times)}"
        )
    return lines


def _with_other_blocks(
    sample: Sample, each: DerivedVolume, threads: int, held_times: tuple[float, float]
) -> str:
    """What a job would hold with blocks of half and twice the edge, where that makes a difference.

    So a block can be chosen for a memory, and a memory for a block.
    """
    edge, found = each.output["block"], []
    for other in (edge // 2, 2 * edge):
        changed = replace(each, output={**each.output, "block": other})
        if other >= each.output["chunk"] and changed.block != each.block:
            mega = _job_mb(sample, changed, threads, held_times)
            found.append(f"block: {other} would hold {mega / 1000:.1f} GB")
    return f" ({', '.join(found)})" if found else ""


RULES = {
    "sum_signal": RuleCost("regions", _summed, _sum_signal, heavy=True),
    "measure_signal": RuleCost("regions", load=for_each(_by_region, 2.0)),
    "init_derived": RuleCost(
        "derived", load=lambda sample: _of_entries(sample, _all(sample), _one_each)
    ),
    "measure_derived": RuleCost(
        "derived",
        _blocks(_MEASURES, _measured),
        lambda sample: _of_entries(sample, _measured(sample), _measure),
        heavy=True,
    ),
    "gather_derived": RuleCost(
        "derived", _gathered_mb, lambda sample: _of_entries(sample, _measured(sample), _one_each)
    ),
    "count_derived": RuleCost(
        "derived", _gathered_mb, lambda sample: _of_entries(sample, _counted(sample), _one_each)
    ),
    "write_objects": RuleCost(
        "derived",
        _objects_mb,
        lambda sample: _of_entries(sample, _sharded(sample), _write_objects),
        heavy=True,
    ),
    "finish_objects": RuleCost(
        "derived", load=lambda sample: _of_entries(sample, _sharded(sample), _one_each)
    ),
    "derive_blocks": RuleCost(
        "derived",
        _blocks(_MAKES, _made),
        lambda sample: _of_entries(sample, _made(sample), _derive),
        heavy=True,
    ),
}
