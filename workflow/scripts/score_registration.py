"""Compare fiducials of the sample with those of the atlas."""

from pathlib import Path

from terareg.atlas.prepare import load_frame
from terareg.execution.job import run_job
from terareg.regions.fiducials import score_fiducials
from terareg.regions.points import read_points
from terareg.registration.transform import Transform
from terareg.storage.records import read_json, write_json, write_table
from terareg.volumes.plan import VolumePlan


def main() -> None:
    transform = Transform.load(Path(snakemake.input.transform).parent)
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    atlas_frame = load_frame(Path(snakemake.input.frame).parent)
    atlas_points = read_points(snakemake.input.atlas_points, atlas_frame)
    sample_points = read_points(snakemake.input.sample_points, plan.frame)
    rows = score_fiducials(atlas_points, sample_points, transform)
    write_table(snakemake.output.table, rows, ".3f")
    summary = {row["name"]: row["error_um"] for row in rows if row["kind"] == "summary"}
    write_json(snakemake.output.summary, {"error_um": summary, "fiducials": len(atlas_points)})


run_job(snakemake, main)
