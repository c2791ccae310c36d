"""AWS Batch on this machine: jobs run as processes that see the image and an empty folder.

S3 and the job definitions are moto's; the queue, and what moto would give to Docker, are here: a
job waits for a free machine, then its command runs

- in namespaces of its own, where the folder of temporary files and the checkout are empty: what
  the submitting side has on its disk is not there, nor are its processes;
- with the Python packages of the image and no others, which most jobs find imported already
  (``image_python.py``);
- in an empty working folder, with the environment of the Dockerfile, of the job definition and of
  Batch, nothing else;
- with credentials of its own, fetched as in a container of ECS. Every request is answered only if
  the policy of whoever signed it allows it.

Not emulated: the rest of the image, disks, the start of machines, prices, S3's latency.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from image_python import ImagePython, largest_kib
from s3_server import KEY_ID, REGION, Server, action_of, key_id_of
from workspaces import ROOT

from terareg.core.blas import pin_kernels

ACCOUNT = "123456789012"
QUEUE = f"arn:aws:batch:{REGION}:{ACCOUNT}:job-queue/terareg"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/terareg:test"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/terareg-job"
SUBMITTER = "AKIATERAREGSUBMIT"
RECLAIMED = "Host EC2 (instance i-0a1b2c3d4e5f60718) terminated."

# memory in MiB that Batch takes with so many vCPUs: the documentation of ResourceRequirement
MEMORY = {
    1: range(2048, 8193, 1024),
    2: range(4096, 16385, 1024),
    4: range(8192, 30721, 1024),
    8: range(16384, 61441, 4096),
    16: range(32768, 122881, 8192),
}

#: rules whose jobs start Python as jobs in the cloud do
STARTED = ("index_acquisition", "register", "make_report")

ISOLATE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
           "--propagation", "private")  # fmt: skip

# Of the packages here only those of the image are shown, by links to where all of them lie.
SHOW_IMAGE = """\
mount --bind "$PACKAGES" "$IMAGE/installed"
mount --bind "$IMAGE/packages" "$PACKAGES"
"""

# Everything hidden becomes an empty folder; what is kept is put back where it was.
ENTER = """
set -e
mapfile -t kept <<<"$KEPT"
mapfile -t hidden <<<"$HIDDEN"
mount -t tmpfs none /mnt
for i in "${!kept[@]}"; do
    mkdir "/mnt/$i"
    mount --bind "${kept[i]}" "/mnt/$i"
done
for path in "${hidden[@]}"; do
    mount -t tmpfs -o mode=1777 none "$path"
done
for i in "${!kept[@]}"; do
    mkdir -p "${kept[i]}"
    mount --bind "/mnt/$i" "${kept[i]}"
done
umount --recursive --lazy /mnt
"""
BEGIN = """\
unset KEPT HIDDEN PACKAGES IMAGE
cd "$HOME/../work"
exec "$@"
"""

# Every job begins with `pip install` of the storage plugin, which the image holds as a wheel.
PIP = """\
#!/bin/sh
[ "$*" = "install --target .snakemake/pip-deployments snakemake-storage-plugin-s3" ] || exit 1
exec python -c 'import importlib.metadata as m; m.version("snakemake-storage-plugin-s3")'
"""


@dataclass
class Job:
    """One job, from its submission to its end."""

    id: str
    name: str
    definition: dict
    folder: Path
    status: str = "RUNNABLE"
    reason: str = ""
    exit_code: int | None = None
    largest_process_mb: float = 0.0
    process: subprocess.Popen | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def rule(self) -> str:
        """The rule it runs: snakejob-RULE-UUID."""
        return self.name.removeprefix("snakejob-")[:-37]

    @property
    def container(self) -> dict:
        return self.definition["containerProperties"]

    @property
    def asked(self) -> dict[str, int]:
        """What it asks for: VCPU, MEMORY in MiB."""
        return {r["type"]: int(r["value"]) for r in self.container["resourceRequirements"]}

    @property
    def target(self) -> str:
        """What it has to make: Snakemake's name of the job with its wildcards."""
        return re.search(r"--target-jobs '([^']+)'", self.container["command"][-1])[1]

    @property
    def environment(self) -> dict[str, str]:
        return {e["name"]: e["value"] for e in self.container["environment"]}

    @property
    def log(self) -> str:
        """What it printed."""
        path = self.folder / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""


