"""TeraStitcher's two levels of folders, as light-sheet microscopes of several makers write them::

    VVVVVV/VVVVVV_HHHHHH/VVVVVV_HHHHHH_ZZZZZZ.tif

Numbers are stage positions in tenths of micrometres, V along y, H along x, Z along z. Files hold
one plane each ("2Dseries") or several ("3Dseries"); their names may be shortened to ``ZZZZZZ.tif``.
Each channel is such a tree in a folder of its own. Bria and Iannello, BMC Bioinformatics 13:316
(2012). Standard library only, see :mod:`terareg.acquisition.layout`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from itertools import pairwise
from pathlib import PurePosixPath
from statistics import fmean, median

from terareg.acquisition.folder_signs import other_kind
from terareg.acquisition.image_files import estimate_pages, read_pages
from terareg.acquisition.layout import (
    Blocks,
    Layout,
    LayoutOptions,
    RawTile,
    Series,
    Stack,
    Survey,
    survey_grid,
)
from terareg.acquisition.tile_grid import find_grid
from terareg.core.errors import AcquisitionError
from terareg.storage.store import Entry, Store, check_key

_NUMBER = r"0*-?\d+"
_OUTER = re.compile(_NUMBER)
_INNER = re.compile(rf"({_NUMBER})_({_NUMBER})")
# a minus after an underscore, or at the beginning, is a sign; elsewhere it separates words
_PLANE = re.compile(
    r"(?:(?:[^.].*_)?(?P<signed>0*-\d+)|(?:[^.].*\D)?(?P<plane>\d+))(?:\.ome)?\.(?:tiff?|png)",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"[^/.][^/]*\.(?:tiff?|png)$", re.IGNORECASE)
# a number with something written after it, or two numbers anywhere in the name
_LIKE_A_TILE = re.compile(r"-?\d|.*\d{3,}_-?\d{3,}")
_LOOKED_AT = 1000
_PER_UM = 10


class FolderLayout(Layout):
    """Raw tiles in TeraStitcher's two levels of folders.

    Parameters
    ----------
    raw : Store
    options : LayoutOptions
        Channels are identified by the folder below ``raw`` that holds their tree, "." for ``raw``
        itself. The voxel size must be given.
    first_level : str
        Stage position that names the outer folders: "V" (y) or "H" (x).
    """

    kind = "terastitcher"
    leave_out = "remove the tile's folder in all channels"

    def __init__(self, raw: Store, options: LayoutOptions, first_level: str = "V") -> None:
        super().__init__(raw, options)
        self.first_level = first_level
        roots = [check_key(str(root)) for root in options.channels.values()]
        self._roots = ["" if root == "." else root for root in roots]
        self._folders = cache(self._find_folders)
        self._empty: set[str] = set()
        self._passed: set[str] = set()

    # ------------------------------------------------------------------ tiles
    def look(self) -> Survey:
        for number, root in enumerate(self._roots):
            if not self._folders(number):
                where = self.raw.address(root) if root else self.raw.url
                what = "does not exist or is empty"
                if next(iter(self.raw.walk(root)), None) is not None:
                    what = (
                        "contains no tile folder with images such as 000000/000000_000000 "
                        "(positions in tenths of micrometres)"
                    )
                raise AcquisitionError(
                    f"{where} (channel {list(self.options.channels)[number]}) {what}; correct "
                    f"input.path or input.channels{other_kind(self.raw, self.kind)}"
                )
        places = self._folders(0)
        grid = find_grid({name: (v / _PER_UM, h / _PER_UM) for name, (_, v, h) in places.items()})
        tiles = []
        for name, (_, v, h) in places.items():
            yx = (v / _PER_UM - grid.origin[0], h / _PER_UM - grid.origin[1])
            tiles.append(RawTile(name, *grid.cells[name], yx))
        first = min(tiles, key=lambda t: (t.row, t.column))
        numbers = self._numbers(first)
        layout, pages = estimate_pages(self.raw, numbers[min(numbers)].key)
        step = self._step(numbers, pages)
        planes = round((max(numbers) - min(numbers)) / step) + pages
        return survey_grid(tiles, grid, (layout, planes), self.options, "names of tile folders")

    def _find_folders(self, channel: int) -> dict[str, tuple[str, int, int]]:
        """Folder, V and H of each tile of a channel, by name of the folder."""
        root = self._roots[channel]
        found: dict[str, tuple[str, int, int]] = {}
        for outer in self.raw.folders(root):
            if not _OUTER.fullmatch(outer):
                self._pass_over(_join(root, outer))
                continue
            for inner in self.raw.folders(_join(root, outer)):
                folder = _join(root, outer, inner)
                match = _INNER.fullmatch(inner)
                if match is None or _number(match[1]) != _number(outer):
                    self._pass_over(folder)
                    continue
                if not self._has_images(folder):
                    self._empty.add(folder)
                    continue
                v, h = _number(match[1]), _number(match[2])
                if self.first_level == "H":
                    v, h = h, v
                found[inner] = (folder, v, h)
        return found

    def _has_images(self, folder: str) -> bool:
        """Whether a tile was imaged; S3 has no empty folders, so no request is made there."""
        if self.raw.is_s3:
            return True
        return any(_IMAGE.search(entry.key) for entry in self.raw.walk(folder))

    def _pass_over(self, folder: str) -> None:
        """Remember a folder that does not belong to a tile; raise if it looks as if it did."""
        if any(root and f"{root}/".startswith(f"{folder}/") for root in self._roots):
            return  # a folder of another channel
        looks_like = _LIKE_A_TILE.match(folder.rpartition("/")[2])
        entries = itertools.islice(self.raw.walk(folder), _LOOKED_AT)
        if looks_like and any(_IMAGE.search(entry.key) for entry in entries):
            raise AcquisitionError(
                f"{self.raw.address(folder)} contains images like a tile but is not named like "
                "one (000000/000000_000000, both with the same first number); rename it or move "
                "it out of input.path"
            )
        if not folder.rpartition("/")[2].startswith("."):
            self._passed.add(folder)

    def find_tiles(self, problems: list[str]) -> tuple[RawTile, ...]:
        _, step, _ = self._counting
        stated, dz = step / _PER_UM, self.options.spacing_um[0]
        # numbers that merely count planes say nothing about their distance
        if step != 1 and abs(stated / dz - 1) > 0.01:
            problems.append(
                f"input.spacing_um (z) is {dz:g} um but planes are {stated:g} um apart by the "
                "names of their files; input.spacing_um was used"
            )
        tiles = self.survey.tiles
        names = {tile.name for tile in tiles}
        for number in range(1, len(self._roots)):
            extra = sorted(set(self._folders(number)) - names)
            if extra:
                raise AcquisitionError(
                    f"{len(extra)} tiles of channel {self.channel_mark(number)} are not in "
                    f"channel {self.channel_mark(0)} (first: {extra[0]}); copy them, or "
                    f"{self.leave_out}"
                )
        if self._empty:
            problems.append(
                f"{len(self._empty)} folders without an image were taken for positions that were "
                f"not imaged (first: {min(self._empty)})"
            )
        if self._passed:
            problems.append(
                f"{len(self._passed)} folders that do not belong to a tile were ignored (first: "
                f"{min(self._passed)})"
            )
        return tiles

    def raw_keys(self) -> list[str]:
        keys = {root for root in self._roots if root}
        if "" in self._roots:  # of the raw folder itself, only the outer folders of tiles
            places = self._folders(self._roots.index("")).values()
            keys |= {folder.split("/")[0] for folder, _, _ in places}
        return sorted(keys)

    # ------------------------------------------------------------------ planes
    def entries(self, tile: RawTile) -> Iterator[tuple[int, Entry]]:
        for channel in range(len(self._roots)):
            place = self._folders(channel).get(tile.name)
            for entry in self.raw.list(place[0]) if place else ():
                path = PurePosixPath(entry.key)
                if path.parent != PurePosixPath(place[0]):
                    continue
                if _PLANE.fullmatch(path.name):
                    yield channel, entry
                else:
                    self.note_passed_over(entry.key)

    def stacks(self, tile: RawTile) -> dict[int, Stack]:
        start, step, in_blocks = self._counting
        found: dict[int, dict[int, Entry]] = {}
        spans: dict[int, dict[int, tuple[int, int]]] = {}
        for channel, entry in self.entries(tile):
            number, span = _plane_of(entry)
            plane = round((number - start) / step)
            off = abs(number - start - plane * step)
            # numbers in names are rounded, or truncated, to tenths of micrometres
            if off > max(0.25 * step, min(1.0, 0.5 * step)):
                raise AcquisitionError(
                    f"{entry.key} is between two planes: planes are {step / _PER_UM:g} um apart, "
                    f"starting at {start / _PER_UM:g} um; correct input.spacing_um or remove it"
                )
            files = found.setdefault(channel, {})
            if plane in files:
                raise AcquisitionError(
                    f"{files[plane].key} and {PurePosixPath(entry.key).name} are the same plane; "
                    "remove one of them or correct input.spacing_um"
                )
            files[plane] = entry
            spans.setdefault(channel, {})[plane] = span
        if in_blocks:
            return {channel: Blocks(files) for channel, files in found.items()}
        return {c: Series(files, spans[c], start, step) for c, files in found.items()}

    def _numbers(self, tile: RawTile) -> dict[int, Entry]:
        """Files of a tile in the first channel, by the number in their names."""
        files = {}
        for channel, entry in self.entries(tile):
            if channel == 0:
                files[_plane_of(entry)[0]] = entry
        if not files:
            raise AcquisitionError(
                f"{self._folders(0)[tile.name][0]} contains no image such as "
                f"{tile.name}_000000.tif; copy the planes or remove the folder"
            )
        return files

    @cached_property
    def _counting(self) -> tuple[float, float, bool]:
        """First number in names of planes, its increment, and whether files hold several planes."""
        numbers = self._numbers(self.survey.tiles[0])
        key = numbers[min(numbers)].key
        _, pages = estimate_pages(self.raw, key)
        pages = len(read_pages(self.raw, key)) if pages > 1 else 1
        return float(min(numbers)), self._step(numbers, pages), pages > 1

    def _step(self, numbers: Iterable[int], pages: int) -> float:
        """Increment of the number in names from plane to plane."""
        ordered = sorted(numbers)
        if len(ordered) == 1:
            return _PER_UM * self.options.spacing_um[0]
        apart = [b - a for a, b in pairwise(ordered)]
        # gaps are left out; the mean, because names are rounded unless they count planes
        usual = median(apart)
        single = fmean(d for d in apart if d < 1.5 * usual + (usual > 1))
        length = ordered[-1] - ordered[0]
        return length / round(length / single) / pages


def _plane_of(entry: Entry) -> tuple[int, tuple[int, int]]:
    """Number in the name of a plane, and where it stands."""
    match = _PLANE.fullmatch(PurePosixPath(entry.key).name)
    group = "plane" if match["signed"] is None else "signed"
    return _number(match[group]), match.span(group)


def _number(text: str) -> int:
    """A position; negative ones have their sign after leading zeros."""
    # enough for any place, and small enough to reckon with
    return max(-(10**18), min(int(re.sub(r"^0*-", "-", text)), 10**18))


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
