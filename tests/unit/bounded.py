"""A process of its own that reads hostile files, with as much memory as is allowed.

``python bounded.py MODULE`` reads from its standard input lines of JSON, each a name in the
module's ``READERS`` and a path, and writes what became of each.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from terareg.core.errors import TeraregError

HERE = Path(__file__).resolve().parent
MEMORY = 2**30
SECONDS = 20


class TooLong(BaseException):
    """The time is over; not an exception that a reader may catch."""


def read_within_bounds(module: str, cases: list[tuple[str, Path]]) -> list[dict]:
    """Read every file in a process that may use 1 GB more than its libraries.

    Returns
    -------
    list of dict
        Of each case ``name``, ``path``, ``error`` (class, empty if it was read), ``message``,
        ``cpu_s``. A process that was killed returns fewer.
    """
    paths = [HERE, HERE.parent, HERE.parents[1] / "workflow/scripts"]
    done = subprocess.run(
        [sys.executable, __file__, module],
        input="\n".join(json.dumps([name, str(path)]) for name, path in cases),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), f"ended at {cases[len(found)]}: {done.stderr[-500:]}"
    return found


def _too_long(*_) -> None:
    raise TooLong


def _main() -> None:
    readers = importlib.import_module(sys.argv[1]).READERS
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmData:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (own + MEMORY, own + MEMORY))
    signal.signal(signal.SIGPROF, _too_long)
    for line in sys.stdin:
        name, path = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        start = time.process_time()
        error = message = ""
        try:
            readers[name][1](path)
        except (Exception, TooLong) as problem:
            error = "TeraregError" if isinstance(problem, TeraregError) else type(problem).__name__
            message = str(problem)
        result = {"name": name, "path": path, "error": error, "message": message,
                  "cpu_s": time.process_time() - start}  # fmt: skip
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
