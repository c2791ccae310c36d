"""Plan the label volume of the sample and write its metadata and region names."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.meshes import label_metadata, write_segment_properties
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan, VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import init_volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.atlas
    source = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    store = Store(snakemake.params.store)
    level = Volume(store, "", source).level_for(snakemake.params.resolution_um)
    frame = source.levels[level].frame
    # names and meshes belong to the precomputed copy
    options = dict(snakemake.params.volume) | {"kind": "segmentation"}
    options["formats"] = sorted({*options["formats"], "precomputed"})
    settings = VolumeSettings(**options)
    plan = make_plan(f"{sample} {name}", frame, "uint32", settings)
    key = f"{sample}/labels/{name}"
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    # a top region without voxels of its own still has the mesh of the whole
    ids = sorted({i for i in atlas.ids.tolist() if i} | set(atlas.ontology.level(0)))
    metadata = {
        "precomputed": {"mesh": "mesh", "segment_properties": "segment_properties"},
        **label_metadata(ids, atlas.ontology),
    }
    init_volume(store, key, plan, metadata, replace=True)
    folder = f"{key}/precomputed/segment_properties"
    objects = write_segment_properties(store, folder, ids, atlas.ontology)
    record = {"plan": plan.to_json(), "source_level": level, "objects": objects}
    write_json(snakemake.output.plan, record)


run_job(snakemake, main)
