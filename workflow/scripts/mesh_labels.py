"""Make a surface of every region in the sample."""

from pathlib import Path

from terareg.atlas.prepare import load_ontology
from terareg.execution.job import run_job
from terareg.regions.meshes import MeshSettings, write_meshes
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    key = f"{snakemake.wildcards.sample}/labels/{snakemake.wildcards.atlas}"
    store = Store(snakemake.params.store)
    volume = Volume(store, key)
    level = volume.level_for(snakemake.params.resolution_um)
    frame = volume.level_frame(level)
    labels = volume.read(level, (0, 0, 0), frame.shape)
    folder = f"{key}/precomputed/mesh"
    ontology, _ = load_ontology(Path(snakemake.input.ontology).parent)
    tops = ontology.level(0)
    whole = tops[0] if len(tops) == 1 else None
    settings = MeshSettings(workers=snakemake.threads, whole=whole)
    objects = write_meshes(store, folder, labels, frame, volume.frame, settings)
    write_json(snakemake.output.meshes, {"level": level, "whole": whole, "objects": objects})


run_job(snakemake, main)
