"""A small world to build images in: a tracking store, a lock of an interpreter and two wheels, a base, all on disk.

No daemon, no network: the packages' urls are files, the interpreter is a script that starts this one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kbuild.environment.index.package_indexes import package_indexes
from kbuild.environment.lock_digests import CONTENT_DIGEST_KEY, content_digest
from kbuild.environment.lockfile import INPUT_DIGEST_KEY
from kbuild.environment.locking.wanted import LockRequest, fresh_inputs
from kbuild.errors import ModelNotFound, TrackingUnavailable
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.fetch import RunFacts
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import LATEST, Choice
from kbuild.platform import Platform, host_platform
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.workflow.prepare import ImageRequest
from kbuild.workflow.tools import Tools

HOST = host_platform()
VERSION = ".".join(map(str, sys.version_info[:3]))
SHORT = ".".join(map(str, sys.version_info[:2]))
RUN_ID = "a" * 32
MODEL_ID = "m-" + "b" * 32
BUILT_AT = "/builder/placeholder_placeholder_placeholder"
STDLIB_TEXT = f"prefix = {BUILT_AT!r}\n"
WHEELS = {
    "one": {"one/__init__.py": "VALUE = 1\n", "one/words.txt": "words\n"},
    "two": {"two.py": "def main():\n    return 2\n"},
}
MODEL = {"model.txt": b"the model\n", "artifacts/weights.bin": bytes(range(256)) * 9}


class FakeStore:
    """A tracking store in dictionaries; ``down`` makes every question fail."""

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.aliases: dict[str, str] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.tags: list[tuple[str, dict[str, str], str | None]] = []
        self.numbered: dict[tuple[str, str], list[str]] = {}
        self.parameters: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.down = False
        self.refuses_tags = False
        self.kept: list[bool] = []

    def _asked(self) -> None:
        if self.down:
            raise TrackingUnavailable("the server is down")

    def fetch(self, reference: ModelReference, into: Path, *, kept: bool = False) -> ModelBundle:
        self._asked()
        self.kept.append(kept)
        if reference.path is not None:
            return read_bundle(reference.path)
        if str(reference) not in self.models:
            raise ModelNotFound(f"no model {reference}")
        return read_bundle(self.models[str(reference)])

    def pin(self, reference: ModelReference) -> ModelReference:
        self._asked()
        return reference if reference.alias is None else reference.at(self.aliases[reference.alias])

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        self._asked()
        if (run_id, path) not in self.files:
            return None
        into.mkdir(parents=True, exist_ok=True)
        (into / Path(path).name).write_bytes(self.files[run_id, path])
        return into / Path(path).name

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        self._asked()
        self.files |= {(run_id, f"{path}/{file.name}"): file.read_bytes() for file in files}

    def read_run(self, run_id: str) -> RunFacts:
        assert isinstance(run_id, str), "no server has a run without an ID"
        self._asked()
        tags = {key: value for run, given, _ in self.tags if run == run_id for key, value in given.items()}
        return RunFacts(tags=tags, parameters=self.parameters, metrics=self.metrics)

    def choose(self, text: str, *, project: str | None) -> Choice:
        if text != LATEST:
            raise ModelNotFound(f"{text!r} names no model and no run")
        return Choice(reference=next(reversed(self.models)), told=f"the newest of {project}")

    def registered(self) -> list[str]:
        self._asked()
        return sorted(name for name in self.models if name.startswith("models:/"))

    def versions(self, run_id: str, model_uri: str) -> list[str]:
        self._asked()
        return self.numbered.get((run_id, model_uri), [])

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_uri: str | None = None) -> tuple[str, ...]:
        self._asked()
        if self.refuses_tags:
            raise TrackingUnavailable("read only")
        self.tags.append((run_id, dict(tags), model_uri))
        return ()


@dataclass
class Heard:
    """What was told while the work went on, as ``phase: note``."""

    notes: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        heard = self

        class Told(Silent):
            def note(self, text: str) -> None:
                heard.notes.append(f"{phase}: {text}")

            tell = note

        self.notes.append(f"{phase}:")
        yield Told()


@dataclass
class World:
    """``model`` is ``runs:/…``; a request for it and the tools to build it with."""

    folder: Path
    store: FakeStore
    heard: Heard
    tools: Tools
    lockfile: Path
    base: Path
    model: str = f"runs:/{RUN_ID}/model"

    def lock_request(self, *platforms: Platform) -> LockRequest:
        # Its packages lie in folders, which no configuration names.
        allowed = {"allowed_indexes": ("file:///",), "allowed_channels": ("file:///",)}
        return LockRequest(platforms=platforms or (HOST,), lockfile=self.lockfile, **allowed)

    def request(self, **given: Any) -> ImageRequest:
        return ImageRequest(**{"model": self.model, "lock": self.lock_request(), "base": f"oci:{self.base}", **given})

    def with_cache(self, name: str) -> World:
        """The same world on a machine that has built nothing yet."""
        return replace(self, tools=replace(self.tools, cache=self.folder / name))


def make_world(folder: Path) -> World:
    """On a machine that has built nothing yet."""
    packages = [write_interpreter(folder / "channel"), *(write_wheel(folder / "index", name) for name in WHEELS)]
    write_base(folder / "base")
    return _world(folder, packages)


def copy_world(built: World, folder: Path) -> World:
    """Of the packages of ``built``, on a machine that keeps what was made of them, but no image and no answer."""
    for name in ("channel", "index", "base"):
        shutil.copytree(built.folder / name, folder / name)
    left_out = shutil.ignore_patterns("images", "base-records", "sessions", "sizes")
    shutil.copytree(built.tools.cache, folder / "cache", symlinks=True, ignore=left_out)
    return _world(
        folder, [*(folder / "channel").iterdir(), *(folder / f"index/{name}-1-py3-none-any.whl" for name in WHEELS)]
    )


def _world(folder: Path, packages: list[Path]) -> World:
    store, heard = FakeStore(), Heard()
    model = write_model(folder / "store/model")
    store.models[f"runs:/{RUN_ID}/model"] = model
    tools = Tools(store=store, run=run, cache=folder / "cache", phases=heard)
    lockfile = folder / "conda-lock.yml"
    request = LockRequest(platforms=(HOST,))
    indexes = package_indexes(run=run, environ={})
    digests = fresh_inputs(read_bundle(model), request, indexes, cache=tools.cache, run=run, environ={})
    lockfile.write_text(lock_text(packages, str(sorted(digests, key=str)[0])), "utf-8")
    return World(folder, store, heard, tools, lockfile, folder / "base")


def write_model(folder: Path) -> Path:
    """A model folder as MLflow lays it out."""
    for name, data in MODEL.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    loader = "mlflow.pyfunc.model"
    flavor = {"loader_module": loader, "python_version": VERSION, "env": {"conda": "conda.yaml"}, "data": "model.txt"}
    described = {
        "artifact_path": "model",
        "flavors": {"python_function": flavor},
        "model_id": MODEL_ID,
        "run_id": RUN_ID,
        "utc_time_created": "2023-11-14 22:13:20.000000",
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(described), "utf-8")
    dependencies = [f"python={VERSION}", "pip", {"pip": ["one==1", "two==1"]}]
    (folder / "conda.yaml").write_text(yaml.safe_dump({"dependencies": dependencies}), "utf-8")
    return folder


def write_interpreter(folder: Path) -> Path:
    """A conda package whose python is a script that runs this one, with a prefix to be replaced in a text file."""
    files = {
        f"bin/python{SHORT}": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode(),
        f"lib/python{SHORT}/config.py": STDLIB_TEXT.encode(),
    }
    paths = [
        {"_path": name, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
        | ({"prefix_placeholder": BUILT_AT, "file_mode": "text"} if BUILT_AT.encode() in data else {})
        for name, data in files.items()
    ]
    index = {"name": "python", "version": VERSION, "build": "0", "build_number": 0, "depends": []}
    index |= {"subdir": HOST.conda_subdir, "timestamp": 1700000000000}
    files["info/index.json"] = json.dumps(index).encode()
    files["info/paths.json"] = json.dumps({"paths": paths, "paths_version": 1}).encode()
    files["info/files"] = "".join(f"{path['_path']}\n" for path in paths).encode()
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"python-{VERSION}-0.tar.bz2"
    with tarfile.open(package, "w:bz2") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o775 if name.startswith("bin/") else 0o600
            archive.addfile(member, io.BytesIO(data))
    return package


def write_wheel(folder: Path, name: str) -> Path:
    """A pure wheel, version 1, with a console script."""
    info = f"{name}-1.dist-info"
    files = {
        **WHEELS[name],
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(entry, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{entry},,\n" for entry in [*files, f"{info}/RECORD"]))
    return path


def lock_text(packages: list[Path], digest: str) -> str:
    """conda-lock's unified lockfile, version 1, of these files."""
    entries = []
    for path in packages:
        name, version = path.name.split("-")[:2]
        conda = path.name.endswith(".bz2")
        entries.append(
            {
                "name": name,
                "version": version,
                "manager": "conda" if conda else "pip",
                "platform": HOST.conda_subdir,
                "dependencies": {},
                "url": path.as_uri(),
                "hash": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
                "category": "main",
                "optional": False,
            }
        )
    metadata: dict[str, Any] = {
        "content_hash": {HOST.conda_subdir: "0"},
        "channels": [{"url": "conda-forge", "used_env_vars": []}],
        "platforms": [HOST.conda_subdir],
        "sources": [],
        "custom_metadata": {INPUT_DIGEST_KEY: digest},
    }
    metadata["custom_metadata"][CONTENT_DIGEST_KEY] = str(content_digest(metadata, entries))
    return yaml.safe_dump({"version": 1, "metadata": metadata, "package": entries})


