"""Make the coarse levels of a volume."""

from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import finish_pyramid


def main() -> None:
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    key = f"{snakemake.wildcards.sample}/{snakemake.wildcards.volume}"
    record = finish_pyramid(Store(snakemake.params.store), key, plan, snakemake.threads)
    write_json(snakemake.output.levels, record)


run_job(snakemake, main)
