"""Which files a MetaImage header names (standard library only)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from terareg.storage.store import open_regular
from terareg.storage.tiff_planes import check_beside

META_IMAGE = (".mha", ".mhd")
_HEAD_BYTES = 1 << 16


def detached_files(path: str | os.PathLike) -> list[Path]:
    """Data files beside a MetaImage header.

    Raises
    ------
    ValueError
        If one is not in the header's folder.
    """
    path = Path(path)
    if path.suffix.lower() not in META_IMAGE:
        os.close(open_regular(path))
        return []
    with open(open_regular(path), "rb") as stream:
        head = stream.read(_HEAD_BYTES).decode("latin-1")
    match = re.search(r"^[ \t]*ElementDataFile[ \t]*=[ \t]*(.*?)[ \t]*\r?$", head, re.M | re.I)
    if match is None:
        raise ValueError("it names no ElementDataFile")
    words = match[1].split()
    if not words or words[0].upper() in ("LOCAL", "LIST") or "%" in match[1]:
        if words and words[0].upper() == "LOCAL":
            return []
        raise ValueError(f"its voxels are in {match[1][:40]!r}; write them into one file")
    return [path.parent / check_beside(match[1])]
