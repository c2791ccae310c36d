"""The section `derived:`: what it means, and one sentence for everything that cannot work."""

from __future__ import annotations

import pytest

from terareg.core.errors import ConfigError
from terareg.derived.boxes import box_of
from terareg.derived.section import Entry, entries_of, output_options
from terareg.execution.config import check, load_samples

VOLUME = {
    "chunk": 64,
    "block": 512,
    "formats": ["ome-zarr"],
    "codec": "zstd",
    "precomputed": "gzip",
}


def described(**derived):
    """Configuration of a sample of tiles with these entries."""
    channels = {"signal": 0, "autofluorescence": 1}
    atlas = {
        "template": "t.nrrd",
        "annotation": "a.nrrd",
        "ontology": "o.csv",
        "orientation": "RIP",
    }
    return {
        "sample": "brain",
        "input": {"path": ".", "orientation": "SAR", "channels": channels},
        "atlases": {"mouse": atlas},
        "derived": derived,
    }


def entry(source="fused/signal", do="convert", **more):
    return {"from": source, "do": do, **more}


def test_a_count_comes_after_the_volume_of_its_intensities():
    count = entry("labels/mouse", "count", image="derived/bright")
    found = entries_of(check(described(counted=count, bright=entry(do="equalize"))))
    assert list(found) == ["bright", "counted"]
    assert found["counted"].others == {"image": "derived/bright"}


def test_entries_come_after_what_they_are_made_from():
    config = check(
        described(
            c=entry("b", "quantize"),
            b=entry("a"),
            a=entry("labels/mouse"),
            d=entry("s3://lab/masks/precomputed"),
            e=entry("./fused/signal"),
        )
    )
    found = entries_of(config)
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert [e.volume for e in found.values()] == [
        "labels/mouse", "derived/a", "derived/b", None, None,
    ]  # fmt: skip
    assert found["d"].address == "s3://lab/masks/precomputed"
    assert found["e"].address == "./fused/signal"
    assert found["c"].measures and not found["a"].measures
    assert Entry.from_json(found["c"].to_json()).options == found["c"].options == {}


def test_lengths_are_no_matter_of_the_mask():
    """So that asking for them later makes no mask again."""
    plain = entry(do="signal", threshold=5)
    found = entries_of(check(described(a=plain, b=plain | {"length": True, "thickest_um": 9})))
    assert found["a"].thickest_um is None and found["b"].thickest_um == 9
    assert found["b"].options == {"threshold": 5}
    assert found["b"].without_table_keys().settings == {
        key: value for key, value in found["a"].settings.items()
        if key not in ("image", "length", "thickest_um")
    }  # fmt: skip


def test_no_key_of_the_section_changes_a_configuration_without_it():
    config = described()
    del config["derived"]
    assert "derived" not in check(config) and entries_of(check(config)) == {}


@pytest.mark.parametrize(
    ("derived", "words"),
    [
        (
            {"a": entry("a")},
            "derived.a.from: the entry is its own source; give one of them another source",
        ),
        (
            {"a": entry("b"), "b": entry("c"), "c": entry("a")},
            (
                "derived.a.from: the entries are each other's sources: a <- b <- c <- a; give one "
                "of them"
            ),
        ),
        (
            {"a": entry("fused/green")},
            (
                "'fused/green' is not a volume of this sample, which has fused/signal, "
                "fused/autofluorescence"
            ),
        ),
        (
            {"a": entry("labels/rat")},
            "'labels/rat' is not a volume of this sample, which has labels/mouse",
        ),
        (
            {"small": entry(), "a": entry("smal")},
            "there is no entry 'smal' in derived; did you mean small?",
        ),
        ({"a": entry("results/brain/derived/a/ome.zarr")}, "is where this entry itself is written"),
        (
            {"a": entry("https://me:secret@lab.org/x")},
            "derived.a.from: the address of lab.org contains a user name or password",
        ),
        (
            {"a": entry(format="ome-zarr-0.4", sharded=True)},
            "derived.a.sharded: OME-Zarr 0.4 has no shards",
        ),
        (
            {"a": entry(do="converts")},
            "derived.a.do: 'converts' is not allowed; did you mean convert?",
        ),
        ({"a": {"from": "fused/signal"}}, "derived.a: key do is missing"),
        (
            {"a": entry(do="signal", threshold=5, length=True, level=1)},
            "derived.a.length: it is measured in the regions of atlases, which needs a mask of the",
        ),
        (
            {"a": entry(do="signal", threshold=128, method="probability")},
            "derived.a.threshold: 128 is no probability; give more than 0 and at most 1",
        ),
        (
            {"a": entry(do="signal", threshold=0.5, method="probability", background_um=9)},
            "derived.a.background_um: probabilities have no background; remove it",
        ),
        (
            {"a": entry("p.tif", "signal", threshold=0.5, image="fused/green")},
            "derived.a.image: 'fused/green' is not a volume of this sample",
        ),
        (
            {"b": entry(), "a": entry("p.tif", "signal", threshold=0.5, image="derived/b")},
            "derived.a.image: derived/b is not a channel, which signal is measured in; name fused",
        ),
        (
            {"a": entry("labels/mouse", "count", image="derived/b")},
            "derived.a.image: 'derived/b' is not an entry that makes a volume",
        ),
        (
            {"a": entry(do="tissue", resolution_um=[50, 50, 20])},
            "derived.a.resolution_um: [50, 50, 20] are three sizes, but tissue is found in cubes",
        ),
        (
            {"a": entry("p.tif", "signal", threshold=0.5, length=True)},
            "or name the channel whose grid it has (image: fused/CHANNEL)",
        ),
        (
            {"a": entry(do="signal", threshold=5, thickest_um=9)},
            "derived.a.thickest_um belongs to length: true; set that",
        ),
        ({"a": entry(colour=1)}, "derived.a.colour is not a known key"),
        (
            {"a": entry(factor=[2, 2, 2])},
            "derived.a.factor: [2, 2, 2] belongs to do: downsample, not to do: convert",
        ),
        (
            {"a": entry(spacing_um=[1, 1, 1])},
            "for files and volumes from elsewhere; fused/signal",
        ),
        (
            {"a": entry(box_vox=[[0, 0, 0], [1, 0, 1]])},
            "derived.a.box_vox: [[0, 0, 0], [1, 0, 1]] is empty",
        ),
        (
            {"a": entry(box_vox=[[0, 0, 0], [1, 1, 1]], box_um=[[0, 0, 0], [1, 1, 1]])},
            "box_vox and box_um both give the region",
        ),
        (
            {"a": entry(format="precomputed", codec="zstd")},
            (
                "derived.a.codec: precomputed does not support zstd; use one of raw, gzip, "
                "compressed_segmentation, jpeg, png"
            ),
        ),
        (
            {"a": entry(format="both", codec="jpeg")},
            "derived.a.codec: ome-zarr does not support jpeg",
        ),
        ({"a": entry(format="precomputed", codec="gzip", sharded=False)}, "need shards"),
        ({"a": entry(chunk=[3, 4, 4])}, "derived.a.chunk.0: 3 is not allowed"),
        (
            {"a": entry(block=96)},
            "derived.a.block: 96 is not the longest side of the chunk",
        ),
        (
            {"a": entry(do="remap")},
            "derived.a: key table is missing; do: remap needs it",
        ),
        (
            {"a": entry(do="quantize", values=[3, 3])},
            "derived.a.values: [3, 3] is not a range",
        ),
        (
            {"a": entry(do="equalize", clip_percent=50)},
            "derived.a.clip_percent: 50 must be more than 50",
        ),
        (
            {"a": entry(do="equalize", contrast_limit=0.02)},
            "derived.a.contrast_limit: 0.02 limits the contrast of regions, which need",
        ),
        (
            {"a": entry(do="equalize", local_um=0)},
            "derived.a.local_um: 0 must be more than 0",
        ),
        ({"a/b": entry()}, "derived: 'a/b' cannot be a folder name"),
    ],
)
def test_what_cannot_work_is_said_at_once(derived, words):
    with pytest.raises(ConfigError) as error:
        check(described(**derived))
    assert words in str(error.value)


