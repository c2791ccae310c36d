"""A store is a folder or an ``s3://bucket/prefix``; keys are relative paths with ``/``.

Small objects (JSON records, metadata) go through :class:`Store`; arrays go through tensorstore,
which takes :meth:`Store.kvstore`. Both see the same keys. A write is atomic: readers see the old
object or the new one, never a part. What was written to a folder is on its disk when
:func:`terareg.storage.durable.make_durable` has returned.
"""

from __future__ import annotations

import builtins
import errno
import itertools
import os
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote

from terareg.core.errors import StoreError
from terareg.storage import durable, s3, traffic
from terareg.storage.durable import disk_error, disk_full, make_durable

_GZIP_WBITS = 31  # a gzip header, and the largest window
_STARTED_BYTES = 1 << 23  # of an object that grows, which the system is asked to write at once
# names of folders and of an object, none of which leads elsewhere or may be left out
_PLAIN_KEY = re.compile(r"(?!\.{1,2}(/|\Z))[^/\\\0]+(/(?!\.{1,2}(/|\Z))[^/\\\0]+)*")


def check_key(key: str) -> str:
    """Return ``key`` if it stays inside the store, otherwise raise :class:`StoreError`."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key:
        raise StoreError(f"key {key!r} would leave the store; use a relative path without '..'")
    return str(path)


@dataclass(frozen=True)
class Entry:
    """One object of a listing: key relative to the store, size in bytes, change stamp."""

    key: str
    size: int
    stamp: str


# addresses with a slash too few, and paths of Windows: as names of folders they would be made here
_ALMOST = re.compile(r"(?:s3|gs|https?|file)(?::/?[^/]|//)|[A-Za-z]:\\", re.IGNORECASE)


@dataclass(frozen=True)
class Store:
    """Objects below a folder or an S3 prefix.

    Parameters
    ----------
    url : str
        Folder path, ``file://`` URL, or ``s3://bucket/prefix``. S3 uses boto3's standard
        credential chain and honours ``AWS_ENDPOINT_URL``.
    """

    url: str

    def __post_init__(self) -> None:
        url = str(self.url)
        s3.check_no_secret(url, "an address of the configuration")
        if url.startswith("file://"):
            path = url.removeprefix("file://")
            if path.startswith("localhost/"):
                path = path.removeprefix("localhost")
            url = unquote(path)
        elif "://" in url and not url.startswith("s3://"):
            raise StoreError(f"store {url!r} is not supported; give a folder or s3://bucket/prefix")
        elif _ALMOST.match(url):
            raise StoreError(
                f"store {url!r} is neither a folder nor an address; write s3://bucket/prefix, or "
                "the path of a folder of this machine"
            )
        if "\0" in url:
            raise StoreError(f"store {url!r} contains a NUL character; correct the path")
        if url.startswith("s3://") and not url.removeprefix("s3://").partition("/")[0]:
            raise StoreError(f"store {url!r} names no bucket; write s3://bucket/prefix")
        object.__setattr__(self, "url", url.rstrip("/") or "/")

    # ------------------------------------------------------------------ addresses
    @property
    def is_s3(self) -> bool:
        """Whether this is an S3 prefix."""
        return self.url.startswith("s3://")

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine, whose files can be opened."""
        return not self.is_s3

    @property
    def bucket(self) -> str:
        """Bucket of an S3 store."""
        return self.url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Prefix of an S3 store, without slashes at its ends."""
        return self.url.removeprefix("s3://").partition("/")[2].strip("/")

    @cached_property
    def _s3(self) -> s3.Bucket:
        return s3.Bucket(self.bucket, self.prefix)

    def child(self, key: str) -> Store:
        """Store below ``key``."""
        return Store(f"{self.url}/{check_key(key)}")

    @cached_property
    def _folder(self) -> Path:
        return Path(self.url)

    def path(self, key: str) -> Path:
        """Path of a key in a folder store."""
        return self._folder / check_key(key)

    def _file(self, key: str) -> str:
        """As :meth:`path`, without an object for a path, which costs more than opening a file."""
        return f"{self.url}/{check_key(key)}"

    def address(self, key: str) -> str:
        """Full address for messages and links."""
        return f"{self.url}/{check_key(key)}"

    def kvstore(self, key: str) -> dict[str, Any]:
        """Return the tensorstore key-value specification of the folder ``key``."""
        key = check_key(key)
        if not self.is_s3:
            return {"driver": "file", "path": str(Path(self.url).absolute() / key) + "/"}
        return self._s3.kvstore(key)

    # ------------------------------------------------------------------ objects
    def read(self, key: str) -> bytes:
        """Return an object, or raise :class:`FileNotFoundError`."""
        data = self._read(key)
        traffic.tell(read=len(data))
        return data

    def _read(self, key: str) -> bytes:
        if not self.is_s3:
            try:
                with open(open_regular(self._file(key)), "rb") as stream:
                    return stream.read()
            except NotADirectoryError as error:
                raise FileNotFoundError(self.address(key)) from error
            except PermissionError as error:
                raise StoreError(
                    f"cannot read {self.address(key)} ({error.strerror}); check its permissions"
                ) from error
        return self._s3.read(check_key(key))

    def read_range(self, key: str, start: int, count: int) -> tuple[bytes, Entry]:
        """Return up to ``count`` bytes of an object from ``start``, and the entry of the object.

        Raises :class:`FileNotFoundError` if it is not there, and from S3 :class:`EOFError` if it
        ends before ``start``.
        """
        data, entry = self._read_range(key, start, count)
        traffic.tell(read=len(data))
        return data, entry

    def _read_range(self, key: str, start: int, count: int) -> tuple[bytes, Entry]:
        if not self.is_s3:
            try:
                descriptor = open_regular(self.path(key))
            except NotADirectoryError as error:
                raise FileNotFoundError(self.address(key)) from error
            with open(descriptor, "rb") as stream:
                facts = os.fstat(descriptor)
                stream.seek(start)
                return stream.read(count), Entry(key, facts.st_size, str(facts.st_mtime_ns))
        data, size, stamp = self._s3.read_range(check_key(key), start, count)
        return data, Entry(key, size, stamp)

    def write(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Write an object atomically, making folders as needed; a memoryview is of bytes."""
        traffic.tell(written=len(data))
        if self.is_s3:
            self._s3.write(check_key(key), bytes(data) if isinstance(data, memoryview) else data)
            return
        path = self._file(key)
        try:
            try:
                descriptor = _appear(path, data)
            except FileNotFoundError:
                durable.make_folders(os.path.dirname(path))
                descriptor = _appear(path, data)
        except OSError as error:
            raise self._os_error("write", key, error) from error
        durable.follow(path, descriptor, len(data))

    def create(self, key: str) -> NewObject:
        """Begin an object that is written piece by piece."""
        return NewObject(self, key)

    def exists(self, key: str) -> bool:
        """Whether an object (not a folder) is there."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes of an object, None if it is not there."""
        entry = self.entry(key)
        return None if entry is None else entry.size

    def entry(self, key: str) -> Entry | None:
        """Listing of one object, None if it is not there."""
        if not self.is_s3:
            path = self.path(key)
            if not path.is_file():
                return None
            facts = path.stat()
            return Entry(check_key(key), facts.st_size, str(facts.st_mtime_ns))
        found = self._s3.find(check_key(key))
        return None if found is None else Entry(check_key(key), *found)

    def list(self, key: str = "") -> Iterator[Entry]:
        """All objects below the folder ``key`` (everything if empty), sorted by key."""
        found = self.walk(key)
        yield from found if self.is_s3 else sorted(found, key=lambda entry: entry.key)

    def walk(self, key: str = "") -> Iterator[Entry]:
        """As :meth:`list`, but yield each as it is found, in any order."""
        if self.is_s3:
            for found in self._s3.list(key and check_key(key)):
                yield Entry(*found)
            return
        top = str(self.path(key) if key else Path(self.url))
        yield from _files_below(top, f"{check_key(key)}/" if key else "")

    def folders(self, key: str = "") -> builtins.list[str]:
        """Names of the folders directly below ``key``, sorted."""
        if not self.is_s3:
            top = self.path(key) if key else Path(self.url)
            return sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
        return sorted(self._s3.folders(key and check_key(key)))

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens if it is not there."""
        if self.is_s3:
            self._s3.delete(check_key(key))
            return
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                self.path(key).unlink()
        except OSError as error:
            raise self._os_error("delete", key, error) from error

    def delete_folder(self, key: str) -> None:
        """Remove all objects below ``key``. The bucket itself is never removed."""
        check_key(key)
        if not self.is_s3:
            path = self.path(key)
            try:
                if path.is_dir():
                    shutil.rmtree(path)
            except OSError as error:
                raise self._os_error("delete", key, error) from error
            return
        self.delete_all([entry.key for entry in self.list(key)])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects in this order; nothing happens for those that are not there."""
        if not self.is_s3:
            for key in keys:
                self.delete(key)
            return
        self._s3.delete_all([check_key(key) for key in keys])

    def settle_folder(self, key: str) -> None:
        """Wait until what was removed from a folder is gone from the disk; S3 needs no waiting."""
        if not self.is_s3:
            durable.settle_folder(self._file(key))

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Raise :class:`StoreError` unless an object can be written and removed here.

        For a folder, ``needed_bytes`` must be free as well.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"terareg")
        self.delete(probe)
        if not self.is_s3 and needed_bytes:
            free = shutil.disk_usage(self.url).free
            if free < needed_bytes:
                raise StoreError(
                    f"store {self.url} has {free / 1e9:.1f} GB free but this sample needs about "
                    f"{needed_bytes / 1e9:.1f} GB; free some space or point store: elsewhere"
                )

    def _os_error(self, verb: str, key: str, error: OSError) -> StoreError:
        return disk_error(verb, self.address(key), error)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "url", state["url"])


