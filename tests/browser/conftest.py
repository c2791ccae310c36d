"""A headless Chromium, driven through its debugging port with tornado's websocket client."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0", "--window-size=1200,800", "--hide-scrollbars",
)  # fmt: skip


@dataclass
class Visit:
    """What happened on one page: console messages, requested addresses, value, picture."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    value: object = None
    png: bytes = b""
    pdf: bytes = b""


class Chromium:
    """A browser process of its own, with a profile of its own that goes with it."""

    def __init__(self) -> None:
        self.profile = Path(tempfile.mkdtemp(prefix="terareg-chromium-"))
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.port = self._wait_for_port()

    def _wait_for_port(self, limit_s: float = 60) -> int:
        port_file = self.profile / "DevToolsActivePort"
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.process.poll() is None:
            if port_file.exists() and port_file.read_text().strip():
                return int(port_file.read_text().split()[0])
            time.sleep(0.1)
        self.close()
        raise RuntimeError(f"chromium opened no debugging port within {limit_s} s")

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        shutil.rmtree(self.profile, ignore_errors=True)

    def visit(
        self, url: str, *, until: str = "true", value: str = "null", size=(1200, 800), limit_s=90,
        printed: bool = False,
    ) -> Visit:  # fmt: skip
        """Open ``url``, wait until an expression is true, take ``value`` and a picture.

        With ``printed`` the page is laid out as on paper, and the picture is a PDF (A4).
        """
        return asyncio.run(self._visit(url, until, value, size, limit_s, printed))

    async def _visit(self, url, until, value, size, limit_s, printed) -> Visit:
        from tornado.websocket import websocket_connect

        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT"
        )
        with urllib.request.urlopen(request) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        socket = await websocket_connect(address, max_message_size=1 << 28)
        visit, number = Visit(), 0

        async def call(method, **params):
            nonlocal number
            number += 1
            await socket.write_message(
                json.dumps({"id": number, "method": method, "params": params})
            )
            while True:
                message = json.loads(await asyncio.wait_for(socket.read_message(), limit_s))
                if message.get("id") == number:
                    assert "error" not in message, message
                    return message["result"]
                _note(visit, message)

        for domain in ("Page", "Runtime", "Log", "Network"):
            await call(f"{domain}.enable")
        await call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 600,
        )  # fmt: skip
        if printed:
            await call("Emulation.setEmulatedMedia", media="print")
        await call("Page.navigate", url=url)
        end = time.monotonic() + limit_s
        wait = f"document.readyState === 'complete' && !!({until})"
        while True:
            done = await call("Runtime.evaluate", expression=wait, returnByValue=True)
            if done["result"].get("value") is True:
                break
            assert time.monotonic() < end, f"{until} did not come true; console: {visit.errors}"
            await asyncio.sleep(0.25)
        result = await call("Runtime.evaluate", expression=value, returnByValue=True)
        visit.value = result["result"].get("value")
        if printed:
            paper = await call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69,
                               preferCSSPageSize=True)  # fmt: skip
            visit.pdf = base64.b64decode(paper["data"])
        else:
            shot = await call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            visit.png = base64.b64decode(shot["data"])
        await call("Page.close")
        while await socket.read_message() is not None:
            pass
        socket.close()
        return visit


def _note(visit: Visit, message: dict) -> None:
    method, params = message.get("method"), message.get("params", {})
    if method == "Network.requestWillBeSent":
        visit.requests.append(params["request"]["url"])
    elif method == "Runtime.exceptionThrown":
        visit.errors.append(json.dumps(params["exceptionDetails"]))
    elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
        visit.errors.append(json.dumps(params["args"]))
    elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
        visit.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@pytest.fixture(scope="session")
def chromium():
    """A browser for all tests of this folder; skips, saying why, where there is none."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip(f"{CHROMIUM} is not installed (apt-get install chromium)")
    pytest.importorskip("tornado", reason="tornado (with neuroglancer) drives the browser")
    browser = Chromium()
    yield browser
    browser.close()
