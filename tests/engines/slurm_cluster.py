"""A real SLURM cluster on this machine: loopback only, no accounting, everything in one folder.

Nothing outside the folder is written: the munge key and socket, ``slurm.conf``, state, spool and
logs lie in it, and every daemon is found by a mark in its environment when it has to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# administrators' programs, which are not on a user's PATH
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
MARK = "TERAREG_TEST_CLUSTER"
PR_SET_PDEATHSIG = 1

CONFIG = """\
ClusterName=terareg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
PlugStackConfig={folder}/plugstack.conf
AccountingStorageType=accounting_storage/none
# no cgroups: a container has none to give
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# what a job asks for is held against what it uses, as on a cluster
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
# nodes claim more than the machine has; lost ones are noticed soon, jobs are placed at once
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
SlurmdTimeout=10
KillWait=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PartitionName=main Nodes=ALL Default=YES MaxTime=24:00:00 State=UP
"""

# The executor takes every SLURM_* variable from a job before it calls srun, which then looks for
# /etc/slurm/slurm.conf, as it may on a cluster; this one knows its own file.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {real} "$@"
"""

# The executor asks again after a time that grows by 10 s with every vain question: right for jobs
# of minutes, idle most of the time with jobs of seconds. Here its question is answered when a job
# has ended since the last one.
SQUEUE = """\
#!/bin/bash
[[ "$*" == *--states=all*--name* ]] || exec {real} "$@"
for _ in $(seq 100); do
    answer=$({real} "$@") || exit
    ended=$(grep -vE '(PENDING|CONFIGURING|RUNNING|COMPLETING)$' <<<"$answer" | sort)
    [[ "$ended" == "$(cat {folder}/ended 2>/dev/null)" ]] || break
    sleep 0.4
done
echo "$ended" >{folder}/ended
echo "$answer"
"""


