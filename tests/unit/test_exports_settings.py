"""What can be exported, and what is refused before any job."""

from __future__ import annotations

import pytest
from planned_samples import brain

from terareg.core.errors import ConfigError
from terareg.execution.config import check
from terareg.exports import cost
from terareg.exports.settings import ExportSettings, Origin, slab_planes

SAMPLE = {
    "sample": "b",
    "input": {"path": "raw", "orientation": "SAR", "channels": {"signal": 0}},
    "atlases": {"allen": {"template": "t", "annotation": "a", "ontology": "o",
                          "orientation": "RIP"}},
}  # fmt: skip


def checked(entry, **over):
    return check(SAMPLE | over | {"export": {"mine": entry}})["export"]["mine"]


@pytest.mark.parametrize(
    ("text", "atlas", "regions"),
    [
        ("fused/signal", "", False),
        ("corrected_volume/signal", "", False),
        ("labels/allen", "allen", True),
        ("atlas_space/allen/signal", "allen", False),
        ("registration/allen/jacobian", "allen", False),
        ("registration/allen/missing", "allen", False),
        ("atlases/allen/template", "allen", False),
        ("atlases/allen/annotation", "allen", True),
    ],
)
def test_all_that_a_run_makes_has_its_place(text, atlas, regions):
    settings = ExportSettings.from_config(checked({"from": text}))
    assert settings.origin.text == text and settings.origin.atlas == atlas
    assert settings.origin.is_segmentation is regions
    assert settings.interpolation == ("vote" if regions else "mean")
    assert not settings.is_series and settings.resolution_um is None


def test_a_derived_volume_is_settled_when_it_is_known_what_it_holds():
    mask = {"from": "fused/signal", "do": "signal", "method": "top_hat", "background_um": 50,
            "threshold": 100}  # fmt: skip

    def made(**entry):
        section = checked({"from": "derived/mask", **entry}, derived={"mask": mask})
        return ExportSettings.from_config(section)

    assert made().origin == Origin("derived", derived="mask") and made().interpolation == ""
    assert made().settled(True, "uint32").interpolation == "vote"
    assert made().settled(False, "uint16").interpolation == "mean"
    assert made(interpolation="nearest").settled(False, "uint16").interpolation == "nearest"
    for entry, labels, dtype, words in (
        ({"interpolation": "mean"}, True, "uint32", "mean is not for labels; use vote or nearest"),
        ({"interpolation": "vote"}, False, "uint8", "vote is not for an image; use mean or near"),
        ({"format": "pyramid_8bit"}, True, "uint8", "derived/mask contains labels; use another"),
        ({"format": "png_series"}, True, "uint32", "is of type uint32; use tiff_series"),
        ({"format": "terafly"}, False, "float32", "is of type float32; use format: tiff"),
    ):
        with pytest.raises(ConfigError, match=words):
            made(**entry).settled(labels, dtype)
    other = ExportSettings.from_config(checked({"from": "fused/signal"}))
    assert other.settled(True, "uint64") == other


