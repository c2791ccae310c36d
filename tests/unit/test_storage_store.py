"""Stores and records on a folder: atomic, contained, honest about what is complete."""

import errno
import gzip
import os

import numpy as np
import pytest

from terareg.core.errors import StoreError
from terareg.storage import records
from terareg.storage.store import Store, gzipped, outage, write_atomic


def test_write_read_list_delete(tmp_path):
    store = Store(str(tmp_path / "store"))
    store.write("a/b/one.bin", b"1")
    store.write("a/two.bin", b"22")
    assert store.read("a/b/one.bin") == b"1"
    assert [(e.key, e.size) for e in store.list()] == [("a/b/one.bin", 1), ("a/two.bin", 2)]
    assert store.folders("a") == ["b"]
    assert store.size("a/two.bin") == 2 and store.size("a/none") is None
    store.delete("a/two.bin")
    store.delete_folder("a/b")
    assert list(store.list()) == []


@pytest.mark.parametrize("remote", [False, True])
def test_a_part_of_an_object(tmp_path, bucket, remote):
    store = Store("s3://scope/lab" if remote else str(tmp_path))
    store.write("a/b.bin", bytes(range(100)))
    entry = store.entry("a/b.bin")
    assert (entry.key, entry.size) == ("a/b.bin", 100) and entry in list(store.list("a"))
    assert store.read_range("a/b.bin", 10, 5) == (bytes(range(10, 15)), entry)
    assert store.read_range("a/b.bin", 95, 50) == (bytes(range(95, 100)), entry)
    with pytest.raises(FileNotFoundError):
        store.read_range("a/none", 0, 1)
    assert store.entry("a/none") is None


def test_a_listing_follows_links_to_files_and_not_to_folders(tmp_path):
    (tmp_path / "there/in").mkdir(parents=True)
    (tmp_path / "there/in/x").write_bytes(b"123")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/file").symlink_to(tmp_path / "there/in/x")
    (tmp_path / "store/folder").symlink_to(tmp_path / "there/in")
    (tmp_path / "store/lost").symlink_to(tmp_path / "there/nothing")
    store = Store(str(tmp_path / "store"))
    assert [(e.key, e.size) for e in store.list()] == [("file", 3)]
    assert list(store.list("none")) == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", "a\\b"])
def test_keys_cannot_leave_the_store(tmp_path, key):
    with pytest.raises(StoreError, match="would leave the store"):
        Store(str(tmp_path)).write(key, b"")


def test_a_failed_write_leaves_the_old_object_and_no_rest(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.write("x.json", b"old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match=r"disk full while writing .*x\.json"):
        store.write("x.json", b"new")
    monkeypatch.undo()
    assert store.read("x.json") == b"old"
    assert [e.key for e in store.list()] == ["x.json"]


def test_no_two_processes_write_the_same_file_before_it_appears(tmp_path, monkeypatch):
    # files stay under the names that they have before they appear, where none may be there already
    monkeypatch.setattr(os, "replace", lambda source, target: None)
    write_atomic(tmp_path / "x", b"1")
    child = os.fork()
    if not child:
        status = 1
        try:
            write_atomic(tmp_path / "x", b"2")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    write_atomic(tmp_path / "x", b"3")
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"1", b"2", b"3"]


def test_deleting_what_cannot_be_there_is_nothing_and_what_cannot_be_deleted_is_named(tmp_path):
    store = Store(str(tmp_path))
    store.write("file", b"1")
    store.delete("file/below")
    store.delete("none")
    store.delete_folder("file/below")
    assert store.read("file") == b"1"
    store.write("folder/x", b"1")
    with pytest.raises(StoreError, match=r"cannot delete .*folder \(.*\)"):
        store.delete("folder")
    assert store.read("folder/x") == b"1"


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.write("open/a", b"1")
    store.write("closed/b", b"1")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match=r"cannot read .*closed .*Permission denied"):
        list(store.list())
    assert list(store.list("none")) == []


def test_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*point store: elsewhere"):
        Store(str(tmp_path / "file")).check_writable()


def test_faults_of_the_store_are_told_from_faults_of_an_object():
    full = outage("/data/v", OSError("RESOURCE_EXHAUSTED: write: No space left on device"))
    assert "disk full while writing /data/v" in str(full)
    refused = ValueError("PERMISSION_DENIED: AccessDenied [http_response_code='403']")
    assert "check the AWS credentials" in str(outage("s3://brains/v", refused))
    # a folder has permissions, and no credentials
    assert outage("/data/v", refused) is None
    assert outage("s3://brains/v", ValueError("DATA_LOSS: Digest mismatch")) is None


