"""report.html in a real browser: no errors, no requests, readable on a phone."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from terareg.views import report
from terareg.views.figures import intensity

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    (folder / "intensity" / "ch0").mkdir(parents=True)
    seams = {"before": 9, "after": 8, "noise": 3.9, "beyond": 7}
    info = {"method": "statistics", "seam_percent": seams, "a_long_key" * 9: 1}
    (folder / "intensity" / "ch0" / "flatfield.json").write_text(json.dumps(info))
    (folder / "views").mkdir()
    picture = intensity.flatfield_map(
        np.linspace(0.5, 1.5, 6000).reshape(60, 100), info, channel="ch0"
    )
    (folder / "views" / "flatfield_ch0.png").write_bytes(picture)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "fuse_blocks.tsv").write_text("s\tmax_rss\tcpu_time\n1\t2\t3\n")
    data = report.gather_report(folder, sample="brain", provenance={"config_hash": "f" * 64})
    report.write_report(folder / "report.html", data)
    return folder / "report.html"


@pytest.mark.parametrize("size", [(1200, 800), (360, 740)])
def test_it_opens_without_errors_requests_or_sideways_scrolling(chromium, page, size):
    value = """({
        images: [...document.images].map(i => i.complete && i.naturalWidth > 0),
        wide: document.documentElement.scrollWidth,
        first: document.querySelector("ul.verdicts > li").innerText,
        failed: getComputedStyle(document.querySelector("li.fail")).borderLeftColor,
    })"""
    visit = chromium.visit(page.as_uri(), value=value, size=size)
    assert visit.errors == []
    assert [r for r in visit.requests if not r.startswith("data:")] == [page.as_uri()]
    assert visit.value["images"] == [True]
    assert visit.value["wide"] <= size[0]
    assert visit.value["first"].startswith("✗ failed") and "7\u00a0%" in visit.value["first"]
    # the inline style was accepted by the page's own security policy
    assert visit.value["failed"] == "rgb(176, 42, 0)"
    colours = Image.open(io.BytesIO(visit.png)).convert("RGB").getcolors(1 << 24)
    assert len(colours) > 50


#: what the page has on paper: A4 without its margins, in pixels of 1/96 inch
PAPER = (703, 1031)
LAID_OUT = """(() => {
    const shown = [...document.querySelectorAll("table, td, th, caption, figure, img, p, li")]
        .filter(e => e.getClientRects().length);
    const cells = shown.filter(e => ["TD", "TH"].includes(e.tagName));
    return {
        beyond: shown.filter(e => e.getBoundingClientRect().right > innerWidth + 1
            || e.getBoundingClientRect().left < -1).map(e => e.tagName + " " + e.innerText),
        clipped: shown.filter(e => getComputedStyle(e).overflowX !== "visible"
            && e.scrollWidth > e.clientWidth + 1).map(e => e.tagName + " " + e.innerText),
        tables: shown.filter(e => e.tagName === "TABLE").length,
        points: Math.min(...cells.map(e => parseFloat(getComputedStyle(e).fontSize))) * 72 / 96,
        images: shown.filter(e => e.tagName === "IMG").every(e => e.naturalWidth > 0),
    };
})()"""


def test_printed_it_is_a_few_pages_with_readable_tables(chromium, finished):
    """The report of a whole run; a table that is too wide would be cut, or shrink the page."""
    page = finished.folder / "results/demo/report.html"
    visit = chromium.visit(page.as_uri(), value=LAID_OUT, size=PAPER, printed=True)
    assert visit.errors == []
    assert visit.value["beyond"] == visit.value["clipped"] == []
    assert visit.value["tables"] >= 2 and visit.value["points"] >= 7.5 and visit.value["images"]
    pages = len(re.findall(rb"/Type\s*/Page\b", visit.pdf))
    assert 3 <= pages < 12
