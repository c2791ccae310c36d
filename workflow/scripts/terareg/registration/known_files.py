"""Files of a known transform between two atlases, and what they say (standard library only)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from terareg.core.errors import RegistrationError
from terareg.storage.foreign import read_bytes

#: ends of the names of displacement fields, and of transforms, as ITK and ANTs write them
FIELD_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
TRANSFORM_ENDINGS = (".mat", ".txt", ".tfm", ".h5", ".hdf5")
#: files that a registration of terareg must have; the last one describes its frames
FOLDER_FILES = ("affine.txt", "forward.nrrd", "inverse.nrrd", "summary.json", "transform.json")
_MATLAB_BYTES, _MATLAB_NAME, _MATLAB_NUMBERS = 1 << 20, 200, 1000
_DIRECTION = "x_sample = affine @ phi(x_atlas)"
# voxels of the working grids by which a box may be larger than the image that it covers
_SLACK = 2.0


def is_folder(transform: str | Sequence[str]) -> bool:
    """Whether a transform is a registration's folder, rather than files of ITK and ANTs."""
    endings = (*FIELD_ENDINGS, *TRANSFORM_ENDINGS)
    return isinstance(transform, str) and not transform.lower().endswith(endings)


def known_files(transform: str | Sequence[str]) -> list[str]:
    """Paths of all files of a transform, in the order in which they act on points."""
    if not isinstance(transform, str):
        return list(transform)
    if not is_folder(transform):
        return [transform]
    # an address s3://bucket/folder must keep its two slashes
    return [f"{transform.rstrip('/')}/{name}" for name in FOLDER_FILES]


def check_matlab(path: str) -> None:
    """Raise :class:`ValueError` unless a file of ITK that ends in .mat is whole.

    ITK believes what such a file states of its sizes, and ends the process where that is wrong.
    Matlab's format of level 4: of each vector five integers (type, rows, columns, imaginary part,
    length of the name), the name, and the numbers.
    """
    if ending_of(path) != ".mat":
        return
    data, at = read_bytes(path, _MATLAB_BYTES), 0
    while at < len(data):
        order = "<" if data[at + 2 : at + 4] == b"\0\0" else ">"
        head = struct.unpack_from(f"{order}5i", data, at) if at + 20 <= len(data) else (-1,) * 5
        kind, rows, columns, imaginary, letters = head
        width = {0: 8, 10: 4}.get(kind % 100)
        if (
            kind not in (0, 10, 100, 110, 1000, 1010, 1100, 1110)
            or width is None
            or imaginary
            or not 1 <= letters <= _MATLAB_NAME
            or not 0 <= rows <= _MATLAB_NUMBERS
            or columns != 1
        ):
            raise ValueError(f"at byte {at} is no vector of numbers as ITK writes it")
        at += 20 + letters + rows * width
    if not data or at != len(data):
        raise ValueError(f"it has {len(data)} bytes but states {at}; copy it again")


def check_described(
    name: str, described: Mapping[str, Any], atlas: Mapping[str, Any], sample: Mapping[str, Any]
) -> None:
    """Raise unless a registration's frames are those of the two atlases between which it leads.

    Parameters
    ----------
    name : str
        Of the transform in messages: key and path.
    described : mapping
        Content of ``transform.json``.
    atlas, sample : mapping
        The atlases that stand for atlas and sample: ``name``, ``orientation``, and ``shape`` and
        ``spacing_um`` (z, y, x) or None where they are not known.

    Raises
    ------
    RegistrationError
        If the file is another one, or a frame is turned otherwise or has another size.
    """
    frames: list[Any] = [described.get(key) for key in ("atlas_frame", "sample_frame")]
    if not str(described.get("direction", "")).startswith(_DIRECTION) or None in frames:
        raise RegistrationError(
            f"{name} has no transform.json of a registration of terareg; give its folder, "
            "results/SAMPLE/registration/ATLAS"
        )
    for frame, given, role in zip(frames, (atlas, sample), ("atlas", "sample")):
        problem = _difference(frame, given)
        if problem:
            turned = not any(map(_difference, frames, (sample, atlas)))
            remedy = (
                f"its direction is the other one: set points_from: {sample['name']}"
                if turned
                else f"give the registration of {atlas['name']} to the template of {sample['name']}"
            )
            raise RegistrationError(
                f"{name}: the {role} of this registration {problem} in the atlas "
                f"{given['name']}; {remedy}"
            )


def _difference(frame: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What a frame has that an atlas has not, in words; empty if they agree."""
    if frame["orientation"] != given["orientation"]:
        return f"has axes {frame['orientation']}, not {given['orientation']} as"
    if given["shape"] is None:
        return ""
    for n, step, other, size in zip(
        frame["shape"], frame["spacing_um"], given["shape"], given["spacing_um"]
    ):
        if abs(n * step - other * size) > _SLACK * max(step, size):
            ours, theirs = (
                " x ".join(f"{a * b / 1000:.4g}" for a, b in zip(f["shape"], f["spacing_um"]))
                for f in (frame, given)
            )
            return f"is {ours} mm (z, y, x), not {theirs} mm as"
    return ""


def ending_of(path: str) -> str:
    """The part of a path's name that says its format."""
    name = PurePosixPath(path).name.lower()
    known = (*FIELD_ENDINGS, *TRANSFORM_ENDINGS)
    return next((e for e in sorted(known, key=len, reverse=True) if name.endswith(e)), "")
