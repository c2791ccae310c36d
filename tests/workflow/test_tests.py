"""Unit tests can be found from a module's name; what makes tests fast changes none of them."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from running import artefacts, job_counts
from sharing import group_of, made_once
from workspaces import ROOT, Workspace

LIBRARY = ROOT / "workflow/scripts/terareg"
UNIT = ROOT / "tests/unit"

#: modules that no unit test imports, the file that tests them, and why it goes through others
THROUGH = {
    "acquisition.chunking": ("acquisition_tiles", "one number, of stored tiles"),
    "acquisition.cost": ("execution_rule_table", "a part of the table of rules"),
    "acquisition.tile_reader": ("acquisition_tiles", "the protocol that readers of tiles follow"),
    "atlas.cost": ("execution_rule_table", "a part of the table of rules"),
    "atlas.sources": ("atlas_prepare", "reads every kind of atlas before it is prepared"),
    "cli.atlases": ("atlas_download", "what the commands print of atlases"),
    "cohort.cost": ("execution_rule_table", "a part of the table of rules"),
    "cli.starting": ("intake_recognise", "the command that writes what was recognised"),
    "exports.tiles_page": ("exports_tiles", "the page that shows tiles"),
    "derived.components": ("derived_parted", "a tool, made by its name"),
    "derived.count": ("derived_parted", "a tool, made by its name"),
    "derived.mesh": ("derived_parted", "a tool, made by its name"),
    "derived.signal": ("derived_tools", "a tool, made by its name"),
    "derived.skeletonize": ("derived_parted", "a tool, made by its name"),
    "derived.tissue": ("derived_parted", "a tool, made by its name"),
    "derived.convert": ("derived_tools", "a tool, made by its name"),
    "derived.downsample": ("derived_tools", "a tool, made by its name"),
    "derived.equalize": ("derived_tools", "a tool, made by its name"),
    "derived.quantize": ("derived_tools", "a tool, made by its name"),
    "derived.remap": ("derived_tools", "a tool, made by its name"),
    "derived.reorder": ("derived_tools", "a tool, made by its name"),
    "derived.resample": ("derived_tools", "a tool, made by its name"),
    "derived.tool": ("derived_tools", "what all tools have in common"),
    "execution.combinations": ("execution_config", "what a sample's settings say together"),
    "intake.tile_files": ("intake_recognise", "recognises tiles by names and OME-XML"),
    "intake.tile_folders": ("intake_recognise", "recognises tiles by folders"),
    "intensity.equations": ("intensity_flatfield", "parts of the flat-field's equations"),
    "intensity.evidence": ("intensity_evidence", "what the estimate of the flat-field finds"),
    "intensity.line_system": ("intensity_destriping", "the equations of the gains of lines"),
    "registration.backward": ("registration_backward", "terms of the energy of a registration"),
    "registration.cost": ("execution_rule_table", "a part of the table of rules"),
    "registration.result": ("registration_emlddmm", "what a registration returns"),
    "signal.cost": ("execution_rule_table", "a part of the table of rules"),
    "stitching.channel_sampling": ("stitching_channel_shift", "how much of the tiles is compared"),
    "stitching.findings": ("stitching_placement", "what a placement tells of its links"),
    "stitching.overview": ("stitching_steps", "one number, of what the steps read"),
    "stitching.projections": ("stitching_displacement", "a stage of the search"),
    "storage.arrays": ("acquisition_tiles", "options of tensorstore for stored tiles"),
    "storage.shards": ("volumes_writer", "packs the chunks of a written block"),
    "storage.tiff": ("acquisition_image_files", "TIFF files as planes are read from them"),
    "storage.tiff_planes": ("acquisition_image_files", "order of the planes that files list"),
    "views.cost": ("execution_rule_table", "a part of the table of rules"),
    "views.page": ("views_report", "makes pages from templates"),
    "views.stages": ("views_report", "sections of the report"),
    "views.words": ("views_report", "words of the report's tables"),
    "views.tables": ("views_report", "tables of the report"),
    "volumes.ngff_04": ("derived_tools", "metadata that every reader of OME-Zarr 0.4 is shown"),
    "volumes.itk_files": ("volumes_images", "files that only ITK reads"),
    "volumes.meta_image": ("volumes_foreign", "headers of one kind of file"),
    "volumes.nifti": ("volumes_headers", "headers of one kind of file"),
    "volumes.nrrd": ("volumes_headers", "headers of one kind of file"),
    "volumes.choosing": ("exports_slabs", "labels of another grid"),
    "volumes.fetched": ("volumes_foreign", "chunks under names of other writers"),
    "volumes.zarr_arrays": ("volumes_opened", "zarr-python over a store"),
    "volumes.tiff_stack": ("volumes_headers", "planes of one kind of file"),
}
#: files that are named after no module or package, and why
ACROSS = {
    "registration_cut": "an atlas that ends within the brain, in images, contrast and pose",
    "registration_bad_input": "what every part of a registration refuses",
    "volumes_foreign": "what others wrote, as headers, images and imports meet it",
    "storage_s3": "faults of S3 as readers and writers of all rooms meet them",
}


def imports(path: Path) -> set[str]:
    """Names of the library's modules, without ``terareg.``, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {n.removeprefix("terareg.") for n in found if n.startswith("terareg.")} & set(modules())


