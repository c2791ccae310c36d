"""The web on loopback: the files of a folder, read only, with parts of files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from terareg.views.serve import FolderServer

_POLL_S = 0.02  # until it notices that it is to end


@contextmanager
def serving(what: Path | ThreadingHTTPServer) -> Iterator[str]:
    """Address of a folder, or of another server, while it answers."""
    server = FolderServer(what) if isinstance(what, Path) else what
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
