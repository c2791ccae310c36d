"""The command itself: quick to start, one sentence for a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from terareg.cli.main import main

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from terareg.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'yaml', 'torch', 'snakemake', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SCRIPTS)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    for command in ("init", "check", "run", "view", "atlas"):
        assert f"    {command} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", [["check", "nothing.yaml"], ["run", "nothing.yaml"], ["init", "nothing"]]
)
def test_what_is_not_there_is_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.startswith("nothing") and told.count("\n") == 1 and "; " in told


def test_the_viewer_is_a_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["view", "--help"])
    assert end.value.code == 0
    assert "usage: terareg view" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["view", "no/such/folder"])
    assert "no/such/folder is not a folder" in capsys.readouterr().err
