"""The slice browser's page: its data come back, it is small, and only its script may run."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest

from terareg.core.errors import VolumeError
from terareg.core.frames import Frame
from terareg.views.slices import Sample, slices_page, smallest_fitting

FRAME = Frame((6, 20, 30), (50.0, 20.0, 20.0), (10.0, 0.0, 0.0), "ILA")
COARSE = Frame((3, 5, 6), (100.0, 80.0, 100.0), (35.0, 30.0, 40.0), "ILA")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 1200, FRAME.shape).astype(np.float32)
LABELS = np.zeros(FRAME.shape, np.uint32)
LABELS[:, 4:16, 5:25], LABELS[:, 8:12, 8:20] = 614454277, 3
NAMES = {614454277: "BIG, </script> of \u2028 all", 3: "S, small"}
DAMAGE = {name: RNG.random(COARSE.shape).astype(np.float32) for name in ("missing", "artefact")}


@pytest.fixture(scope="module")
def page():
    sample = Sample(IMAGE, LABELS, FRAME, (100.0, 1100.0), NAMES)
    return slices_page("brain <7>, mouse", sample, DAMAGE, COARSE)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def stored(shown):
    """An array of the page in the order of :data:`FRAME`."""
    return shown.transpose(0, 2, 1)[:, ::-1, ::-1]


def unpacked(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_voxels_labels_and_probabilities_come_back(page):
    data = data_of(page)
    # as an atlas shows it, I down, P and R: y of ILA runs the other way, and so does x
    shape = (6, 30, 20)
    assert tuple(data["shape"]) == shape and data["spacing_um"] == [50, 20, 20]
    assert data["views"] == ["horizontal", "coronal", "sagittal"]
    assert data["letters"] == [["S", "I"], ["A", "P"], ["L", "R"]]
    steps = unpacked(data["sample"], np.uint8).reshape(shape)
    grey = stored(np.cumsum(steps, axis=2, dtype=np.uint8))
    wanted = 255 * np.clip((IMAGE - 100) / 1000, 0, 1)
    assert np.abs(grey - wanted).max() <= 0.5001
    numbers = stored(unpacked(data["labels"], "<u2").reshape(shape))
    found = np.array([0, 3, 614454277])[numbers]
    assert np.array_equal(found, LABELS)
    assert data["names"] == ["", NAMES[3], NAMES[614454277]]
    damage = data["damage"]
    values = unpacked(damage["maps"]["missing"], np.uint8).reshape(damage["shape"]) / 15
    assert np.abs(stored(values) - DAMAGE["missing"]).max() <= 0.5 / 15 + 1e-6
    # voxel (1, 2, 3) of the coarse grid is (1, 2, 2) of the turned one; in voxels of the fine one
    z, x, y = np.array(damage["start"]) + np.array(damage["step"]) * [1, 2, 2]
    at = np.array([z, 19 - y, 29 - x])
    assert np.allclose(FRAME.to_um(at), COARSE.to_um(np.array([1, 2, 3])))


def test_only_its_own_script_and_style_may_run(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert page.count("<script") == 2 and "://" not in page


def test_what_comes_from_outside_is_escaped(page):
    assert "brain &lt;7&gt;" in page and "brain <7>" not in page
    assert "</script> of" not in page


def test_a_page_that_is_too_large_is_made_of_fewer_voxels():
    asked = []

    def make(voxels):
        asked.append(voxels)
        return "x" * int(voxels)

    assert len(smallest_fitting(make, 1_000_000)) < 1_000_000
    assert asked == sorted(asked, reverse=True) and len(asked) > 2


def test_equal_input_gives_equal_pages(page):
    sample = Sample(IMAGE, LABELS, FRAME, (100.0, 1100.0), NAMES)
    assert slices_page("brain <7>, mouse", sample, DAMAGE, COARSE) == page


def test_more_labels_than_numbers_are_an_error():
    frame = Frame((1, 300, 300), (1, 1, 1))
    labels = np.arange(90_000, dtype=np.uint32).reshape(frame.shape)
    sample = Sample(np.zeros(frame.shape), labels, frame, (0, 1), {})
    with pytest.raises(VolumeError, match="90000 labels are more"):
        slices_page("t", sample, {"missing": np.zeros(frame.shape)}, frame)
