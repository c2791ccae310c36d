"""One line when a job starts and one when it has ended, in place of Snakemake's paragraphs.

The whole of what Snakemake says of a job (files, reason, resources) is in its own log below
``.snakemake/log``, and of a job that failed still on the screen. A dry run says how often each rule
runs and why, and says the rest with ``--verbose``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from terareg.core.parallel import duration

_RULE = re.compile(r"\(Rule: (\w+)\)")
_BETWEEN = ("Select jobs to execute", "Execute ", "Would remove temporary output ")
#: said above the reasons of a dry run, and what is said instead
_ABOVE = "(check individual jobs above for details)"
_ON_DEMAND = "(--verbose shows files and reason of every job)"
#: what follows from the other reasons
_FOLLOWS = re.compile(r"\n +input files updated by another job:\n[^\n]*")


class JobLines(logging.Filter):
    """A filter of Snakemake's handler that writes the lines of jobs itself.

    Parameters
    ----------
    handler : logging.Handler
        What shows Snakemake's records.
    is_dry : callable
        Whether jobs are planned and not run. Asked for each record.
    clock : callable
        Seconds, in place of :func:`time.time`.
    """

    def __init__(
        self,
        handler: logging.Handler,
        is_dry: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._handler, self._is_dry, self._clock = handler, is_dry, clock
        # label and start of each job that runs, by its number
        self._running: dict[int, tuple[str, float]] = {}
        self._done, self._total = 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the handler shows a record as it is; lines of jobs are written here instead."""
        event = getattr(getattr(record, "event", None), "value", None)
        if self._is_dry():
            return self._planned(record, event)
        if event == "job_info":
            self._begin(record)
        elif event == "job_finished":
            self._end(record)
        elif event == "run_info":
            stats = getattr(record, "stats", None) or {}
            self._total = int(stats.get("total", 0))
            return True
        elif event != "progress":
            return not str(record.msg).startswith(_BETWEEN)
        return False

    def _planned(self, record: logging.LogRecord, event: str | None) -> bool:
        if event == "job_info":
            return False
        if event == "run_info":  # the table of jobs comes before and after them
            shown, self._total = self._total > 0, 1
            return not shown
        record.msg = _FOLLOWS.sub("", str(record.msg)).replace(_ABOVE, _ON_DEMAND)
        return not record.msg.startswith(_BETWEEN)

    def _begin(self, record: logging.LogRecord) -> None:
        said = record.__dict__
        values = " ".join(str(value) for value in (said.get("wildcards") or {}).values())
        label = f"{said['rule_name']} {values}".rstrip()
        self._running[said["jobid"]] = label, self._clock()
        self._write(record, label, "starts" if said.get("local") else "is submitted")

    def _end(self, record: logging.LogRecord) -> None:
        self._done += 1
        number = record.__dict__["job_id"]
        count = f"{self._done} of {self._total}" if self._total else f"{self._done}"
        if number in self._running:
            label, start = self._running.pop(number)
            self._write(record, label, f"done in {duration(self._clock() - start)}, {count}")
            return
        # --quiet rules: starts are not shown, and so not known either
        rule = _RULE.search(str(record.msg))
        self._write(record, rule[1] if rule else f"job {number}", f"done, {count}")

    def _write(self, record: logging.LogRecord, label: str, what: str) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        line = logging.makeLogRecord(
            {"msg": f"{clock}  {label}: {what}", "levelno": record.levelno,
             "levelname": record.levelname}
        )  # fmt: skip
        # not emit: there Snakemake's handler takes a lock of its own after that of all handlers,
        # and threads that take two locks in different orders wait for each other without an end
        self._handler.handle(line)
