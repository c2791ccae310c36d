"""Write one batch of corrected tiles into the store."""

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource, corrected_key, open_shading, write_corrected
from terareg.core.parallel import batch_range
from terareg.execution.job import run_job
from terareg.storage.records import fingerprint, write_json
from terareg.storage.store import Store


def main() -> None:
    channel, sample = snakemake.wildcards.channel, snakemake.wildcards.sample
    acquisition = load_acquisition(snakemake.input.acquisition)
    store = Store(snakemake.params.store).child(sample)
    flatfield = open_shading(snakemake.input, store)
    source = TileSource(acquisition, channel, flatfield=flatfield)
    state = fingerprint(
        snakemake.params.code,
        snakemake.params.raw_state,
        flatfield.state,
        acquisition.missing_planes,
    )
    tiles = source.acquisition.tiles
    batch = batch_range(len(tiles), int(snakemake.wildcards.batch), snakemake.params.batches)
    records = {}
    for index in batch:
        tile = tiles[index].name
        key = corrected_key(channel, tile)
        record = write_corrected(source, store, key, tile, state, snakemake.threads)
        records[tile] = {k: v for k, v in record.items() if k != "run"}
    write_json(snakemake.output.batch, {"tiles": records})


run_job(snakemake, main)