class Refused(Exception):
    """A request that AWS answers with an error: status, code, message."""


class Cloud(Server):
    """S3 and a Batch queue; a context that starts and stops them.

    Parameters
    ----------
    policies : dict
        IAM policy of the ``submitter`` and of the ``job`` role.
    jobs_at_once : int
        Number of jobs that find a free machine.
    """

    def __init__(self, policies: dict[str, dict], *, jobs_at_once: int = 3):
        super().__init__()
        self.jobs: list[Job] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        self.refused: list[tuple[str, str, str]] = []
        self._policies = policies
        self._definitions: dict[str, dict] = {}
        self._reclaimed: dict[str, str] = {}
        self._machines = threading.Semaphore(jobs_at_once)
        self._lock = threading.Lock()

    # ------------------------------------------------------------ what is needed
    @staticmethod
    def missing() -> str:
        """Why this cannot run here; nothing if it can."""
        if shutil.which("git") is None:
            return "git is not installed, by which Snakemake finds what to send with a run"
        if not _isolation():
            return "no process can get namespaces of its own here (unshare --mount --pid)"
        return ""

    # ------------------------------------------------------------ start and stop
    def __enter__(self) -> Cloud:
        self.folder = Path(tempfile.mkdtemp(prefix="terareg-aws-")).resolve()
        self._image = self.folder / "image"
        for name in ("installed", "packages"):
            (self._image / name).mkdir(parents=True)
        for name in image_packages():
            (self._image / "packages" / name).symlink_to(self._image / "installed" / name)
        self._python = self._imported()
        super().__enter__()
        return self

    def __exit__(self, *_) -> None:
        for job in self.jobs:
            self._end(job, "the tests are over")
        for job in self.jobs:
            job.over.wait(30)
        if self._python:
            self._python.close()
        super().__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """What the submitting user has in the environment."""
        return super().env | {
            "AWS_ACCESS_KEY_ID": SUBMITTER,
            "SNAKEMAKE_AWS_BATCH_JOB_QUEUE": QUEUE,
            "SNAKEMAKE_AWS_BATCH_JOB_ROLE": ROLE,
        }

    @property
    def forks(self) -> bool:
        """Whether Python of jobs is forked, but for the rules of :data:`STARTED`."""
        return self._python is not None

    def reclaim(self, rule: str, prefix: str) -> None:
        """Take its machine from the next job of a rule that writes an object below a prefix."""
        self._reclaimed[rule] = prefix

    def of_rule(self, rule: str) -> list[Job]:
        """Jobs of a rule in order of submission."""
        return [job for job in self.jobs if job.rule == rule]

    def story(self) -> str:
        """All jobs in a line each, and the output of those that failed."""
        lines = [f"{job.rule} {job.status} {job.exit_code} {job.reason}" for job in self.jobs]
        logs = [f"== {job.name}\n{job.log[-3000:]}" for job in self.jobs if job.status == "FAILED"]
        return "\n".join([*lines, *logs, f"refused: {self.refused}"])

    # ------------------------------------------------------------ requests
    def answer(self, environ: dict, start_response) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/moto-api/reset":
            return super().answer(environ, start_response)
        try:
            if path.startswith("/credentials/"):
                return _json(start_response, self._credentials(path.rpartition("/")[2]))
            if re.match(r"/v1/\w+$", path):
                return self._batch(environ, start_response)
            return self._s3(environ, start_response)
        except Refused as error:
            return _refusal(environ, start_response, *error.args)

    def _s3(self, environ: dict, start_response) -> Iterable[bytes]:
        action, bucket, key = action_of(environ)
        named = [key]
        if action == "DeleteObject" and not key:
            # a deletion of many names them in its body
            named = re.findall(r"<Key>(.*?)</Key>", _body(environ).decode())
        for key in named:
            resource = f"arn:aws:s3:::{bucket}/{key}".rstrip("/")
            who = self._permit(environ, f"s3:{action}", resource)
        done = super().answer(environ, start_response)
        job = self._job(who)
        if job and action == "PutObject":
            prefix = self._reclaimed.get(job.rule)
            if prefix and f"{bucket}/{key}".startswith(prefix):
                del self._reclaimed[job.rule]
                self._end(job, RECLAIMED)
        return done

    def _batch(self, environ: dict, start_response) -> Iterable[bytes]:
        data, call = json.loads(_body(environ)), environ["PATH_INFO"].rpartition("/")[2]
        actions = {
            "registerjobdefinition": "RegisterJobDefinition",
            "deregisterjobdefinition": "DeregisterJobDefinition",
            "submitjob": "SubmitJob",
            "describejobs": "DescribeJobs",
            "terminatejob": "TerminateJob",
        }
        container = data.get("containerProperties", {})
        facts = {"batch:Image": container.get("image", "")}
        for resource in _resources(call, data):
            self._permit(environ, f"batch:{actions.get(call, call)}", resource, facts)
        if call == "registerjobdefinition":
            passed = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
            self._permit(environ, "iam:PassRole", container["jobRoleArn"], passed)
            check_definition(data)
            self._definitions[data["jobDefinitionName"]] = data
        elif call == "submitjob":
            return _json(start_response, self._submit(data))
        elif call == "describejobs":
            return _json(start_response, {"jobs": [self._described(i) for i in data["jobs"]]})
        elif call == "terminatejob":
            self._end(self._job(data["jobId"]), data["reason"])
            return _json(start_response, {})
        return super().answer(environ, start_response)

    def _permit(
        self, environ: dict, action: str, resource: str, facts: dict[str, str] | None = None
    ) -> str:
        """Whoever signed the request, if the policy allows it."""
        who = key_id_of(environ)
        role = "submitter" if who == SUBMITTER else "job" if self._job(who) else "nobody"
        with self._lock:
            self.requests[role, action] += 1
        if who != KEY_ID and not allows(self._policies.get(role, {}), action, resource, facts):
            with self._lock:
                self.refused.append((role, action, resource))
            raise Refused(403, "AccessDenied", f"{role} may not {action} {resource}")
        return who

    # ------------------------------------------------------------ jobs
    def _submit(self, data: dict) -> dict:
        name = data["jobDefinition"].partition(":")[0]
        if data["jobQueue"] != QUEUE or name not in self._definitions:
            raise Refused(400, "ClientException", f"no such queue or job definition: {data}")
        with self._lock:
            job_id = str(uuid.uuid4())
            folder = self.folder / f"{len(self.jobs):03d}-{job_id[:8]}"
            job = Job(job_id, data["jobName"], self._definitions[name], folder)
            self.jobs.append(job)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return {"jobId": job.id, "jobName": job.name}

    def _described(self, job_id: str) -> dict:
        job = self._job(job_id)
        container = {} if job.exit_code is None else {"exitCode": job.exit_code}
        return {
            "jobId": job.id, "jobName": job.name, "jobQueue": QUEUE, "status": job.status,
            "jobDefinition": job.definition["jobDefinitionName"] + ":1",
            "startedAt": 0, "container": container, "statusReason": job.reason,
        }  # fmt: skip

    def _job(self, job_id: str) -> Job | None:
        return next((job for job in self.jobs if job.id == job_id), None)

    def _credentials(self, job_id: str) -> dict:
        return {
            "AccessKeyId": self._job(job_id).id, "SecretAccessKey": "secret-of-the-job",
            "Token": "token-of-the-job", "Expiration": "2099-01-01T00:00:00Z", "RoleArn": ROLE,
        }  # fmt: skip

    def _imported(self) -> ImagePython | None:
        """Python for jobs that need not start it; none where jobs have users of their own."""
        if "--user" in _isolation():
            return None
        env = image_environment() | self._surroundings(self.folder)
        pin_kernels(env)
        command = [*ISOLATE[:2], *ISOLATE[-2:], "bash", "-c", f'set -e\n{SHOW_IMAGE}exec "$@"', "-"]
        return ImagePython(["setpriv", "--pdeathsig", "KILL", *command], env)

    def _surroundings(self, folder: Path) -> dict[str, str]:
        """Environment of what runs in a folder, as of a container of the image."""
        image = Path(sys.prefix).resolve()
        return {
            "PATH": f"{folder}/bin:{image}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": f"{folder}/home",
            "LANG": "C.UTF-8",
            "IMAGE": str(self._image),
            "PACKAGES": str(Path(sysconfig.get_path("purelib")).resolve()),
        }

    def _run(self, job: Job) -> None:
        """Life of a job on its thread."""
        try:
            with self._machines:
                if job.status == "RUNNABLE":
                    self._contain(job)
        except Exception as error:
            job.status, job.reason = "FAILED", f"the emulation itself failed: {error!r}"
            raise
        finally:
            job.over.set()

    def _contain(self, job: Job) -> None:
        for name in ("work", "home", "bin"):
            (job.folder / name).mkdir(parents=True)
        pip = job.folder / "bin/pip"
        pip.write_text(PIP)
        pip.chmod(0o755)
        if self._python and job.rule not in STARTED:
            self._python.serve(job.folder / "bin")
        kept, hidden = _mounts(job.folder, self._image)
        surroundings = self._surroundings(job.folder) | {
            # where the names of AWS lead to, and what ECS gives
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}/credentials/{job.id}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "KEPT": kept,
            "HIDDEN": hidden,
        }
        script = ENTER + SHOW_IMAGE + BEGIN
        command = [*_isolation(), "bash", "-c", script, "enter", *job.container["command"]]
        with open(job.folder / "log.txt", "wb") as log, self._lock:
            if job.status != "RUNNABLE":
                return
            job.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=image_environment() | job.environment | surroundings,
            )  # fmt: skip
            job.status = "RUNNING"
        _, state, usage = os.wait4(job.process.pid, 0)
        job.process.returncode = os.waitstatus_to_exitcode(state)
        job.largest_process_mb = max(usage.ru_maxrss, largest_kib(job.folder)) / 1024
        shutil.rmtree(job.folder / "work", ignore_errors=True)
        with self._lock:
            if job.status == "RUNNING":
                job.exit_code = job.process.returncode
                job.reason = "" if job.exit_code == 0 else "Essential container in task exited"
                job.status = "FAILED" if job.exit_code else "SUCCEEDED"

    def _end(self, job: Job, reason: str) -> None:
        """Kill a job with all its processes, unless it has ended."""
        with self._lock:
            if job.status not in ("RUNNABLE", "RUNNING"):
                return
            job.status, job.reason = "FAILED", reason
            if job.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, signal.SIGKILL)


