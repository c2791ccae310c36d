"""What a folder of raw data looks like, for messages about the wrong kind of input.

Standard library only, and cheap: names alone are looked at, and not all of a large folder.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

from terareg.core.errors import StoreError
from terareg.storage.store import Store

_LOOKED_AT = 2000
_SIGNS = {
    "OME-TIFF": re.compile(r"\.ome\.tiff?$", re.IGNORECASE),
    "TIFF or PNG": re.compile(r"\.(tiff?|btf|png)$", re.IGNORECASE),
    "NIfTI or NRRD": re.compile(r"\.(nii|nii\.gz|nrrd|nhdr)$", re.IGNORECASE),
}
_TERASTITCHER = re.compile(r"(?:^|/)(0*-?\d+)/\1_0*-?\d+/[^/]+\.(?:tiff?|png)$", re.IGNORECASE)
_VOLUME = re.compile(r"(?:^|/)(?:zarr\.json|\.zattrs|\.zgroup|info)$")


def likely_kind(raw: Store) -> tuple[str, str] | None:
    """What a folder seems to hold, in words, and the ``input.kind`` for it; None if nothing known.

    Parameters
    ----------
    raw : Store
    """
    try:
        keys = [entry.key for entry in itertools.islice(raw.walk(), _LOOKED_AT)]
    except (OSError, StoreError):
        return None
    if "Experiment.ini" in keys:
        return "the Experiment.ini of a COLM microscope", "colm"
    if any(_TERASTITCHER.search(key) for key in keys):
        return "tiles in TeraStitcher's two levels of folders", "terastitcher"
    if any(_VOLUME.search(key) and key.count("/") <= 1 for key in keys):
        return "an OME-Zarr or precomputed volume", "volume"
    counts: Counter[str] = Counter()
    for key in keys:
        counts.update(itertools.islice((n for n, sign in _SIGNS.items() if sign.search(key)), 1))
    if not counts:
        return None
    sign, count = counts.most_common(1)[0]
    more = "more than " if len(keys) == _LOOKED_AT else ""
    return f"{more}{count} {sign} files", "volume" if sign.startswith("NIfTI") else "table"


def other_kind(raw: Store, kind: str) -> str:
    """End of a message, with the kind that a folder looks like if it is not ``kind``."""
    found = likely_kind(raw)
    if found is None or found[1] == kind:
        return ""
    return (
        f"; the folder contains {found[0]}, for which input.kind is {found[1]} (terareg init "
        f"{raw.url} writes a sample file for it)"
    )
