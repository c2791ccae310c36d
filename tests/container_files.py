"""Files of microscopes that hold many tiles, written from the formats' public descriptions.

Imaris (Oxford Instruments, "Imaris 5.5 file format"), BigDataViewer (Pietzsch et al. 2015), CZI
(ZEISS, "CZI file format specification") and LIF (Leica, "LIF file format description").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import h5py
import microscope_folders as folders
import numpy as np
import tensorstore as ts
from microscope_folders import CHANNELS, RANDOM, SPACING_UM, Tiles

NAMES = ("AF488", "Cy5")


# ---------------------------------------------------------------------- Imaris
def letters(text: object) -> np.ndarray:
    """Imaris writes attributes as arrays of single letters."""
    return np.array(list(str(text).encode()), np.uint8).view("S1")


def write_imaris(
    path: Path,
    channels: Sequence[np.ndarray],
    *,
    place_um=(0.0, 0.0, 0.0),
    spacing_um=SPACING_UM,
    chunk=(4, 16, 16),
    unit: str = "um",
    **attributes: object,
) -> None:
    """Channels (z, y, x) at two levels of resolution; arrays are filled up to whole chunks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        shape = channels[0].shape
        info = file.create_group("DataSetInfo/Image")
        for axis, size, first, step in zip("ZYX", shape, place_um, spacing_um):
            number = "XYZ".index(axis)
            info.attrs[f"ExtMin{number}"] = letters(f"{first:.6f}")
            info.attrs[f"ExtMax{number}"] = letters(f"{first + size * step:.6f}")
            info.attrs[axis] = letters(size)
        info.attrs["Unit"] = letters(unit)
        for name, value in attributes.items():
            info.attrs[name] = letters(value)
        for number, values in enumerate(channels):
            named = file.create_group(f"DataSetInfo/Channel {number}")
            named.attrs["Name"] = letters(NAMES[number])
            for level in (1, 0):  # in no order that counts
                own = values[:, :: 1 + level, :: 1 + level]
                group = file.create_group(
                    f"DataSet/ResolutionLevel {level}/TimePoint 0/Channel {number}"
                )
                for axis, size in zip("ZYX", own.shape):
                    group.attrs[f"ImageSize{axis}"] = letters(size)
                full = [-(-n // c) * c for n, c in zip(own.shape, chunk)]
                data = np.pad(own, [(0, m - n) for n, m in zip(own.shape, full)])
                group.create_dataset("Data", data=data, chunks=chunk, compression="gzip")


def imaris_tiles(root: Path, tiles: Tiles = RANDOM) -> None:
    """A file for each tile, with two channels."""
    for number, cell in enumerate(tiles.cells):
        y, x = tiles.place_um(cell)
        own = [tiles.stack(cell, c) for c in range(CHANNELS)]
        write_imaris(
            root / f"scan_{number}.ims", own, place_um=(7.0, y, x), spacing_um=tiles.spacing_um
        )


# ---------------------------------------------------------------------- BigStitcher
def _affine(values: np.ndarray, name: str) -> str:
    text = " ".join(map(repr, map(float, np.ravel(values[:3]))))
    return (
        f'<ViewTransform type="affine"><Name>{name}</Name><affine>{text}</affine></ViewTransform>'
    )


def _moved(x: float, y: float, z: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = x, y, z
    return affine


def big_stitcher(
    root: Path,
    tiles: Tiles = RANDOM,
    form: str = "hdf5",
    *,
    linear: np.ndarray | None = None,
    angles: Mapping[int, np.ndarray] | None = None,
    unit: str = "µm",
    split: bool = False,
    missing: Sequence[int] = (),
    calibrated: bool = True,
) -> None:
    """A project: setups run over channels, then tiles.

    Parameters
    ----------
    linear : array (4, 4), optional
        What is applied to all views last, such as a shear.
    angles : mapping of int to array (4, 4), optional
        Turns of single setups.
    split : bool
        Whether the pixels are in partitions, to which the first file only links.
    calibrated : bool
        Whether voxels are made cubes, as BigStitcher does.
    """
    root.mkdir(parents=True, exist_ok=True)
    spacing = np.array(tiles.spacing_um[::-1])
    cubes = np.diag([*(spacing / spacing.min() if calibrated else np.ones(3)), 1.0])
    setups, registrations, pixels = [], [], {}
    for number, (channel, cell) in enumerate((c, t) for c in range(CHANNELS) for t in tiles.cells):
        size = " ".join(map(str, tiles.shape[::-1]))
        voxel = " ".join(map(str, spacing))
        setups.append(
            f"<ViewSetup><id>{number}</id><name>{number}</name><size>{size}</size>"
            f"<voxelSize><unit>{unit}</unit><size>{voxel}</size></voxelSize><attributes>"
            f"<illumination>0</illumination><channel>{channel}</channel>"
            f"<tile>{list(tiles.cells).index(cell)}</tile><angle>0</angle></attributes></ViewSetup>"
        )
        y, x = tiles.step_px(cell)
        place = cubes @ np.array([x, y, 0, 1])
        chain = [("Grid", _moved(*place[:3])), ("calibration", cubes)]
        if linear is not None:
            chain.insert(0, ("all", linear))
        if angles and number in angles:
            chain.insert(0, ("angle", angles[number]))
        registrations.append(
            f'<ViewRegistration timepoint="0" setup="{number}">'
            + "".join(_affine(values, name) for name, values in chain)
            + "</ViewRegistration>"
        )
        pixels[number] = tiles.stack(cell, channel)
    gone = "".join(f'<MissingView timepoint="0" setup="{n}"/>' for n in missing)
    names = "".join(
        f"<Channel><id>{k}</id><name>{name}</name></Channel>" for k, name in enumerate(NAMES)
    )
    (root / "dataset.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<SpimData version="0.2">'
        '<BasePath type="relative">.</BasePath><SequenceDescription>'
        f"{_loader(form, len(pixels))}<ViewSetups>{''.join(setups)}"
        f'<Attributes name="channel">{names}</Attributes></ViewSetups>'
        '<Timepoints type="pattern"><integerpattern>0</integerpattern></Timepoints>'
        f"<MissingViews>{gone}</MissingViews></SequenceDescription>"
        f"<ViewRegistrations>{''.join(registrations)}</ViewRegistrations></SpimData>",
        encoding="utf-8",
    )
    kept = {n: values for n, values in pixels.items() if n not in missing}
    if form == "hdf5":
        _write_hdf5(root, kept, split=split)
    elif form == "n5":
        for number, values in kept.items():
            write_array(root / f"dataset.n5/setup{number}/timepoint0/s0", "n5", values.T)
    else:
        for number, values in kept.items():
            folder = root / f"dataset.ome.zarr/s{number}-t0.zarr/0"
            write_array(folder, "zarr", values[None, None])


def _loader(form: str, setups: int) -> str:
    if form == "hdf5":
        return (
            '<ImageLoader format="bdv.hdf5"><hdf5 type="relative">dataset.h5</hdf5></ImageLoader>'
        )
    if form == "n5":
        return '<ImageLoader format="bdv.n5"><n5 type="relative">dataset.n5</n5></ImageLoader>'
    groups = "".join(
        f'<zgroup setup="{n}" tp="0" path="s{n}-t0.zarr" indicies="0 0"/>' for n in range(setups)
    )
    return (
        '<ImageLoader format="bdv.multimg.zarr" version="3.0"><zarr type="relative">'
        f"dataset.ome.zarr</zarr><zgroups>{groups}</zgroups></ImageLoader>"
    )


def _write_hdf5(root: Path, pixels: Mapping[int, np.ndarray], *, split: bool) -> None:
    with h5py.File(root / "dataset.h5", "w") as file:
        for number, values in pixels.items():
            where = f"t00000/s{number:02d}"
            # the bits of unsigned integers, as signed ones
            bits = values.view(np.int16)
            options = {"chunks": (2, 8, 16), "compression": "gzip"}
            if split:
                name = f"dataset-{number:02d}-00.h5"
                with h5py.File(root / name, "w") as own:
                    own.create_dataset(f"{where}/0/cells", data=bits, **options)
                file[where] = h5py.ExternalLink(name, where)
            else:
                file.create_dataset(f"{where}/0/cells", data=bits, **options)


def write_array(folder: Path, driver: str, values: np.ndarray) -> None:
    chunk = [min(n, 32) if values.size > 1e5 else min(n, 8) for n in values.shape]
    metadata = (
        {"dataType": "uint16", "blockSize": chunk, "compression": {"type": "gzip"}}
        | {"dimensions": list(values.shape)}
        if driver == "n5"
        else {"dtype": "<u2", "chunks": chunk, "shape": list(values.shape), "compressor": None}
        | {"dimension_separator": "/"}
    )
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}}
    ts.open(spec | {"metadata": metadata}, create=True).result()[...] = values


# ---------------------------------------------------------------------- Zeiss
def write_czi(path: Path, tiles: Mapping[tuple[tuple[str, int], ...], tuple], xml: str) -> None:
    """A CZI of subblocks without compression.

    Parameters
    ----------
    tiles : mapping
        For the dimensions and indices of each subblock, its pixels (y, x), the place of its first
        pixel (y, x), and by how much it is reduced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    out, entries = bytearray(544), []
    for indices, (image, place, factor) in tiles.items():
        entry = _entry(indices, image, place, factor, len(out))
        entries.append(entry)
        data = image.tobytes()
        head = struct.pack("<iiq", 0, 0, len(data)) + entry
        head = head.ljust(256, b"\0")
        out += _segment(b"ZISRAWSUBBLOCK", head + data)
    directory = len(out)
    body = struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries)
    out += _segment(b"ZISRAWDIRECTORY", body)
    metadata = len(out)
    text = xml.encode()
    out += _segment(b"ZISRAWMETADATA", struct.pack("<ii", len(text), 0).ljust(256, b"\0") + text)
    header = struct.pack(
        "<ii8x16s16siqqiq", 1, 0, b"\1" * 16, b"\1" * 16, 0, directory, metadata, 0, 0
    )
    out[:544] = _segment(b"ZISRAWFILE", header.ljust(512, b"\0"))
    path.write_bytes(out)


def _segment(name: bytes, body: bytes) -> bytes:
    room = -(-len(body) // 32) * 32
    return struct.pack("<16sqq", name, room, len(body)) + body.ljust(room, b"\0")


def _entry(indices, image: np.ndarray, place, factor: int, where: int) -> bytes:
    height, width = image.shape
    dims = [("X", place[1], width * factor, width), ("Y", place[0], height * factor, height)]
    dims += [(axis, number, 1, 1) for axis, number in indices]
    pixel = {"uint8": 0, "uint16": 1}[image.dtype.name]
    found = struct.pack(
        "<2siqiiBB4si", b"DV", pixel, where, 0, 0, 2 if factor > 1 else 0, 0, b"", len(dims)
    )
    for axis, start, size, stored in dims:
        found += struct.pack("<4siifi", axis.encode(), start, size, 0.0, stored)
    return found


def zeiss_xml(spacing=SPACING_UM) -> str:
    items = "".join(
        f'<Distance Id="{axis}"><Value>{value * 1e-6}</Value></Distance>'
        for axis, value in zip("ZYX", spacing)
    )
    names = "".join(f'<Channel Id="Channel:{k}" Name="{n}"/>' for k, n in enumerate(NAMES))
    return (
        "<ImageDocument><Metadata><Information><Image><Dimensions><Channels>"
        f"{names}</Channels></Dimensions></Image></Information><Scaling><Items>{items}</Items>"
        "</Scaling></Metadata></ImageDocument>"
    )


def zeiss(root: Path, tiles: Tiles = RANDOM) -> None:
    """All tiles as a mosaic in one file, with a reduced copy of the whole."""
    blocks: dict = {}
    for number, cell in enumerate(tiles.cells):
        y, x = map(round, tiles.step_px(cell))
        place = y - 40, x + 5
        for channel in range(CHANNELS):
            for z, plane in enumerate(tiles.stack(cell, channel)):
                key = (("C", channel), ("Z", z), ("S", 0), ("M", number))
                blocks[key] = plane, place, 1
    small = np.zeros(tiles.shape[1:], np.uint16)
    for channel in range(CHANNELS):
        for z in range(tiles.shape[0]):
            blocks[("C", channel), ("Z", z), ("S", 0)] = small, (-40, 5), 2
    write_czi(root / "brain.czi", blocks, zeiss_xml(tiles.spacing_um))


# ---------------------------------------------------------------------- Leica
def write_lif(
    path: Path, images: Sequence[tuple[str, np.ndarray, str]], spacing_um=SPACING_UM
) -> None:
    """A LIF of images: name, values (m, z, c, y, x), and XML of the scan of tiles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    elements = "".join(_leica_element(k, *each, spacing_um) for k, each in enumerate(images))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="brain.lif" UniqueID="0"><Data/>'
        f"<Children>{elements}</Children></Element></LMSDataContainerHeader>"
    )
    out = bytearray(_leica_block(xml))
    for number, (_, values, _) in enumerate(images):
        name = f"MemBlock_{number}"
        body = struct.pack("<BQBI", 0x2A, values.nbytes, 0x2A, len(name)) + name.encode("utf-16-le")
        out += struct.pack("<II", 0x70, len(body)) + body + values.tobytes()
    path.write_bytes(out)


