"""What unit tests share."""

from __future__ import annotations

import pytest
from workspaces import Workspace


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch):
    """Client of an S3 in memory that holds the bucket "scope"."""
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="scope")
        yield client


@pytest.fixture
def workspace(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace that is the current folder, from which relative paths are seen."""
    monkeypatch.chdir(workspace.folder)
    return workspace
