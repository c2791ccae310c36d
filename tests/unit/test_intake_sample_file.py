"""Sample files: names that are possible, text that is read back as it was meant."""

from __future__ import annotations

import pytest
import yaml

from terareg.intake.found import Found, channel_names, table_text
from terareg.intake.sample_file import sample_name, sample_text


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/brain7/", "brain7"), ("s3://bucket/a b", "a_b"), ("/x/mri.nii.gz", "mri"),
        ("/", "brain"), ("/data/--", "brain"),
    ],
)  # fmt: skip
def test_names_of_samples(address, name):
    assert sample_name(address) == name
    assert sample_name(address, "mine 2") == "mine_2"


def test_names_of_channels_are_possible_and_apart():
    assert channel_names(["488", "Ex 561", "Ex_561", "µ"]) == {
        "ch488": "488", "Ex_561": "Ex 561", "Ex_561_": "Ex_561", "signal": "µ",
    }  # fmt: skip


def test_digits_that_a_unit_left_behind_are_not_written():
    source = {"kind": "table", "spacing_um": [50.0, 15.573333333333332, 0.8125]}
    text = sample_text(Found("tiles", source, ("a reason",)), "on", "allen_mouse_25um")
    assert "  spacing_um: [50.0, 15.57333, 0.8125]\n" in text


def test_what_is_written_is_what_was_found():
    source = {
        "kind": "table", "path": "/data/a: b #1", "channels": {"yes": "no", "c": "0012"},
        "spacing_um": None,
    }  # fmt: skip
    found = Found(
        "tiles", source, ("a reason",), notes={"path": "where"},
        guesses={"channels": "names " * 30}, asked={"spacing_um": "a size"},
    )  # fmt: skip
    text = sample_text(found, "on", "allen_mouse_25um")
    read = yaml.safe_load(text)
    assert read["sample"] == "on"
    assert read["input"] == source | {"orientation": None}
    assert read["atlases"] == {"allen_mouse_25um": {"name": "allen_mouse_25um"}}
    assert max(map(len, text.splitlines())) <= 100
    assert "  # ASKED: a size\n  spacing_um:\n" in text and "  # GUESS: names" in text


def test_letters_of_other_languages_are_written_as_they_are():
    source = {"kind": "table", "path": "/data/Gehirn ü", "channels": {"a": "488/µ", "b": "\x07"}}
    text = sample_text(Found("tiles", source, ("a reason",)), "on", "allen_mouse_25um")
    assert "  path: /data/Gehirn ü\n" in text and "a: 488/µ" in text
    assert yaml.safe_load(text)["input"] == source | {"orientation": None}


def test_tables_have_plain_numbers():
    text = table_text(["path", "y_um"], [["a.tif", 1e-9], ["b.tif", -0.0], ["c.tif", 1228.8]])
    assert text == "path\ty_um\na.tif\t0\nb.tif\t0\nc.tif\t1228.8\n"
