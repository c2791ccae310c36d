"""Check a further image of an atlas and copy it into the form that the registration reads."""

from terareg.atlas.prepare import AtlasSettings, prepare_image
from terareg.execution.job import run_job


def main() -> None:
    given = {**snakemake.params.settings, "template": snakemake.input.template}
    name = snakemake.wildcards.image
    prepare_image(AtlasSettings(**given), snakemake.input.image, name, snakemake.output.image)


run_job(snakemake, main)
