"""Measure the displacements of one batch of neighbouring tiles."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import open_tiles
from terareg.core.parallel import batch_range
from terareg.execution.job import run_job
from terareg.stitching.displacement import measure_batch
from terareg.stitching.nominal import own_positions
from terareg.stitching.pairs import neighbours, save_pairs
from terareg.stitching.settings import MODELS_OF_POINTS, DisplacementSettings
from terareg.stitching.steps import Steps
from terareg.storage.records import read_json
from terareg.storage.store import Store


def main() -> None:
    acquisition = own_positions(load_acquisition(snakemake.input.acquisition), snakemake.input)
    channel = snakemake.params.channel
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    source = open_tiles(acquisition, channel, snakemake.input, store)
    steps = Steps.from_json(read_json(snakemake.input.steps))
    points = snakemake.params.model in MODELS_OF_POINTS
    settings = steps.apply(DisplacementSettings(**snakemake.params.settings, points=points))
    pairs = neighbours(acquisition)
    batch = batch_range(len(pairs), int(snakemake.wildcards.batch), snakemake.params.batches)
    chosen = [pairs[i] for i in batch]
    measured = measure_batch(source, acquisition, chosen, settings, snakemake.threads)
    save_pairs(snakemake.output.pairs, measured)


run_job(snakemake, main)
