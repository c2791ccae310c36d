"""Join the cells of all batches: one table, a layer for the viewer, and a summary."""

import logging
import math

from terareg.execution.job import run_job
from terareg.regions.annotations import write_annotations
from terareg.signal.blobs import BlobSettings
from terareg.signal.cells import FEATURES, gather, save_array, summary, write_cells_csv
from terareg.signal.marks import LEAST_PROBABILITY, marks_name, probabilities, read_marks
from terareg.signal.search import three, working_um
from terareg.storage.records import read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.plan import VolumePlan
from terareg.volumes.reader import Volume


def main() -> None:
    sample, name = snakemake.wildcards.sample, snakemake.wildcards.cells
    given, store = snakemake.params.settings, Store(snakemake.params.store)
    plan = VolumePlan.from_json(read_json(snakemake.input.plan)["plan"])
    volume = Volume(store, "", plan)
    level = volume.level_for(working_um(given))
    frame = volume.level_frame(level)
    settings = BlobSettings(three(given["diameter_um"]), given["threshold"], given["roundness"])
    cells = gather(snakemake.input.blobs, settings, frame)
    if not len(cells):
        logging.getLogger("terareg").warning(
            "no cell of %s um stands out by %g in channel %s; check the channel, then lower "
            "cells.%s.threshold or correct diameter_um",
            given["diameter_um"], given["threshold"], given["channel"], name,
        )  # fmt: skip
    filtered = {}
    for path in snakemake.input.get("marks", []):
        marks = read_marks(path, volume.frame)
        reach_um = max(settings.diameter_um) / 2
        cells["probability"], filtered = probabilities(cells, marks, reach_um, marks_name(path))
        kept = cells["probability"] >= LEAST_PROBABILITY
        filtered["rejected"] = int((~kept).sum())
        cells = cells[kept]
    features = {feature: cells[feature] for feature in FEATURES}
    if filtered:
        features["probability"] = cells["probability"]
    key = f"{sample}/cells/{name}/annotations"
    objects = write_annotations(store, key, cells["position_um"], features, frame)
    save_array(snakemake.output.cells, cells)
    write_cells_csv(snakemake.output.table, cells, cells["position_um"])
    figures = summary(cells, frame, math.prod(frame.extent_um) / 1e9)
    figures |= {"settings": given, "level": level, "layer": key, "objects": objects}
    if filtered:
        figures["filter"] = filtered
    write_json(snakemake.output.summary, figures)


run_job(snakemake, main)
