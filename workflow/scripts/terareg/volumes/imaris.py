"""What an Imaris file (.ims) states of its image: sizes, voxel size, place and channels.

An Imaris file is HDF5. ``DataSetInfo/Image`` holds the extents of the image in world coordinates
(``ExtMin0`` to ``ExtMax2``, of x, y and z), ``DataSet/ResolutionLevel r/TimePoint t/Channel c`` the
voxels, whose real sizes are attributes because the arrays are filled up to whole chunks. Groups are
in no order that counts.

References
----------
Imaris 5.5 file format description, Oxford Instruments.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from terareg.storage.foreign import short
from terareg.storage.store import Store

if TYPE_CHECKING:
    import h5py

_SIZES = ("Z", "Y", "X")
_LEVEL, _TIME, _CHANNEL = "ResolutionLevel ", "TimePoint ", "Channel "


@dataclass(frozen=True)
class ImarisImage:
    """The image of a file.

    Attributes
    ----------
    shapes : tuple of (z, y, x)
        Voxels of every level of resolution, the finest first.
    dtype : str
    channels : tuple of str
        Their names, or "" where one has none.
    spacing : (z, y, x) or None
        Voxel size of the finest level, in ``unit``; None where the file has no extents.
    corner : (z, y, x) or None
        Outer corner of the first voxel, in ``unit``.
    unit : str
        As in the file; empty where it has none.
    """

    shapes: tuple[tuple[int, int, int], ...]
    dtype: str
    channels: tuple[str, ...]
    spacing: tuple[float, float, float] | None
    corner: tuple[float, float, float] | None
    unit: str


def part_of(level: int, channel: int) -> str:
    """Where the voxels of a level and channel lie in the file."""
    return f"DataSet/{_LEVEL}{level}/{_TIME}0/{_CHANNEL}{channel}/Data"


def read_imaris(store: Store, key: str) -> ImarisImage:
    """What a file states; see :func:`terareg.storage.foreign.boundary` for errors.

    Raises
    ------
    ValueError
        If the file is none of Imaris, holds several times, or contradicts itself.
    """
    from terareg.storage import hdf5

    file, source = hdf5.open_file(store, key)
    try:
        return _read(file)
    finally:
        file.close()
        source.close()


def _read(file: h5py.File) -> ImarisImage:
    from terareg.storage import hdf5

    levels = _numbers(file, "DataSet", _LEVEL)
    times = _numbers(file, f"DataSet/{_LEVEL}0", _TIME)
    if times > 1:
        raise ValueError(f"it contains {times} time points; export one of them")
    count = _numbers(file, f"DataSet/{_LEVEL}0/{_TIME}0", _CHANNEL)
    shapes, types = [], set()
    for level in range(levels):
        sizes = set()
        for channel in range(count):
            data = hdf5.find_dataset(file, part_of(level, channel))
            sizes.add(hdf5.image_shape(data))
            types.add(data.dtype.newbyteorder("=").name)
        if len(sizes) > 1 or len(next(iter(sizes))) != 3:
            raise ValueError(f"channels of level {level} have the shapes {short(sorted(sizes))}")
        shapes.append(sizes.pop())
    if len(types) > 1:
        raise ValueError(f"its channels are of the types {', '.join(sorted(types))}")
    info = file.get("DataSetInfo/Image")
    spacing = corner = None
    unit = ""
    if info is not None:
        stated = [_number(hdf5.attribute(info, axis)) for axis in _SIZES]
        for axis, size, own in zip(_SIZES, stated, shapes[0]):
            if size is not None and size != own:
                raise ValueError(
                    f"its header states {size:g} voxels along {axis} but {own} are stored; export "
                    "it again"
                )
        low = [_number(hdf5.attribute(info, f"ExtMin{k}")) for k in (2, 1, 0)]
        high = [_number(hdf5.attribute(info, f"ExtMax{k}")) for k in (2, 1, 0)]
        if None not in low and None not in high:
            spacing = tuple((b - a) / n for a, b, n in zip(low, high, shapes[0]))  # type: ignore[operator]
            corner = tuple(low)
            if min(spacing) <= 0:
                raise ValueError(f"its extents run from {short(low)} to {short(high)} (z, y, x)")
        unit = (hdf5.attribute(info, "Unit") or "").strip()
    names = []
    for channel in range(count):
        own = file.get(f"DataSetInfo/{_CHANNEL}{channel}")
        name = "" if own is None else hdf5.attribute(own, "Name") or ""
        names.append(re.sub(r"\(name not specified\)", "", name).strip())
    return ImarisImage(tuple(shapes), types.pop(), tuple(names), spacing, corner, unit)  # type: ignore[arg-type]


def _numbers(file: h5py.File, path: str, word: str) -> int:
    """How many groups are called by a word and a number, which must count from 0."""
    group: Any = file.get(path)
    if group is None or not hasattr(group, "keys"):
        raise ValueError(f"it has no {short(path)}, so it is not an Imaris file")
    found = {name for name in group if re.fullmatch(rf"{word}\d{{1,6}}", name)}
    if not found or found != {f"{word}{k}" for k in range(len(found))}:
        raise ValueError(
            f"{short(path)} has {short(sorted(found)[:6])}, not {short(word + '0')} ..."
        )
    return len(found)


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
