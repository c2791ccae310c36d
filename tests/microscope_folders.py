"""Small folders as microscopes and programs write them, with tiles whose pixels are known.

Every tile is random, so that a tile that is taken for another is noticed, or shows what a test has
to show. Tiles overlap by a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

CELLS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
PLANES, HEIGHT, WIDTH = 4, 20, 30
SPACING_UM = (5.0, 1.5, 2.0)  # z, y, x
CHANNELS = 2


def stack(cell, channel: int = 0) -> np.ndarray:
    """Pixels of a tile."""
    seed = 100 * cell[0] + 10 * cell[1] + channel
    return np.random.default_rng(seed).integers(1, 60000, (PLANES, HEIGHT, WIDTH), np.uint16)


@dataclass(frozen=True)
class Tiles:
    """What there is to be written.

    Attributes
    ----------
    cells : sequence of (row, column)
    shape : tuple of int
        Voxels of a tile (z, y, x).
    spacing_um : tuple of float
        (z, y, x)
    stack : callable
        Pixels of a cell and a channel.
    """

    cells: Sequence[tuple[int, int]] = tuple(CELLS)
    shape: tuple[int, int, int] = (PLANES, HEIGHT, WIDTH)
    spacing_um: tuple[float, float, float] = SPACING_UM
    stack: Callable[..., np.ndarray] = stack

    def step_px(self, cell) -> tuple[float, float]:
        """Place (y, x) of a cell, pixels."""
        return 0.8 * self.shape[1] * cell[0], 0.8 * self.shape[2] * cell[1]

    def place_um(self, cell) -> tuple[float, float]:
        """Stage position (y, x)."""
        y, x = self.step_px(cell)
        return 700.0 + y * self.spacing_um[1], -300.0 + x * self.spacing_um[2]

    @property
    def step_of_names(self) -> int:
        """Distance of planes in names, tenths of a micrometre."""
        return round(10 * self.spacing_um[0])


RANDOM = Tiles()
#: a SmartSPIM has square pixels
SQUARE = replace(RANDOM, spacing_um=(5.0, 1.5, 1.5))


def smartspim(root: Path, tiles: Tiles = SQUARE) -> None:
    """Outer folders are named by x."""
    lasers = ("Ex_488_Em_525", "Ex_561_Em_600")
    z_um, pixel_um, _ = tiles.spacing_um
    lines = ["Obj\tRes\tµm/pix\tZ step (µm)\t", f"3.6x\t2048\t{pixel_um:g}\t{z_um:g}\t"]
    lines += ["Power\tLeft\tRight", "488\t20\t20", "X\tY\tZ\tLaser\tSide\tExposure"]
    for cell in tiles.cells:
        y, x = (f"{round(10 * v):06d}" for v in tiles.place_um(cell))
        lines.append(f"{x}\t{y}\t100\t1\t0\t2")
        for channel, laser in enumerate(lasers):
            folder = root / laser / x / f"{x}_{y}"
            folder.mkdir(parents=True)
            for z, plane in enumerate(tiles.stack(cell, channel)):
                tifffile.imwrite(folder / f"{tiles.step_of_names * z:06d}.tiff", plane)
    (root / "metadata.txt").write_text("\n".join(lines) + "\n", encoding="cp1252")


def terastitcher(root: Path, tiles: Tiles = RANDOM) -> None:
    """One channel, outer folders named by y, no metadata."""
    for cell in tiles.cells:
        y, x = (f"{round(10 * v):06d}" for v in tiles.place_um(cell))
        folder = root / y / f"{y}_{x}"
        folder.mkdir(parents=True)
        for z, plane in enumerate(tiles.stack(cell)):
            tifffile.imwrite(folder / f"{y}_{x}_{tiles.step_of_names * z:06d}.tif", plane)


def ome_xml(
    name: str, tiles: Tiles = RANDOM, *, number=1, position=None, extra: str = "", channels=("a",)
) -> str:
    """OME-XML of one image of a ``number`` of channels; ``position`` is (y, x)."""
    (z, height, width), (z_um, y_um, x_um) = tiles.shape, tiles.spacing_um
    plane = "" if position is None else (
        f'<Plane TheC="0" TheZ="0" TheT="0" PositionX="{position[1] / 1000}" PositionXUnit="mm" '
        f'PositionY="{position[0] / 1000}" PositionYUnit="mm" PositionZ="7" PositionZUnit="µm"/>'
    )  # fmt: skip
    named = "".join(f'<Channel ID="Channel:0:{i}" Name="{n}"/>' for i, n in enumerate(channels))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/'
        f'OME/2016-06"><Image ID="Image:0" Name={quoteattr(name)}><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint16" SizeX="{width}" SizeY="{height}" SizeC="{number}" '
        f'SizeZ="{z}" SizeT="1" PhysicalSizeX="{x_um}" PhysicalSizeY="{y_um}" '
        f'PhysicalSizeZ="{1000 * z_um}" PhysicalSizeZUnit="nm">{named}<TiffData/>{plane}'
        f"</Pixels></Image>{extra}</OME>"
    )


def write_ome(path: Path, planes: np.ndarray, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for k, plane in enumerate(planes):
            tiff.write(
                plane, photometric="minisblack", metadata=None,
                description=text.encode() if k == 0 else None,
            )  # fmt: skip


def blaze(
    root: Path, tiles: Tiles = RANDOM, *, offsets: bool = True, overlap: bool = True,
    name="16-51_UltraII",
) -> None:  # fmt: skip
    """A file for each plane; the stage's y falls from row to row."""
    for cell in tiles.cells:
        y, x = tiles.place_um(cell)
        extra = '<ca:CustomAttributes xmlns:ca="http://lavision">'
        extra += f'<Offset Offset_0="{x}" Offset_1="{-y}" Offset_2="0.0"/>' if offsets else ""
        extra += '<xyz-Table_XY_Overlap nTy="3" Value="20.000000"/>' if overlap else ""
        extra += "</ca:CustomAttributes>"
        for channel in range(CHANNELS):
            head = f"{name}[{cell[0]:02d} x {cell[1]:02d}]_C{channel:02d}_xyz-Table Z"
            for z, plane in enumerate(tiles.stack(cell, channel)):
                text = ome_xml(head, tiles, number=CHANNELS, extra=extra, channels="ab")
                write_ome(root / f"{head}{z:04d}.ome.tif", plane[None], text)


