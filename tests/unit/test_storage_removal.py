"""Removing results: what was shown and confirmed, records first, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from terareg.core.errors import StoreError
from terareg.storage.removal import (
    find_intermediates,
    find_sample,
    protect,
    removal_text,
    remove,
)
from terareg.storage.store import Store

TILES = ("corrected/ch0/LOC000.json", "corrected/ch0/LOC000/0/c/0", "corrected/ch0/LOC001.json")
RESTS = ("fused/ch0/ome.zarr/0/.x.part", "logs/register/atlas.checkpoint.npz")
RESULTS = (
    "acquisition.json", "corrected/ch0/batches/0.json", "fused/ch0/complete.json",
    "fused/ch0/ome.zarr/0/c/0/0/0", "registration/atlas/transform.json", "report.html",
)  # fmt: skip
FOREIGN = ("notes.txt", "raw/VW0/LOC000/CHN00_PLN0000.tif")


def fill(store: Store, names) -> None:
    for name in names:
        store.write(name, b"12345")


def names_in(store: Store) -> set[str]:
    return {entry.key for entry in store.list()}


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "store"))
    for sample in ("brain7", "brain70"):
        fill(store.child(sample), (*TILES, *RESTS, *RESULTS, *FOREIGN))
    return store


def test_intermediates_are_tiles_checkpoints_and_rests(store):
    found = find_intermediates([store.child("brain7"), store.child("brain7")])
    assert {key for removal in found for key in removal.keys} == {*TILES, *RESTS}
    assert sum(removal.size for removal in found) == 5 * 5
    assert len(names_in(store)) == 26, "finding removes nothing"
    remove(found)
    assert names_in(store.child("brain7")) == {*RESULTS, *FOREIGN}
    assert len(names_in(store.child("brain70"))) == 13


def test_records_go_before_the_data_that_they_vouch_for(store):
    for removal in find_sample([store.child("brain7")]):
        records = [key.endswith(".json") for key in removal.keys]
        assert records == sorted(records, reverse=True)


def test_a_sample_goes_with_all_that_terareg_made_and_nothing_else(store, tmp_path):
    results = Store(str(tmp_path / "results")).child("brain7")
    fill(results, ("acquisition.json", "benchmarks/fuse_blocks/ch0_0.tsv", "mine.csv"))
    remove(find_sample([results, store.child("brain7")]))
    assert names_in(results) == {"mine.csv"}
    assert names_in(store.child("brain7")) == set(FOREIGN)
    assert len(names_in(store.child("brain70"))) == 13
    assert not (tmp_path / "store/brain7/fused").exists(), "empty folders go too"
    assert find_sample([results, store.child("brain7")]) == []


@pytest.mark.parametrize("place", ["brain7", "brain7/corrected", "brain7/fused"])
def test_a_link_to_another_folder_is_named_and_not_followed(store, tmp_path, place):
    link = Path(store.url) / place
    elsewhere = tmp_path / "elsewhere"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    for find in (find_intermediates, find_sample):
        with pytest.raises(StoreError, match="is a link, whose target is not removed"):
            find([store.child("brain7")])
    assert any(elsewhere.rglob("*.json"))


def test_links_further_down_go_and_what_they_lead_to_stays(store, tmp_path):
    precious = tmp_path / "precious"
    fill(Store(str(precious)), ("a/LOC000.json", "b"))
    top = Path(store.url) / "brain7"
    (top / "corrected/ch1").symlink_to(precious / "a")
    with pytest.raises(StoreError, match=r"corrected/ch1 is a link"):
        find_intermediates([store.child("brain7")])
    (top / "corrected/ch1").rename(top / "corrected/ch0/linked")
    (top / "fused/linked").symlink_to(precious)
    (top / "fused/ch0/file").symlink_to(precious / "b")
    remove(find_intermediates([store.child("brain7")]))
    remove(find_sample([store.child("brain7")]))
    assert names_in(Store(str(precious))) == {"a/LOC000.json", "b"}
    assert not (top / "fused/ch0/file").is_symlink()


@pytest.mark.parametrize("sample", ["..", "../other", "/etc", "a/../.."])
def test_no_name_leads_out_of_the_store(store, sample):
    with pytest.raises(StoreError, match="would leave the store"):
        store.child(sample)


@pytest.mark.parametrize("mine", ["brain7/fused", "brain7/registration/atlas/transform.json"])
def test_files_of_the_user_are_never_removed(store, tmp_path, mine):
    (tmp_path / "alias").symlink_to(store.url)
    for root in (store.url, tmp_path / "alias", Path(store.url) / "brain70/.."):
        with pytest.raises(StoreError, match=r"belongs to the input .* nothing was removed"):
            protect(find_sample([store.child("brain7")]), [f"{root}/{mine}"])
    # results may lie beside raw data
    protect(find_sample([store.child("brain7")]), [f"{store.url}/brain7/raw", str(tmp_path / "x")])


def test_the_text_says_what_would_go_and_how(store):
    found = find_intermediates([store.child("brain7")])
    text = removal_text(found, False, "--config confirm_removal=brain7")
    assert "corrected tiles of channel ch0" in text and "3 files" in text
    assert "5 files would be removed; nothing was removed" in text
    assert text.rstrip().endswith("--config confirm_removal=brain7")
    assert "5 files removed" in removal_text(found, True, "")
    assert removal_text([], False, "x") == "nothing to remove\n"


@pytest.mark.slow
def test_s3_is_like_a_folder(store, monkeypatch):
    moto = pytest.importorskip("moto")
    import boto3

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="lab")
        remote = Store("s3://lab/volumes")
        for sample in ("brain7", "brain70"):
            fill(remote.child(sample), (*TILES, *RESTS, *RESULTS, *FOREIGN))
        here, there = (find_intermediates([s.child("brain7")]) for s in (store, remote))
        assert [(r.keys, r.size) for r in here] == [(r.keys, r.size) for r in there]
        with pytest.raises(StoreError, match="belongs to the input s3://lab/volumes/brain7/fused"):
            protect(find_sample([remote.child("brain7")]), ["s3://lab/volumes/brain7/fused"])
        remove(there)
        assert names_in(remote.child("brain7")) == {*RESULTS, *FOREIGN}
        remove(find_sample([remote.child("brain7")]))
        assert names_in(remote.child("brain7")) == set(FOREIGN)
        assert len(names_in(remote.child("brain70"))) == 13
