"""A store is a folder or an ``s3://bucket/prefix``; keys are relative paths with ``/``.

Small objects (JSON records, metadata) go through :class:`Store`; arrays go through tensorstore,
which takes :meth:`Store.kvstore`. Both see the same keys. A write is atomic: readers see the old
object or the new one, never a part.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote

from terareg.core.errors import StoreError
from terareg.storage import traffic

_MULTI_DELETE = 1000
# Errors 500 and 503, resets and silence pass: a request is made this often in all, with waits
# that double from the first to the longest. The same holds for small objects and for arrays.
_ATTEMPTS = 10
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 20.0
_CONNECT_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 60.0


def check_key(key: str) -> str:
    """Return ``key`` if it stays inside the store, otherwise raise :class:`StoreError`."""
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
    _local: threading.local = field(
        default_factory=threading.local, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        url = str(self.url)
        if url.startswith("file://"):
            path = url.removeprefix("file://")
            if path.startswith("localhost/"):
                path = path.removeprefix("localhost")
            url = unquote(path)
        elif "://" in url and not url.startswith("s3://"):
            raise StoreError(f"store {url!r} is not supported; give a folder or s3://bucket/prefix")
        if url.startswith("s3://") and not url.removeprefix("s3://").partition("/")[0]:
            raise StoreError(f"store {url!r} names no bucket; write s3://bucket/prefix")
        object.__setattr__(self, "url", url.rstrip("/") or "/")

    # ------------------------------------------------------------------ addresses
    @property
    def is_s3(self) -> bool:
        """Whether this is an S3 prefix."""
        return self.url.startswith("s3://")

    @property
    def bucket(self) -> str:
        """Bucket of an S3 store."""
        return self.url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Prefix of an S3 store, without slashes at its ends."""
        return self.url.removeprefix("s3://").partition("/")[2].strip("/")

    def child(self, key: str) -> Store:
        """Store below ``key``."""
        return Store(f"{self.url}/{check_key(key)}")

    def path(self, key: str) -> Path:
        """Path of a key in a folder store."""
        return Path(self.url) / check_key(key)

    def address(self, key: str) -> str:
        """Full address for messages and links."""
        return f"{self.url}/{check_key(key)}"

    def kvstore(self, key: str) -> dict[str, Any]:
        """Return the tensorstore key-value specification of the folder ``key``."""
        key = check_key(key)
        if not self.is_s3:
            return {"driver": "file", "path": str(Path(self.url).absolute() / key) + "/"}
        spec: dict[str, Any] = {
            "driver": "s3",
            "bucket": self.bucket,
            "path": "/".join(p for p in (self.prefix, key) if p) + "/",
            "s3_request_retries": {
                "max_retries": _ATTEMPTS,
                "initial_delay": f"{_FIRST_DELAY_S}s",
                "max_delay": f"{_LONGEST_DELAY_S}s",
            },
        }
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            spec["endpoint"] = endpoint
        # without a region tensorstore asks AWS for the bucket's, which other servers do not tell
        region = _region() or ("us-east-1" if endpoint else None)
        if region:
            spec["aws_region"] = region
        return spec

    # ------------------------------------------------------------------ objects
    def read(self, key: str) -> bytes:
        """Return an object, or raise :class:`FileNotFoundError`."""
        data = self._read(key)
        traffic.tell(read=len(data))
        return data

    def _read(self, key: str) -> bytes:
        if not self.is_s3:
            try:
                return self.path(key).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(self.address(key)) from error
            except PermissionError as error:
                raise StoreError(
                    f"cannot read {self.address(key)} ({error.strerror}); check its permissions"
                ) from error
        with self._s3_errors(key):
            return self._got(key)[0]

    def read_range(self, key: str, start: int, count: int) -> tuple[bytes, Entry]:
        """Return up to ``count`` bytes of an object from ``start`` on, and what the object is.

        Raises :class:`FileNotFoundError` if it is not there, and from S3 :class:`EOFError` if it
        ends before ``start``.
        """
        data, entry = self._read_range(key, start, count)
        traffic.tell(read=len(data))
        return data, entry

    def _read_range(self, key: str, start: int, count: int) -> tuple[bytes, Entry]:
        if not self.is_s3:
            with open(self.path(key), "rb") as stream:
                stat = os.fstat(stream.fileno())
                stream.seek(start)
                return stream.read(count), Entry(key, stat.st_size, str(stat.st_mtime_ns))
        with self._s3_errors(key):
            data, found = self._got(key, Range=f"bytes={start}-{start + count - 1}")
            size = int(found.get("ContentRange", f"/{start + len(data)}").rsplit("/", 1)[1])
            return data, Entry(key, size, found["ETag"].strip('"'))

    def write(self, key: str, data: bytes) -> None:
        """Write an object atomically, making folders as needed."""
        traffic.tell(written=len(data))
        if self.is_s3:
            with self._s3_errors(key):
                self._client().put_object(Bucket=self.bucket, Key=self._key(key), Body=data)
            return
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise self._os_error("write", key, error) from error

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
            stat = path.stat()
            return Entry(check_key(key), stat.st_size, str(stat.st_mtime_ns))
        try:
            with self._s3_errors(key):
                head = self._client().head_object(Bucket=self.bucket, Key=self._key(key))
                return Entry(check_key(key), int(head["ContentLength"]), head["ETag"].strip('"'))
        except FileNotFoundError:
            return None

    def list(self, key: str = "") -> Iterator[Entry]:
        """All objects below the folder ``key`` (everything if empty), sorted by key."""
        if self.is_s3:
            yield from self._list_s3(key)
            return
        top = str(self.path(key) if key else Path(self.url))
        entries = _files_below(top, f"{check_key(key)}/" if key else "")
        yield from sorted(entries, key=lambda entry: entry.key)

    def folders(self, key: str = "") -> list[str]:
        """Names of the folders directly below ``key``, sorted."""
        if not self.is_s3:
            top = self.path(key) if key else Path(self.url)
            return sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
        prefix = self._key(key) + "/" if key else (self.prefix + "/" if self.prefix else "")
        names = []
        with self._s3_errors(key or "."):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                names += [p["Prefix"][len(prefix) : -1] for p in page.get("CommonPrefixes", [])]
        return sorted(names)

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens if it is not there."""
        if self.is_s3:
            with self._s3_errors(key):
                self._client().delete_object(Bucket=self.bucket, Key=self._key(key))
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
        for first in range(0, len(keys), _MULTI_DELETE):
            part = keys[first : first + _MULTI_DELETE]
            objects = [{"Key": self._key(key)} for key in part]
            with self._s3_errors(part[0]):
                done = self._client().delete_objects(
                    Bucket=self.bucket, Delete={"Objects": objects}
                )
            for left in done.get("Errors", []):
                raise StoreError(
                    f"s3://{self.bucket}/{left.get('Key')} could not be deleted "
                    f"({left.get('Code')}); check the bucket's policy (docs/aws.md)"
                )

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

    # ------------------------------------------------------------------ S3
    def _client(self):
        if not hasattr(self._local, "client"):
            import boto3
            from botocore.config import Config

            session = boto3.session.Session()
            self._local.client = session.client(
                "s3",
                config=Config(
                    retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    region_name=_region() or session.region_name or "us-east-1",
                ),
            )
        return self._local.client

    def _got(self, key: str, **more: str) -> tuple[bytes, dict]:
        """Bytes of an object, and the answer that they came with.

        boto3 asks again until an answer begins, this until it is whole.
        """
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        delay, left = _FIRST_DELAY_S, _ATTEMPTS
        while True:
            answer = self._client().get_object(Bucket=self.bucket, Key=self._key(key), **more)
            left -= 1
            try:
                return answer["Body"].read(), answer
            except (HTTPClientError, IncompleteReadError):
                if not left:
                    raise
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_S)

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, check_key(key)) if part)

    def _list_s3(self, key: str) -> Iterator[Entry]:
        strip = len(self.prefix) + 1 if self.prefix else 0
        prefix = self._key(key) + "/" if key else (self.prefix + "/" if self.prefix else "")
        with self._s3_errors(key or "."):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield Entry(item["Key"][strip:], item["Size"], item["ETag"].strip('"'))

    def _s3_errors(self, key: str) -> _S3Errors:
        return _S3Errors(self, key)

    def _os_error(self, verb: str, key: str, error: OSError) -> StoreError:
        if error.errno == errno.ENOSPC:
            return _disk_full(self.address(key))
        return StoreError(
            f"cannot {verb} {self.address(key)} ({error.strerror}); "
            "check the folder's permissions or point store: elsewhere"
        )

    def __getstate__(self) -> dict:
        return {"url": self.url}

    def __setstate__(self, state: dict) -> None:
        object.__setattr__(self, "url", state["url"])
        object.__setattr__(self, "_local", threading.local())


class NewObject:
    """An object that is written piece by piece and appears when it is whole.

    In a folder it grows in a hidden file beside its place; for S3 it is held in memory.

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
        self.size = 0
        self._descriptor = -1
        self._part: Path | None = None
        self._data = bytearray()
        if store.is_s3:
            return
        self._path = store.path(key)
        self._part = _part_of(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
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
        self.size = max(self.size, stop)

    def commit(self) -> None:
        """Make the object appear, complete and on disk."""
        if self._store.is_s3:
            self._store.write(self._key, self._data)
            self._data = bytearray()
            return
        traffic.tell(written=self.size)
        try:
            os.fsync(self._descriptor)
            self._close()
            os.replace(self._part, self._path)
            self._part = None
        except OSError as error:
            raise self._store._os_error("write", self._key, error) from error

    def discard(self) -> None:
        """Leave nothing behind, unless the object was committed."""
        self._data = bytearray()
        if self._descriptor >= 0:
            self._close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def _write(self, start: int, views: list[memoryview]) -> None:
        while views:
            done = os.pwritev(self._descriptor, views, start)
            start += done
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


@dataclass
class _S3Errors:
    """Turn botocore's errors into FileNotFoundError or one StoreError sentence."""

    store: Store
    key: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is None:
            return False
        from botocore import exceptions

        address = self.store.address(self.key)
        if isinstance(error, exceptions.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey", "NotFound"):
                raise FileNotFoundError(address) from error
            if code in ("416", "InvalidRange"):
                raise EOFError(f"{address} ends too early") from error
            raise self._refusal(code, address) from error
        if isinstance(error, (exceptions.ResponseStreamingError, exceptions.IncompleteReadError)):
            raise StoreError(
                f"reading {address} ended early {_ATTEMPTS} times ({_line(error)}); "
                "check the network and run again"
            ) from error
        if isinstance(error, exceptions.BotoCoreError):
            raise StoreError(
                f"cannot reach {address}: {_line(error)}; check network, credentials and region "
                "(AWS_REGION), and run again"
            ) from error
        return False

    def _refusal(self, code: str, address: str) -> StoreError:
        url = self.store.url
        if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return _forbidden(url, code)
        if code == "NoSuchBucket":
            advice = f"bucket {self.store.bucket!r} does not exist; create it or correct {url}"
        elif code in ("ExpiredToken", "RequestExpired", "TokenRefreshRequired"):
            advice = f"the AWS credentials for {url} have expired ({code}); log in and run again"
        else:
            advice = (
                f"S3 answered {code} for {address}; run again later, what is finished is kept; "
                "if it goes on, let fewer jobs run at once (--jobs)"
            )
        return StoreError(advice)


#: what tensorstore raises
ARRAY_ERRORS = (ValueError, OSError, RuntimeError)


def outage(address: str, error: Exception) -> StoreError | None:
    """What to raise where the store made tensorstore fail, None where an object did.

    Parameters
    ----------
    address : str
        What was read or written.
    error : Exception
        Of tensorstore, which tells causes by its text alone.
    """
    text = _line(error)
    if "No space left" in text:
        return _disk_full(address)
    if "PERMISSION_DENIED" in text and "s3://" in address:
        return _forbidden(address, "PERMISSION_DENIED")
    if "retry attempts failed" not in text:
        return None
    cause = re.sub(r" \[\w+='.*", "", text.rpartition("failed: ")[2])
    return StoreError(
        f"S3 or the network failed {_ATTEMPTS} times for {address} ({cause}); run again, what is "
        "finished is kept"
    )


def _disk_full(address: str) -> StoreError:
    return StoreError(
        f"disk full while writing {address}; free some space and run again, what is finished is "
        "kept"
    )


def _forbidden(address: str, code: str) -> StoreError:
    return StoreError(
        f"access to {address} is forbidden ({code}); check the AWS credentials and the bucket's "
        "policy (docs/aws.md)"
    )


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _files_below(folder: str, prefix: str) -> Iterator[Entry]:
    """Files below a local folder; an acquisition has a million of them, so without Path."""
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
                    stat = item.stat()
                except FileNotFoundError:  # renamed since, or a link to nothing
                    continue
                yield Entry(prefix + item.name, stat.st_size, str(stat.st_mtime_ns))


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a local file so that it is either complete or absent, also after a power cut."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a local file to be written, which appears when the block ends without an error."""
    path = Path(path)
    part = _part_of(path)
    try:
        with open(part, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _part_of(path: Path) -> Path:
    """Where a file grows that is to appear at ``path``."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