def _leica_block(text: str) -> bytes:
    body = struct.pack("<BI", 0x2A, len(text)) + text.encode("utf-16-le")
    return struct.pack("<II", 0x70, len(body)) + body


def _leica_element(number: int, name: str, values: np.ndarray, scan: str, spacing_um) -> str:
    tiles, planes, channels, height, width = values.shape
    step = values.itemsize
    sizes = dict(zip(("X", "Y", "Z", "M"), (width, height, planes, tiles)))
    # distance of one place from the next, in bytes
    strides = {
        "X": step, "Y": step * width, "Z": step * width * height * channels,
        "M": step * width * height * channels * planes,
    }  # fmt: skip
    ids = {"X": 1, "Y": 2, "Z": 3, "M": 10}
    dims = ""
    for axis, size in sizes.items():
        length = 0.0
        if axis in "XYZ":
            length = (size - 1) * spacing_um["ZYX".index(axis)] * 1e-6
        # the stage of these microscopes runs down in z
        length = -length if axis == "Z" else length
        dims += (
            f'<DimensionDescription DimID="{ids[axis]}" NumberOfElements="{size}" Origin="0" '
            f'Length="{length}" Unit="m" BitInc="0" BytesInc="{strides[axis]}"/>'
        )
    dyes = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" '
        f'NameOfMeasuredQuantity="" Min="0" Max="65535" Unit="" LUTName="Green" '
        f'IsLUTInverted="0" BytesInc="{c * step * width * height}" BitInc="0"/>'
        for c in range(channels)
    )
    return (
        f'<Element Name="{escape(name)}" UniqueID="{number + 1}"><Data><Image><ImageDescription>'
        f"<Channels>{dyes}</Channels><Dimensions>{dims}</Dimensions></ImageDescription>{scan}"
        f'</Image></Data><Memory Size="{values.nbytes}" MemoryBlockID="MemBlock_{number}"/>'
        "</Element>"
    )


