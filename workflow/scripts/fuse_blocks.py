"""Fuse one batch of blocks of one channel."""

from collections.abc import Mapping
from dataclasses import asdict, replace

from terareg.acquisition.model import Acquisition, load_acquisition
from terareg.acquisition.tiles import open_shading, open_tiles
from terareg.core.numeric import Clipped
from terareg.core.parallel import share_heap
from terareg.execution.job import run_job
from terareg.stitching.channel_shift import load_shift
from terareg.stitching.placement import Placement, load_placement
from terareg.stitching.posed_tiles import posed_side, relative_origins
from terareg.stitching.sides import load_match
from terareg.storage.records import fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.fusion import FusionSettings, RowFusion
from terareg.volumes.plan import VolumePlan, rows_of
from terareg.volumes.sides import Side
from terareg.volumes.writer import write_rows

SIDE_PREFIXES = ("", "other_")  # of the names of files of the first side and of the second
TILES = ("profile", "info", "stripes", "corrected")


def side_of(
    acquisition: Acquisition, number: int, placement: Placement, relative: Mapping
) -> tuple[Side, dict]:
    """A side of the channel with its tiles, placed, and what its voxels depend on."""
    name = snakemake.params.sides[number]
    store = Store(snakemake.params.store).child(snakemake.wildcards.sample)
    prefixes = SIDE_PREFIXES[: number + 1]
    files = {key: snakemake.input.get(prefixes[-1] + key) for key in TILES}
    source = open_tiles(acquisition, name, files, store)
    shifts = [snakemake.input.get(prefix + "shift") for prefix in prefixes]
    shifted = [load_shift(path) for path in shifts if path]
    side = posed_side(source, placement, relative, shifted)
    state = {
        "origins": side.origins,
        "matrices": {tile: matrix.tolist() for tile, matrix in side.matrices.items()},
        "shading": open_shading(files, store).state,
    }
    if side.growths:
        state["growths"] = {tile: asdict(growth) for tile, growth in side.growths.items()}
    if side.warps:
        state["fields"] = {tile: warp.nodes.tolist() for tile, warp in side.warps.items()}
    return side, state


def main() -> None:
    share_heap()
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    acquisition = load_acquisition(snakemake.input.acquisition)
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    settings = FusionSettings(**snakemake.params.fusion)
    placement = load_placement(snakemake.input.placement)
    relative = relative_origins(placement, planned["offset_vox"], settings)
    found = [
        side_of(acquisition, number, placement, relative)
        for number in range(len(snakemake.params.sides))
    ]
    sides, states = [side for side, _ in found], [state for _, state in found]
    light = None
    if snakemake.input.get("match"):
        match = load_match(snakemake.input.match)
        light = match.light(snakemake.params.blend)
        sides[1] = replace(sides[1], gain=match.gain)
        states.append(light.to_json() | {"gain": match.gain})
    whole = all(o % 1 == 0 for side in sides for origin in side.origins.values() for o in origin)
    settings = replace(settings, subpixel=settings.subpixel or not whole)
    # the bytes are the same whether tiles were corrected earlier or are corrected on the fly
    state = fingerprint(
        snakemake.params.code,
        snakemake.params.raw_state,
        snakemake.params.fusion,
        planned,
        states,
        acquisition.missing_planes,
    )
    blocks = plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches)
    summary = write_rows(
        Store(snakemake.params.store),
        f"{sample}/fused/{channel}",
        plan,
        rows_of(blocks, snakemake.params.row_blocks),
        lambda row: RowFusion(sides, plan, row, settings, light),
        fingerprint=state,
        workers=snakemake.threads,
    )
    # in this job: pixels clipped by on-the-fly flat-field correction, counted at each reading
    sources = [side.source for side in sides]
    run = {
        "bytes_read": sum(source.bytes_read for source in sources),
        "tile_pixels_clipped": asdict(sum((source.clipped for source in sources), Clipped())),
    }
    write_json(snakemake.output.batch, summary | {"run": run})


run_job(snakemake, main)
