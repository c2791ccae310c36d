"""Recognise what a folder, an S3 prefix, an image file or a volume on the web holds.

Every recogniser says what it went by, and marks what it could only guess. The orientation of a
sample is in no file and is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from terareg.acquisition.folder_signs import likely_kind
from terareg.acquisition.image_files import read_layout
from terareg.acquisition.table_lines import COLUMNS, stack_name
from terareg.core.errors import AcquisitionError, TeraregError, few
from terareg.intake.bids import bids
from terareg.intake.big_stitcher import big_stitcher, of_project
from terareg.intake.found import Found, Look, channel_names, spacing_note
from terareg.intake.part_files import part_files
from terareg.intake.sides import with_sides
from terareg.intake.tile_files import (
    find_stacks,
    lavision,
    positioned_tiles,
    single_stack,
    tile_configuration,
    tiles_by_names,
)
from terareg.intake.tile_folders import terastitcher
from terareg.storage.foreign import parse_table, read_object
from terareg.storage.store import Store
from terareg.storage.web import beside, is_web, plain_address
from terareg.volumes.headers import PLATE, Header, describe_image, image_form, nrrd_orientation

#: formats that are not read, and what to do with them
_UNREAD = {
    ".h5": "give the XML file of the BigStitcher project beside it, or its folder",
    ".hdf5": "give the XML file of the BigStitcher project beside it, or its folder",
    ".n5": "give the XML file of the BigStitcher project beside it, or its folder",
    ".lsm": "export the tiles as OME-TIFF with Bio-Formats (bfconvert)",
    ".nd2": "export the tiles as OME-TIFF with Bio-Formats (bfconvert)",
}
_TILE_FILES = (".czi", ".lif")
# images whose headers are read, one request each, to see whether they are channels of a brain
_MOST_ON_S3 = 100
_COLM_CHANNEL = re.compile(r"CHN(\d+)_PLN\d+\.(?:tiff?|png)$", re.IGNORECASE)
_LABELS = re.compile(r"(^|[^a-z])(labels?|masks?|seg(mentation)?s?|annotations?)([^a-z]|$)", re.I)
_NOT_STATED = ", which the image does not state"


def recognise(address: str) -> Found:
    """What lies at a path, ``s3://`` or ``https://`` address; on the web, only volumes are known.

    Raises
    ------
    TeraregError
        If there is nothing, or nothing that is recognised; the message says what was seen.
    """
    address = plain_address(str(address)) or "/"
    if is_web(address):
        return _on_web(address)
    if "://" not in address:
        path = Path(address).absolute()
        if not path.exists():
            raise AcquisitionError(f"{address} does not exist; correct the path")
        address = str(path)
        if path.is_file():
            return _one_file(address)
    elif address.lower().endswith((".xml", *_TILE_FILES)) or image_form(address) is not None:
        return _one_file(address)
    unread = _UNREAD.get(PurePosixPath(address).suffix.lower())
    if unread:
        raise _not_read(address, unread)
    look = Look(Store(address))
    recognisers = (
        _volume_folder, big_stitcher, _colm, terastitcher, lavision, _own_table, bids,
        _imaris_volume, part_files,
    )  # fmt: skip
    for recogniser in recognisers:
        found = recogniser(look)
        if found is not None:
            return with_sides(found)
    tiles = _of_stacks(look)
    if tiles:
        return with_sides(tiles)
    volumes = _volume_files(look)
    return volumes if isinstance(volumes, Found) else _nothing(look, volumes)


def _of_stacks(look: Look) -> Found | None:
    stacks = find_stacks(look)
    if not stacks:
        return None
    ways: tuple[Callable, ...] = (
        tile_configuration, positioned_tiles, tiles_by_names, single_stack,
    )  # fmt: skip
    for way in ways:
        found: Found | None = way(look, stacks)
        if found is not None:
            return found
    return None


def _nothing(look: Look, reason: str) -> Found:
    for key in look.keys:
        for ending, remedy in _UNREAD.items():
            if key.lower().endswith(ending) or f"{ending}/" in key.lower():
                raise _not_read(look.store.address(key), remedy)
    seen = likely_kind(look.store)
    what = (
        (f"contains {seen[0]}")
        if seen
        else f"has {len(look.keys)} files but no image in a known format"
    )
    raise AcquisitionError(
        f"{look.store.url} {what}, but tiles or a volume were not recognised{reason}; list the "
        "tiles in a table (input.kind: table), or give the image file itself"
    )


def _not_read(address: str, remedy: str) -> AcquisitionError:
    ending = PurePosixPath(address).suffix
    return AcquisitionError(f"{address}: {ending} files cannot be read; {remedy}")


# ---------------------------------------------------------------------- kinds by their names
def _colm(look: Look) -> Found | None:
    top = look.top()
    if "Experiment.ini" not in top or "Scanned Cells.txt" not in top:
        return None
    # the first tile tells the channels of all
    tiles = {
        folder: next((t for t in look.store.folders(folder) if t.upper().startswith("LOC")), None)
        for folder in look.store.folders()
    }
    view, tile = next(((v, t) for v, t in tiles.items() if t), ("VW0", None))
    names = [entry.key for entry in look.store.walk(f"{view}/{tile}")] if tile else []
    found = (_COLM_CHANNEL.search(name) for name in names)
    numbers = sorted({int(match[1]) for match in found if match}) or [0]
    channels = dict(zip(channel_names(f"ch{n}" for n in numbers), numbers))
    source = {"kind": "colm", "path": look.store.url, "view": view, "channels": channels}
    if view == "VW0":
        del source["view"]
    return Found(
        "tiles of a COLM microscope", source,
        ("Experiment.ini and Scanned Cells.txt are there",),
        {"channels": "names of your choice, and the numbers after CHN in the file names"},
    )  # fmt: skip


def _own_table(look: Look) -> Found | None:
    for name in look.top():
        if not name.lower().endswith((".tsv", ".csv")):
            continue
        try:
            table = parse_table(read_object(look.store, name))
        except (OSError, ValueError):
            continue
        if "path" not in table.columns or not set(table.columns) <= set(COLUMNS):
            continue
        rows = (dict(zip(table.columns, row)) for _, row in table.rows)
        values = dict.fromkeys(stack_name(row) or "signal" for row in rows)
        source = {
            "kind": "table",
            "path": look.store.url,
            "table": name,
            "channels": channel_names(values),
            "spacing_um": None,
        }
        asked = {"spacing_um": "voxel size [z, y, x] in micrometres"}
        why = (f"{name} is a table with a column path, of {len(table.rows)} lines",)
        return Found("tiles that a table lists", source, why, asked=asked)
    return None


# ---------------------------------------------------------------------- volumes
def _on_web(address: str) -> Found:
    """A volume; tiles are found by listing, which the web does not know."""
    if PurePosixPath(address).suffix.lower() in (".xml", *_TILE_FILES, *_UNREAD):
        raise AcquisitionError(
            f"{address} cannot be read from the web, where only volumes are; copy it to a folder "
            "or s3://bucket/prefix"
        )
    if image_form(address) is not None:
        return _one_file(address)
    header = describe_image(address)
    return _volumes({"image": address}, header, (f"{address} has the metadata of {header.form}",))


def _one_file(address: str) -> Found:
    unread = _UNREAD.get(PurePosixPath(address).suffix.lower())
    if unread:
        raise _not_read(address, unread)
    store, name = beside(address)
    if name.lower().endswith(".xml"):
        return with_sides(of_project(Look(store), name))
    if name.lower().endswith(_TILE_FILES):
        found = part_files(Look(store), name)
        assert found is not None, "the ending is that of such a file"
        return with_sides(found)
    header = describe_image(address)
    return _volumes({"image": address}, header, (f"{address} is a {header.form} file",))


def _imaris_volume(look: Look) -> Found | None:
    """The only Imaris file of a folder, which is a volume."""
    names = [name for name in look.top() if name.lower().endswith(".ims")]
    return _one_file(look.store.address(names[0])) if len(names) == 1 else None


def _volume_folder(look: Look) -> Found | None:
    if not {"zarr.json", ".zattrs", "info"} & set(look.all_names()):
        return None
    address = look.store.url
    header = describe_image(address)
    why = (f"{address} has the metadata of {header.form}",)
    return _volumes({"image": address}, header, why)


def _volume_files(look: Look) -> Found | str:
    """Images of one shape that are volumes, the channels of a sample; or why they are none."""
    headers: dict[str, Header] = {}
    refused = ""
    names = look.top()
    if look.store.is_s3 and len(names) > _MOST_ON_S3:
        return ""
    for name in names:
        if image_form(name) is not None:
            try:
                headers[name] = describe_image(look.store.address(name))
            except TeraregError as error:
                refused = refused or f" ({error})"
    labels = [name for name in headers if _LABELS.search(name) or headers[name].is_segmentation]
    if len(labels) < len(headers):
        headers = {name: header for name, header in headers.items() if name not in labels}
    if not headers:
        return refused
    by_shape = {header.shape: name for name, header in headers.items()}
    if len(by_shape) > 1:
        sizes = (f"{name} {' x '.join(map(str, shape))}" for shape, name in by_shape.items())
        return f" (images differ in shape, {few(sizes)}; channels of a brain lie on one grid)"
    first = next(iter(headers.values()))
    if min(first.shape) < 2:
        return _single_planes(look, list(headers))
    files = {re.split(r"\.", n)[0]: look.store.address(n) for n in headers}
    shape = " x ".join(map(str, first.shape))
    left_out = (f"left out, because they are labels or masks: {few(labels)}",) if labels else ()
    if len(files) == 1:
        why = (f"{first.name} is the only image, {shape} voxels", *left_out)
        return _volumes(files, first, why)
    why = (f"{len(files)} images have the same shape, {shape} voxels (z, y, x)", *left_out)
    guess = (
        "images of the same shape are taken for channels of one brain; remove those that are not"
    )
    return _volumes(files, first, why, guess)


def _single_planes(look: Look, names: list[str]) -> str:
    try:
        read_layout(look.store, names[0])
    except TeraregError as error:
        return f" ({error})"
    return f" (single planes: {few(names)})"


def _volumes(
    files: dict[str, str], header: Header, why: tuple[str, ...], guess: str = "the name"
) -> Found:
    names = channel_names(files)
    channels: dict = {name: files[key] for name, key in names.items()}
    if header.channels > 1:
        (path,) = list(files.values())[:1]
        labels = header.channel_names
        if len(set(labels)) < header.channels or not all(labels):
            labels = tuple(f"ch{c}" for c in range(header.channels))
        channels = {
            name: {"path": path, "channel": c} for c, name in enumerate(channel_names(labels))
        }
    source: dict = {"kind": "volume", "channels": channels}
    notes, asked = {}, {}
    if header.form == PLATE:
        notes["orientation"] = "a plate has none, so that any three letters do, for example SAR"
    if header.spacing_um is None:
        store, image = beside(next(iter(files.values())))
        look = Look(store)
        ome = look.ome(image) if header.form == "TIFF" else None
        if ome is not None and all(ome.spacing_um):
            source["spacing_um"] = list(ome.spacing_um)
            notes["spacing_um"] = spacing_note(image)
        else:
            source["spacing_um"] = None
            asked["spacing_um"] = look.asked_um(image, _NOT_STATED)
    else:
        size = " x ".join(f"{v:g}" for v in header.spacing_um)
        why += (f"its header states voxels of {size} um (z, y, x)",)
    if header.orientation is not None:
        notes["orientation"] = f"the header states {header.orientation} (z, y, x)"
    elif header.form == "NRRD" and (code := nrrd_orientation(header.name)):
        notes["orientation"] = f"the header states {code} (z, y, x), often wrongly in this format"
    return Found("a volume", source, why, notes, {"channels": guess}, asked)