def leica(root: Path, tiles: Tiles = RANDOM) -> None:
    """An overview, and tiles whose positions are turned as Leica's stages turn them."""
    values = np.array([[tiles.stack(cell, c) for c in range(CHANNELS)] for cell in tiles.cells])
    values = np.ascontiguousarray(values.transpose(0, 2, 1, 3, 4))
    places = ""
    for cell in tiles.cells:
        y, x = (v * 1e-6 for v in tiles.place_um(cell))
        places += (
            f'<Tile FieldX="{cell[1]}" FieldY="{cell[0]}" PosX="{-y!r}" PosY="{-x!r}" PosZ="0"/>'
        )
    scan = f'<Attachment Name="TileScanInfo" FlipX="1" FlipY="1" SwapXY="1">{places}</Attachment>'
    overview = np.zeros((1, 1, 1, *tiles.shape[1:]), np.uint16)
    images = [("overview", overview, ""), ("TileScan 1", values, scan)]
    write_lif(root / "brain.lif", images, tiles.spacing_um)


# ---------------------------------------------------------------------- BIDS
def bids(
    root: Path, tiles: Tiles = RANDOM, *, unit: str = "um", in_voxels: bool = True,
    ending: str = ".ome.tif",
) -> None:  # fmt: skip
    """Chunks of one sample with two stains; the pixel size stands in a file above them."""
    factor = {"um": 1.0, "nm": 1e3, "mm": 1e-3}[unit]
    micr = root / "sub-01/micr"
    micr.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    size = [factor * s for s in tiles.spacing_um[::-1]]
    (root / "sample-brain_SPIM.json").write_text(
        json.dumps({"PixelSize": size, "PixelSizeUnits": unit})
    )
    for number, cell in enumerate(tiles.cells):
        y, x = tiles.step_px(cell)
        steps = x, y, 0.0
        matrix = np.eye(4)
        if not in_voxels:
            matrix[:3, :3] = np.diag(size)
        matrix[:3, 3] = steps if in_voxels else np.multiply(steps, size)
        for channel, stain in enumerate(NAMES):
            name = f"sub-01_sample-brain_stain-{stain}_chunk-{number + 1:02d}_SPIM"
            values = tiles.stack(cell, channel)
            if ending == ".ome.zarr":
                write_array(micr / f"{name}.ome.zarr/0", "zarr", values)
                levels = {"multiscales": [{"datasets": [{"path": "0"}]}]}
                (micr / f"{name}.ome.zarr/.zattrs").write_text(json.dumps(levels))
            else:
                text = folders.ome_xml(name, tiles, channels=(stain,))
                folders.write_ome(micr / f"{name}{ending}", values, text)
            (micr / f"{name}.json").write_text(
                json.dumps(
                    {
                        "ChunkTransformationMatrix": matrix.tolist(),
                        "ChunkTransformationMatrixAxis": ["X", "Y", "Z"],
                    }
                )
            )
