"""Check that a volume is complete, and set its display range."""

from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.finishing import finalize_volume
from terareg.volumes.plan import VolumePlan


def main() -> None:
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    key = f"{snakemake.wildcards.sample}/{snakemake.wildcards.volume}"
    # all batches were made from the same data with the same settings
    state = read_json(snakemake.input.batches[0])["fingerprint"]
    summary = finalize_volume(Store(snakemake.params.store), key, plan, fingerprint=state)
    write_json(snakemake.output.complete, summary)


run_job(snakemake, main)
