"""An acquisition as every later stage sees it: tiles, channels, voxel size, planes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from terareg.acquisition.metadata import neighbour_pairs, scanned_cells
from terareg.acquisition.raw import StackFiles, stack_from_json
from terareg.core.errors import AcquisitionError, ConfigError, few
from terareg.storage.records import read_json_as

MISSING_PLANES = ("error", "blank", "interpolate")
_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Tile:
    """A stack of planes at one stage position.

    Attributes
    ----------
    name : str
        "LOC012".
    row, column : int
        Position in the grid.
    folder : str
        Key of the folder in the raw store to which the names of its files are relative.
    origin_vox : tuple of float
        Nominal stage position (z, y, x) in voxels; tile (0, 0) is at 0.
    """

    name: str
    row: int
    column: int
    folder: str
    origin_vox: tuple[float, float, float]


@dataclass(frozen=True)
class Channel:
    """A channel: the user's name for it, and its number in file names or in the list of all."""

    name: str
    index: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(str(self.name)):
            raise ConfigError(
                f"channel name {self.name!r} cannot be a folder name; use letters, digits, "
                "'.', '_' and '-', beginning with a letter or digit"
            )
        if isinstance(self.index, bool) or not isinstance(self.index, int) or self.index < 0:
            raise ConfigError(
                f"channel {self.name!r} has index {self.index!r}; give the number after CHN in "
                "its file names, 0 or more"
            )


@dataclass(frozen=True)
class Acquisition:
    """Everything later stages need to know about raw data, checked against the files.

    Attributes
    ----------
    sample : str
    layout : str
        "colm", "terastitcher" or "table".
    raw : str
        Address of the raw store, to which tile folders are relative.
    rows, columns : int
        Grid of tile positions.
    tiles : tuple of Tile
        Imaged tiles, row by row.
    channels : tuple of Channel
    tile_shape : tuple of int
        Planes, rows and columns of every tile, as found in the files.
    dtype : str
        "uint8" or "uint16".
    spacing_um : tuple of float
        Voxel size (z, y, x).
    orientation : str
        Code of the array axes, see :mod:`terareg.core.frames`.
    overlap : tuple of float
        Nominal overlap of neighbours (y, x) as a fraction of the tile.
    planes : dict of str to dict of str to StackFiles
        Files of the planes: ``planes[tile][channel]``; a second side may be absent.
    missing_planes : str
        What a missing plane reads as: "blank" (zeros) or "interpolate" (from the nearest planes
        above and below); with "error" no plane is missing.
    problems : tuple of str
        Disagreements of metadata, files and configuration.
    """

    sample: str
    layout: str
    raw: str
    rows: int
    columns: int
    tiles: tuple[Tile, ...]
    channels: tuple[Channel, ...]
    tile_shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float, float]
    orientation: str
    overlap: tuple[float, float]
    planes: dict[str, dict[str, StackFiles]]
    missing_planes: str = "error"
    problems: tuple[str, ...] = ()

    def tile(self, name: str) -> Tile:
        """The tile of that name, or :class:`AcquisitionError`."""
        for tile in self.tiles:
            if tile.name == name:
                return tile
        names = few([tile.name for tile in self.tiles])
        raise AcquisitionError(f"{self.sample}: there is no tile {name!r}; tiles are {names}")

    def channel(self, name: str) -> Channel:
        """The channel of that name, or :class:`AcquisitionError`."""
        for channel in self.channels:
            if channel.name == name:
                return channel
        raise AcquisitionError(
            f"{self.sample}: there is no channel {name!r}; channels are "
            f"{', '.join(c.name for c in self.channels)}"
        )

    def of_channel(self, name: str) -> Acquisition:
        """The same with those tiles alone that a channel has; a second side may lack some."""
        tiles = tuple(tile for tile in self.tiles if name in self.planes[tile.name])
        return self if len(tiles) == len(self.tiles) else replace(self, tiles=tiles)

    def plane_file(self, tile: Tile, channel: str, plane: int) -> tuple[str, int | None]:
        """Key of the file that holds a plane, and the page in it; None if the file has no pages."""
        name, page = self.planes[tile.name][channel].locate(plane)
        return PurePosixPath(tile.folder, name).as_posix(), page

    @property
    def nominal_step_vox(self) -> tuple[float, float]:
        """Stage step (y, x) between neighbours in voxels, not rounded."""
        return (
            self.tile_shape[1] * (1.0 - self.overlap[0]),
            self.tile_shape[2] * (1.0 - self.overlap[1]),
        )

    def scanned(self) -> tuple[tuple[bool, ...], ...]:
        """``scanned[row][column]``: whether the position holds a tile."""
        return scanned_cells(self.tiles, self.rows, self.columns)

    def pairs(self) -> list[tuple[Tile, Tile, str]]:
        """Neighbouring tiles in the order of :func:`~.metadata.neighbour_pairs`."""
        at = {(tile.row, tile.column): tile for tile in self.tiles}
        return [(at[a], at[b], direction) for a, b, direction in neighbour_pairs(self.scanned())]

    def to_json(self) -> dict:
        """Return a JSON-able dictionary, see :meth:`from_json`."""
        return {
            "version": _VERSION,
            "sample": self.sample,
            "layout": self.layout,
            "raw": self.raw,
            "rows": self.rows,
            "columns": self.columns,
            "tiles": [
                {
                    "name": tile.name,
                    "row": tile.row,
                    "column": tile.column,
                    "folder": tile.folder,
                    "origin_vox": list(tile.origin_vox),
                }
                for tile in self.tiles
            ],
            "channels": [{"name": c.name, "index": c.index} for c in self.channels],
            "tile_shape": list(self.tile_shape),
            "dtype": self.dtype,
            "spacing_um": list(self.spacing_um),
            "orientation": self.orientation,
            "overlap": list(self.overlap),
            "planes": {
                tile: {channel: files.to_json() for channel, files in stacks.items()}
                for tile, stacks in self.planes.items()
            },
            "missing_planes": self.missing_planes,
            "problems": list(self.problems),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Acquisition:
        """Inverse of :meth:`to_json`."""
        if data.get("version") != _VERSION:
            raise AcquisitionError(
                f"this acquisition file has version {data.get('version')!r}, not {_VERSION}; "
                "delete it and run index_acquisition again"
            )
        return cls(
            sample=data["sample"],
            layout=data["layout"],
            raw=data["raw"],
            rows=data["rows"],
            columns=data["columns"],
            tiles=tuple(
                Tile(t["name"], t["row"], t["column"], t["folder"], tuple(t["origin_vox"]))
                for t in data["tiles"]
            ),
            channels=tuple(Channel(c["name"], c["index"]) for c in data["channels"]),
            tile_shape=tuple(data["tile_shape"]),
            dtype=data["dtype"],
            spacing_um=tuple(data["spacing_um"]),
            orientation=data["orientation"],
            overlap=tuple(data["overlap"]),
            planes={
                tile: {channel: stack_from_json(files) for channel, files in stacks.items()}
                for tile, stacks in data["planes"].items()
            },
            missing_planes=data["missing_planes"],
            problems=tuple(data["problems"]),
        )


def load_acquisition(path: str | os.PathLike) -> Acquisition:
    """Read an ``acquisition.json``; an unreadable one is an error that names it."""
    what = ("an acquisition file", "index_acquisition")
    return read_json_as(path, Acquisition.from_json, what, AcquisitionError)
