"""Jobs: logs that survive retries, one sentence for the user, never status 0 on failure."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, os, warnings
from terareg.errors import StoreError
from terareg.job import run_job

def work():
    logging.getLogger(__name__).info("working")
    warnings.warn("be careful")
    os.write(2, b"from a library\\n")
    {last}

run_job("demo_rule", "job.log", work)
"""


def run(tmp_path, root, last):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last)],
        cwd=tmp_path, env={"PYTHONPATH": str(root / "workflow/scripts")},
        text=True, capture_output=True,
    )  # fmt: skip


def test_success_is_quiet_and_logged(tmp_path, root):
    done = run(tmp_path, root, "pass")
    assert done.returncode == 0 and done.stderr == ""
    log = (tmp_path / "job.log").read_text()
    for words in ("working", "be careful", "from a library", "demo_rule done in", "MB peak"):
        assert words in log


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


def test_the_log_of_a_failed_attempt_survives_its_retry(tmp_path, root):
    run(tmp_path, root, "1 / 0")
    run(tmp_path, root, "pass")
    log = (tmp_path / "job.log").read_text()
    assert "ZeroDivisionError" in log and "done in" in log
