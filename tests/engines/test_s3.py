"""The whole chain with raw data and store behind the S3 protocol, and buckets that refuse."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import running

pytestmark = pytest.mark.slow

# what names the place of the raw data
NAMES_ITS_PLACE = {
    "acquisition.json", "report.html", "stitching/render/tilespecs.json.gz",
    *(f"stitching/xml_{step}.xml" for step in ("import", "displcomp", "displproj", "displthres",
                                               "merging")),
}  # fmt: skip
# a fingerprint covers the state of the raw files, for which S3 has tags and a folder has times
FACTS = ("run", "fingerprint")


class Server:
    """An S3 server on loopback, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }
        self.log = (folder / "moto.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, folder
                time.sleep(0.2)

    def client(self):
        boto3 = pytest.importorskip("boto3")
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    def require_keys(self) -> None:
        """From now on answer 403 to keys that the server did not make."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=b"0",
            headers={"Content-Type": "application/octet-stream"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=5).close()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("moto")
    found = Server(tmp_path)
    yield found
    found.stop()


def objects(client, bucket: str, prefix: str) -> dict[str, str]:
    """Digest of every object below a prefix but what jobs took; records without FACTS."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            if item["Key"].startswith(f"{prefix}logs/"):
                continue
            data = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            if item["Key"].endswith(".json"):
                data = running.json_without(data, FACTS)
            found[item["Key"][len(prefix) :]] = hashlib.sha256(data).hexdigest()
    return found


def test_raw_data_and_store_on_s3_give_the_same_bytes(server, acquired, finished, workspace):
    """A8: only what names the place of the data differs from a run on folders."""
    client = server.client()
    client.create_bucket(Bucket="scope")
    client.create_bucket(Bucket="brains")
    for path in sorted((acquired / "demo/raw").rglob("*")):
        if path.is_file():
            key = f"run 1/{path.relative_to(acquired / 'demo/raw').as_posix()}"
            client.put_object(Bucket="scope", Key=key, Body=path.read_bytes())
    running.with_acquisition(workspace, acquired, input__path="s3://scope/run 1")
    running.configure(workspace, store="s3://brains/volumes")
    done = workspace.snakemake("--cores", "2", "--quiet", **server.env)
    assert done.returncode == 0, done.stderr
    files = running.artefacts(finished.folder / "results/demo", facts=FACTS)
    mine = running.artefacts(workspace.folder / "results/demo", facts=FACTS)
    tracked = {name: digest for name, digest in files.items() if not running.in_store(name)}
    assert set(running.differing(mine, tracked)) <= NAMES_ITS_PLACE
    stored = {name: digest for name, digest in files.items() if running.in_store(name)}
    assert running.differing(objects(client, "brains", "volumes/demo/"), stored) == []
    assert len(stored) > 100
    assert running.planned(workspace, **server.env) == {}


@pytest.mark.parametrize(
    ("forbidden", "sentence"),
    [(False, "bucket"), (True, "forbidden")],
)
def test_a_bucket_that_refuses_stops_the_run_in_one_sentence(
    server, acquired, workspace, forbidden, sentence
):
    if forbidden:
        server.client().create_bucket(Bucket="brains")
        server.require_keys()
    running.with_acquisition(workspace, acquired, store="s3://brains/volumes")
    done = workspace.snakemake("--cores", "1", "--quiet", **server.env)
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("check_inputs: ")]
    assert "s3://brains/volumes" in line and sentence in line
    made = [p.name for p in (workspace.folder / "results/demo").rglob("*.json")]
    assert made == ["acquisition.json"]
    assert "testing" not in done.stderr, "credentials are never shown"
