"""Read a volume back and compare it with what was written."""

from terareg.core.errors import VolumeError
from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.finishing import remove_damaged_blocks
from terareg.volumes.plan import VolumePlan


def main() -> None:
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    store = Store(snakemake.params.store)
    key = f"{snakemake.wildcards.sample}/{snakemake.wildcards.volume}"
    damaged = remove_damaged_blocks(store, key, plan, snakemake.threads)
    if damaged:
        raise VolumeError(
            f"{store.address(key)}: {len(damaged)} of {len(plan.blocks())} blocks are not what was "
            f"written (first: {damaged[0]}); run again with -R {snakemake.params.writer}, which "
            "writes these and no others"
        )
    complete = read_json(snakemake.input.complete)
    write_json(
        snakemake.output.verified, {"blocks": len(plan.blocks()), "sha256": complete["sha256"]}
    )


run_job(snakemake, main)
