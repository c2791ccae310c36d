"""The chain on AWS Batch, whose jobs run in empty folders: the bytes of one machine."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import running
import yaml
from aws_batch import ACCOUNT, IMAGE, MEMORY, QUEUE, RECLAIMED, ROLE, Cloud, allows
from kills import finish_after_kills, shares
from s3_server import REGION, keys, objects, put_folder
from workspaces import ROOT, Workspace

from terareg.core.blas import pin_kernels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

BUCKET = "brains"
RAW, TRACKED, VOLUMES = "raw/run 1", "terareg", "terareg-volumes"
FLATFIELD = "results/demo/intensity/ch0/nominal/flatfield.tif"

# The executor asks for its jobs every 5 s: right for jobs of minutes, idle with jobs of seconds.
SOON = """\
import sys
if any(part.endswith("bin/snakemake") for part in sys.orig_argv):
    from snakemake_executor_plugin_aws_batch import Executor
    Executor.next_seconds_between_status_checks = property(lambda _: 0.5, lambda _, seconds: None)
"""


def policy(name: str) -> dict:
    """A policy of the profile, with the names of this site."""
    text = (ROOT / "profiles/aws-batch" / name).read_text()
    for word, value in (("BUCKET", BUCKET), ("REGION", REGION), ("ACCOUNT", ACCOUNT)):
        text = text.replace(word, value)
    return json.loads(text)


def clone(folder: Path) -> Workspace:
    """The repository as a user has it: copies of the files, known to git."""
    workspace = Workspace(folder, own_code=True)
    for name in ("profiles", "config"):
        (folder / name).unlink()
        shutil.copytree(ROOT / name, folder / name)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return workspace


@pytest.fixture(scope="module")
def cloud():
    """An empty bucket and a queue; skips, saying why, where no job can be shut in."""
    pytest.importorskip("moto")
    if reason := Cloud.missing():
        pytest.skip(reason)
    policies = {"job": policy("policy-jobs.json"), "submitter": policy("policy-submit.json")}
    # who submits reads and writes the same data: small rules run there
    policies["submitter"]["Statement"] += policies["job"]["Statement"]
    with Cloud(policies) as started:
        started.client().create_bucket(Bucket=BUCKET)
        yield started


class Submitter:
    """A user who has cloned the repository, and whose data are in the bucket."""

    def __init__(self, folder: Path, cloud: Cloud, acquired: Path) -> None:
        self.workspace = clone(folder)
        config = yaml.safe_load((acquired / "demo/sample.yaml").read_text())
        where = {"input__path": f"s3://{BUCKET}/{RAW}", "store": f"s3://{BUCKET}/{VOLUMES}"}
        self.workspace.write(running.changed(config, **where))
        (folder / "soon").mkdir()
        (folder / "soon/sitecustomize.py").write_text(SOON)
        self._keys = cloud.env | {
            "TERAREG_IMAGE": IMAGE,
            "TERAREG_PREFIX": f"s3://{BUCKET}/{TRACKED}",
            "PYTHONPATH": str(folder / "soon"),
        }

    def start(self, *arguments: str, stdout=subprocess.PIPE) -> subprocess.Popen:
        """``snakemake --profile aws-batch --configfile sample.yaml``, as typed."""
        return subprocess.Popen(
            self.workspace.command("--profile", "aws-batch", *arguments),
            cwd=self.workspace.folder, text=True,
            stdout=stdout, stderr=subprocess.STDOUT,
            env=self.workspace.environment(**self._keys),
            # tests that a shell started in the background ignore Ctrl-C, and so would their child
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def snakemake(self, *arguments: str) -> tuple[int, str]:
        """Run it to its end; status, and what it printed."""
        with self.start(*arguments) as run:
            try:
                said, _ = run.communicate(timeout=1400)
            except BaseException:
                run.kill()
                raise
        return run.returncode, said


@pytest.fixture(scope="module")
def submitter(cloud, acquired, tmp_path_factory):
    client = cloud.client()
    put_folder(client, BUCKET, f"{RAW}/", acquired / "demo/raw")
    for name in ("atlas", "fiducials"):
        put_folder(client, BUCKET, f"{TRACKED}/demo/{name}/", acquired / "demo" / name)
    return Submitter(tmp_path_factory.mktemp("submitter"), cloud, acquired)


@pytest.fixture(scope="module")
def printed(cloud, submitter, kills):
    """What the runs of the whole chain printed.

    One job loses its machine in the middle; after that Snakemake is killed, whose jobs go on and
    meet those of the next one. It is killed half as often as on other engines: each start of a
    run looks at the whole bucket.
    """
    cloud.reclaim("fuse_blocks", f"{BUCKET}/{VOLUMES}/")
    log = submitter.workspace.folder / "run.log"
    finish_after_kills(
        submitter.start, lambda: unlock(submitter), shares(kills // 2, (0.65, 0.9)), log
    )
    for job in cloud.jobs:
        assert job.over.wait(120), cloud.story()
    return log.read_text()


def done_in_a_job(cloud, command: str):
    """The job, when it has ended, that ran a command of the shell; it is then forgotten."""
    batch = cloud.client("batch")
    batch.register_job_definition(
        jobDefinitionName="snakejob-def-look", type="container",
        timeout={"attemptDurationSeconds": 60},
        containerProperties={
            "image": "terareg:test", "command": ["/bin/bash", "-c", command],
            "environment": [{"name": "GIVEN", "value": "1"}], "jobRoleArn": ROLE,
            "resourceRequirements": [
                {"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}
            ],
        },
    )  # fmt: skip
    batch.submit_job(
        jobName=f"snakejob-look-{uuid.uuid4()}", jobQueue=QUEUE, jobDefinition="snakejob-def-look:1"
    )
    (job,) = cloud.of_rule("look")
    assert job.over.wait(120)
    cloud.jobs.clear()
    return job


def test_the_emulation_hides_the_checkout_and_the_submitter(cloud, tmp_path):
    """Without this, a job that reads the submitter's disk would pass all tests below."""
    looks = f"ls -A . '{ROOT}/workflow' '{tmp_path}'; env; echo $$ > /tmp/mine"
    job = done_in_a_job(cloud, looks + "; python -c 'import requests, moto'; exit 3")
    assert (job.status, job.exit_code) == ("FAILED", 3), job.log
    assert job.log.count("No such file or directory") == 2, job.log
    assert "No module named 'moto'" in job.log, "the tests need it, and no job has it"
    names = set(re.findall(r"^(\w+)=", job.log, re.MULTILINE))
    assert "GIVEN" in names and "OMP_NUM_THREADS" in names
    assert not names & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "VIRTUAL_ENV"}
    assert not Path("/tmp/mine").exists()


