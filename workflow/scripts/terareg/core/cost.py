"""The terms in which the stages state their costs (standard library only).

Every stage has a module ``cost.py`` that says what its rules read, write, compute and hold, in
these terms; :mod:`terareg.execution.rule_table` gathers them. Memory is the peak of a job's
process: interpreter, libraries and data. tests/benchmarks/bench_requests.py compares it with what
finished runs measured. Rates are those of one thread of a server of 2026, measured as
docs/scaling.md says; bytes are those requested from the storage.

No algorithm imports a ``cost.py``: a changed rate would make its rules run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from terareg.core.extents import Sample

Memory = Callable[[Sample, int], float]  # MB, as a function of the sample and the number of threads
Count = Callable[[Sample], int]

PYTHON_MB = 120  # interpreter, NumPy, SciPy, tensorstore
ITK_MB = 190  # the same with SimpleITK
TORCH_MB = 420  # the same with PyTorch

MAX_BATCHES = 60  # per stage and channel
_MAX_OF_ALL_CHANNELS = 100  # per stage


# ------------------------------------------------------------------ batches
def max_batches(channels: int) -> int:
    """Largest number of batches per stage and channel.

    It keeps one brain below about 500 jobs, whether it has 100 GB or 40 TB and however many
    channels: a job costs seconds of start-up, and a tracked file some 24 requests on S3.
    """
    return max(1, min(MAX_BATCHES, _MAX_OF_ALL_CHANNELS // max(1, channels)))


def batches(total_gb: float, items: int, gb_per_job: float, channels: int = 1) -> int:
    """Number of batches for ``items`` pieces of work of ``total_gb`` together, at least 1.

    Each of ``channels`` is cut into this number.
    """
    return max(1, min(items, max_batches(channels), math.ceil(total_gb / gb_per_job)))


# ------------------------------------------------------------------ work
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
    most : Load or None
        The most that it may become where it depends on the data: plans use the usual work, time
        limits use this.
    """

    jobs: int = 1
    read_gb: float = 0.0
    written_gb: float = 0.0
    cpu_s: float = 1.0
    most: Load | None = None


def for_each(count: Count, cpu_s: float = 1.0) -> Callable[[Sample], Load]:
    """One job of ``cpu_s`` seconds of processor time for each thing counted."""
    return lambda sample: Load(count(sample), cpu_s=cpu_s * count(sample))


def one(sample: Sample) -> int:
    """Count of anything that a sample has once."""
    return 1


def channels(sample: Sample) -> int:
    """Channels of a sample."""
    return sample.size.channels


def raw_channels(sample: Sample) -> int:
    """Channels of a sample, with every side of a channel counted."""
    return sample.size.raw_channels


def atlases(sample: Sample) -> int:
    """Atlases that are carried into a sample."""
    return len(sample.atlases)


def composed_atlases(sample: Sample) -> int:
    """Those of them that are reached through another one."""
    return len(sample.atlases) - len(sample.registered)


def atlases_given(key: str) -> Count:
    """Atlases for which the user gives something in the configuration under ``key``."""
    return lambda sample: sum(atlas in sample.option(key) for atlas in sample.atlases)


def if_measured(load: Callable[[Sample], Load]) -> Callable[[Sample], Load]:
    """Work for the displacements; none if the user brings them, or the positions."""
    return lambda sample: load(sample) if sample.measures_displacements else Load(0)


# ------------------------------------------------------------------ memory
def table(sample: Sample, threads: int) -> float:
    """Memory of a job that handles tables and metadata only."""
    return ITK_MB


def flat(mb: float) -> Memory:
    """Memory of a job that does not depend on the data."""
    return lambda sample, threads: mb


def planes(count: float, per_thread: float = 0) -> Memory:
    """Memory of a job that holds ``count`` planes as stored, and more for each thread."""

    def memory(sample: Sample, threads: int) -> float:
        return PYTHON_MB + (count + per_thread * threads) * sample.size.plane_mb

    return memory


def blocks(per_byte: float, per_atlas: float = 0, base_mb: float = ITK_MB) -> Memory:
    """Memory of a job that makes blocks.

    On each thread it holds ``per_byte`` times the bytes of a block, and, once, ``per_atlas`` bytes
    for each voxel of the atlas.
    """

    def memory(sample: Sample, threads: int) -> float:
        block_mb = sample.block_mvox * sample.size.bytes_per_voxel
        at_once = min(threads, sample.block_count())
        made = at_once * (per_byte * block_mb + 1000 * sample.held_gb)
        return base_mb + made + per_atlas * sample.largest_atlas.megavoxels

    return memory


def whole(resolution: str, per_voxel: float) -> Memory:
    """Memory of a job that holds the sample at the resolution in the option ``resolution``."""
    return lambda sample, threads: ITK_MB + per_voxel * sample.grid.at(sample.option(resolution))


def atlas(per_voxel: float) -> Memory:
    """Memory of a job that holds the atlas."""
    return lambda sample, threads: ITK_MB + per_voxel * sample.largest_atlas.megavoxels


# ------------------------------------------------------------------ a rule
_once = for_each(one)


@dataclass(frozen=True)
class RuleCost:
    """What a rule needs.

    Attributes
    ----------
    stage : str
        Heading under which plans and reports list it.
    memory_mb : callable
        Peak of one job's process, as a function of the sample and the threads.
    load : callable
        Work of all its jobs, as a function of the sample.
    heavy : bool
        Whether it uses ``jobs.threads`` threads, rather than one.
    least_minutes : int
        Time limit of a job that has almost nothing to do.
    needs : str
        "tiles" or "volume": samples that have the rule; "" for all.
    """

    stage: str
    memory_mb: Memory = table
    load: Callable[[Sample], Load] = _once
    heavy: bool = False
    least_minutes: int = 30
    needs: str = ""
