"""The layout of a COLM microscope::

    Experiment.ini
    Scanned Cells.txt
    VW0/LOC000/CHN00_PLN0000.tif      LOC = column + row * columns

or ``VW0_LOC000D_CM0_CHN00_PLN0000.tif``; all channels of a tile lie in one folder. Standard library
only, see :mod:`terareg.acquisition.layout`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath

from terareg.acquisition.layout import Blocks, Layout, LayoutOptions, RawTile, Series, Survey
from terareg.acquisition.metadata import ColmMetadata, load_colm_metadata, tile_names
from terareg.core.errors import AcquisitionError
from terareg.storage.store import Entry, Store, check_key

_INI = "Experiment.ini"
_CELLS = "Scanned Cells.txt"
# CHN00_PLN0000.tif, or VW0_LOC000D_CM0_CHN00_PLN0000.tif
_PLANE = re.compile(
    r"(?P<head>(?:[^.].*?)?)CHN(?P<channel>\d+)_PLN(?P<plane>\d+)\.(?:tiff?|png)", re.IGNORECASE
)
_FOLDER = re.compile(r"LOC(\d+)", re.IGNORECASE)
_LOOKED_AT = 1000


def plane_of(name: str) -> tuple[int, int] | None:
    """Channel and plane number in a file name, None if it is not that of a plane."""
    match = _PLANE.fullmatch(name)
    return (int(match["channel"]), int(match["plane"])) if match else None


class ColmLayout(Layout):
    """Raw tiles of a COLM microscope.

    Parameters
    ----------
    raw : Store
        Folder or S3 prefix that holds ``Experiment.ini``, ``Scanned Cells.txt`` and the view.
    options : LayoutOptions
        Channels are identified by their number in the file names; by default all that are found are
        used, as "ch0", "ch1", ...
    view : str
        Folder that holds the folders of the tiles.
    """

    kind = "colm"
    metadata = (_INI, _CELLS)
    leave_out = f"write 0 for the tile in {_CELLS}"

    def __init__(self, raw: Store, options: LayoutOptions, view: str = "VW0") -> None:
        super().__init__(raw, options)
        self.view = check_key(view)
        self._other_folders: list[str] = []

    @cached_property
    def _metadata(self) -> ColmMetadata:
        return load_colm_metadata(self.raw, self.options.spacing_um, self.options.overlap)

    def look(self) -> Survey:
        meta = self._metadata
        places = ((name, *divmod(int(name[3:]), meta.columns)) for name in tile_names(meta))
        return Survey(
            meta.rows,
            meta.columns,
            tuple(RawTile(*place) for place in places),
            meta.tile_pixels,
            meta.planes,
            meta.spacing_um,
            meta.overlap,
            meta.problems,
        )

    @cached_property
    def _folders(self) -> dict[int, str]:
        """Folder of each location."""
        found: dict[int, str] = {}
        for folder in self.raw.folders(self.view):
            match = _FOLDER.fullmatch(folder)
            if match is None:
                self._pass_over(folder)
                continue
            number = int(match[1])
            if number in found:
                raise AcquisitionError(
                    f"{self.view} has two folders of location {number} ({found[number]} and "
                    f"{folder}); remove one of them"
                )
            found[number] = folder
        return found

    def _pass_over(self, folder: str) -> None:
        """Remember a folder that does not belong to a tile; raise if it looks as if it did."""
        key = f"{self.view}/{folder}"
        entries = itertools.islice(self.raw.walk(key), _LOOKED_AT)
        if any(plane_of(PurePosixPath(entry.key).name) for entry in entries):
            raise AcquisitionError(
                f"{self.raw.address(key)} contains planes like a tile but is not named like one "
                "(LOC000); rename it or move it out of the view folder"
            )
        if not folder.startswith("."):
            self._other_folders.append(folder)

    def find_tiles(self, problems: list[str]) -> tuple[RawTile, ...]:
        tiles, found = self.survey.tiles, self._folders
        absent = [tile.name for tile in tiles if _location(tile) not in found]
        if len(absent) == len(tiles):
            raise AcquisitionError(
                f"there is no tile folder such as {self.view}/{absent[0]} in {self.raw.url}; copy "
                "the tiles or correct input.view"
            )
        if absent:
            raise AcquisitionError(
                f"{len(absent)} of {len(tiles)} tiles have no folder in {self.view} (first: "
                f"{absent[0]}); copy them, or write 0 for them in {_CELLS}"
            )
        if self._other_folders:
            problems.append(
                f"{len(self._other_folders)} folders of {self.view} that do not belong to a tile "
                f"were ignored (first: {self._other_folders[0]})"
            )
        extra = sorted(set(found) - set(map(_location, tiles)))
        if extra:
            problems.append(
                f"{len(extra)} folders of {self.view} are not scanned according to {_CELLS} and "
                f"were left out (first: {found[extra[0]]})"
            )
        return tiles

    def raw_keys(self) -> list[str]:
        return [self.view, *self.metadata]

    def entries(self, tile: RawTile) -> Iterator[tuple[int, Entry]]:
        folder = self._folders.get(_location(tile))
        return iter(()) if folder is None else self._list(f"{self.view}/{folder}")

    def _list(self, folder: str) -> Iterator[tuple[int, Entry]]:
        for entry in self.raw.list(folder):
            within, _, name = entry.key.rpartition("/")
            found = plane_of(name) if within == folder else None
            if found is not None:
                yield found[0], entry
            else:
                self.note_passed_over(entry.key)

    def stacks(self, tile: RawTile) -> dict[int, Series | Blocks]:
        folder = f"{self.view}/{self._folders[_location(tile)]}"
        files: dict[int, dict[int, Entry]] = {}
        for channel, entry in self._list(folder):
            path = PurePosixPath(entry.key)
            plane = plane_of(path.name)[1]
            stack = files.setdefault(channel, {})
            if plane in stack:
                raise AcquisitionError(
                    f"{folder} contains plane {plane} of channel {channel} twice "
                    f"({PurePosixPath(stack[plane].key).name} and {path.name}); remove one of them"
                )
            stack[plane] = entry
        return {channel: Series(stack, _spans(stack)) for channel, stack in files.items()}

    def numbers(self) -> dict[str, int] | None:
        names = self.options.channels
        return None if names is None else {name: int(number) for name, number in names.items()}

    def channel_mark(self, number: int) -> str:
        return f"CHN{number:02d}"

    def disagreements(
        self, found: Sequence[int], shape: tuple[int, int], depth: int
    ) -> Iterator[str]:
        meta = self._metadata
        if meta.channels_stated not in (None, len(found)):
            names = ", ".join(map(self.channel_mark, found))
            yield (
                f"{_INI} states {meta.channels_stated} channels (Num Enabled Channels) but files "
                f"of {len(found)} channels were found ({names})"
            )
        if shape != meta.tile_pixels:
            yield (
                f"{_INI} states {meta.tile_pixels[0]} x {meta.tile_pixels[1]} pixels (y, x) but "
                f"the files have {shape[0]} x {shape[1]}; the files were used, and the pixel size "
                "is right only if they were cropped: otherwise set input.spacing_um"
            )
        if depth != meta.planes:
            yield (
                f"{_INI} states {meta.planes} planes (Num in stack) but the files have {depth}; "
                "the files were used"
            )


def _location(tile: RawTile) -> int:
    return int(tile.name.removeprefix("LOC"))


def _spans(files: dict[int, Entry]) -> dict[int, tuple[int, int]]:
    names = {plane: PurePosixPath(entry.key).name for plane, entry in files.items()}
    return {plane: _PLANE.fullmatch(name).span("plane") for plane, name in names.items()}
