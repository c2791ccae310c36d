"""Every rule is documented, logged, benchmarked, sized, and points at files that exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from workspaces import BIN, ROOT, Workspace, loaded_workflow

from terareg import planning
from terareg.code import files_behind

LIBRARY = ROOT / "workflow/scripts/terareg"
# rules that do with more what another one did before
SAME_SCRIPT = {"sum_placed_tiles": "sum_tiles", "refine_flatfield": "estimate_flatfield"}
TARGETS = {
    "all", "corrected_tiles", "stitching", "fused_volumes", "corrected_volumes", "previews",
    "registration", "regions",
}  # fmt: skip
FLOORS = {
    "errors": 0, "orientation": 0, "frames": 0, "numeric": 0, "parallel": 0, "storage": 0,
    "planning": 0, "code": 0, "config": 0, "job": 0,
    "acquisition": 1, "volumes": 1,
    "intensity": 2, "stitching": 2, "registration": 2, "atlas": 2,
    "regions": 3, "views": 3, "phantom": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("structure"))
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


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_requests_grow_with_the_attempt_and_fit_aws_batch(jobs, attempt):
    wildcards = SimpleNamespace(
        sample="brain", channel="signal", atlas="mouse", batch="0", volume="fused/signal",
        points="cells",
    )  # fmt: skip
    for name, rule in jobs.items():
        threads = rule.resources["_cores"].value
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


def test_environments_pin_what_the_lock_pins(root):
    lock = dict(
        line.strip().lower().split("==")
        for line in (root / "requirements.lock").read_text().splitlines()
        if "==" in line
    )
    pypi = {
        "pytorch": "torch", "matplotlib-base": "matplotlib",
        "compressed-segmentation": "compressed_segmentation",
    }  # fmt: skip
    for path in (root / "workflow/envs").glob("*.yaml"):
        env = yaml.safe_load(path.read_text())
        assert env["channels"] == ["conda-forge", "nodefaults"], path
        for item in env["dependencies"]:
            name, version = item.split("=")
            if name != "python":
                assert lock[pypi.get(name, name)] == version, f"{path}: {item}"


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
