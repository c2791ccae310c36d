"""Snakemake without its start: processes that have imported it already, and fork for every run.

Most of what a dry run takes is Python importing Snakemake, Snakemake reading the rules, and parsing
the library's sources for the fingerprints of its code. A server does that once; each run is a
process of its own, with its own working folder, environment and output, that executes what
``bin/snakemake`` does.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import re
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

SERVER = Path(__file__)
RULES = SERVER.resolve().parents[1] / "workflow"
_READY = "ready"


class Snakemake:
    """A server, started when it is first asked.

    Parameters
    ----------
    library : Path, optional
        Folder of the scripts and the library, where these are the same for every run.
    """

    def __init__(self, library: Path | None = None) -> None:
        self._library = library
        self._process: subprocess.Popen | None = None

    def run(
        self, command: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess:
        """Run ``snakemake`` to its end, as :func:`subprocess.run` with captured text does."""
        server = self._started()
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            files = [out.name, err.name]
            request = {"command": command, "cwd": str(cwd), "env": env, "files": files}
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            pid = self._answer()
            if not select.select([server.stdout], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                self._answer()
                raise subprocess.TimeoutExpired(command, timeout)
            status = self._answer()
            return subprocess.CompletedProcess(command, status, out.read(), err.read())

    def _answer(self) -> int:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{SERVER.name} has ended: status {self._process.wait(30)}")
        return int(line)

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), *([str(self._library)] if self._library else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            atexit.register(self.close)
            if self._process.stdout.readline().strip() != _READY:
                raise RuntimeError(f"{SERVER.name} has ended: status {self._process.wait(30)}")
        return self._process

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(30)
            self._process.stdout.close()
            self._process = None


# ---------------------------------------------------------------- the server
def _serve(library: Path | None) -> int:
    """Answer requests; in a forked process, run one and return its status."""
    import smart_open  # noqa: F401
    import snakemake.cli
    import snakemake.dag
    import snakemake.persistence.file
    import snakemake.scheduling.job_scheduler

    # it imports all plug-ins that are installed
    snakemake.cli.get_argument_parser()
    _remember_rules()
    if library is not None:
        _know(library)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write(f"{_READY}\n")
    # by bytes: a line that Python has read ahead would be lost in the fork
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    for line in iter(requests.readline, b""):
        pid = os.fork()
        if pid == 0:
            answers.close()
            requests.close()
            return _run(snakemake.cli, json.loads(line))
        answers.write(f"{pid}\n")
        _, state = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(state)}\n")
    return 0


def _remember_rules() -> None:
    """Keep the Python that Snakemake makes of each file of rules, for whoever has the same text."""
    from snakemake import workflow
    from snakemake.sourcecache import LocalSourceFile

    parse, made = workflow.parse, {}

    def remembered(path, of_workflow, linemap, overwrite_shellcmd=None, rulecount=0):
        place = path.get_path_or_uri(secret_free=True)
        file = Path(place)
        if overwrite_shellcmd is not None or not file.is_file():
            return parse(path, of_workflow, linemap, overwrite_shellcmd, rulecount)
        key = (file.read_text(), rulecount)
        if key not in made:
            lines: dict[int, int] = {}
            made[key] = place, lines, *parse(path, of_workflow, lines, None, rulecount)
        first, lines, code, count = made[key]
        linemap.update(lines)
        # rules know where they stand
        return code.replace(repr(first), repr(place)), count

    workflow.parse = remembered
    snakefile = RULES / "Snakefile"
    included = re.findall(r'^include: "(.+)"$', snakefile.read_text(), re.MULTILINE)
    reader = SimpleNamespace(open=lambda path: open(path.get_path_or_uri(secret_free=True)))
    count = 0
    for file in (snakefile, *(RULES / name for name in included)):
        source = LocalSourceFile(str(file))
        _, count = remembered(source, SimpleNamespace(sourcecache=reader), {}, rulecount=count)


def _know(library: Path) -> None:
    """Import what rules import, and parse the library, so that no run has to."""
    sys.path.insert(0, str(library))
    from terareg import execution
    from terareg.execution import code_fingerprint, config

    for module in pkgutil.iter_modules(execution.__path__):
        importlib.import_module(f"terareg.execution.{module.name}")
    config.load_samples({})
    for script in library.glob("*.py"):
        code_fingerprint.code_fingerprint(script)


def _run(cli, request: dict) -> int:
    for name, number in ((os.devnull, 0), (request["files"][0], 1), (request["files"][1], 2)):
        stream = os.open(name, os.O_RDWR)
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["command"]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]) if sys.argv[1:] else None))
