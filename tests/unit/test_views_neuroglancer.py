"""Neuroglancer state: physical places, both formats, links; serving: what a viewer asks for."""

import html
import http.client
import json
import shutil
import socket
import threading
from urllib.parse import unquote

import numpy as np
import pytest

from terareg.core.errors import ConfigError, StoreError
from terareg.core.frames import Frame
from terareg.core.orientation import all_orientations, opposite
from terareg.views import neuroglancer as ng
from terareg.views import serve

FRAME = Frame((20, 60, 80), (4.0, 1.5, 2.0), (8.0, 3.0, -2.0))
AFFINE = np.array([[0, 1.1, 0, 5], [0.9, 0, 0.1, -7], [0, 0.2, 1, 30], [0, 0, 0, 1.0]])


def image(name="ch0", form="precomputed", affine=None):
    source = ng.Source(f"brain/fused/{name}", form, FRAME, affine)
    return ng.image_layer(name, source, window=(10, 900))


def state_of(link):
    """What a viewer reads from a link."""
    return json.loads(unquote(link.split("#!", 1)[1]))


def source_to_um(transform, point):
    """Where a viewer shows a point of a source, micrometres, in the order of its dimensions."""
    matrix = np.array(transform["matrix"])
    scales, units = zip(*transform["outputDimensions"].values())
    assert set(units) == {"m"}
    return (matrix[:, :3] @ point + matrix[:, 3]) * scales * 1e6


def test_dimensions_are_metres_and_positions_voxels():
    state = ng.build_state([image()], FRAME)
    assert state["dimensions"] == {"x": [2e-6, "m"], "y": [1.5e-6, "m"], "z": [4e-6, "m"]}
    assert state["position"] == [39, 32, 12]


@pytest.mark.parametrize("affine", [None, AFFINE])
def test_a_voxel_of_a_precomputed_layer_lands_at_its_micrometres(affine):
    transform = image(affine=affine)["source"]["transform"]
    index = np.array([3, 7, 11])
    # Neuroglancer calls the middle of precomputed voxel i (in x, y, z) i + 1/2
    found = source_to_um(transform, index[::-1] + 0.5)[::-1]
    expected = FRAME.to_um(index)
    if affine is not None:
        expected = affine[:3, :3] @ expected + affine[:3, 3]
    assert np.allclose(found, expected, atol=1e-9)


def test_a_voxel_of_an_ome_zarr_layer_lands_at_its_micrometres():
    transform = image(form="ome-zarr", affine=AFFINE)["source"]["transform"]
    index = np.array([3, 7, 11])
    # source coordinates are z, y, x, voxel centres, and contain the translation of the metadata
    found = source_to_um(transform, FRAME.to_um(index) / np.array(FRAME.spacing_um))
    assert list(transform["outputDimensions"]) == ["z", "y", "x"]
    assert np.allclose(found, AFFINE[:3, :3] @ FRAME.to_um(index) + AFFINE[:3, 3])


def test_plain_ome_zarr_needs_no_transform():
    assert image(form="ome-zarr")["source"] == "zarr3://{store}/brain/fused/ch0/ome.zarr"


def test_points_are_in_micrometres_x_y_z():
    few = ng.some_points("mine", np.array([[1.5, 2, 3], [4, 5, 6]]))
    assert few["name"] == "points mine" and not few["visible"]
    assert [a["point"] for a in few["annotations"]] == [[3, 2, 1.5], [6, 5, 4]]
    many = ng.some_points("mine", np.arange(15000.0).reshape(-1, 3))
    assert many["name"] == "points mine (2000 of 5000)" and len(many["annotations"]) == 2000
    assert many["annotations"][-1]["id"] == "5000"
    layer = ng.point_layer("fiducials", {"bregma": (1.5, 2, 3)})
    assert layer["annotations"][0]["point"] == [3, 2, 1.5]
    assert layer["source"]["transform"]["outputDimensions"]["x"] == [1e-6, "m"]


