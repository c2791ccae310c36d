"""Show volumes of a folder in Neuroglancer: ``terareg view FOLDER``.

A small server on the loopback address that answers what Neuroglancer asks of a web server and
common ones do not: byte ranges (sharded volumes), HEAD, preflight requests, cross-origin headers.
With the optional package ``neuroglancer`` installed the viewer itself comes from this server too,
so that nothing leaves the machine; otherwise the links lead to the public viewer, which then
reads from this server through the browser.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import logging
import mimetypes
import os
import re
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from terareg.core.errors import ConfigError, StoreError, TeraregError, few
from terareg.storage.records import read_json
from terareg.views import neuroglancer

logger = logging.getLogger(__name__)

# the bundled client takes the part after /v/ as the name of a session; the state is in the link
_CLIENT_PATH = "/v/terareg/"
_PUBLIC_ORIGIN = neuroglancer.PUBLIC_VIEWER.rstrip("/")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVENTS_PATH = "/events/terareg"
# links hold whole states, too long to copy from a terminal: /open/1 leads to the first
_OPEN_PATH = "/open/"
_HEARTBEAT_S = 15.0
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})$")
_IDLE_S = 60.0  # an idle connection is closed after this time
# Files of a store may come from anybody: pages among them are shown without scripts and isolated
# from the viewer's origin, and files that a browser would run are sent as plain text.
_APART = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_ACTIVE = {"text/javascript", "application/javascript", "application/ecmascript",
           "application/wasm", "text/css"}  # fmt: skip
_PIECE = 1 << 20


class FolderServer(ThreadingHTTPServer):
    """Server of one folder, read only, for this machine only.

    Parameters
    ----------
    folder : path
        Root; nothing outside it is served, not even through symbolic links.
    port : int
        0 takes any free port, see ``server_port``.

    Attributes
    ----------
    pages : sequence of (str, str)
        Names and links listed on the first page, set once the address is known.
    """

    daemon_threads = True
    # a viewer opens hundreds of connections at once
    request_queue_size = 256

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise StoreError(f"{folder} is not a folder; give the folder of the array store")
        self.client = client_folder()
        self.pages: Sequence[tuple[str, str]] = ()
        self.closing = threading.Event()
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} is not available ({error}); give another port, or 0 for any free one"
            ) from error

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def viewer(self) -> str:
        """Address of the viewer: from this server if it can, otherwise the public one."""
        return self.url + _CLIENT_PATH if self.client else neuroglancer.PUBLIC_VIEWER

    def link(self, state: dict) -> str:
        """Link that shows a state whose volumes lie in this folder."""
        return neuroglancer.link(neuroglancer.with_store(state, self.url), self.viewer)

    def short_links(self) -> list[tuple[str, str]]:
        """Names and short links of the pages, which lead to their links."""
        numbered = enumerate(self.pages, 1)
        return [(name, f"{self.url}{_OPEN_PATH}{number}") for number, (name, _) in numbered]

    def shutdown(self) -> None:
        """Stop serving, and end the event streams that are still open."""
        self.closing.set()
        super().shutdown()

    def handle_error(self, request, client_address) -> None:
        """Ignore connections that the browser closed, which is normal."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.warning("request failed", exc_info=True)


