"""Packages from where pip would take them: several indexes, private ones, pages and folders of links; locked and built.

What is asked for is made here, so that each place has exactly what it is to have.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from small_models import write_small
from test_conda_forge import read_image
from tool import Tool

ASKED = ("acme==1.0", "nnet==2.5.0")
SITE = "opt/env/lib/python3.11/site-packages"
PASSWORD = "p@ss/w:rd"  # noqa: S105  what no url can hold as it is


def wheel(name: str, version: str, *, needs: str = "", text: str = "", tag: str = "py3-none-any") -> tuple[str, bytes]:
    data = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    files = {
        f"{name}.py": f'WHERE = "{text}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(data, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, content)
    return f"{name}-{version}-{tag}.whl", data.getvalue()


MAIN = [wheel("acme", "1.0", needs="acme_core>=1", text="main"), wheel("acme_core", "1.0"), wheel("nnet", "2.5.0")]
MORE = [wheel("acme_core", "1.4", text="more")]
CPU = [wheel("nnet", "2.5.0+cpu", text="cpu")]


@dataclass
class Places:
    """``/NAME/PROJECT/`` is an index, ``/links/`` a flat page; ``users`` tells who may ask of each first part."""

    url: str = ""
    indexes: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        place, project, *_ = [*path.strip("/").split("/"), ""]
        if place not in self.indexes:
            return 404, b""
        user = self.users.get(place)
        if user is not None and authorization != f"Basic {base64.b64encode(user.encode()).decode()}":
            return 401, b""
        named = {name.replace("+", "%2B"): data for name, data in self.indexes[place]}
        filename = path.rpartition("/")[2]
        if filename:
            return (200, named[filename]) if filename in named else (404, b"")
        # A directory listing knows no digests.
        shown = [
            f'<a href="{name}">{name}</a>'
            if place == "links"
            else f'<a href="{name}#sha256={hashlib.sha256(data).hexdigest()}">{name}</a>'
            for name, data in named.items()
            if place == "links" or name.startswith(f"{project.replace('-', '_')}-")
        ]
        return (200, "\n".join(shown).encode()) if shown else (404, b"")


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    served = Places(indexes={"main": MAIN, "more": MORE, "links": CPU}, users={"main": f"me:{PASSWORD}", "more": "n:m"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, data = served.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        yield served
        server.shutdown()
        thread.join()


def model_of(folder: Path) -> Path:
    """A model that asks for both packages and that no run knows."""
    model = write_small(folder / "model", 7)
    conda = yaml.safe_load((model / "conda.yaml").read_text())
    conda["dependencies"][-1] = {"pip": list(ASKED)}
    (model / "conda.yaml").write_text(yaml.safe_dump(conda))
    (model / "requirements.txt").write_text("\n".join(ASKED))
    return model


def lock_and_build(tool: Tool, model: Path, tmp_path: Path, **environment: str) -> tuple[dict[str, str], str]:
    """What of each package's module is in the image, and the lock's text."""
    lock, layout = tmp_path / "conda-lock.yml", tmp_path / "layout"
    tool("lock", model, "--interpreter", "captured", "--output", lock, cwd=tmp_path, **environment)
    tool("image", model, "--lockfile", lock, "--output", layout, cwd=tmp_path, **environment)
    files = read_image(layout)
    names = ("acme", "acme_core", "nnet")
    return {name: files[f"{SITE}/{name}.py"][1].decode().split('"')[1] for name in names}, lock.read_text()


def test_the_best_of_all_places_wins_and_passwords_stay_out(tool: Tool, places: Places, tmp_path: Path) -> None:
    """An index with its password in the url, one with it in ~/.netrc, and a page of links without digests."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login n password m\n")
    environment = {
        "PIP_INDEX_URL": f"{places.url.replace('//', '//me:p%40ss%2Fw%3Ard@')}/main",
        "PIP_EXTRA_INDEX_URL": f"{places.url}/more",
        "PIP_FIND_LINKS": f"{places.url}/links/",
        "NETRC": str(tmp_path / "netrc"),
    }
    modules, lock = lock_and_build(tool, model_of(tmp_path), tmp_path, **environment)
    # acme from the main index, what it needs from the one that has the newest, and the local version from the page
    assert modules == {"acme": "main", "acme_core": "more", "nnet": "cpu"}
    for secret in (PASSWORD, "p%40ss", "@127.0.0.1"):
        assert secret not in lock
    versions = {each["name"]: each["version"] for each in yaml.safe_load(lock)["package"] if each["manager"] == "pip"}
    assert versions == {"acme": "1.0", "acme-core": "1.4", "nnet": "2.5.0+cpu"}


@pytest.mark.parametrize("kind", ["find-links", "folder index"])
def test_folders_of_this_machine(tool: Tool, tmp_path: Path, kind: str) -> None:
    for name, data in [*MAIN, *MORE, *CPU]:
        project = name.split("-")[0].replace("_", "-") if kind == "folder index" else ""
        (tmp_path / "wheels" / project).mkdir(parents=True, exist_ok=True)
        (tmp_path / "wheels" / project / name).write_bytes(data)
    wheels = str(tmp_path / "wheels")
    named = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels"}
    environment = named if kind == "find-links" else {"PIP_INDEX_URL": f"file://{wheels}", "PIP_EXTRA_INDEX_URL": ""}
    modules, lock = lock_and_build(tool, model_of(tmp_path), tmp_path, **environment)
    assert modules == {"acme": "main", "acme_core": "more", "nnet": "cpu"}
    # They travel with the lock, which does not say where they lay.
    assert wheels not in lock and lock.count("url: $KBUILD_CHANNEL/wheels/") == 3


def test_a_wheel_for_a_newer_c_library_is_refused_or_taken_as_the_base_has_it(tool: Tool, tmp_path: Path) -> None:
    """bookworm has glibc 2.36, trixie 2.41; nothing is built on trixie, of which only Debian's lists would be asked."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    newest = wheel("nnet", "2.5.0", tag="py3-none-manylinux_2_39_x86_64")
    for name, data in [*MAIN[:2], *MORE, newest, wheel("nnet", "2.4.0")]:
        (wheels / name).write_bytes(data)
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    model, lock = model_of(tmp_path), tmp_path / "conda-lock.yml"
    options = ("--interpreter", "captured", "--output", lock)
    refused = tool("lock", model, "--base", "debian:bookworm", *options, code=33, **environment)
    assert refused.error_lines[0] == (
        "error: nnet 2.5.0 has wheels for glibc 2.39 or newer only, and the base debian:bookworm has glibc 2.36"
    )
    assert "--base): debian:trixie (glibc 2.41)" in refused.error_lines[1] and "nnet 2.4.0" in refused.error_lines[1]
    tool("lock", model, "--base", "debian:trixie", *options, **environment)
    assert newest[0] in lock.read_text()
    # That lock is not one for bookworm, whoever asks for it by name; the file itself says why.
    refused = tool("image", model, "--base", "debian:bookworm", "--lockfile", lock, code=None, **environment)
    assert refused.code in (27, 33), refused.err