class NewObject:
    """An object that is written piece by piece and appears when it is complete.

    In a folder it is written to a hidden file beside its final place; for S3 it is held in memory.

    Parameters
    ----------
    store : Store
    key : str

    Attributes
    ----------
    size : int
        Bytes so far.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, check_key(key)
        self.size = self._unstarted = 0
        self._descriptor = -1
        self._part: str | None = None
        self._data = bytearray()
        if store.is_s3:
            return
        self._path = store._file(key)
        self._part = _part_of(self._path)
        try:
            durable.make_folders(os.path.dirname(self._path))
            self._descriptor = _new_file(self._part)
        except OSError as error:
            raise store._os_error("write", key, error) from error

    def write(self, start: int, *pieces: Any) -> None:
        """Put bytes, or arrays of uint8, one after the other at ``start``; gaps are zeros."""
        views = [memoryview(piece) for piece in pieces if len(piece)]
        stop = start + sum(len(view) for view in views)
        if self._store.is_s3:
            self._data.extend(bytes(max(0, stop - len(self._data))))
            for view in views:
                self._data[start : start + len(view)] = view
                start += len(view)
        else:
            try:
                self._write(start, views)
            except OSError as error:
                raise self._store._os_error("write", self._key, error) from error
            self._unstarted += sum(len(piece) for piece in pieces)
            if self._unstarted >= _STARTED_BYTES:
                durable.start_writing(self._descriptor)
                self._unstarted = 0
        self.size = max(self.size, stop)

    def commit(self) -> None:
        """Make the object appear, complete."""
        if self._store.is_s3:
            self._store.write(self._key, self._data)
            self._data = bytearray()
            return
        traffic.tell(written=self.size)
        if self._part is None:
            raise ValueError(f"{self._key} was committed or discarded before")
        try:
            durable.start_writing(self._descriptor)
            os.replace(self._part, self._path)
        except OSError as error:
            raise self._store._os_error("write", self._key, error) from error
        descriptor, self._descriptor, self._part = self._descriptor, -1, None
        durable.follow(self._path, descriptor, self.size)

    def discard(self) -> None:
        """Remove what was written, unless the object was committed."""
        self._data = bytearray()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._part is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._part)
            self._part = None

    def _write(self, start: int, views: list[memoryview]) -> None:
        while views:
            done = os.pwritev(self._descriptor, views, start)
            start += done
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]


#: the exceptions that tensorstore raises
ARRAY_ERRORS = (ValueError, OSError, RuntimeError)


def outage(address: str, error: Exception) -> StoreError | None:
    """The exception to raise if the store made tensorstore fail; None if the object itself did.

    Parameters
    ----------
    address : str
        What was read or written.
    error : Exception
        Raised by tensorstore; only its text tells the cause.
    """
    if "No space left" in str(error):
        return disk_full(address)
    return s3.outage(address, error)


def _files_below(folder: str, prefix: str) -> Iterator[Entry]:
    """Files below a local folder; strings, not Path, because an acquisition has a million files."""
    try:
        found = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise StoreError(
            f"cannot read {folder} ({error.strerror}); check its permissions"
        ) from error
    with found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                yield from _files_below(item.path, f"{prefix}{item.name}/")
            elif not item.is_dir():
                try:
                    facts = item.stat()
                except FileNotFoundError:  # renamed in the meantime, or a dangling link
                    continue
                yield Entry(prefix + item.name, facts.st_size, str(facts.st_mtime_ns))


def open_regular(path: str | os.PathLike[str]) -> int:
    """File descriptor of a regular file, open for reading.

    A pipe, a socket or a device may never end, so opening one is an :class:`OSError`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def gzipped(data: bytes | bytearray | memoryview, level: int) -> bytes:
    """One gzip member without a time; the same bytes in every version of Python.

    ``gzip.compress`` of Python 3.13 names another operating system in its header than those before.
    """
    return zlib.compress(data, level, wbits=_GZIP_WBITS)


