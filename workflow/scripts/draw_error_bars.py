"""Draw how far the borders of regions may be off."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.labels import region_block
from terareg.registration.transform import Transform
from terareg.storage import nrrd
from terareg.storage.store import write_atomic
from terareg.views.figures.registration import error_bars


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    deviation, frame = nrrd.read_scalar(snakemake.input.deviation)
    predicted, _ = nrrd.read_scalar(snakemake.input.predicted)
    labels, _ = region_block(transform, atlas, frame)
    picture = error_bars(deviation, labels, predicted.reshape(-1, *frame.shape)[0], frame)
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