class Cluster:
    """A controller and ``nodes`` nodes of claimed CPUs and memory; a context that starts and stops.

    Parameters
    ----------
    folder : Path
        An empty folder of its own, with a short path (a socket's path has at most 107 characters).
    nodes : int
        Number of nodes, all of them on this host, on ports of their own.
    cpus, memory_mb : int
        What each node claims to have.
    """

    def __init__(self, folder: Path, *, nodes: int = 2, cpus: int = 8, memory_mb: int = 64000):
        self.folder = folder
        self.names = [f"node{i}" for i in range(1, nodes + 1)]
        self._shape = (cpus, memory_mb)
        self._daemons: dict[str, subprocess.Popen] = {}
        self._first = 0  # job that counts

    # ------------------------------------------------------------ what is needed
    @staticmethod
    def missing() -> str:
        """Names of the Debian packages whose programs are not here, with a blank between them."""
        path = _path()
        packages = []
        if any(shutil.which(p, path=path) is None for p in (*DAEMONS[1:], *CLIENTS)):
            packages.append("slurm-wlm")
        if shutil.which("munged", path=path) is None:
            packages.append("munge")
        return " ".join(packages)

    def environment(self) -> dict[str, str]:
        """What a user of this cluster has in the environment."""
        return {
            MARK: str(self.folder),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    # ------------------------------------------------------------ start and stop
    def __enter__(self) -> Cluster:
        try:
            self._write()
            self._start("munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                        f"--socket={self.folder}/munge.socket", "--num-threads=2",
                        f"--pid-file={self.folder}/run/munged.pid",
                        f"--log-file={self.folder}/log/munged.log",
                        f"--seed-file={self.folder}/munged.seed")  # fmt: skip
            self._until(lambda: (self.folder / "munge.socket").exists(), "munged answers")
            self._start("slurmctld", "-D", "-i")
            for name in self.names:
                self.start_node(name)
            self._until(self._all_idle, "all nodes are idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", name, known_as=name)

    def lose_node(self, name: str) -> None:
        """End a node as a power cut does: its daemon and all that runs on it, without a word."""
        daemon = self._daemons.pop(name)
        on_node = self._marked("SLURMD_NODENAME", name)
        # all at once: none may live to tell of the end of another
        for order in (signal.SIGSTOP, signal.SIGKILL):
            for process in on_node:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(order)
        psutil.wait_procs(on_node, timeout=10)
        daemon.wait(10)

    def renew(self) -> None:
        """A cluster as if just started: all jobs ended and forgotten, lost nodes back."""
        self._first = 1 + max((int(job["JobID"]) for job in self.jobs()), default=self._first)
        self.ask("scancel", f"--user={getpass.getuser()}")
        for name in self.names:
            if name not in self._daemons:
                self.start_node(name)
        self._until(self._all_idle, "all nodes are idle")

    def stop(self) -> None:
        """End every process that carries the mark of this cluster."""
        processes = self._marked()
        # the controller first, so that nothing that dies is started again elsewhere
        processes.sort(key=lambda p: "slurmctld" not in p.name())
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for daemon in self._daemons.values():
            daemon.wait(10)
        self._daemons.clear()
        psutil.wait_procs(processes, timeout=10)

    # ------------------------------------------------------------ questions
    def ask(self, *command: str) -> str:
        """Output of a client's command."""
        done = subprocess.run(
            command, text=True, capture_output=True, timeout=30,
            env={**os.environ, **self.environment()},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def jobs(self, rule: str = "") -> list[dict[str, str]]:
        """Jobs since the cluster was renewed, in order of submission, of one rule if named."""
        keys = ("JobID", "State", "Comment", "MinMemory", "TimeLimit", "NodeList", "NumCPUs")
        lines = self.ask(
            "squeue", "--noheader", "--states=all", "--sort=i",
            "--Format=" + ",".join(f"{key}:250" for key in keys),
        ).splitlines()  # fmt: skip
        found = [
            dict(zip(keys, (line[i : i + 250].strip() for i in range(0, 250 * len(keys), 250))))
            for line in lines
        ]
        wanted = f"rule_{rule}"
        return [
            job
            for job in found
            if int(job["JobID"]) >= self._first
            and job["Comment"].split("_wildcards_")[0].startswith(wanted)
        ]

    def processes(self, job: str) -> list[psutil.Process]:
        """Processes of a job on its node."""
        return self._marked("SLURM_JOB_ID", job)

    def logs(self) -> str:
        """Ends of all logs of the daemons."""
        parts = []
        for path in sorted((self.folder / "log").glob("*")):
            tail = path.read_text(errors="replace").splitlines()[-25:]
            parts.append("\n".join((f"== {path.name}", *tail)))
        return "\n".join(parts)

    # ------------------------------------------------------------ parts
    def _write(self) -> None:
        for name in ("state", "spool", "run", "log", "bin"):
            (self.folder / name).mkdir(parents=True)
        # munged insists that nobody else can write to the folders of its key and its socket
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().split(".")[0]
        cpus, memory = self._shape
        ports = _free_ports(1 + len(self.names))
        text = CONFIG.format(host=host, ports=ports, user=getpass.getuser(), folder=self.folder)
        for name, port in zip(self.names, ports[1:]):
            text += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            text += f"CPUs={cpus} RealMemory={memory} State=UNKNOWN\n"
            (self.folder / "spool" / name).mkdir()
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "plugstack.conf").touch()
        for name, text in (("srun", SRUN), ("squeue", SQUEUE)):
            script = self.folder / "bin" / name
            real = shutil.which(name, path=_path())
            script.write_text(text.format(folder=self.folder, real=real))
            script.chmod(0o755)

    def _start(self, program: str, *arguments: str, known_as: str = "") -> None:
        name = known_as or program
        env = {**os.environ, **self.environment(), "SLURMD_NODENAME": known_as}
        with open(self.folder / "log" / f"{name}.out", "ab") as out:
            self._daemons[name] = subprocess.Popen(
                [shutil.which(program, path=_path()), *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def _until(self, true, what: str, limit_s: float = 60) -> None:
        """Wait until ``true()``; an end of a daemon or of patience comes with the logs."""
        end = time.monotonic() + limit_s
        while not true():
            dead = [name for name, d in self._daemons.items() if d.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{', '.join(dead)} ended" if dead else f"not within {limit_s:.0f} s"
                raise RuntimeError(f"SLURM: waiting until {what}: {why}\n{self.logs()}")
            time.sleep(0.2)

    def _all_idle(self) -> bool:
        with contextlib.suppress(RuntimeError):
            states = self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()
            return states == ["idle"] * len(self.names)
        return False

    def _marked(self, key: str = MARK, value: str = "") -> list[psutil.Process]:
        """Processes of this cluster, or those among them with a value in their environment.

        ``slurmstepd`` writes its title over its environment; it is known by its children.
        """
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                if process.pid == os.getpid() or environ.get(MARK) != str(self.folder):
                    continue
                if environ.get(key) == (value or str(self.folder)):
                    found.add(process)
                    parent = process.parent()
                    if parent is not None and parent.name() == "slurmstepd":
                        found.add(parent)
        return list(found)


def _path() -> str:
    return f"{os.environ['PATH']}:{SBIN}"


def _die_with_parent() -> None:
    """Ask the kernel to end this daemon when the tests end, however they do."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and that the kernel gives to nobody who lets it choose."""
    found: list[int] = []
    for port in random.Random(os.getpid()).sample(range(20000, 32000), 1000):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("SLURM: no free ports between 20000 and 32000")
