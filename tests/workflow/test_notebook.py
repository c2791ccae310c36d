"""The notebook is that of its page, and a kernel of Jupyter runs it as a whole."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image
from workspaces import ROOT

sys.path.insert(0, str(ROOT / "docs/development"))

import make_notebook


def test_the_notebook_is_that_of_its_page_and_has_no_output():
    page = make_notebook.PAGE.read_text(encoding="utf-8")
    text = make_notebook.NOTEBOOK.read_text(encoding="utf-8")
    assert text == make_notebook.notebook(page), "docs/volumes.ipynb is not current: run make docs"
    assert "\n".join(make_notebook.code_of(page)).count("volume.") > 8
    assert len(text) < 20_000 and '"outputs": [{' not in text


@pytest.mark.slow
def test_a_kernel_runs_the_notebook(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # the kernel chooses how pictures come into the notebook
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(make_notebook.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path)}}
    done = nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "0 (60, 96, 80) (5.0, 4.0, 4.0)" in printed
    assert "1 (30, 48, 40) (10.0, 8.0, 8.0)" in printed
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 1
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))).convert("L"))
    assert pixels.std() > 20, "a picture of something"
    assert list(tmp_path.rglob("middle.png")), "in the folder that the notebook made"
