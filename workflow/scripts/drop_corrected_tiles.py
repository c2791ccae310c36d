"""Delete the corrected tiles of one channel; its volume is complete."""

import logging

from terareg.execution.job import run_job
from terareg.storage.records import write_json
from terareg.storage.removal import find_corrected_tiles, remove
from terareg.storage.store import Store


def main() -> None:
    channel = snakemake.wildcards.channel
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    found = find_corrected_tiles(store, channel)
    logging.getLogger("terareg").info("%s", found)
    remove([found])
    write_json(snakemake.output.dropped, {"channel": channel})


run_job(snakemake, main)
