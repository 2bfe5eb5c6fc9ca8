"""Constants that a person raises when bytes change, each with a golden digest of bytes: who forgets is told.

``recipes.json`` holds recipe and digest together. Where a digest here changes on purpose, raise the recipe in the code
(what was cached under the old one is then made anew) and write both there; where it changes by accident, mend the code.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.cache.room import Room
from kbuild.cache.tree import normalise_tree
from kbuild.environment.lockfile import LockedPackage
from kbuild.image.base.debian import deb
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.oci import tarball
from kbuild.image.oci.tarball import DIRECTORY, FILE, SYMLINK, Entry
from kbuild.image.packages import wheels
from kbuild.image.run import layer_tree
from kbuild.image.store import pack
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.progress import Silent

GOLDEN: dict[str, dict[str, object]] = json.loads(Path(__file__).with_name("recipes.json").read_text("utf-8"))
ENTRIES = (
    Entry(name=b"opt", kind=DIRECTORY, mode=0o755),
    Entry(name=b"opt/" + b"long" * 40, kind=FILE, mode=0o644, size=5, source=b"hello"),
    Entry(name="opt/ü".encode(), kind=SYMLINK, mode=0o777, link=b"../etc"),
    Entry(name=b"opt/program", kind=FILE, mode=0o4755, uid=1000, gid=2_097_152, size=600, source=b"x" * 600),
)


@dataclass(frozen=True)
class Layer:
    def chunks(self) -> Iterator[bytes]:
        return tarball.tar_chunks(ENTRIES)


def digest(parts: Iterable[bytes]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def tree(root: Path) -> str:
    """Names, modes, kinds and content of all that is there."""

    def told() -> Iterator[bytes]:
        for path in sorted(root.rglob("*")):
            mode = path.lstat().st_mode
            content = b"" if path.is_dir() else path.read_bytes() if path.is_file() else bytes(path.readlink())
            content = bytes(path.readlink()) if path.is_symlink() else content
            yield f"{path.relative_to(root)} {mode:o} {hashlib.sha256(content).hexdigest()}\n".encode()

    return digest(told())


def tar(members: dict[str, bytes | str | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if "bin" in name else 0o640
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type, member.linkname = (tarfile.LNKTYPE if content[0] == "=" else tarfile.SYMTYPE), content[1:]
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


def of_tarball(folder: Path) -> str:
    return digest(tarball.tar_chunks(ENTRIES))


def of_pack(folder: Path) -> str:
    """Of config and manifest, without what the compressor makes: that has its own name in the plan."""
    layers = (RawLayer(content=Layer(), created_by="COPY a/ /"),)
    config = {"Env": ["A=b"], "User": "1", "Labels": {"x": "y"}}
    output = EngineOutput(layers=layers, config=config)
    image = pack.pack(output, EMPTY, folder / "image", engine="native", progress=Silent())
    blobs = folder / "image/blobs/sha256"
    manifest = json.loads((blobs / image.digest.hex).read_bytes())
    for each in manifest["layers"]:
        del each["digest"], each["size"]
    manifest["annotations"] = sorted(manifest.get("annotations") or {})
    return digest([(blobs / image.config_digest.hex).read_bytes(), json.dumps(manifest).encode()])


def of_layer_tree(folder: Path) -> str:
    members = {"d/": None, "d/bin": b"1", "d/l": ">bin", "d/h": "=d/bin", "d/x": "=other", ".wh.gone": b""}
    (folder / "t").mkdir()
    layer_tree.unpack_layer(iter([tar({**members, "d/.wh..wh..opq": b""})]), folder / "t", Room([]))
    return digest([tree(folder / "t/tree").encode(), (folder / "t/members.json").read_bytes()])


def of_wheels(folder: Path) -> str:
    files = {
        "demo/__init__.py": "",
        "demo/bin.sh": "#!/bin/sh\n",
        "demo-1.data/scripts/tool": "#!python\n",
        "demo-1.data/data/share/x": "x",
        "demo-1.data/headers/demo.h": "h",
        "Demo-1.data/data/share/demo.txt": "spelled as pip allows\n",
        "demo-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1\n",
        "demo-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "demo-1.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
    }
    wheel = folder / "wheel"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
        names = [*files, "demo-1.dist-info/RECORD"]
        archive.writestr(zipfile.ZipInfo(names[-1]), "".join(f"{name},,\n" for name in names))
    amd64 = Platform("linux", "amd64")
    url = "https://index.example/demo-1-py3-none-any.whl"
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    locked = LockedPackage(name="demo", version="1", manager="pip", platform=amd64, url=url, sha256=sha256)
    target = wheels.WheelTarget(python="3.11.7", platform=amd64, prefix="/opt/env")
    done = wheels.cached_wheels({locked: wheel}, target=target, compiler=None, cache=folder / "cache", run=run)
    return tree(done[locked])


def of_deb(folder: Path) -> str:
    data = tar({"./usr/bin/x": b"#!/bin/sh\n", "./lib/y": b"y", "./usr/z": ">bin/x", "./etc/": None, "./etc/c": b"c"})
    control = gzip.compress(tar({"./control": b"Package: x\nVersion: 1\n"}), mtime=0)
    members = {"debian-binary": b"2.0\n", "control.tar.gz": control, "data.tar.xz": lzma.compress(data)}
    package = b"!<arch>\n"
    for name, content in members.items():
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    (folder / "root").mkdir()
    deb.lay_out({"x_1_amd64.deb": package}, folder / "root")
    normalise_tree(folder / "root")
    return tree(folder / "root")


RECIPES: dict[str, tuple[int, Callable[[Path], str]]] = {
    "tarball": (tarball.RECIPE, of_tarball),
    "pack": (pack._RECIPE, of_pack),
    "layer_tree": (layer_tree.RECIPE, of_layer_tree),
    "wheels": (wheels.RECIPE, of_wheels),
    "deb": (deb.RECIPE, of_deb),
}


@pytest.mark.parametrize("name", RECIPES)
def test_other_bytes_have_another_recipe(name: str, tmp_path: Path) -> None:
    recipe, make = RECIPES[name]
    assert {"recipe": recipe, "digest": make(tmp_path)} == GOLDEN[name], __doc__


def test_every_golden_digest_is_of_a_recipe() -> None:
    assert set(GOLDEN) == set(RECIPES)
