"""Checksums of the files that one job hands to the next.

When its outputs are written, a job puts the SHA-256 of each into the store, as one small object per
file; a job that reads such a file compares it first. So a flipped bit on a disk, a truncated file
or one that somebody edited is an error that names the file, instead of a different result. Files
that no job wrote (raw data, the user's own) have no checksum and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from terareg.core.errors import StoreError
from terareg.core.parallel import map_items
from terareg.storage.records import file_hash, read_record, write_record
from terareg.storage.store import Store

#: folder of the checksums, below a sample's folder in the store
FOLDER = "checksums"
_WORKERS = 8


def write_checksums(store: Store, root: str, rule: str, paths: Iterable[str]) -> None:
    """Write the checksums of a job's outputs.

    Parameters
    ----------
    store : Store
        Of the sample.
    root : str
        Folder of the sample's tracked files ("results/brain"), as their paths begin.
    rule : str
        The rule that wrote them.
    paths : iterable of str
        Files; those that do not lie below ``root`` are left out.
    """

    def write(path: str) -> None:
        write_record(store, _key(path, root), {"rule": rule, "sha256": file_hash(path)})

    for _ in map_items(write, _own(paths, root), workers=_WORKERS):
        pass


def compare_checksums(store: Store, root: str, paths: Iterable[str]) -> None:
    """Compare a job's inputs with the checksums that their jobs wrote, see :func:`write_checksums`.

    Raises
    ------
    StoreError
        For the first file that is not what its job wrote.
    """

    def compare(path: str) -> None:
        record = read_record(store, _key(path, root))
        if record is None:
            return
        found = file_hash(path)
        if found != record.get("sha256"):
            raise StoreError(
                f"{path} has changed since {record.get('rule')} wrote it (SHA-256 {found[:12]} "
                f"instead of {str(record.get('sha256'))[:12]}); it was damaged or edited, so "
                "delete it and run again, and give files of your own in the configuration instead"
            )

    for _ in map_items(compare, _own(paths, root), workers=_WORKERS):
        pass


def _own(paths: Iterable[str], root: str) -> list[str]:
    return [path for path in map(str, paths) if _below(path, root) and Path(path).is_file()]


def _below(path: str, root: str) -> str | None:
    """The part of a path below ``root``, None if it does not lie there."""
    _, found, name = f"/{path}".partition(f"/{root.strip('/')}/")
    return name if found else None


def _key(path: str, root: str) -> str:
    return f"{FOLDER}/{_below(path, root)}.json"