def test_one_number_makes_cubes_and_three_do_not():
    for given, wanted in ((25, (25, 25, 25)), ([50, 10, 20], (50, 10, 20))):
        entry = checked({"from": "fused/signal", "resolution_um": given})
        assert ExportSettings.from_config(entry).resolution_um == wanted


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "export.mine: key from is missing"),
        ({"from": "fused"}, "export.mine.from: 'fused' cannot be exported; write"),
        ({"from": "fused/green"}, "export.mine.from: channel 'green' is not among input.channels"),
        ({"from": "derived/mask"}, "'mask' is not a volume of the section derived, which has none"),
        ({"from": "labels/mouse"}, "'mouse' is not a registered atlas (there is allen)"),
        ({"from": "registration/allen/x"}, "'registration/allen/x' cannot be exported;"),
        ({"from": "fused/signal", "format": "nfti"}, "did you mean nifti?"),
        ({"from": "fused/signal", "interpolation": "vote"}, "vote is not for an image; use mean"),
        ({"from": "labels/allen", "interpolation": "mean"}, "mean is not for regions; use vote"),
        ({"from": "fused/signal", "labels": "rgb"}, "labels: rgb is for regions, and fused/signal"),
        ({"from": "labels/allen", "labels": "rgb"}, "rgb makes colour images, which are not"),
        ({"from": "labels/allen", "format": "png_series"}, "use labels: consecutive or rgb"),
        ({"from": "registration/allen/match", "format": "png_series"}, "use tiff_series"),
        ({"from": "labels/allen", "format": "terafly"}, "8 or 16 bits for each voxel, too few for "
         "labels/allen; use labels: consecutive"),
        ({"from": "registration/allen/match", "format": "terafly"}, "use format: tiff"),
        ({"from": "fused/signal", "resolution_um": [1, 2]}, "export.mine.resolution_um"),
        ({"from": "fused/signal", "resolution_um": 0}, "export.mine.resolution_um"),
        ({"from": "fused/signal", "resolution_um": [1, 2, 3], "isotropic": True},
         "isotropic: true contradicts resolution_um: [1.0, 2.0, 3.0]"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_sentence(entry, words):
    with pytest.raises(ConfigError) as error:
        checked(entry)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_made_cannot_be_exported():
    with pytest.raises(ConfigError, match=r"not made while intensity.bias.enabled is false"):
        checked({"from": "corrected_volume/signal"}, intensity={"bias": {"enabled": False}})
    with pytest.raises(ConfigError, match=r"not made while atlas_space.enabled is false"):
        checked({"from": "atlas_space/allen/signal"}, atlas_space={"enabled": False})
    with pytest.raises(ConfigError, match="export: 'a b' cannot be a folder name"):
        check(SAMPLE | {"export": {"a b": {"from": "fused/signal"}}})


def test_slabs_are_bounded_and_never_empty():
    assert slab_planes(1) > 1000 and slab_planes(2**40) == 1


def test_memory_follows_a_plane_and_not_the_volume():
    export = {"export": {"x": {"from": "fused/ch0"}}}
    memory = cost.RULES["export_volume"].memory_mb
    assert memory(brain(**export), 4) < 3000
    assert memory(brain(**export), 4) - memory(brain(), 4) > 100
    loads = cost.RULES["export_volume"].load(brain(**export))
    assert loads.jobs == 1 and loads.read_gb == pytest.approx(brain().size.volume_gb)
    coarse = {"export": {"x": {"from": "fused/ch0", "resolution_um": 25}}}
    assert cost.RULES["export_volume"].load(brain(**coarse)).read_gb < 0.1 * loads.read_gb
    assert cost.RULES["export_planes"].load(brain(**export)).jobs == 0
    blocks = {"export": {"x": {"from": "fused/ch0", "format": "terafly"}}}
    assert cost.RULES["export_planes"].memory_mb(brain(**blocks), 4) < memory(brain(**export), 4)


def test_an_origin_reads_back():
    assert Origin.parse(Origin("atlas_space", "a", "c").text) == Origin("atlas_space", "a", "c")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"from": "fused/signal", "planes": "all"}, "planes: all is for format: pyramid_8bit"),
        ({"from": "fused/signal", "axis": "y"}, "axis: y is for format: pyramid_8bit"),
        ({"from": "labels/allen", "format": "pyramid_8bit"}, "pyramid_8bit is for images"),
        ({"from": "fused/signal", "outlines": True}, "outlines: True is for format: pyramid_8bit"),
        ({"from": "atlas_space/allen/signal", "format": "pyramid_8bit", "outlines": True},
         "outlines: atlas_space/allen/signal is not on the grid of the tiles; export fused"),
        ({"from": "fused/signal", "outlines": "wells.csv"},
         "outlines: wells.csv is for format: pyramid_8bit"),
        ({"from": "fused/signal", "common": True}, "common: True is for format: pyramid_8bit"),
        ({"from": "derived/a", "format": "pyramid_8bit", "common": True},
         "common: derived/a is not on the grid of the tiles; export fused"),
        ({"from": "fused/signal", "illumination": "log_statistics"},
         "illumination: log_statistics is for format: pyramid_8bit"),
        ({"from": "derived/a", "format": "pyramid_8bit", "illumination": "log_statistics"},
         "illumination: derived/a does not show the sites of a plate as they are"),
        ({"from": "fused/signal", "format": "pyramid_8bit", "illumination": "log_statistics"},
         "illumination: the sample is made of tiles, which intensity.flatfield corrects better"),
        ({"from": "fused/signal", "format": "pyramid_8bit", "clip_percent": [99, 1]},
         "clip_percent: [99, 1] is an empty range of grey values"),
        ({"from": "fused/signal", "format": "pyramid_8bit", "planes": []}, "export.mine.planes"),
        ({"from": "fused/signal", "format": "pyramid_8bit", "planes": "last"}, "mine.planes"),
    ],
)  # fmt: skip
def test_mistakes_in_tiles_are_said_in_one_sentence(entry, words):
    with pytest.raises(ConfigError) as error:
        checked(entry)
    assert words in str(error.value) and "\n" not in str(error.value)
