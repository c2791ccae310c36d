"""Fingerprint of the code that a rule runs (standard library only).

The fingerprint covers a script and every terareg module that it imports, directly or indirectly,
and ignores comments, docstrings and layout. In a rule's ``params`` it makes Snakemake run the rule
again when code that affects it has changed, and only then.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def code_fingerprint(script: str | Path) -> str:
    """Return 16 hexadecimal digits for ``script`` and the library modules it needs."""
    return _fingerprint(Path(script).resolve())


@cache
def _fingerprint(script: Path) -> str:
    digest = hashlib.sha256()
    # by name, not by path, so that the fingerprint does not depend on where the folders lie
    for path in sorted(files_behind(script), key=_name):
        digest.update(_name(path).encode() + b"\0" + _parsed(path)[0].encode() + b"\0")
    return digest.hexdigest()[:16]


def files_behind(script: str | Path) -> set[Path]:
    """The script and the files of all library modules that it imports, directly or indirectly."""
    seen: set[Path] = set()
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += _parsed(path)[1]
    return seen


def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name


@cache
def _parsed(path: Path) -> tuple[str, list[Path]]:
    """Normalised source of a file and the library files that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports += _files_of(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports += _files_of(node.module)
            for alias in node.names:
                imports += _files_of(f"{node.module}.{alias.name}")
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return dumped(tree), imports


def dumped(tree: ast.Module) -> str:
    """Text of a syntax tree, the same in Python 3.11 to 3.13.

    From 3.12 on definitions have type parameters, which the code here does not use, and from 3.13
    on what is empty is left out unless it is asked for.
    """
    if sys.version_info >= (3, 13):
        text = ast.dump(tree, show_empty=True)
    else:
        text = ast.dump(tree)
    return text.replace(", type_params=[]", "")


def _files_of(module: str) -> list[Path]:
    """Files of a terareg module (``__init__`` of its package holds no code); none of others."""
    parts = module.split(".")
    if parts[0] != "terareg":
        return []
    path = _ROOT.joinpath(*parts).with_suffix(".py")
    return [path] if path.is_file() else []
