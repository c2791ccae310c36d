"""What rules/engine.smk uses of Snakemake's inside is there, and does what the workflow needs.

Snakemake promises none of it to workflows. When an upgrade moves something, the message says what
it was needed for; requirements.in holds Snakemake below the next major version until then.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import running
import tifffile
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from snakemake.settings.types import OutputSettings, Quietness, StorageSettings
from workspaces import ROOT, Workspace, loaded_workflow

VERSION = importlib.metadata.version("snakemake")
ENGINE = ROOT / "workflow/rules/engine.smk"
#: what is reached for in engine.smk, and what the workflow loses without it
USED = {
    "workflow.current_basedir": "the library is found beside the rules, also as a module",
    "workflow.storage_settings": "local paths are refused where jobs run on other machines",
    "workflow.config_settings": "a key that a file has twice is noticed",
    "workflow.dryrun": "a dry run ends with the plan of its jobs",
    "workflow.output_settings": "no plan is printed where --quiet all is asked for",
    "workflow.main_snakefile": "the lines of another workflow's jobs are left as they are",
    "workflow.is_main_process": "only the run itself writes lines of jobs, and not its jobs",
    "workflow.dag": "the plan counts the jobs of this run and not of a whole one",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("engine"))
    workspace.write(workspace.sample())
    return workspace


@pytest.fixture(scope="module")
def workflow(workspace):
    with loaded_workflow(workspace.folder, workspace.folder / "sample.yaml") as workflow:
        yield workflow


def lost(name: str, purpose: str) -> str:
    return f"Snakemake {VERSION}: {name} is not what it was; engine.smk needs it so that {purpose}"


def test_the_list_here_is_all_that_engine_reaches_for():
    assert set(re.findall(r"\bworkflow\.\w+", ENGINE.read_text())) == set(USED)
    for path in (ROOT / "workflow").rglob("*.smk"):
        if path != ENGINE:
            assert not re.findall(r"\bworkflow\.\w+|import snakemake", path.read_text()), path


@pytest.mark.parametrize("name", USED)
def test_the_workflow_object_has_it(workflow, name):
    assert hasattr(type(workflow), name.split(".")[1]) or name.split(".")[1] in vars(workflow), (
        lost(name, USED[name])
    )


def test_the_folder_of_the_scripts_is_the_one_beside_the_rules(workflow):
    rule = next(rule for rule in workflow.rules if rule.name == "register")
    basedir = Path(rule.basedir.get_path_or_uri(secret_free=True))
    assert (basedir.parent / "scripts/register.py").is_file(), lost(
        "workflow.current_basedir", USED["workflow.current_basedir"]
    )


@pytest.mark.parametrize("prefix", [None, "s3://brains/terareg"])
def test_remote_storage_is_known_by_its_prefix(workflow, prefix, monkeypatch):
    provider = prefix and "s3"
    settings = StorageSettings(default_storage_provider=provider, default_storage_prefix=prefix)
    monkeypatch.setattr(workflow, "storage_settings", settings)
    assert workflow.globals["remote_prefix"]() == prefix, lost(
        "workflow.storage_settings", USED["workflow.storage_settings"]
    )


def test_the_files_of_the_configuration_are_known(workflow):
    files = workflow.globals["config_files"]()
    assert [path.name for path in files][-1:] == ["sample.yaml"], lost(
        "workflow.config_settings", USED["workflow.config_settings"]
    )


@pytest.mark.parametrize(
    ("dry", "quiet", "shown"),
    [(True, set(), True), (True, {Quietness.RULES}, True), (True, {Quietness.ALL}, False),
     (False, set(), False)],
)  # fmt: skip
def test_a_dry_run_that_may_print_is_known(workflow, dry, quiet, shown, monkeypatch):
    monkeypatch.setattr(type(workflow), "dryrun", dry)
    monkeypatch.setattr(workflow, "output_settings", OutputSettings(quiet=quiet))
    assert workflow.globals["shows_plan"]() is shown, lost(
        "workflow.output_settings.quiet", USED["workflow.output_settings"]
    )


def test_jobs_that_a_dry_run_plans_are_counted_by_sample_and_rule(workspace):
    """A plan is printed at exit, when the jobs are known; Snakemake calls no handler there."""
    targets = [f"results/brain/fused/{c}/batches/0.json" for c in ("signal", "autofluorescence")]
    done = workspace.snakemake("-n", "--", *targets)
    assert done.returncode == 0, done.stderr
    assert "Fused volume" in done.stderr, lost(
        "workflow.dryrun, or the end of a dry run", USED["workflow.dryrun"]
    )
    (jobs,) = re.findall(r"^Fused volume +(\d+) ", done.stderr, re.MULTILINE)
    # a block of each channel, and the start of its volume
    assert int(jobs) == 4, lost("workflow.dag.needrun_jobs", USED["workflow.dag"])


def test_a_run_shows_a_line_for_the_start_and_the_end_of_each_job(workspace):
    tifffile.imwrite(workspace.folder / "stack.tif", np.ones((5, 6, 7), np.uint16))
    derived = {"part": {"from": "stack.tif", "do": "convert", "spacing_um": [4, 2, 2]}}
    (workspace.folder / "part.yaml").write_text(yaml.safe_dump({"sample": "x", "derived": derived}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"),
               "--configfile", "part.yaml", "--cores", "1",
               "results/x/derived/part/plan.json"]  # fmt: skip
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\d\d:\d\d:\d\d  (.*)$", done.stderr, re.MULTILINE)
    wanted = ["init_derived x part: starts", r"init_derived x part: done in \d+ s, 1 of 1"]
    assert len(lines) == 2 and all(map(re.fullmatch, wanted, lines)), lost(
        "the screen's handler, or an event of the log", "jobs have lines"
    )
    assert "jobid" not in done.stderr and "steps (" not in done.stderr
    # all of it is in Snakemake's own log
    log = re.findall(r"Complete log\(s\): (.*)", done.stderr)
    assert "jobid" in Path(log[0]).read_text()


def test_snakemake_is_held_below_the_next_major_version():
    lines = (ROOT / "requirements.in").read_text().splitlines()
    (asked,) = [Requirement(x) for x in lines if re.match(r"snakemake\b(?!-)", x)]
    assert asked.specifier.contains(VERSION)
    assert not asked.specifier.contains(f"{Version(VERSION).major + 1}.0")


# ---------------------------------------------------------------- as a module of another workflow
MODULE = """
configfile: "config/config.yaml"

