"""Estimate the bias field of a channel at low resolution."""

import numpy as np

from terareg.execution.job import run_job
from terareg.intensity.bias import BiasSettings, estimate_bias
from terareg.storage.records import write_json
from terareg.storage.store import Store
from terareg.volumes.reader import Volume


def main() -> None:
    settings = BiasSettings(**snakemake.params.settings)
    key = f"{snakemake.wildcards.sample}/fused/{snakemake.wildcards.channel}"
    volume = Volume(Store(snakemake.params.store), key)
    image, frame = volume.resampled(settings.resolution_um, snakemake.threads)
    field = estimate_bias(image, frame, settings)
    field.save(snakemake.output.field)
    low, high = np.exp(np.percentile(field.log_field, (1, 99)))
    info = {"iterations": settings.iterations, "resolution_um": settings.resolution_um}
    write_json(snakemake.output.info, info | {"field_1_percent": low, "field_99_percent": high})


run_job(snakemake, main)
