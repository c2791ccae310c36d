"""The site of the documentation is built without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from workspaces import ROOT

MKDOCS = ROOT / ".venv-docs/bin/mkdocs"
LIBRARY = ROOT / "workflow/scripts/terareg"
#: every request for an address ends here, where nobody listens
NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "127.0.0.1:9")

pytestmark = pytest.mark.skipif(
    not MKDOCS.exists(), reason="the tools of the site are not installed (make .venv-docs/ready)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", folder],
        cwd=ROOT, text=True, capture_output=True, env={**os.environ, **NOWHERE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_of_the_library_is_in_the_api(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in site.glob("docs/api/*.html"))
    for path in LIBRARY.rglob("*.py"):
        name = ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
        if not path.stem.startswith("__"):
            assert f'id="{name}"' in pages, name


def test_docstrings_become_tables_of_parameters(site):
    page = (site / "docs/api/core.html").read_text(encoding="utf-8")
    section = page[page.index('id="terareg.core.blas.pin_kernels"') :]
    section = section[: section.index('id="terareg.core.cost"')]
    assert re.search(r"Parameters:.*<code>environment</code>", section, re.DOTALL)


def test_pages_load_nothing_from_elsewhere(site):
    loading = re.compile(
        r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]+"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        # Internet Explorer before version 9 alone reads what is in such comments
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert loading.findall(text) == [], page.name


def test_lists_become_lists(site):
    """A host of code is lenient about lists, the site's Markdown is not."""
    for page in set(site.rglob("*.html")) - set(site.glob("docs/api/*")):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"^ *(?:[-*] |\d+\. )", paragraph, re.MULTILINE), page.name
