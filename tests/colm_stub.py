"""Acquisitions of any size that take no room: described, or with a link for every plane."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile

INI = """[Experiment Settings]
X Resolution = "{pixels}"
Num in stack (Top Left Corner) = "{planes}"
Num Enabled Channels = "{channels}"

[Objectives]
North = "04x"

[North Scan Region]
Num Horizontal = "{columns}"
Num Vertical = "{rows}"
Stack Step (mm) = "0.0050"

[North Scan Region Stats]
Actual Horizontal Overlap (%) = "15.0"
Actual Vertical Overlap (%) = "15.0"
"""


def write_metadata(
    folder: Path,
    rows: int,
    columns: int,
    *,
    pixels: int = 2048,
    planes: int = 2000,
    channels: int = 2,
) -> Path:
    """Write Experiment.ini and Scanned Cells.txt of a full grid into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = INI.format(pixels=pixels, planes=planes, channels=channels, rows=rows, columns=columns)
    (folder / "Experiment.ini").write_text(text)
    cells = "\n".join(",".join("1" * columns) for _ in range(rows))
    (folder / "Scanned Cells.txt").write_text(cells + "\n")
    return folder


def write_linked_planes(
    folder: Path,
    rows: int,
    columns: int,
    *,
    pixels: int = 2048,
    planes: int = 2000,
    channels: int = 2,
) -> Path:
    """Write a whole acquisition of any size: one file per tile, every plane a hard link to it.

    Names, sizes and headers are those of real planes, so that everything that does not read pixels
    does what it would do with terabytes, and the disk holds one plane per tile.
    """
    write_metadata(folder, rows, columns, pixels=pixels, planes=planes, channels=channels)
    image = np.zeros((pixels, pixels), np.uint16)
    image[:, ::2] = 1  # a plane without any contrast counts as no signal
    for tile in range(rows * columns):
        place = folder / "VW0" / f"LOC{tile:03d}"
        place.mkdir(parents=True)
        first = place / "CHN00_PLN0000.tif"
        tifffile.imwrite(first, image, photometric="minisblack")
        for channel in range(channels):
            for plane in range(planes):
                if channel or plane:
                    os.link(first, f"{place}/CHN{channel:02d}_PLN{plane:04d}.tif")
    return folder
