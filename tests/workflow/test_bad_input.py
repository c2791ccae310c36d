"""Bad input stops a run as a user starts it: one sentence, status not 0, nothing written over.

What the readers themselves find is tested by message in tests/unit; here it is shown that such
an error arrives at the user's terminal through Snakemake, and before hours of work.
"""

from __future__ import annotations

import pytest


def all_files(folder):
    return {
        p: p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.is_file() and ".snakemake" not in p.parts and not p.is_symlink()
    }


def break_ini(old, new):
    def change(workspace):
        path = workspace.folder / "raw-brain/Experiment.ini"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def remove(name):
    return lambda workspace: (workspace.folder / name).unlink()


def append(name, text):
    def change(workspace):
        with open(workspace.folder / name, "a") as stream:
            stream.write(text)

    return change


def write(name, text):
    return lambda workspace: (workspace.folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "over", "words"),
    [
        (remove("raw-brain/Experiment.ini"), {}, "there is no Experiment.ini in"),
        (remove("raw-brain/Scanned Cells.txt"), {}, "there is no Scanned Cells.txt in"),
        (break_ini("Stack Step (mm)", "Stock Step"), {}, "Stack Step (mm)"),
        (break_ini('"0.0050"', '"0"'), {}, "Stack Step (mm)"),
        (break_ini('"15.0"', '"0"'), {}, "Overlap"),
        (break_ini('"04x"', '"7x"'), {}, "[Objectives] North is '7x'"),
        (write("raw-brain/Scanned Cells.txt", "1,1\n1,1\n"), {}, "Scanned Cells.txt"),
        (remove("atlas/ontology.json"), {}, "atlases.mouse.ontology: 'atlas/ontology.json' does"),
        (None, {"fiducials__mouse": {"sample": "a.csv", "atlas": "b.csv"}},
         "fiducials.mouse.sample: 'a.csv' does not exist (relative to "),
        (append("sample.yaml", "sample: another\n"), {}, "key sample appears twice (first on"),
        (None, {"input__path": "nowhere"}, "there is no Experiment.ini in nowhere"),
        (None, {"input__orientation": "RRS"}, "names one anatomical axis twice"),
        (None, {"input__spacing_um": [0, 1, 1]}, "input.spacing_um.0: 0 must be at least"),
        (None, {"stitching__chanel": "signal"}, "did you mean channel?"),
        (None, {"registration__channel": "green"}, "channel 'green' is not one of"),
        (None, {"store": "gs://bucket"}, "store 'gs://bucket' is not supported"),
    ],
)  # fmt: skip
def test_the_workflow_does_not_load(workspace, change, over, words):
    workspace.write(workspace.sample(**over))
    if change:
        change(workspace)
    before = all_files(workspace.folder)
    done = workspace.snakemake("--cores", "1")
    assert done.returncode != 0
    sentence = [line for line in (done.stdout + done.stderr).splitlines() if words in line]
    assert len(sentence) >= 1, done.stderr
    assert "Traceback" not in done.stderr
    assert all_files(workspace.folder) == before


def test_two_samples_with_one_name(workspace):
    for name in ("one", "two"):
        workspace.write(workspace.sample("brain"), f"{name}.yaml")
    workspace.write({"cohort": ["one.yaml", "two.yaml"]})
    done = workspace.snakemake("--cores", "1")
    assert done.returncode != 0
    assert "sample 'brain' is described twice" in done.stdout + done.stderr


def test_an_error_in_a_job_is_one_sentence_that_names_rule_and_log(workspace):
    workspace.write(workspace.sample(input__channels={"only": 0}))
    (workspace.folder / "raw-brain/VW0").mkdir()
    done = workspace.snakemake("--cores", "1", "results/brain/acquisition.json")
    assert done.returncode != 0
    lines = [x for x in done.stderr.splitlines() if x.startswith("index_acquisition: ")]
    assert len(lines) == 1, done.stderr
    assert "LOC000" in lines[0] and "(log: results/brain/logs/index_acquisition.log)" in lines[0]
    assert not (workspace.folder / "results/brain/acquisition.json").exists()


SITE = {
    "AWS_REGION": "eu-central-1",
    "SNAKEMAKE_AWS_BATCH_JOB_QUEUE": "arn:aws:batch:eu-central-1:123456789012:job-queue/terareg",
    "SNAKEMAKE_AWS_BATCH_JOB_ROLE": "arn:aws:iam::123456789012:role/terareg-job",
    "TERAREG_IMAGE": "terareg:test",
    "TERAREG_PREFIX": "s3://brains/terareg",
}
ON_S3 = {"input__path": "s3://brains/raw/brain", "store": "s3://brains/terareg-volumes"}


@pytest.mark.parametrize(
    ("site", "over", "words"),
    [
        ({"TERAREG_IMAGE": "", "AWS_REGION": ""}, {}, "set AWS_REGION, TERAREG_IMAGE in the env"),
        ({"TERAREG_PREFIX": "s3://brains"}, {}, "TERAREG_PREFIX must be s3://bucket/prefix"),
        ({}, {"store": "results"}, "store: results is a local folder, which jobs on other"),
        ({}, {"store": "s3://brains/terareg/x"}, "is among the tracked files"),
    ],
)
def test_a_site_of_aws_that_cannot_work_is_named_before_anything_is_asked(
    workspace, site, over, words
):
    workspace.write(workspace.sample(**{**ON_S3, **over}))
    done = workspace.snakemake("--profile", "aws-batch", "-n", **{**SITE, **site})
    assert done.returncode != 0
    said = (done.stdout + done.stderr).splitlines()
    (line,) = [line for line in said if words in line]
    assert "docs/aws.md" in line or "s3://" in line


def test_the_log_keeps_every_attempt_and_each_names_rule_object_and_log(workspace):
    workspace.write(workspace.sample())
    log = "results/brain/logs/index_acquisition.log"
    done = workspace.snakemake(
        "--cores", "1", "--retries", "2", "--quiet", "--", "results/brain/acquisition.json"
    )
    assert done.returncode != 0
    lines = [x for x in done.stderr.splitlines() if x.startswith("index_acquisition: ")]
    assert len(lines) == 3 and all("LOC000" in x and f"(log: {log})" in x for x in lines)
    text = (workspace.folder / log).read_text()
    assert text.count("index_acquisition started") == 3
    assert text.count("index_acquisition failed: ") == 3
    assert not list((workspace.folder / "results").rglob("index_acquisition.json")), "no record"
