"""One way to add numbers up on every machine (standard library only)."""

from __future__ import annotations

import platform
from collections.abc import MutableMapping
from pathlib import Path

_CPU_FACTS = Path("/proc/cpuinfo")


def pin_kernels(environment: MutableMapping[str, str], facts: Path = _CPU_FACTS) -> None:
    """Have OpenBLAS use the same code on all x86 processors with AVX2, by an environment variable.

    By itself it takes the fastest for the processor, and each adds in an order of its own: the
    last digits would depend on the machine a job lands on. NumPy and SciPy bring OpenBLAS; it reads
    the variable when they are imported, so that this is for processes that are still to be started.

    Parameters
    ----------
    environment : mapping
        Of those processes; ``OPENBLAS_CORETYPE`` is set in it, whatever it was.
    facts : path
        File in which Linux lists what the processor can do; elsewhere nothing is set.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not facts.exists():
        return
    if "avx2" in facts.read_text(encoding="ascii", errors="replace").split():
        environment["OPENBLAS_CORETYPE"] = "Haswell"
