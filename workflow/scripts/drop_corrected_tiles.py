"""Delete the corrected tiles of one channel; its volume is complete."""

import logging

from terareg.job import run_job
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    channel = snakemake.wildcards.channel
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    folder = f"corrected/{channel}"
    # records first, so that no record outlives its array
    tiles = [name for name in store.folders(folder) if store.exists(f"{folder}/{name}.json")]
    for tile in tiles:
        store.delete(f"{folder}/{tile}.json")
        store.delete_folder(f"{folder}/{tile}")
    logging.getLogger("terareg").info("deleted %d corrected tiles of %s", len(tiles), channel)
    write_json(snakemake.output.dropped, {"channel": channel})


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
