"""Tiles in the microscopes' own files: Imaris, Zeiss CZI and Leica LIF."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import defusedxml.ElementTree

from terareg.core.errors import AcquisitionError, few
from terareg.intake.found import Found, Look, channel_names, table_text
from terareg.intake.ome import OmeImage
from terareg.intake.tile_files import Stack, positioned_tiles, tiles_by_names
from terareg.storage.foreign import boundary
from terareg.storage.part_arrays import missing_package
from terareg.storage.part_names import join_part
from terareg.volumes.imaris import ImarisImage, part_of, read_imaris
from terareg.volumes.ome_metadata import UM_PER

if TYPE_CHECKING:
    from terareg.storage import czi

_REMEDY = "check that the file is complete"
_UM_PER_M = 1e6
_STAGE = ("X", "Y", "Z")


def part_files(look: Look, only: str | None = None) -> Found | None:
    """Tiles in files of Imaris, Zeiss or Leica directly in the folder.

    Parameters
    ----------
    look : Look
    only : str, optional
        Name of the only file to look at.
    """
    names = look.top() if only is None else [only]
    for ending, form, reader in _FORMS:
        own = [name for name in names if name.lower().endswith(ending)]
        if not own:
            continue
        stacks: list[Stack] = []
        for name in own:
            with boundary(look.store.address(name), AcquisitionError, _REMEDY, form):
                try:
                    stacks += reader(look, name)
                except ModuleNotFoundError as error:
                    raise missing_package(error) from error
        if not stacks:
            raise AcquisitionError(
                f"{look.store.address(own[0])} contains no stack of several planes; give a file "
                "with one"
            )
        kept = _together(stacks)
        found = _found(look, kept, form)
        rest = [stack for stack in stacks if stack not in kept]
        return replace(found, guesses={**found.guesses, **_told(kept, rest, form)})
    return None


def _together(stacks: Sequence[Stack]) -> list[Stack]:
    """Those of one acquisition: with the most frequent size of planes, of one scan of tiles.

    Overviews, previews and other scans in the same file are left out.
    """
    counts = Counter((_size(stack), stack.place[:-1]) for stack in stacks)
    size = max(counts, key=lambda each: (counts[each], math.prod(each[0])))[0]
    same = [stack for stack in stacks if _size(stack) == size]
    tiles: dict[tuple, set] = {}
    for stack in same:
        tiles.setdefault(stack.place[:-1], set()).add(stack.place)
    # a scan of many tiles is one image of a file; single tiles are an image or a file each
    largest = max(tiles, key=lambda each: len(tiles[each]))
    if len(tiles[largest]) == 1:
        return same
    return [stack for stack in same if stack.place[:-1] == largest]


def _told(kept: Sequence[Stack], rest: Sequence[Stack], form: str) -> dict[str, str]:
    """What was decided without being told by the files."""
    words = []
    if rest:
        tiles = dict.fromkeys(f"{s.path} ({_size(s)[0]} x {_size(s)[1]})" for s in rest)
        words.append(
            f"{len(rest)} stacks of {form} are left out because they have another size or belong "
            f"to another scan ({few(list(tiles))}); list them if they belong to the sample"
        )
    scenes = {stack.place[-1][1] for stack in kept if form == "CZI"}
    if len(scenes) > 1:
        words.append(
            f"{len(scenes)} scenes are taken for parts of one sample; remove the lines of scenes "
            "that are not"
        )
    return {"path": "; ".join(words)} if words else {}


def _size(stack: Stack) -> tuple[int, int]:
    sizes = stack.ome.sizes if stack.ome else {}
    return sizes.get("Y", 0), sizes.get("X", 0)


def _found(look: Look, stacks: list[Stack], form: str) -> Found:
    places = {s.ome.position_um for s in stacks if s.ome and s.ome.position_um}
    if len(places) > 1:
        found = positioned_tiles(look, stacks)
        if found is not None:
            return found
    tiles = {s.place for s in stacks}
    if len(tiles) > 1:
        found = tiles_by_names(look, stacks)
        if found is not None:
            return found
        raise AcquisitionError(
            f"{look.store.url} contains {len(tiles)} stacks of {form} whose files state no "
            f"positions (first: {stacks[0].path}); list them in a table (input.kind: table) with "
            "row and column, or name the files by row and column"
        )
    return _one_tile(look, stacks, form)


def _one_tile(look: Look, stacks: Sequence[Stack], form: str) -> Found:
    labels = dict.fromkeys(s.label for s in stacks)
    ome = stacks[0].ome
    assert ome is not None, "every reader of these formats describes its stacks"
    source: dict[str, Any] = {
        "kind": "table", "path": look.store.url, "table": None,
        "channels": channel_names(labels), "spacing_um": None,
    }  # fmt: skip
    notes, asked = {}, {}
    if all(ome.spacing_um):
        source["spacing_um"] = list(ome.spacing_um)
        notes["spacing_um"] = f"z, y, x, from {stacks[0].example}"
    else:
        asked["spacing_um"] = "voxel size [z, y, x] in micrometres, which the file does not state"
    lines = [[s.path, s.label, 0, 0] for s in stacks]
    return Found(
        f"one stack of {form}", source, (f"{stacks[0].example} is a file of {form}",),
        notes, {}, asked, table_text(["path", "channel", "row", "column"], lines),
    )  # fmt: skip


# ---------------------------------------------------------------------- Imaris
def _imaris(look: Look, name: str) -> Iterator[Stack]:
    image = read_imaris(look.store, name)
    described = imaris_as_ome(image, name)
    names = [label or f"ch{k}" for k, label in enumerate(image.channels)]
    if len(set(names)) < len(names):
        names = [f"{label}_{k}" for k, label in enumerate(names)]
    for channel, label in enumerate(names):
        path = join_part(name, part_of(0, channel))
        yield Stack(path, name, label, (name,), described, form="Imaris")


def imaris_as_ome(image: ImarisImage, name: str) -> OmeImage:
    """What a file of Imaris says, as an image of OME-XML."""
    factor = UM_PER.get(image.unit.lower()) if image.unit else 1.0
    sizes = dict(zip("ZYX", image.shapes[0]))
    if factor is None or image.spacing is None or image.corner is None:
        return OmeImage(name, sizes, channels=image.channels)
    z, y, x = (v * factor for v in image.spacing)
    first = [v * factor for v in image.corner]
    return OmeImage(
        name, sizes, (z, y, x), (first[0], first[1], first[2]), image.channels,
        unit_stated=bool(image.unit),
    )  # fmt: skip


# ---------------------------------------------------------------------- Zeiss
def _zeiss(look: Look, name: str) -> Iterator[Stack]:
    from terareg.storage import czi

    index = czi.read_index(look.store, name)
    root = _xml(index.metadata)
    spacing = _zeiss_spacing(root)
    names = [c.get("Name", "") for c in root.iterfind(".//Dimensions/Channels/Channel")]
    views = [_place_of(view) for view in root.iterfind(".//Views/View")]
    left = {a: {dict(k).get(a) for k in index.stacks} for a in "TRHB"}
    several = [a for a, values in left.items() if len(values) > 1]
    if several:
        raise ValueError(
            f"it has {len(left[several[0]])} positions along {several[0]}; export one of them"
        )
    sides = len({dict(k).get("I", 0) for k in index.stacks}) > 1
    for indices, stack in index.stacks.items():
        at = dict(indices)
        channel = at.get("C", 0)
        label = names[channel] if channel < len(names) and all(names) else f"ch{channel}"
        label += f"_side{at['I']}" if sides else ""
        place = _zeiss_place(stack, spacing, views, at)
        sizes = {"Y": stack.shape[0], "X": stack.shape[1], "Z": len(stack.planes)}
        ome = OmeImage(name, sizes, spacing, place)
        path = join_part(name, czi.part_of(indices))
        # all files and scenes together are one scan
        tile = ("", (name, at.get("S"), at.get("M"), at.get("V")))
        yield Stack(path, name, label, tile, ome, form="CZI")


def _zeiss_spacing(root: Element) -> tuple[float | None, float | None, float | None]:
    found: list[float | None] = []
    for axis in "ZYX":
        text = root.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value")
        value = _finite(text)
        # without a step along z, ZEN writes none or 0
        found.append(_rounded(value and value * _UM_PER_M))
    return found[0], found[1], found[2]


def _rounded(step: float | None) -> float | None:
    """A voxel size; None if there is none that can be."""
    if not step or not math.isfinite(step) or step < 0:
        return None
    return float(f"{step:.9g}")


def _zeiss_place(
    stack: czi.CziStack,
    spacing: tuple[float | None, float | None, float | None],
    views: Sequence[tuple[float, float, float] | None],
    at: Mapping[str, int],
) -> tuple[float, float, float] | None:
    view = at.get("V", 0)
    stage = views[view] if len(views) > 1 and view < len(views) else (0.0, 0.0, 0.0)
    if stage is None or not spacing[1] or not spacing[2]:
        return None
    z = stage[0] + min(stack.planes) * (spacing[0] or 0.0)
    y, x = stack.place
    return z, stage[1] + y * spacing[1], stage[2] + x * spacing[2]


def _place_of(view: Element) -> tuple[float, float, float] | None:
    """Stage position of a view of a light sheet (z, y, x), micrometres."""
    found = [_finite(next((e.text for e in view.iter(f"Position{a}")), None)) for a in _STAGE]
    x, y, z = found
    return None if x is None or y is None else (z or 0.0, y, x)


# ---------------------------------------------------------------------- Leica
def _leica(look: Look, name: str) -> Iterator[Stack]:
    from terareg.storage import lif

    file, source = lif.open_file(look.store, name)
    try:
        for number, image in enumerate(file.images):
            yield from _leica_image(name, number, image)
    finally:
        file.close()
        source.close()


def _leica_image(name: str, number: int, image: Any) -> Iterator[Stack]:
    sizes = {str(axis): int(n) for axis, n in image.sizes.items()}
    # images of one plane are overviews
    if not {"X", "Y", "Z"} <= set(sizes) or sizes["Z"] < 2:
        return
    left = [a for a, n in sizes.items() if a not in "XYZCM" and n > 1]
    if left:
        return
    spacing = _leica_spacing(image)
    tiles = _leica_places(image)
    count = sizes.get("M", 1)
    for tile in range(count):
        place = tiles[tile] if len(tiles) == count else None
        ome = OmeImage(image.name, {a: sizes[a] for a in "ZYX"}, spacing, place)
        for channel in range(sizes.get("C", 1)):
            words = [str(number)]
            words += [f"M{tile}"] if "M" in sizes else []
            words += [f"C{channel}"] if "C" in sizes else []
            path = join_part(name, "/".join(words))
            yield Stack(path, name, f"ch{channel}", (name, number, tile), ome, form="LIF")


def _leica_spacing(image: Any) -> tuple[float | None, float | None, float | None]:
    found: list[float | None] = []
    for axis in "ZYX":
        places = image.coords.get(axis)
        step = None
        if places is not None and len(places) > 1:
            # the stage may run down
            step = abs(float(places[-1] - places[0])) / (len(places) - 1) * _UM_PER_M
        found.append(_rounded(step))
    return found[0], found[1], found[2]


def _leica_places(image: Any) -> list[tuple[float, float, float]]:
    """Stage positions (z, y, x) of the tiles along the axes of the image, micrometres."""
    scan = image.tilescan
    if scan is None:
        return []
    found = []
    for tile in scan.tiles:
        z, y, x = (float(tile[name]) * _UM_PER_M for name in ("pos_z", "pos_y", "pos_x"))
        if scan.swap_xy:
            y, x = x, y
        found.append((z, -y if scan.flip_y else y, -x if scan.flip_x else x))
    return found


def _xml(text: str) -> Element:
    root: Element = defusedxml.ElementTree.fromstring(
        text or "<none/>", forbid_entities=True, forbid_external=True
    )
    return root


def _finite(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_FORMS: tuple[tuple[str, str, Callable[[Look, str], Iterator[Stack]]], ...] = (
    (".ims", "Imaris", _imaris),
    (".czi", "CZI", _zeiss),
    (".lif", "LIF", _leica),
)
