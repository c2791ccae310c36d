"""Fuse one batch of blocks of one channel."""

from dataclasses import asdict, replace

from terareg.acquisition.model import load_acquisition
from terareg.acquisition.tiles import open_shading, open_tiles
from terareg.execution.job import run_job
from terareg.stitching.channel_shift import channel_poses, load_shift
from terareg.stitching.placement import load_placement
from terareg.storage.records import fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.fusion import FusionSettings, RowFusion, fused_origins
from terareg.volumes.plan import VolumePlan, rows_of
from terareg.volumes.writer import write_rows


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    acquisition = load_acquisition(snakemake.input.acquisition)
    store = Store(snakemake.params.store)
    place = store.child(sample)
    source = open_tiles(acquisition, channel, snakemake.input, place)
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    settings = FusionSettings(**snakemake.params.fusion)
    placement = load_placement(snakemake.input.placement)
    shift = load_shift(snakemake.input.shift) if snakemake.input.get("shift") else None
    origins = fused_origins(placement.origins(settings.subpixel), planned["offset_vox"], settings)
    origins, matrices = channel_poses(origins, placement, shift, acquisition.tile_shape)
    whole = all(o % 1 == 0 for origin in origins.values() for o in origin)
    settings = replace(settings, subpixel=settings.subpixel or not whole)
    # the bytes are the same whether tiles were corrected earlier or are corrected on the fly
    state = fingerprint(
        snakemake.params.code,
        snakemake.params.raw_state,
        snakemake.params.fusion,
        planned,
        origins,
        {name: matrix.tolist() for name, matrix in matrices.items()},
        open_shading(snakemake.input, place).state,
        acquisition.missing_planes,
    )
    blocks = plan.batch(int(snakemake.wildcards.batch), snakemake.params.batches)
    summary = write_rows(
        store,
        f"{sample}/fused/{channel}",
        plan,
        rows_of(blocks, snakemake.params.row_blocks),
        lambda row: RowFusion(source, origins, plan, row, settings, matrices),
        fingerprint=state,
        workers=snakemake.threads,
    )
    # in this job: pixels clipped by on-the-fly flat-field correction, counted at each reading
    run = {"bytes_read": source.bytes_read, "tile_pixels_clipped": asdict(source.clipped)}
    write_json(snakemake.output.batch, summary | {"run": run})


run_job(snakemake, main)
