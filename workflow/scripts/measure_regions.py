"""Make the table of volume and intensity of every region and hemisphere."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.measure import load_sums, region_coverage, region_table
from terareg.regions.volume_errors import volume_draws
from terareg.registration.transform import Transform
from terareg.storage import nrrd
from terareg.storage.records import read_json, write_table
from terareg.volumes.plan import VolumePlan


def main() -> None:
    atlas = load_atlas(Path(snakemake.input.atlas).parent, template=False)
    transform = Transform.load(Path(snakemake.input.transform).parent)
    labels = VolumePlan.from_json(read_json(snakemake.input.labels)["plan"])
    coverage = region_coverage(transform, atlas, labels.frame)
    sums, draws = load_sums(snakemake.input.sums), None
    if "volume_ratios" in snakemake.input.keys():
        ratios, frame = nrrd.read_scalar(snakemake.input.volume_ratios)
        draws = volume_draws(transform, ratios, frame, atlas)
    write_table(snakemake.output.table, region_table(sums, atlas.ontology, coverage, draws))


run_job(snakemake, main)