# ---------------------------------------------------------------- rules of AWS
def check_definition(data: dict) -> None:
    """Refuse a job definition that Batch would refuse, or silently change."""
    asked = {
        r["type"]: int(r["value"]) for r in data["containerProperties"]["resourceRequirements"]
    }
    if asked["MEMORY"] not in MEMORY.get(asked["VCPU"], ()):
        raise Refused(400, "ClientException", f"{asked} is nothing that can be had")
    if not data["containerProperties"]["image"] or data["timeout"]["attemptDurationSeconds"] < 60:
        raise Refused(400, "ClientException", "no image, or a time limit below a minute")


def allows(policy: dict, action: str, resource: str, facts: dict[str, str] | None = None) -> bool:
    """Whether a statement of a policy allows an action on a resource.

    ``facts`` are what conditions may ask for. One that asks for another thing is not met; whatever
    condition does not stand here is an error.
    """
    for statement in policy.get("Statement", []):
        actions, resources = (
            [found] if isinstance(found, str) else found
            for found in (statement["Action"], statement["Resource"])
        )
        asked = [
            (key, wanted)
            for kind, keys in statement.get("Condition", {}).items()
            for key, wanted in (
                keys if kind in ("StringLike", "StringEquals") else {kind: None}
            ).items()
        ]
        if (
            any(fnmatchcase(action, a) for a in actions)
            and any(fnmatchcase(resource, r) for r in resources)
            and all(fnmatchcase((facts or {}).get(key, ""), wanted) for key, wanted in asked)
        ):
            return True
    return False


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets, without where it keeps pip's wheels."""
    block = re.search(r"^ENV (.*?[^\\])$", (ROOT / "Dockerfile").read_text(), re.M | re.S)[1]
    return {k: v for k, v in re.findall(r"(\w+)=(\S+)", block) if not k.startswith("PIP_")}


