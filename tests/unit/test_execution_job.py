"""Jobs: logs that survive retries, one sentence for the user, never status 0 on failure."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import tifffile

from terareg.acquisition.plane_files import read_rows
from terareg.core.errors import StoreError
from terareg.execution.checksums import compare_checksums
from terareg.execution.job import read_job_records
from terareg.storage import traffic
from terareg.storage.records import write_record
from terareg.storage.store import Store

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
PROGRAM = """
import logging, os, warnings
from types import SimpleNamespace
from terareg.core.errors import StoreError
from terareg.execution.job import run_job

def work():
    logging.getLogger(__name__).info("working")
    warnings.warn("be careful")
    os.write(2, b"from a library\\n")
    {last}

params = SimpleNamespace({params})
run_job(SimpleNamespace(rule="demo_rule", log=["job.log"], input={input}, output={output},
                        params=params), work)
"""


def program(last, store=None, input=(), output=()):
    record = {"store": store, "name": "demo_rule/ch0_1", "root": "results/brain"}
    params = "" if store is None else f"record={record}"
    return PROGRAM.format(last=last, params=params, input=list(input), output=list(output))


def run(tmp_path, root, last, **more):
    return subprocess.run(
        [sys.executable, "-c", program(last, **more)],
        cwd=tmp_path, env={"PYTHONPATH": str(root / "workflow/scripts")},
        text=True, capture_output=True,
    )  # fmt: skip


def test_success_is_quiet_and_logged(tmp_path, root):
    done = run(tmp_path, root, "pass")
    assert done.returncode == 0 and done.stderr == ""
    log = (tmp_path / "job.log").read_text()
    for words in ("working", "be careful", "from a library", "demo_rule done in", "MB peak"):
        assert words in log


def test_linear_algebra_has_one_thread_whatever_the_environment_gives(tmp_path, root):
    """NumPy and SciPy bring a BLAS each; PyTorch has its own setting."""
    count = "[i['num_threads'] for i in threadpoolctl.threadpool_info() if i['user_api'] == 'blas']"
    text = program(f"print({count})") + f"\nprint({count})"
    done = subprocess.run(
        [sys.executable, "-c", "import threadpoolctl\n" + text],
        cwd=tmp_path, text=True, capture_output=True,
        env={"PYTHONPATH": str(root / "workflow/scripts"), "OPENBLAS_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["[1, 1]", "[2, 2]"], done.stderr


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        ("raise StoreError('disk full; free some')", "demo_rule: disk full; free some (log: "),
        ("1 / 0", "demo_rule: ZeroDivisionError: division by zero (traceback in job.log)"),
        ("raise MemoryError", "demo_rule: out of memory"),
    ],
)
def test_failure_is_one_sentence_with_the_log(tmp_path, root, last, sentence):
    done = run(tmp_path, root, last)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_log_of_a_failed_attempt_survives_its_retry(tmp_path, root):
    """Also if the attempt was killed, and the log removed before the next, as Snakemake does."""
    run(tmp_path, root, "os.kill(os.getpid(), 9)")
    (tmp_path / "job.log").unlink()
    run(tmp_path, root, "1 / 0")
    (tmp_path / "job.log").unlink()
    run(tmp_path, root, "pass")
    log = (tmp_path / "job.log").read_text()
    assert log.count("demo_rule started") == 3
    assert "ZeroDivisionError" in log and "done in" in log
    assert [p.name for p in tmp_path.iterdir()] == ["job.log"], "no second name is left"


def test_what_a_job_took_is_recorded_in_the_store(tmp_path, root):
    last = """from terareg.storage.store import Store
    store = Store("store")
    store.write("a", bytes(3000)); store.write("b", bytes(50)); store.read("a")"""
    done = run(tmp_path, root, last, store="store/brain")
    assert done.returncode == 0, done.stderr
    (record,) = read_job_records(Store(str(tmp_path / "store/brain")), {"demo_rule": 1})
    assert record["rule"] == "demo_rule"
    assert (record["bytes_read"], record["bytes_written"]) == (3000, 3050)
    assert record["seconds"] >= 0 and record["cpu_s"] > 0 and record["peak_mb"] > 10


def test_a_store_that_takes_no_record_does_not_undo_the_work(tmp_path, root):
    (tmp_path / "store").write_text("in the way")
    done = run(tmp_path, root, "pass", store="store/brain")
    assert done.returncode == 0
    assert "no record of this job: cannot write" in (tmp_path / "job.log").read_text()


def test_a_failed_job_leaves_no_record(tmp_path, root):
    done = run(tmp_path, root, "1 / 0", store="store/brain")
    assert done.returncode == 1 and not (tmp_path / "store").exists()


def test_records_of_an_older_division_into_batches_do_not_count(tmp_path):
    store = Store(str(tmp_path))
    for batch, (day, rule) in enumerate([(1, "fuse_blocks"), (3, "fuse_blocks"), (2, "fuse_blocks"),
                                         (1, "register"), (9, "unknown")]):  # fmt: skip
        facts = {"rule": rule, "started": f"2026-01-0{day}", "batch": batch}
        write_record(store, f"logs/{rule}/{batch}.json", facts)
    found = read_job_records(store, {"fuse_blocks": 2, "register": 1, "other": 4,
                                     "unknown": 0})  # fmt: skip
    assert [(r["rule"], r["batch"]) for r in found] == [
        ("fuse_blocks", 2), ("fuse_blocks", 1), ("register", 3),
    ]  # fmt: skip


def test_bytes_of_planes_and_of_volumes_count(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", np.zeros((64, 32), np.uint16))
    before = traffic.totals()
    read_rows(Store(str(tmp_path)), "p.tif", ((64, 32), "uint16"), slice(0, 16))
    after = traffic.totals()
    assert after["bytes_read"] - before["bytes_read"] == 16 * 32 * 2
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a/"}},
        create=True, dtype="uint16", shape=[100, 100],
    ).result()  # fmt: skip
    array[...] = np.random.default_rng(0).integers(0, 65536, (100, 100), np.uint16)
    array[...].read().result()
    moved = traffic.totals()
    for way in ("bytes_read", "bytes_written"):
        assert 20_000 <= moved[way] - after[way] < 30_000


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/a.tif"),
         "disk full while writing /data/a.tif; free some space"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/a.tif"), "disk quota used up"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/a.tif"), "mounted read-only"),
        (RuntimeError("itk::ERROR: cannot write: No space left on device"), "disk full"),
    ],
)  # fmt: skip
def test_a_disk_that_refuses_is_one_sentence_whatever_library_met_it(tmp_path, error, words):
    arguments = error.args + ((error.filename,) if isinstance(error, OSError) else ())
    script = f"""
