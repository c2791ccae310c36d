"""Compose the registration to one atlas with the known transform to another one."""

from pathlib import Path

from terareg.atlas.prepare import load_atlas
from terareg.execution.job import run_job
from terareg.regions.composed import Reached, compose
from terareg.registration.known_files import is_folder
from terareg.registration.transform import Transform
from terareg.storage.records import read_json, write_json


def main() -> None:
    files, settings = snakemake.input, dict(snakemake.params.settings)
    # where Snakemake has put them
    paths = list(files.known)
    if paths:
        folder = is_folder(settings["transform"])
        settings["transform"] = str(Path(paths[0]).parent) if folder else paths
    templates = settings["templates"]
    reached, through = (
        Reached(name, load_atlas(Path(path).parent, template=False), [*found, templates[key]][0])
        for name, path, found, key in (
            (snakemake.wildcards.atlas, files.atlas, files.own_template, "reached"),
            (settings["atlas"], files.base_atlas, files.base_template, "through"),
        )
    )
    registered = Transform.load(Path(files.base_transform).parent)
    summary = read_json(files.base_summary)
    found = compose((registered, summary), reached, through, settings)
    found.transform.save(Path(snakemake.output.transform).parent)
    write_json(snakemake.output.summary, found.summary)


run_job(snakemake, main)
