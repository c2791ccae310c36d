"""Write the metadata of the corrected volume of a channel: the fused volume's layout."""

from terareg.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    key = f"{sample}/corrected_volume/{channel}"
    store = Store(snakemake.params.store)
    init_volume(store, key, plan, {"channel": channel}, replace=True)
    write_json(snakemake.output.plan, planned)


run_job(snakemake.rule, snakemake.log[0], main, snakemake.params.record)
