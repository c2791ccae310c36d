"""A described acquisition without images: what dry runs need."""

from __future__ import annotations

from pathlib import Path

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
