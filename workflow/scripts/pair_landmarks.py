"""Read the landmarks of the sample and of the atlas and pair them by name."""

from pathlib import Path

from terareg.atlas.prepare import load_frame
from terareg.execution.job import run_job
from terareg.regions.fiducials import pair_landmarks
from terareg.storage.records import read_json, write_json
from terareg.volumes.plan import VolumePlan


def main() -> None:
    paths = {"atlas": snakemake.input.atlas_points, "sample": snakemake.input.sample_points}
    frames = {
        "atlas": load_frame(Path(snakemake.input.frame).parent),
        "sample": VolumePlan.from_json(read_json(snakemake.input.plan)["plan"]).frame,
    }
    landmarks = pair_landmarks(paths, frames, snakemake.params.landmark_um)
    write_json(snakemake.output.landmarks, landmarks.to_json())


run_job(snakemake, main)