def write_base(folder: Path) -> Path:
    """A base image as an OCI layout (image-spec): one gzipped layer with this machine's C library and its loader."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name in ("etc", "lib64", "lib", "tmp"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(member)
        for path in _c_library():
            member = tarfile.TarInfo(str(path).lstrip("/"))
            data = path.resolve().read_bytes()
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo("etc/base")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"base\n"))

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]}
    config = {"os": HOST.os, "architecture": HOST.architecture, "config": {"Env": ["BASE=yes"]}, "rootfs": rootfs}
    media = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": {"mediaType": f"{media}.config.v1+json", **put(json.dumps(config).encode())},
        "layers": [{"mediaType": f"{media}.layer.v1.tar+gzip", **put(gzip.compress(layer.getvalue(), 0, mtime=0))}],
    }
    entry = {"mediaType": f"{media}.manifest.v1+json", **put(json.dumps(manifest).encode())}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder


def _c_library() -> list[Path]:
    """The loader where the ABI says it is, and glibc's libraries where Debian or Fedora keep them."""
    loaders = [Path("/lib64/ld-linux-x86-64.so.2"), Path("/lib/ld-linux-aarch64.so.1")]
    places = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64"]
    place = next(Path(place) for place in places if Path(place, "libc.so.6").exists())
    libraries = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")
    return [path for path in loaders if path.exists()][:1] + [place / name for name in libraries]
