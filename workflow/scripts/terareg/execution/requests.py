"""What a job asks the engine for: memory, threads, time (standard library only)."""

from __future__ import annotations

import math

from terareg.core.extents import Sample
from terareg.execution.rule_table import RULES

_ENGINE_MB = 400  # Snakemake's own two processes besides the job, on a cluster
_DISK_GB_PER_S = 0.1  # a slow shared disk, for time limits

#: {vCPU: (least, most, step) in MB}, what AWS Batch accepts
BATCH_MEMORY = {
    1: (2048, 8192, 1024),
    2: (4096, 16384, 1024),
    4: (8192, 30720, 1024),
    8: (16384, 61440, 4096),
    16: (32768, 122880, 8192),
}


def request_mb(rule: str, sample: Sample, threads: int) -> float:
    """Memory that a job of a rule needs, Snakemake's own processes included."""
    return _ENGINE_MB + RULES[rule].memory_mb(sample, threads)


def granted_mb(need_mb: float, threads: int, attempt: int = 1) -> int:
    """Memory to ask for at an attempt, of a size that AWS Batch offers.

    A retry multiplies what was granted, not what is needed: the first attempt may have been granted
    more than it needs.
    """
    return fit(grow(fit(need_mb, threads), attempt), threads)


def threads_of(rule: str, sample: Sample) -> int:
    """CPUs of a job: those it computes with, or more if AWS Batch requires them for its memory.

    They leave room for one retry with more memory.
    """
    least = fit_threads(sample.option("jobs.threads") if RULES[rule].heavy else 1)
    return fit_threads(least, grow(request_mb(rule, sample, least), 2))


def minutes(rule: str, sample: Sample, attempt: int) -> int:
    """Time limit of a job of a rule: four times the plan on a slow disk; doubles when retried."""
    cost, usual = RULES[rule], RULES[rule].load(sample)
    load = usual.most or usual
    disk = (load.read_gb + load.written_gb) / _DISK_GB_PER_S
    seconds = max(load.cpu_s, disk) / max(1, load.jobs)
    return math.ceil((cost.least_minutes + 4 * seconds / 60) * float(2 ** (attempt - 1)))


def fit(mem_mb: float, threads: int = 1) -> int:
    """Round a request for memory up to what AWS Batch accepts with ``threads`` CPUs.

    A request above the maximum for that many CPUs gets the maximum: ask for more threads instead
    (:func:`fit_threads`). Other engines take any number.
    """
    least, most, step = BATCH_MEMORY[fit_threads(threads)]
    return int(min(most, max(least, math.ceil(mem_mb / step) * step)))


def fit_threads(threads: int, mem_mb: float = 0) -> int:
    """Round threads up to a size that AWS Batch offers and that can have ``mem_mb``."""
    for count, (_, most, _) in BATCH_MEMORY.items():
        if threads <= count and mem_mb <= most:
            return count
    return max(BATCH_MEMORY)


def grow(mem_mb: float, attempt: int) -> float:
    """Memory for a retry: half as much again for each attempt."""
    return mem_mb * 1.5 ** (attempt - 1)
