"""Compare the two sides of a channel."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, open_shading
from terareg.execution.job import run_job
from terareg.stitching.channel_shift import load_shift
from terareg.stitching.sides import match_sides, save_match
from terareg.storage.store import Store

SHADING = ("profile", "info", "stripes")


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    ends = snakemake.params.sides
    sources = []
    for side, prefix in zip(ends, ("", "other_")):
        files = {key: snakemake.input.get(prefix + key) for key in SHADING}
        sources.append(TileSource(acquisition, side, flatfield=open_shading(files, store)))
    shift = load_shift(snakemake.input.shift) if snakemake.input.get("shift") else None
    named = (snakemake.wildcards.channel, ends)
    match = match_sides(sources, shift, named, snakemake.params.settings, snakemake.threads)
    save_match(snakemake.output.match, match)


run_job(snakemake, main)