@cache
def modules() -> dict[str, Path]:
    """Modules of the library by name; packages hold no code."""
    names = (p.relative_to(LIBRARY).with_suffix("") for p in sorted(LIBRARY.rglob("*.py")))
    found = {".".join(name.parts): LIBRARY / f"{name}.py" for name in names}
    return {name: path for name, path in found.items() if "__" not in path.stem}


@cache
def reached_from(path: Path) -> set[str]:
    """Modules that a file imports, or what it imports imports."""
    reached: set[str] = set()
    waiting = imports(path)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting |= imports(modules()[name])
    return reached


def test_every_module_is_imported_by_a_unit_test_or_says_why_not():
    tested = set().union(*(imports(path) for path in UNIT.glob("*.py")))
    without = modules().keys() - tested
    assert sorted(without - THROUGH.keys()) == [], "neither tested nor listed above"
    assert sorted(THROUGH.keys() - without) == [], "listed above, but tested or gone"


@pytest.mark.parametrize("module", THROUGH)
def test_the_file_that_is_said_to_test_a_module_runs_it(module):
    path = UNIT / f"test_{THROUGH[module][0]}.py"
    assert path.is_file(), path.name
    assert module in reached_from(path), f"{path.name} does not reach {module}"


def test_unit_tests_are_named_after_modules():
    names = {name.replace(".", "_") for name in modules()}
    packages = {p.parent.relative_to(LIBRARY).as_posix() for p in LIBRARY.rglob("__init__.py")}
    names |= {package.replace("/", "_") for package in packages}
    files = {path.stem.removeprefix("test_") for path in UNIT.glob("test_*.py")}
    foreign = {name for name in files - names if not name.startswith("docs")}
    assert sorted(foreign - ACROSS.keys()) == [], "rename them, or say above why not"
    assert len(names & files) > 70, "most modules have a file of their own"


