"""Measure the displacements of one batch of neighbouring tiles."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import open_tiles
from terareg.core.parallel import batch_range
from terareg.execution.job import run_job
from terareg.stitching.better_side import as_on_first_side, measure_better_sides
from terareg.stitching.channel_shift import load_shift
from terareg.stitching.displacement import measure_batch
from terareg.stitching.nominal import own_positions
from terareg.stitching.pairs import neighbours, save_pairs
from terareg.stitching.settings import MODELS_OF_POINTS, DisplacementSettings
from terareg.stitching.steps import Steps
from terareg.storage.records import read_json
from terareg.storage.store import Store


def main() -> None:
    acquisition = own_positions(load_acquisition(snakemake.input.acquisition), snakemake.input)
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    steps = Steps.from_json(read_json(snakemake.input.steps))
    points = snakemake.params.model in MODELS_OF_POINTS
    settings = steps.apply(DisplacementSettings(**snakemake.params.settings, points=points))
    pairs = neighbours(acquisition)
    batch = batch_range(len(pairs), int(snakemake.wildcards.batch), snakemake.params.batches)
    chosen = [pairs[i] for i in batch]
    ends = snakemake.params.sides
    sources = {}
    for side, prefix in zip(ends or [snakemake.params.channel], ("", "other_")):
        files = {key: snakemake.input.get(prefix + key) for key in ("profile", "info")}
        sources[side] = open_tiles(acquisition, side, files, store)
    if ends:
        axis = "zyx".index(next(iter(ends.values()))[1])
        measured = measure_better_sides(
            sources, acquisition, chosen, settings, axis, snakemake.threads
        )
        if snakemake.input.get("other_shift"):
            shift = load_shift(snakemake.input.other_shift)
            measured = as_on_first_side(measured, shift, acquisition.tile_shape)
    else:
        (source,) = sources.values()
        measured = measure_batch(source, acquisition, chosen, settings, snakemake.threads)
    save_pairs(snakemake.output.pairs, measured)


run_job(snakemake, main)