@functools.cache
def image_packages() -> list[str]:
    """Names in ``site-packages`` that belong to what the Dockerfile installs there."""
    lock = (ROOT / "requirements-image.lock").read_text()
    names = [*re.findall(r"^([\w.-]+)==", lock, re.MULTILINE), "torch"]
    files = [file for name in names for file in importlib.metadata.files(name) or ()]
    # programs lie elsewhere: ../../../bin
    return sorted({file.parts[0] for file in files} - {".."})


# ---------------------------------------------------------------- parts
@functools.cache
def _isolation() -> list[str]:
    """Command that shuts another in: as root, else as the root of a user namespace, else none."""
    for more in ([], ["--user", "--map-root-user"]):
        command = ["setpriv", "--pdeathsig", "KILL", ISOLATE[0], *more, *ISOLATE[1:]]
        probe = "mount -t tmpfs none /mnt && mkdir /mnt/a && mount --bind /usr /mnt/a"
        with contextlib.suppress(OSError):
            done = subprocess.run([*command, "bash", "-c", probe], capture_output=True)
            if done.returncode == 0:
                return command[3:]
    return []


def _mounts(*folders: Path) -> tuple[str, str]:
    """Folders that a job must see although they lie in hidden ones, and the hidden ones."""
    hidden = {Path("/tmp"), Path(tempfile.gettempdir()).resolve(), ROOT}
    hidden = {h for h in hidden if not any(h != o and h.is_relative_to(o) for o in hidden)}
    image = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix)}
    kept = [p for p in (*folders, *sorted(image)) if any(p.is_relative_to(h) for h in hidden)]
    return "\n".join(map(str, kept)), "\n".join(map(str, sorted(hidden)))