def client_folder() -> Path | None:
    """Folder of the viewer that the package ``neuroglancer`` bundles, None without it."""
    found = importlib.util.find_spec("neuroglancer")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "static" / "client"
    return folder.resolve() if (folder / "index.html").is_file() else None


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: FolderServer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_OPTIONS(self) -> None:
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def end_headers(self) -> None:
        # the public viewer may read here, but no other page that happens to be open
        origin = self._header("Origin")
        if origin == _PUBLIC_ORIGIN or _hostname(origin) in _LOOPBACK:
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
            allowed = "Range, Content-Type, X-Requested-With"
            self.send_header("Access-Control-Allow-Headers", allowed)
            self.send_header("Access-Control-Expose-Headers", "Content-Range, Content-Length, ETag")
            # a public page must ask for this before it may read from the loopback address
            self.send_header("Access-Control-Allow-Private-Network", "true")
        self.send_header("Vary", "Origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def _header(self, name: str) -> str:
        return (getattr(self, "headers", None) or {}).get(name) or ""

    def log_message(self, text: str, *values) -> None:
        logger.debug("%s " + text, self.address_string(), *values)

    def _answer(self, *, body: bool) -> None:
        # a foreign host name that was made to resolve to this address (DNS rebinding)
        if _hostname(f"//{self._header('Host')}") not in _LOOPBACK:
            return self._empty(HTTPStatus.FORBIDDEN, {})
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._list_pages(body)
        if path == "/favicon.ico":
            return self._empty(HTTPStatus.NO_CONTENT, {})
        if path.startswith(_OPEN_PATH):
            return self._lead_on(path.removeprefix(_OPEN_PATH), body)
        if path == _EVENTS_PATH and self.server.client:
            return self._quiet_events(body)
        if path.startswith(_CLIENT_PATH) and self.server.client:
            root, name = self.server.client, path[len(_CLIENT_PATH) :] or "index.html"
        else:
            root, name = self.server.folder, path.lstrip("/")
        headers = {"Content-Security-Policy": _APART} if root == self.server.folder else {}
        file = _inside(root, name)
        if file is not None:
            return self._file(file, body, headers)
        packed = _inside(root, name + ".gz")
        if packed is not None:
            headers["Content-Encoding"] = "gzip"
            return self._file(packed, body, headers, ranges=False)
        return self._empty(HTTPStatus.NOT_FOUND, {})

    def _lead_on(self, number: str, body: bool) -> None:
        """Send the browser to a link, which may be longer than a header can be."""
        links = {str(n): html.escape(link) for n, (_, link) in enumerate(self.server.pages, 1)}
        if number not in links:
            return self._empty(HTTPStatus.NOT_FOUND, {})
        target = links[number]
        return self._page(
            f'<meta http-equiv="refresh" content="0; url={target}">'
            f'<p><a href="{target}">To the viewer</a></p>',
            body,
        )

    def _quiet_events(self, body: bool) -> None:
        """Keep the event stream of the bundled client open; without it the client complains."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        while body:
            self.wfile.write(b": still here\n\n")
            self.wfile.flush()
            if self.server.closing.wait(_HEARTBEAT_S):
                return

    def _list_pages(self, body: bool) -> None:
        items = "".join(
            f'<li><a href="{html.escape(link)}">{html.escape(name)}</a></li>'
            for name, link in self.server.pages
        )
        self._page(f"<h1>Volumes</h1><ul>{items}</ul>", body)

    def _page(self, content: str, body: bool) -> None:
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>terareg</title>'
            f"{content}</html>"
        ).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Security-Policy", "default-src 'none'")
        self.end_headers()
        if body:
            self.wfile.write(text)

    def _file(self, file: Path, body: bool, headers: dict[str, str], *, ranges: bool = True):
        with open(file, "rb") as stream:
            facts = os.fstat(stream.fileno())
            size = facts.st_size
            start, stop, status = 0, size, HTTPStatus.OK
            wanted = self.headers.get("Range") if ranges else None
            if wanted is not None:
                part = _byte_range(wanted, size)
                if part is None:
                    return self._empty(
                        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                        {"Content-Range": f"bytes */{size}"},
                    )
                start, stop = part
                status = HTTPStatus.PARTIAL_CONTENT
                headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
            self.send_response(status)
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            if "Content-Security-Policy" in headers and kind in _ACTIVE:
                kind = "text/plain; charset=utf-8"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Cache-Control", "no-cache")
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{facts.st_mtime_ns:x}-{size:x}"')
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if not body:
                return None
            stream.seek(start)
            if stop == size:
                shutil.copyfileobj(stream, self.wfile, _PIECE)
                return None
            left = stop - start
            while left > 0:
                piece = stream.read(min(left, _PIECE))
                if not piece:
                    break
                self.wfile.write(piece)
                left -= len(piece)
            return None

    def _empty(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()


def _inside(root: Path, name: str) -> Path | None:
    """File ``name`` below ``root`` after following symbolic links; None if there is none."""
    if "\0" in name:
        return None
    try:
        file = (root / name).resolve()
        return file if file.is_file() and file.is_relative_to(root) else None
    except OSError:
        return None


def _byte_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a single range (RFC 9110, section 14.1.2), None if there are no bytes."""
    match = _RANGE.match(text.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None


def read_cdn(items: Sequence[str]) -> dict[str, str]:
    """Read ``START=ADDRESS`` pairs, see :func:`neuroglancer.with_store`."""
    pairs = {}
    for item in items:
        start, equals, address = item.partition("=")
        if not equals or not start or not address:
            raise ConfigError(f"--cdn {item!r} is not START=ADDRESS, e.g. s3://bucket=https://a.b")
        pairs[start] = address
    return pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a folder until interrupted; the exit status is 1 if the arguments are wrong."""
    parser = argparse.ArgumentParser(prog="terareg view", description=__doc__)
    parser.add_argument(
        "folder", help="folder of the array store or of the results, or s3://bucket/prefix"
    )
    parser.add_argument("--port", type=int, default=0, help="port; 0 for any free one")
    parser.add_argument(
        "--state",
        nargs="*",
        type=Path,
        help="neuroglancer.json files (default: those below FOLDER)",
    )
    parser.add_argument(
        "--cdn", nargs="*", default=[], metavar="START=ADDRESS",
        help="web servers in front of buckets, for links to S3",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        return _serve(options)
    except TeraregError as error:
        parser.exit(1, f"{error}\n")


def _serve(options: argparse.Namespace) -> int:
    if options.folder.startswith("s3://"):
        if not options.state:
            raise ConfigError("give --state neuroglancer.json to make links to a bucket")
        for path in options.state:
            state = neuroglancer.with_store(read_json(path), options.folder, read_cdn(options.cdn))
            _say(f"{path}\n  {neuroglancer.link(state)}")
        return 0
    paths = options.state
    if paths is None:
        paths = sorted(Path(options.folder).glob("**/views/neuroglancer.json"))
    states = {path: read_json(path) for path in paths}
    server = FolderServer(_root(Path(options.folder).resolve(), states), options.port)
    server.pages = [(path.parent.parent.name, server.link(s)) for path, s in states.items()]
    _say(f"serving {server.folder} at {server.url} (stop with Ctrl-C)")
    if not states:
        _say(
            f"no views/neuroglancer.json below {server.folder}, so there is nothing to open; give "
            "the folder of the results, or the file by --state"
        )
    for (name, link), state in zip(server.short_links(), states.values()):
        _say(f"{name}\n  {link}")
        keys = neuroglancer.keys_of(state)
        absent = [key for key in keys if not (server.folder / key).exists()]
        if absent:
            _say(f"  {len(absent)} of {len(keys)} volumes are absent: {few(absent)}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        server.server_close()
    return 0


def _root(folder: Path, states: Mapping[Path, dict]) -> Path:
    """The folder of the store: the one that was given, or that of which it is one sample."""
    keys = [key for state in states.values() for key in neuroglancer.keys_of(state)]
    for root in (folder, folder.parent):
        if not keys or any((root / key).exists() for key in keys):
            return root
    raise ConfigError(
        f"{folder} has none of the volumes that {next(iter(states))} shows, such as {keys[0]}; "
        "give the folder of the store (store in the sample file), and the file by --state"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