#: a rule whose script tells what it sees, and imports what the tests have and jobs do not
LOOK = """\
cat >Snakefile <<'END'
rule:
    script: "look.py"
END
cat >look.py <<'END'
import os, sys
print("shared:", "tensorstore" in sys.modules)
print("there:", [path for path in {paths!r} if os.path.exists(path)])
print("names:", *sorted(os.environ))
print("beside:", sum(name.isdigit() for name in os.listdir("/proc")))
open("/tmp/mine", "w").close()
import {hidden}
END
export GIVEN {kernel}
python -m snakemake --cores 1
"""


@pytest.mark.parametrize("hidden", ["terareg", "moto"])
def test_python_that_is_forked_for_a_job_sees_what_the_job_sees(cloud, tmp_path, hidden):
    paths = [f"{ROOT}/workflow", str(tmp_path), "look.py"]
    kernel: dict[str, str] = {}
    pin_kernels(kernel)
    pinned = " ".join(f"{name}={value}" for name, value in kernel.items())
    job = done_in_a_job(cloud, LOOK.format(paths=paths, hidden=hidden, kernel=pinned))
    assert (job.status, job.exit_code) == ("FAILED", 1), job.log
    assert f"shared: {cloud.forks}" in job.log and "there: ['look.py']" in job.log, job.log
    assert f"No module named '{hidden}'" in job.log, job.log
    names = set(re.search(r"^names: (.+)$", job.log, re.MULTILINE)[1].split())
    assert "GIVEN" in names
    assert not names & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "VIRTUAL_ENV"}
    assert int(re.search(r"^beside: (\d+)$", job.log, re.MULTILINE)[1]) < 10
    assert not Path("/tmp/mine").exists()
    assert job.largest_process_mb > 50


def artefacts_of(client, name: str) -> dict[str, str]:
    """Digests of all artefacts of a sample, or of the atlases."""
    found = {}
    for prefix in (f"{TRACKED}/results/{name}/", f"{VOLUMES}/{name}/"):
        found |= objects(client, BUCKET, prefix, running.FACTS_OF_FILES)
    return found


def test_the_cloud_gives_the_bytes_of_one_machine(printed, cloud, finished):
    results = finished.folder / "results"
    for name, least in (("demo", 250), ("atlases", 5)):
        here = running.artefacts(results / name, facts=running.FACTS_OF_FILES)
        there = artefacts_of(cloud.client(), name)
        assert len(here) >= least
        assert set(running.differing(here, there)) <= running.NAMES_ITS_PLACE


def test_a_job_that_loses_its_machine_is_tried_again_with_more(printed, cloud):
    """It had begun to write; that the bytes are right in the end is what the test above says."""
    lost, *others = sorted(cloud.of_rule("fuse_blocks"), key=lambda job: job.reason != RECLAIMED)
    assert (lost.status, lost.reason) == ("FAILED", RECLAIMED)
    again = [job for job in others if job.target == lost.target]
    assert [job.status for job in again] == ["SUCCEEDED"]
    assert again[0].asked["MEMORY"] > lost.asked["MEMORY"]
    assert "Error in rule fuse_blocks" in printed and RECLAIMED in printed
    assert sum(job.status == "FAILED" for job in cloud.jobs) == 1


