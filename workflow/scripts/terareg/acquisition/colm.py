"""Index a COLM acquisition: find its tiles and planes, and check them against the metadata.

Layout (:mod:`terareg.acquisition.raw` has the file names)::

    Experiment.ini
    Scanned Cells.txt
    VW0/LOC000/CHN00_PLN0000.tif      LOC = column + row * columns

Nothing but headers is opened, except for one plane or few in search of signal.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from terareg.acquisition.metadata import (
    ColmMetadata,
    check_spacing,
    load_colm_metadata,
    tile_names,
)
from terareg.acquisition.model import MISSING_PLANES, Acquisition, Channel, Tile
from terareg.acquisition.plane_files import check_kind, read_layout, read_rows
from terareg.acquisition.raw import (
    PlaneFiles,
    folder_number,
    group_planes,
    name_pattern,
)
from terareg.errors import AcquisitionError, ConfigError
from terareg.frames import check_orientation
from terareg.parallel import map_items
from terareg.storage.store import Entry, Store, check_key

logger = logging.getLogger(__name__)
_INI = "Experiment.ini"
_CELLS = "Scanned Cells.txt"
# headers read per stack where compression makes every file size different
_HEADERS_PER_STACK = 64
_SMALLEST = 8
# planes per stack that are searched for signal, as fractions of its depth
_SIGNAL_DEPTHS = (0.5, 0.25, 0.75)


@dataclass(frozen=True)
class IndexSettings:
    """Options of :func:`index_colm`; the names are those of ``input`` in the configuration.

    Attributes
    ----------
    sample : str
        Name of the sample.
    orientation : str
        Code of the array axes z, y, x, see :mod:`terareg.frames`; never guessed.
    channels : mapping of str to int, or sequence of Channel or {"name", "index"}, optional
        Channels to use, name to number in the file names; all that are found, as "ch0", "ch1",
        ..., by default.
    missing_planes : str
        "error", "blank" (zeros) or "interpolate" (between the nearest planes).
    spacing_um : sequence of 3 float, optional
        Voxel size (z, y, x) in micrometres that replaces the stated one.
    overlap : sequence of 2 float, optional
        Fractions (y, x) of the tile that replace the stated ones.
    view : str
        Folder of the tile folders.
    workers : int
        Folders that are listed at once.
    """

    sample: str
    orientation: str
    channels: Mapping[str, int] | Sequence[Channel | Mapping] | None = None
    missing_planes: str = "error"
    spacing_um: Sequence[float] | None = None
    overlap: Sequence[float] | None = None
    view: str = "VW0"
    workers: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "orientation",
            check_orientation(self.orientation, f"{self.sample}: input.orientation"),
        )
        check_key(self.view)
        if self.missing_planes not in MISSING_PLANES:
            raise ConfigError(
                f"{self.sample}: input.missing_planes is {self.missing_planes!r}; write one of "
                f"{', '.join(MISSING_PLANES)}"
            )
        if self.spacing_um is not None:
            spacing = check_spacing(self.spacing_um, f"{self.sample}: input.spacing_um")
            object.__setattr__(self, "spacing_um", spacing)
        if self.overlap is not None:
            if len(self.overlap) != 2:
                raise ConfigError(
                    f"{self.sample}: input.overlap is {self.overlap!r}; give two fractions (y, x)"
                )
            object.__setattr__(self, "overlap", tuple(float(v) for v in self.overlap))
        if self.channels is not None:
            object.__setattr__(self, "channels", self._parse_channels())

    def _parse_channels(self) -> tuple[Channel, ...]:
        given = self.channels
        if isinstance(given, Mapping):
            given = [{"name": name, "index": index} for name, index in given.items()]
        channels = tuple(
            c if isinstance(c, Channel) else Channel(c["name"], c["index"]) for c in given
        )
        if not channels:
            raise ConfigError(
                f"{self.sample}: input.channels is empty; name a channel, or leave the key out to "
                "use all that are found"
            )
        for what, values in (
            ("name", [c.name for c in channels]),
            ("index", [c.index for c in channels]),
        ):
            value, count = Counter(values).most_common(1)[0]
            if count > 1:
                raise ConfigError(
                    f"{self.sample}: input.channels has the {what} {value!r} {count} times; "
                    "give each channel its own"
                )
        return channels


@dataclass(frozen=True)
class _Stack:
    """Files of one tile in one channel: plane numbers as in the names, and layouts met."""

    names: dict[int, str]
    layouts: dict[tuple[tuple[int, int], str], tuple[int, str]]

    @property
    def first(self) -> int:
        return min(self.names)

    @property
    def last(self) -> int:
        return max(self.names)


def index_colm(raw: Store, settings: IndexSettings) -> Acquisition:
    """Index a COLM acquisition and check that it can be processed.

    Parameters
    ----------
    raw : Store
        Folder or S3 prefix that holds ``Experiment.ini``, ``Scanned Cells.txt`` and the view.
    settings : IndexSettings

    Returns
    -------
    Acquisition
        Sizes and dtype come from the files. What metadata, files and settings disagree on is
        in ``problems`` and logged.

    Raises
    ------
    AcquisitionError
        Metadata, tiles, channels or planes that are absent, damaged or contradictory; or
        channels without any signal.
    """
    meta = load_colm_metadata(raw, settings.spacing_um, settings.overlap)
    problems = list(meta.problems)
    folders = _find_folders(raw, settings.view, meta, problems)
    stacks, found = _scan(raw, folders, settings)
    channels = _choose_channels(found, settings)
    if meta.channels_stated not in (None, len(found)):
        problems.append(
            f"{_INI} says {meta.channels_stated} channels (Num Enabled Channels) but files of "
            f"{len(found)} were found ({', '.join(f'CHN{index:02d}' for index in found)})"
        )
    _check_stacks(stacks, channels)
    shape, dtype = _check_layouts(stacks, channels, meta, problems)
    planes, depth = _number_planes(stacks, channels, settings, meta, problems)
    acquisition = Acquisition(
        sample=settings.sample,
        layout="colm",
        raw=raw.url,
        rows=meta.rows,
        columns=meta.columns,
        tiles=_tiles(meta, folders, shape),
        channels=channels,
        tile_shape=(depth, *shape),
        dtype=dtype,
        spacing_um=meta.spacing_um,
        orientation=settings.orientation,
        overlap=meta.overlap,
        planes=planes,
        missing_planes=settings.missing_planes,
        problems=tuple(problems),
    )
    _check_signal(raw, acquisition)
    for problem in problems:
        logger.warning("%s: %s", settings.sample, problem)
    return acquisition


def _find_folders(raw: Store, view: str, meta: ColmMetadata, problems: list[str]) -> dict[str, str]:
    """Folder of each tile, by tile name in grid order."""
    found: dict[int, str] = {}
    for name in raw.folders(view):
        number = folder_number(name)
        if number is None:
            continue
        if number in found:
            raise AcquisitionError(
                f"{view} has two folders of location {number} ({found[number]} and {name}); "
                "remove one of them"
            )
        found[number] = name
    names = {int(name[3:]): name for name in tile_names(meta)}
    absent = [name for number, name in names.items() if number not in found]
    if len(absent) == len(names):
        raise AcquisitionError(
            f"there is no tile folder such as {view}/{absent[0]} in {raw.url}; copy the tiles or "
            "correct input.view"
        )
    if absent:
        raise AcquisitionError(
            f"{len(absent)} of {len(names)} tiles have no folder in {view} (first: {absent[0]}); "
            f"copy them, or write 0 for them in {_CELLS}"
        )
    extra = sorted(set(found) - set(names))
    if extra:
        problems.append(
            f"{len(extra)} folders of {view} are not scanned according to {_CELLS} and were left "
            f"out (first: {found[extra[0]]})"
        )
    return {name: f"{view}/{found[number]}" for number, name in names.items()}


def _scan(
    raw: Store, folders: Mapping[str, str], settings: IndexSettings
) -> tuple[dict[str, dict[int, _Stack]], list[int]]:
    """Stacks of the wanted channels by tile and channel number, and all channel numbers found."""
    wanted = None if settings.channels is None else {c.index for c in settings.channels}

    def scan(folder: str) -> tuple[dict[int, _Stack], set[int]]:
        groups = group_planes(raw.list(folder), folder)
        used = sorted(groups) if wanted is None else sorted(wanted & set(groups))
        return {index: _scan_stack(raw, groups[index]) for index in used}, set(groups)

    scanned = list(
        map_items(scan, folders.values(), workers=settings.workers, what="indexed tiles")
    )
    stacks = {tile: found for tile, (found, _) in zip(folders, scanned)}
    return stacks, sorted(set().union(*(indices for _, indices in scanned)))


def _scan_stack(raw: Store, files: Mapping[int, Entry]) -> _Stack:
    layouts: dict[tuple[tuple[int, int], str], tuple[int, str]] = {}
    opened: set[int] = set()
    compressed = False

    def look(plane: int) -> None:
        nonlocal compressed
        if plane in opened:
            return
        opened.add(plane)
        layout = read_layout(raw, files[plane].key)
        compressed = compressed or layout.compressed
        count, example = layouts.get(layout.kind, (0, files[plane].key))
        layouts[layout.kind] = (count + 1, example)

    planes = sorted(files)
    by_size = sorted(planes, key=lambda plane: (files[plane].size, plane))
    if files[by_size[0]].size == 0:
        look(by_size[0])
    usual = _most_common(Counter(entry.size for entry in files.values()))
    look(next(plane for plane in planes if files[plane].size == usual))
    if compressed:
        for plane in by_size[:_SMALLEST]:
            look(plane)
        step = max(1, len(planes) // (_HEADERS_PER_STACK - _SMALLEST))
        for plane in planes[::step]:
            look(plane)
    else:
        for plane in planes:
            if files[plane].size != usual:
                look(plane)
    names = {plane: PurePosixPath(files[plane].key).name for plane in planes}
    return _Stack(names, layouts)


def _most_common(counts: Counter):
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def _choose_channels(found: Sequence[int], settings: IndexSettings) -> tuple[Channel, ...]:
    if settings.channels is None:
        if not found:
            raise AcquisitionError(
                f"{settings.sample}: the folders of {settings.view} hold no plane such as "
                "CHN00_PLN0000.tif; check input.path and the file names"
            )
        return tuple(Channel(f"ch{index}", index) for index in found)
    for channel in settings.channels:
        if channel.index not in found:
            raise AcquisitionError(
                f"{settings.sample}: channel {channel.name!r} (index {channel.index}) has no file "
                f"CHN{channel.index:02d}_PLN* in any tile, only "
                f"{', '.join(map(str, found)) or 'none'} are there; correct input.channels"
            )
    return settings.channels


def _check_stacks(stacks: Mapping[str, Mapping[int, _Stack]], channels: Sequence[Channel]) -> None:
    for tile, found in stacks.items():
        for channel in channels:
            if channel.index not in found:
                raise AcquisitionError(
                    f"{tile} has no plane of channel {channel.name} (CHN{channel.index:02d}) but "
                    f"other tiles have; copy them, write 0 for the tile in {_CELLS}, or leave the "
                    "channel out of input.channels"
                )


def _check_layouts(
    stacks: Mapping[str, Mapping[int, _Stack]],
    channels: Sequence[Channel],
    meta: ColmMetadata,
    problems: list[str],
) -> tuple[tuple[int, int], str]:
    counts: Counter = Counter()
    examples: dict = {}
    for tile in stacks.values():
        for channel in channels:
            for kind, (count, example) in tile[channel.index].layouts.items():
                counts[kind] += count
                examples.setdefault(kind, example)
    usual = _most_common(counts)
    for kind, example in examples.items():
        if kind != usual:
            check_kind(kind, example, usual)
    if usual[0] != meta.tile_pixels:
        problems.append(
            f"{_INI} says {meta.tile_pixels[0]} x {meta.tile_pixels[1]} pixels (y, x) but the "
            f"files have {usual[0][0]} x {usual[0][1]}; the files were believed, and the pixel "
            "size is right only if they were cropped: otherwise set input.spacing_um"
        )
    return usual


def _number_planes(
    stacks: Mapping[str, Mapping[int, _Stack]],
    channels: Sequence[Channel],
    settings: IndexSettings,
    meta: ColmMetadata,
    problems: list[str],
) -> tuple[dict[str, dict[str, PlaneFiles]], int]:
    """File names of all stacks, and the number of planes that the files amount to."""
    used = [tile[channel.index] for tile in stacks.values() for channel in channels]
    first, last = min(s.first for s in used), max(s.last for s in used)
    if first > 0 and last + 1 == meta.planes:
        first = 0  # numbered from 0, but the first planes are missing everywhere
    depth = last - first + 1
    if first > 0:
        problems.append(f"planes are numbered from {first}; plane {first} was taken as plane 0")
    if depth != meta.planes:
        problems.append(
            f"{_INI} says {meta.planes} planes (Num in stack) but the files have {depth}; the "
            "files were believed"
        )
    planes: dict[str, dict[str, PlaneFiles]] = {}
    gaps: list[str] = []
    count = 0
    for tile, found in stacks.items():
        planes[tile] = {}
        for channel in channels:
            names = found[channel.index].names
            missing = tuple(z for z in range(depth) if z + first not in names)
            files = name_pattern(names, first)
            planes[tile][channel.name] = replace(files, missing=missing)
            if missing:
                count += len(missing)
                gaps.append(
                    f"{tile} channel {channel.name}: {len(missing)} of {depth} planes missing "
                    f"(first: {files.name(missing[0])})"
                )
    if gaps and settings.missing_planes == "error":
        more = f", and {count} in all in {len(gaps)} stacks" if len(gaps) > 1 else ""
        raise AcquisitionError(
            f"{gaps[0]}{more}; copy them, or set input.missing_planes: interpolate"
        )
    if gaps:
        done = {"blank": "read as zeros", "interpolate": "interpolated"}[settings.missing_planes]
        problems.append(f"{count} planes are missing in {len(gaps)} stacks and {done}: {gaps[0]}")
    return planes, depth


def _tiles(
    meta: ColmMetadata, folders: Mapping[str, str], shape: tuple[int, int]
) -> tuple[Tile, ...]:
    steps = [n * (1.0 - overlap) for n, overlap in zip(shape, meta.overlap)]
    tiles = []
    for name, folder in folders.items():
        row, column = divmod(int(name[3:]), meta.columns)
        tiles.append(Tile(name, row, column, folder, (0.0, row * steps[0], column * steps[1])))
    return tuple(tiles)


def _check_signal(raw: Store, acquisition: Acquisition) -> None:
    """Find one plane per channel that is not constant; the middle of the stacks comes first."""
    depth, *shape = acquisition.tile_shape
    expected = (tuple(shape), acquisition.dtype)
    for channel in acquisition.channels:
        for fraction in _SIGNAL_DEPTHS:
            if any(
                _has_signal(raw, acquisition, tile, channel, int(fraction * depth), expected)
                for tile in acquisition.tiles
            ):
                break
        else:
            raise AcquisitionError(
                f"{acquisition.sample} channel {channel.name}: no tile has signal, every plane "
                f"looked at ({len(_SIGNAL_DEPTHS)} in each of {len(acquisition.tiles)} tiles) is "
                "constant; check the files or leave the channel out of input.channels"
            )


def _has_signal(
    raw: Store,
    acquisition: Acquisition,
    tile: Tile,
    channel: Channel,
    plane: int,
    expected: tuple[tuple[int, int], str],
) -> bool:
    files = acquisition.planes[tile.name][channel.name]
    present = (z for z in range(acquisition.tile_shape[0]) if z not in files.missing)
    nearest = min(present, key=lambda z: abs(z - plane))
    image, _ = read_rows(raw, f"{tile.folder}/{files.name(nearest)}", expected)
    return bool(image.min() != image.max())