module terareg:
    snakefile:
        "{snakefile}"
    config:
        config

use rule * from terareg
"""


@pytest.fixture
def deployed(tmp_path) -> Workspace:
    """A workflow of the user's own, with nothing but a module that leads to this one."""
    described = Workspace(tmp_path / "described")
    config = described.sample()
    mine = Workspace.at(tmp_path / "mine")
    (mine.folder / "workflow").mkdir(parents=True)
    (mine.folder / "config").mkdir()
    text = MODULE.format(snakefile=ROOT / "workflow/Snakefile")
    (mine.folder / "workflow/Snakefile").write_text(text)
    (described.folder / "atlas").rename(mine.folder / "atlas")
    (mine.folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    described.write(config)
    return mine


def test_another_workflow_can_use_this_one_as_a_module(deployed):
    done = deployed.snakemake("-n", "--quiet", "rules", configfile=None)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = running.job_counts(done)
    for rule in ("index_acquisition", "place_tiles", "register", "make_report"):
        assert jobs.get(rule) == 1, jobs
    assert "space needed in the store: " in done.stderr, "the plan, as without a module"


def test_a_module_that_lacks_its_library_says_what_to_do(deployed, tmp_path):
    """Rules that came without the scripts beside them, as single files from the web."""
    (tmp_path / "alone/rules").mkdir(parents=True)
    for name in ("Snakefile", "rules/engine.smk"):
        (tmp_path / "alone" / name).write_text((ROOT / "workflow" / name).read_text())
    path = deployed.folder / "workflow/Snakefile"
    path.write_text(path.read_text().replace(str(ROOT / "workflow"), str(tmp_path / "alone")))
    done = deployed.snakemake("-n", configfile=None)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "clone the repository and give the module the path of workflow/Snakefile" in said
    assert "No module named" not in said


def test_an_environment_in_a_folder_with_a_blank_is_one_sentence(workspace, tmp_path):
    (tmp_path / "My Drive").mkdir()
    (tmp_path / "My Drive/env").symlink_to(Path(sys.executable).parents[1])
    python = tmp_path / "My Drive/env/bin/python"
    done = subprocess.run(
        [python, "-m", "snakemake", *workspace.command("-n")[1:]],
        cwd=workspace.folder, text=True, capture_output=True, env=workspace.environment(),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the environment is in a folder with a blank" in done.stdout + done.stderr


def test_a_clone_in_a_folder_with_braces_is_one_sentence(tmp_path):
    workspace = Workspace(tmp_path / "{x}")
    workspace.write(workspace.sample())
    done = workspace.snakemake("-n")
    assert done.returncode == 1
    assert "the workflow is in a folder with a word in braces" in done.stdout + done.stderr
