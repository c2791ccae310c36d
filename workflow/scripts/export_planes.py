"""Write a volume, labels or a map as files of planes, tiles or blocks, in the store."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.exports.export import Export, make_export
from terareg.exports.files import write_planes
from terareg.exports.settings import TERAFLY, TILES, ExportSettings
from terareg.exports.terafly import write_terafly
from terareg.exports.tiles import write_tiles
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.views.neuroglancer import tile_boxes
from terareg.volumes.plan import VolumePlan


def outlines() -> dict:
    """Corners of the tiles of the microscope in the fused volume, micrometres."""
    planned = read_json(snakemake.input.grid)
    return tile_boxes(
        load_placement(snakemake.input.placement).origins(),
        load_acquisition(snakemake.input.acquisition).tile_shape,
        VolumePlan.from_json(planned["plan"]).frame,
        planned["offset_vox"],
    )


def main() -> None:
    name = snakemake.wildcards.export
    place = Store(snakemake.params.store), snakemake.wildcards.sample
    settings = ExportSettings.from_config(snakemake.params.settings, f"export.{name}")

    def write(each: Export) -> dict:
        folder = place[0], f"{place[1]}/exports/{name}"
        if each.settings.format == TILES:
            boxes = outlines() if each.settings.outlines else {}
            return write_tiles(*folder, each.settings, each.source, boxes, each.workers)
        if each.settings.format == TERAFLY:
            return write_terafly(*folder, each.picture, each.boxes, each.workers)
        return write_planes(*folder, each.settings.format, each.picture, each.slabs, each.workers)

    record = make_export(name, settings, place, snakemake.input, write, snakemake.threads)
    write_json(snakemake.output.record, record)


run_job(snakemake, main)
