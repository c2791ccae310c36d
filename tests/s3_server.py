"""S3 on loopback: moto in this process, behind a door where a test can stand."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable

import running

REGION = "us-east-1"
KEY_ID = "AKIATERAREGTESTS"
SECRET = "terareg-secret-of-the-tests"
FOR_EVER = 10**6


Answer = Callable[[dict, Callable], Iterable[bytes]]


class Server:
    """A context: an empty AWS on a port of its own, with the real protocols over HTTP.

    Attributes
    ----------
    asked : list of str
        Actions of all requests for S3, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._faults: list[list] = []

    def __enter__(self) -> Server:
        from moto.moto_server import werkzeug_app
        from werkzeug.serving import make_server

        _spare_moto()

        class Handler(werkzeug_app.MotoRequestHandler):
            def log(self, *_) -> None:
                """Say nothing: thousands of requests."""

        self._moto = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        self._http = make_server(
            "127.0.0.1", 0, self.answer, threaded=True, request_handler=Handler
        )
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        # a reset is sent only where no orderly end was announced
        self._http.shutdown_request = self._http.close_request
        self._thread.start()
        self.forget()
        return self

    def __exit__(self, *_) -> None:
        self.forget()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """What somebody who works with this AWS has in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def client(self, service: str = "s3"):
        """A client of boto3 with the keys of :attr:`env`."""
        import boto3

        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION,
            aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
        )  # fmt: skip

    def fail(self, action: str, fault, times: int = 1) -> None:
        """Have the next requests of an action answered by a fault.

        ``fault(good, environ, start_response)`` gets the WSGI application that answers well.
        """
        self._faults.append([action, fault, times])

    def answer(self, environ: dict, start_response) -> Iterable[bytes]:
        """WSGI application: answer one request."""
        action, _, _ = action_of(environ)
        self.asked.append(action)
        for plan in self._faults:
            if plan[0] == action and plan[2] > 0:
                plan[2] -= 1
                return plan[1](self._moto, environ, start_response)
        return self._moto(environ, start_response)

    def forget(self) -> None:
        """Empty moto's state, which all its servers of one process share, and all faults."""
        self._faults.clear()
        request = urllib.request.Request(f"{self.url}/moto-api/reset", data=b"")
        urllib.request.urlopen(request, timeout=30).close()
        self.asked.clear()


@functools.cache
def _spare_moto() -> None:
    """Have moto remember what it finds anew for every request, and for every key of a list.

    That is: which services it has, from a folder of its own, and what a text means as a time.
    """
    from moto import backends
    from moto.core import serialize

    services = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: services
    serialize.parse_to_aware_datetime = functools.lru_cache(10**4)(
        serialize.parse_to_aware_datetime
    )


def refuses(status: int, code: str):
    """A fault: an answer that says no."""

    def fault(good: Answer, environ: dict, start_response) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        text = f"<Error><Code>{code}</Code><Message>Please wait.</Message></Error>".encode()
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else text
        start_response(f"{status} no", [("Content-Length", str(len(body)))])
        return [body]

    fault.__name__ = code
    return fault


def action_of(environ: dict) -> tuple[str, str, str]:
    """Action, bucket and key of a request for S3, as a policy names them."""
    method = environ["REQUEST_METHOD"]
    path = environ["PATH_INFO"].encode("latin-1").decode()
    bucket, _, key = path.lstrip("/").partition("/")
    query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if key:
        of_object = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}
        action = of_object.get(method, "PutObject")
        if method == "DELETE" and "uploadId" in query:
            action = "AbortMultipartUpload"
    elif "location" in query:
        action = "GetBucketLocation"
    elif "delete" in query:
        action = "DeleteObject"
    else:
        of_bucket = {"PUT": "CreateBucket", "DELETE": "DeleteBucket"}
        action = of_bucket.get(method, "ListBucket")
    return action, bucket, key


def key_id_of(environ: dict) -> str:
    """Whose key a request was signed with."""
    found = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    return found[1] if found else ""


def put_folder(client, bucket: str, prefix: str, folder) -> None:
    """Copy all files below a folder to keys below a prefix."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def objects(client, bucket: str, prefix: str, facts: tuple[str, ...]) -> dict[str, str]:
    """Digest of every artefact below a prefix, as in :func:`running.artefacts`."""
    found = {}
    for key in keys(client, bucket, prefix):
        if key.removeprefix(prefix).startswith(running.NO_ARTEFACTS):
            continue
        data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        if key.endswith(".json"):
            data = running.json_without(data, facts)
        found[key[len(prefix) :]] = hashlib.sha256(data).hexdigest()
    return found


def keys(client, bucket: str, prefix: str = "") -> list[str]:
    """All keys that begin with a prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]
