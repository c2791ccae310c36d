"""Check an atlas and copy it into the form that all later stages read."""

from pathlib import Path

from terareg.atlas.prepare import AtlasSettings, prepare_atlas
from terareg.execution.job import run_job


def main() -> None:
    settings = dict(snakemake.params.settings)
    for key in ("template", "annotation", "ontology", "hemispheres"):
        if snakemake.input.get(key):
            settings[key] = snakemake.input[key]
    prepare_atlas(AtlasSettings(**settings), Path(snakemake.output.atlas).parent)


run_job(snakemake, main)
