"""What a real browser shows of derived meshes and skeletons."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from terareg.core.frames import Frame
from terareg.derived.section import Entry
from terareg.derived.tools import make_tool, plan_of
from terareg.derived.view import Place, View
from terareg.storage.store import Store
from terareg.views import neuroglancer as ng
from terareg.views import serve
from terareg.volumes.reader import Levels

pytestmark = pytest.mark.browser

SHAPE, SPACING_UM, ORIGIN_UM = (60, 100, 120), (2.0, 1.0, 1.0), (500.0, -200.0, 300.0)
FRAME = Frame(SHAPE, SPACING_UM)
SECTION = {
    "formats": ["precomputed"], "codec": "none", "precomputed": "raw", "chunk": 16, "block": 32,
}  # fmt: skip
READY = """window.viewer && window.viewer.isReady() &&
  window.viewer.layerManager.managedLayers.every(l => l.isReady())"""
PANEL = """(() => { const r = document.querySelector(".neuroglancer-rendered-data-panel")
  .getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"""
BALL, TUBE = 7, 614454277


class Labels(Levels):
    """A ball of 30 um radius in the middle, and a tube across beside it, in memory."""

    def __init__(self):
        self.name, self.frames, self.dtype = "labels", (FRAME,), np.dtype(np.uint32)
        self.is_segmentation = True
        z, y, x = np.indices(SHAPE) * np.array(SPACING_UM)[:, None, None, None]
        self.array = np.zeros(SHAPE, np.uint32)
        self.array[np.hypot(np.hypot(z - 60, y - 50), x - 60) < 30] = BALL
        self.array[np.hypot(z - 60, y - 90) < 4] = TUBE

    def _read(self, level, start, stop):
        return self.array[tuple(slice(a, b) for a, b in zip(start, stop))]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if serve.client_folder() is None:
        pytest.skip("the viewer comes with the package neuroglancer, which is not installed")
    root = tmp_path_factory.mktemp("store")
    store = Store(str(root))
    for name, do, settings in (
        ("sharded", "mesh", {"error_nm": 500.0}),
        ("legacy", "mesh", {"error_nm": 500.0, "multiresolution": False}),
        ("files", "mesh", {"error_nm": 500.0, "sharded": False}),
        ("lines", "skeletonize", {"spur_um": 20.0}),
    ):
        entry = Entry(name, do, None, "labels", settings)
        place = Place(store, "brain", name)
        view = View(Labels(), 0, (0, 0, 0), SHAPE, "labels", (0, 0, 0), FRAME, place)
        tool = make_tool(view, entry)
        blocks = plan_of(tool, entry, SECTION, name).blocks()
        measured = tool.finish([tool.gather([tool.measure(block) for block in blocks])])
        where = store, f"{place.key}/{tool.folder}"
        tool.finish_objects([tool.write_objects(measured, where, range(tool.shards.count))], where)
    server = serve.FolderServer(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def look(chromium, server):
    """Function (folder, label, detail): which pixels of a view along z, 200 um high, are lit."""

    def picture(path, label, **options):
        name, folder = path.split("/")
        # the same labels elsewhere in space: the state moves what was made from them
        frame = Frame(SHAPE, SPACING_UM, ORIGIN_UM)
        source = ng.Source(f"brain/derived/{name}", "precomputed", frame)
        layer = ng.object_layer(
            "objects", source, folder, segments=[label], colours={label: "#ffffff"}
        )
        state = {
            "dimensions": {axis: [1e-6, "m"] for axis in "xyz"},
            "position": [60 + ORIGIN_UM[2], 50 + ORIGIN_UM[1], 60 + ORIGIN_UM[0]],
            "layers": [layer | {"visible": True, **options}],
            "layout": {"type": "3d", "orthographicProjection": True},
            "projectionScale": 200, "showSlices": False, "showAxisLines": False,
            "showScaleBar": False, "projectionBackgroundColor": "#000000",
            "showDefaultAnnotations": False,
        }  # fmt: skip
        state = ng.with_store(state, server.url)
        page = chromium.visit(server.link(state), until=READY, value=PANEL, size=(600, 500))
        left, top, across, down = (round(v) for v in page.value)
        pixels = np.asarray(Image.open(io.BytesIO(page.png)).convert("L")).astype(int)
        assert not [e for e in page.errors if "404" in e], page.errors
        # names of axes stand at the left
        panel = pixels[top : top + down, left + 30 : left + across - 30] > 60
        panel[:30] = False
        return panel, down / 200, (across / 2 - 30, down / 2)

    return picture


@pytest.mark.parametrize("folder", ["sharded/mesh", "files/mesh", "legacy/mesh"])
def test_a_ball_is_shown_in_its_place_and_size(look, folder):
    lit, scale, (x, y) = look(folder, BALL)
    assert lit.sum() == pytest.approx(np.pi * (30 * scale) ** 2, rel=0.06)
    rows, columns = np.nonzero(lit)
    assert abs(columns.mean() - x) < scale and abs(rows.mean() - y) < scale


def test_coarse_details_have_the_same_outline(look):
    lit, scale, _ = look("sharded/mesh", BALL, meshRenderScale=10000)
    assert lit.sum() == pytest.approx(np.pi * (30 * scale) ** 2, rel=0.1)


def test_a_skeleton_is_a_line_along_its_tube(look):
    lit, scale, (_, y) = look(
        "lines/skeletons", TUBE, skeletonRendering={"mode3d": "lines", "lineWidth3d": 3}
    )
    rows, columns = np.nonzero(lit)
    assert columns.max() - columns.min() == pytest.approx(119 * scale, rel=0.05)
    assert abs(rows.mean() - (y + 40.5 * scale)) < 2 * scale
