"""Read a volume back and compare it with what was written."""

from terareg.core.errors import VolumeError
from terareg.execution.job import run_job
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.finishing import (
    remove_damaged_blocks,
    remove_damaged_metadata,
    remove_damaged_top,
)
from terareg.volumes.plan import VolumePlan


def main() -> None:
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    store = Store(snakemake.params.store)
    key = f"{snakemake.wildcards.sample}/{snakemake.wildcards.volume}"
    damaged = remove_damaged_blocks(store, key, plan, snakemake.threads)
    if damaged:
        raise VolumeError(
            f"{store.address(key)}: {len(damaged)} of {len(plan.blocks())} blocks have changed "
            f"since they were written (first: {damaged[0]}); run again with -R "
            f"{snakemake.params.writer}, which rewrites only these"
        )
    levels = remove_damaged_top(store, key, plan, snakemake.threads)
    if levels:
        raise VolumeError(
            f"{store.address(key)}: level {levels[0]} does not match its finer level; run again "
            "with -R finish_pyramid, which writes the coarse levels again"
        )
    complete = read_json(snakemake.input.complete)
    files = remove_damaged_metadata(store, key, plan, complete.get("window"))
    if files:
        raise VolumeError(
            f"{store.address(key)}: {files[0]} has changed since it was written; delete "
            f"{snakemake.input.plan} and run again, which rewrites it without the voxels"
        )
    write_json(
        snakemake.output.verified, {"blocks": len(plan.blocks()), "sha256": complete["sha256"]}
    )


run_job(snakemake, main)
