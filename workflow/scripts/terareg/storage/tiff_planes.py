"""Which pages of a TIFF file are which planes, by common writers' metadata (standard library only).

The metadata of a file (ImageJ, tifffile, OME-XML) are compared with its pages: a part is never
taken for the whole, and nothing that is absent is read as zeros. Of an OME-TIFF set of several
files, the pages of the named file count; where these are only a part of a channel, the other files
are needed too, from the same folder.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from terareg.core.errors import few

MAX_PLANES = 200_000
_MOST_IMAGES = 10_000
_TAG = re.compile(r"<(?:\w+:)?(\w+)\b([^>]*)>([^<]*)")
_ATTRIBUTE = re.compile(r"([\w:]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")

# attributes that show that a channel is a real one, not a plane
_OF_CHANNELS = {"Name", "Fluor", "ExcitationWavelength", "EmissionWavelength", "ContrastMethod"}

#: name of the file (None: the one that was asked for), and page in it, from 0
Place = tuple[str | None, int]


@dataclass(frozen=True)
class Planes:
    """Planes of a volume, of every channel.

    Attributes
    ----------
    channels, depth : int
    places : tuple of Place
        ``places[channel * depth + plane]`` is where a plane lies.
    one_directory : bool
        Whether the planes follow each other after the only directory of the file.
    """

    channels: int
    depth: int
    places: tuple[Place, ...]
    one_directory: bool = False

    def of_channel(self, channel: int) -> tuple[Place, ...]:
        """Places of the planes of a channel."""
        return self.places[channel * self.depth : (channel + 1) * self.depth]

    @property
    def companions(self) -> tuple[str, ...]:
        """Names of the other files that are needed, sorted."""
        return tuple(sorted({name for name, _ in self.places if name is not None}))


@dataclass(frozen=True)
class TiffNotes:
    """What is known of a file before its pages are assigned to planes.

    Attributes
    ----------
    name : str
        Of the file, without its folder.
    pages : int
    description : str
        Of the first page.
    samples : int
        Numbers per pixel.
    descriptions : callable, optional
        Descriptions of all pages.
    companion : callable, optional
        Text of another file of the folder, by name.
    kind : (shape, dtype), optional
        Rows and columns of the pages, and the NumPy name of their type.
    camera : callable, optional
        What Micro-Manager states of all pages, JSON.
    """

    name: str
    pages: int
    description: str
    samples: int = 1
    descriptions: Callable[[], Iterable[str]] = tuple
    companion: Callable[[str], str] | None = None
    kind: tuple[tuple[int, int], str] | None = None
    camera: Callable[[], Iterable[str]] = tuple


def find_planes(notes: TiffNotes) -> Planes:
    """Planes of the file.

    Raises
    ------
    ValueError, LookupError
        If the metadata of the file contradict its pages, or do not describe one three-dimensional
        volume.
    """
    first = notes.description
    if first.startswith("ImageJ="):
        return _imagej(notes, first)
    if first.lstrip().startswith("{") and '"shape"' in first:
        return _shaped(notes, first)
    if re.search(r"<(?:\w+:)?OME\b", first) or re.search(r"<(?:\w+:)?Pixels\b", first):
        return _ome(notes, first)
    _check_camera(notes)
    return _in_order(notes.pages)


def check_values(description: str, kind: tuple[tuple[int, int], str]) -> None:
    """Raise :class:`ValueError` where a description contradicts the pixels of its page.

    Parameters
    ----------
    description : str
        ImageJ's, or OME-XML; of other text nothing is known.
    kind : (shape, dtype)
        Rows and columns, and the NumPy name of the type.
    """
    if description.startswith("ImageJ="):
        _check_calibration(description)
    elif "Pixels" in description:
        found = [
            {k: html.unescape(a or b) for k, a, b in _ATTRIBUTE.findall(inner)}
            for tag, inner, _ in (match.groups() for match in _TAG.finditer(description))
            if tag == "Pixels"
        ]
        # the XML of one file may describe the images of others too
        problems = [_contradiction(pixels, kind) for pixels in found]
        if problems and all(problems):
            raise ValueError(problems[0])


def check_upright(orientation: int) -> None:
    """Raise :class:`ValueError` if the tag Orientation of a page asks to turn or mirror it.

    Some programs follow it (ITK, OpenCV), others do not (Fiji, tifffile), and some writers write a
    wrong one: what the user saw is not known.
    """
    if orientation > 1:
        raise ValueError(
            f"its tag Orientation (274) is {orientation}, which some programs turn or mirror the "
            "image by and others ignore; set it to 1 if the stored rows are right as they are "
            "(tiffset -s 274 1 FILE)"
        )


def check_beside(name: str) -> str:
    """Return the name of a file that lies beside another one, or raise :class:`ValueError`."""
    if not name or re.search(r"[/\\\0]|^[A-Za-z]:", name) or name in (".", ".."):
        raise ValueError(
            f"it refers to {name[:80]!r}, which is not a file of its own folder; put both into "
            "one folder and correct the name"
        )
    return name


def _in_order(depth: int) -> Planes:
    return Planes(1, depth, tuple((None, page) for page in range(depth)))


def _arranged(
    sizes: dict[str, int],
    order: str,
    pages: int,
    *,
    one_directory: bool = False,
    true_channels: bool = False,
) -> Planes:
    """Pages in the order of axes C, Z and T, the first of which changes fastest.

    Without ``true_channels``, channels are taken for planes where there is no other axis.
    """
    channels, depth, times = (sizes.get(axis, 1) for axis in "CZT")
    if times > 1 and depth > 1:
        raise ValueError(f"it contains {times} time points of {depth} planes; give one time point")
    total = channels * depth * times
    if total != pages:
        raise ValueError(
            f"its metadata state {_product(sizes)} planes but it has {pages}; write it again, or "
            "copy the missing part"
        )
    if not 1 <= total <= MAX_PLANES:
        raise ValueError(f"its {total} planes are too many")
    axis = "T" if times > 1 else "Z"
    # some writers call planes channels
    if depth == times == 1 and channels > 1 and not true_channels:
        return replace(_in_order(pages), one_directory=one_directory)
    depth = max(depth, times)
    inner = order.index("C") < order.index(axis)
    places = tuple(
        (None, plane * channels + c if inner else c * depth + plane)
        for c in range(channels)
        for plane in range(depth)
    )
    return Planes(channels, depth, places, one_directory)


def _product(sizes: dict[str, int]) -> str:
    parts = [f"{n}" for axis, n in sizes.items() if axis in "CZT" and n != 1]
    return " x ".join(parts) or "1"


# ---------------------------------------------------------------------- Micro-Manager
def _check_camera(notes: TiffNotes) -> None:
    """Raise if Micro-Manager numbers the pages otherwise than as planes of one volume."""
    order: list[int] = []
    first: dict[str, Any] | None = None
    differ: set[str] = set()
    for text in notes.camera():
        try:
            axes = _camera_axes(json.loads(text))
        except ValueError:
            return
        plane = axes.pop("z", None)
        order += [plane] if isinstance(plane, int) else []
        first = axes if first is None else first
        differ |= {axis for axis in axes.keys() | first.keys() if axes.get(axis) != first.get(axis)}
    if differ:
        raise ValueError(
            f"Micro-Manager states that its pages differ in {few(sorted(differ))}, not only in z; "
            "save each stack to a file of its own"
        )
    if any(b <= a for a, b in itertools.pairwise(order)):
        raise ValueError(
            f"Micro-Manager numbers its planes {few(list(map(str, order)))}, not upwards; save "
            "them in order"
        )


def _camera_axes(noted: Any) -> dict[str, Any]:
    """Indices of a page along every axis: of NDTiff, or of a stack of Micro-Manager 1.4 and 2."""
    if not isinstance(noted, dict):
        return {}
    axes = next((noted[key] for key in ("Axes", "axes") if isinstance(noted.get(key), dict)), None)
    if axes is not None:
        return {str(key): value for key, value in axes.items()}
    words = {"z": "SliceIndex", "channel": "ChannelIndex", "time": "FrameIndex",
             "position": "PositionIndex"}  # fmt: skip
    return {axis: noted[word] for axis, word in words.items() if isinstance(noted.get(word), int)}


# ---------------------------------------------------------------------- ImageJ
def _check_calibration(description: str) -> None:
    """Raise if ImageJ shows other values than are stored, as it does for signed integers."""
    function = re.search(r"^cf=(\d{1,9})\s*$", description, re.M)
    if function is None:
        return
    numbers = dict(re.findall(r"^(c\d)=(\S+)\s*$", description, re.M))
    if function[1] == "0" and float(numbers.get("c0", 0)) == 0 and float(numbers.get("c1", 1)) == 1:
        return
    listed = ", ".join(f"{name}={number[:20]}" for name, number in sorted(numbers.items())[:5])
    raise ValueError(
        f"ImageJ calibrates its values (cf={function[1]}{listed and ', '}{listed}), so the stored "
        "ones are others than it shows; choose Image, Type, 32-bit and save it again, or Analyze, "
        "Calibrate, None if the stored ones are right"
    )


def _imagej(notes: TiffNotes, description: str) -> Planes:
    _check_calibration(description)
    noted = {k: int(v) for k, v in re.findall(r"^(\w+)=(\d{1,18})\s*$", description, re.M)}
    words = {"C": "channels", "Z": "slices", "T": "frames"}
    sizes = {axis: noted.get(word, 1) for axis, word in words.items()}
    images = noted.get("images", max(1, sizes["C"] * sizes["Z"] * sizes["T"]))
    if sizes["C"] * sizes["Z"] * sizes["T"] == 1:
        sizes["Z"] = images
    # the samples of one pixel do not lie on separate pages
    if (
        notes.samples > 1
        and sizes["C"] == notes.samples
        and images * notes.samples == (sizes["C"] * sizes["Z"] * sizes["T"])
    ):
        sizes["C"] = 1
    single = notes.pages == 1 and images > 1
    if images > MAX_PLANES:
        raise ValueError(f"its metadata state {images} planes, which are too many")
    if notes.pages not in (1, images):
        raise ValueError(
            f"its metadata state {images} planes but it has {notes.pages}; write it again, or copy "
            "the missing part"
        )
    # ImageJ states how to display channels if there are real ones
    coloured = re.search(r"^mode=(?:composite|color)\s*$", description, re.M) is not None
    # Micro-Manager writes it where all planes of a channel follow each other
    stated = re.search(r"^order=(\w{1,40})\s*$", description, re.M)
    order = stated[1].upper() if stated else "CZT"
    if sorted(order) != ["C", "T", "Z"]:
        raise ValueError(f"its metadata state the order of axes {order!r}")
    return _arranged(sizes, order, images, one_directory=single, true_channels=coloured)


# ---------------------------------------------------------------------- tifffile
def _shaped(notes: TiffNotes, description: str) -> Planes:
    noted = json.loads(description)
    shape = [int(n) for n in noted["shape"]]
    if min(shape, default=0) < 1 or len(shape) > 12:
        raise ValueError(f"its metadata state the shape {tuple(shape[:12])}")
    axes = noted.get("axes")
    if isinstance(axes, str) and len(axes) == len(shape):
        named = [(a, n) for a, n in zip(axes, shape) if a not in "YXS" and n > 1]
    else:
        if notes.samples > 1 and shape[-1] == notes.samples:
            shape.pop()
        named = [("Z", n) for n in shape[:-2] if n > 1]
    # an axis of another name is the axis of planes if there is no other candidate
    if len([a for a, _ in named if a != "C"]) == 1:
        named = [(a if a == "C" else "Z", n) for a, n in named]
    letters = [a for a, _ in named]
    if len(set(letters)) < len(letters) or not set(letters) <= set("CZT"):
        raise ValueError(
            f"{len(letters) + 2} dimensions {tuple(shape)}; give one volume with three"
        )
    sizes = dict(named)
    total = 1
    for n in sizes.values():
        total *= n
    if total > MAX_PLANES:
        raise ValueError(f"its metadata state {total} planes, which are too many")
    # pages that were appended one by one, each with metadata of its own
    if total == 1 and notes.pages > 1:
        if all(text in ("", description) for text in notes.descriptions()):
            return _in_order(notes.pages)
    single = notes.pages == 1 and total > 1 and bool(noted.get("truncated"))
    order = "".join(reversed(letters)) + "".join(a for a in "CZT" if a not in letters)
    return _arranged(sizes, order, total if single else notes.pages, one_directory=single)


# ---------------------------------------------------------------------- OME-XML
_OME_TYPES = {"float": "float32", "double": "float64", "bit": "uint8"}


def _contradiction(pixels: Mapping[str, str], kind: tuple[tuple[int, int], str]) -> str:
    """What OME-XML states that the pixels of the file are not; empty if they agree."""
    (rows, columns), dtype = kind
    sizes = [pixels.get("SizeX", str(columns)), pixels.get("SizeY", str(rows))]
    if sizes != [str(columns), str(rows)]:
        return (
            f"its OME-XML states SizeX {sizes[0][:20]} and SizeY {sizes[1][:20]} but it has "
            f"{columns} x {rows} pixels (x, y); write it again"
        )
    stated = pixels.get("Type", dtype)
    if _OME_TYPES.get(stated, stated) != dtype:
        return (
            f"its OME-XML states Type {stated[:20]} but its pixels are {dtype}; correct the XML, "
            "or write it again"
        )
    return ""


@dataclass
class _Image:
    """An image of OME-XML: sizes, order of axes, and what its TiffData elements say."""

    pixels: dict[str, str]
    samples: int
    data: list[dict[str, str]]
    true_channels: bool = False


def _ome(notes: TiffNotes, text: str) -> Planes:
    images, root = _parse_ome(text)
    if "MetadataFile" in root:
        if notes.companion is None:
            raise ValueError(f"its metadata are in {root['MetadataFile'][:80]!r}")
        images, _ = _parse_ome(notes.companion(check_beside(root["MetadataFile"])))
    own = [image for image in images if any(_is_own(d, notes, root) for d in image.data)]
    names = {d["FileName"] for image in images for d in image.data if d.get("FileName")}
    if not own and len(images) == 1 and (len(names) <= 1 or not images[0].data):
        # a file that does not list its pages, or that was renamed
        for data in images[0].data:
            data.pop("FileName", None)
            data.pop("UUID", None)
        own = images
    if not own:
        listed = few(name[:60] for name in sorted(names)) or "none"
        raise ValueError(
            f"its OME-XML lists planes of other files only ({listed}); give it its name back"
        )
    if len(own) > 1:
        raise ValueError(f"it contains {len(own)} images; write each to a file of its own")
    return _ome_planes(own[0], notes, root)


def _parse_ome(text: str) -> tuple[list[_Image], dict[str, str]]:
    """Images of OME-XML, and UUID and MetadataFile of the file that holds it."""
    images: list[_Image] = []
    root: dict[str, str] = {}
    for tag, inner, content in (match.groups() for match in _TAG.finditer(text)):
        values = {k: html.unescape(a or b) for k, a, b in _ATTRIBUTE.findall(inner)}
        if tag == "OME":
            root |= {k: v for k, v in values.items() if k == "UUID"}
        elif tag == "BinaryOnly":
            root |= {k: v for k, v in values.items() if k in ("UUID", "MetadataFile")}
        elif tag == "Pixels":
            images.append(_Image(values, 1, []))
            if len(images) > _MOST_IMAGES:
                raise ValueError(f"its OME-XML describes more than {_MOST_IMAGES} images")
        elif images and tag == "Channel":
            images[-1].samples = int(values.get("SamplesPerPixel", "1"))
            images[-1].true_channels |= not _OF_CHANNELS.isdisjoint(values)
        elif images and tag == "TiffData":
            images[-1].data.append(values)
        elif images and tag == "UUID" and images[-1].data:
            images[-1].data[-1] |= {"UUID": content.strip()}
            if "FileName" in values:
                images[-1].data[-1]["FileName"] = values["FileName"]
    return images, root


def _is_own(data: dict[str, str], notes: TiffNotes, root: dict[str, str]) -> bool:
    if "FileName" not in data and "UUID" not in data:
        return True
    if "FileName" in data and data["FileName"] == notes.name:
        return True
    return bool(root.get("UUID")) and data.get("UUID") == root["UUID"]


def _ome_planes(image: _Image, notes: TiffNotes, root: dict[str, str]) -> Planes:
    if notes.kind is not None and (problem := _contradiction(image.pixels, notes.kind)):
        raise ValueError(problem)
    sizes = {}
    for axis in "CZT":
        value = image.pixels.get(f"Size{axis}", "1")
        if not re.fullmatch(r"\d{1,9}", value):
            raise ValueError(f"its metadata state Size{axis} {value[:40]!r}")
        sizes[axis] = int(value)
    if image.samples > 1 and sizes["C"] % image.samples == 0:
        sizes["C"] //= image.samples
    order = image.pixels.get("DimensionOrder", "XYZCT")[2:]
    if sorted(order) != ["C", "T", "Z"]:
        raise ValueError(f"its metadata state the order of axes {order[:40]!r}")
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    if not 1 <= total <= MAX_PLANES:
        raise ValueError(f"its metadata state {_product(sizes)} planes")
    simple = [d for d in image.data if not {"IFD", "PlaneCount", "FileName", "UUID"} & set(d)]
    if len(simple) == len(image.data) <= 1:
        return _arranged(sizes, order, notes.pages, true_channels=image.true_channels)
    return _listed(image, sizes, order, (notes, root))


def _listed(
    image: _Image, sizes: dict[str, int], order: str, context: tuple[TiffNotes, dict[str, str]]
) -> Planes:
    """Planes of a file, or a set of files, that lists them one by one."""
    notes, _ = context
    channels, depth, times = (sizes[axis] for axis in "CZT")
    if times > 1 and depth > 1:
        raise ValueError(f"it contains {times} time points of {depth} planes; give one time point")
    axis, count = ("T", times) if times > 1 else ("Z", depth)
    found: dict[tuple[int, int], Place] = {}
    own_pages: set[int] = set()
    for place, where in _listed_places(image, sizes, order, context):
        key = where["C"], where[axis]
        if found.setdefault(key, place) != place:
            raise ValueError(
                f"its OME-XML lists channel {key[0]}, plane {key[1]} twice; write it again"
            )
        if place[0] is None:
            own_pages.add(place[1])
    # there are more pages than are listed, or listed ones are missing
    if own_pages and (max(own_pages) >= notes.pages or len(own_pages) != notes.pages):
        raise ValueError(
            f"its metadata state {max(len(own_pages), max(own_pages) + 1)} planes but it has "
            f"{notes.pages}; write it again, or copy the missing part"
        )
    own = {key for key, place in found.items() if place[0] is None}
    wanted: Sequence[int] = range(channels)
    whole = [c for c in wanted if all((c, z) in own for z in range(count))]
    if whole and len(whole) * count == len(own):
        wanted = whole
    else:
        absent = [(c, z) for c in wanted for z in range(count) if (c, z) not in found]
        if absent:
            raise ValueError(
                f"its OME-XML states {_product(sizes)} planes but lists {len(found)} (none for "
                f"channel {absent[0][0]}, plane {absent[0][1]}); write it again"
            )
    if len(wanted) > 1 and count == 1 and not image.true_channels:
        # some writers call planes channels
        return Planes(1, len(wanted), tuple(found[c, 0] for c in wanted))
    places = tuple(found[c, z] for c in wanted for z in range(count))
    return Planes(len(wanted), count, places)


def _listed_places(
    image: _Image, sizes: dict[str, int], order: str, context: tuple[TiffNotes, dict[str, str]]
) -> Iterator[tuple[Place, dict[str, int]]]:
    notes, root = context
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    listed = 0
    for data in image.data:
        numbers = {}
        for key in ("IFD", "FirstC", "FirstZ", "FirstT", "PlaneCount"):
            if key in data and not re.fullmatch(r"\d{1,9}", data[key]):
                raise ValueError(f"its OME-XML has the value {key}={data[key][:40]!r}")
            numbers[key] = int(data.get(key, "0"))
        own = _is_own(data, notes, root)
        name = None if own else check_beside(data.get("FileName", ""))
        count = numbers["PlaneCount"]
        if "PlaneCount" not in data:
            count = 1 if "IFD" in data or not own else notes.pages
        if own and numbers["IFD"] + count > notes.pages:
            raise ValueError(
                f"its metadata state {numbers['IFD'] + count} planes but it has {notes.pages}; "
                "write it again, or copy the missing part"
            )
        listed += count
        first, weight = 0, 1
        for axis in order:
            if numbers[f"First{axis}"] >= sizes[axis]:
                raise ValueError(
                    f"its OME-XML places a plane at {axis} {numbers[f'First{axis}']} of "
                    f"{sizes[axis]}; write it again"
                )
            first += numbers[f"First{axis}"] * weight
            weight *= sizes[axis]
        if max(first + count, listed) > total:
            raise ValueError(
                f"its OME-XML lists {max(first + count, listed)} planes but states "
                f"{_product(sizes)}; write it again"
            )
        for step in range(count):
            number, where = first + step, {}
            for axis in order:
                where[axis] = number % sizes[axis]
                number //= sizes[axis]
            yield (name, numbers["IFD"] + step), where
