"""Sides of a channel in the configuration: every contradiction in a sentence; costs and files."""

import dataclasses

import pytest
from planned_samples import brain, run_of

from terareg.core.errors import ConfigError
from terareg.core.extents import channels_of, sides_of
from terareg.execution import inputs, targets
from terareg.execution.config import check
from terareg.execution.rule_table import RULES, jobs_of_rules
from terareg.execution.sides import ENDS
from terareg.execution.sizing import sized

CHANNELS = {"left": 0, "right": 1, "auto": 2}
SIDES = {"signal": {"left": "-x", "right": "+x"}}


def config(channels=CHANNELS, sides=SIDES, **over):
    source = {"path": ".", "orientation": "SAR", "channels": channels, "sides": sides}
    return {"sample": "brain", "input": source} | over


def test_sides_are_one_channel_in_the_place_of_the_first():
    found = check(config())
    assert channels_of(found) == ["signal", "auto"]
    assert sides_of(found, "signal") == ["left", "right"] and sides_of(found, "auto") == ["auto"]
    assert channels_of(check(config(sides={}))) == ["left", "right", "auto"]


@pytest.mark.parametrize(("low", "high"), list(zip(ENDS[::2], ENDS[1::2])))
def test_the_ends_of_every_axis_are_known(low, high):
    assert (low[0], high[0]) == ("-", "+")
    check(config(sides={"signal": {"left": high, "right": low}}))


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({"signal": {"left": "-x", "rihgt": "+x"}},
         r"input.sides.signal: 'rihgt' is not one of input.channels \(left, right, auto\)"),
        ({"auto": {"left": "-x", "right": "+x"}},
         "input.sides.auto: 'auto' is also a channel under input.channels"),
        ({"a": {"left": "-x", "right": "+x"}, "b": {"left": "-x", "auto": "+x"}},
         r"input.sides.b: 'left' is already a side of a; name"),
        ({"signal": {"left": "-x", "right": None}},
         (r"input.sides.signal.right is left blank; write the end of the axis at which this "
r"side is best")),
        ({"signal": {"left": "-x", "right": "west"}},
         r"input.sides.signal.right: 'west' is not allowed;"),
        ({"signal": ["left", "right"]}, "input.sides.signal: .* write two sides and the end of"),
        ({"signal": {"left": "-x"}}, r"input.sides.signal: left is not a pair; name two sides"),
        ({"signal": {}}, r"input.sides.signal: nothing is not a pair"),
        ({"signal": {"left": "-x", "right": "-x"}},
         "left is best at -x and right at -x, which are not opposite ends of one axis"),
        ({"signal": {"left": "-x", "right": "+y"}}, "left is best at -x and right at .y"),
        ({"sig nal": {"left": "-x", "right": "+x"}}, "'sig nal' cannot be a folder name"),
    ],
)  # fmt: skip
def test_sides_that_are_no_sides_are_refused_in_a_sentence(sides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check(config(sides=sides))
    assert "\n" not in str(caught.value)


def test_sides_of_volumes_are_refused():
    channels = {"left": "a.nii", "right": "b.nii"}
    given = config(channels)
    given["input"] |= {"kind": "volume", "path": None}
    with pytest.raises(ConfigError, match=r"input.sides belongs to tiles, not to input.kind: vol"):
        check(given)


@pytest.mark.parametrize(
    "over",
    [
        {"stitching": {"channel": "left"}}, {"registration": {"channel": "right"}},
        {"cells": {"somata": {"channel": "left", "diameter_um": 10}}},
        {"derived": {"half": {"from": "fused/left", "do": "downsample"}}},
        {"export": {"file": {"from": "fused/left", "format": "nifti"}}},
    ],
)  # fmt: skip
def test_a_side_is_no_channel_to_later_stages(over):
    with pytest.raises(ConfigError, match=r"left|right"):
        check(config(**over))


def test_given_shifts_name_every_side_but_the_first_of_the_aligned_channel():
    shifts = {"right": [0, 0, 3.0], "auto": [0, 0, 0]}
    check(config(stitching={"channel_shift": "given", "channel_shift_um": shifts}))
    with pytest.raises(ConfigError, match="no shift of channel 'right' is given"):
        check(config(stitching={"channel_shift": "given",
                                "channel_shift_um": {"auto": [0, 0, 0]}}))  # fmt: skip


def two_sided(workspace, **over):
    return run_of(workspace, workspace.sample(input__channels=CHANNELS, input__sides=SIDES, **over))


def names(files):
    return {path.split("brain/", 1)[1] for path in files}


def test_every_side_has_its_own_flat_field_and_one_volume_comes_of_both(workspace):
    run = two_sided(workspace)
    made = names(targets.all_files(run, "brain")) | names(targets.reported_files(run, "brain"))
    assert {f"intensity/{side}/flatfield.json" for side in CHANNELS} <= made
    assert {"fused/signal/complete.json", "fused/auto/complete.json"} <= made
    assert {"stitching/channels/right.json", "stitching/channels/auto.json"} <= made
    assert "stitching/sides/signal.json" in made and "views/flatfield_right.png" in made
    assert not [n for n in made if "fused/left" in n or "channels/left" in n or "signal/flat" in n]


def test_a_side_is_compared_with_the_first_of_its_channel_and_that_with_the_aligned(workspace):
    run = two_sided(workspace, stitching={"channel": "auto"})
    against = {side: run.shifted_against("brain", side) for side in ("left", "right")}
    assert against == {"left": "auto", "right": "left"}
    files = inputs.side_tiles(run, "brain", "signal")
    assert files["profile"].endswith("intensity/left/flatfield.tif")
    assert files["other_profile"].endswith("intensity/right/flatfield.tif")
    assert files["shift"].endswith("channels/left.json")
    assert files["other_shift"].endswith("channels/right.json")
    assert files["match"].endswith("stitching/sides/signal.json")
    one = inputs.side_tiles(run, "brain", "auto")
    assert set(one) == set(inputs.tile_files(run, "brain", "auto"))
    # flat-fields are estimated where the cameras see the tiles, which the shifts say
    own = {side: inputs.chained_shifts(run, "brain", side) for side in CHANNELS}
    assert own["right"] == {key: files[key] for key in ("shift", "other_shift")}
    assert own["left"] == {"shift": files["shift"]} and own["auto"] == {}


def test_both_sides_are_counted(workspace):
    sample = sized(two_sided(workspace), "brain")
    assert (sample.size.channels, sample.size.raw_channels, sample.most_sides) == (2, 3, 2)
    assert sample.raw_gb == 3 * sample.size.channel_gb
    jobs = jobs_of_rules(sample)
    assert jobs["match_sides"] == 1 and jobs["init_volume"] == 2
    assert jobs["refine_flatfield"] == 3 and jobs["measure_channel_shift"] == 2


def test_memory_and_reading_of_fusion_follow_the_sides():
    one = brain(channels=2)
    source = {"path": ".", "orientation": "SAR", "channels": {"ch0": 0, "ch1": 1},
              "sides": {"both": {"ch0": "-x", "ch1": "+x"}}}  # fmt: skip
    two = brain(channels=1, input=source)
    two = dataclasses.replace(two, size=dataclasses.replace(two.size, raw_channels=2))
    rule = RULES["fuse_blocks"]
    assert rule.load(two).read_gb == rule.load(one).read_gb
    assert rule.load(two).written_gb == rule.load(one).written_gb / 2
    assert rule.memory_mb(two, 2) > 1.4 * rule.memory_mb(one, 2)
    assert RULES["match_sides"].load(one).jobs == 0
