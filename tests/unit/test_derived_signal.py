"""The mask of signal: made block by block, it is the hysteresis of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from derived_helpers import entry_of, make_source, run_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from objects_helpers import Held, blocks_of
from scipy import ndimage

from terareg.core.errors import ConfigError, VolumeError
from terareg.core.frames import Frame
from terareg.core.numeric import Clipped
from terareg.derived.section import Entry, check_section
from terareg.derived.tools import make_tool
from terareg.derived.view import Place, View, open_view
from terareg.signal.foreground import ForegroundSettings, foreground
from terareg.storage.store import Store
from terareg.volumes.plan import VolumeSettings, make_plan
from terareg.volumes.writer import finish_pyramid, init_volume, write_blocks

SPACING_UM = (2.0, 1.0, 1.0)  # of the sources of derived_helpers


def image_of(shape, seed):
    rng = np.random.default_rng(seed)
    return (
        ndimage.gaussian_filter(rng.gamma(1, 600, shape), 1.2) + rng.gamma(1, 30, shape)
    ).astype(np.uint16)


def whole(image, threshold, weak, chosen, dust, inside=None):
    """Plain version: answer, components of weak voxels, those with a strong one, without dust."""
    box = ((0, 0, 0), image.shape)
    read = lambda a, b: image[tuple(slice(i, j) for i, j in zip(a, b))]  # noqa: E731
    answer = foreground(read, box, image.shape, SPACING_UM, chosen)
    if inside is not None:
        answer[~inside] = -np.inf
    labels, count = ndimage.label(answer >= weak, np.ones((3, 3, 3)))
    kept = np.zeros(count + 1, bool)
    kept[np.unique(labels[answer >= threshold])] = True
    kept &= np.bincount(labels.ravel(), minlength=count + 1) >= dust
    kept[0] = False
    return kept[labels]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(5, 20), st.integers(9, 30), st.integers(9, 30)), st.integers(0, 99),
    st.sampled_from(["difference", "top_hat", "plain"]), st.sampled_from([0, 6]),
    st.tuples(st.integers(2, 9), st.integers(3, 12), st.integers(4, 40)),
)  # fmt: skip
def test_blocks_are_the_hysteresis_of_the_whole(tmp_path_factory, shape, seed, method, dust, cut):
    image = image_of(shape, seed)
    chosen = ForegroundSettings(method, 6.0 if method == "difference" else 8.0, 0.7)
    base = 600 if method == "plain" else 0
    given = {"threshold": base + 120.0, "weak": base + 30.0, "method": method, "smooth_um": 0.7}
    given |= {"background_um": chosen.background_um, "dust_vox": dust}
    store = Store(str(tmp_path_factory.mktemp("signal")))
    frame = Frame(shape, SPACING_UM)
    view = View(Held(image, SPACING_UM), 0, (0, 0, 0), shape, "image", (0, 0, 0), frame,
                Place(store, "brain", "made"))  # fmt: skip
    tool = make_tool(view, Entry("made", "signal", None, "held", given))
    blocks = blocks_of(shape, cut)
    measured = tool.finish([tool.gather([tool.measure(block) for block in blocks])])
    found = np.zeros(shape, np.uint32)
    for block in blocks:
        part = tuple(slice(a, b) for a, b in zip(block.start, block.stop))
        found[part], _ = tool.make(block, measured)
    expected = whole(image, base + 120.0, base + 30.0, chosen, dust)
    assert np.array_equal(found, expected.astype(np.uint32))


@pytest.mark.slow
def test_masks_on_other_grids_keep_signal_out(tmp_path):
    store, image = Store(str(tmp_path)), image_of((16, 24, 24), 5)
    make_source(store, image)
    half = np.zeros((16, 24, 24), np.uint32)
    half[:, :12] = 7
    for name, array in (("half", half), ("most", np.ones((16, 24, 24), np.uint32))):
        plan = make_plan(name, Frame(array.shape, SPACING_UM), "uint32",
                         VolumeSettings(chunk=8, block=8, kind="segmentation"))  # fmt: skip
        key = f"brain/derived/{name}"
        init_volume(store, key, plan)
        write_blocks(
            store, key, plan, plan.blocks(),
            lambda b, a=array: (
                np.ascontiguousarray(a[tuple(slice(i, j) for i, j in zip(b.start, b.stop))]),
                Clipped(),
            ),
            fingerprint="f",
        )  # fmt: skip
        finish_pyramid(store, key, plan)
    plain = {"threshold": 700.0, "method": "plain"}
    chosen = ForegroundSettings("plain")
    for key, inside in (("within", half > 0), ("exclude", half == 0)):
        entry = entry_of("signal", name=key, **plain, **{key: "derived/half"})
        found = run_entry(store, entry).read(0)
        assert np.array_equal(found > 0, whole(image, 700.0, 700.0, chosen, 0, inside))
        assert found.any()


def test_nothing_above_the_threshold_is_said_and_no_error(tmp_path, caplog):
    store = Store(str(tmp_path))
    make_source(store, image_of((8, 12, 12), 1))
    found = run_entry(store, entry_of("signal", threshold=60000.0, method="plain")).read(0)
    assert not found.any() and "reaches threshold 60000; look at the channel" in caplog.text


def test_what_does_not_fit_is_one_sentence(tmp_path):
    store = Store(str(tmp_path))
    make_source(store, image_of((16, 24, 24), 1))

    def tool(**settings):
        entry = entry_of("signal", **{"threshold": 5.0} | settings)
        return make_tool(open_view(store, "brain", entry), entry)

    with pytest.raises(ConfigError, match="weak: 9 is above threshold: 5; swap them"):
        tool(weak=9.0)
    with pytest.raises(ConfigError, match="background_um: 1 is less than two voxels"):
        tool(background_um=1.0)
    with pytest.raises(ConfigError, match="within: fused/signal is an image"):
        tool(within="fused/signal")
    config = {
        "registration": {"atlases": None}, "atlases": {}, "input": {"channels": {"c": 0}},
        "intensity": {"bias": {"enabled": False}}, "store": str(tmp_path), "sample": "b",
        "volume": {"formats": ["ome-zarr"], "chunk": 8, "block": 8},
        "derived": {"axons": {"from": "fused/c", "do": "signal", "threshold": 5,
                              "within": "derived/tisue"}},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"derived.axons.within: 'derived/tisue' is not an entry"):
        check_section(config)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_probabilities_of_any_type_give_the_same_mask(tmp_path, dtype):
    """What another program found, a file elsewhere, with hysteresis and least size."""
    probability = ndimage.gaussian_filter(np.random.default_rng(3).random((16, 24, 24)), 1.0)
    probability = np.rint((probability - 0.3) / 0.4 * 255).clip(0, 255) / 255
    scale = 1 if dtype == "float32" else np.iinfo(dtype).max
    array = np.rint(probability * scale) if scale > 1 else probability
    tifffile.imwrite(tmp_path / "axons.tif", array.astype(dtype))
    entry = entry_of(
        "signal", address=str(tmp_path / "axons.tif"), threshold=0.7, weak=0.55, dust_vox=5,
        method="probability", spacing_um=list(SPACING_UM), image="fused/signal",
    )  # fmt: skip
    assert entry.by_region and entry.channel == "fused/signal"
    found = run_entry(Store(str(tmp_path)), entry).read(0)
    expected = whole(probability.astype(np.float32), 0.7, 0.55, ForegroundSettings("plain"), 5)
    assert np.array_equal(found > 0, expected) and 0 < expected.mean() < 0.5


def test_what_is_no_probability_is_said(tmp_path):
    percent = np.full((8, 8, 8), 37.0, np.float32)
    tifffile.imwrite(tmp_path / "percent.tif", percent)
    entry = entry_of("signal", address=str(tmp_path / "percent.tif"), threshold=0.5,
                     method="probability", spacing_um=list(SPACING_UM))  # fmt: skip
    assert not entry.by_region
    with pytest.raises(VolumeError, match=r"percent.tif: probabilities reach from 0 to 37, and"):
        run_entry(Store(str(tmp_path)), entry)
