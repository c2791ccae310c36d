"""Gather statistics of one batch of tiles of one channel."""

from terareg import planning
from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.intensity.flatfield import FlatfieldSettings, save_sums, sum_tiles
from terareg.job import run_job


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    source = TileSource(acquisition, snakemake.wildcards.channel)
    batch = planning.batch_range(
        len(acquisition.tiles), int(snakemake.wildcards.batch), snakemake.params.batches
    )
    tiles = [acquisition.tiles[i].name for i in batch]
    settings = FlatfieldSettings(**snakemake.params.settings)
    save_sums(snakemake.output.sums, sum_tiles(source, tiles, settings))


run_job(snakemake.rule, snakemake.log[0], main)
