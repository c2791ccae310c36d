"""Index an acquisition of any layout: check its planes, and describe them for later stages.

Only headers are read, except for one or a few planes in search of signal.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from terareg.acquisition.image_files import Kind, check_kind, read_layout, read_pages
from terareg.acquisition.layout import Blocks, Layout, RawTile, Series, Stack, Survey
from terareg.acquisition.model import MISSING_PLANES, Acquisition, Channel, Tile
from terareg.acquisition.plane_files import read_rows
from terareg.acquisition.raw import (
    PageFiles,
    PlaneRange,
    StackFiles,
    missing_of,
    most_common,
    name_pattern,
)
from terareg.core.errors import AcquisitionError, ConfigError, few
from terareg.core.frames import check_orientation
from terareg.core.parallel import map_items
from terareg.storage.part_names import split_part
from terareg.storage.store import Entry, Store

logger = logging.getLogger(__name__)
# headers read per stack if compression makes all file sizes different
_HEADERS_PER_STACK = 64
_SMALLEST = 8
#: more planes than any scan has: a number in a name that says more is none of a plane
_MOST_PLANES = 1 << 18
# planes per stack that are searched for signal, as fractions of its depth
_SIGNAL_DEPTHS = (0.5, 0.25, 0.75)


@dataclass(frozen=True)
class IndexSettings:
    """Options of :func:`index_acquisition`.

    Attributes
    ----------
    sample : str
        Name of the sample.
    orientation : str
        Code of the array axes z, y, x, see :mod:`terareg.core.frames`; never guessed.
    missing_planes : str
        "error", "blank" (zeros) or "interpolate" (between the nearest planes).
    workers : int
        Tiles that are listed at once.
    second_sides : mapping of str to str
        Names of channels that are the second side of another one, with its name: a tile may lack
        them if ``missing_sides`` is "other"; with "error" it may not.
    missing_sides : str
    """

    sample: str
    orientation: str
    missing_planes: str = "error"
    workers: int = 8
    second_sides: Mapping[str, str] = field(default_factory=dict)
    missing_sides: str = "error"

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "orientation",
            check_orientation(self.orientation, f"{self.sample}: input.orientation"),
        )
        if self.missing_planes not in MISSING_PLANES:
            raise ConfigError(
                f"{self.sample}: input.missing_planes is {self.missing_planes!r}; write one of "
                f"{', '.join(MISSING_PLANES)}"
            )


@dataclass(frozen=True)
class _Scanned:
    """Planes of one tile in one channel, numbered as in the layout, and kinds of files found."""

    stack: Stack
    planes: tuple[int, ...]
    kinds: dict[Kind, tuple[int, str]]
    pages: dict[int, int]

    def files(self, folder: str, first: int, depth: int) -> StackFiles:
        """Where the planes lie, counted from plane ``first``; names are relative to ``folder``."""
        stack = self.stack
        names = {n: str(PurePosixPath(e.key).relative_to(folder)) for n, e in stack.files.items()}
        missing = missing_of([plane - first for plane in self.planes], depth)
        if isinstance(stack, Blocks):
            page = stack.pages[0] if stack.pages else 0
            blocks = [PlaneRange(names[n], n - first, self.pages[n], page) for n in sorted(names)]
            return PageFiles(tuple(blocks), missing)
        places: dict[int, tuple[str, tuple[int, int]]] = {}
        for n, name in names.items():
            offset = len(name) - len(PurePosixPath(name).name)
            places[n - first] = (name, tuple(offset + place for place in stack.spans[n]))
        start = stack.start + first * stack.step
        return replace(name_pattern(places, start, stack.step), missing=missing)


def index_acquisition(layout: Layout, settings: IndexSettings) -> Acquisition:
    """Index an acquisition and check that it can be processed.

    Parameters
    ----------
    layout : Layout
    settings : IndexSettings

    Returns
    -------
    Acquisition
        Sizes and dtype come from the files. Disagreements of metadata, files and settings are in
        ``problems`` and are logged.

    Raises
    ------
    AcquisitionError
        Metadata, tiles, channels or planes that are absent, damaged or contradictory; or
        channels without any signal.
    """
    survey = layout.survey
    problems = list(survey.problems)
    tiles = layout.find_tiles(problems)
    stacks, found, channels = _find_stacks(layout, tiles, settings, problems)
    shape, dtype = _check_kinds(layout, stacks, channels)
    first, depth = _range_of(layout, stacks)
    problems += layout.disagreements(found, shape, depth)
    folders, planes = _locate(stacks, channels, first, depth)
    _check_missing(planes, (first, depth), settings, problems)
    acquisition = Acquisition(
        sample=settings.sample,
        layout=layout.kind,
        raw=layout.raw.url,
        rows=survey.rows,
        columns=survey.columns,
        tiles=_place(tiles, folders, shape, survey),
        channels=channels,
        tile_shape=(depth, *shape),
        dtype=dtype,
        spacing_um=survey.spacing_um,
        orientation=settings.orientation,
        overlap=survey.overlap,
        planes=planes,
        missing_planes=settings.missing_planes,
        problems=tuple(problems),
    )
    _check_signal(layout.raw, acquisition)
    for problem in problems:
        logger.warning("%s: %s", settings.sample, problem)
    return acquisition


def check_files(layout: Layout, settings: IndexSettings) -> list[str]:
    """Check that every tile has all its channels, sides and planes, from listings of its folders.

    Files are opened only where a file of this machine, or an array in a file of many, holds several
    planes; planes of such files on S3 are not counted here.

    Returns
    -------
    list of str
        Statements that are readable but contradictory or unusual, as in ``Acquisition.problems``.

    Raises
    ------
    AcquisitionError
        As :func:`index_acquisition`, as far as it follows from names of files.
    """
    problems = list(layout.survey.problems)
    tiles = layout.find_tiles(problems)
    stacks, found, channels = _find_stacks(layout, tiles, settings, problems, opened=False)
    counted = {
        tile: {number: stack for number, stack in own.items() if stack.planes}
        for tile, own in stacks.items()
    }
    if any(counted.values()):
        first, depth = _range_of(layout, counted)
        problems += layout.disagreements(found, layout.survey.tile_pixels, depth)
        _, planes = _locate(counted, channels, first, depth)
        _check_missing(planes, (first, depth), settings, problems)
    if counted != stacks:
        problems.append("planes of files of several planes on S3 are counted when the run begins")
    return problems


def _find_stacks(
    layout: Layout,
    tiles: Sequence[RawTile],
    settings: IndexSettings,
    problems: list[str],
    opened: bool = True,
) -> tuple[dict[str, dict[int, _Scanned]], list[int], tuple[Channel, ...]]:
    """Stacks by tile and channel number, all channel numbers found, and the channels to use."""
    stacks, found = _scan(layout, tiles, settings, opened)
    if over := layout.passed_over():
        problems.append(
            f"{len(over)} images in tile folders do not have names of planes and were ignored "
            f"(first: {over[0]})"
        )
    channels = _choose_channels(layout, found, settings)
    _check_stacks(layout, stacks, channels, settings, problems)
    return stacks, found, channels


def _range_of(layout: Layout, stacks: Mapping[str, Mapping[int, _Scanned]]) -> tuple[int, int]:
    """First plane, as numbered in the layout, and number of planes of the acquisition."""
    used = [stack for tile in stacks.values() for stack in tile.values()]
    first = min(stack.planes[0] for stack in used)
    last = max(stack.planes[-1] for stack in used)
    if first > 0 and last + 1 == layout.survey.planes:
        first = 0  # numbered from 0, but the first planes are missing everywhere
    depth = last - first + 1
    if depth > _MOST_PLANES:
        files = next(stack.stack.files for stack in used if stack.planes[-1] == last)
        raise AcquisitionError(
            f"{files[max(files)].key} is beyond {_MOST_PLANES} planes by the number in its name; "
            "rename or remove it"
        )
    return first, depth


def _locate(
    stacks: Mapping[str, Mapping[int, _Scanned]],
    channels: Sequence[Channel],
    first: int,
    depth: int,
) -> tuple[dict[str, str], dict[str, dict[str, StackFiles]]]:
    """Folder of every tile, and where the planes of its channels lie."""
    folders = {tile: _folder(own, channels) for tile, own in stacks.items() if own}
    planes = {
        tile: {
            c.name: own[c.index].files(folders[tile], first, depth)
            for c in channels
            if c.index in own
        }
        for tile, own in stacks.items()
    }
    return folders, planes


def _scan(
    layout: Layout, tiles: Sequence[RawTile], settings: IndexSettings, opened: bool
) -> tuple[dict[str, dict[int, _Scanned]], list[int]]:
    """Stacks of the wanted channels by tile and channel number, and all channel numbers found."""
    numbers = layout.numbers()
    wanted = None if numbers is None else set(numbers.values())

    def scan(tile: RawTile) -> tuple[dict[int, _Scanned], set[int]]:
        found = layout.stacks(tile)
        used = sorted(found) if wanted is None else sorted(wanted & set(found))
        scanned = {}
        for index in used:
            try:
                scanned[index] = _scan_stack(layout.raw, found[index], opened)
            except AcquisitionError as error:
                raise AcquisitionError(f"{layout.where(tile.name, index)}{error}") from error
        return scanned, set(found)

    scanned = list(map_items(scan, tiles, workers=settings.workers, what="indexed tiles"))
    stacks = {tile.name: found for tile, (found, _) in zip(tiles, scanned)}
    return stacks, sorted(set().union(*(indices for _, indices in scanned)))


def _scan_stack(raw: Store, stack: Stack, opened: bool) -> _Scanned:
    kinds: dict[Kind, tuple[int, str]] = {}

    def note(kind: Kind, key: str) -> None:
        count, example = kinds.get(kind, (0, key))
        kinds[kind] = (count + 1, example)

    if isinstance(stack, Series):
        for kind, key in _series_kinds(raw, stack.files) if opened else ():
            note(kind, key)
        return _Scanned(stack, tuple(sorted(stack.files)), kinds, {})
    planes: list[int] = []
    counts: dict[int, int] = {}
    in_parts = all(split_part(entry.key) for entry in stack.files.values())
    if raw.is_s3 and not (opened or in_parts):
        return _Scanned(stack, (), kinds, {})
    for number, entry in sorted(stack.files.items()):
        layouts = read_pages(raw, entry.key, stack.pages)
        if stack.pages is not None:
            first, last = stack.pages
            if last >= len(layouts):
                raise AcquisitionError(
                    f"{entry.key} has {len(layouts)} planes but planes {first} to {last} (counted "
                    "from 0) are needed; copy it again or correct z_first and z_last"
                )
            layouts = layouts[first : last + 1]
        for layout in layouts:
            note(layout.kind, entry.key)
        if planes and number <= planes[-1]:
            raise AcquisitionError(
                f"{entry.key} begins with plane {number} but the file before it ends with plane "
                f"{planes[-1]}; remove one of them or correct input.spacing_um (z)"
            )
        counts[number] = len(layouts)
        planes += range(number, number + len(layouts))
    return _Scanned(stack, tuple(planes), kinds, counts)


def _series_kinds(raw: Store, files: Mapping[int, Entry]):
    """Kinds of the files that are opened: all of unusual size, or a sample if compressed."""
    opened: set[int] = set()
    compressed = False

    def look(plane: int):
        nonlocal compressed
        if plane in opened:
            return
        opened.add(plane)
        layout = read_layout(raw, files[plane].key)
        compressed = compressed or layout.compressed
        yield layout.kind, files[plane].key

    planes = sorted(files)
    by_size = sorted(planes, key=lambda plane: (files[plane].size, plane))
    if files[by_size[0]].size == 0:
        yield from look(by_size[0])
    usual = most_common(Counter(entry.size for entry in files.values()))
    yield from look(next(plane for plane in planes if files[plane].size == usual))
    if compressed:
        for plane in by_size[:_SMALLEST]:
            yield from look(plane)
        step = max(1, len(planes) // (_HEADERS_PER_STACK - _SMALLEST))
        for plane in planes[::step]:
            yield from look(plane)
    else:
        for plane in planes:
            if files[plane].size != usual:
                yield from look(plane)


def _choose_channels(
    layout: Layout, found: Sequence[int], settings: IndexSettings
) -> tuple[Channel, ...]:
    numbers = layout.numbers()
    if numbers is None:
        if not found:
            raise AcquisitionError(
                f"{settings.sample}: the folders of {layout.raw.url} contain no plane such as "
                "CHN00_PLN0000.tif; check input.path and the file names"
            )
        return tuple(Channel(f"ch{index}", index) for index in found)
    channels = tuple(Channel(name, index) for name, index in numbers.items())
    index, count = Counter(numbers.values()).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{settings.sample}: input.channels has the index {index!r} {count} times; give each "
            "channel an index of its own"
        )
    for channel in channels:
        if channel.index not in found:
            there = ", ".join(map(layout.channel_mark, found)) or "nothing"
            raise AcquisitionError(
                f"{settings.sample}: channel {channel.name!r} "
                f"({layout.channel_mark(channel.index)}) has no file in any tile, where {there} "
                "was found; correct input.channels"
            )
    return channels


def _check_stacks(
    layout: Layout,
    stacks: Mapping[str, Mapping[int, _Scanned]],
    channels: Sequence[Channel],
    settings: IndexSettings,
    problems: list[str],
) -> None:
    lacking: dict[str, list[str]] = {}
    for tile, found in stacks.items():
        for channel in channels:
            if channel.index in found:
                continue
            first = settings.second_sides.get(channel.name)
            if first is not None and settings.missing_sides == "other":
                lacking.setdefault(channel.name, []).append(tile)
            elif first is not None:
                raise AcquisitionError(
                    f"{tile} has no plane of side {channel.name} "
                    f"({layout.channel_mark(channel.index)}) but other tiles have; copy them, or "
                    f"set input.missing_sides: other, which uses only {first} there"
                )
            else:
                raise AcquisitionError(
                    f"{tile} has no plane of channel {channel.name} "
                    f"({layout.channel_mark(channel.index)}) but other tiles have; copy them, "
                    f"{layout.leave_out}, or leave the channel out of input.channels"
                )

    for name, tiles in lacking.items():
        problems.append(
            f"{len(tiles)} of {len(stacks)} tiles have no side {name} ({few(tiles)}); only "
            f"{settings.second_sides[name]} was used there"
        )


def _check_kinds(
    layout: Layout, stacks: Mapping[str, Mapping[int, _Scanned]], channels: Sequence[Channel]
) -> Kind:
    counts: Counter = Counter()
    examples: dict = {}
    for tile, found in stacks.items():
        for channel in channels:
            if channel.index not in found:
                continue
            for kind, (count, key) in found[channel.index].kinds.items():
                counts[kind] += count
                examples.setdefault(kind, (key, layout.where(tile, channel.index)))
    usual = most_common(counts)
    for kind, (key, where) in examples.items():
        if kind != usual:
            check_kind(kind, f"{where}{key}", usual)
    return usual


def _folder(found: Mapping[int, _Scanned], channels: Sequence[Channel]) -> str:
    """The deepest folder that holds all files of a tile."""
    own = [found[c.index].stack for c in channels if c.index in found]
    files = [entry.key for stack in own for entry in stack.files.values()]
    common = os.path.commonpath({PurePosixPath(key).parent.as_posix() for key in files})
    return common or "."


def _check_missing(
    planes: Mapping[str, Mapping[str, StackFiles]],
    numbers: tuple[int, int],
    settings: IndexSettings,
    problems: list[str],
) -> None:
    """``numbers``: of the first plane in the layout, and of planes."""
    first, depth = numbers
    if first > 0:
        problems.append(f"planes are numbered from {first}; plane {first} was taken as plane 0")
    gaps: list[str] = []
    count = 0
    for tile, stacks in planes.items():
        for channel, files in stacks.items():
            if not files.missing:
                continue
            count += len(files.missing)
            lacking = files.missing[0]
            name = f"plane {lacking}" if isinstance(files, PageFiles) else files.name(lacking)
            gaps.append(
                f"{tile} channel {channel}: {len(files.missing)} of {depth} planes missing "
                f"(first: {name})"
            )
    if gaps and settings.missing_planes == "error":
        more = f", and {count} in all in {len(gaps)} stacks" if len(gaps) > 1 else ""
        raise AcquisitionError(
            f"{gaps[0]}{more}; copy them, or set input.missing_planes: interpolate"
        )
    if gaps:
        done = {"blank": "read as zeros", "interpolate": "interpolated"}[settings.missing_planes]
        problems.append(f"{count} planes are missing in {len(gaps)} stacks and {done}: {gaps[0]}")


def _place(
    tiles: Sequence[RawTile],
    folders: Mapping[str, str],
    shape: tuple[int, int],
    survey: Survey,
) -> tuple[Tile, ...]:
    """Nominal positions in voxels: of the stage, or of a regular grid with the overlap."""
    steps = [n * (1.0 - overlap) for n, overlap in zip(shape, survey.overlap)]
    dz, dy, dx = survey.spacing_um
    placed = []
    for tile in tiles:
        y, x = tile.row * steps[0], tile.column * steps[1]
        if tile.yx_um is not None:
            y, x = tile.yx_um[0] / dy, tile.yx_um[1] / dx
        origin = (tile.z_um / dz, y, x)
        placed.append(Tile(tile.name, tile.row, tile.column, folders[tile.name], origin))
    return tuple(placed)


def _check_signal(raw: Store, acquisition: Acquisition) -> None:
    """Raise if a channel has no plane that varies; the middle of the stacks is tried first."""
    depth, height, width = acquisition.tile_shape
    expected = ((height, width), acquisition.dtype)
    for channel in acquisition.channels:
        for fraction in _SIGNAL_DEPTHS:
            if any(
                _has_signal(raw, acquisition, tile, channel, int(fraction * depth), expected)
                for tile in acquisition.of_channel(channel.name).tiles
            ):
                break
        else:
            raise AcquisitionError(
                f"{acquisition.sample} channel {channel.name}: no tile has signal: all planes "
                f"examined ({len(_SIGNAL_DEPTHS)} in each of {len(acquisition.tiles)} tiles) are "
                "constant; check the files or leave the channel out of input.channels"
            )


def _has_signal(
    raw: Store,
    acquisition: Acquisition,
    tile: Tile,
    channel: Channel,
    plane: int,
    expected: Kind,
) -> bool:
    missing = acquisition.planes[tile.name][channel.name].missing
    present = (z for z in range(acquisition.tile_shape[0]) if z not in missing)
    nearest = min(present, key=lambda z: abs(z - plane))
    key, page = acquisition.plane_file(tile, channel.name, nearest)
    image, _ = read_rows(raw, key, expected, page=page)
    return bool(image.min() != image.max())
