"""What every job does around its work: a log, a record of its cost, a sentence on failure."""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import scipy.linalg  # noqa: F401  SciPy's BLAS must be loaded before its threads are limited
import threadpoolctl

from terareg.core.errors import TeraregError, one_line
from terareg.core.parallel import map_items, peak_memory_mb
from terareg.execution.checksums import compare_checksums, write_checksums
from terareg.storage import traffic
from terareg.storage.durable import make_durable
from terareg.storage.records import read_record, write_record
from terareg.storage.store import Store

_DISK_ERRORS = {
    errno.ENOSPC: "disk full while writing {file}; free some space and run again; finished work "
    "is kept",
    errno.EDQUOT: "disk quota used up while writing {file}; free some space or ask for more, and "
    "run again; finished work is kept",
    errno.EROFS: "{file} is on a file system that is mounted read-only; point results:, store: or "
    "TMPDIR to a writable folder",
}
#: folder of the job records, below a sample's folder in the store
RECORD_FOLDER = "logs"


class Job(Protocol):
    """What a script knows of its job; Snakemake's object has these attributes.

    ``params`` may have ``record``, which says where the job writes what it took: a mapping with
    ``store`` (address of the sample's folder in the store), ``name`` (of the record in it) and
    ``root`` (folder of the sample's tracked files).
    """

    rule: str
    log: Sequence[str]
    input: Iterable[str]
    output: Iterable[str]
    params: Any


def run_job(job: Job, work: Callable[[], None]) -> None:
    """Call ``work()`` with logging, warnings and stderr appended to the file ``job.log[0]``.

    Before it, inputs are compared with the checksums that their jobs wrote; after it, those of the
    outputs are written (:mod:`terareg.execution.checksums`). Then comes the record, a small JSON
    file in the store that says what the job took: ``rule``, ``started`` (UTC), ``seconds``,
    ``cpu_s``, ``peak_mb``, ``bytes_read`` and ``bytes_written``, see
    :mod:`terareg.storage.traffic`; :func:`read_job_records` finds it.

    The log of a failed or killed attempt survives the retry, although Snakemake removes it before
    the retry: the file has a second name until the work is done.

    Linear algebra (BLAS) runs on one thread during the work, whatever the environment says, so that
    the number of cores of a job changes no byte of its results.

    A :class:`TeraregError` ends the process with status 1 and one sentence on the original
    stderr that names the job and the log; any other exception shows its traceback in both.
    """
    name, log = job.rule, job.log[0]
    record: Mapping[str, Any] = getattr(job.params, "record", None) or {}
    store = Store(record["store"]) if record else None
    kept = _keep(Path(log))
    console = os.fdopen(os.dup(2), "w", buffering=1)
    with open(log, "a", buffering=1, encoding="utf-8") as stream:
        # the file descriptor itself, so that output of compiled libraries goes there too
        sys.stderr.flush()
        os.dup2(stream.fileno(), 2)
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
        logging.captureWarnings(True)
        logger = logging.getLogger("terareg")
        start, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        logger.info("%s started %s on %s, process %d", name, started, platform.node(), os.getpid())
        try:
            # sums in BLAS depend on the number of threads, which executors set as they like
            with threadpoolctl.threadpool_limits(1, user_api="blas"):
                if store is not None:
                    compare_checksums(store, record["root"], job.input)
                work()
            # whoever sees that the job has ended takes what it wrote for granted
            make_durable()
            if store is not None:
                _leave_records(store, record, job, {"rule": name, "started": started}, start)
        except TeraregError as error:
            logger.error("%s failed: %s", name, error)
            logger.info("%s", traceback.format_exc())
            console.write(f"{name}: {error} (log: {log})\n")
            sys.exit(1)
        except MemoryError:
            logger.exception("%s ran out of memory", name)
            console.write(f"{name}: out of memory; a retry asks for more (log: {log})\n")
            sys.exit(1)
        except Exception as error:
            logger.exception("%s failed", name)
            what = _disk_sentence(error) or one_line(f"{type(error).__name__}: {error}")
            console.write(f"{name}: {what} (traceback in {log})\n")
            sys.exit(1)
        kept.unlink(missing_ok=True)
        logger.info(
            "%s done in %.1f s, %.0f MB peak", name, time.monotonic() - start, peak_memory_mb()
        )


def _disk_sentence(error: BaseException) -> str | None:
    """What to do about a disk that refused a write, whatever library met it; None otherwise."""
    seen: BaseException | None = error
    while seen is not None:
        number, text = getattr(seen, "errno", None), str(seen)
        file = getattr(seen, "filename", None) or "a file"
        for code, sentence in _DISK_ERRORS.items():
            if number == code or os.strerror(code) in text:
                return sentence.format(file=file)
        seen = seen.__cause__ or seen.__context__
    return None


def _keep(log: Path) -> Path:
    """Give a log, or what an earlier attempt left of it, a second name; return that name."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = log.with_name(f".{log.name}.kept")
    try:
        if not log.exists() and kept.exists():
            os.link(kept, log)
        else:
            log.touch()
            kept.unlink(missing_ok=True)
            os.link(log, kept)
    except OSError:
        pass  # a file system without hard links: the log is that of the last attempt only
    return kept


def read_job_records(
    store: Store, jobs: Mapping[str, int], workers: int = 8
) -> list[dict[str, Any]]:
    """Records of a sample's jobs, see :func:`run_job`.

    Parameters
    ----------
    store : Store
        Of the sample.
    jobs : mapping of str to int
        Number of jobs of each rule. Only the newest records, this many, are used; older ones belong
        to another division into batches.
    workers : int
        Threads that read.
    """
    keys = [e.key for e in store.list(RECORD_FOLDER) if e.key.endswith(".json")]
    read = map_items(lambda key: read_record(store, key), keys, workers=workers, what="job records")
    found: dict[str, list[dict[str, Any]]] = {}
    for record in read:
        if record is not None and record.get("rule") in jobs:
            found.setdefault(record["rule"], []).append(record)
    newest = []
    for rule, records in sorted(found.items()):
        records.sort(key=lambda r: r["started"])
        newest += records[max(0, len(records) - jobs[rule]) :]
    return newest


def _leave_records(
    store: Store, record: Mapping[str, Any], job: Job, facts: dict[str, Any], start: float
) -> None:
    took = {
        "seconds": round(time.monotonic() - start, 2),
        "cpu_s": round(time.process_time(), 2),
        "peak_mb": round(peak_memory_mb()),
    }
    key = f"{RECORD_FOLDER}/{record['name']}.json"
    try:
        write_checksums(store, record["root"], job.rule, job.output)
        write_record(store, key, facts | took | traffic.totals())
        make_durable()
    except TeraregError as error:
        # the work is done; check_inputs is the one that reports a store that cannot be written
        logging.getLogger("terareg").warning("no record of this job: %s", error)