def test_tests_use_public_names_of_the_library():
    """What is inside a module may change without any test."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree, modules = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("terareg"):
                modules |= {alias.asname or alias.name for alias in node.names}
                found += [f"{path.name}: {a.name}" for a in node.names if a.name.startswith("_")]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in modules and node.attr.startswith("_"):
                    found.append(f"{path.name}: {node.value.id}.{node.attr}")
    assert [name for name in found if not name.endswith("__")] == []


# ---------------------------------------------------------------- what makes tests fast
@pytest.mark.parametrize("own_code", [False, True])
def test_snakemake_that_is_forked_does_what_a_started_one_does(tmp_path, own_code):
    workspace = Workspace(tmp_path, own_code=own_code)
    workspace.write(workspace.sample())
    # what Python reads when it starts makes it start
    target = ("-n", "stitching", "--quiet", "rules")
    forked, started = (workspace.snakemake(*target, **env) for env in ({}, {"PYTHONPATH": ""}))
    assert job_counts(forked) == job_counts(started) and forked.stderr == started.stderr
    workspace.write(workspace.sample(stitching={"chanel": "signal"}))
    forked, started = (
        workspace.snakemake("-n", "--quiet", "all", **env) for env in ({}, {"PYTHONPATH": ""})
    )
    assert forked.returncode == started.returncode != 0
    assert forked.stdout == started.stdout and forked.stderr == started.stderr
    assert "did you mean channel?" in forked.stdout + forked.stderr


def test_a_run_sees_the_code_and_the_environment_of_its_own(tmp_path):
    """Each after others: what one run has loaded or set, the next one does not have."""
    workspaces = [Workspace(tmp_path / name, own_code=True) for name in ("changed", "plain")]
    errors = workspaces[0].folder / "workflow/scripts/terareg/core/errors.py"
    errors.write_text("raise ImportError('changed code')\n")
    for workspace in workspaces:
        workspace.write(workspace.sample())
    said = [w.snakemake("-n", "--quiet", "all", "--", "plan") for w in workspaces]
    assert [done.returncode for done in said] == [1, 0]
    assert "changed code" in said[0].stdout + said[0].stderr


def test_scripts_that_are_forked_do_what_started_ones_do(tmp_path):
    """The same bytes, and the same sentence where one fails."""
    options, target = ("--cores", "1", "--quiet"), "results/tools/derived/part/complete.json"
    made, said = [], []
    # what Python reads when it starts makes it start
    for name, env in (("forked", {}), ("started", {"PYTHONPATH": ""})):
        workspace = Workspace(tmp_path / name)
        stack = np.arange(8 * 20 * 30, dtype=np.uint16).reshape(8, 20, 30)
        tifffile.imwrite(workspace.folder / "stack.tif", stack)
        # plans hold the state of their source
        os.utime(workspace.folder / "stack.tif", (1e9, 1e9))
        part = {"from": "stack.tif", "do": "convert", "spacing_um": [4, 2, 2]}
        config = {"sample": "tools", "volume": {"chunk": 8, "block": 16}, "derived": {"part": part}}
        workspace.write(config)
        done = workspace.snakemake(*options, "--", target, **env)
        assert done.returncode == 0, done.stderr
        made.append(artefacts(workspace.folder / "results/tools"))
        plan = workspace.folder / "results/tools/derived/part/plan.json"
        plan.write_text(plan.read_text() + " ")
        done = workspace.snakemake(*options, "-R", "derive_blocks", "--", target, **env)
        assert done.returncode == 1
        said.append([x for x in done.stderr.splitlines() if x.startswith("derive_blocks: ")])
    assert made[0] == made[1] and len(made[0]) > 5
    assert said[0] == said[1] and len(said[0]) == 1, said


def test_what_is_made_once_is_made_once_and_fails_for_all(tmp_path_factory):
    made = []

    def make(folder):
        made.append(folder)
        if folder.name == "broken":
            raise ValueError("a broken chain")
        return {"folder": str(folder)}

    both = [made_once(tmp_path_factory, "whole", make) for _ in range(2)]
    assert both[0] == both[1] and len(made) == 1
    with pytest.raises(ValueError, match="a broken chain"):
        made_once(tmp_path_factory, "broken", make)
    with pytest.raises(pytest.fail.Exception, match="broken could not be made: a broken chain"):
        made_once(tmp_path_factory, "broken", make)
    assert len(made) == 2


def test_engines_run_one_after_the_other():
    files = list((ROOT / "tests/engines").glob("test_*.py"))
    assert len(files) > 2
    assert len({group_of(f"tests/engines/{path.name}::test_x") for path in files}) == 1
    assert group_of("tests/unit/test_a.py::x") != group_of("tests/unit/test_b.py::x")