def test_too_little_space_is_named_with_numbers(tmp_path):
    with pytest.raises(StoreError, match=r"GB free but this sample needs about 1000000000"):
        Store(str(tmp_path)).check_writable(needed_bytes=10**18)


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "us-east-1"),
        # tensorstore asks AWS where the bucket is
        ({}, None),
    ],
)
def test_arrays_are_sought_in_the_region_of_the_environment(monkeypatch, environment, region):
    names = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spec = Store("s3://bucket/some/prefix").kvstore("v")
    assert (spec["bucket"], spec["path"]) == ("bucket", "some/prefix/v/")
    assert spec.get("aws_region") == region
    assert spec.get("endpoint") == environment.get("AWS_ENDPOINT_URL")


def test_signs_of_urls_are_part_of_a_prefix_and_of_a_folder(tmp_path):
    assert Store("s3://bucket/run#1/a?b%20c/").prefix == "run#1/a?b%20c"
    assert Store("s3://bucket").prefix == "" and Store("s3://bucket").bucket == "bucket"
    (tmp_path / "my brain").mkdir()
    (tmp_path / "my brain/x").write_bytes(b"1")
    assert Store((tmp_path / "my brain").as_uri()).exists("x")


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/x", "s3:///prefix", "s3:/bucket/x", "s3//bucket/x", "s3:x", "D:\\x"],
)
def test_unsupported_addresses(url):
    with pytest.raises(StoreError, match=r"store '.*'"):
        Store(url)


def test_json_is_deterministic_and_plain():
    data = {"b": np.float32(0.5), "a": [np.int64(3), float("nan")], "c": np.arange(2)}
    assert records.to_json(data) == records.to_json(dict(reversed(data.items())))
    assert b"NaN" not in records.to_json(data)


def test_done_means_same_fingerprint_and_every_object_with_its_size(tmp_path):
    store = Store(str(tmp_path))
    store.write("data", b"1234")
    records.write_record(store, "r.json", {"fingerprint": "f", "objects": {"data": 4}})
    assert records.is_done(store, "r.json", "f")
    assert records.is_done(store, "r.json", "g") is None
    store.write("data", b"123")
    assert records.is_done(store, "r.json", "f") is None
    store.write("r.json", b'{"fingerprint": "f", "obj')
    assert records.is_done(store, "r.json", "f") is None


def test_content_hash_sees_values_shape_and_type():
    array = np.arange(6, dtype=np.uint16)
    hashes = {
        records.content_hash(a)
        for a in (array, array.reshape(2, 3), array.astype(np.uint8), array + np.uint16(1))
    }
    assert len(hashes) == 4
    assert records.content_hash(array[::2]) == records.content_hash(array[::2].copy())


def test_content_hash_is_the_same_in_parts_and_is_xxh3():
    array = np.arange(7 * 5 * 3, dtype=np.uint16).reshape(7, 5, 3)
    digest = records.ContentHash("uint16", array.shape)
    for first in range(0, 7, 2):
        digest.update(array[first : first + 2])
    assert digest.hexdigest() == records.content_hash(array)
    assert records.content_hash(np.arange(3, dtype="<u2")) == "a852bd9f217087932c46198a96337cdb"


def test_an_object_appears_when_it_is_whole(tmp_path):
    store = Store(str(tmp_path))
    growing = store.create("a/b")
    growing.write(6, b"late")
    growing.write(0, b"ear", np.frombuffer(b"ly", np.uint8))
    assert list(store.folders("a")) == [] and not store.exists("a/b") and growing.size == 10
    growing.commit()
    growing.discard()
    assert store.read("a/b") == b"early\0late"
    assert [entry.key for entry in store.list()] == ["a/b"]


def test_an_object_that_is_given_up_leaves_nothing_behind(tmp_path):
    store = Store(str(tmp_path))
    store.write("a", b"old")
    growing = store.create("a")
    growing.write(0, b"new")
    growing.discard()
    assert store.read("a") == b"old" and [entry.key for entry in store.list()] == ["a"]
    with pytest.raises(StoreError, match=r"cannot write .*a/b .*point store: elsewhere"):
        store.create("a/b")


def test_a_full_disk_is_said_of_an_object_that_grows(tmp_path, monkeypatch):
    growing = Store(str(tmp_path)).create("a")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StoreError, match=r"disk full while writing .*/a; free some space"):
        growing.write(0, b"new")
    growing.discard()
    assert list(tmp_path.iterdir()) == []


def test_gzip_has_the_same_header_in_every_version_of_python():
    data = bytes(range(256)) * 40
    packed = gzipped(memoryview(data), 6)
    # no time, and Unix as the operating system: Python 3.13 alone writes 255 there
    assert packed[:4] == b"\x1f\x8b\x08\x00" and packed[4:8] == bytes(4) and packed[9] == 3
    assert gzip.decompress(packed) == data
