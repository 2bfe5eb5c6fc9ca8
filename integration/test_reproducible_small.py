"""The same image from every engine, and what is not the same named; on a tree small enough to do it often."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from debian import install_tools
from engines import DockerEngine
from small import DOCKERFILE, SCRATCH, build, make_context
from small_models import write_small
from tool import Tool

from kbuild.image.engine import make_engine
from kbuild.image.oci.compress import read_layer
from kbuild.image.run.docker import DockerDaemon
from kbuild.image.store.pack import image_in, pack
from kbuild.process import run
from kbuild.progress import Silent

# BuildKit of Docker 28 gives --chmod to the folders above the target too, which 26 and the native engine leave at 0755.
PLAIN = DOCKERFILE.replace("--chmod=0750 ", "")
# Neither is UTF-8, and in the second I and i are no pair.
LOCALES = {"en_US.ISO-8859-1": ("en_US", "ISO-8859-1"), "tr_TR.ISO-8859-9": ("tr_TR", "ISO-8859-9")}


def test_reproducible_across_engines_and_their_versions(
    tmp_path: Path,
    busybox: Path,
    docker_engine: DockerEngine,
    docker_28: DockerEngine,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Everything that tars differ by; test_main_path does it with a whole model."""
    context = make_context(tmp_path / "native/context", busybox, dockerfile=PLAIN)
    found = {"native": str(build("native", context, tmp_path / "native").digest)}
    for engine in (docker_engine, docker_28):
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        version = DockerDaemon().version
        context = make_context(tmp_path / version / "context", busybox, dockerfile=PLAIN)
        found[f"BuildKit of Docker {version}"] = str(build("buildkit", context, tmp_path / version).digest)
    for name, built in found.items():
        record_property(f"small tree, {name}", built)
    assert len(set(found.values())) == 1, found
    assert len(found) == 3, "the two engines are of one version"


def test_reproducible_leaks_are_named_as_diffoscope_names_them(tool: Tool, tmp_path: Path, busybox: Path) -> None:
    """Planted: a path of the build in a file, a mode, a link, an mtime, a file more and one less."""
    install_tools("diffoscope-minimal")
    contexts = {name: make_context(tmp_path / name / "context", busybox) for name in ("clean", "leaking")}
    leaking = contexts["leaking"].path
    (leaking / "model/srv/index.html").write_text(f"built in {tmp_path}\n")
    (leaking / "lib/bin/run").chmod(0o750)
    (leaking / "lib/bin/sh").unlink()
    (leaking / "lib/bin/sh").symlink_to("run")
    (leaking / "lib/more").write_text("more\n")
    (contexts["clean"].path / "lib/less").write_text("less\n")
    for name, context in contexts.items():
        output = make_engine("native", run).build(context, SCRATCH, workdir=tmp_path / name, progress=Silent())
        if name == "leaking":
            first = replace(output.layers[0], content=Stamped(b"".join(output.layers[0].content.chunks()), "etc/same"))
            output = replace(output, layers=(first, *output.layers[1:]))
        pack(output, context.plan, tmp_path / f"{name}.image", engine="native", progress=Silent())
        unpack(tmp_path / f"{name}.image", tmp_path / name / "root")
    ours = tool("diff", tmp_path / "clean.image", tmp_path / "leaking.image", "--json").json["files"]
    named = {change["name"]: f"{change['before']} -> {change['after']}" for change in ours}
    assert "mtime 0 -> mtime 1700000000" in named["/etc/same"]
    assert "mode 0755 -> mode 0750" in named["/bin/run"]
    theirs = diffoscope(tmp_path / "clean/root", tmp_path / "leaking/root")
    print(sorted(theirs))
    assert set(named) == theirs


class Stamped:
    """A layer's tar in which one file has a time."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    def chunks(self) -> Iterator[bytes]:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(self.data)) as old, tarfile.open(fileobj=out, mode="w") as new:
            for member in old:
                member.mtime = 1_700_000_000 if member.name == self.name else 0
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
        yield out.getvalue()


def unpack(layout: Path, folder: Path) -> None:
    """The file system of an image without whiteouts."""
    image = image_in(layout, engine="native")
    for layer in image.layers:
        data = b"".join(read_layer(layout / "blobs/sha256" / layer.digest.hex, "zstd"))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder, filter="fully_trusted")  # noqa: S202 - made a moment ago


def diffoscope(one: Path, other: Path) -> set[str]:
    """The paths of which diffoscope says that they differ, folders for what is in them left out."""
    argv = ["diffoscope", "--new-file", "--json=-", str(one), str(other)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr

    def paths(node: dict[str, Any]) -> Iterator[str]:
        inner = node.get("details") or []
        differs = node.get("unified_diff") or any("{}" in part["source1"] for part in inner)
        for root, name in ((one, node["source1"]), (other, node["source2"])):
            if differs and name.startswith(f"{root}/"):
                yield name.removeprefix(str(root))
        for part in inner:
            yield from paths(part)

    return set(paths(json.loads(done.stdout)))


def test_reproducible_under_any_locale(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Base, model and image made anew, each in a cache of its own; file names have letters that no locale shares."""
    for name, (language, letters) in LOCALES.items():
        subprocess.run(["localedef", "-i", language, "-f", letters, tmp_path / name], check=True)
    model = write_small(tmp_path / "model", 1)
    (model / "artifacts").mkdir()
    for file in ("dätä.bin", "I \u0131 \u0130 i"):
        Path(os.fsdecode(os.fsencode(model) + b"/artifacts/" + file.encode())).write_text(file, encoding="utf-8")
    found, shared = {}, None
    for name in ("C.UTF-8", "C", *LOCALES):
        cache = tmp_path / f"cache-{name}"
        for kept in ("downloads", "debs", "channel", "locks") if shared is not None else ():
            shutil.copytree(shared / kept, cache / kept)
        shared = cache
        done = Tool(cache=cache)(
            "image", model, "--json", LC_ALL=name, LOCPATH=str(tmp_path) if name in LOCALES else "", PYTHONUTF8="0"
        ).json
        found[name] = [done["digest"], done["model_digest"], *(path.name for path in (cache / "bases").iterdir())]
        record_property(f"small model, LC_ALL={name}", done["digest"])
    assert len(found) == 4 and len(set(map(tuple, found.values()))) == 1, found
