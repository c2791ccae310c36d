"""Cut items into batches and run them on threads, with progress lines that a log file can hold."""

from __future__ import annotations

import ctypes
import logging
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_HEAPS = -8  # M_ARENA_MAX of glibc's malloc.h


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        # not used on Linux, where it would include the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def release_memory() -> None:
    """Return freed memory to the system; otherwise the C library keeps much of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def share_heap() -> None:
    """Let all threads that are started from now on take memory from one heap.

    The C library gives threads heaps of their own, and what one has freed is of no use to the
    others. For jobs whose threads hold large arrays in turn; many small allocations get slower.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if option is not None:
        option(_MOST_HEAPS, 1)


def batch_range(items: int, batch: int, count: int) -> range:
    """Indices of batch ``batch`` of ``count``: contiguous; sizes differ by at most one."""
    return range(items * batch // count, items * (batch + 1) // count)


def map_items(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 1,
    what: str = "",
    every_s: float = 20.0,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``; at most ``2 * workers`` in flight.

    The first error cancels what has not started and is raised. Progress is logged every ``every_s``
    seconds as "fused blocks 120/512, 3.1 GiB peak, 4 min left", if ``what`` says what the items
    are.
    """
    items = list(items)
    start = last = time.monotonic()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pending: list[Future[Result]] = []
        queue = iter(items)
        try:
            for done in range(len(items)):
                while len(pending) < 2 * max(1, workers):
                    try:
                        pending.append(pool.submit(function, next(queue)))
                    except StopIteration:
                        break
                yield pending.pop(0).result()
                now = time.monotonic()
                if what and now - last >= every_s and done + 1 < len(items):
                    last = now
                    left = (now - start) / (done + 1) * (len(items) - done - 1)
                    logger.info(
                        "%s %d/%d, %.1f GiB peak, %s left",
                        what, done + 1, len(items), peak_memory_mb() / 1024, duration(left),
                    )  # fmt: skip
        finally:
            for future in pending:
                future.cancel()
    if what:
        logger.info(
            "%s %d/%d in %s, %.1f GiB peak",
            what, len(items), len(items), duration(time.monotonic() - start),
            peak_memory_mb() / 1024,
        )  # fmt: skip


def duration(seconds: float) -> str:
    """A time in words, as coarse as it is long."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
