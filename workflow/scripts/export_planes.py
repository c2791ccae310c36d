"""Write a volume, labels or a map as files of planes, tiles or blocks, in the store."""

from terareg.acquisition.model import load_acquisition
from terareg.execution.job import run_job
from terareg.exports.export import Export, make_export
from terareg.exports.files import write_planes
from terareg.exports.settings import TERAFLY, TILES, ExportSettings
from terareg.exports.terafly import write_terafly
from terareg.exports.tiles import box_of_all, write_tiles
from terareg.stitching.channel_shift import ChannelShift, load_shift
from terareg.stitching.placement import load_placement
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.views.neuroglancer import tile_boxes
from terareg.volumes.plan import VolumePlan


def boxes(shift: ChannelShift | None = None) -> dict:
    """Corners of the tiles of a channel in the fused volume, micrometres."""
    planned = read_json(snakemake.input.grid)
    tile_shape = load_acquisition(snakemake.input.acquisition).tile_shape
    placement = load_placement(snakemake.input.placement)
    moved = shift.applied(tile_shape)[0] if shift else (0.0, 0.0, 0.0)
    return tile_boxes(
        {t: [o + by for o, by in zip(origin, moved)] for t, origin in placement.origins().items()},
        tile_shape,
        VolumePlan.from_json(planned["plan"]).frame,
        planned["offset_vox"],
    )


def common() -> tuple[list[float], list[float]]:
    """Corners of the box that the tiles of all channels have seen, micrometres."""
    shifts = [path for name, path in snakemake.input.items() if name.startswith("shift_")]
    channels = [boxes(), *(boxes(load_shift(path)) for path in shifts)]
    return box_of_all([list(tiles.values()) for tiles in channels])


def main() -> None:
    name = snakemake.wildcards.export
    place = Store(snakemake.params.store), snakemake.wildcards.sample
    settings = ExportSettings.from_config(snakemake.params.settings, f"export.{name}")

    def write(each: Export) -> dict:
        folder = place[0], f"{place[1]}/exports/{name}"
        if each.settings.format == TILES:
            outlines = boxes() if each.settings.outlines else {}
            within = common() if each.settings.common else None
            return write_tiles(*folder, each.settings, each.source, outlines, each.workers, within)
        if each.settings.format == TERAFLY:
            return write_terafly(*folder, each.picture, each.boxes, each.workers)
        return write_planes(*folder, each.settings.format, each.picture, each.slabs, each.workers)

    record = make_export(name, settings, place, snakemake.input, write, snakemake.threads)
    write_json(snakemake.output.record, record)


run_job(snakemake, main)
