"""Read meshes, skeletons, points and their metadata back and compare them with what was written."""

from terareg.core.errors import VolumeError
from terareg.execution.job import run_job
from terareg.storage.records import damaged_objects, read_json, write_json
from terareg.storage.store import Store


def main() -> None:
    store = Store(snakemake.params.store)
    count = 0
    for path, rule in zip(snakemake.input.lists, snakemake.params.writers, strict=True):
        objects = read_json(path)["objects"]
        damaged = damaged_objects(store, objects)
        if damaged:
            raise VolumeError(
                f"{store.address(damaged[0])} has changed since it was written ({len(damaged)} of "
                f"{len(objects)} objects differ); run again with -R {rule}, which writes them "
                "again"
            )
        count += len(objects)
    write_json(snakemake.output.verified, {"objects": count})


run_job(snakemake, main)
