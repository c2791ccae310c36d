"""Removal of what a workflow has made: listed first, removed when confirmed, and nothing else.

Only files with names that terareg gives are removed, below the two folders of one sample (results
and store). Links are never followed, and files of the user (:func:`protect`) are never removed.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from terareg.core.errors import StoreError
from terareg.storage.store import Entry, Store

#: names of everything that terareg puts into a sample's folder, in the results or in the store
OWN_NAMES = (
    "acquisition.json", "input.json", "inputs.json", "report.html", "own",
    "intensity", "corrected", "stitching", "fused", "bias", "corrected_volume", "registration",
    "labels", "atlas_space", "points", "cells", "derived", "regions", "accuracy", "overlap",
    "exports", "bids", "bids.json", "views", "logs", "benchmarks", "checksums",
)  # fmt: skip
_CORRECTED = "corrected"
_LEFT_BEHIND = (".part", ".__lock", ".checkpoint.npz", ".log.kept")


@dataclass(frozen=True)
class Removal:
    """Objects to be removed.

    Attributes
    ----------
    store : Store
        Store of one sample; nothing outside it is touched.
    keys : tuple of str
        In the order of their removal: records before the data that they vouch for.
    size : int
        Bytes.
    what : str
        Description for the user.
    """

    store: Store
    keys: tuple[str, ...]
    size: int
    what: str

    def __str__(self) -> str:
        return f"{self.size / 1e9:10.3f} GB {len(self.keys):8d} files  {self.what}"


def find_intermediates(places: Iterable[Store]) -> list[Removal]:
    """Find what a finished sample no longer needs.

    These are corrected tiles, checkpoints, and leftovers of killed jobs. Files that Snakemake
    tracks stay: they are small, and if one were missing Snakemake would run everything that
    depends on it again.
    """
    found = []
    for place in _different(places):
        for channel in place.folders(_CORRECTED) if _is_there(place, _CORRECTED) else ():
            found.append(find_corrected_tiles(place, channel))
        rests = [
            entry
            for name in OWN_NAMES
            if _is_there(place, name)
            for entry in place.list(name)
            if entry.key.endswith(_LEFT_BEHIND)
        ]
        found.append(
            _removal(place, rests, f"checkpoints and temporary files of jobs in {place.url}")
        )
    return [removal for removal in found if removal.keys]


def find_corrected_tiles(place: Store, channel: str) -> Removal:
    """Arrays and records of a channel's corrected tiles in the store of a sample."""
    entries = [e for e in place.list(f"{_CORRECTED}/{channel}") if _is_of_tile(e.key)]
    return _removal(place, entries, f"corrected tiles of channel {channel} in {place.url}")


def find_derived(places: Iterable[Store], kept: Container[str]) -> list[Removal]:
    """Derived volumes, and tables and files of tools, whose names are not among those kept."""
    found = []
    for place in _different(places):
        for folder in ("derived", "checksums/derived"):
            for name in place.folders(folder) if _is_there(place, folder) else ():
                if name not in kept:
                    key = f"{folder}/{name}"
                    found.append(_removal(place, list(place.list(key)), place.address(key)))
    return [removal for removal in found if removal.keys]


def find_sample(places: Iterable[Store]) -> list[Removal]:
    """Everything that terareg made for a sample; files with other names stay."""
    found = []
    for place in _different(places):
        for name in OWN_NAMES:
            if not _is_there(place, name):
                continue
            entries = list(place.list(name))
            size = place.size(name)
            if size is not None:
                entries.append(Entry(name, size, ""))
            found.append(_removal(place, entries, place.address(name)))
    return [removal for removal in found if removal.keys]


def protect(removals: Iterable[Removal], addresses: Iterable[str]) -> None:
    """Raise :class:`StoreError` if one of the user's own files would go.

    Parameters
    ----------
    removals : iterable of Removal
    addresses : iterable of str
        Raw data, images, atlases, points: files or folders, local or on S3.
    """
    own = [_canonical(address) for address in addresses]
    for removal in removals:
        for key in removal.keys:
            folder, _, name = removal.store.address(key).rpartition("/")
            gone = f"{_canonical(folder)}/{name}"
            for mine in own:
                if gone == mine or gone.startswith(mine + "/"):
                    raise StoreError(
                        f"{removal.store.address(key)} belongs to the input {mine}, so nothing "
                        "was removed; move the input out of the results and the store first"
                    )


def remove(removals: Iterable[Removal]) -> None:
    """Remove what was found, records first."""
    for removal in removals:
        removal.store.delete_all(removal.keys)
        if not removal.store.is_s3:
            _remove_empty_folders(removal)


def removal_text(removals: list[Removal], confirmed: bool, how: str) -> str:
    """Text for the user on what is, or was, removed; ``how`` says what to add to confirm it."""
    lines = [str(removal) for removal in removals]
    if not removals:
        return "nothing to remove\n"
    size, count = sum(r.size for r in removals), sum(len(r.keys) for r in removals)
    end = (
        "removed"
        if confirmed
        else f"would be removed; nothing was removed yet. To remove them: {how}"
    )
    return "\n".join([*lines, f"{size / 1e9:10.3f} GB {count:8d} files {end}"]) + "\n"


def _removal(place: Store, entries: Sequence[Entry], what: str) -> Removal:
    for folder in {entry.key.rpartition("/")[0] for entry in entries}:
        _check_inside(place, folder)
    # records first, so that no record ever outlives its data
    ordered = sorted(entries, key=lambda e: (not e.key.endswith(".json"), e.key))
    return Removal(place, tuple(e.key for e in ordered), sum(e.size for e in ordered), what)


def _is_of_tile(key: str) -> bool:
    """Whether a key belongs to a tile's array or record, not to a batch, which is tracked."""
    part = key.split("/")[2]
    return part != "batches" and part != "dropped.json"


def _different(places: Iterable[Store]) -> list[Store]:
    """Distinct places only: results and store may be the same folder."""
    return list({_canonical(place.url): place for place in places}.values())


def _is_there(place: Store, name: str) -> bool:
    """Whether a name may exist (on S3 the listing will tell); a link is an error."""
    if not place.is_s3:
        _check_inside(place, name)
    return place.is_s3 or (Path(place.url) / name).exists()


def _check_inside(place: Store, folder: str) -> None:
    """Raise :class:`StoreError` if the path from results or store to a folder contains a link."""
    if place.is_s3:
        return
    top = Path(place.url)
    inside = Path(_canonical(str(top.parent)), top.name, folder)
    if _canonical(str(top / folder)) != str(inside):
        raise StoreError(
            f"{top / folder} is a link, whose target is not removed; remove it yourself"
        )


def _canonical(address: str) -> str:
    return address.rstrip("/") if address.startswith("s3://") else os.path.realpath(address)


def _remove_empty_folders(removal: Removal) -> None:
    top = Path(removal.store.url)
    folders = {parent for key in removal.keys for parent in (top / key).parents}
    for folder in sorted(folders, key=lambda f: -len(f.parts)):
        if folder.is_relative_to(top) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