def test_names_that_differ_in_case_only_are_one_folder_elsewhere():
    with pytest.raises(
        ConfigError,
        match=(
            "'small' and 'Small' differ only in case, and some file systems would put them "
            "into one folder; rename"
        ),
    ):
        check(described(small=entry(), Small=entry()))


def test_a_volume_that_is_not_made_is_no_source():
    config = described(a=entry("corrected_volume/signal"))
    assert check(config)["derived"]["a"]["from"] == "corrected_volume/signal"
    config["intensity"] = {"bias": {"enabled": False}}
    with pytest.raises(ConfigError, match="is not a volume of this sample, which has none"):
        check(config)


def test_a_sample_without_input_has_only_derived_volumes():
    config = {"sample": "masks", "derived": {"a": entry("s3://lab/masks")}}
    (sample,) = load_samples(config).values()
    assert sample["input"]["kind"] == "none" and sample["input"]["channels"] == {}
    with pytest.raises(
        ConfigError, match="'fused/signal' is not a volume of this sample, which has none"
    ):
        check({"sample": "masks", "derived": {"a": entry()}})
    with pytest.raises(ConfigError, match="has no key sample"):
        load_samples({"derived": {"a": entry("s3://lab/masks")}})
    with pytest.raises(ConfigError, match="atlases: this sample has no images for it to apply to"):
        check(config | {"atlases": described()["atlases"]})
    assert entries_of(check({"sample": "masks", "derived": {}})) == {}, "to remove what was there"
    with pytest.raises(ConfigError, match="key input is missing"):
        check({"sample": "masks"})


def test_what_an_entry_does_not_say_is_as_in_the_section_volume():
    plain = Entry("a", "convert", "fused/signal", None)
    found = output_options(plain, VOLUME, "image")
    assert found == VOLUME | {"formats": ("ome-zarr",), "kind": "image", "chunk_shape": None}
    asked = {"format": "precomputed", "codec": "raw", "chunk": [8, 128, 128], "sharded": False}
    found = output_options(Entry("a", "convert", "fused/signal", None, asked), VOLUME, "labels")
    assert found["formats"] == ("precomputed",) and found["encoding"] == "raw"
    assert found["chunk_shape"] == (8, 128, 128) and found["chunk"] == 128
    assert found["kind"] == "segmentation" and found["sharded"] is False


def test_regions_in_micrometres_are_widened_to_voxels():
    box = {"box_um": [[2.0, 0.0, 1.4], [7.9999999, 30.0, 3.0]]}
    assert box_of(box, (10, 30, 20), (2.0, 1.0, 0.7), "a") == ((1, 0, 2), (4, 30, 5))
    with pytest.raises(
        ConfigError, match=r"a\.box_um: .* reaches beyond the volume, whose level has 10 x 29"
    ):
        box_of(box, (10, 29, 20), (2.0, 1.0, 0.7), "a")
    assert box_of(box, (10, 29, 20), (2.0, 1.0, 0.7), "a", clip=True) == ((1, 0, 2), (4, 29, 5))
