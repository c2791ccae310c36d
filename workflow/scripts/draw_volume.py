"""Draw the middle planes of a volume."""

from terareg.execution.job import run_job
from terareg.storage.records import read_json
from terareg.storage.store import Store, write_atomic
from terareg.views.figures.volume import mid_planes
from terareg.volumes.reader import Volume

VOXELS = 400  # along the longest side of the picture
WORDS = {"fused": "", "corrected_volume": ": bias field divided out"}


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    kind = snakemake.wildcards.kind
    volume = Volume(Store(snakemake.params.store), f"{sample}/{kind}/{channel}")
    level = volume.level_for(max(volume.frame.extent_um) / VOXELS)
    frame = volume.level_frame(level)
    window = read_json(snakemake.input.complete)["window"]
    title = f"{sample}, {channel}{WORDS[kind]}"
    picture = mid_planes(volume.read(level), frame, title=title, limits=window)
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