def test_tile_boxes_are_the_outer_faces_of_the_tiles():
    boxes = ng.tile_boxes({"a": (2, 5, 7)}, (10, 20, 30), FRAME, offset_vox=(2, 0, 7))
    start, stop = boxes["a"]
    assert np.allclose(start, FRAME.to_um([-0.5, 4.5, -0.5]))
    assert np.allclose(stop, FRAME.to_um([9.5, 24.5, 29.5]))
    layer = ng.box_layer("tiles", boxes)
    assert layer["annotations"][0]["pointA"] == start[::-1]


def test_labels_select_segments_and_keep_large_ids():
    layer = ng.segmentation_layer(
        "allen", ng.Source("brain/labels/allen", "precomputed", FRAME),
        segments=[614454277, 315], colours={315: "#70ff71"},
    )  # fmt: skip
    assert layer["segments"] == ["614454277", "315"]
    assert layer["segmentColors"] == {"315": "#70ff71"}


def test_annotation_layers_come_first_because_of_a_fault_of_the_viewer():
    layers = [image("a"), ng.point_layer("p", {}), image("b"), ng.box_layer("t", {})]
    state = ng.build_state(layers, FRAME)
    assert [layer["name"] for layer in state["layers"]] == ["p", "t", "a", "b"]
    assert state["selectedLayer"]["layer"] == "a"


def test_link_round_trip_with_awkward_names():
    state = ng.build_state([image()], FRAME, title='brain "7" #1 é %20')
    state = ng.with_store(state, "http://127.0.0.1:80/a b")
    url = ng.link(state)
    assert " " not in url and url.startswith(ng.PUBLIC_VIEWER + "#!")
    assert state_of(url) == state


def test_store_address_is_put_in_and_buckets_are_mapped_to_their_server():
    state = ng.build_state([image()], FRAME)
    cdn = {"s3://lab": "https://a.example", "s3://lab/open": "https://b.example/"}
    for url, start in (
        ("s3://lab/open/x/", "precomputed://https://b.example/x/"),
        ("s3://lab/closed", "precomputed://https://a.example/closed/"),
        ("s3://laboratory", "precomputed://s3://laboratory/"),
    ):
        found = ng.with_store(state, url, cdn)["layers"][0]["source"]["url"]
        assert found == start + "brain/fused/ch0/precomputed"
    with pytest.raises(ConfigError, match="no store address yet"):
        ng.link(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ng.Source("a", "tiff", FRAME), "format 'tiff' cannot be shown"),
        (lambda: ng.Source("../a", "precomputed", FRAME), "would leave the store"),
        (lambda: ng.image_layer("c", image, window=(5, 5)), "window 5.0 to 5.0 is empty"),
        (lambda: ng.image_layer("c", image, window=(0, 5), colour="red"), "'red' is not"),
        (
            lambda: ng.build_state([image(), image()], FRAME),
            "the layers ch0, ch0 have the same name; rename one of",
        ),
        (lambda: serve.read_cdn(["s3://b"]), "is not START=ADDRESS"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        make()


# ---------------------------------------------------------------------- server
@pytest.fixture
def server(tmp_path):
    root = tmp_path / "store"
    (root / "a").mkdir(parents=True)
    (root / "a" / "data.bin").write_bytes(bytes(range(100)))
    (root / "a" / "packed.gz").write_bytes(b"gzipped")
    (tmp_path / "secret").write_text("no")
    (root / "link").symlink_to(tmp_path / "secret")
    server = serve.FolderServer(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=90-", 90, 100), ("bytes=-7", 93, 100), ("bytes=95-500", 95, 100),
     ("bytes=-500", 0, 100)],
)  # fmt: skip
def test_byte_ranges(server, wanted, start, stop):
    status, headers, body = ask(server, "/a/data.bin", Range=wanted)
    assert status == 206 and body == bytes(range(100))[start:stop]
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/100"
    assert headers["ETag"] == ask(server, "/a/data.bin", Range="bytes=0-3")[1]["ETag"]
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://neuroglancer-demo.appspot.com", True), ("http://localhost:8000", True),
     ("http://127.0.0.1:9999", True), ("https://example.org", False), ("null", False),
     ("http://[", False)],
)  # fmt: skip
def test_only_the_viewers_may_read(server, origin, allowed):
    status, headers, _ = ask(server, "/a/data.bin", Origin=origin)
    assert status == 200 and headers["Vary"] == "Origin"
    assert headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
    assert ("Access-Control-Allow-Private-Network" in headers) == allowed


