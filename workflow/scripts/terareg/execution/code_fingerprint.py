"""Fingerprint of the code that a rule runs (standard library only).

The fingerprint covers a script and every terareg module that it imports, directly or indirectly,
and ignores comments, docstrings and layout. In a rule's ``params`` it makes Snakemake run the rule
again when code that affects it has changed, and only then.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def code_fingerprint(script: str | Path) -> str:
    """Return 16 hexadecimal digits for ``script`` and the library modules it needs."""
    return _fingerprint(Path(script).resolve())


@cache
def _fingerprint(script: Path) -> str:
    digest = hashlib.sha256()
    # by name, not by path, so that the fingerprint does not depend on where the folders lie
    for path in sorted(files_behind(script), key=_name):
        digest.update(_name(path).encode() + b"\0")
        digest.update(_parsed(path)[0])
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


@cache
def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name


@cache
def _parsed(path: Path) -> tuple[bytes, list[Path]]:
    """Normalised source of a file, with a zero at its end, and the library files it imports."""
    imports: list[ast.Import | ast.ImportFrom] = []
    text = dumped(ast.parse(path.read_text(encoding="utf-8")), imports)
    return text.encode() + b"\0", [file for node in imports for file in _imported(node)]


def dumped(tree: ast.Module, imports: list[ast.Import | ast.ImportFrom] | None = None) -> str:
    """Text of a syntax tree without its docstrings, the same in Python 3.11 to 3.13.

    It is what ``ast.dump`` of Python 3.11 writes. From 3.12 on definitions have type parameters,
    which the code here does not use, and from 3.13 on ``ast.dump`` leaves out what is empty.
    The docstrings are taken from the tree.

    Parameters
    ----------
    tree : ast.Module
    imports : list, optional
        Imports of the tree are added to it.
    """
    return _text(tree, [] if imports is None else imports).replace(", type_params=[]", "")


def _text(node: Any, imports: list[ast.Import | ast.ImportFrom]) -> str:
    """Text of a node, of a list of nodes, or of a value that a node holds.

    Every start of the workflow writes that of the whole library: what there is most of comes first.
    """
    kind = type(node)
    if kind is str:
        return repr(node)
    if kind is ast.Name:
        return f"Name(id={node.id!r}, ctx={type(node.ctx).__name__}())"
    if kind is list:
        return f"[{', '.join([_text(item, imports) for item in node])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    elif isinstance(node, ast.Import | ast.ImportFrom):
        imports.append(node)
    if kind not in _FIELDS:
        _FIELDS[kind] = [(name, getattr(kind, name, ...) is None) for name in kind._fields]
    values = [
        f"{name}={_text(value, imports)}"
        for name, optional in _FIELDS[kind]
        if (value := getattr(node, name)) is not None or not optional
    ]
    return f"{kind.__name__}({', '.join(values)})"


#: names of a node's parts, and whether one that is None is left out
_FIELDS: dict[type[ast.AST], list[tuple[str, bool]]] = {}


def _imported(node: ast.Import | ast.ImportFrom) -> list[Path]:
    """Library files that an import names."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.module and node.level == 0:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [file for name in names for file in _files_of(name)]


def _files_of(module: str) -> list[Path]:
    """Files of a terareg module (``__init__`` of its package holds no code); none of others."""
    parts = module.split(".")
    if parts[0] != "terareg":
        return []
    path = _ROOT.joinpath(*parts).with_suffix(".py")
    return [path] if path.is_file() else []
