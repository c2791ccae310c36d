"""``terareg init``: a sample file, and a table of tiles, for a folder of the microscope."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from terareg.core.errors import ConfigError
from terareg.intake.found import Found
from terareg.intake.recognise import recognise
from terareg.intake.sample_file import sample_name, sample_text
from terareg.storage.store import write_atomic


def init(source: str, out: Path, name: str | None, atlas: str, force: bool) -> int:
    """Recognise a folder or file, and write what describes it.

    Nothing is written into the folder itself.

    Raises
    ------
    TeraregError
        If nothing is recognised, or a file to write is there already.
    """
    found = recognise(source)
    table = out.with_name(f"{out.stem}_tiles.tsv").absolute()
    if found.table is not None:
        found = replace(found, source=_with_table(found.source, str(table)))
    files = {out: sample_text(found, sample_name(source, name), atlas)}
    if found.table is not None:
        files = {table: found.table, **files}
    for file in files:
        if file.exists() and not force:
            raise ConfigError(
                f"{file} already exists; give another name (--out), or --force to overwrite it"
            )
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, text.encode())
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be written ({error.strerror}); give another path with --out"
            ) from error
    _tell(source, found, out, table)
    return 0


def _with_table(source: Mapping, table: str) -> dict:
    return {key: table if key == "table" else value for key, value in source.items()}


def _tell(source: str, found: Found, out: Path, table: Path) -> None:
    say = sys.stdout.write
    say(f"{source}: {found.title}\n")
    for why in found.why:
        say(f"  seen    {why}\n")
    for key, text in found.guesses.items():
        say(f"  guess   input.{key}: {text}\n")
    for key, text in found.asked.items():
        say(f"  asked   input.{key}: {text}\n")
    say("  asked   input.orientation: three letters, see the file\n")
    if found.table is not None:
        say(f"wrote {table} ({found.table.count(chr(10)) - 1} lines)\n")
    say(f"wrote {out}\nNext: fill in what is ASKED, then terareg check {shlex.quote(str(out))}\n")