from types import SimpleNamespace
from terareg.execution.job import run_job
def work():
    try:
        raise {type(error).__name__}{arguments}
    except Exception as error:
        raise ValueError("while saving") from error
run_job(SimpleNamespace(rule="fuse", log=[{str(tmp_path / "log")!r}], params=None), work)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("fuse: ") and words in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


# ------------------------------------------------------------------ checksums
WRITE = """import pathlib
    path = pathlib.Path("results/brain/flatfield.tif")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(200)))"""
FILE = "results/brain/flatfield.tif"


def test_every_flipped_bit_of_a_file_between_two_jobs_is_found(tmp_path, root):
    assert run(tmp_path, root, WRITE, store="store/brain", output=[FILE]).returncode == 0
    whole = (tmp_path / FILE).read_bytes()
    store, where = Store(str(tmp_path / "store/brain")), [str(tmp_path / FILE)]
    compare_checksums(store, "results/brain", where)
    for bit in range(0, 8 * len(whole), 37):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        (tmp_path / FILE).write_bytes(spoiled)
        with pytest.raises(StoreError, match=r"flatfield\.tif has changed since demo_rule wrote"):
            compare_checksums(store, "results/brain", where)


@pytest.mark.slow
def test_a_job_reads_no_spoiled_file(tmp_path, root):
    run(tmp_path, root, WRITE, store="store/brain", output=[FILE])
    assert run(tmp_path, root, "pass", store="store/brain", input=[FILE]).returncode == 0
    (tmp_path / FILE).write_bytes(b"cut off")
    done = run(tmp_path, root, "os.mkdir('began')", store="store/brain", input=[FILE])
    assert done.returncode == 1 and not (tmp_path / "began").exists()
    assert "it was damaged or edited, so delete it and run again" in done.stderr


def test_files_that_no_job_wrote_are_read_as_they_are(tmp_path, root):
    (tmp_path / "own.csv").write_text("1,2,3")
    done = run(tmp_path, root, "pass", store="store/brain", input=["own.csv", FILE])
    assert done.returncode == 0, done.stderr
