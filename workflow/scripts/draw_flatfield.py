"""Draw the flat-field of a channel, and its effect on the mean of the tiles."""

import numpy as np

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tile_correction import Flatfield, load_flatfield
from terareg.acquisition.tiles import TileSource
from terareg.execution.job import run_job
from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views.figures.intensity import flatfield_map, tile_means

PLANES = 4  # planes of every tile that enter the means


def mean_planes(raw: TileSource, flatfield: Flatfield) -> tuple[np.ndarray, np.ndarray]:
    """Mean over all tiles, raw and corrected."""
    acquisition = raw.acquisition
    depth = acquisition.tile_shape[0]
    planes = sorted({(2 * n + 1) * depth // (2 * PLANES) for n in range(PLANES)})
    before, after = np.zeros((2, *acquisition.tile_shape[1:]))
    for tile in acquisition.tiles:
        for z in planes:
            plane = raw.read(tile.name, z, z + 1)[0]
            before += plane
            after += flatfield.correct(plane, place=(tile.name, z))[0]
    count = len(acquisition.tiles) * len(planes)
    return before / count, after / count


def main() -> None:
    channel = snakemake.wildcards.channel
    acquisition = load_acquisition(snakemake.input.acquisition)
    flatfield = load_flatfield(snakemake.input.profile, snakemake.input.info)
    info = read_json(snakemake.input.info)
    picture = flatfield_map(flatfield.profile, info, flatfield.additive, channel=channel)
    write_atomic(snakemake.output.profile, picture)
    before, after = mean_planes(TileSource(acquisition, channel), flatfield)
    picture = tile_means(before - flatfield.dark(), after, channel=channel)
    write_atomic(snakemake.output.means, picture)


run_job(snakemake, main)
