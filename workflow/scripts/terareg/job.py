"""What every job does around its one call: logging to a file, and one sentence on failure."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from terareg.errors import TeraregError
from terareg.parallel import peak_memory_mb


def run_job(name: str, log: str | os.PathLike, work: Callable[[], None]) -> None:
    """Call ``work()`` with logging, warnings and stderr appended to the file ``log``.

    The log is opened for appending, so that what a failed attempt wrote survives its retry.
    A :class:`TeraregError` ends the process with status 1 and one sentence on the original
    stderr that names the job and the log; any other exception shows its traceback in both.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    console = os.fdopen(os.dup(2), "w", buffering=1)
    with open(log, "a", buffering=1, encoding="utf-8") as stream:
        # the descriptor itself, so that what compiled libraries print lands there too
        sys.stderr.flush()
        os.dup2(stream.fileno(), 2)
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
        logging.captureWarnings(True)
        logger = logging.getLogger("terareg")
        start = time.monotonic()
        logger.info(
            "%s started %s on %s, process %d",
            name, datetime.now(UTC).isoformat(timespec="seconds"), platform.node(), os.getpid(),
        )  # fmt: skip
        try:
            work()
        except TeraregError as error:
            logger.error("%s failed: %s", name, error)
            logger.debug("%s", traceback.format_exc())
            console.write(f"{name}: {error} (log: {log})\n")
            sys.exit(1)
        except MemoryError:
            logger.exception("%s ran out of memory", name)
            console.write(f"{name}: out of memory; a retry asks for more (log: {log})\n")
            sys.exit(1)
        except Exception as error:
            logger.exception("%s failed", name)
            console.write(f"{name}: {type(error).__name__}: {error} (traceback in {log})\n")
            sys.exit(1)
        logger.info(
            "%s done in %.1f s, %.0f MB peak", name, time.monotonic() - start, peak_memory_mb()
        )
