"""Headers of exported files: where their voxels lie, in the conventions of each format.

A frame counts micrometres along the axes of its array; its orientation says which way they point.
NIfTI and NRRD want millimetres along anatomical axes: right, anterior, superior (RAS) and left,
posterior, superior (LPS). The position 0 of the frame is position 0 of both.

References: nifti1.h of the NIfTI Data Format Working Group;
http://teem.sourceforge.net/nrrd/format.html; the OME-XML schema 2016-06.
"""

from __future__ import annotations

import struct
from xml.sax.saxutils import quoteattr

import numpy as np

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame, orientation_matrix

_MM_PER_UM = 1e-3
_NIFTI_CODES = {
    "uint8": (2, 8), "uint16": (512, 16), "uint32": (768, 32), "float32": (16, 32),
}  # fmt: skip
_NRRD_TYPES = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float"}
_OME_TYPES = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float"}
_LONGEST_NIFTI = 2**15 - 1
_MM_AND_SECONDS = 10
_LABEL_INTENT = 1002
#: codes of qform and sform: the scanner's own space, and a space that the image was aligned to
_SCANNER, _ALIGNED = 1, 2
_NIFTI_HEAD, _FIRST_VOXEL = 348, 352
#: cal_max, with cal_min behind it
_CAL_MAX = 124


def affine_mm(frame: Frame, space: str) -> np.ndarray:
    """Matrix that maps voxel indices (x, y, z, 1) to millimetres.

    Parameters
    ----------
    frame : Frame
    space : str
        Anatomical directions of the three coordinates, "RAS" or "LPS".

    Returns
    -------
    numpy.ndarray, float64, shape (4, 4)
    """
    turn = orientation_matrix(frame.orientation, space) * _MM_PER_UM
    affine = np.eye(4)
    affine[:3, :3] = (turn * np.array(frame.spacing_um))[:, ::-1]
    affine[:3, 3] = turn @ np.array(frame.origin_um)
    return affine


def nifti_header(
    frame: Frame,
    dtype: str,
    *,
    labels: bool = False,
    aligned: bool = False,
    name: str = "",
    window: tuple[float, float] | None = None,
) -> bytes:
    """Header of a NIfTI-1 file with its voxels behind it, 352 bytes.

    Sform and qform say the same. ``labels`` states that voxels are labels, ``aligned`` that the
    image lies in the space of another one (an atlas). ``window`` are the grey values that
    programs show black and white at first; without it they choose.

    Raises
    ------
    VolumeError
        If an axis has more voxels than NIfTI-1 can count.
    """
    if max(frame.shape) > _LONGEST_NIFTI:
        raise VolumeError(
            f"{name}: {max(frame.shape)} voxels along an axis are more than the {_LONGEST_NIFTI} "
            "that NIfTI allows; raise resolution_um, or use format: nrrd or tiff"
        )
    affine = affine_mm(frame, "RAS")
    spacing = [s * _MM_PER_UM for s in frame.spacing_um[::-1]]
    b, c, d, handed = _quaternion(affine[:3, :3] / spacing)
    code = _ALIGNED if aligned else _SCANNER
    number, bits = _NIFTI_CODES[dtype]
    head = bytearray(_FIRST_VOXEL)
    struct.pack_into("<i", head, 0, _NIFTI_HEAD)
    struct.pack_into("<8h", head, 40, 3, *frame.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<3h", head, 68, _LABEL_INTENT if labels else 0, number, bits)
    struct.pack_into("<8f", head, 76, handed, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, _FIRST_VOXEL, 1, 0)
    head[123] = _MM_AND_SECONDS
    if window is not None:
        low, high = window
        struct.pack_into("<2f", head, _CAL_MAX, high, low)
    struct.pack_into("<79s", head, 148, name.encode("ascii", "replace"))
    struct.pack_into("<2h", head, 252, code, code)
    struct.pack_into("<6f", head, 256, b, c, d, *affine[:3, 3])
    struct.pack_into("<12f", head, 280, *affine[:3].ravel())
    head[344:348] = b"n+1\0"
    return bytes(head)


def _quaternion(turn: np.ndarray) -> tuple[float, float, float, float]:
    """Components b, c, d of the quaternion of a matrix, and qfac: -1 if z is to be mirrored."""
    handed = 1.0 if np.linalg.det(turn) > 0 else -1.0
    m = turn * np.array([1.0, 1.0, handed])
    # half of the largest component comes from the diagonal; the others follow without cancellation
    squares = np.array([
        1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
        1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2],
    ])  # fmt: skip
    most = int(np.argmax(squares))
    products = np.array([
        [squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], squares[1], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
        [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], squares[2], m[1, 2] + m[2, 1]],
        [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[3]],
    ])  # fmt: skip
    a, b, c, d = products[most] / (2 * np.sqrt(squares[most]))
    sign = -1.0 if a < 0 else 1.0
    return sign * b, sign * c, sign * d, handed


def nrrd_header(frame: Frame, dtype: str, name: str = "") -> bytes:
    """Header of an NRRD file whose voxels follow it, compressed with gzip."""
    affine = affine_mm(frame, "LPS")
    vectors = (_vector(affine[:3, axis]) for axis in range(3))
    keys = {
        "content": name,
        "type": _NRRD_TYPES[dtype],
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, frame.shape[::-1])),
        "space directions": " ".join(vectors),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip",
        "space units": '"mm" "mm" "mm"',
        "space origin": _vector(affine[:3, 3]),
    }
    lines = ["NRRD0005", *(f"{key}: {value}" for key, value in keys.items() if value)]
    return ("\n".join(lines) + "\n\n").encode()


def ome_xml(frame: Frame, dtype: str, name: str = "", *, colours: bool = False) -> bytes:
    """OME-XML of one image of planes, with physical sizes and the orientation as its description.

    OME-XML has no anatomical directions; the text is for people.
    """
    depth, height, width = frame.shape
    sizes = "".join(
        f' PhysicalSize{axis}="{size:.9g}" PhysicalSize{axis}Unit="\u00b5m"'
        for axis, size in zip("XYZ", frame.spacing_um[::-1])
    )
    samples = 3 if colours else 1
    note = (
        f"axes z, y, x point to {frame.orientation}; first voxel at "
        + ", ".join(f"{o:.9g}" for o in frame.origin_um)
        + " \u00b5m (z, y, x)"
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="'
        "http://www.openmicroscopy.org/Schemas/OME/2016-06 "
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">'
        f'<Image ID="Image:0" Name={quoteattr(name)}><Description>{note}</Description>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{_OME_TYPES[dtype]}" '
        f'SizeX="{width}" SizeY="{height}" SizeZ="{depth}" SizeC="{samples}" SizeT="1"{sizes}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/>'
        f'<TiffData IFD="0" PlaneCount="{depth}"/></Pixels></Image></OME>'
    )
    return text.encode()


def _vector(values: np.ndarray) -> str:
    # adding zero turns -0 into 0
    return "(" + ",".join(f"{v + 0.0:.12g}" for v in values) + ")"
