"""Raw planes of a COLM acquisition: their file names, and a cheap digest of their state.

Standard library only, so that a workflow can compute the digest while it is being parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from terareg.errors import AcquisitionError
from terareg.storage.store import Entry, Store

# CHN00_PLN0000.tif, or VW0_LOC000D_CM0_CHN00_PLN0000.tif
_PLANE = re.compile(
    r"(?P<head>(?:[^.].*?)?)CHN(?P<channel>\d+)_PLN(?P<plane>\d+)\.(?:tiff?|png)", re.IGNORECASE
)
_FOLDER = re.compile(r"LOC(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class PlaneFiles:
    """How to open any plane of one stack (one tile in one channel) without listing it again.

    Attributes
    ----------
    prefix, suffix : str
        File name around the plane number, e.g. ``"CHN00_PLN"`` and ``".tif"``.
    digits : int
        Least number of digits of the plane number.
    first : int
        Number of plane 0 in the file name.
    missing : tuple of int
        Planes (counted from 0) without a file.
    odd : dict of int to str
        Names of the planes that do not follow the pattern.
    """

    prefix: str
    suffix: str
    digits: int
    first: int = 0
    missing: tuple[int, ...] = ()
    odd: dict[int, str] = field(default_factory=dict)

    def name(self, plane: int) -> str:
        """File name of a plane, counted from 0, whether or not it is there."""
        if plane in self.odd:
            return self.odd[plane]
        return f"{self.prefix}{plane + self.first:0{self.digits}d}{self.suffix}"

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "prefix": self.prefix,
            "suffix": self.suffix,
            "digits": self.digits,
            "first": self.first,
            "missing": list(self.missing),
            "odd": {str(plane): name for plane, name in sorted(self.odd.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping) -> PlaneFiles:
        """Inverse of :meth:`to_json`."""
        return cls(
            data["prefix"],
            data["suffix"],
            int(data["digits"]),
            int(data["first"]),
            tuple(data["missing"]),
            {int(plane): name for plane, name in data["odd"].items()},
        )


def folder_number(name: str) -> int | None:
    """Location number of a folder ``LOC012``, None if it is no such folder."""
    match = _FOLDER.fullmatch(name)
    return int(match.group(1)) if match else None


def plane_of(name: str) -> tuple[int, int] | None:
    """Channel and plane number of a file name, None if it is no plane."""
    match = _PLANE.fullmatch(name)
    return (int(match["channel"]), int(match["plane"])) if match else None


def group_planes(entries: Iterable[Entry], folder: str) -> dict[int, dict[int, Entry]]:
    """Sort the files of a tile's folder into channels and plane numbers.

    Parameters
    ----------
    entries : iterable of Entry
        Listing; what is no plane of ``folder`` itself is passed over.
    folder : str
        Key of the tile's folder.

    Returns
    -------
    dict
        ``[channel][plane]``, numbers as in the file names.

    Raises
    ------
    AcquisitionError
        If two files are the same plane of the same channel.
    """
    stacks: dict[int, dict[int, Entry]] = {}
    for entry in entries:
        path = PurePosixPath(entry.key)
        found = plane_of(path.name)
        if found is None or path.parent != PurePosixPath(folder):
            continue
        channel, plane = found
        stack = stacks.setdefault(channel, {})
        if plane in stack:
            raise AcquisitionError(
                f"{folder} holds plane {plane} of channel {channel} twice "
                f"({PurePosixPath(stack[plane].key).name} and {path.name}); remove one of them"
            )
        stack[plane] = entry
    return stacks


def name_pattern(names: Mapping[int, str], first: int) -> PlaneFiles:
    """Describe the file names of a stack by one pattern and its exceptions.

    Parameters
    ----------
    names : mapping of int to str
        File name of each plane number, not empty.
    first : int
        Plane number that counts as plane 0.
    """
    heads: Counter[tuple[str, str]] = Counter()
    digits: dict[tuple[str, str], int] = {}
    for name in names.values():
        start, stop = _PLANE.fullmatch(name).span("plane")
        head = (name[:start], name[stop:])
        heads[head] += 1
        digits[head] = min(digits.get(head, stop - start), stop - start)
    (prefix, suffix), _ = min(heads.items(), key=lambda item: (-item[1], item[0]))
    pattern = PlaneFiles(prefix, suffix, digits[prefix, suffix], first)
    odd = {
        number - first: name
        for number, name in sorted(names.items())
        if pattern.name(number - first) != name
    }
    return PlaneFiles(prefix, suffix, pattern.digits, first, (), odd)


@dataclass(frozen=True)
class RawState:
    """State of the raw planes; a rule that carries a digest as a parameter reruns when it changes.

    Attributes
    ----------
    layout : str
        SHA-256 of the names and sizes of all planes: what an index of them depends on.
    channels : dict of int to str
        For each channel number, SHA-256 of names, sizes and change stamps of its planes.
    """

    layout: str
    channels: dict[int, str]


def raw_state(raw: Store, folders: Iterable[str]) -> RawState:
    """State of the planes in tile folders, without opening one.

    Parameters
    ----------
    raw : Store
        Root of the acquisition.
    folders : iterable of str
        Keys of tile folders, in the order they count.
    """
    layout = hashlib.sha256()
    channels = {}
    for folder in folders:
        layout.update(f"{folder}\n".encode())
        for entry in raw.list(folder):
            found = plane_of(entry.key.rpartition("/")[2])
            if found is not None:
                layout.update(f"{entry.key}\t{entry.size}\n".encode())
                digest = channels.setdefault(found[0], hashlib.sha256())
                digest.update(f"{entry.key}\t{entry.size}\t{entry.stamp}\n".encode())
    return RawState(layout.hexdigest(), {c: d.hexdigest() for c, d in channels.items()})
