"""Gather the means of lines in the overlaps of one batch of tiles of one channel."""

from terareg.acquisition.line_gains import wanted_lines
from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, open_shading
from terareg.core.parallel import batch_range
from terareg.execution.job import run_job
from terareg.intensity.lines import LineLayout, sum_lines, sum_no_lines
from terareg.stitching.channel_shift import own_origins
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json
from terareg.storage.store import Store


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    lines = wanted_lines(snakemake.params.lines, read_json(snakemake.input.info))
    if lines == "none":
        sum_no_lines(snakemake.output.lines)
        return
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    flatfield = open_shading(snakemake.input, store)
    source = TileSource(acquisition, snakemake.wildcards.channel, flatfield=flatfield)
    placed = load_placement(snakemake.input.placement).origins(subpixel=True)
    origins = own_origins(placed, snakemake.input, acquisition.tile_shape)
    layout = LineLayout.of(source.acquisition, origins, lines)
    every = source.acquisition.tiles
    batch = batch_range(len(every), int(snakemake.wildcards.batch), snakemake.params.batches)
    tiles = [every[i].name for i in batch]
    sum_lines(snakemake.output.lines, source, tiles, layout, snakemake.threads)


run_job(snakemake, main)
