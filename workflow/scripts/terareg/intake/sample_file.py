"""The sample file for what was recognised: YAML with comments that tell values from guesses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml

from terareg.intake.found import Found

_ORIENTATION = (
    "three letters for z (planes), y (rows), x (columns), each the anatomical direction in which "
    "the index increases: R or L, A or P, S or I (config/README.md shows how to find them)"
)
_WIDTH = 100
_DIGITS = 7


def sample_name(address: str, name: str | None = None) -> str:
    """Name of a brain, made of that of its folder unless one is given."""
    last = PurePosixPath(address.rstrip("/")).name or "brain"
    words = re.sub(r"[^A-Za-z0-9_-]+", "_", name or last.split(".")[0]).strip("_-")
    return words or "brain"


def sample_text(found: Found, name: str, atlas: str) -> str:
    """Text of the sample file.

    Parameters
    ----------
    found : Found
    name : str
        Of the brain.
    atlas : str
        Of a BrainGlobe atlas.
    """
    lines = [
        *_comment(f"Written by terareg init: {found.title}."),
        *(line for why in found.why for line in _comment(f"Seen: {why}.")),
        *_comment(
            "ASKED marks what only you can fill in, GUESS what was inferred; terareg check names "
            "what is missing, and config/README.md lists all keys."
        ),
        f"sample: {_flow(name)}",
        "",
        "input:",
    ]
    for key, value in found.source.items():
        lines += _entry(found, key, value)
    lines += _entry(found, "orientation", None)
    lines += [
        "",
        *_comment("where volumes are written: a folder with enough space, or s3://bucket/prefix"),
        "store: results",
        "",
        *_comment(
            "GUESS: the atlas; terareg atlas list shows others, terareg atlas get installs them"
        ),
        "atlases:",
        f"  {re.sub(r'[^A-Za-z0-9_-]+', '_', atlas)}: {{name: {_flow(atlas)}}}",
    ]
    return "\n".join(lines) + "\n"


def _entry(found: Found, key: str, value: Any) -> Iterator[str]:
    asked = _ORIENTATION if key == "orientation" else found.asked.get(key)
    note = found.notes.get(key)
    if asked is not None:
        yield from _comment(f"ASKED: {asked}" + (f"; {note}" if note else ""), "  ")
    elif key in found.guesses:
        yield from _comment(f"GUESS: {found.guesses[key]}", "  ")
    elif note is not None:
        yield from _comment(note, "  ")
    if key == "spacing_um" and value is not None:
        # digits that another unit has left behind
        value = [float(f"{v:.{_DIGITS}g}") for v in value]
    text = "" if value is None else f" {_flow(value)}"
    if isinstance(value, dict) and len(text) > _WIDTH - 15:
        yield f"  {key}:"
        for name, part in value.items():
            yield f"    {_flow(name)}: {_flow(part)}"
    else:
        yield f"  {key}:{text}"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True
    )
    return text.strip().removesuffix("...").strip()


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """Lines of a comment."""
    line = f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            yield line
            line = f"{indent}#"
        line += f" {word}"
    yield line
