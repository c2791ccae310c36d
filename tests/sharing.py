"""How workers share the tests: what is made once for all of them, and which tests stay together."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

#: tests that take longest, or hold a machine of their own, in the order in which workers begin
FIRST = (
    "tests/engines",
    *(f"tests/workflow/test_{name}.py" for name in ("chain", "kill", "modes", "layouts", "kinds",
                                                    "disk", "faults", "rerun")),
    "tests/workflow",
    "tests/browser",
    *(f"tests/unit/test_{name}.py" for name in ("registration_emlddmm", "phantom_score",
                                                "volumes_writer", "intensity_flatfield",
                                                "registration_backward", "registration_pose")),
)  # fmt: skip
_ROOMS = ("unit", "workflow", "engines", "browser")


def group_of(nodeid: str) -> str:
    """Tests of one group run on one worker, one after the other.

    The engines are one group: each starts more processes than there are cores, and their tests
    wait for events with limits in seconds. Otherwise a file is a group, for its fixtures' sake.
    """
    file = nodeid.partition("::")[0]
    return "engines" if "tests/engines/" in file else file


def place_in_queue(nodeid: str, parallel: bool) -> int:
    """Key to sort by: in one process from fast to slow, with workers the longest groups first."""
    if parallel:
        return next((i for i, name in enumerate(FIRST) if nodeid.startswith(name)), len(FIRST))
    parts = nodeid.split("/")
    return _ROOMS.index(parts[1]) if parts[1:] and parts[1] in _ROOMS else len(_ROOMS)


def made_once(tmp_path_factory, name: str, make: Callable[[Path], dict]) -> dict:
    """What ``make(folder)`` tells, by whichever worker asks first; the others wait for it.

    Parameters
    ----------
    name : str
        Name of the folder, which is not there yet.
    make : callable
        Its answer must be JSON. If it fails, so do all who ask.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    told, failed = base / f"{name}.json", base / f"{name}.failed"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists():
            pytest.fail(f"{name} could not be made: {failed.read_text()}")
        if not told.exists():
            try:
                told.write_text(json.dumps(make(base / name)))
            except BaseException as error:
                failed.write_text(str(error))
                raise
    return json.loads(told.read_text())