def test_jobs_get_what_they_ask_for_and_need_no_more(printed, cloud):
    """The executor silently takes less memory when it does not know a number."""
    assert "is invalid for vCPU" not in printed
    assert len(cloud.jobs) > 35
    for job in cloud.jobs:
        assert job.asked["MEMORY"] in MEMORY[job.asked["VCPU"]], job.name
        assert job.largest_process_mb < job.asked["MEMORY"], job.name
        assert job.definition["timeout"]["attemptDurationSeconds"] >= 86400
        assert job.container["image"] == IMAGE
        assert set(job.environment) == {"AWS_REGION", "SNAKEMAKE_STORAGE_S3_REGION"}


def test_who_submits_may_do_no_more_than_the_executor_does():
    """The right calls, each with the thing that is not ours: the executor's containers are root."""
    submits = policy("policy-submit.json")
    arn = QUEUE.removesuffix("job-queue/terareg")
    definition, image = f"{arn}job-definition/snakejob-def-a-1:1", {"batch:Image": IMAGE}
    assert allows(submits, "batch:RegisterJobDefinition", definition, image)
    assert not allows(submits, "batch:RegisterJobDefinition", f"{arn}job-definition/other", image)
    for other in ("evil:1", "docker.io/terareg:test", IMAGE.replace("/terareg:", "/other:")):
        facts = {"batch:Image": other}
        assert not allows(submits, "batch:RegisterJobDefinition", definition, facts)
    for name in (definition, QUEUE):
        assert allows(submits, "batch:SubmitJob", name)
        assert not allows(submits, "batch:SubmitJob", name.replace("snakejob", "x") + "x")
    assert allows(submits, "batch:DeregisterJobDefinition", definition)
    assert not allows(submits, "batch:DeregisterJobDefinition", QUEUE)
    passed = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    assert allows(submits, "iam:PassRole", ROLE, passed)
    assert not allows(submits, "iam:PassRole", ROLE, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not allows(submits, "iam:PassRole", ROLE.replace("terareg-job", "admin"), passed)


def test_the_policies_of_the_documentation_suffice_and_nothing_is_left(printed, cloud, kills):
    assert cloud.refused == []
    assert cloud.requests["job", "s3:PutObject"] > 100
    names = keys(cloud.client(), BUCKET)
    assert {name.split("/")[0] for name in names} == {RAW.split("/")[0], TRACKED, VOLUMES}
    # a killed Snakemake cannot remove the workflow's sources that it gave its jobs
    assert sum("snakemake-workflow-sources" in name for name in names) <= kills
    assert not any(name.endswith((".part", ".lock")) for name in names)


def test_a_second_run_from_another_clone_has_nothing_to_do(printed, cloud, acquired, tmp_path):
    _, said = Submitter(tmp_path / "clone", cloud, acquired).snakemake("-n")
    assert "Nothing to be done" in said, said


@pytest.fixture
def damaged(printed, cloud):
    """A plane whose bytes are zeros, of the size that it had."""
    client = cloud.client()
    key = next(k for k in keys(client, BUCKET, RAW) if k.endswith("CHN00_PLN0003.tif"))
    body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(len(body)))
    yield key.removeprefix(f"{RAW}/")
    client.put_object(Bucket=BUCKET, Key=key, Body=body)


def test_a_failing_job_names_rule_object_and_log(damaged, submitter, cloud):
    before = len(cloud.jobs)
    status, said = submitter.snakemake("--retries", "0", FLATFIELD)
    assert status == 1, said
    log = f"{TRACKED}/results/demo/logs/sum_tiles/ch0_0.log"
    assert "Error in rule sum_tiles" in said and f"log: s3://{BUCKET}/{log}" in said
    (job,) = cloud.jobs[before:]
    assert job.status == "FAILED" and f"external_jobid: {job.id}" in said
    # the sentence is in CloudWatch, and in the log that the job has left in the bucket
    left = cloud.client().get_object(Bucket=BUCKET, Key=log)["Body"].read().decode()
    for text in (job.log, left):
        assert f"{damaged} is not a TIFF or PNG file" in text, text


def test_an_interrupted_run_leaves_no_job(submitter, cloud):
    before = len(cloud.jobs)
    with submitter.start("--forcerun", "sum_tiles", "--", FLATFIELD) as run:
        end = time.monotonic() + 120
        while not any(job.status == "RUNNING" for job in cloud.jobs[before:]):
            assert run.poll() is None and time.monotonic() < end, cloud.story()
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=120)
    assert run.returncode != 0
    for job in cloud.jobs[before:]:
        assert job.over.wait(30), job
        assert (job.status, job.reason) == ("FAILED", "terminated by snakemake")
        assert job.process is None or job.process.poll() is not None


def unlock(submitter) -> None:
    status, said = submitter.snakemake("--unlock")
    assert status == 0, said
