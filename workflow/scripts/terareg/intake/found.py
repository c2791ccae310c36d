"""What was recognised in a folder, and a cached look into it."""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from terareg.core.errors import AcquisitionError
from terareg.intake.ome import OmeImage, is_ome, read_ome
from terareg.storage.store import Store
from terareg.storage.tiff import ObjectFile, Tiff
from terareg.volumes.ome_metadata import UM_PER

_MOST = 2_000_000
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
TIFF = re.compile(r"[^.].*\.(?:tiff?|btf|tf8)$", re.IGNORECASE)
PLANE = re.compile(r"[^.].*\.(?:tiff?|png)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What a folder or file was recognised as.

    Attributes
    ----------
    title : str
        In words.
    source : mapping
        Keys of ``input``, without the orientation.
    why : tuple of str
        What it was recognised by.
    notes : mapping of str to str
        By key of ``input``: where its value comes from.
    guesses : mapping of str to str
        By key of ``input``: why its value is only a guess.
    asked : mapping of str to str
        By key of ``input``: what its owner has to fill in.
    table : str or None
        Text of the table of tiles that goes with it.
    """

    title: str
    source: Mapping[str, Any]
    why: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    guesses: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None


class Look:
    """A folder as it is looked into: names, and the first lines of TIFF files, read once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._heads: dict[str, tuple[str, bool]] = {}

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the files below the folder, sorted.

        Raises
        ------
        AcquisitionError
            If there are more than any acquisition has: a part would be taken for the whole.
        """
        found = [e.key for e in itertools.islice(self.store.walk(), _MOST + 1)]
        if len(found) > _MOST:
            raise AcquisitionError(
                f"{self.store.url} contains more than {_MOST} files; give the folder of one sample"
            )
        return sorted(key for key in found if not hidden(key))

    def top(self) -> list[str]:
        """Names of the files directly in the folder."""
        if self.store.is_s3:
            return [key for key in self.keys if "/" not in key]
        names = sorted(os.listdir(self.store.url))
        return [n for n in names if not n.startswith(".") and self.store.path(n).is_file()]

    @cached_property
    def _json(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key in self.keys:
            if key.endswith(".json"):
                found.setdefault(key.rpartition("/")[0], []).append(key)
        return found

    def json_in(self, folder: str) -> list[str]:
        """Keys of the JSON files directly in a folder."""
        return self._json.get(folder, [])

    def all_names(self) -> list[str]:
        """Names of the files directly in the folder, hidden ones included."""
        if self.store.is_s3:
            return [n for n in ("zarr.json", ".zattrs", "info") if self.store.exists(n)]
        return sorted(os.listdir(self.store.url))

    def head(self, key: str) -> tuple[str, bool]:
        """Description of the first page of a TIFF file, and whether there are more pages.

        No description, and one page, for what is no TIFF file.
        """
        if key not in self._heads:
            self._heads[key] = self._read_head(key)
        return self._heads[key]

    def _read_head(self, key: str) -> tuple[str, bool]:
        try:
            with ObjectFile(self.store, key, ranged=True) as file:
                tiff = Tiff.open(file)
                text = tiff.description(tiff.first)
                several = re.search(r"^images=([2-9]|\d\d+)\s*$", text, re.MULTILINE)
                return text, tiff.following(tiff.first) != 0 or several is not None
        except (OSError, EOFError, ValueError, struct.error):
            return "", False

    def imagej_um(self, key: str) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x) that ImageJ wrote into a TIFF file, in micrometres."""
        text, _ = self.head(key)
        stated = dict(re.findall(r"^(\w+)=(.*?)\s*$", text, re.MULTILINE))
        unit = re.sub(r"\\u00[bB]5", "µ", stated.get("unit", ""))
        factor = UM_PER.get(unit.lower())
        if "ImageJ" not in stated or factor is None or {"yunit", "zunit"} & stated.keys():
            return None
        try:
            with ObjectFile(self.store, key, ranged=True) as file:
                tiff = Tiff.open(file)
                per_unit = [tiff.ratio(tiff.first, tag) for tag in (_Y_RESOLUTION, _X_RESOLUTION)]
            z, y, x = float(stated["spacing"]), *(1 / (number or 0) for number in per_unit)
        except (OSError, EOFError, ValueError, KeyError, ZeroDivisionError, struct.error):
            return None
        sizes = z * factor, y * factor, x * factor
        return sizes if all(0 < size < math.inf for size in sizes) else None

    def asked_um(self, key: str, otherwise: str = "") -> str:
        """How the voxel size is asked for: with what ImageJ wrote, or ``otherwise``."""
        found = self.imagej_um(key)
        if found is not None:
            size = ", ".join(f"{v:.6g}" for v in found)
            otherwise = (
                f"; ImageJ wrote [{size}] into {PurePosixPath(key).name}, which is right if "
                "nothing but ImageJ has scaled the image"
            )
        return f"voxel size [z, y, x] in micrometres{otherwise}"

    def ome(self, key: str) -> OmeImage | None:
        """What the OME-XML of a file says of it; None without any."""
        text, _ = self.head(key)
        return read_ome(text, PurePosixPath(key).name) if is_ome(text) else None


def hidden(key: str) -> bool:
    """Whether a file, or a folder above it, is hidden."""
    return any(part.startswith(".") for part in key.split("/"))


def table_text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table of tiles; numbers with at most six decimals."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")

    return "".join("\t".join(map(cell, line)) + "\n" for line in [columns, *lines])


def channel_names(values: Iterable[str]) -> dict[str, str]:
    """Names of channels that a configuration may have, and what tables or folders call them."""
    names: dict[str, str] = {}
    for value in values:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", value).strip("_-") or "signal"
        name = f"ch{name}" if name[0].isdigit() else name
        while name in names:
            name += "_"
        names[name] = value
    return names


def spacing_note(key: str, form: str = "OME-TIFF") -> str:
    """Where a voxel size comes from."""
    what = "OME-XML" if form == "OME-TIFF" else "metadata"
    return f"z, y, x, from the {what} of {PurePosixPath(key).name}"
