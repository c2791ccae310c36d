"""Compare the user's own labels of the sample with those carried over from the atlas."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.overlap import read_sample_labels, score_labels
from terareg.registration.transform import Transform
from terareg.storage.records import read_json, write_json, write_table
from terareg.volumes.plan import VolumePlan


def main() -> None:
    settings = snakemake.params.settings
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    path = snakemake.input.labels[0] if snakemake.input.labels else settings["path"]
    labels, frame = read_sample_labels(path, plan.frame, settings["spacing_um"])
    rows = score_labels(labels, frame, transform, atlas, settings["groups"])
    write_table(snakemake.output.table, rows, ".4f")
    dice = {row["name"]: row["dice"] for row in rows if row["kind"] == "summary"}
    regions = sum(row["kind"] == "region" for row in rows)
    write_json(snakemake.output.summary, {"dice": dice, "regions": regions})


run_job(snakemake, main)
