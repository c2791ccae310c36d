"""One line when a job starts and one when it has ended, in place of Snakemake's paragraphs.

The whole of what Snakemake says of a job (files, reason, resources) is in its own log below
``.snakemake/log``, and of a job that failed still on the screen.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from terareg.core.parallel import duration

_RULE = re.compile(r"\(Rule: (\w+)\)")
_BETWEEN = ("Select jobs to execute", "Execute ")


class JobLines(logging.Filter):
    """A filter of Snakemake's handler that writes the lines of jobs itself.

    Parameters
    ----------
    handler : logging.Handler
        What shows Snakemake's records.
    wanted : callable
        Whether lines are written; otherwise everything is shown as it is. Asked for each record.
    clock : callable
        Seconds, in place of :func:`time.time`.
    """

    def __init__(
        self,
        handler: logging.Handler,
        wanted: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._handler, self._wanted, self._clock = handler, wanted, clock
        # label and start of each job that runs, by its number
        self._running: dict[int, tuple[str, float]] = {}
        self._done, self._total = 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the handler shows a record as it is; lines of jobs are written here instead."""
        if not self._wanted():
            return True
        event = getattr(getattr(record, "event", None), "value", None)
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
