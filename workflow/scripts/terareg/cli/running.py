"""``terareg run``: Snakemake's own command, put together, printed and started."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from terareg.core.errors import ConfigError
from terareg.execution.installation import home, is_clone
from terareg.execution.yaml_files import read_yaml

# what makes Snakemake know how much it may do at once
_HOW_MUCH = re.compile(r"(?:-c|-j)\w*|--(?:cores|jobs|profile)(?:=.*)?")

_RULE = re.compile(r"^ *rule (\w+):", re.MULTILINE)
_YAML = (".yaml", ".yml")


def run(sample: Path, arguments: Sequence[str], profile: str | None = None) -> int:
    """Print the command of Snakemake for a sample and become that process.

    Raises
    ------
    ConfigError
        If the sample file cannot be read, before Snakemake, which would show a traceback.
    """
    command, program = snakemake_command(sample, arguments, profile), _program()
    sys.stdout.write(f"{shlex.join(command)}\n")
    sys.stdout.flush()
    os.execv(program, command)


def snakemake_command(
    sample: Path, arguments: Sequence[str], profile: str | None = None
) -> list[str]:
    """The command of Snakemake that runs a sample, to be typed in the present folder.

    Parameters
    ----------
    sample : path
    arguments : sequence of str
        Targets and options of Snakemake; a first ``--`` is left out.
    profile : str, optional
        Name of one of terareg's profiles, or a folder.

    Raises
    ------
    ConfigError
        If the sample file cannot be read or is not the first word, or a target is misspelt.
    """
    _check_order(sample, arguments)
    read_yaml(sample)
    rest = list(arguments)
    if "--" in rest:
        rest.remove("--")
    _check_targets(rest)
    if profile is None and "--profile" in rest[:-1]:
        at = rest.index("--profile")
        profile = rest[at + 1]
        del rest[at : at + 2]
    command = ["snakemake"]
    if not _is_here("workflow"):
        command += ["--snakefile", str(home() / "workflow" / "Snakefile")]
    described = ["--configfile", str(sample)]
    if profile is not None:
        return [*command, *described, "--profile", _profile(profile), *rest]
    if not any(_HOW_MUCH.fullmatch(word) for word in rest):
        return [*command, *described, "--cores", "all", *rest]
    # Snakemake takes all words that follow --configfile for files, targets too
    if rest[0].startswith("-"):
        return [*command, *described, *rest]
    return [*command, *rest, *described]


def sample_first(words: Sequence[str]) -> str | None:
    """The words after ``terareg run`` with the sample file first; None if none is in them."""
    files = [word for word in words if Path(word).suffix in _YAML and Path(word).is_file()]
    if not files:
        return None
    rest = list(words)
    rest.remove(files[0])
    return shlex.join(["terareg", "run", files[0], *rest])


def _check_order(sample: Path, arguments: Sequence[str]) -> None:
    """Raise if another word than the first is the sample file."""
    ordered = sample_first([str(sample), *arguments])
    if not sample.exists() and ordered is not None:
        raise ConfigError(f"{sample} is not a file; the sample file comes first: {ordered}")


def _check_targets(words: Sequence[str]) -> None:
    """Raise if a word before all options, which is a target, is the name of no rule.

    Words with a dot or a slash are files, which Snakemake knows.
    """
    rules = {
        name
        for file in (home() / "workflow" / "rules").glob("*.smk")
        for name in _RULE.findall(file.read_text())
    } | {"all"}
    for word in takewhile(lambda word: not word.startswith("-"), words):
        if word.isidentifier() and word not in rules:
            near = difflib.get_close_matches(word, rules, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else "README.md lists the targets"
            raise ConfigError(f"{word} is neither a target nor a file; {hint}")


def _is_here(name: str) -> bool:
    """Whether a folder of the workflow is that of the present folder."""
    here = Path(name)
    return here.is_dir() and here.resolve() == (home() / name).resolve()


def _profile(name: str) -> str:
    """A profile as Snakemake finds it: terareg's own by its name, others as they are given."""
    if Path(name).is_dir():
        return name
    if name == "aws-batch" and not is_clone():
        raise ConfigError(
            "--profile aws-batch: jobs in the cloud get the sources of the workflow from a clone "
            "of the repository, but this is an installed package; run from a clone (docs/aws.md)"
        )
    own = home() / "profiles" / name
    return str(own) if own.is_dir() else name


def _program() -> str:
    """Snakemake of the environment that terareg is installed in, or else of the PATH."""
    beside = Path(sys.executable).with_name("snakemake")
    found = str(beside) if beside.is_file() else shutil.which("snakemake")
    if found is None:
        raise ConfigError(
            "snakemake is not installed in this environment; install it (pip install "
            "'snakemake<10')"
        )
    return found
