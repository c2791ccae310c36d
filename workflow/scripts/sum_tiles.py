"""Gather statistics of one batch of tiles of one channel."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.core.parallel import batch_range
from terareg.execution.job import run_job
from terareg.intensity.settings import FlatfieldSettings, sample_tiles
from terareg.intensity.sums import save_sums, sum_tiles
from terareg.stitching.channel_shift import own_origins
from terareg.stitching.placement import load_placement


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    source = TileSource(acquisition, snakemake.wildcards.channel)
    settings = FlatfieldSettings(**snakemake.params.settings)
    origins = None
    if snakemake.input.get("placement"):
        places = load_placement(snakemake.input.placement).tiles
        placed = {name: tile.origin_vox for name, tile in places.items()}
        origins = own_origins(placed, snakemake.input, acquisition.tile_shape)
    tiles = sample_tiles(source.acquisition, settings)
    batch = batch_range(len(tiles), int(snakemake.wildcards.batch), snakemake.params.batches)
    chosen = [tiles[i] for i in batch]
    save_sums(snakemake.output.sums, sum_tiles(source, chosen, settings, origins))


run_job(snakemake, main)
