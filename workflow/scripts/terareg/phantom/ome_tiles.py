"""A generated acquisition as another microscope would write it: OME-TIFF with stage positions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from terareg.acquisition.colm import ColmLayout
from terareg.acquisition.indexing import IndexSettings, index_acquisition
from terareg.acquisition.layout import LayoutOptions
from terareg.acquisition.tiles import TileSource
from terareg.core.errors import AcquisitionError
from terareg.storage.store import Store

logger = logging.getLogger(__name__)
#: where the stage stood for cell (0, 0), micrometres (y, x): it need not begin at 0
CORNER_UM = (12_000.0, -3_500.0)


def write_ome_tiles(raw: Path, out: Path, channels: Sequence[int] = ()) -> list[Path]:
    """Write every tile of a COLM acquisition as one OME-TIFF of all planes and channels.

    Parameters
    ----------
    raw : path
        Folder with ``Experiment.ini``.
    out : path
        New folder. Files are numbered in no order that tells where they lie.
    channels : sequence of int, optional
        Numbers of the channels; all by default.

    Returns
    -------
    list of path

    Raises
    ------
    AcquisitionError
        If ``out`` is there, or ``raw`` holds no acquisition.
    """
    if out.exists():
        raise AcquisitionError(f"{out} already exists; choose another folder")
    chosen: dict[str, int | str] = {f"ch{number}": number for number in channels}
    layout = ColmLayout(
        Store(str(raw)), LayoutOptions(chosen) if chosen else LayoutOptions(), "VW0"
    )
    acquisition = index_acquisition(layout, IndexSettings("tiles", "SAR"))
    out.mkdir(parents=True)
    sources = [TileSource(acquisition, channel.name) for channel in acquisition.channels]
    depth = acquisition.tile_shape[0]
    z_um, y_um, x_um = acquisition.spacing_um
    step_um = [s * v for s, v in zip(acquisition.nominal_step_vox, (y_um, x_um))]
    files = []
    # columns from the right, as a stage may run
    tiles = sorted(acquisition.tiles, key=lambda tile: (-tile.column, tile.row))
    for number, tile in enumerate(tiles):
        values = np.stack([source.read(tile.name, 0, depth) for source in sources])
        place = [c + n * s for c, n, s in zip(CORNER_UM, (tile.row, tile.column), step_um)]
        count = depth * len(sources)
        metadata = {
            "axes": "CZYX",
            "PhysicalSizeX": x_um, "PhysicalSizeY": y_um, "PhysicalSizeZ": z_um,
            "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "µm",
            "Channel": {"Name": [channel.name for channel in acquisition.channels]},
            "Plane": {
                "PositionX": [place[1]] * count, "PositionXUnit": ["µm"] * count,
                "PositionY": [place[0]] * count, "PositionYUnit": ["µm"] * count,
            },
        }  # fmt: skip
        files.append(out / f"scan_{number:03d}.ome.tif")
        tifffile.imwrite(files[-1], values, ome=True, metadata=metadata, compression="zlib")
        logger.info("wrote %s", files[-1])
    return files
