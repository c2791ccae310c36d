"""Every rule is documented, logged, benchmarked, sized, and points at files that exist."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from workspaces import BIN, ROOT, Workspace, loaded_workflow

from terareg import planning, workload
from terareg.execution.code_fingerprint import files_behind
from terareg.storage.removal import OWN_NAMES

LIBRARY = ROOT / "workflow/scripts/terareg"
# rules that do with more what another one did before
SAME_SCRIPT = {"sum_placed_tiles": "sum_tiles", "refine_flatfield": "estimate_flatfield"}
TARGETS = {
    "all", "corrected_tiles", "stitching", "fused_volumes", "corrected_volumes", "previews",
    "registration", "regions", "verified_volumes", "plan", "remove_intermediates", "remove_sample",
}  # fmt: skip
FLOORS = {
    "errors": 0, "orientation": 0, "frames": 0, "numeric": 0, "parallel": 0, "storage": 0,
    "planning": 0, "peaks": 0, "levels": 0, "overview": 0, "workload": 0, "runplan": 0,
    "code": 0, "config": 0, "job": 0,
    "acquisition": 1, "volumes": 1,
    "intensity": 2, "stitching": 2, "registration": 2, "atlas": 2,
    "regions": 3, "views": 3, "phantom": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("structure"))
    (workspace.folder / "c.csv").touch()
    config = workspace.sample(grid=(6, 10), points={"cells": {"path": "c.csv", "atlas": "mouse"}})
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
    wildcards = SimpleNamespace(
        sample="brain", channel="signal", atlas="mouse", batch="0", volume="fused/signal",
        points="cells",
    )  # fmt: skip
    for name, rule in jobs.items():
        threads = rule.resources["_cores"]._evaluator(wildcards)
        assert threads in planning._BATCH_MEMORY, name
        mem, time = (rule.resources[name]._evaluator for name in ("mem_mb", "runtime"))
        assert callable(mem) and callable(time), f"{name}: a request is not a formula"
        now = mem(wildcards, attempt=attempt, threads=threads)
        least, most, step = planning._BATCH_MEMORY[threads]
        assert least <= now <= most and now % step == 0, name
        before = mem(wildcards, attempt=max(1, attempt - 1), threads=threads)
        assert now > before or attempt == 1 or now == most, name
        assert time(wildcards, attempt=attempt) > 0
        assert time(wildcards, attempt=2) > time(wildcards, attempt=1), name


def test_the_work_of_every_job_is_known_and_recorded(jobs):
    assert set(workload.RULES) >= jobs.keys()
    for name, rule in jobs.items():
        if name not in {"prepare_atlas", "prepare_atlas_image"}:  # of no sample
            assert "record" in rule.params.keys(), name
            script = (ROOT / "workflow/scripts" / Path(rule.script).name).read_text()
            assert "main, snakemake.params.record)" in script, name


def test_every_job_carries_the_fingerprint_of_its_code(jobs):
    assert [n for n, r in jobs.items() if "code" not in r.params.keys()] == []


def _modules():
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        yield path, parts[0]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_library_knows_nothing_of_snakemake_and_imports_never_go_up():
    for path, room in _modules():
        for name in _imports(path):
            assert not name.startswith("snakemake"), path
            if name.startswith("terareg."):
                other = name.split(".")[1]
                if other != room and room in FLOORS:
                    assert FLOORS[other] <= FLOORS[room], f"{path} imports {name}"
                    equal_floor = FLOORS[other] == FLOORS[room] and FLOORS[room] == 2
                    assert not equal_floor, f"{path} imports {name} of the same floor"


def test_no_gpl_library_is_imported():
    forbidden = {"igneous", "tinybrain", "kimimaro", "tmlib", "ClearMap"}
    for path, _ in _modules():
        assert forbidden.isdisjoint(n.split(".")[0] for n in _imports(path)), path


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


#: names of packages on conda-forge that differ on PyPI
PYPI = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


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
    image = (root / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM python:([\d.]+)", image, re.MULTILINE)
    assert {pins["python"] for pins in environments(root).values()} == {base}
    assert (
        "COPY requirements.lock" in image
        and "--requirement /opt/terareg/requirements.lock" in image
    )
    named = re.findall(r"^ +([a-z][\w-]+)$", image, re.MULTILINE)
    assert named and {canonicalize_name(name) for name in named} <= locked.keys(), "not locked"


def foreign_imports(script: Path) -> set[str]:
    """Top-level packages that a script and the library code it needs import, anywhere in it."""
    found = set()
    for path in files_behind(script):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"terareg", "snakemake"}


def test_environments_name_all_that_their_rules_import(root):
    packages = {
        "SimpleITK": "simpleitk", "torch": "pytorch", "matplotlib": "matplotlib-base",
        "skimage": "scikit-image", "PIL": "pillow", "yaml": "pyyaml", "botocore": "boto3",
        "compressed_segmentation": "compressed-segmentation",
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
            lacking = {packages.get(p, p) for p in needed} - named
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
