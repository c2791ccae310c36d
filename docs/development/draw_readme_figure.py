"""Draw the figure of README.md: raw tiles, the fused brain, the atlas's regions on it.

    make demo
    .venv/bin/python docs/development/draw_readme_figure.py

reads a finished demo in ``results`` and writes ``docs/overview.png``. Start it where the demo ran.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from terareg.acquisition.model import Acquisition, load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.core.frames import Frame
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic
from terareg.views.figures import canvas
from terareg.volumes.reader import Volume

OUT = Path(__file__).resolve().parents[1] / "overview.png"
GAP = 12  # pixels between raw tiles
LENGTH_UM = 2000.0


def raw_tiles(acquisition: Acquisition, channel: str, z: int) -> np.ndarray:
    """One plane of every tile as the microscope wrote it, side by side; nothing where none is."""
    source = TileSource(acquisition, channel)
    height, width = acquisition.tile_shape[1:]
    rows, columns = acquisition.rows, acquisition.columns
    shape = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    shown = np.full(shape, np.nan)
    for tile in acquisition.tiles:
        y, x = tile.row * (height + GAP), tile.column * (width + GAP)
        shown[y : y + height, x : x + width] = source.read(tile.name, z, z + 1)[0]
    return shown


def coloured(image: np.ndarray, labels: np.ndarray, colours: dict[int, str], limits) -> np.ndarray:
    """Labels in the ontology's colours over a grey image, with their boundaries."""
    low, high = limits
    grey = np.clip((image.astype(float) - low) / (high - low), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for region in np.unique(labels[labels > 0]):
        code = colours[int(region)]
        colour = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        inside = labels == region
        picture[inside] = 0.45 * picture[inside] + 0.55 * colour
    picture[canvas.boundaries(labels)] = 1.0
    return picture


@canvas.picture
def overview(tiles: np.ndarray, fused: np.ndarray, labels: np.ndarray, colours: dict, frame: Frame):
    """The three panels, each with the same scale bar."""
    figure: Figure = canvas.new_figure(11, 3.3, "")
    axes = canvas.axes_grid(figure, 1, 3)[0]
    limits = canvas.window(fused)
    titles = ("raw tiles", "stitched, fused and corrected", "regions of the atlas")
    shown = (tiles, fused, coloured(fused, labels, colours, limits))
    _, step_y, step_x = frame.spacing_um
    for panel, title, image in zip(axes, titles, shown, strict=True):
        height, width = image.shape[0] * step_y, image.shape[1] * step_x
        panel.imshow(
            image,
            cmap="gray",
            vmin=limits[0],
            vmax=limits[1],
            extent=(0, width, height, 0),
        )
        panel.set_title(title)
        panel.set_axis_off()
        canvas.scale_bar(panel, width, height, LENGTH_UM)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", type=Path)
    parser.add_argument("--out", default=OUT, type=Path)
    args = parser.parse_args()
    sample, atlas, channel = "demo", "phantom", "ch0"
    acquisition = load_acquisition(args.results / sample / "acquisition.json")
    store = Store(str(args.results))
    volume = Volume(store, f"{sample}/corrected_volume/{channel}")
    labels = Volume(store, f"{sample}/labels/{atlas}")
    with open(args.results / f"atlases/{atlas}/ontology.tsv", newline="") as stream:
        colours = {int(row["id"]): row["colour"] for row in csv.DictReader(stream, delimiter="\t")}
    z = volume.frame.shape[0] // 2
    planes = [v.read(0, (z, 0, 0), (z + 1, *v.frame.shape[1:]))[0] for v in (volume, labels)]
    offset = read_json(args.results / f"{sample}/fused/{channel}/plan.json")["offset_vox"]
    tiles = raw_tiles(acquisition, channel, z + offset[0])
    write_atomic(args.out, overview(tiles, *planes, colours, volume.frame))


if __name__ == "__main__":
    main()
