"""The whole chain with raw data and store behind the S3 protocol, and buckets that refuse."""

from __future__ import annotations

import pytest
import running
from s3_server import FOR_EVER, KEY_ID, SECRET, objects, put_folder, refuses

pytestmark = pytest.mark.slow


def test_raw_data_and_store_on_s3_give_the_same_bytes(s3, acquired, finished, workspace):
    """A8: only what names the place of the data differs from a run on folders."""
    client = s3.client()
    client.create_bucket(Bucket="scope")
    client.create_bucket(Bucket="brains")
    put_folder(client, "scope", "run 1/", acquired / "demo/raw")
    running.with_acquisition(workspace, acquired, input__path="s3://scope/run 1")
    running.configure(workspace, store="s3://brains/volumes")
    done = workspace.snakemake("--cores", "2", *running.WITHOUT_PICTURES, "--quiet", **s3.env)
    assert done.returncode == 0, done.stderr
    files, mine = (
        running.artefacts(folder / "results/demo", *running.PICTURES, facts=running.FACTS_OF_FILES)
        for folder in (finished.folder, workspace.folder)
    )
    tracked = {name: digest for name, digest in files.items() if not running.in_store(name)}
    assert set(running.differing(mine, tracked)) <= running.NAMES_ITS_PLACE
    assert len(tracked) > 50
    stored = {name: digest for name, digest in files.items() if running.in_store(name)}
    there = objects(client, "brains", "volumes/demo/", running.FACTS_OF_FILES)
    assert running.differing(there, stored) == []
    assert len(stored) > 100
    assert running.planned(workspace, *running.WITHOUT_PICTURES, **s3.env) == {}


@pytest.mark.parametrize(
    ("forbidden", "sentence"),
    [(False, "bucket"), (True, "forbidden")],
)
def test_a_bucket_that_refuses_stops_the_run_in_one_sentence(
    s3, acquired, workspace, forbidden, sentence
):
    if forbidden:
        s3.client().create_bucket(Bucket="brains")
        s3.fail("PutObject", refuses(403, "AccessDenied"), FOR_EVER)
    running.with_acquisition(workspace, acquired, store="s3://brains/volumes")
    done = workspace.snakemake("--cores", "1", "--quiet", **s3.env)
    assert done.returncode != 0
    lines = [
        x for x in done.stderr.splitlines() if x.startswith(("check_inputs: ", "first_look: "))
    ]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("check_inputs: ") and "s3://brains/volumes" in lines[0]
    assert sentence in lines[0]
    made = [p.name for p in (workspace.folder / "results/demo").rglob("*.json")]
    assert made == ["acquisition.json"]
    assert KEY_ID not in done.stderr and SECRET not in done.stderr
