"""Carry a list of points through the transform and name the region of each."""

import logging
from pathlib import Path

import numpy as np

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.labels import regions_at
from terareg.regions.point_files import PointForm
from terareg.regions.points import (
    carry_points,
    located_in_atlas,
    marked_outside,
    read_with_listing,
    write_neuroglancer_points,
    write_points_csv,
)
from terareg.regions.readings import judge_reading
from terareg.registration.transform import Transform
from terareg.storage.records import read_json, write_json
from terareg.volumes.plan import VolumePlan


def main() -> None:
    transform = Transform.load(Path(snakemake.input.transform).parent)
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    settings = snakemake.params.settings
    source, target = settings["space"], {"sample": "atlas", "atlas": "sample"}[settings["space"]]
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    frame = plan.frame if source == "sample" else atlas.frame
    form = PointForm.from_config(settings)
    points, listed = read_with_listing(snakemake.input.points, frame, form=form)

    def in_regions(position_um):
        lie = frame.contains(position_um)
        inside = position_um[lie]
        if source == "sample":
            _, ids, _ = located_in_atlas(inside, transform, atlas)
        else:
            ids, _ = regions_at(atlas, inside.T)
        lie[lie] = ids > 0
        return lie

    reading = judge_reading(listed, points.position_um, frame, in_regions)
    advice = reading.sentence(snakemake.wildcards.points)
    points = marked_outside(points, frame, f"{settings['path']} against the {source}", advice)
    if advice:
        logging.getLogger("terareg").warning("%s", advice)
    carried = carry_points(points, transform, atlas, to=target)
    write_points_csv(snakemake.output.table, carried)
    outside = int(np.sum(~points.in_volume))
    figures = reading.to_json() | {"atlas": settings["atlas"], "outside_volume": outside}
    figures["warnings"] = [advice] if advice else []
    write_json(snakemake.output.summary, figures)
    write_neuroglancer_points(
        snakemake.output.annotations, carried, name=snakemake.wildcards.points
    )


run_job(snakemake, main)
