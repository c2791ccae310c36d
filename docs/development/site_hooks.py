"""What MkDocs shows: the repository's pages in their places, and a page of the API for every room.

Pages keep their paths in the repository, so that links between them are the same on a site, in an
editor and on a code host. Pages of the API are generated: a new module is there by itself.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "workflow/scripts/terareg"
#: pages and what they show or link to
SHOWN = (
    "*.md",
    "CITATION.cff",
    "LICENSE",
    "config/**/*.md",
    "config/**/*.yaml",
    "profiles/**/*.md",
    "profiles/**/*.json",
    "profiles/**/*.yaml",
    "docs/**/*.md",
    "docs/**/*.ipynb",
    "docs/**/*.png",
    "docs/**/*.svg",
)


def rooms() -> list[str]:
    """Packages of the library."""
    return sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py"))


def page_of(room: str) -> str:
    """Source of the API page of a room: what it is for, and all its modules."""
    purpose = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text()))
    parts = [f"# {room}", purpose]
    for path in sorted((LIBRARY / room).rglob("*.py")):
        if not path.stem.startswith("__"):
            name = ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
            parts.append(f"::: {name}")
    return "\n\n".join(parts) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API to the table of contents."""
    config.nav.append({"API": [{room: f"docs/api/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the theme, those of the repository in their places, and the API."""
    own = Files([file for file in files if file.src_dir != config.docs_dir])
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        own.append(File.generated(config, name, abs_src_path=str(path)))
    for room in rooms():
        own.append(File.generated(config, f"docs/api/{room}.md", content=page_of(room)))
    return own
