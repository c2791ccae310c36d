"""The same order of floating-point sums on every machine (standard library only)."""

from __future__ import annotations

import platform
from collections.abc import MutableMapping
from pathlib import Path

_CPU_FACTS = Path("/proc/cpuinfo")


def pin_kernels(environment: MutableMapping[str, str], facts: Path = _CPU_FACTS) -> None:
    """Have OpenBLAS use the same code on all x86 processors with AVX2, by an environment variable.

    By default it picks the fastest code for the processor, and each adds in its own order: the last
    digits would depend on the machine that a job runs on. NumPy and SciPy bring OpenBLAS, which
    reads the variable when they are imported; so this works only for processes that have not
    started yet.

    Parameters
    ----------
    environment : mapping
        Environment of those processes; ``OPENBLAS_CORETYPE`` in it is overwritten.
    facts : path
        File in which Linux lists what the processor can do; where it does not exist, nothing is
        set.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not facts.exists():
        return
    if "avx2" in facts.read_text(encoding="ascii", errors="replace").split():
        environment["OPENBLAS_CORETYPE"] = "Haswell"
