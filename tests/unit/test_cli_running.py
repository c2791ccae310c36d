"""Snakemake's command as terareg puts it together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from terareg.cli.main import main
from terareg.cli.running import snakemake_command
from terareg.core.errors import ConfigError
from terareg.execution import installation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sample(tmp_path, monkeypatch) -> Path:
    """A sample file in a folder without a workflow, which is the present one."""
    monkeypatch.chdir(tmp_path)
    Path("brain.yaml").write_text("sample: brain\n")
    return Path("brain.yaml")


SNAKEFILE = ["snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]


@pytest.mark.parametrize(
    ("arguments", "profile", "expected"),
    [
        ([], None, ["--cores", "all"]),
        (["previews", "-n"], None, ["--cores", "all", "previews", "-n"]),
        (["--", "-n"], None, ["--cores", "all", "-n"]),
        (["--cores", "4", "-n"], None, ["--cores", "4", "-n"]),
        (["-c4"], None, ["-c4"]),
        (["--jobs=9"], None, ["--jobs=9"]),
        (["-R", "register"], None, ["--cores", "all", "-R", "register"]),
        (["previews"], "slurm", ["--profile", str(ROOT / "profiles/slurm"), "previews"]),
        (["--profile", "slurm"], None, ["--profile", str(ROOT / "profiles/slurm")]),
        ([], "mine", ["--profile", "mine"]),
    ],
)
def test_the_command_is_the_one_that_a_user_would_type(sample, arguments, profile, expected):
    command = snakemake_command(sample, arguments, profile)
    assert command == [*SNAKEFILE, "--configfile", "brain.yaml", *expected]


@pytest.mark.parametrize("words", [["previews", "-c4"], ["previews", "--cores", "4", "-n"]])
def test_a_target_is_not_taken_for_a_second_file(sample, words):
    """All words that follow --configfile are files to Snakemake, up to the next option."""
    command = snakemake_command(sample, words)
    assert command == [*SNAKEFILE, *words, "--configfile", "brain.yaml"]


def test_inside_a_clone_the_command_is_the_short_one(sample, monkeypatch):
    path = sample.absolute()
    monkeypatch.chdir(ROOT)
    command = snakemake_command(path, [])
    assert command == ["snakemake", "--configfile", str(path), "--cores", "all"]
    assert snakemake_command(path, [], "slurm")[-2:] == ["--profile", "slurm"]


def test_a_folder_in_place_of_a_sample_leads_to_init(sample):
    Path("my brain").mkdir()
    with pytest.raises(
        ConfigError, match="is a folder, not a sample file; write one with: terareg init 'my brain'"
    ):
        snakemake_command(Path("my brain"), [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["previews", "brain.yaml"],
            "previews is not a file; the sample file comes first: terareg run brain.yaml previews",
        ),
        (
            ["--cores", "2", "brain.yaml", "previews"],
            "options of Snakemake follow the sample file: terareg run brain.yaml --cores 2 previ",
        ),
        (["-n", "brain.yaml"], "follow the sample file: terareg run brain.yaml -n"),
        (["brain.yaml", "preview", "-n"], "is neither a target nor a file; did you mean previews?"),
        (["brain.yaml", "xyz"], "xyz is neither a target nor a file; README.md lists the targets"),
    ],
)
def test_words_in_the_wrong_place_are_told_the_right_one(sample, words, told, capsys):
    try:
        status = main(["run", *words])
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    assert told in capsys.readouterr().err


def test_every_rule_is_a_target_and_so_is_every_file(sample):
    for word in ("all", "previews", "register", "results/brain/report.html"):
        assert snakemake_command(sample, [word])[-1] == word


@pytest.mark.slow
def test_the_command_is_printed_and_then_run(sample):
    done = subprocess.run(
        [sys.executable, "-m", "terareg.cli.main", "run", "brain.yaml", "--", "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")},
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    shown, version, *_ = done.stdout.splitlines()
    assert shown.endswith("--configfile brain.yaml --cores all --version")
    assert version.startswith("9.") and done.returncode == 0


@pytest.mark.parametrize("verb", ["check", "run"])
def test_aliases_that_snakemake_would_follow_are_refused_before_it_starts(tmp_path, capsys, verb):
    levels = ["a0: &a0 {x: 1, y: 2}"]
    levels += [
        f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(9))}}}" for n in range(1, 20)
    ]
    for name, text in (("bomb", "\n".join(levels)), ("self", "a: &a\n  b: *a\n")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"sample: brain\n{text}\n")
        assert main([verb, str(path)]) == 1
        assert (
            "when its aliases (&, *) are expanded; write it without them"
        ) in capsys.readouterr().err


def test_a_library_alone_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "_LIBRARY", tmp_path / "site/terareg")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(installation, "_SHARED", "share/of-nobody")
    installation.home.cache_clear()
    try:
        with pytest.raises(ConfigError, match="comes without the workflow; install it again"):
            installation.home()
    finally:
        installation.home.cache_clear()
