"""Draw raw tiles at the stage's positions beside the atlas, before anything long runs."""

from pathlib import Path

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.storage.store import write_atomic
from terareg.views import first_look
from terareg.views.figures.first_look import first_look as draw


def main() -> None:
    acquisition = load_acquisition(snakemake.input.acquisition)
    source = TileSource(acquisition, snakemake.params.channel)
    sections = first_look.middle_sections(source, snakemake.threads)
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    code = acquisition.orientation
    template, frame = first_look.turned(atlas.template, atlas.frame, code)
    # numbers of regions have the borders of their ids, and need no array of their own
    numbers, _ = first_look.turned(atlas.index, atlas.frame, code)
    picture = draw(
        [(section.image, section.frame) for section in sections],
        template,
        numbers,
        frame,
        first_look.tile_boxes_um(acquisition),
        first_look.facts(acquisition, snakemake.params.channels),
    )
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
