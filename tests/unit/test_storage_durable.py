"""Objects are on the disk before the record that names them appears, whatever the disk answers."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from terareg.core.errors import StoreError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage import durable
from terareg.storage.records import remove_record, write_json, write_record
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks


class Disk:
    """What was made durable, and what then appeared, by watching the calls of the system."""

    def __init__(self, monkeypatch):
        self.synced: dict[str, int] = {}
        self.appeared: list[tuple[str, dict[str, int]]] = []
        self.refuses = lambda path: None
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if error := self.refuses(path):
                raise error
            fsync(descriptor)
            self.synced[path] = os.fstat(descriptor).st_ino

        def watched_replace(part, path):
            self.appeared.append((os.path.abspath(path), dict(self.synced)))
            replace(part, path)

        monkeypatch.setattr(os, "fsync", watched_fsync)
        monkeypatch.setattr(os, "replace", watched_replace)


@pytest.fixture
def disk(monkeypatch):
    durable.make_durable()
    return Disk(monkeypatch)


@pytest.mark.parametrize("sharded", [False, True])
def test_what_a_record_names_is_on_the_disk_before_the_record_appears(tmp_path, disk, sharded):
    store = Store(str(tmp_path / "store"))
    settings = VolumeSettings(
        chunk=8, block=16, formats=("ome-zarr", "precomputed"), sharded=sharded
    )
    plan = make_plan("v", Frame((24, 40, 20), (1.0, 1.0, 1.0)), "uint16", settings)
    init_volume(store, "v", plan)
    voxels = np.arange(24 * 40 * 20, dtype=np.uint16).reshape(24, 40, 20)

    def make(block):
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        return np.ascontiguousarray(voxels[box]), Clipped()

    summary = write_blocks(store, "v", plan, plan.blocks(), make, fingerprint="f", workers=2)
    finish_pyramid(store, "v", plan)
    write_json(tmp_path / "batch.json", summary)

    records = 0
    for path, synced in disk.appeared:
        if "/blocks/" in path or path.endswith("/pyramid.json"):
            records += 1
            for name in json.loads(Path(path).read_bytes())["objects"]:
                object_ = tmp_path / "store" / name
                assert synced.get(str(object_)) == object_.stat().st_ino, (path, name)
                # the names themselves: every folder up to the store's
                for folder in object_.parents:
                    if folder == tmp_path:
                        break
                    assert str(folder) in synced, (path, folder)
        if path.endswith("/volume.json"):
            for file in (tmp_path / "store").rglob("zarr.json"):
                assert str(file) in synced
        if path.endswith("/batch.json"):
            records += 1
            named = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
            assert all(str(file) in synced for file in named)
    assert records == len(plan.blocks()) + 2


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EIO, r"cannot write .*/a/2 \(.*\): the disk or its server failed"),
        (errno.ENOSPC, r"disk full while writing .*/a/2; free some space"),
        (errno.EDQUOT, r"disk quota used up while writing .*/a/2; free some space"),
    ],
)
def test_an_error_of_a_delayed_write_is_told_until_the_object_is_written_again(
    tmp_path, disk, number, sentence
):
    store = Store(str(tmp_path))
    for name in ("a/1", "a/2", "a/3"):
        store.write(name, b"data")
    disk.refuses = lambda path: (
        OSError(number, os.strerror(number)) if path.endswith("/a/2") else None
    )
    with pytest.raises(StoreError, match=sentence):
        write_record(store, "r.json", {})
    disk.refuses = lambda path: None
    # the system tells an error once; the next record, of whatever thread, must not appear either
    store.write("a/4", b"data")
    with pytest.raises(StoreError, match=sentence):
        write_json(tmp_path / "batch.json", {})
    assert not store.exists("r.json") and not (tmp_path / "batch.json").exists()
    assert [entry.key for entry in store.list()] == ["a/1", "a/3", "a/4"]
    store.write("a/2", b"data")
    write_record(store, "r.json", {})
    assert store.exists("r.json")


def test_a_record_waits_for_objects_that_another_thread_is_making_durable(tmp_path, disk):
    store, begun, go_on = Store(str(tmp_path)), threading.Event(), threading.Event()

    def slow(path):
        if path.endswith("/one"):
            begun.set()
            assert go_on.wait(10)

    disk.refuses = slow
    store.write("one", b"1")
    other = threading.Thread(target=durable.make_durable)
    other.start()
    assert begun.wait(10)
    record = threading.Thread(target=write_record, args=(store, "r.json", {}))
    record.start()
    record.join(0.2)
    assert not store.exists("r.json")
    go_on.set()
    record.join(10)
    other.join(10)
    assert store.exists("r.json") and str(tmp_path / "one") in disk.synced


def test_what_waits_for_the_disk_is_bounded(tmp_path, disk):
    store, most, before = Store(str(tmp_path)), durable.most_files(), len(open_files())
    for number in range(2 * most + 1):
        store.write(f"a/{number}", b"x")
    assert len(disk.synced) >= 2 * most and len(open_files()) <= before + 1
    for number in range(most - 2):
        store.write(f"b/{number}", b"x")
    durable.make_durable()
    assert len(open_files()) == before
    # bytes count as well
    large = bytes(durable.MOST_BYTES // 2)
    store.write("c/0", large)
    store.write("c/1", large)
    assert len(open_files()) == before and str(tmp_path / "c/1") in disk.synced


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_a_record_is_gone_from_the_disk_before_what_it_names_changes(tmp_path, disk):
    store = Store(str(tmp_path))
    store.write("blocks/r.json", b"{}")
    durable.make_durable()
    disk.synced.clear()
    remove_record(store, "blocks/r.json")
    assert str(tmp_path / "blocks") in disk.synced
    disk.synced.clear()
    remove_record(store, "blocks/r.json")
    assert disk.synced == {}


def test_a_child_leaves_the_objects_of_its_parent_to_it(tmp_path, disk):
    store = Store(str(tmp_path))
    store.write("one", b"1")
    child = os.fork()
    if not child:
        status = 1
        try:
            durable.make_durable()
            status = int(str(tmp_path / "one") in disk.synced)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    durable.make_durable()
    assert str(tmp_path / "one") in disk.synced


def test_a_job_whose_disk_fails_at_its_end_says_so_and_fails(tmp_path):
    # objects that no record of the job names: they are waited for when the work is done
    code = f"""
import errno, os, types
from terareg.execution.job import run_job
from terareg.storage.store import Store
def refuse(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")
os.fsync = refuse
job = types.SimpleNamespace(rule="demo", log=[{str(tmp_path / "log")!r}], input=[], output=[],
                            params=types.SimpleNamespace())
run_job(job, lambda: Store({str(tmp_path / "store")!r}).write("a/b", b"1"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "demo: disk full while writing" in done.stderr and "a/b; free some" in done.stderr
    assert not list((tmp_path / "store").rglob("b"))
