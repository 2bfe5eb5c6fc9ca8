"""Chromium from Debian, driven as https://www.w3.org/TR/webdriver2/ says, and axe-core from npm."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from engines import free_port, only_one, require
from tool import running

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1000,1100",
]  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# Every rule that axe has for WCAG 2.2 at levels A and AA, and its own of good practice.
_AXE = """const [done] = [arguments[arguments.length - 1]];
axe.run(document, {resultTypes: ["violations"]}).then(
  found => done(found.violations.flatMap(
    each => each.nodes.map(node => `${each.id}: ${node.target} ${node.failureSummary}`))),
  error => done([String(error)]));"""


class Browser:
    """A window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The value of a command."""
        answer = requests.request(method, self._session + path, json=body if method == "POST" else None, timeout=60)
        assert answer.ok, answer.text
        return answer.json()["value"]

    def go(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any, later: bool = False) -> Any:
        """What a script returns, or hands to its last argument (``later``)."""
        kind = "async" if later else "sync"
        return self.call("POST", f"/execute/{kind}", {"script": script, "args": list(args)})

    def find(self, selector: str) -> str:
        (found,) = self.call("POST", "/element", {"using": "css selector", "value": selector}).values()
        return f"/element/{found}"

    def click(self, selector: str) -> None:
        self.call("POST", f"{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """In place of what stands there; the path of a file where it is a field for files."""
        field = self.find(selector)
        if self.run("return arguments[0].type", {_ELEMENT: field.rpartition("/")[2]}) != "file":
            self.call("POST", f"{field}/clear", {})
        self.call("POST", f"{field}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def text(self, selector: str) -> str:
        return str(self.call("GET", f"{self.find(selector)}/text"))

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + 20
        while not self.run(f"return {script}"):
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.05)

    def look_as(self, *, dark: bool, width: int) -> None:
        """A colour scheme and the width of the window in CSS pixels."""
        self._chrome("Emulation.setScrollbarsHidden", hidden=True)
        self._chrome(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self._chrome("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def violations(self, axe: str) -> list[str]:
        """What axe-core, given as its text, has against the page as it is; also that it is wider than the window."""
        if not self.run("return 'axe' in window"):
            self.run(f"{axe}; window.axe = axe;")
        found = self.run(_AXE, later=True)
        wider = self.run("return document.documentElement.scrollWidth > innerWidth")
        return [*found, *(["the page is wider than the window"] if wider else [])]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        taken = self._chrome("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(taken))

    def complaints(self) -> list[str]:
        """What stands in the browser's console since the last time: refused by a policy, missing, failed."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def _chrome(self, command: str, **params: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})


@contextmanager
def chromedriver(folder: Path) -> Iterator[str]:
    """The url of a running chromedriver; Chromium comes from Debian where it is not there."""
    with only_one():
        _install_chromium()
    port = free_port()
    with running(["chromedriver", f"--port={port}"], folder / "log"):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                requests.get(f"{url}/status", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url


@contextmanager
def browser(driver: str, profile: Path) -> Iterator[Browser]:
    """A new window."""
    chrome = {
        "binary": shutil.which("chromium"),
        "args": [*FLAGS, f"--user-data-dir={profile}"],
        "prefs": {"download.default_directory": str(profile.parent)},
    }
    wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
    made = requests.post(f"{driver}/session", json={"capabilities": {"alwaysMatch": wanted}}, timeout=60).json()
    session = f"{driver}/session/{made['value']['sessionId']}"
    try:
        yield Browser(session)
    finally:
        requests.delete(session, timeout=30)


def read_axe(folder: Path) -> str:
    """axe-core's script, by npm, which Debian has where it is not there."""
    with only_one():
        _install("npm", ["npm"])
    done = subprocess.run(
        ["npm", "pack", "--silent", "axe-core@^4.10"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    require(done.returncode == 0, f"npm pack failed: {done.stderr.strip()[-400:]}")
    with tarfile.open(folder / done.stdout.split()[-1]) as packed:
        file = packed.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def _install_chromium() -> None:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        _install("chromedriver", ["chromium", "chromium-driver", "fonts-dejavu-core"])


def _install(program: str, packages: list[str]) -> None:
    if shutil.which(program):
        return
    require(os.geteuid() == 0 and shutil.which("apt-get"), f"installing {packages[0]} takes root and Debian")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-q", *words], env=env, capture_output=True, text=True)
        require(done.returncode == 0, f"apt-get {words[0]} failed: {done.stderr.strip()[-400:]}")
