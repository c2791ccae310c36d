"""Snakemake without its start: processes that have imported it already, and fork for every run.

Most of what a dry run takes is Python importing Snakemake, Snakemake reading the rules, and parsing
the library's sources for the fingerprints of its code. A server does that once; each run is a
process of its own, with its own working folder, environment and output, that executes what
``bin/snakemake`` does. The scripts of its jobs are forked from another such process, which has
imported what scripts import. (Whole chains, engines and kills start everything as users do.)
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

SERVER = Path(__file__)
RULES = SERVER.resolve().parents[1] / "workflow"
READY = "ready"
#: what libraries read when they are imported: a script with another value is started for itself
AT_IMPORT = ("OPENBLAS_CORETYPE", "MPLBACKEND")
_PR_SET_PDEATHSIG = 1


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
            # not above: the server itself knows the library only where it is told to
            from terareg.core.blas import pin_kernels

            env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            # NumPy, which Snakemake's plug-ins import, is to add as it does in jobs
            pin_kernels(env)
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), *([str(self._library)] if self._library else [])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**env, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            atexit.register(self.close)
            if self._process.stdout.readline().strip() != READY:
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
def import_snakemake():
    """Import all that a run imports; gives its command line."""
    import smart_open  # noqa: F401
    import snakemake.cli
    import snakemake.dag
    import snakemake.persistence.file
    import snakemake.scheduling.job_scheduler

    # it imports all plug-ins that are installed
    snakemake.cli.get_argument_parser()
    remember_rules()
    return snakemake.cli


def _serve(library: Path | None) -> int:
    """Answer requests; in a forked process, run one and return its status."""
    cli = import_snakemake()
    if library is not None:
        _know(library)
        _fork_scripts()
    keep_shared()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write(f"{READY}\n")
    # by bytes: a line that Python has read ahead would be lost in the fork
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    for line in iter(requests.readline, b""):
        pid = os.fork()
        if pid == 0:
            answers.close()
            requests.close()
            _run(cli, json.loads(line))
        answers.write(f"{pid}\n")
        _, state = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(state)}\n")
    return 0


def remember_rules() -> None:
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


def become(request: dict, streams: list[int]) -> None:
    """Take over standard streams, working folder, environment and arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["command"]


def _run(cli, request: dict) -> NoReturn:
    become(request, [os.open(name, os.O_RDWR) for name in (os.devnull, *request["files"])])
    run_snakemake(cli)


def run_snakemake(cli) -> NoReturn:
    """Run it as its program does, and end."""
    from snakemake.workflow import Workflow

    # it is noted when the module is imported
    Workflow._rundir = os.getcwd()
    leave(run_main(cli.main))


def keep_shared() -> None:
    """Spare processes that are forked from here a copy of what collecting garbage would look at."""
    gc.collect()
    gc.freeze()


def leave(status: int) -> NoReturn:
    """End as Python does, without taking apart what was imported, which takes longer than a run."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_main(main) -> int:
    """Status with which a program ends."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# ---------------------------------------------------------------- scripts
def _fork_scripts() -> None:
    """Have the scripts of all runs forked from a process that has imported the library."""
    listener = socket.socket(socket.AF_UNIX)
    # a name that is no file
    listener.bind(f"\0terareg-{os.getpid()}")
    listener.listen(64)
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(_serve_scripts(listener))
    address = listener.getsockname()
    listener.close()
    fork_scripts_at(address)


def fork_scripts_at(address: str | bytes) -> None:
    """Have the scripts of Snakemake in this process forked by whoever listens at an address.

    It is sent the standard streams and a request, tells the number of the process, and once
    measuring has begun the status in the end. Where it tells nothing, the script is started.
    """
    from snakemake.benchmark import benchmarked
    from snakemake.script import PythonScript

    start = PythonScript.execute_script

    def execute(script: PythonScript, fname: str, edit: bool = False) -> None:
        env = {**os.environ, "TMPDIR": str(script.resources.get("tmpdir", tempfile.gettempdir()))}
        request = {"command": [str(fname)], "script": str(fname), "cwd": os.getcwd(), "env": env}
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(address)
            with open(os.devnull) as nothing:
                socket.send_fds(server, [b"f"], [nothing.fileno(), 1, 2])
            with server.makefile("rw", buffering=1) as line:
                line.write(json.dumps(request) + "\n")
                answer = line.readline()
                if not answer:
                    return start(script, fname, edit)
                record = script.bench_record
                with benchmarked(int(answer), record) if record else contextlib.nullcontext():
                    line.write("measured\n")
                    status = int(line.readline() or 137)
        if status:
            raise subprocess.CalledProcessError(status, request["command"])
        return None

    PythonScript.execute_script = execute


def _serve_scripts(listener: socket.socket) -> int:
    """Fork for every script; whoever asks gets the process, and its status in the end."""
    at_import, imported = [os.environ.get(name) for name in AT_IMPORT], False
    while True:
        asker, _ = listener.accept()
        _, streams, _, _ = socket.recv_fds(asker, 1, 3)
        with asker.makefile("rw", buffering=1) as line:
            request = json.loads(line.readline())
            wanted = [request["env"].get(name) for name in AT_IMPORT]
            if not imported:
                _import_all()
                keep_shared()
                imported = True
            if wanted == at_import and os.fork() == 0:
                listener.close()
                pid = os.fork()
                if pid == 0:
                    become(request, streams)
                    run_script(request["script"])
                line.write(f"{pid}\n")
                # it is there, even if it has ended, until the asker has begun to measure it
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                line.readline()
                _, state = os.waitpid(pid, 0)
                line.write(f"{os.waitstatus_to_exitcode(state)}\n")
                line.flush()
                os._exit(0)
        asker.close()
        for stream in streams:
            os.close(stream)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _import_all() -> None:
    import snakemake.logging  # noqa: F401

    import terareg

    for module in pkgutil.walk_packages(terareg.__path__, "terareg."):
        if not module.name.startswith(("terareg.phantom", "terareg.cli")):
            importlib.import_module(module.name)


def run_script(path: str) -> NoReturn:
    """Run a file as Python runs it, and end."""
    # the folder of the script, as Python has it
    sys.path[0] = str(Path(path).parent)
    leave(run_main(lambda: runpy.run_path(path, run_name="__main__")))


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]) if sys.argv[1:] else None))
