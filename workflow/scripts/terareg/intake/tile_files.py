"""Tiles as image files: LaVision's names, Fiji's TileConfiguration, OME-TIFF, folders of planes."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from terareg.acquisition.image_files import estimate_pages, read_layout
from terareg.acquisition.tile_grid import find_grid
from terareg.core.errors import TeraregError
from terareg.intake.found import (
    PLANE,
    TIFF,
    Found,
    Look,
    channel_names,
    spacing_note,
    table_text,
)
from terareg.intake.ome import OmeImage
from terareg.stitching.tile_configuration import read_tile_configuration

_LAVISION = re.compile(
    r"(?P<head>.*)\[(?P<row>\d+) x (?P<column>\d+)\]_C(?P<channel>\d+)(?P<tail>.*?)"
    r"(?P<plane>\d*)(?P<end>\.ome\.tiff?)",
    re.IGNORECASE,
)
_CELL = re.compile(
    r"(?:row|r|y)[_-]?(?P<row>\d+).*?(?:column|col|c|x)[_-]?(?P<column>\d+)"
    r"|(?:column|col|x)[_-]?(?P<column2>\d+).*?(?:row|y)[_-]?(?P<row2>\d+)"
    r"|(?P<row3>\d+) ?x ?(?P<column3>\d+)",
    re.IGNORECASE,
)
_STAGE_GUESS = (
    "stage x and y are assumed to increase with the columns and rows of the images; if tiles come "
    "out mirrored or in the wrong order, reverse the sign"
)
_FIRST_CHANNEL = "the names; the first is compared between tiles (stitching.channel)"


@dataclass(frozen=True)
class Stack:
    """One tile in one channel.

    Attributes
    ----------
    path : str
        File, or pattern of the files of its planes.
    example : str
        Key of its first file.
    label : str
        What tells its channel from the others of the tile.
    place : hashable
        What channels of one tile have in common.
    ome : OmeImage or None
    pages : (first, last) or None
        Pages of a file of several channels.
    form : str
        Format of its metadata.
    """

    path: str
    example: str
    label: str = ""
    place: Any = None
    ome: OmeImage | None = None
    pages: tuple[int, int] | None = None
    form: str = "OME-TIFF"


# ---------------------------------------------------------------------- LaVision, Miltenyi
def lavision(look: Look) -> Found | None:
    """Tiles of an UltraMicroscope or Blaze, by the names of their files."""
    stacks: dict[tuple, list[str]] = {}
    for key in look.keys:
        match = _LAVISION.fullmatch(key)
        if match is not None:
            cell = int(match["row"]), int(match["column"])
            stacks.setdefault((cell, match["channel"]), []).append(key)
    if not stacks:
        return None
    files = sum(map(len, stacks.values()))
    example = next(iter(stacks.values()))[0]
    why = (
        f"{files} files are named [row x column]_C(channel) as LaVision and Miltenyi microscopes "
        f"name them, such as {example}",
    )
    firsts: dict[tuple[int, int], OmeImage | None] = {}
    for (cell, _), keys in stacks.items():
        if cell not in firsts:
            firsts[cell] = look.ome(keys[0])
    positions = _turned({c: ome.position_um for c, ome in firsts.items() if ome})
    positioned = len(positions) == len(firsts) > 1
    lines = []
    for (cell, channel), keys in sorted(stacks.items(), key=lambda item: (item[0][1], item[0][0])):
        line = [_pattern(keys), f"C{channel}", *cell]
        lines.append(line + ([*positions[cell]] if positioned else []))
    columns = ["path", "channel", "row", "column", *(["y_um", "x_um"] if positioned else [])]
    channels = channel_names(dict.fromkeys(f"C{channel}" for _, channel in stacks))
    ome = next((o for o in firsts.values() if o), None)
    source, notes, asked = _source(look, channels, ome, example)
    guesses = {}
    if positioned:
        notes["table"] = (
            "rows and columns from the names, positions from the stage offsets in the files"
        )
    elif len(firsts) > 1 and ome and ome.overlap:
        source["overlap"] = [ome.overlap, ome.overlap]
        notes["overlap"] = f"y, x, from {PurePosixPath(example).name}"
    elif len(firsts) > 1:
        source["overlap"] = None
        asked["overlap"] = (
            "overlap of neighbouring tiles as fractions [y, x], for example [0.1, 0.1]"
        )
    guesses["channels"] = _FIRST_CHANNEL
    return Found(
        "tiles of an UltraMicroscope or Blaze (LaVision, Miltenyi)",
        source, why, notes, guesses, asked, table_text(columns, lines),
    )  # fmt: skip


def _turned(
    places: Mapping[tuple[int, int], tuple[float, float, float] | None],
) -> dict[tuple[int, int], tuple[float, float]]:
    """Positions (y, x) of cells, with the signs that make them grow with rows and columns."""
    known = {cell: place[1:] for cell, place in places.items() if place is not None}
    if len(set(known.values())) < len(known):
        return {}
    signs = []
    for axis in (0, 1):
        steps = [
            (known[b][axis] - known[a][axis]) / (b[axis] - a[axis])
            for a in known
            for b in known
            if b[axis] > a[axis] and b[1 - axis] == a[1 - axis]
        ]
        signs.append(-1.0 if steps and median(steps) < 0 else 1.0)
    return {cell: (signs[0] * y, signs[1] * x) for cell, (y, x) in known.items()}


def _pattern(keys: Sequence[str]) -> str:
    """The file of a tile, or a pattern for the files of its planes."""
    if len(keys) == 1:
        return keys[0]
    folder, _, name = keys[0].rpartition("/")
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
    assert match is not None, "files of planes have a number"
    pattern = f"{glob.escape(match[1])}*{glob.escape(match[3])}"
    return f"{folder}/{pattern}" if folder else pattern


def _source(
    look: Look,
    channels: Mapping[str, str],
    ome: OmeImage | None,
    example: str,
    form: str = "OME-TIFF",
) -> tuple[dict, dict[str, str], dict[str, str]]:
    """Keys of input that all tables have, where they come from, and what is asked."""
    source: dict = {
        "kind": "table",
        "path": look.store.url,
        "table": None,
        "channels": dict(channels),
        "spacing_um": None,
    }
    spacing = ome.spacing_um if ome else (None, None, None)
    if all(spacing):
        source["spacing_um"] = list(spacing)
        return source, {"spacing_um": spacing_note(example, form)}, {}
    known = [f"{a} is {v:g}" for a, v in zip("zyx", spacing) if v]
    more = f"; {PurePosixPath(example).name} states that {', '.join(known)}" if known else ""
    return source, {}, {"spacing_um": look.asked_um(example, more)}


# ---------------------------------------------------------------------- any stacks
def find_stacks(look: Look) -> list[Stack]:
    """Stacks among the image files: files of several planes, or series of files of one plane."""
    found = []
    series: dict[tuple[str, str], list[str]] = {}
    for key in look.keys:
        folder, _, name = key.rpartition("/")
        if PLANE.fullmatch(name) or TIFF.fullmatch(name):
            stem = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
            series.setdefault((folder, f"{stem[1]}*{stem[3]}" if stem else name), []).append(key)
    for keys in series.values():
        # one of many planes is enough to look at
        if look.head(keys[0])[1]:
            found += [stack for key in keys for stack in _channels_of(look, key)]
        elif len(keys) > 1:
            found.append(Stack(_pattern(keys), keys[0], ome=look.ome(keys[0])))
    return found


def _channels_of(look: Look, key: str) -> list[Stack]:
    """The stacks of one file: one for each channel that it holds."""
    ome = look.ome(key)
    channels = ome.sizes.get("C", 1) if ome else 1
    depth = max(ome.sizes.get("Z", 1), ome.sizes.get("T", 1)) if ome else 1
    if channels == 1 or depth == 1:
        return [Stack(key, key, ome=ome)]
    names = ome.channels if ome and len(set(ome.channels)) == channels else range(channels)
    return [
        Stack(key, key, str(name), key, ome, (c * depth, (c + 1) * depth - 1))
        for c, name in enumerate(names)
    ]


def positioned_tiles(look: Look, stacks: Sequence[Stack]) -> Found | None:
    """Tiles whose stage positions differ."""
    known = [s for s in stacks if s.ome is not None and s.ome.position_um is not None]
    places = {s.ome.position_um[1:] for s in known if s.ome and s.ome.position_um}
    if len(known) < len(stacks) or len(places) < 2:
        return None
    placed = _labelled([replace(s, place=_place(s)) for s in known])
    labels = dict.fromkeys(s.label for s in placed)
    heights = {round(s.ome.position_um[0], 3) for s in placed if s.ome and s.ome.position_um}
    columns = ["path", "channel", "y_um", "x_um", *(["z_um"] if len(heights) > 1 else [])]
    columns += ["z_first", "z_last"] if placed[0].pages else []
    lines = []
    for stack in placed:
        assert stack.ome is not None and stack.ome.position_um is not None
        z, y, x = stack.ome.position_um
        line = [stack.path, stack.label, y, x, *([z] if len(heights) > 1 else [])]
        lines.append(line + list(stack.pages or ()))
    first = placed[0]
    source, notes, asked = _source(
        look, channel_names(labels), first.ome, first.example, first.form
    )
    why = (
        f"{len(placed)} stacks of {first.form} are at {len(places)} different stage positions, "
        f"such as {first.example}",
    )
    guesses = {"channels": _FIRST_CHANNEL, "table": _STAGE_GUESS}
    if not all(s.ome.unit_stated for s in placed if s.ome):
        guesses["table"] += "; the positions have no unit and are taken for micrometres"
    return Found(
        f"{first.form} tiles with stage positions", source, why, notes, guesses, asked,
        table_text(columns, lines),
    )  # fmt: skip


def _place(stack: Stack) -> object:
    assert stack.ome is not None and stack.ome.position_um is not None
    return tuple(round(v, 2) for v in stack.ome.position_um[1:])


def _labelled(stacks: Sequence[Stack]) -> list[Stack]:
    """Stacks with a label of their channel: what differs in the names of files at one place."""
    if stacks[0].label:
        return list(stacks)
    together: dict[object, list[Stack]] = {}
    for stack in stacks:
        together.setdefault(stack.place, []).append(stack)
    found = []
    for group in together.values():
        words = [re.findall(r"[^\W_]+", PurePosixPath(s.example).as_posix()) for s in group]
        for stack, own in zip(group, words):
            others = [w for w in words if w is not own]
            differ = [w for k, w in enumerate(own) if any(o[k : k + 1] != [w] for o in others)]
            label = "_".join(differ) if others else ""
            name = stack.ome.channels[0] if stack.ome and stack.ome.channels else "signal"
            found.append(replace(stack, label=label or name))
    labels = {s.label for s in found}
    # with one stack at each place, names of channels that differ are no channels
    if len(together) == len(found) and len(labels) > 1:
        return [replace(s, label="signal") for s in found]
    return found


def tiles_by_names(look: Look, stacks: Sequence[Stack]) -> Found | None:
    """Stacks whose folders or files are named by row and column."""
    cells: dict[str, tuple[int, int]] = {}
    for stack in stacks:
        match = _CELL.search(stack.path.partition("#")[0])
        if match is None:
            return None
        row = next(match[g] for g in ("row", "row2", "row3") if match[g])
        column = next(match[g] for g in ("column", "column2", "column3") if match[g])
        cells[stack.path] = int(row), int(column)
    if len(set(cells.values())) < 2 or any(s.pages for s in stacks):
        return None
    placed = _labelled([replace(s, place=cells[s.path]) for s in stacks])
    first = placed[0]
    labels = dict.fromkeys(s.label for s in placed)
    source, notes, asked = _source(
        look, channel_names(labels), first.ome, first.example, first.form
    )
    source["overlap"] = None
    asked["overlap"] = "overlap of neighbouring tiles as fractions [y, x], for example [0.1, 0.1]"
    lines = [[s.path, s.label, *cells[s.path]] for s in placed]
    return Found(
        "tiles named by row and column", source,
        (f"{len(placed)} stacks have names with two numbers, such as {first.path}",),
        notes,
        {
            "channels": _FIRST_CHANNEL,
            "table": "rows and columns are read from the names; swap them if that is wrong",
        },
        asked, table_text(["path", "channel", "row", "column"], lines),
    )  # fmt: skip


def tile_configuration(look: Look, stacks: Sequence[Stack]) -> Found | None:
    """Tiles that Fiji's TileConfiguration.txt lists, in pixels."""
    names = [k for k in look.top() if re.fullmatch(r"TileConfiguration.*\.txt", k)]
    if not names or look.store.is_s3:
        return None
    # positions of the stage, not those that Fiji has solved
    name = min(names, key=lambda n: ("registered" in n, n))
    listed = read_tile_configuration(look.store.path(name)).tiles
    # a line names a file, of one plane or many, or the folder of a stack
    images = [key for key in look.keys if PLANE.fullmatch(key.rpartition("/")[2])]
    by_name = {PurePosixPath(k).name: Stack(k, k, ome=look.ome(k)) for k in images if TIFF.match(k)}
    by_name |= {PurePosixPath(s.example).parent.name: s for s in stacks if "/" in s.example}
    chosen = [(by_name.get(PurePosixPath(t.name.replace("\\", "/")).name), t) for t in listed]
    absent = [tile.name for stack, tile in chosen if stack is None]
    if absent:
        return None
    first = chosen[0][0]
    assert first is not None
    source, notes, asked = _source(look, {"signal": "signal"}, first.ome, first.example)
    spacing = source["spacing_um"]
    why = (f"{name} lists {len(listed)} tiles that exist here, such as {listed[0].name}",)
    guesses = {}
    if spacing is None:
        # without a voxel size the steps of the grid are known in pixels only
        cells, source["overlap"] = _pixel_grid(look, chosen)
        columns, lines = (
            ["path", "row", "column"],
            [[s.path, *cells[t.name]] for s, t in chosen if s],
        )
        guesses["overlap"] = f"y, x, from the steps between tiles in {name}"
    else:
        columns = ["path", "y_um", "x_um"]
        lines = [
            [s.path, t.origin_vox[1] * spacing[1], t.origin_vox[2] * spacing[2]]
            for s, t in chosen
            if s
        ]
        notes["table"] = f"positions from {name}, times the voxel size"
    return Found(
        "tiles of the stitching plugin of Fiji", source, why, notes, guesses, asked,
        table_text(columns, lines),
    )  # fmt: skip


def _pixel_grid(look: Look, chosen) -> tuple[dict[str, tuple[int, int]], list[float]]:
    """Cells of tiles at positions in pixels, and the overlap (y, x) as fractions."""
    grid = find_grid({tile.name: tile.origin_vox[1:] for _, tile in chosen})
    shape = estimate_pages(look.store, chosen[0][0].example)[0].shape
    steps = (grid.down[0], grid.right[1])
    overlap = [round(1 - s / n, 4) if s else 0.1 for s, n in zip(steps, shape)]
    return dict(grid.cells), [min(max(v, 0.01), 0.9) for v in overlap]


def single_stack(look: Look, stacks: Sequence[Stack]) -> Found | None:
    """One series of planes: a single tile, which is not stitched."""
    if len(stacks) != 1 or "*" not in stacks[0].path:
        return None
    (stack,) = stacks
    try:
        read_layout(look.store, stack.example)
    except TeraregError:
        return None
    source, notes, asked = _source(look, {"signal": "signal"}, stack.ome, stack.example)
    return Found(
        "one stack of planes", source,
        (f"the files are one series of planes, such as {stack.example}",),
        notes, {}, asked, table_text(["path", "row", "column"], [[stack.path, 0, 0]]),
    )  # fmt: skip
