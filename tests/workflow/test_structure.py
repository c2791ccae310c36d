"""Every rule is documented, logged, benchmarked, sized, and points at files that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from cohort_truth import write_cohort, write_table_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from snakemake.iocontainers import Wildcards
from workspaces import BIN, ROOT, Workspace, loaded_workflow

from terareg.execution.code_fingerprint import files_behind
from terareg.execution.requests import BATCH_MEMORY
from terareg.execution.rule_table import RULES
from terareg.storage.removal import OWN_NAMES

LIBRARY = ROOT / "workflow/scripts/terareg"
# rules that do with more what another one did before
SAME_SCRIPT = {"sum_placed_tiles": "sum_tiles", "refine_flatfield": "estimate_flatfield"}
TARGETS = {
    "all", "corrected_tiles", "stitching", "fused_volumes", "corrected_volumes", "previews",
    "registration", "regions", "derived_volumes", "exports", "cohort", "verified_volumes", "plan",
    "remove_intermediates", "remove_derived", "remove_sample",
}  # fmt: skip
#: rooms from the ground up; an import never goes up, and rooms of one floor stay apart
FLOORS = (
    ("core",),
    ("storage",),
    ("acquisition",),
    ("volumes",),
    ("objects",),
    ("intensity", "stitching", "atlas", "registration"),
    ("intake",),
    ("regions", "exports", "cohort"),
    ("signal",),
    ("derived",),
    ("views",),
    ("execution",),
    ("cli", "phantom"),
)
#: order within the ground floor
GROUND = (
    ("errors", "table_cells", "levels", "parallel", "numeric", "blas"),
    ("orientation", "extents"),
    ("frames", "cost"),
    ("resampling",),
)


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("structure"))
    (workspace.folder / "c.csv").touch()
    config = workspace.sample(
        grid=(6, 10),
        points={"cells": {"path": "c.csv", "atlas": "mouse"}},
        export={"signal": {"from": "fused/signal"}},
        cells={"cfos": {"channel": "signal", "diameter_um": 10}},
        comparisons={"drug": {"table": "cohort.tsv", "atlas": "ccf"}},
    )
    samples = write_cohort(workspace.folder / "results", size=2)
    write_table_of(workspace.folder / "cohort.tsv", samples)
    path = workspace.write(config)
    with loaded_workflow(workspace.folder, path) as workflow:
        yield {rule.name: rule for rule in workflow.rules}


@pytest.fixture(scope="module")
def jobs(rules):
    return {name: rule for name, rule in rules.items() if name not in TARGETS}


def test_every_rule_has_a_docstring(rules):
    assert [n for n, r in rules.items() if not (r.docstring or "").strip()] == []


def test_every_job_has_log_benchmark_environment_and_script(jobs):
    assert len(jobs) > 25
    for name, rule in jobs.items():
        assert rule.log, name
        assert rule.benchmark, name
        assert rule.conda_env, name
        assert Path(rule.script).name == f"{SAME_SCRIPT.get(name, name)}.py", name


def test_nothing_runs_before_the_check_of_inputs_but_what_it_reads(jobs):
    """Of jobs that could start, Snakemake takes any of those with the highest priority."""
    first = jobs["check_inputs"].priority
    as_early = {name for name, rule in jobs.items() if rule.priority >= first}
    assert as_early == {"check_inputs", "index_acquisition", "index_input", "copy_own_file"}


def test_every_script_environment_caption_and_schema_exists():
    text = "".join(p.read_text() for p in (ROOT / "workflow/rules").glob("*.smk"))
    named = set(re.findall(r'"\.\./((?:scripts|envs|report)/[^"]+)"', text))
    assert [n for n in sorted(named) if not (ROOT / "workflow" / n).is_file()] == []
    for folder, ending in (("scripts", "*.py"), ("envs", "*.yaml"), ("report", "*.rst")):
        files = {f"{folder}/{p.name}" for p in (ROOT / "workflow" / folder).glob(ending)}
        assert files - named - {"report/workflow.rst"} == set(), "files that no rule uses"


def test_inputs_and_outputs_are_named_and_no_directory_is_an_output(jobs):
    for name, rule in jobs.items():
        assert len(list(rule.output.keys())) == len(rule.output), name
        assert not any("directory" in getattr(o, "flags", {}) for o in rule.output), name


def test_everything_that_rules_make_of_a_sample_can_be_removed(jobs):
    outputs = [str(o) for rule in jobs.values() for o in rule.output]
    made = {m[1] for o in outputs if (m := re.match(r"results/\{sample,[^/]*\}/([^/{]+)", o))}
    assert len(made) > 12
    assert made <= set(OWN_NAMES)


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_requests_grow_with_the_attempt_and_fit_aws_batch(jobs, attempt):
    names = {
        "sample": "brain", "channel": "signal", "atlas": "mouse", "batch": "0",
        "volume": "fused/signal", "points": "cells", "cells": "cfos", "export": "signal",
        "comparison": "drug", "map": "log_jacobian",
    }  # fmt: skip
    wildcards = Wildcards(fromdict=names)
    for name, rule in jobs.items():
        threads = rule.resources["_cores"]._evaluator(wildcards)
        assert threads in BATCH_MEMORY, name
        mem, time = (rule.resources[name]._evaluator for name in ("mem_mb", "runtime"))
        assert callable(mem) and callable(time), f"{name}: a request is not a formula"
        now = mem(wildcards, attempt=attempt, threads=threads)
        least, most, step = BATCH_MEMORY[threads]
        assert least <= now <= most and now % step == 0, name
        before = mem(wildcards, attempt=max(1, attempt - 1), threads=threads)
        assert now > before or attempt == 1 or now == most, name
        assert time(wildcards, attempt=attempt) > 0
        assert time(wildcards, attempt=2) > time(wildcards, attempt=1), name


def test_the_work_of_every_job_is_known_and_recorded(jobs):
    assert set(RULES) >= jobs.keys()
    for name, rule in jobs.items():
        if name not in {"prepare_atlas", "prepare_atlas_image"}:  # of no sample
            assert "record" in rule.params.keys(), name
            script = (ROOT / "workflow/scripts" / Path(rule.script).name).read_text()
            assert "run_job(snakemake, main)" in script, name


def test_every_job_carries_the_fingerprint_of_its_code(jobs):
    assert [n for n, r in jobs.items() if "code" not in r.params.keys()] == []


def _modules():
    """Files of the library, with their parts: ("core", "frames")."""
    for path in sorted(LIBRARY.rglob("*.py")):
        yield path, path.relative_to(LIBRARY).with_suffix("").parts


@cache
def _imports(path):
    """Names that a file imports: of a module, not of its package, where there is such a module."""
    return list(_imported(ast.parse(path.read_text()), path))


def _imported(tree, path="the source"):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in inner if _file_of(name)] or [node.module]


def _file_of(name):
    """The file or folder of a module of the library, None of anything else."""
    path = LIBRARY.parent.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path) if p.exists()), None)


def _own(names):
    """Parts of the modules of the library among names."""
    return [name.split(".")[1:] for name in names if name.startswith("terareg.")]


def test_the_library_knows_nothing_of_snakemake():
    for path, _ in _modules():
        assert not any(name.startswith("snakemake") for name in _imports(path)), path


def test_every_module_has_a_floor_and_imports_never_go_up():
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    for path, (room, *_) in _modules():
        if room == "__init__":
            continue
        for other, *_ in _own(_imports(path)):
            if other != room:
                assert floor[other] < floor[room], f"{path} imports {other}"
    order = {module: i for i, modules in enumerate(GROUND) for module in modules}
    for path, parts in _modules():
        if parts[0] == "core" and parts[1] != "__init__":
            for _, module in _own(_imports(path)):
                assert order[module] < order[parts[1]], f"{path} imports {module}"


def test_what_a_package_gives_counts_as_an_import_of_the_module():
    tree = ast.parse("from terareg import views, __version__\nfrom terareg.views import report\n")
    assert list(_imported(tree)) == ["terareg.views", "terareg.views.report"]


def test_no_circle_of_imports_of_any_kind():
    """Not inside functions and not for types only either."""
    needs = {}
    for path, _ in _modules():
        found = (_file_of(name) for name in _imports(path) if name.startswith("terareg."))
        needs[path] = {p for p in found if p.suffix == ".py"}
    state = {}

    def visit(path, trail):
        assert state.get(path) != "open", " > ".join(p.stem for p in [*trail, path])
        if path not in state:
            state[path] = "open"
            for other in sorted(needs[path]):
                visit(other, [*trail, path])
            state[path] = "done"

    for path in needs:
        visit(path, [])


def test_no_algorithm_imports_a_cost():
    """A changed rate would make its rules run again."""
    plans = {"core", "execution", "phantom"}
    for path, parts in _modules():
        if parts[-1] != "cost" and parts[0] not in plans:
            assert not [n for n in _imports(path) if n.endswith(".cost")], path


def test_every_rule_asks_in_its_own_name():
    """A rule made from another one inherits its requests, which may be of no work at all."""
    rule = re.compile(r"^(?:use )?rule (?:\w+ as )?(\w+)(?: with)?:\n(.*?)(?=^\S|\Z)", re.M | re.S)
    checked = set()
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for name, body in rule.findall(file.read_text()):
            if name in TARGETS:
                continue
            for function in ("threads_of", "memory", "runtime"):
                assert re.findall(rf'{function}\("(\w+)"\)', body) == [name], f"{name}: {function}"
            for function in ("log_of", "benchmark_of", "record_of"):
                given = re.findall(rf'{function}\("(\w+)', body)
                assert set(given) <= {name}, f"{name}: {function}"
            checked.add(name)
    assert checked == set(RULES)


def test_no_gpl_library_is_imported():
    forbidden = {"igneous", "tinybrain", "kimimaro", "tmlib", "ClearMap"}
    for path, _ in _modules():
        assert forbidden.isdisjoint(n.split(".")[0] for n in _imports(path)), path


def test_names_that_scripts_take_from_the_library_exist():
    """Scripts run only within jobs, where a name that was moved would show first."""
    lost = []
    for path in sorted((ROOT / "workflow/scripts").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("terareg"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    if not hasattr(module, alias.name) and importlib.util.find_spec(inner) is None:
                        lost.append(f"{path.name}: {inner}")
    assert lost == []


def test_scripts_do_not_import_each_other_and_are_thin():
    names = {p.stem for p in (ROOT / "workflow/scripts").glob("*.py")}
    for path in (ROOT / "workflow/scripts").glob("*.py"):
        assert names.isdisjoint(n.split(".")[0] for n in _imports(path)), path
        assert len(path.read_text().splitlines()) <= 130, path


def test_loading_the_workflow_needs_no_numeric_package(workspace):
    """The public catalogue lints with Snakemake alone: block what it does not have."""
    blocker = workspace.folder / "sitecustomize.py"
    blocked = ("torch", "SimpleITK", "tensorstore", "zarr", "tifffile", "scipy", "skimage")
    blocker.write_text(f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n")
    workspace.write(workspace.sample())
    done = workspace.snakemake(
        "-n", "stitching", "--quiet", "all", PYTHONPATH=str(workspace.folder)
    )
    assert done.returncode == 0, done.stderr


def test_lint_is_clean_without_a_sample(workspace):
    done = workspace.snakemake("--lint", configfile=None)
    assert done.returncode == 0, done.stderr
    assert "Congratulations" in done.stderr + done.stdout


@pytest.mark.skipif(not shutil.which("shfmt", path=f"{BIN}"), reason="shfmt is not installed")
def test_snakefmt_is_clean(root):
    done = subprocess.run(
        [BIN / "snakefmt", "--check", "workflow"],
        cwd=root, text=True, capture_output=True, env={"PATH": f"{BIN}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_ruff_is_clean(root):
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [BIN / "ruff", *command, "."], cwd=root, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout


def without_mypy():
    return not shutil.which("mypy", path=f"{BIN}")


#: what is wrong by a room's rules: on the ground floor an annotation that is absent, elsewhere a
#: value of another type, also where a generator makes a tuple
WRONG_TYPES = {
    "core/table_cells.py": ("def wrong(a):\n    return a\n", "no-untyped-def"),
    "stitching/nominal.py": ("def wrong(n: int) -> str:\n    return n\n", "return-value"),
    "volumes/headers.py": (
        "def wrong(n: list[str]) -> tuple[int, int]:\n    return tuple(m for m in n)\n",
        "return-value",
    ),
}


@pytest.mark.skipif(without_mypy(), reason="mypy is not installed (requirements.lock)")
def test_types_are_right_and_wrong_ones_are_found(root, tmp_path):
    """In one run, since a run is long: of files with a wrong end, and of all others as they are."""
    command = [BIN / "mypy", "--no-error-summary"]
    expected = set()
    for name, (text, code) in WRONG_TYPES.items():
        path = root / "workflow/scripts/terareg" / name
        wrong = tmp_path / name.replace("/", "_")
        wrong.write_text(f"{path.read_text()}\n\n{text}")
        command += ["--shadow-file", path, wrong]
        expected.add((name, code))
    done = subprocess.run(command, cwd=root, text=True, capture_output=True)
    lines = [line for line in done.stdout.splitlines() if ": note:" not in line]
    found = [re.search(r"terareg/(\S+\.py):\d+: error: .*\[([\w-]+)\]$", line) for line in lines]
    assert None not in found and done.returncode == 1, done.stdout + done.stderr
    assert {match.groups() for match in found} == expected, done.stdout
    assert len(found) == len(expected), done.stdout


def test_hooks_of_pre_commit_are_what_make_lint_runs(root):
    recipe = (root / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    hooks = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = {hook["entry"].split(".venv/bin/")[-1] for hook in hooks}
    linted = {line.split("$(BIN)/")[-1] for line in recipe.splitlines()[1:]}
    assert linted == commands | {"snakemake --lint"}
    assert all(hook["language"] == "system" for hook in hooks), "a hook needs the network"


#: packages of an extra: whoever has such files installs them, and a message says so
OPTIONAL = {"czifile", "liffile", "pyarrow"}
#: names of packages on conda-forge that differ on PyPI
PYPI = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-xxhash": "xxhash"}


def locked_versions(root) -> dict[str, str]:
    """Version of every package of requirements.lock, by canonical name."""
    lines = (root / "requirements.lock").read_text().splitlines()
    pairs = (line.strip().split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def environments(root) -> dict[str, dict[str, str]]:
    """Pins of every conda environment: {file: {name on PyPI: version}}."""
    found = {}
    for path in sorted((root / "workflow/envs").glob("*.yaml")):
        env = yaml.safe_load(path.read_text())
        assert env["channels"] == ["conda-forge", "nodefaults"], path
        pins = dict(item.split("=") for item in env["dependencies"])
        found[path.name] = {canonicalize_name(PYPI.get(n, n)): v for n, v in pins.items()}
    return found


def needs_of(name: str, locked: dict[str, str]) -> list[Requirement]:
    """What the locked version of a package says that it needs here."""
    distribution = importlib.metadata.distribution(name)
    assert Version(distribution.version).public == Version(locked[name]).public, (
        f"{name} is installed as {distribution.version}, but requirements.lock has {locked[name]}"
    )
    needs = [Requirement(text) for text in distribution.requires or ()]
    return [n for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]


def test_environments_pin_what_the_lock_pins(root):
    locked = locked_versions(root)
    for file, pins in environments(root).items():
        for name, version in pins.items():
            if name != "python":
                assert locked[name] == version, f"{file}: {name}"


def test_pins_of_every_environment_can_be_solved_to_the_lock(root):
    """Each package that is named, and all that these need, down to the last: every requirement is
    met by the version in the lock, so a solver finds a solution that is the tested one."""
    locked = locked_versions(root)
    for file, pins in environments(root).items():
        waiting, seen = sorted(set(pins) - {"python"}), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for need in needs_of(name, locked):
                other = canonicalize_name(need.name)
                assert other in locked, f"{file}: {name} needs {other}, which the lock lacks"
                allowed = need.specifier.contains(locked[other], prereleases=True)
                assert allowed, f"{file}: {name} needs {need}, the lock has {locked[other]}"
                waiting.append(other)
        assert len(seen) > len(pins), file


def test_image_lock_and_environments_are_made_of_the_same_lists(root):
    locked = locked_versions(root)
    lines = (root / "requirements.in").read_text().splitlines()
    asked = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for requirement in asked:
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    direct = {canonicalize_name(requirement.name) for requirement in asked}
    needed = {canonicalize_name(n.name) for name in direct for n in needs_of(name, locked)}
    for file, pins in environments(root).items():
        assert set(pins) - {"python"} <= direct | needed, f"{file}: not asked for by anything"


def image_versions(root) -> dict[str, str]:
    """Version of every package of the image, by canonical name; each has its hash."""
    text = (root / "requirements-image.lock").read_text()
    pinned = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert len(pinned) == len(re.findall("^[^#\n ]", text, re.MULTILINE)) > 50
    return {canonicalize_name(name): version for name, version in pinned}


def test_the_image_holds_what_jobs_need_by_hash_and_no_more(root):
    locked, image = locked_versions(root), image_versions(root)
    assert {n: v for n, v in image.items() if locked.get(n) != v} == {}
    for file, pins in environments(root).items():
        assert set(pins) - {"python", "torch"} <= image.keys(), file
    of_torch = {canonicalize_name(need.name) for need in needs_of("torch", locked)}
    assert of_torch <= image.keys(), "torch is installed without what it needs"
    assert not {"moto", "hypothesis", "google-auth", "oauth2client", "rsa"} & image.keys()


def test_the_image_is_built_of_its_lock(root):
    text = (root / "Dockerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=python:([\d.]+)", text, re.MULTILINE)
    assert {pins["python"] for pins in environments(root).values()} == {base}
    assert re.findall(r"^COPY (\S+)", text, re.MULTILINE) == ["requirements-image.lock"]
    assert "--require-hashes --requirement /opt/terareg/requirements-image.lock" in text
    assert re.findall(r"ARG TORCH=torch==(\S+)", text) == [locked_versions(root)["torch"]]
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    kept = (root / ".dockerignore").read_text().split("\n*\n")[1].split()
    assert kept == ["!requirements-image.lock"]


def foreign_imports(script: Path) -> set[str]:
    """Top-level packages that a script and the library code it needs import, anywhere in it."""
    found = {name.split(".")[0] for path in files_behind(script) for name in _imports(path)}
    return found - set(sys.stdlib_module_names) - {"terareg", "snakemake"}


def test_environments_name_all_that_their_rules_import(root):
    packages = {
        "SimpleITK": "simpleitk", "torch": "pytorch", "matplotlib": "matplotlib-base",
        "skimage": "scikit-image", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml",
        "botocore": "boto3",
        "compressed_segmentation": "compressed-segmentation", "xxhash": "python-xxhash",
        "google_crc32c": "google-crc32c", "DracoPy": "dracopy",
    }  # fmt: skip
    rules = re.compile(r"^rule (\w+):(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
    checked = 0
    for rule_file in (root / "workflow/rules").glob("*.smk"):
        for name, body in rules.findall(rule_file.read_text()):
            env = re.search(r"envs/(\w+)\.yaml", body)
            if env is None:
                continue
            text = (root / "workflow/envs" / f"{env[1]}.yaml").read_text()
            named = {item.split("=")[0] for item in yaml.safe_load(text)["dependencies"]}
            needed = foreign_imports(root / "workflow/scripts" / f"{name}.py")
            lacking = {packages.get(p, p) for p in needed} - named - OPTIONAL
            assert not lacking, f"{env[1]}.yaml lacks {sorted(lacking)} for {name}"
            checked += 1
    assert checked > 30


def test_profiles_name_no_empty_value_and_resolve_by_bare_name(root):
    for name in ("slurm", "aws-batch"):
        link = root / name
        assert link.is_symlink() and (link / "config.yaml").is_file()
        profile = yaml.safe_load((link / "config.yaml").read_text())
        assert [k for k, v in profile.items() if v in ("", None)] == []
    assert profile["aws-batch-task-timeout"] >= 86400
    assert not (root / "profiles/default").exists()
