"""Import one batch of blocks of a channel from its image."""

from terareg.execution.job import run_job
from terareg.storage.records import fingerprint, read_json, write_json
from terareg.storage.store import Store
from terareg.volumes.images import ImageSettings, open_image
from terareg.volumes.importing import import_block
from terareg.volumes.plan import VolumePlan
from terareg.volumes.writer import write_blocks


def main() -> None:
    sample, channel = snakemake.wildcards.sample, snakemake.wildcards.channel
    settings = snakemake.params
    planned = read_json(snakemake.input.plan)
    plan = VolumePlan.from_json(planned["plan"])
    # the plan decides the grid, whatever the header says
    grid = ImageSettings(
        plan.frame.spacing_um,
        plan.frame.orientation,
        settings.image["channel"],
        settings.image["fill_missing"],
    )
    image = open_image(settings.image["path"], grid)
    state = fingerprint(settings.code, settings.raw_state, planned, settings.image["channel"])
    summary = write_blocks(
        Store(settings.store),
        f"{sample}/fused/{channel}",
        plan,
        plan.batch(int(snakemake.wildcards.batch), settings.batches),
        lambda block: import_block(image, plan, block),
        fingerprint=state,
        workers=snakemake.threads,
    )
    write_json(snakemake.output.batch, summary)


run_job(snakemake, main)
