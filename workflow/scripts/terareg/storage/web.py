"""Stores on the web: objects below an ``https://`` or ``http://`` address, read only.

A web server lists nothing, so that what is there follows from metadata alone. Arrays go through
tensorstore, which asks for parts of objects (HTTP ranges) where volumes are sharded.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlsplit

from terareg.core.errors import StoreError
from terareg.storage.store import Entry, Store, check_key

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.5
_TIMEOUT_S = 30
# public buckets answer 403 for an object that is not there
_ABSENT = (403, 404, 410)
_UNTRUE_RANGE = 416
_PARTIAL = 206
# of an object that a server which sends no parts may send as a whole
_WHOLE_BYTES = 32 * 2**20
_UNPACKED_BYTES = 1 << 30
_FORMATS_BEFORE = ("precomputed", "zarr", "zarr2", "zarr3")
_FORMATS_AFTER = ("", "neuroglancer-precomputed", "zarr", "zarr2", "zarr3")
#: where public buckets of Google are read
GOOGLE = "https://storage.googleapis.com"


def is_web(address: str) -> bool:
    """Whether an address is one of the web."""
    return address.lower().startswith(("https://", "http://"))


def plain_address(address: str) -> str:
    """An address without the names of formats that Neuroglancer puts before or after it.

    Public buckets of Google are read from the web: ``gs://bucket/prefix`` becomes an ``https://``
    address.
    """
    for name in _FORMATS_BEFORE:
        address = address.removeprefix(f"{name}://")
    address, _, after = address.partition("|")
    if after.rstrip(":/") not in _FORMATS_AFTER:
        address = f"{address}|{after}"
    if address.startswith("gs://"):
        address = f"{GOOGLE}/{address.removeprefix('gs://')}"
    return address.rstrip("/")


def store_at(address: str) -> Store:
    """The store at an address: a folder, ``s3://``, or, read only, ``https://``."""
    return WebStore(address) if is_web(address) else Store(address)


def beside(address: str) -> tuple[Store, str]:
    """Store of the folder that a file lies in, and its name there."""
    folder, _, name = address.rpartition("/")
    return store_at(folder or ("/" if address.startswith("/") else ".")), name


class WebStore(Store):
    """Objects below an address of the web; see :class:`terareg.storage.store.Store`.

    Objects that the server refuses (403) count as absent: public buckets answer so for those that
    are not there.

    Parameters
    ----------
    url : str
        Without query and fragment.
    """

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not is_web(self.url) or not parts.hostname or parts.query or parts.fragment:
            # a query may be a signature, which is not shown
            shown = self.url.partition("?")[0] + ("?..." if parts.query else "")
            raise StoreError(
                f"{shown!r} is not the web address of a folder or file; write "
                "https://server/folder, without ? and #"
            )
        if parts.username or parts.password:
            raise StoreError(
                f"the address of {parts.hostname} contains a user name or password; only public "
                "volumes are read from the web, so remove it"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return False

    def child(self, key: str) -> Store:
        return WebStore(self.address(key))

    def kvstore(self, key: str) -> dict[str, Any]:
        parts = urlsplit(self.url)
        path = f"{unquote(parts.path)}/{check_key(key)}/"
        return {"driver": "http", "base_url": f"{parts.scheme}://{parts.netloc}", "path": path}

    def _read(self, key: str) -> bytes:
        return self._ask(key)[0]

    def _read_range(self, key: str, start: int, count: int) -> tuple[bytes, Entry]:
        headers = {"Range": f"bytes={start}-{start + count - 1}"}
        data, total, stamp = self._ask(key, headers)
        if total == len(data) and (start or total > count):
            # a server that knows no ranges sends everything
            data = data[start : start + count]
        return data, Entry(key, total, stamp)

    def entry(self, key: str) -> Entry | None:
        try:
            _, size, stamp = self._ask(key, method="HEAD")
        except FileNotFoundError:
            return None
        return Entry(check_key(key), size, stamp)

    def walk(self, key: str = "") -> Iterator[Entry]:
        return iter(())

    def folders(self, key: str = "") -> list[str]:
        return []

    def write(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._refuse()

    def create(self, key: str) -> NoReturn:
        self._refuse()

    def delete(self, key: str) -> None:
        self._refuse()

    def delete_folder(self, key: str) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self.url} is read-only; give a folder or s3://bucket/prefix")

    def _ask(
        self, key: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[bytes, int, str]:
        """Body, size of the whole object, and its tag."""
        address = self.address(key)
        target = urlsplit(self.url)
        path = quote(f"{unquote(target.path)}/{check_key(key)}")
        request = urllib.request.Request(
            f"{target.scheme}://{target.netloc}{path}", headers=headers or {}, method=method
        )
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                    if headers and answer.status != _PARTIAL:
                        _check_small(address, answer)
                    data = answer.read()
                    if answer.headers.get("Content-Encoding") == "gzip" and method == "GET":
                        # some servers pack what was stored packed, whether asked to or not
                        data = _unpacked(address, data)
                        return data, len(data), _stamp(answer.headers)
                    size = _size(answer.headers, len(data))
                    return data, size, _stamp(answer.headers)
            except urllib.error.HTTPError as error:
                if error.code in _ABSENT:
                    raise FileNotFoundError(address) from error
                if error.code == _UNTRUE_RANGE:
                    raise EOFError(address) from error
                problem: Exception = error
            except (OSError, HTTPException) as error:
                problem = error
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_FIRST_WAIT_S * 2**attempt)
        raise StoreError(
            f"{address} cannot be read ({problem}); check the address and the network"
        ) from problem


def _stamp(headers: Any) -> str:
    return str(headers.get("ETag") or headers.get("Last-Modified") or "")


def _unpacked(address: str, data: bytes) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    try:
        found = inflate.decompress(data, _UNPACKED_BYTES)
    except zlib.error as error:
        raise StoreError(f"{address} is no gzip, as its server says; correct the file") from error
    if not inflate.eof:
        raise StoreError(
            f"{address} is cut off, or unpacks to over {_UNPACKED_BYTES >> 30} GiB; correct the "
            "file"
        )
    return found


def _check_small(address: str, answer: Any) -> None:
    """Raise if a server that was asked for a part sends a large object as a whole."""
    length = answer.headers.get("Content-Length", "")
    if not _is_size(length) or int(length) > _WHOLE_BYTES:
        raise StoreError(
            f"the server of {address} sends no parts of files (HTTP ranges); download the file, or "
            "put it on a server that does, or on s3://"
        )


def _size(headers: Any, received: int) -> int:
    """Size of the whole object, of which a part may have been asked for."""
    whole = headers.get("Content-Range", "").rpartition("/")[2]
    if _is_size(whole):
        return int(whole)
    length = headers.get("Content-Length", "")
    return int(length) if _is_size(length) else received


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) < 20
