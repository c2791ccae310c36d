"""Stores on S3 that misbehaves: right in the end, or one sentence; no part for the whole."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable

import numpy as np
import pytest
from s3_server import FOR_EVER, KEY_ID, SECRET, Answer, Server, refuses

from terareg.acquisition import plane_files
from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.storage import s3
from terareg.storage.records import read_record, write_record
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.reader import Volume
from terareg.volumes.writer import init_volume, write_block

BODY = bytes(range(256)) * 40


def half_then_end(good: Answer, environ: dict, start_response, reset: bool = False):
    """Half of the right answer, then the end of the connection."""
    headers = []

    def keep(status: str, found: list) -> None:
        headers.extend(found)

    body = b"".join(good(environ, keep))
    start_response("200 OK", [*headers, ("Connection", "close")])
    yield body[: len(body) // 2]
    if reset:
        abort = struct.pack("ii", 1, 0)
        environ["werkzeug.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)


def half_then_reset(good: Answer, environ: dict, start_response):
    """Half of the right answer, then a reset of the connection."""
    return half_then_end(good, environ, start_response, reset=True)


def hangs_up(good: Answer, environ: dict, start_response):
    """No answer at all."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start_response("200 OK", [])
    return []


def too_late(good: Answer, environ: dict, start_response):
    """The right answer when nobody waits for it any more."""
    threading.Event().wait(1.0)
    return good(environ, start_response)


BUSY = [refuses(500, "InternalError"), refuses(503, "SlowDown"), too_late]
BROKEN = [half_then_end, half_then_reset]


@pytest.fixture(scope="module")
def started():
    pytest.importorskip("moto")
    with Server() as found:
        yield found


@pytest.fixture
def server(started, monkeypatch):
    for name, value in started.env.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(s3, "_FIRST_DELAY_S", 0.01)
    # the waits between attempts
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    started.forget()
    started.client().create_bucket(Bucket="brains")
    started.asked.clear()
    return started


def impatient(monkeypatch, fault) -> None:
    """Wait for an answer only as long as it takes to see that none comes."""
    if fault is too_late:
        monkeypatch.setattr(s3, "_READ_TIMEOUT_S", 0.5)


@pytest.fixture
def store(server):
    return Store("s3://brains/lab")


def name_of(fault) -> str:
    return fault.__name__


# ------------------------------------------------------------------ objects
@pytest.mark.slow
@pytest.mark.parametrize("fault", [*BUSY, *BROKEN, hangs_up], ids=name_of)
def test_what_is_read_is_whole_after_faults(server, store, fault, monkeypatch):
    impatient(monkeypatch, fault)
    store.write("a", BODY)
    server.fail("GetObject", fault, 2)
    assert store.read("a") == BODY
    assert server.asked.count("GetObject") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN, ids=name_of)
def test_a_range_is_whole_after_faults(server, store, fault):
    store.write("a", BODY)
    server.fail("GetObject", fault, 2)
    data, entry = store.read_range("a", 100, 5000)
    assert data == BODY[100:5100] and entry.size == len(BODY)
    with pytest.raises(EOFError, match="s3://brains/lab/a ends too early"):
        store.read_range("a", len(BODY) + 1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*BUSY, hangs_up], ids=name_of)
