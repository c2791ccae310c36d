"""Make a BIDS data set of microscopy of a sample, in the store."""

from terareg.execution.job import run_job
from terareg.exports.bids import BidsSettings, write_dataset
from terareg.storage.records import write_json
from terareg.storage.store import Store


def main() -> None:
    sample, params = snakemake.wildcards.sample, snakemake.params
    settings = BidsSettings.from_config(params.settings, sample)
    store = Store(params.store)
    facts = write_dataset(store, sample, params.channels, settings, snakemake.threads)
    write_json(snakemake.output.record, facts)


run_job(snakemake, main)
