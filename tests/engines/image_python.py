"""Python of the image for jobs that need not start it: forked from one that has imported packages.

Two thirds of what a small job costs are starts of Python: one for the sources, one for Snakemake,
one for the script, and each imports the same packages of the image. Here a process outside all jobs
has imported them, and nothing of the workflow. A job asks it for a process, which enters the job's
namespaces before it does anything: it sees what the job sees, and ends when the job ends.

``python -m snakemake ...`` becomes ``python -IS client.py ADDRESS -m snakemake ...``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_TESTS))

import prefork  # noqa: E402

#: what scripts import; whatever the image lacks is missing here too, and a job says so
PACKAGES = (
    "boto3", "snakemake_storage_plugin_s3", "snakemake.logging", "numpy", "scipy.ndimage",
    "scipy.optimize", "scipy.sparse.linalg", "scipy.spatial", "scipy.signal", "scipy.stats",
    "scipy.interpolate", "torch", "SimpleITK", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "tensorstore", "tifffile", "imagecodecs", "skimage.measure",
    "zmesh", "DracoPy", "jinja2", "jsonschema", "yaml", "xxhash", "google_crc32c", "h5py",
    "PIL.Image", "threadpoolctl",
)  # fmt: skip

# Stays beside a waiting shell for the whole job: standard library, as little as can be.
CLIENT = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("\\0" + sys.argv[1])
    socket.send_fds(server, [b"f"], [0, 1, 2])
    request = {"command": sys.argv[3:], "cwd": os.getcwd(), "env": dict(os.environ)}
    with server.makefile("rw", buffering=1) as line:
        line.write(json.dumps(request) + "\\n")
        line.readline()
        line.write("measured\\n")
        status = int(line.readline() or 137)
sys.exit(status if status >= 0 else 128 - status)
"""
# `python` of a job; what is not Snakemake starts as it does anywhere
SHIM = """\
#!/bin/sh
[ "$1 $2" = "-m snakemake" ] && exec {python} -IS "$(dirname "$0")/client.py" {address} "$@"
exec {python} "$@"
"""
#: beside the home folder of a job: what its largest forked process had in memory, in KiB
LARGEST = "largest"
#: where a job sees it too
_PYTHON = f"{Path(sys.prefix).resolve()}/bin/python"
_NAMESPACES = ("mnt", "pid")


class ImagePython:
    """The process that is forked, started in namespaces that show the packages of the image alone.

    Parameters
    ----------
    command : list of str
        What starts a program there; jobs must have entered no user namespace.
    env : dict
        Environment of the image.
    """

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [*command, _PYTHON, __file__], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"{__file__} has ended: status {self._process.wait(30)}")

    def serve(self, folder: Path) -> None:
        """Let ``python`` be forked where this folder comes first on the PATH."""
        (folder / "client.py").write_text(CLIENT)
        shim = folder / "python"
        shim.write_text(SHIM.format(python=_PYTHON, address=self.address))
        shim.chmod(0o755)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()


def largest_kib(folder: Path) -> int:
    """The most memory that a forked process of a job had, from the folder of the job."""
    path = folder / LARGEST
    return max(map(int, path.read_text().split()), default=0) if path.exists() else 0


# ---------------------------------------------------------------- the process
def _serve() -> None:
    # what stands beside this file is not in the image
    sys.path[:] = ["", *(path for path in sys.path if not Path(path).is_relative_to(_TESTS))]
    cli = prefork.import_snakemake()
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    prefork.keep_shared()
    at_import = [os.environ.get(name) for name in prefork.AT_IMPORT]
    listener = socket.socket(socket.AF_UNIX)
    address = f"terareg-image-{os.getpid()}"
    listener.bind(f"\0{address}")
    listener.listen(64)
    print(address, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asker, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(asker, cli, address, at_import)
        asker.close()


def _attend(asker: socket.socket, cli, address: str, at_import: list) -> None:
    """Fork into the namespaces of whoever asks; tell the process, and its status in the end."""
    _, streams, _, _ = socket.recv_fds(asker, 1, 3)
    pid = struct.unpack("3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    with asker.makefile("rw", buffering=1) as line:
        request = json.loads(line.readline())
        script = request.get("script")
        if script and [request["env"].get(name) for name in prefork.AT_IMPORT] != at_import:
            os._exit(0)
        _enter(pid)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            # its number as the job counts, since it is there now
            os.write(write, f"{os.getpid()}\n".encode())
            os.close(read)
            os.close(write)
            asker.close()
            os.setsid()
            tempfile.tempdir = None
            prefork.become(request, streams)
            sys.path[0] = os.getcwd()
            if script:
                prefork.run_script(script)
            prefork.fork_scripts_at(f"\0{address}")
            prefork.run_snakemake(cli)
        os.close(write)
        with os.fdopen(read) as told:
            line.write(told.readline())
        # it is there, even if it has ended, until the asker has begun to measure it
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        line.readline()
        _, state, usage = os.wait4(child, 0)
        with open(Path(request["env"]["HOME"]).parent / LARGEST, "a") as largest:
            largest.write(f"{usage.ru_maxrss}\n")
        line.write(f"{os.waitstatus_to_exitcode(state)}\n")
        line.flush()
    os._exit(0)


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # all are opened first: /proc of the first of them counts processes in another way
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(f"/proc/{pid}/ns/{name}")) for name in _NAMESPACES]
        for file in files:
            if libc.setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter {file.name}")


if __name__ == "__main__":
    _serve()
