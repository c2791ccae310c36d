"""Find the cells of one batch of boxes of a channel."""

import numpy as np

from terareg.core.parallel import batch_range, map_items
from terareg.execution.job import run_job
from terareg.regions.warp import LevelReader
from terareg.signal.blobs import BLOB, BlobSettings, boxes, find_blobs
from terareg.signal.cells import save_array
from terareg.signal.search import box_vox, check_size, three, working_um
from terareg.storage.records import read_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.reader import Volume


def main() -> None:
    sample, given = snakemake.wildcards.sample, snakemake.params.settings
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    key = f"{sample}/fused/{given['channel']}"
    volume = Volume(Store(snakemake.params.store), key, plan)
    reader = LevelReader(volume, volume.level_for(working_um(given)))
    settings = BlobSettings(three(given["diameter_um"]), given["threshold"], given["roundness"])
    frame, what = reader.frame, f"cells.{snakemake.wildcards.cells}.diameter_um"
    check_size(settings.diameter_um, frame.shape, frame.spacing_um, what)
    edges = box_vox(settings.diameter_um, frame.spacing_um)
    cut = boxes(frame.shape, edges)
    chosen = batch_range(len(cut), int(snakemake.wildcards.batch), snakemake.params.batches)
    found = map_items(
        lambda n: find_blobs(reader, *cut[n], settings),
        chosen,
        workers=snakemake.threads,
        what="searched boxes",
    )
    save_array(snakemake.output.blobs, np.concatenate([np.zeros(0, BLOB), *found]))


run_job(snakemake, main)
