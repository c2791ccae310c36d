"""Loaded by every Python that finds this folder in PYTHONPATH: jobs of Snakemake kill themselves.

Whatever terareg makes appears by a renaming. The first job of a rule dies before its first file
appears, the next job of the rule (the same one, tried again, or one of another batch) before its
second file, and so on up to TERAREG_TEST_DEATHS jobs. Each leaves a file ``{rule}-{number}`` in
the folder TERAREG_TEST_DEAD.
"""

import os
import signal
import sys
from pathlib import Path


def _die_before(rule: str, dead: Path, below: str) -> None:
    number = 1 + len(list(dead.glob(f"{rule}-*")))
    left = number if number <= int(os.environ["TERAREG_TEST_DEATHS"]) else 0

    def seen(event: str, arguments: tuple) -> None:
        nonlocal left
        if event == "os.rename" and left and below in os.fspath(arguments[1]):
            left -= 1
            if not left:
                (dead / f"{rule}-{number}").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(seen)


# sys.argv is not there yet
_command = Path("/proc/self/cmdline").read_bytes().split(b"\0")
_scripts = [Path(os.fsdecode(part)) for part in _command if b".snakemake/scripts/" in part]
if _scripts:
    _die_before(
        _scripts[0].name.split(".")[1],
        Path(os.environ["TERAREG_TEST_DEAD"]),
        os.environ["TERAREG_TEST_BELOW"],
    )