@pytest.mark.slow
def test_another_name_of_this_address_is_refused(server):
    assert ask(server, "/a/data.bin", Host="example.org:80")[0] == 403
    assert ask(server, "/a/data.bin", Host="localhost:1234")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=9-3", "bytes=-", "bytes=-0", "lines=1-2"])
def test_ranges_without_bytes_are_refused(server, wanted):
    status, headers, _ = ask(server, "/a/data.bin", Range=wanted)
    assert status == 416 and headers["Content-Range"] == "bytes */100"


@pytest.mark.slow
def test_head_and_preflight(server):
    status, headers, body = ask(server, "/a/data.bin", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "100", b"")
    viewer = "https://neuroglancer-demo.appspot.com"
    status, headers, _ = ask(server, "/a/data.bin", "OPTIONS", Origin=viewer)
    assert status == 204 and "Range" in headers["Access-Control-Allow-Headers"]


@pytest.mark.slow
def test_packed_files_are_found_under_their_plain_name(server):
    status, headers, body = ask(server, "/a/packed")
    assert (status, headers["Content-Encoding"], body) == (200, "gzip", b"gzipped")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["/../secret", "/%2e%2e/secret", "/a/../../secret", "/link", "/a", "/none", "//etc/passwd",
     "/a%00b", "/v/terareg/../../../__init__.py"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_served(server, path):
    assert ask(server, path)[0] == 404


@pytest.mark.slow
def test_it_listens_on_the_loopback_address_only(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.slow
def test_the_first_page_lists_links_escaped(server):
    server.pages = [("<b>", "http://x/?a=1&b=2")]
    status, _, body = ask(server, "/")
    assert status == 200 and b"&lt;b&gt;" in body and b"a=1&amp;b=2" in body


@pytest.mark.slow
def test_short_links_lead_to_the_links(server):
    link = server.link(ng.build_state([image()], FRAME))
    server.pages = [("a", "http://x/#!1"), ("b", link)]
    names, short = zip(*server.short_links())
    assert names == ("a", "b") and max(map(len, short)) < 40 < len(link)
    status, _, body = ask(server, short[1].removeprefix(server.url))
    assert status == 200 and f'content="0; url={html.escape(link)}"' in body.decode()
    for number in ("0", "3", "x", "", "1/..", "-1"):
        assert ask(server, f"/open/{number}")[0] == 404


def test_command_names_a_missing_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        serve.main([str(tmp_path / "absent")])
    assert error.value.code == 1 and "is not a folder" in capsys.readouterr().err


@pytest.fixture
def viewed(tmp_path, monkeypatch, capsys):
    """What ``terareg view`` says before it serves: a store with one sample, of two volumes."""

    def stop(server, *arguments):
        shown = [state_of(link)["layers"][0]["source"]["url"] for _, link in server.pages]
        prefix = f"precomputed://{server.url}/"
        paths = [server.folder / url.removeprefix(prefix) for url in shown]
        assert all(path.is_dir() for path in paths), "the links lead to nothing"
        raise KeyboardInterrupt

    monkeypatch.setattr(serve.FolderServer, "serve_forever", stop)
    folder = tmp_path / "store/brain"
    for name in ("ch0", "ch1"):
        (folder / f"fused/{name}/precomputed").mkdir(parents=True)
    state = ng.build_state([image(), image("ch1")], FRAME)
    assert ng.keys_of(state) == [f"brain/fused/ch{n}/precomputed" for n in (0, 1)]
    (folder / "views").mkdir()
    (folder / "views/neuroglancer.json").write_text(json.dumps(state))

    def view(*arguments):
        assert serve.main([str(each) for each in arguments]) == 0
        return capsys.readouterr().out

    return folder, view


def test_the_folder_of_a_sample_is_shown_like_that_of_all(viewed):
    folder, view = viewed
    for given in (folder.parent, folder):
        told = view(given)
        assert f"serving {folder.parent} at" in told and "\nbrain\n  http" in told
        assert "absent" not in told


def test_volumes_that_are_not_there_are_told(viewed, tmp_path, capsys):
    folder, view = viewed
    (folder / "fused/ch1/precomputed").rmdir()
    assert "  1 of 2 volumes are absent: brain/fused/ch1/precomputed\n" in view(folder.parent)
    assert "no views/neuroglancer.json below" in view(folder / "fused")
    # a store elsewhere, and the folder of the small files
    shutil.move(folder / "fused", tmp_path / "big/brain/fused")
    assert "absent" in view(tmp_path / "big", "--state", folder / "views/neuroglancer.json")
    with pytest.raises(SystemExit) as error:
        serve.main([str(folder)])
    assert error.value.code == 1
    assert "such as brain/fused/ch0/precomputed; give the folder of" in capsys.readouterr().err


def test_command_makes_links_into_a_bucket(tmp_path, capsys):
    path = tmp_path / "neuroglancer.json"
    path.write_text(json.dumps(ng.build_state([image()], FRAME)))
    cdn = "s3://lab=https://a.example"
    assert serve.main(["s3://lab/x", "--state", str(path), "--cdn", cdn]) == 0
    link = capsys.readouterr().out.split()[-1]
    assert state_of(link)["layers"][0]["source"]["url"].startswith(
        "precomputed://https://a.example/x/"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["page.html", "picture.svg", "code.js", "style.css", "run.wasm"])
def test_what_lies_in_results_never_runs_in_the_origin_of_the_viewer(server, name):
    (server.folder / name).write_text("<script>alert(1)</script>")
    status, headers, body = ask(server, f"/{name}")
    assert status == 200 and body == b"<script>alert(1)</script>"
    policy = headers["Content-Security-Policy"].split("; ")
    assert "sandbox" in policy and "default-src 'none'" in policy
    assert not [part for part in policy if "allow-scripts" in part or part.startswith("script-src")]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    if name.endswith(("js", "css", "wasm")):
        assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.slow
def test_a_range_of_thousands_of_digits_is_refused(server):
    for wanted in ("bytes=" + "9" * 5000 + "-", "bytes=0-" + "9" * 5000, "bytes=-" + "9" * 5000):
        assert ask(server, "/a/data.bin", Range=wanted)[0] == 416


def test_half_a_request_does_not_hold_a_connection_for_ever(server, monkeypatch):
    monkeypatch.setattr(serve.Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(b"GET /a/data.bin HTTP/1.1\r\nHost: localhost\r\n")
        assert connection.recv(1) == b"", "closed by the server"


def test_cells_of_the_store_are_a_layer_that_nothing_moves():
    layer = ng.cell_layer("cells cfos", "brain/cells/cfos/annotations")
    state = ng.with_store(ng.build_state([layer], FRAME), "http://h:1/s")
    (shown,) = state["layers"]
    assert shown["source"] == "precomputed://http://h:1/s/brain/cells/cfos/annotations"
    assert shown["type"] == "annotation" and not shown["visible"]
    with pytest.raises(StoreError):
        ng.cell_layer("x", "../elsewhere")


@pytest.mark.parametrize("orientation", ["SAR", "PIL"])
def test_letters_stand_at_the_sides_that_they_name(orientation):
    frame = Frame((40, 60, 80), (4.0, 2.0, 2.0), (8.0, 3.0, -2.0), orientation)
    lines = ng.letter_lines(frame)
    low = frame.to_um(np.full(3, -0.5))
    high = low + frame.extent_um
    middle = frame.to_um(np.array([20, 30, 40]))
    words = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior",
             "I": "inferior"}  # fmt: skip
    found = {}
    for name, ends in lines.items():
        points = np.array(ends)
        assert (points >= low).all() and (points <= high).all()
        word, panel = name.split(",")[0], "zyx".index(name.split()[1])
        assert np.allclose(points[:, panel], middle[panel]), "in the plane that is shown first"
        found.setdefault(word, []).append(points.mean(0))
    assert set(found) == set(words.values())
    for axis, letter in enumerate(orientation):
        centre = np.mean(found[words[letter]], 0)
        assert centre[axis] > middle[axis] + 0.3 * (high - low)[axis]
        others = [a for a in range(3) if a != axis]
        assert np.abs(centre - middle)[others].max() < 0.1 * max(frame.extent_um)


@pytest.mark.parametrize("orientation", all_orientations())
def test_a_new_view_stands_upright_whatever_the_order_of_the_axes(orientation):
    """Where the first panel shows a step of the body is known from the viewer's own formula."""
    state = ng.build_state([image()], Frame((4, 5, 6), (3.0, 2.0, 1.0), orientation=orientation))
    x, y, z, w = turn = state["crossSectionOrientation"]
    assert turn == state["projectionOrientation"]
    # a quaternion turns directions of the panel (right, down, away) into those of the data
    turned = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    assert np.isclose(np.linalg.det(turned), 1), "the viewer cannot mirror"
    steps = {}
    for letter, place in zip(orientation, (2, 1, 0)):
        for sign, name in ((1, letter), (-1, opposite(letter))):
            step = np.zeros(3)
            step[place] = sign
            steps[name] = np.rint(turned.T @ step).tolist()
    assert steps["R"] == [1, 0, 0] and steps["S"] == [0, -1, 0]
    assert steps["A"] in ([0, 0, 1], [0, 0, -1])


@pytest.mark.parametrize("orientation", ["SAR", "PIL", "ILA", "ARI"])
def test_letters_are_upright_in_the_turned_panels(orientation):
    frame = Frame((40, 60, 80), (4.0, 2.0, 2.0), orientation=orientation)
    turn = ng.upright(orientation)[::-1]  # rows z, y, x
    strokes = np.array(list(ng.letter_lines(frame).values())) - frame.to_um(np.array([20, 30, 40]))
    names = list(ng.letter_lines(frame))
    # right of a panel, down of a panel, in terms of right, down, away of the first
    for right, down in (([1, 0, 0], [0, 1, 0]), ([1, 0, 0], [0, 0, 1]), ([0, 0, -1], [0, 1, 0])):
        axis = "zyx"[3 - sum(int(np.flatnonzero(turn @ d)[0]) for d in (right, down))]
        for word in ("left", "anterior"):
            lines = [s for s, n in zip(strokes, names) if n.startswith(f"{word}, {axis}")]
            if not lines:
                continue
            u, v = (np.array(lines) @ (turn @ np.array(d)) for d in (right, down))
            if word == "left":  # its foot runs to the right, and lies below
                assert u[1].max() == u.max() and v[1].min() == v.max()
            else:  # its bar lies between top and foot
                assert v.min() < v[2].min() == v[2].max() < v.max()


def test_a_layer_of_lines_keeps_their_ends_and_draws_no_dots():
    layer = ng.line_layer("orientation", {"right, z 0": ((1, 2, 3), (4, 5, 6))})
    (line,) = layer["annotations"]
    assert (line["type"], line["pointA"], line["pointB"]) == ("line", [3, 2, 1], [6, 5, 4])
    assert "setEndpointMarkerSize(0.0)" in layer["shader"]