def test_what_is_written_is_whole_after_faults(server, store, fault, monkeypatch):
    impatient(monkeypatch, fault)
    server.fail("PutObject", fault, 2)
    store.write("a", BODY)
    assert store.read("a") == BODY
    assert server.asked.count("PutObject") >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (refuses(500, "InternalError"), "InternalError"),
        (refuses(503, "SlowDown"), "SlowDown"),
        (half_then_end, "ended early"),
        (half_then_reset, "ended early|reset"),
        (too_late, "[Tt]imed? ?out"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_fault_that_stays_is_one_sentence(server, store, fault, why, monkeypatch):
    impatient(monkeypatch, fault)
    monkeypatch.setattr(s3, "_ATTEMPTS", 3)
    store.write("a", BODY)
    server.fail("GetObject", fault, FOR_EVER)
    with pytest.raises(StoreError, match=why) as caught:
        store.read("a")
    said = str(caught.value)
    assert "s3://brains/lab/a" in said and "run again" in said
    assert "\n" not in said
    assert KEY_ID not in said and SECRET not in said
    assert server.asked.count("GetObject") == 3


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "check the AWS credentials and the bucket's policy"),
        ("ExpiredToken", "log in and run again"),
        ("InvalidAccessKeyId", "check the AWS credentials"),
    ],
)
def test_refusals_are_not_tried_again(server, store, code, advice):
    server.fail("GetObject", refuses(403 if code != "ExpiredToken" else 400, code), FOR_EVER)
    with pytest.raises(StoreError, match=advice) as caught:
        store.read("a")
    assert code in str(caught.value) and "s3://brains/lab" in str(caught.value)
    assert KEY_ID not in str(caught.value) and SECRET not in str(caught.value)
    assert server.asked.count("GetObject") == 1


@pytest.mark.slow
def test_nobody_at_the_address_is_one_sentence_without_keys(monkeypatch, server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(s3, "_ATTEMPTS", 2)
        with pytest.raises(StoreError, match="cannot reach s3://brains/lab/a") as caught:
            Store("s3://brains/lab").read("a")
    assert KEY_ID not in str(caught.value) and SECRET not in str(caught.value)


def test_a_missing_object_is_no_fault(server, store):
    with pytest.raises(FileNotFoundError):
        store.read("none")
    assert store.size("none") is None
    assert server.asked.count("GetObject") == 2
    store.delete("none")


# ------------------------------------------------------------------ listings
def pages_of(count: int):
    """The right answer to a request for a listing, in pages of a few keys."""

    def fault(good: Answer, environ: dict, start_response) -> Iterable[bytes]:
        environ["QUERY_STRING"] += f"&max-keys={count}"
        return good(environ, start_response)

    return fault


@pytest.fixture
def eleven(server, store):
    for i in range(11):
        store.write(f"tiles/LOC{i:03d}/plane {i}.tif", bytes(i))
    server.asked.clear()
    return [(f"tiles/LOC{i:03d}/plane {i}.tif", i) for i in range(11)]


def test_a_listing_goes_on_to_its_last_page(server, store, eleven):
    server.fail("ListBucket", pages_of(3), FOR_EVER)
    assert [(e.key, e.size) for e in store.list("tiles")] == eleven
    assert server.asked.count("ListBucket") == 4
    assert store.folders("tiles") == [f"LOC{i:03d}" for i in range(11)]


@pytest.mark.parametrize("fault", [refuses(503, "SlowDown"), half_then_end], ids=name_of)
def test_a_listing_is_whole_after_a_fault_in_the_middle(server, store, eleven, fault):
    server.fail("ListBucket", pages_of(4), 1)
    server.fail("ListBucket", fault, 2)
    assert [(e.key, e.size) for e in store.list("tiles")] == eleven


def test_a_listing_that_breaks_off_is_no_short_listing(server, store, eleven, monkeypatch):
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    server.fail("ListBucket", pages_of(4), 1)
    server.fail("ListBucket", refuses(503, "SlowDown"), FOR_EVER)
    with pytest.raises(StoreError, match=r"SlowDown .*s3://brains/lab/tiles"):
        list(store.list("tiles"))


def test_an_object_that_stays_after_a_deletion_is_named(server, store, eleven):
    def keeps_one(good: Answer, environ: dict, start_response) -> Iterable[bytes]:
        body = (
            b"<DeleteResult><Error><Key>lab/tiles/LOC003/plane 3.tif</Key>"
            b"<Code>AccessDenied</Code></Error></DeleteResult>"
        )
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    server.fail("DeleteObject", keeps_one)
    with pytest.raises(StoreError, match=r"plane 3.tif.*could not be deleted \(AccessDenied\)"):
        store.delete_folder("tiles")
    store.delete_folder("tiles")
    assert list(store.list()) == []


# ------------------------------------------------------------------ readers
def test_a_record_that_cannot_be_had_is_not_a_missing_record(server, store, monkeypatch):
    """Work would be done again, or worse, be thought of as absent."""
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    write_record(store, "r.json", {"fingerprint": "f"})
    server.fail("GetObject", half_then_end)
    assert read_record(store, "r.json") == {"fingerprint": "f"}
    server.fail("GetObject", refuses(503, "SlowDown"), FOR_EVER)
    with pytest.raises(StoreError, match="SlowDown"):
        read_record(store, "r.json")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [refuses(503, "SlowDown"), *BROKEN], ids=name_of)