def _body(environ: dict) -> bytes:
    """The body of a request, which whoever answers it can still read."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _resources(call: str, data: dict) -> list[str]:
    """What a call to Batch is about, as a policy names it."""
    arn = QUEUE.rpartition("job-queue/")[0]
    if call == "submitjob":
        return [data["jobQueue"], f"{arn}job-definition/{data['jobDefinition']}"]
    if call == "registerjobdefinition":
        return [f"{arn}job-definition/{data['jobDefinitionName']}"]
    if call == "deregisterjobdefinition":
        return [f"{arn}job-definition/{data['jobDefinition'].rpartition('/')[2]}"]
    return [f"{arn}job/{data['jobId']}"] if "jobId" in data else ["*"]


def _json(start_response, data: dict, status: str = "200 OK", *headers) -> list[bytes]:
    body = json.dumps(data).encode()
    start_response(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers],
    )
    return [body]


def _refusal(environ: dict, start_response, status: int, code: str, message: str) -> list[bytes]:
    """An error in the words of both protocols: S3 reads the body's XML, Batch the header."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    if environ["REQUEST_METHOD"] == "HEAD":
        body = b""
    headers = [
        ("Content-Type", "application/xml"),
        ("Content-Length", str(len(body))),
        ("x-amzn-ErrorType", code),
    ]
    start_response(f"{status} refused", headers)
    return [body]
