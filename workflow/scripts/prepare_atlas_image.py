"""Check a further image of an atlas and copy it into the form that the registration reads."""

from terareg.atlas.prepare import AtlasSettings, prepare_image
from terareg.execution.job import run_job


def main() -> None:
    given = dict(snakemake.params.settings)
    if snakemake.input.template:
        given["template"] = str(snakemake.input.template)
    image = str(snakemake.input.image) if snakemake.input.image else snakemake.params.path
    name = snakemake.wildcards.image
    prepare_image(AtlasSettings(**given), image, name, snakemake.output.image)


run_job(snakemake, main)
