"""A folder of planes as a volume: TIFF or PNG files whose names differ by one number.

Standard library only, because the workflow reads headers while it is being loaded.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from terareg.acquisition.image_files import read_layout
from terareg.core.errors import TeraregError, VolumeError
from terareg.storage.store import Store

ENDINGS = (".tif", ".tiff", ".png")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class PlaneSeries:
    """Planes of one size and type.

    Attributes
    ----------
    store : Store
        Their folder.
    names : tuple of str
        Files in the order of their numbers.
    shape : tuple of int
        (z, y, x).
    dtype : str
        "uint8" or "uint16".
    plain : bool
        Whether the first plane is uncompressed.
    """

    store: Store
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str
    plain: bool


def plane_names(store: Store) -> list[str]:
    """TIFF and PNG files right in a folder, without hidden ones."""
    if store.is_s3:
        found = [entry.key for entry in store.walk()]
    else:
        with os.scandir(store.url) as entries:
            found = [entry.name for entry in entries if entry.is_file()]
    return [
        key
        for key in found
        if "/" not in key and key.lower().endswith(ENDINGS) and not key.startswith(".")
    ]


def read_series(store: Store, names: list[str]) -> PlaneSeries:
    """Planes of a folder, in order.

    Parameters
    ----------
    store : Store
    names : list of str
        Files, at least one.

    Raises
    ------
    VolumeError
        If names differ by more than one number, if a number is missing or used twice, or if the
        first file is not one plane of 8 or 16 bits.
    """
    ordered = _in_order(store, names)
    try:
        first = read_layout(store, ordered[0])
    except TeraregError as error:
        reason = str(error).split(";")[0]
        raise VolumeError(
            f"{store.url} is not an image that terareg can read; give one of its files, or planes "
            f"of 8 or 16 bits alone ({reason})"
        ) from error
    return PlaneSeries(
        store, tuple(ordered), (len(ordered), *first.shape), first.dtype,
        first.data_start is not None,
    )  # fmt: skip


def _in_order(store: Store, names: list[str]) -> list[str]:
    if len(names) == 1:
        return names
    forms = Counter(_NUMBER.sub("0", name) for name in names)
    (form, _), *others = forms.most_common()
    if others:
        odd = min(name for name in names if _NUMBER.sub("0", name) != form)
        usual = min(name for name in names if _NUMBER.sub("0", name) == form)
        raise VolumeError(
            f"{store.url} contains planes with unlike names, {usual} and {odd}; give each series a "
            "folder of its own"
        )
    numbers = {name: _NUMBER.findall(PurePosixPath(name).name) for name in names}
    groups = list(zip(*numbers.values()))
    varying = [n for n, group in enumerate(groups) if len(set(map(int, group))) > 1]
    if len(varying) != 1:
        what = "more than one number" if varying else "nothing but zeros before a number"
        raise VolumeError(
            f"{store.url} contains planes whose names differ in {what}, for example {names[0]} and "
            f"{names[-1]}; give each series a folder of its own"
        )
    by_number: dict[int, str] = {}
    for name, found in numbers.items():
        number = int(found[varying[0]])
        other = by_number.setdefault(number, name)
        if other != name:
            raise VolumeError(
                f"{store.url} contains plane {number} twice, {other} and {name}; remove one of them"
            )
    known = sorted(by_number)
    step = math.gcd(*(b - a for a, b in pairwise(known)))
    missing = (known[-1] - known[0]) // step + 1 - len(known)
    if missing:
        gap = next(a for a, b in pairwise(known) if b - a > step)
        raise VolumeError(
            f"{store.url} contains {len(known)} planes from number {known[0]} to {known[-1]}, but "
            f"{missing} are missing, the first behind {by_number[gap]}; copy them"
        )
    return [by_number[number] for number in known]
