"""Bytes requested from storage by this process: planes, objects of stores, arrays of volumes.

tensorstore counts its own bytes; all other code that reads or writes reports them here. Bytes are
those requested, wherever they came from: a page cache makes no difference.
"""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()
_told = {"read": 0, "written": 0}


def tell(*, read: int = 0, written: int = 0) -> None:
    """Count bytes that were read or written without tensorstore."""
    with _lock:
        _told["read"] += read
        _told["written"] += written


def totals() -> dict[str, int]:
    """``bytes_read`` and ``bytes_written`` of this process so far."""
    return {f"bytes_{way}": told + _of_tensorstore(way) for way, told in _told.items()}


def _of_tensorstore(way: str) -> int:
    # a job that has not imported tensorstore has moved nothing through it
    tensorstore = sys.modules.get("tensorstore")
    if tensorstore is None:
        return 0
    total = 0
    for driver in ("file", "s3"):
        name = f"/tensorstore/kvstore/{driver}/bytes_{way}"
        for metric in tensorstore.experimental_collect_matching_metrics(name):
            if metric["name"] == name:
                total += sum(value["value"] for value in metric["values"])
    return total
