"""One line for the start and one for the end of a job, among what else Snakemake says."""

from __future__ import annotations

import io
import logging
import re
import threading

from snakemake_interface_logger_plugins.common import LogEvent

from terareg.execution.job_lines import JobLines


def shown(*records, quiet=(), dry=False):
    """What a handler with the filter writes; each record is a message and its further fields."""
    text, now = io.StringIO(), [0.0]
    handler = logging.StreamHandler(text)
    handler.addFilter(lambda record: getattr(record, "event", None) not in quiet)
    handler.addFilter(JobLines(handler, lambda: dry, lambda: now[0]))
    for message, later, more in records:
        now[0] += later
        handler.handle(logging.makeLogRecord({"msg": message, "levelname": "INFO", **more}))
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in text.getvalue().splitlines()]


def begin(number, rule, local=True, **wildcards):
    more = {"jobid": number, "rule_name": rule, "wildcards": wildcards, "local": local}
    return f"rule {rule}", 0, {"event": LogEvent.JOB_INFO, **more}


def end(number, later):
    return "Finished", later, {"event": LogEvent.JOB_FINISHED, "job_id": number}


RUN = (
    ("Job stats", 0, {"event": LogEvent.RUN_INFO, "stats": {"fuse": 1, "register": 1, "total": 2}}),
    ("Select jobs to execute...", 0, {}),
    ("Execute 2 jobs...", 0, {}),
    begin(4, "fuse", sample="brain", channel="ch0"),
    begin(7, "register", local=False, sample="brain"),
    end(4, 32),
    (None, 0, {"event": LogEvent.PROGRESS, "done": 1, "total": 2}),
    ("Error in rule x", 0, {"event": LogEvent.JOB_ERROR}),
    end(7, 7200),
    ("Complete log(s): a.log", 0, {}),
)


def test_a_job_has_one_line_at_its_start_and_one_at_its_end():
    assert shown(*RUN) == [
        "Job stats",
        "fuse brain ch0: starts",
        "register brain: is submitted",
        "fuse brain ch0: done in 32 s, 1 of 2",
        "Error in rule x",
        "register brain: done in 2.0 h, 2 of 2",
        "Complete log(s): a.log",
    ]


def test_what_the_user_silenced_stays_silent():
    assert shown(*RUN, quiet=(LogEvent.JOB_FINISHED, LogEvent.PROGRESS))[1:3] == [
        "fuse brain ch0: starts",
        "register brain: is submitted",
    ]
    assert not [line for line in shown(*RUN, quiet=(LogEvent.JOB_FINISHED,)) if "done" in line]


def test_a_dry_run_shows_its_jobs_once_and_without_their_files():
    reasons = "Reasons:\n    (check individual jobs above for details)\n    params: fuse\n"
    reasons += "    input files updated by another job:\n        all, register"
    temporary = "Would remove temporary output a.npz"
    assert shown(RUN[0], *RUN[3:5], RUN[0], (reasons, 0, {}), (temporary, 0, {}), dry=True) == [
        "Job stats", "Reasons:", "    (--verbose shows files and reason of every job)",
        "    params: fuse",
    ]  # fmt: skip


def test_the_end_of_a_job_whose_start_was_not_seen():
    assert shown(end(3, 1)) == ["job 3: done, 1"]
    text, later, more = end(3, 1)
    assert shown((f"{text} jobid: 3 (Rule: fuse)", later, more)) == ["fuse: done, 1"]


def test_ends_alone_where_starts_are_silenced():
    """``--quiet rules``, with which the demo runs."""
    lines = shown(*RUN, quiet=(LogEvent.JOB_INFO, LogEvent.JOB_ERROR))
    assert lines[1:3] == ["job 4: done, 1 of 2", "job 7: done, 2 of 2"]


def test_lines_are_written_under_the_lock_of_the_handler():
    """Snakemake's handler takes a second lock in emit; all threads must take both in one order."""
    free = []

    class Handler(logging.StreamHandler):
        def emit(self, record):
            other = threading.Thread(target=self.look)
            other.start()
            other.join()
            super().emit(record)

        def look(self):
            free.append(self.lock.acquire(blocking=False))
            if free[-1]:
                self.lock.release()

    handler = Handler(io.StringIO())
    handler.addFilter(JobLines(handler))
    for message, _, more in RUN:
        handler.handle(logging.makeLogRecord({"msg": message, "levelname": "INFO", **more}))
    assert free == [False] * 7
