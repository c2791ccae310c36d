"""Objects below a prefix of an S3 bucket; every failure is reported in one sentence.

boto3 is imported at the first request, so that plans are made without it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from terareg.core.errors import StoreError

_MULTI_DELETE = 1000
# Errors 500 and 503, resets and timeouts are temporary: a request is tried this many times in all,
# with waits that double from the first to the longest. Small objects and arrays are treated alike.
_ATTEMPTS = 10
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 20.0
_CONNECT_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 60.0
_SECRET = re.compile(r"(signature|secret|token|accesskeyid|credential|password)=", re.IGNORECASE)


class Bucket:
    """Objects of a bucket whose keys begin with a prefix.

    Keys are relative to the prefix, without slashes at their ends. All methods raise
    :class:`FileNotFoundError` for an object that is not there, unless they say otherwise, and
    :class:`~terareg.core.errors.StoreError` where S3 or the network fail.

    Parameters
    ----------
    name : str
        Of the bucket.
    prefix : str
        Without slashes at its ends; empty for the whole bucket.
    """

    def __init__(self, name: str, prefix: str) -> None:
        self.name, self.prefix = name, prefix
        self._local = threading.local()

    def kvstore(self, key: str) -> dict[str, Any]:
        """Return the tensorstore key-value specification of the folder ``key``."""
        spec: dict[str, Any] = {
            "driver": "s3",
            "bucket": self.name,
            "path": self._key(key) + "/",
            "s3_request_retries": {
                "max_retries": _ATTEMPTS,
                "initial_delay": f"{_FIRST_DELAY_S}s",
                "max_delay": f"{_LONGEST_DELAY_S}s",
            },
        }
        endpoint = _endpoint()
        if endpoint:
            spec["endpoint"] = endpoint
        # without a region, tensorstore asks for the bucket's region, which only AWS answers
        region = _region() or ("us-east-1" if endpoint else None)
        if region:
            spec["aws_region"] = region
        return spec

    def read(self, key: str) -> bytes:
        """Return an object."""
        with self._errors_named(key):
            return self._got(key)[0]

    def read_range(self, key: str, start: int, count: int) -> tuple[bytes, int, str]:
        """Up to ``count`` bytes of an object from ``start``, its size and its change stamp.

        Raises :class:`EOFError` if the object ends before ``start``.
        """
        with self._errors_named(key):
            data, found = self._got(key, Range=f"bytes={start}-{start + count - 1}")
            size = int(found.get("ContentRange", f"/{start + len(data)}").rsplit("/", 1)[1])
            return data, size, _stamp(found)

    def write(self, key: str, data: bytes | bytearray) -> None:
        """Write an object."""
        with self._errors_named(key):
            self._client().put_object(Bucket=self.name, Key=self._key(key), Body=data)

    def find(self, key: str) -> tuple[int, str] | None:
        """Size and change stamp of an object, None if it is not there."""
        try:
            with self._errors_named(key):
                head = self._client().head_object(Bucket=self.name, Key=self._key(key))
                return int(head["ContentLength"]), _stamp(head)
        except FileNotFoundError:
            return None

    def list(self, key: str) -> Iterator[tuple[str, int, str]]:
        """Key, size and change stamp of all objects below a folder, sorted by key.

        The folder "" holds everything.
        """
        strip = len(self.prefix) + 1 if self.prefix else 0
        for page in self._pages(key):
            for item in page.get("Contents", []):
                yield item["Key"][strip:], item["Size"], _stamp(item)

    def folders(self, key: str) -> Iterator[str]:
        """Names of the folders directly below a folder."""
        strip = len(self._folder(key))
        for page in self._pages(key, Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                yield item["Prefix"][strip:-1]

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if it is not there."""
        with self._errors_named(key):
            self._client().delete_object(Bucket=self.name, Key=self._key(key))

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects in this order; nothing happens for those that are not there."""
        for first in range(0, len(keys), _MULTI_DELETE):
            part = keys[first : first + _MULTI_DELETE]
            objects = {"Objects": [{"Key": self._key(key)} for key in part]}
            with self._errors_named(part[0]):
                done = self._client().delete_objects(Bucket=self.name, Delete=objects)
            for left in done.get("Errors", []):
                raise StoreError(
                    f"s3://{self.name}/{left.get('Key')} could not be deleted "
                    f"({left.get('Code')}); check the bucket's policy (docs/aws.md)"
                )

    # ------------------------------------------------------------------ requests
    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            import boto3
            from botocore.config import Config

            _endpoint()  # checked only: boto3 reads the variable by itself
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

    def _got(self, key: str, **more: str) -> tuple[bytes, dict[str, Any]]:
        """Bytes of an object, and the response that they came with.

        boto3 repeats a request until a response begins; this function repeats it until the response
        is complete.
        """
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        delay, left = _FIRST_DELAY_S, _ATTEMPTS
        while True:
            answer = self._client().get_object(Bucket=self.name, Key=self._key(key), **more)
            left -= 1
            try:
                return answer["Body"].read(), answer
            except (HTTPClientError, IncompleteReadError):
                if not left:
                    raise
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_S)

    def _pages(self, key: str, **more: str) -> Iterator[dict[str, Any]]:
        with self._errors_named(key or "."):
            pages = self._client().get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self.name, Prefix=self._folder(key), **more)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _folder(self, key: str) -> str:
        return "".join(f"{part}/" for part in (self.prefix, key) if part)

    # ------------------------------------------------------------------ failures
    @contextmanager
    def _errors_named(self, key: str) -> Iterator[None]:
        """Turn botocore's errors into FileNotFoundError, EOFError or one StoreError sentence."""
        from botocore import exceptions

        address = f"{self._url}/{key}"
        try:
            yield
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey", "NotFound"):
                raise FileNotFoundError(address) from error
            if code in ("416", "InvalidRange"):
                raise EOFError(f"{address} ends too early") from error
            raise self._refusal(code, address) from error
        except (exceptions.ResponseStreamingError, exceptions.IncompleteReadError) as error:
            raise StoreError(
                f"reading {address} ended early {_ATTEMPTS} times ({_line(error)}); "
                "check the network and run again"
            ) from error
        except exceptions.BotoCoreError as error:
            raise StoreError(
                f"cannot reach {address}: {_line(error)}; check network, credentials and region "
                "(AWS_REGION), and run again"
            ) from error

    @property
    def _url(self) -> str:
        return "/".join(part for part in (f"s3://{self.name}", self.prefix) if part)

    def _refusal(self, code: str, address: str) -> StoreError:
        url = self._url
        if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return _forbidden(url, code)
        if code == "NoSuchBucket":
            advice = f"bucket {self.name!r} does not exist; create it or correct {url}"
        elif code in ("ExpiredToken", "RequestExpired", "TokenRefreshRequired"):
            advice = f"the AWS credentials for {url} have expired ({code}); log in and run again"
        else:
            advice = (
                f"S3 answered {code} for {address}; run again later (finished work is kept); if "
                "it persists, let fewer jobs run at once (--jobs)"
            )
        return StoreError(advice)


