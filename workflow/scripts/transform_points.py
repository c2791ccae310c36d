"""Carry a list of points through the transform and name the region of each."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.point_files import PointForm
from terareg.regions.points import (
    carry_points,
    marked_outside,
    read_points,
    write_neuroglancer_points,
    write_points_csv,
)
from terareg.registration.transform import Transform
from terareg.storage.records import read_json
from terareg.volumes.plan import VolumePlan


def main() -> None:
    transform = Transform.load(Path(snakemake.input.transform).parent)
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    settings = snakemake.params.settings
    source, target = settings["space"], {"sample": "atlas", "atlas": "sample"}[settings["space"]]
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    frame = plan.frame if source == "sample" else atlas.frame
    form = PointForm.from_config(settings)
    points = read_points(snakemake.input.points, frame, form=form)
    points = marked_outside(points, frame, f"{settings['path']} against the {source}")
    carried = carry_points(points, transform, atlas, to=target)
    write_points_csv(snakemake.output.table, carried)
    write_neuroglancer_points(
        snakemake.output.annotations, carried, name=snakemake.wildcards.points
    )


run_job(snakemake, main)