def zeiss(root: Path, tiles: Tiles = RANDOM) -> None:
    """A file for each tile and channel, numbered in no order that means anything."""
    for number, cell in enumerate(sorted(tiles.cells, key=lambda c: -c[1])):
        for channel, dye in enumerate(("AF488", "Cy5")):
            name = f"brain_s{number:02d}_{dye}.ome.tif"
            text = ome_xml(name, tiles, position=tiles.place_um(cell), channels=(dye,))
            write_ome(root / name, tiles.stack(cell, channel), text)


def micromanager(root: Path, tiles: Tiles = RANDOM) -> None:
    """A file for each position, with both channels, the pages of which alternate."""
    for cell in tiles.cells:
        name = f"scan_1_MMStack_1-Pos{cell[1]:03d}_{cell[0]:03d}.ome.tif"
        pages = np.stack([tiles.stack(cell, c) for c in range(CHANNELS)], axis=1)
        text = ome_xml(
            f"1-Pos{cell[1]:03d}_{cell[0]:03d}", tiles, number=CHANNELS,
            position=tiles.place_um(cell), channels=("DAPI", "Cy5"),
        )  # fmt: skip
        write_ome(root / name, pages.reshape(-1, *tiles.shape[1:]), text)


def fiji(root: Path, tiles: Tiles = RANDOM, *, planes: int | None = None) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["dim = 3"]
    for k, cell in enumerate(tiles.cells):
        tifffile.imwrite(
            root / f"tile_{k}.tif", tiles.stack(cell)[:planes], photometric="minisblack"
        )
        y, x = tiles.step_px(cell)
        lines.append(f"tile_{k}.tif; ; ({x}, {y}, 0.0)")
    (root / "TileConfiguration.txt").write_text("\n".join(lines) + "\n")


def named_folders(root: Path, tiles: Tiles = RANDOM) -> None:
    """A folder of planes for each tile."""
    for cell in tiles.cells:
        folder = root / f"tile_row{cell[0]}_col{cell[1]}"
        folder.mkdir(parents=True)
        for z, plane in enumerate(tiles.stack(cell)):
            tifffile.imwrite(folder / f"img_{z:03d}.tif", plane)


def own_table(root: Path, tiles: Tiles = RANDOM) -> None:
    root.mkdir(parents=True, exist_ok=True)
    lines = ["path\tchannel\ty_um\tx_um"]
    for cell in tiles.cells:
        name = f"{cell[0]}{cell[1]}.tif"
        tifffile.imwrite(root / name, tiles.stack(cell), photometric="minisblack")
        y, x = tiles.place_um(cell)
        lines.append(f"{name}\t488\t{y}\t{x}")
    (root / "tiles.tsv").write_text("\n".join(lines) + "\n")


def two_sides(root: Path, tiles: Tiles = RANDOM) -> None:
    """A table of tiles that were lit from the left and from the right."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["path\tchannel\tside\ty_um\tx_um"]
    for cell in tiles.cells:
        for number, side in enumerate(("left", "right")):
            name = f"{cell[0]}{cell[1]}_{side}.tif"
            tifffile.imwrite(root / name, tiles.stack(cell, number), photometric="minisblack")
            y, x = tiles.place_um(cell)
            lines.append(f"{name}\t488\t{side}\t{y}\t{x}")
    (root / "tiles.tsv").write_text("\n".join(lines) + "\n")
