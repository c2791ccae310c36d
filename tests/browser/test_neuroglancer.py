"""What a real browser shows of our volumes, through our server, by our state and link."""

import io
import json
import threading

import numpy as np
import pytest
import tensorstore as ts
from PIL import Image

from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.storage.store import Store
from terareg.views import neuroglancer as ng
from terareg.views import serve
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import init_volume, write_blocks

pytestmark = pytest.mark.browser

SHAPE = (12, 90, 110)
SPACING_UM = (4.0, 2.0, 2.0)
# a view of it is not turned
FRAME = Frame(SHAPE, SPACING_UM, orientation="AIR")
TOP = 255 * 16
READY = """window.viewer && window.viewer.isReady() &&
  window.viewer.layerManager.managedLayers.every(l => l.isReady())"""
PANEL = """(() => { const r = document.querySelector(".neuroglancer-rendered-data-panel")
  .getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"""


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(3)
    # multiples of 16 over a range of 4080: every voxel is an exact grey level
    return (rng.integers(0, 256, SHAPE) * 16).astype(np.uint16)


@pytest.fixture(scope="module")
def server(tmp_path_factory, volume):
    if serve.client_folder() is None:
        pytest.skip("the viewer comes with the package neuroglancer, which is not installed")
    root = tmp_path_factory.mktemp("store")
    write_precomputed(root / "brain/fused/ch0/precomputed", volume)
    write_ome_zarr(root / "brain/fused/ch0/ome.zarr", volume)
    write_ome_zarr_04(root / "brain/derived/ch0/ome.zarr", volume)
    write_jpegxl(root, "narrow", (volume // 16).astype(np.uint8))
    labels = np.zeros(SHAPE, np.uint32)
    labels[:, 20:50, 30:80] = 614454277
    write_precomputed(root / "brain/labels/atlas/precomputed", labels)
    server = serve.FolderServer(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def write_precomputed(folder, array):
    segmentation = array.dtype == np.uint32
    scale = {
        "key": "0", "size": array.shape[::-1], "voxel_offset": [0, 0, 0],
        "resolution": [s * 1000 for s in SPACING_UM[::-1]], "chunk_size": [64, 64, 64],
        "encoding": "compressed_segmentation" if segmentation else "raw",
        "sharding": {
            "@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 2,
            "minishard_bits": 0, "shard_bits": 0, "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        },
    }  # fmt: skip
    if segmentation:
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    store = ts.open(
        {
            "driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "create": True,
            "multiscale_metadata": {
                "type": "segmentation" if segmentation else "image",
                "data_type": array.dtype.name, "num_channels": 1,
            },
            "scale_metadata": scale,
        }
    ).result()  # fmt: skip
    store[..., 0].write(array.T).result()


def write_jpegxl(root, name, array):
    """A volume as this program writes it."""
    settings = VolumeSettings(
        chunk=16, block=32, formats=("precomputed",), encoding="jpegxl", levels=1
    )
    plan = make_plan(name, FRAME, array.dtype.name, settings)
    store, key = Store(str(root)), f"brain/derived/{name}"
    init_volume(store, key, plan)
    write_blocks(
        store, key, plan, plan.blocks(),
        lambda b: (array[tuple(map(slice, b.start, b.stop))].copy(), Clipped()), fingerprint="f",
    )  # fmt: skip


def write_ome_zarr(folder, array):
    store = ts.open(
        {
            "driver": "zarr3", "kvstore": f"file://{folder}/0/", "create": True,
            "metadata": {
                "shape": array.shape, "data_type": array.dtype.name,
                "dimension_names": ["z", "y", "x"],
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 128, 128]}},
                "codecs": [{"name": "sharding_indexed", "configuration": {
                    "chunk_shape": [64, 64, 64],
                    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}},
                               {"name": "blosc", "configuration": {
                                   "cname": "zstd", "clevel": 1, "shuffle": "bitshuffle",
                                   "typesize": array.itemsize}}]}}],
            },
        }
    ).result()  # fmt: skip
    store.write(array).result()
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale()]}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(group))