def test_a_plane_is_whole_after_a_fault(server, store, fault, tmp_path):
    import tifffile

    plane = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    tifffile.imwrite(tmp_path / "plane.tif", plane)
    store.write("plane.tif", (tmp_path / "plane.tif").read_bytes())
    server.fail("GetObject", fault)
    rows, _ = plane_files.read_rows(store, "plane.tif", (plane.shape, "uint16"), slice(5, 60))
    np.testing.assert_array_equal(rows, plane[5:60])


@pytest.fixture
def volume(store):
    """A volume of two blocks in both formats, with what was written."""
    array = np.random.default_rng(0).integers(1, 60000, (32, 32, 64), dtype=np.uint16)
    settings = VolumeSettings(formats=("ome-zarr", "precomputed"), chunk=8, block=32)
    plan = make_plan("v", Frame(array.shape, (2.0, 2.0, 2.0)), "uint16", settings)
    init_volume(store, "v", plan)
    for block in plan.blocks():
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        write_block(store, "v", plan, block, array[box], fingerprint="f")
    return Volume(store, "v"), array


@pytest.mark.parametrize("fault", [refuses(500, "InternalError"), *BROKEN], ids=name_of)
def test_a_block_is_whole_after_a_fault(server, volume, fault):
    found, array = volume
    server.fail("GetObject", fault)
    np.testing.assert_array_equal(found.read(0), array)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (refuses(503, "SlowDown"), "failed 2 times for .*SlowDown.*run again"),
        (half_then_end, "failed 2 times for .*partial file.*run again"),
        (refuses(403, "AccessDenied"), "forbidden .*check the AWS credentials"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_block_that_cannot_be_had_is_a_sentence_and_no_zeros(
    server, volume, fault, why, monkeypatch
):
    monkeypatch.setattr(s3, "_ATTEMPTS", 2)
    found, _ = volume
    server.fail("GetObject", fault, FOR_EVER)
    with pytest.raises(StoreError, match=why) as caught:
        found.read(0)
    said = str(caught.value)
    assert "level 0 of s3://brains/lab/v" in said and "\n" not in said and "[" not in said
    assert KEY_ID not in said and SECRET not in said


# ------------------------------------------------------------------ credentials
@pytest.mark.parametrize(
    "address",
    ["s3://KEY:SECRET@bucket/prefix", "s3://KEY@bucket", "https://lab:SECRET@host/store",
     "s3://bucket/a?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET", "file://u:SECRET@host/a"],
)  # fmt: skip
def test_an_address_with_credentials_is_refused_and_not_repeated(address):
    with pytest.raises(StoreError, match="contains a password, key or signature") as error:
        Store(address)
    assert "SECRET" not in str(error.value) and "KEY" not in str(error.value)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_password_in_the_address_of_the_server_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "http://lab:SECRET@127.0.0.1:1")
    for use in (lambda: Store("s3://bucket").read("a"), lambda: Store("s3://bucket").kvstore("a")):
        with pytest.raises(StoreError, match=f"the environment variable {name}") as error:
            use()
        assert "SECRET" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["s3://bucket/a@b/c", "data/a@b?x=1", "s3://bucket/run?2"])
def test_unusual_names_are_no_credentials(address):
    assert Store(address).url == address
