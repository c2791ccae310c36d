"""The chain on AWS Batch, whose jobs run in empty folders: the bytes of one machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import running
import yaml
from aws_batch import ACCOUNT, Cloud
from s3_server import REGION, objects, put_folder
from workspaces import ROOT, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BUCKET = "brains"


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
    pytest.importorskip("moto")
    if reason := Cloud.missing():
        pytest.skip(reason)
    policies = {"job": policy("policy-jobs.json"), "submitter": policy("policy-submit.json")}
    policies["submitter"]["Statement"] += policies["job"]["Statement"]
    with Cloud(policies) as running_cloud:
        running_cloud.client().create_bucket(Bucket=BUCKET)
        yield running_cloud


def described(workspace: Workspace, acquired: Path, **over) -> Workspace:
    """The generated acquisition, whose data are in the bucket, in a workspace."""
    config = yaml.safe_load((acquired / "demo/sample.yaml").read_text())
    changes = {"input__path": f"s3://{BUCKET}/raw/run 1", "store": f"s3://{BUCKET}/terareg-volumes"}
    workspace.write(running.changed(config, **changes, **over))
    return workspace


def submit(workspace: Workspace, cloud: Cloud, *arguments: str):
    """``snakemake --profile aws-batch --configfile sample.yaml`` in a workspace."""
    keys = cloud.env | {"TERAREG_IMAGE": "terareg:test", "TERAREG_PREFIX": f"s3://{BUCKET}/terareg"}
    return subprocess.run(
        workspace.command("--profile", "aws-batch", *arguments),
        cwd=workspace.folder, text=True, capture_output=True, timeout=1400,
        env=workspace.environment(**keys),
    )  # fmt: skip


@pytest.fixture(scope="module")
def uploaded(cloud, acquired):
    client = cloud.client()
    put_folder(client, BUCKET, "raw/run 1/", acquired / "demo/raw")
    for name in ("atlas", "fiducials"):
        put_folder(client, BUCKET, f"terareg/demo/{name}/", acquired / "demo" / name)


@pytest.fixture(scope="module")
def run(cloud, uploaded, acquired, tmp_path_factory):
    workspace = described(clone(tmp_path_factory.mktemp("cloud")), acquired)
    cloud.reclaim("fuse_block", f"{BUCKET}/terareg-volumes/")
    done = submit(workspace, cloud)
    Path("/tmp/hA_story").write_text(done.stdout + done.stderr + cloud.story() + str(cloud.requests))
    assert done.returncode == 0, done.stdout + done.stderr + cloud.story()
    return done


def test_dummy(run):
    pass