def write_atomic(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write a local file so that it is either complete or absent, even after a power cut.

    It may name objects, so that these are made durable before it appears.
    """
    with atomic_file(path, buffered=False) as stream:
        left = memoryview(data).cast("B")
        while left:
            left = left[stream.write(left) :]


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, buffered: bool = True) -> Iterator[BinaryIO]:
    """Open a local file for writing; it appears when the ``with`` block ends without an error.

    See :func:`write_atomic`.
    """
    part = _part_of(path)
    try:
        with open(part, "xb", buffering=-1 if buffered else 0) as stream:
            yield stream
            stream.flush()
            make_durable()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _appear(path: str, data: bytes | bytearray | memoryview) -> int:
    """Write a file that appears when it is complete; return its descriptor."""
    part, left = _part_of(path), memoryview(data).cast("B")
    try:
        descriptor = _new_file(part)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            if len(data) >= durable.WORTH_STARTING:
                durable.start_writing(descriptor)
            os.replace(part, path)
        except BaseException:
            os.close(descriptor)
            raise
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise
    return descriptor


def _new_file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _part_of(path: str | os.PathLike[str]) -> str:
    """The temporary file for a file that is to appear at ``path``; no two are the same."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder, f".{name}.{_process.hex}{next(_parts):x}.part")


def _renew_process() -> None:
    global _process
    _process = uuid.uuid4()


# random bytes for each file would cost as much as opening it
_process, _parts = uuid.uuid4(), itertools.count()
os.register_at_fork(after_in_child=_renew_process)