def write_ome_zarr_04(folder, array):
    metadata = {
        "shape": array.shape, "dtype": array.dtype.str, "chunks": [64, 64, 64],
        "dimension_separator": "/", "compressor": {"id": "zstd", "level": 1},
    }  # fmt: skip
    spec = {"driver": "zarr", "kvstore": f"file://{folder}/0/", "metadata": metadata}
    ts.open(spec | {"create": True}).result().write(array).result()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / "0/.zattrs").write_text('{"_ARRAY_DIMENSIONS": ["z", "y", "x"]}')
    attributes = {"multiscales": [multiscale() | {"version": "0.4"}]}
    (folder / ".zattrs").write_text(json.dumps(attributes))


def multiscale():
    """Metadata of OME-Zarr, which the versions have in common."""
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    steps = [
        {"type": "scale", "scale": list(SPACING_UM)},
        {"type": "translation", "translation": [0.0, 0.0, 0.0]},
    ]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    return {"name": "ch0", "axes": axes, "datasets": datasets}


@pytest.fixture(scope="module")
def look(chromium, server):
    """Function (layers, z): picture of one plane, a pixel per voxel, cut to the volume; visit."""
    height, width = SHAPE[1:]
    # voxel borders must lie on pixel borders: an odd difference to the panel leaves half a pixel
    shift = [0.0, 0.0]

    def visit(layers, z):
        state = ng.build_state(layers, FRAME, layout="xy")
        state |= {
            "position": [width / 2 - 0.5 + shift[1], height / 2 - 0.5 + shift[0], z],
            "crossSectionScale": 1, "showAxisLines": False, "showScaleBar": False,
        }  # fmt: skip
        server.pages = [("volume", server.link(state))]
        ((_, short),) = server.short_links()
        return chromium.visit(short, until=READY, value=PANEL, size=(600, 500))

    _, _, across, down = visit([layer("ome-zarr")], 0).value
    shift[:] = (down - height) % 2 / 2, (across - width) % 2 / 2

    def picture(layers, z):
        page = visit(layers, z)
        left, top, across, down = page.value
        pixels = np.asarray(Image.open(io.BytesIO(page.png)).convert("RGB"))
        x = round(left + across / 2 - width / 2 - shift[1])
        y = round(top + down / 2 - height / 2 - shift[0])
        return pixels[y : y + height, x : x + width].astype(int), page

    return picture


def layer(form, affine=None, **options):
    folder = "brain/derived/ch0" if form == "ome-zarr-0.4" else "brain/fused/ch0"
    source = ng.Source(folder, form, FRAME, affine)
    return ng.image_layer("ch0", source, window=(0, TOP), **options)


def test_jpegxl_shows_every_voxel(look, volume):
    source = ng.Source("brain/derived/narrow", "precomputed", FRAME)
    picture, visit = look([ng.image_layer("xl", source, window=(0, 255))], 7)
    expected = np.repeat((volume[7] / 16)[..., None], 3, axis=2)
    assert np.abs(picture - expected).max() <= 0.5, visit.errors


@pytest.mark.parametrize("z", [0, 7])
@pytest.mark.parametrize("form", ng.FORMATS)
def test_every_pixel_is_the_voxel(look, volume, form, z):
    picture, visit = look([layer(form)], z)
    expected = np.repeat((volume[z] / 16)[..., None], 3, axis=2)
    assert np.abs(picture - expected).max() <= 0.5
    # of Zarr 2 the viewer asks first whether the group is an array
    probe = "ome.zarr/.zarray"
    assert not [e for e in visit.errors if "404" in e and probe not in e], visit.errors


def test_nothing_is_fetched_from_elsewhere(look, server):
    _, visit = look([layer("precomputed")], 3)
    outside = [r for r in visit.requests if not r.startswith((server.url, "blob:", "data:"))]
    assert outside == []


def test_both_formats_lie_exactly_on_one_another(look, volume):
    """Red from OME-Zarr plus cyan from precomputed gives grey where, and only where, they agree."""
    red, cyan = (
        layer(form, colour=colour) | {"name": form}
        for form, colour in (("ome-zarr", "#ff0000"), ("precomputed", "#00ffff"))
    )
    picture, _ = look([red, cyan], 5)
    expected = np.repeat((volume[5] / 16)[..., None], 3, axis=2)
    assert np.abs(picture - expected).max() <= 0.5


