"""Draw raw images beside the atlas, before anything long runs: tiles, or an image to import."""

from pathlib import Path

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import TileSource
from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.storage.records import read_json
from terareg.storage.store import write_atomic
from terareg.views import first_look
from terareg.views.figures.first_look import first_look as draw
from terareg.volumes.importing import frame_of_input


def tiles() -> tuple:
    acquisition = load_acquisition(snakemake.input.index)
    source = TileSource(acquisition, snakemake.params.channel)
    sections = first_look.middle_sections(source, snakemake.threads)
    facts = first_look.facts(acquisition, snakemake.params.channels)
    return sections, first_look.tile_boxes_um(acquisition), facts


def image() -> tuple:
    index = read_json(snakemake.input.index)
    known = dict(snakemake.params.image)
    address, frame = known.pop("path"), frame_of_input(index)
    sections = first_look.image_sections(address, frame, known, snakemake.threads)
    return sections, [], first_look.image_facts(index, snakemake.params.channel)


def main() -> None:
    sections, boxes, facts = image() if snakemake.params.image else tiles()
    atlas = load_atlas(Path(snakemake.input.atlas).parent)
    # numbers of regions have the borders of their ids, and need no array of their own
    planes = [(section.image, section.frame) for section in sections]
    picture = draw(planes, atlas.template, atlas.index, atlas.frame, boxes, facts)
    write_atomic(snakemake.output.picture, picture)


run_job(snakemake, main)
