"""Make the notebook ``docs/volumes.ipynb`` of the code in ``docs/python.md``.

    python docs/development/make_notebook.py

The page is the source of both; the notebook has a small generated volume before it. ``make docs``
runs it; a test says when the notebook is not that of the page, and another one runs it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
PAGE, NOTEBOOK = DOCS / "python.md", DOCS / "volumes.ipynb"
_CODE = re.compile(r"```python\n(.*?)```\n", re.DOTALL)
_BEFORE = """\
First a small volume, in a folder of its own, in place of one that a run has made. With results of
your own leave this cell out, and name your volume in the next one."""
_MAKE = '''\
import os
import tempfile

import numpy as np

from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

os.chdir(tempfile.mkdtemp())
frame = Frame((60, 96, 80), (5.0, 4.0, 4.0), orientation="RIP")
z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in frame.shape), indexing="ij")
inside = (z / 0.8) ** 2 + (y / 0.9) ** 2 + (x / 0.7) ** 2 < 1
values = np.where(inside, 600 + 300 * np.cos(9 * y) * np.cos(7 * x), 100).astype(np.uint16)

store, key = Store("results"), "brain/fused/signal"
plan = make_plan("signal", frame, "uint16", VolumeSettings(chunk=16, block=32))


def block_of(block):
    """Voxels of a block, of which none is clipped."""
    return values[tuple(map(slice, block.start, block.stop))].copy(), Clipped()


init_volume(store, key, plan)
write_blocks(store, key, plan, plan.blocks(), block_of, fingerprint="notebook")
finish_pyramid(store, key, plan)'''
_AFTER = "What else can be opened, and where: [python.md](python.md)."


def code_of(page: str) -> list[str]:
    """The code of a page, block by block."""
    return [block.rstrip("\n") for block in _CODE.findall(page)]


def notebook(page: str) -> str:
    """The notebook of a page, without output."""
    first, *rest = _CODE.split(page)
    cells = [("markdown", first), ("markdown", _BEFORE), ("code", _MAKE)]
    # texts between blocks, without the one behind the last
    kinds = ["code", "markdown"] * len(rest)
    cells += list(zip(kinds, rest))[:-1]
    cells.append(("markdown", _AFTER))
    content = {
        "cells": [_cell(n, kind, text.strip("\n")) for n, (kind, text) in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