@pytest.mark.parametrize("form", ng.FORMATS)
def test_an_affine_moves_all_formats_the_same_way(look, volume, form):
    """Turn by 90 degrees in the plane and shift by whole voxels: pixels are known exactly."""
    affine = np.array([[1, 0, 0, 8.0], [0, 0, 1, -20.0], [0, 1, 0, 30.0], [0, 0, 0, 1]])
    picture, _ = look([layer(form, affine)], 7)
    expected = np.zeros(SHAPE[1:])
    # y' = x - 10, x' = y + 15, z' = z + 2, in voxels
    turned = volume[5].T[10:] / 16
    part = expected[:, 15 : 15 + turned.shape[1]]
    part[:] = turned[: part.shape[0], : part.shape[1]]
    assert np.abs(picture - expected[..., None]).max() <= 0.5


def test_labels_points_and_boxes_lie_where_they_should(look):
    labels = ng.segmentation_layer(
        "atlas", ng.Source("brain/labels/atlas", "precomputed", FRAME),
        segments=[614454277], colours={614454277: "#00ff00"},
    ) | {"selectedAlpha": 1}  # fmt: skip
    picture, _ = look([labels], 5)
    green = picture[..., 1] > 128
    expected = np.zeros(SHAPE[1:], bool)
    expected[20:50, 30:80] = True
    assert np.array_equal(green, expected)

    points = ng.point_layer("marks", {"a": FRAME.to_um([5, 60, 25])}, colour="#ff0000")
    picture, _ = look([layer("ome-zarr", colour="#000000"), points], 5)
    rows, columns = np.nonzero(picture[..., 0] > 128)
    assert abs(rows.mean() - 60) < 1 and abs(columns.mean() - 25) < 1

    box = ng.tile_boxes({"t": (0, 10, 20)}, (12, 40, 60), FRAME)
    boxes = ng.box_layer("tiles", box, colour="#ff0000", visible=True)
    picture, _ = look([layer("ome-zarr", colour="#000000"), boxes], 5)
    rows, columns = np.nonzero(picture[..., 0] > 128)
    assert abs(rows.min() - 10) <= 1 and abs(rows.max() - 49) <= 1
    assert abs(columns.min() - 20) <= 1 and abs(columns.max() - 79) <= 1


@pytest.mark.parametrize("orientation", ["SAR", "ILA"])
def test_a_brain_stands_upright_in_every_panel(chromium, server, orientation):
    """The octant right, superior and anterior is bright: where do the panels show it?"""
    array = np.zeros((40, 40, 40), np.uint16)
    array[tuple(slice(18, None) if letter in "RSA" else slice(0, 22) for letter in orientation)] = (
        TOP
    )
    frame = Frame(array.shape, SPACING_UM, orientation=orientation)
    write_precomputed(server.folder / f"octant/{orientation}/precomputed", array)
    source = ng.Source(f"octant/{orientation}", "precomputed", frame)
    state = ng.build_state([ng.image_layer("octant", source, window=(0, TOP))], frame)
    state |= {"showAxisLines": False, "showScaleBar": False}
    turn = ng.upright(orientation)
    anterior = next(i for i, letter in enumerate(orientation[::-1]) if letter in "AP")
    into = turn[anterior, 2] * (1 if "A" in orientation else -1)
    # across, down: right is 1, 0; superior 0, -1; anterior is away in the coronal panel
    wanted = {"xy": (1, -1), "xz": (1, into), "yz": (-into, -1)}
    for layout, (across, down) in wanted.items():
        server.pages = [("octant", server.link(state | {"layout": layout}))]
        ((_, short),) = server.short_links()
        page = chromium.visit(short, until=READY, value=PANEL, size=(600, 500))
        left, top, width, height = page.value
        pixels = np.asarray(Image.open(io.BytesIO(page.png)).convert("L")).astype(int)
        inside = pixels[int(top) : int(top + height), int(left) : int(left + width)]
        rows, columns = np.nonzero(inside > 200)
        assert len(rows) > 1000
        assert np.sign(columns.mean() - width / 2) == across, layout
        assert np.sign(rows.mean() - height / 2) == down, layout
