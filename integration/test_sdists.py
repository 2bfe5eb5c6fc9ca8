"""Packages without a wheel: refused, or built apart from all else and locked as exactly that wheel."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from engines import require
from tool import Tool, Trained

# The backends come from the real index; the native one needs a compiler.
SOURCES = {
    "tinypure": {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "tinypure"\nversion = "1.0"\n',
        "tinypure/__init__.py": "ANSWER = 42\n",
    },
    "tinynative": {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools>=70"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tinynative"\nversion = "1.0"\n',
        "setup.py": 'from setuptools import Extension, setup\nsetup(ext_modules=[Extension("tiny", ["tiny.c"])])\n',
        "tiny.c": "#include <Python.h>\n"
        'static struct PyModuleDef tiny = {PyModuleDef_HEAD_INIT, "tiny", __FILE__, -1, NULL};\n'
        "PyMODINIT_FUNC PyInit_tiny(void) { return PyModule_Create(&tiny); }\n",
    },
}


def sdist_of(name: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, text in SOURCES[name].items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    """A package index that has the source distributions and nothing else."""
    sdists = {name: sdist_of(name) for name in SOURCES}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, name, *_ = [*self.path.strip("/").split("/"), ""]
            if kind not in ("simple", "files") or name not in sdists:
                self.send_error(404)
                return
            data, text = sdists[name], "application/octet-stream"
            if kind == "simple":
                sha256 = hashlib.sha256(data).hexdigest()
                file = f"{name}-1.0.tar.gz"
                data, text = f'<a href="/files/{name}/{file}#sha256={sha256}">{file}</a>'.encode(), "text/html"
            self.send_response(200)
            self.send_header("Content-Type", text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that asks for both packages and that no run knows."""
    folder = tmp_path_factory.mktemp("sdists") / "model"
    shutil.copytree(next(trained.folder.rglob("python_env.yaml")).parent, folder)
    text = (folder / "MLmodel").read_text().splitlines(keepends=True)
    kept = (line for line in text if not line.startswith(("run_id:", "model_id:")))
    (folder / "MLmodel").write_text("".join(kept))
    lines = (folder / "python_env.yaml").read_text().splitlines()
    python = next(line.removeprefix("python: ") for line in lines if line.startswith("python: "))
    # Nothing else: what is asked here is not how long a solver takes.
    (folder / "conda.yaml").write_text(
        f"channels: [conda-forge]\ndependencies:\n- python={python}\n- pip:\n  - tinypure==1.0\n  - tinynative==1.0\n"
    )
    for name in ("requirements.txt", "constraints.txt"):
        (folder / name).unlink(missing_ok=True)
    return folder


def test_a_source_distribution_is_refused_or_built_and_locked(
    tool: Tool, model: Path, index: str, tmp_path: Path
) -> None:
    require(shutil.which("gcc"), "no compiler is installed")
    lock = tmp_path / "conda-lock.yml"
    options = ("--interpreter", "captured", "--output", str(lock))
    environment = {"PIP_EXTRA_INDEX_URL": index}
    refused = tool("lock", model, *options, code=23, **environment)
    assert "tinynative 1.0 for linux/amd64, tinypure 1.0 for linux/amd64" in refused.error_lines[0]
    assert "--allow-sdist" in refused.error_lines[1]
    tool("lock", model, "--allow-sdist", *options, **environment)
    (side,) = tool.cache.glob("locks/*/built-wheels.json")
    wheels = {each["name"]: each for each in json.loads(side.read_text())["wheels"]}
    assert wheels["tinypure"]["filename"].endswith("-none-any.whl") and wheels["tinypure"]["glibc"] is None
    assert wheels["tinynative"]["glibc"] is not None
    first = lock.read_bytes()
    for wheel in wheels.values():
        assert f"$KBUILD_CHANNEL/wheels/{wheel['sha256']}/{wheel['filename']}#sdist-sha256=".encode() in first
    # Built once more, in another folder, it is the same wheel; and without the permission the lock is used as it is.
    tool("lock", model, "--allow-sdist", "--force", *options, TMPDIR=str(tmp_path), **environment)
    assert lock.read_bytes() == first
    tool("lock", model, *options, **environment)
    assert lock.read_bytes() == first
    audited = tool("audit", lock, "--offline", "--format", "json", code=None).json
    built = [finding for finding in audited["findings"] if finding["id"] == "lock-built"]
    assert sorted(finding["where"] for finding in built) == ["pip:tinynative", "pip:tinypure"]
