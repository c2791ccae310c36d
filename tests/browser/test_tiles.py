"""Exported tiles in a real browser: shown where they belong, from the disk, by one page."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from terareg.core.frames import Frame
from terareg.exports.settings import TILES, ExportSettings, Origin
from terareg.exports.tiles import write_tiles
from terareg.storage.store import Store
from terareg.volumes.images import OpenedImage

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", [(1000, 700), (400, 780)])
def test_the_page_shows_the_plane_and_asks_for_nothing_else(chromium, tmp_path, size):
    array = np.zeros((3, 600, 900), np.uint8)
    array[1, :300] = 255  # the upper half of the middle plane is white
    source = OpenedImage("v", [Frame(array.shape, (9.0, 3.0, 3.0), orientation="IPR")], [array])
    settings = ExportSettings(Origin("fused", channel="signal"), TILES)
    settings = replace(settings, planes=(0, 1), clip_percent=(0.0, 100.0))
    write_tiles(Store(str(tmp_path)), "brain", settings, source)
    visit = chromium.visit(
        (tmp_path / "brain/index.html").as_uri(),
        until="document.body.dataset.ready === 'yes'",
        value="({place: [left, upper, scale], state: document.getElementById('state').innerText})",
        size=size,
    )
    assert visit.errors == []
    assert all(request.startswith(tmp_path.as_uri()) for request in visit.requests)
    assert visit.value["state"] == "black 0, white 255"
    pixels = np.asarray(Image.open(io.BytesIO(visit.png)).convert("L"))
    left, upper, scale = visit.value["place"]
    for row, grey in ((150, 255), (450, 0)):
        at = round(upper + row * scale), round(left + 300 * scale)
        assert abs(int(pixels[at]) - grey) <= 3


def test_a_button_outlines_the_tiles_that_the_plane_goes_through(chromium, tmp_path):
    frame = Frame((4, 300, 400), (9.0, 3.0, 3.0), orientation="IPR")
    source = OpenedImage("v", [frame], [np.zeros(frame.shape, np.uint8)])
    settings = replace(ExportSettings(Origin("fused", channel="signal"), TILES), planes=(0, 3))
    boxes = {
        "T0": (frame.to_um(np.full(3, -0.5)), frame.to_um(np.array([1.5, 199.5, 249.5]))),
        "T1": (
            frame.to_um(np.array([-0.5, -0.5, 199.5])),
            frame.to_um(np.array([3.5, 150, 399.5])),
        ),
    }
    write_tiles(Store(str(tmp_path)), "brain", settings, source, boxes)
    for plane, expected in ((1, "1"), (0, "2")):
        visit = chromium.visit(
            (tmp_path / "brain/index.html").as_uri(),
            until="document.body.dataset.ready === 'yes'",
            value="(() => { plane = " + str(plane) + "; document.getElementById('tiles').click();"
            " return {place: [left, upper, scale], shown: document.body.dataset.outlines}; })()",
        )
        assert visit.errors == [] and visit.value["shown"] == expected
        pixels = np.asarray(Image.open(io.BytesIO(visit.png)).convert("RGB")).astype(int)
        left, upper, scale = visit.value["place"]
        # the lower edge of T0 is there on the first plane alone
        around = pixels[round(upper + 200 * scale) - 2 : round(upper + 200 * scale) + 3]
        blue = around[:, round(left + 60 * scale)].max(0)
        assert bool(blue[2] > 150) is (plane == 0)