def outage(address: str, error: Exception) -> StoreError | None:
    """The exception to raise if S3 made tensorstore fail; None if the object itself did.

    Parameters
    ----------
    address : str
        What was read or written.
    error : Exception
        Raised by tensorstore; only its text tells the cause.
    """
    text = _line(error)
    if "PERMISSION_DENIED" in text and "s3://" in address:
        return _forbidden(address, "PERMISSION_DENIED")
    if "retry attempts failed" not in text:
        return None
    cause = re.sub(r" \[\w+='.*", "", text.rpartition("failed: ")[2])
    return StoreError(
        f"S3 or the network failed {_ATTEMPTS} times for {address} ({cause}); run again, finished "
        "work is kept"
    )


def _forbidden(address: str, code: str) -> StoreError:
    return StoreError(
        f"access to {address} is forbidden ({code}); check the AWS credentials and the bucket's "
        "policy (docs/aws.md)"
    )


def _stamp(answer: dict[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def check_no_secret(address: str, what: str) -> None:
    """Refuse an address with credentials in it: messages, logs and reports repeat addresses.

    Parameters
    ----------
    address : str
        Folder or URL.
    what : str
        What the message calls it; the address itself is not repeated.

    Raises
    ------
    StoreError
        If it has a user name or password before its host, or a signature.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return
    authority, query = re.split("[/?]", rest, maxsplit=1)[0], rest.partition("?")[2]
    if "@" in authority or _SECRET.search(query):
        raise StoreError(
            f"{what} ({scheme}://...) contains a password, key or signature, which logs and "
            "reports would repeat; remove it and give credentials through the environment or "
            "~/.aws (aws configure)"
        )


def _endpoint() -> str | None:
    """Address of an S3 server other than AWS's."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            check_no_secret(os.environ[name], f"the environment variable {name}")
            return os.environ[name]
    return None
