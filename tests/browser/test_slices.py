"""The slice browser in a real browser: no errors, no requests, the right voxels, keys and names."""

import io

import numpy as np
import pytest
from PIL import Image

from terareg.core.frames import Frame
from terareg.views.slices import Sample, slices_page

pytestmark = pytest.mark.browser

FRAME = Frame((8, 20, 30), (20.0, 20.0, 20.0), (0, 0, 0), "ILA")
READY = "document.body.dataset.ready === 'yes'"
STATE = """(() => { const c = document.getElementById("picture"); return {
  axis: c.dataset.axis, slice: c.dataset.slice, wide: document.documentElement.scrollWidth,
  where: document.getElementById("where").textContent,
  region: document.getElementById("region").textContent }; })()"""


def press(key):
    return f'document.dispatchEvent(new KeyboardEvent("keydown", {{key: "{key}"}}));'


def voxels(rows, columns):
    """JavaScript for the grey in the middle of every voxel of the slice that is shown."""
    return f"""(() => {{ const c = document.getElementById("picture"), p = c.getContext("2d");
      const d = p.getImageData(0, 0, c.width, c.height).data, found = [];
      for (let i = 0; i < {rows}; i++) for (let j = 0; j < {columns}; j++) {{
        const y = Math.floor((i + .5) * c.height / {rows});
        const x = Math.floor((j + .5) * c.width / {columns});
        found.push(Array.from(d.slice(4 * (y * c.width + x), 4 * (y * c.width + x) + 3)));
      }} return found; }})()"""


def shown(plane):
    """A plane across z as an atlas shows it: y and x of ILA are exchanged and reversed."""
    return plane.T[::-1, ::-1]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(2).integers(0, 256, FRAME.shape).astype(np.float32)


@pytest.fixture(scope="module")
def page(tmp_path_factory, image):
    labels = np.zeros(FRAME.shape, np.uint32)
    labels[:, 5:15, 10:20] = 614454277
    missing = np.zeros(FRAME.shape, np.float32)
    missing[4] = 1
    damage = {"missing": missing, "artefact": missing * 0}
    sample = Sample(image, labels, FRAME, (0, 255), {614454277: "CA1, Field CA1"})
    path = tmp_path_factory.mktemp("slices") / "slices.html"
    path.write_text(slices_page("brain", sample, damage, FRAME), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [(1200, 800), (360, 740)])
def test_it_opens_without_errors_requests_or_sideways_scrolling(chromium, page, size):
    visit = chromium.visit(page.as_uri(), until=READY, value=STATE, size=size)
    assert visit.errors == []
    assert [r for r in visit.requests if not r.startswith("data:")] == [page.as_uri()]
    assert visit.value["wide"] <= size[0]
    # the coronal plane first, in the middle
    assert (visit.value["axis"], visit.value["slice"]) == ("1", "15")
    assert visit.value["where"] == "coronal, slice 16 of 30, 0.30 mm from the anterior end"
    assert len(Image.open(io.BytesIO(visit.png)).convert("RGB").getcolors(1 << 24)) > 50


def test_every_voxel_is_shown_and_keys_move(chromium, page, image):
    keys = "".join(map(press, ("3", "ArrowRight", "PageDown", "ArrowUp", "ArrowUp", "b")))
    value = f"(() => {{ {keys} return {voxels(30, 20)}; }})()"
    visit = chromium.visit(page.as_uri(), until=READY, value=value)
    assert visit.errors == []
    found = np.array(visit.value).reshape(30, 20, 3)
    # from slice 4 one on, ten back to the first, then two on; letters and bar lie at the edges
    inner = np.s_[4:26, 4:16]
    assert np.abs(found[inner] - shown(image[2])[inner][..., None]).max() <= 1


def test_damage_is_coloured_where_it_is(chromium, page, image):
    keys = "".join(map(press, ("3", "b", "m")))
    value = f"(() => {{ {keys} return {voxels(30, 20)}; }})()"
    blue = np.array(chromium.visit(page.as_uri(), until=READY, value=value).value)
    inner = np.s_[4:26, 4:16]
    wanted = 0.35 * shown(image[4])[..., None] + 0.65 * np.array([86, 180, 233])
    assert np.abs(blue.reshape(30, 20, 3)[inner] - wanted[inner]).max() <= 3


def test_borders_are_drawn_and_regions_named_under_the_pointer(chromium, page):
    point = """(() => { KEYS const c = document.getElementById("picture");
      const b = c.getBoundingClientRect(), s = Math.min(b.width / c.width, b.height / c.height);
      const at = (x, y) => c.dispatchEvent(new PointerEvent("pointermove", {
        clientX: b.left + (b.width - s * c.width) / 2 + x * s * c.width,
        clientY: b.top + (b.height - s * c.height) / 2 + y * s * c.height }));
      const name = () => document.getElementById("region").textContent;
      at(.5, .5); const inside = name(); at(.1, .5); const outside = name();
      const p = c.getContext("2d").getImageData(0, Math.floor(.52 * c.height), c.width, 1).data;
      const orange = [];
      for (let x = 0; x < c.width; x++)
        if (p[4 * x] - p[4 * x + 2] > 80)
          orange.push(x / c.width);
      return [inside, outside, orange]; })()"""
    point = point.replace("KEYS", press("3"))
    visit = chromium.visit(page.as_uri(), until=READY, value=point)
    inside, outside, orange = visit.value
    assert inside == "CA1, Field CA1" and outside == ""
    for border in (5 / 20, 15 / 20):
        assert min(abs(x - border) for x in orange) < 0.005
