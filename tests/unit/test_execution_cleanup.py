"""Removal over all samples of a run: what is confirmed goes, what is the user's stays."""

from __future__ import annotations

import pytest
from colm_stub import write_linked_planes
from planned_samples import run_of, scan

from terareg.core.errors import StoreError
from terareg.execution.cleanup import clean_up, remove_derived
from terareg.storage.removal import find_intermediates, find_sample

MADE = ("report.html", "fused/signal/complete.json", "logs/register/mouse.checkpoint.npz")


@pytest.fixture(autouse=True)
def here(workspace, monkeypatch):
    """Results are relative to the working folder."""
    monkeypatch.chdir(workspace.folder)


@pytest.fixture
def configs(workspace):
    """Two samples with results, each in the results and in a store elsewhere."""
    configs = []
    for name in ("one", "two"):
        config = workspace.sample(
            name, grid=(1, 1), planes=2, store=str(workspace.folder / "store")
        )
        write_linked_planes(workspace.folder / f"raw-{name}", 1, 1, pixels=16, planes=2)
        for root in ("results", "store"):
            for made in MADE:
                path = workspace.folder / root / name / made
                path.parent.mkdir(parents=True)
                path.write_bytes(b"12345")
        configs.append(config)
    return configs


def left(workspace) -> set[str]:
    """Files of results and store."""
    return {
        path.relative_to(workspace.folder).as_posix()
        for root in ("results", "store")
        for path in (workspace.folder / root).rglob("*")
        if path.is_file()
    }


def test_without_a_confirmation_all_samples_are_listed_and_nothing_goes(workspace, configs):
    before = left(workspace)
    text = clean_up(run_of(workspace, *configs), find_sample)
    assert left(workspace) == before
    for name in ("one", "two"):
        assert f"sample {name}:" in text and f"--config confirm_removal={name}" in text


def test_the_confirmed_sample_goes_from_both_places_and_no_other(workspace, configs):
    configs[0]["confirm_removal"] = "one"
    text = clean_up(run_of(workspace, *configs), find_sample)
    assert left(workspace) == {
        f"{root}/two/{name}" for root in ("results", "store") for name in MADE
    }
    assert "6 files removed" in text and "would be removed" in text


def test_what_is_found_is_all_that_goes(workspace, configs):
    before = left(workspace)
    configs[0]["confirm_removal"] = "one"
    clean_up(run_of(workspace, *configs), find_intermediates)
    assert before - left(workspace) == {f"{root}/one/{MADE[-1]}" for root in ("results", "store")}


def test_derived_volumes_without_an_entry_go_and_no_others(workspace, configs):
    for root in ("results", "store"):
        for name in ("kept", "gone"):
            path = workspace.folder / root / "one/derived" / name / "complete.json"
            path.parent.mkdir(parents=True)
            path.touch()
    configs[0]["derived"] = {"kept": {"from": "fused/signal", "do": "convert"}}
    before = left(workspace)
    text = remove_derived(run_of(workspace, *configs))
    assert left(workspace) == before and "derived/gone" in text and "derived/kept" not in text
    configs[0]["confirm_removal"] = "one"
    gone = str(workspace.folder / "results/one/derived/gone")
    configs[1]["derived"] = {"other": {"from": gone, "do": "convert"}}
    with pytest.raises(StoreError, match=r"belongs to the input .*gone, so nothing was removed"):
        remove_derived(run_of(workspace, *configs))
    del configs[1]["derived"]
    remove_derived(run_of(workspace, *configs))
    assert before - left(workspace) == {
        f"{root}/one/derived/gone/complete.json" for root in ("results", "store")
    }


@pytest.mark.parametrize("whose", ["its own", "another sample's"])
@pytest.mark.parametrize("what", ["raw tiles", "image", "points", "atlas"])
def test_nothing_that_a_sample_is_made_of_goes(workspace, configs, whose, what):
    configs[0]["confirm_removal"] = "one"
    place = workspace.folder / "results/one/fused"
    number = 0 if whose == "its own" else 1
    if what == "raw tiles":
        (workspace.folder / f"raw-{configs[number]['sample']}").rename(place / "raw")
        configs[number]["input"]["path"] = str(place / "raw")
    elif what == "image":
        name = configs[number]["sample"]
        configs[number] = scan(workspace, name, confirm_removal="one" if number == 0 else None)
        (workspace.folder / f"{name}.nii").rename(place / "image.nii")
        configs[number]["input"]["channels"] = {"t1": str(place / "image.nii")}
    else:
        (place / "mine").touch()
        if what == "points":
            mine = {"cells": {"path": str(place / "mine"), "atlas": "mouse"}}
            configs[number]["points"] = mine
        else:
            configs[number]["atlases"]["mouse"]["ontology"] = str(place / "mine")
    before = left(workspace)
    with pytest.raises(StoreError, match="belongs to the input"):
        clean_up(run_of(workspace, *configs), find_sample)
    assert left(workspace) == before
