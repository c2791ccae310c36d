"""Where the planes of a stack (one tile in one channel) lie, and a cheap digest of their state.

Standard library only, so that a workflow can compute the digest while it is being parsed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terareg.acquisition.layout import Layout


@dataclass(frozen=True)
class PlaneFiles:
    """Planes that are files of their own, named by a pattern with a number.

    Attributes
    ----------
    prefix, suffix : str
        File name around the number, e.g. ``"CHN00_PLN"`` and ``".tif"``.
    digits : int
        Minimum number of digits of the number.
    first : int
        Number of plane 0 in the file name.
    missing : tuple of int
        Planes (counted from 0) without a file.
    odd : dict of int to str
        Names of the planes that do not follow the pattern.
    step : float
        Increment of the number from plane to plane; the number in names is rounded.
    """

    prefix: str
    suffix: str
    digits: int
    first: int = 0
    missing: tuple[int, ...] = ()
    odd: dict[int, str] = field(default_factory=dict)
    step: float = 1

    def name(self, plane: int) -> str:
        """File name of a plane, counted from 0, whether or not it is there."""
        if plane in self.odd:
            return self.odd[plane]
        number = math.floor(self.first + plane * self.step + 0.5)
        return f"{self.prefix}{number:0{self.digits}d}{self.suffix}"

    def locate(self, plane: int) -> tuple[str, None]:
        """File name of a plane; the file has no pages."""
        return self.name(plane), None

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :func:`stack_from_json`."""
        data = {
            "prefix": self.prefix,
            "suffix": self.suffix,
            "digits": self.digits,
            "first": self.first,
            "missing": list(self.missing),
            "odd": {str(plane): name for plane, name in sorted(self.odd.items())},
        }
        return data if self.step == 1 else data | {"step": self.step}

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
            data.get("step", 1),
        )


@dataclass(frozen=True)
class PlaneRange:
    """Consecutive planes in one file.

    Attributes
    ----------
    name : str
    plane : int
        The first plane of the stack that the file holds, from 0.
    planes : int
        Number of planes.
    page : int
        Page of the first one in the file, from 0.
    """

    name: str
    plane: int
    planes: int
    page: int = 0


@dataclass(frozen=True)
class PageFiles:
    """Planes that are pages of TIFF files.

    Attributes
    ----------
    blocks : tuple of PlaneRange
        In the order of their planes.
    missing : tuple of int
        Planes (counted from 0) that no file holds.
    """

    blocks: tuple[PlaneRange, ...]
    missing: tuple[int, ...] = ()

    def locate(self, plane: int) -> tuple[str, int]:
        """File name and page of a plane, counted from 0, that is not missing."""
        for block in self.blocks:
            if block.plane <= plane < block.plane + block.planes:
                return block.name, plane - block.plane + block.page
        raise KeyError(f"plane {plane} is in none of {len(self.blocks)} files")

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :func:`stack_from_json`."""
        blocks = [[b.name, b.plane, b.planes, b.page] for b in self.blocks]
        return {"blocks": blocks, "missing": list(self.missing)}

    @classmethod
    def from_json(cls, data: Mapping) -> PageFiles:
        """Inverse of :meth:`to_json`."""
        return cls(tuple(PlaneRange(*block) for block in data["blocks"]), tuple(data["missing"]))


#: how to open any plane of a stack without listing its files again
StackFiles = PlaneFiles | PageFiles


def stack_from_json(data: Mapping) -> StackFiles:
    """Inverse of the ``to_json`` of :class:`PlaneFiles` and :class:`PageFiles`."""
    return (PageFiles if "blocks" in data else PlaneFiles).from_json(data)


def name_pattern(
    names: Mapping[int, tuple[str, tuple[int, int]]], start: float = 0, step: float = 1
) -> PlaneFiles:
    """Describe the file names of a stack by one pattern and its exceptions.

    Parameters
    ----------
    names : mapping of int to (str, (int, int))
        File name of each plane (counted from 0), and where its number stands in it. Not empty.
    start, step : float
        The number of plane 0, and its increment from plane to plane.
    """
    heads: Counter[tuple[str, str]] = Counter()
    digits: dict[tuple[str, str], int] = {}
    for name, (begin, end) in names.values():
        head = (name[:begin], name[end:])
        heads[head] += 1
        digits[head] = min(digits.get(head, end - begin), end - begin)
    prefix, suffix = most_common(heads)
    first = math.floor(start + 0.5)
    pattern = PlaneFiles(prefix, suffix, digits[prefix, suffix], first, step=step)
    odd = {plane: name for plane, (name, _) in sorted(names.items()) if pattern.name(plane) != name}
    return PlaneFiles(prefix, suffix, pattern.digits, first, (), odd, step)


def most_common(counts: Counter):
    """The most frequent item; of equally frequent ones, the first in order."""
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def missing_of(planes: Sequence[int], depth: int) -> tuple[int, ...]:
    """Planes below ``depth`` that are not there."""
    there = set(planes)
    return tuple(z for z in range(depth) if z not in there)


@dataclass(frozen=True)
class RawState:
    """State of the raw planes; a rule with a digest among its parameters reruns when it changes.

    Attributes
    ----------
    layout : str
        SHA-256 of the names and sizes of all planes, on which an index of them depends.
    channels : dict of int to str
        For each channel number, SHA-256 of names, sizes and change stamps of its planes.
    """

    layout: str
    channels: dict[int, str]


def raw_state(layout: Layout) -> RawState:
    """State of the files of all tiles; only metadata files and listings are read."""
    digest = hashlib.sha256()
    for name in layout.metadata:
        digest.update(f"{name}\n".encode() + hashlib.sha256(layout.read_metadata(name)).digest())
    channels: dict[int, Any] = {}
    for tile in layout.survey.tiles:
        digest.update(f"{tile.name}\n".encode())
        for channel, entry in layout.entries(tile):
            digest.update(f"{entry.key}\t{entry.size}\n".encode())
            own = channels.setdefault(channel, hashlib.sha256())
            own.update(f"{entry.key}\t{entry.size}\t{entry.stamp}\n".encode())
    return RawState(digest.hexdigest(), {c: d.hexdigest() for c, d in channels.items()})
