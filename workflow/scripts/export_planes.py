"""Write a volume, labels or a map as files of planes, tiles or blocks, in the store."""

from collections.abc import Iterable

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.exports.export import Export, make_export
from terareg.exports.files import write_planes
from terareg.exports.illumination import EvenedSites, measure_illumination
from terareg.exports.outlines import outlines_of_plate, read_outlines
from terareg.exports.settings import TERAFLY, TILES, ExportSettings
from terareg.exports.terafly import write_terafly
from terareg.exports.tiles import box_of_all, write_tiles
from terareg.stitching.channel_shift import ChannelShift, load_shift
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.views.neuroglancer import tile_boxes
from terareg.volumes.plan import VolumePlan


def boxes(shifts: Iterable[ChannelShift] = ()) -> list[dict]:
    """Corners of the tiles in the fused volume, micrometres, and of those of shifted channels."""
    planned = read_json(snakemake.input.grid)
    tile_shape = load_acquisition(snakemake.input.acquisition).tile_shape
    frame = VolumePlan.from_json(planned["plan"]).frame
    origins = load_placement(snakemake.input.placement).origins()
    moves = [(0.0, 0.0, 0.0), *(shift.applied(tile_shape)[0] for shift in shifts)]
    return [
        tile_boxes(
            {tile: [o + by for o, by in zip(at, moved)] for tile, at in origins.items()},
            tile_shape, frame, planned["offset_vox"],
        )
        for moved in moves
    ]  # fmt: skip


def main() -> None:
    name = snakemake.wildcards.export
    place = Store(snakemake.params.store), snakemake.wildcards.sample
    settings = ExportSettings.from_config(snakemake.params.settings, f"export.{name}")

    def write(each: Export) -> dict:
        folder = place[0], f"{place[1]}/exports/{name}"
        if each.settings.format == TILES:
            outlines, within, sites = {}, None, None
            if "index" in snakemake.input.keys():
                index = read_json(snakemake.input.index)
                if each.settings.outlines is True:
                    outlines = outlines_of_plate(index)
                sites = index["sites"]
            elif each.settings.of_tiles:
                files = snakemake.input.items()
                shifts = (load_shift(path) for key, path in files if key.startswith("shift_"))
                channels = boxes(shifts)
                outlines = channels[0] if each.settings.outlines is True else {}
                if each.settings.common:
                    within = box_of_all([list(tiles.values()) for tiles in channels])
            if each.settings.table is not None:
                outlines = read_outlines(snakemake.input.outlines, each.source.frame)
            shown, facts = each.source, {}
            if each.settings.is_evened:
                light = measure_illumination(shown, sites, each.workers)
                shown, facts = EvenedSites(shown, sites, light), {"illumination": light.facts()}
            return facts | write_tiles(
                *folder, each.settings, shown, outlines, each.workers, within
            )
        if each.settings.format == TERAFLY:
            return write_terafly(*folder, each.picture, each.boxes, each.workers)
        return write_planes(*folder, each.settings.format, each.picture, each.slabs, each.workers)

    record = make_export(name, settings, place, snakemake.input, write, snakemake.threads)
    write_json(snakemake.output.record, record)


run_job(snakemake, main)
