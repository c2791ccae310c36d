"""Make the slice browser of a sample and an atlas."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.storage import nrrd
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic
from terareg.views.planes import labels_on, spacing_for
from terareg.views.slices import Sample, slices_page, smallest_fitting
from terareg.volumes.reader import Volume


def main() -> None:
    name, atlas = snakemake.wildcards.sample, snakemake.wildcards.atlas
    store = Store(snakemake.params.store)
    image = Volume(store, f"{name}/{snakemake.params.source}")
    labels = Volume(store, f"{name}/labels/{atlas}")
    limits = read_json(snakemake.input.complete)["window"]
    ontology = load_atlas(Path(snakemake.input.atlas).parent, template=False).ontology
    names = {region.id: f"{region.acronym}, {region.name}" for region in ontology}
    posteriors, damage_frame = nrrd.read_scalar(snakemake.input.posteriors)
    maps = dict(zip(read_json(snakemake.input.basis)["classes"], posteriors))
    damage = {kind: maps[kind] for kind in ("missing", "artefact")}

    def page(voxels: float) -> str:
        data, frame = image.resampled(spacing_for(image.frame, voxels), snakemake.threads)
        sample = Sample(data, labels_on(labels, frame), frame, limits, names)
        return slices_page(f"{name}, {atlas}: slices", sample, damage, damage_frame)

    write_atomic(snakemake.output.page, smallest_fitting(page).encode())


run_job(snakemake, main)
