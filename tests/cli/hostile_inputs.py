"""Hostile inputs, as files, and the command that meets each: for the cheap test and for that of real processes."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Lay = Callable[[Path], list[str]]
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """``lay`` makes the files and gives the command; ``code`` is its exit code; ``heavy`` is what the cheap tests leave
    to those of real processes."""

    name: str
    lay: Lay
    code: int
    heavy: bool = False

    def check(self, code: int, out: str, err: str) -> None:
        """The command said what is wrong in one line, with a hint and where more is said."""
        assert code == self.code, f"exit code {code}: {err[-2000:]}"
        assert "Traceback" not in err and "defect in kbuild" not in err
        lines = err[err.index("error: ") :].splitlines() if code else []
        assert len(lines) <= 3 and len(err) < 5_000, err[-2000:]
        bad = [each for each in out + err if each != "\n" and not each.isprintable()]
        assert not bad, f"a terminal would obey {bad[:5]!r}"


def _bomb(item: str) -> bytes:
    """Ten times what the line before stands for, on each line."""
    lines = (
        f"{name}: &{name} {item % ', '.join([f'*{other}'] * 10)}" for other, name in itertools.pairwise("abcdefghij")
    )
    return "\n".join(["a: &a {x: 1, y: 2}", *lines]).encode()


TEXTS: dict[str, bytes] = {
    "alias bomb": _bomb("[%s]"),
    "merge bomb": _bomb("{<<: [%s]}"),
    "itself": b"&a [*a]",
    "deep flow": b"[" * 100_000,
    "deep block": b"- " * 20_000 + b"x",
    "many values": b"- x\n" * 300_000,
    "one line": b"a: " + b"x" * (17 << 20),
    "no UTF-8": b"a: \xff\xfe",
    "NUL": b"\0",
    "no number": b"a: !!int ''",
    "no day": b"a: 2001-99-99",
    "digits": b"a: " + b"9" * 5_000,
}
PLACES: dict[str, int] = {"MLmodel": 15, "conda.yaml": 15, "lock": 26, "kbuild.yml": 3}
FILES = ("pipe", "device", "folder", "cycle", "sparse")


def make_model(folder: Path, **mlmodel: Any) -> Path:
    """A small model folder."""
    folder.mkdir(parents=True)
    flavor = {"env": {"conda": "conda.yaml"}, "python_version": "3.11.7", "loader_module": "mlflow.sklearn"}
    flavor |= mlmodel.pop("flavor", {})
    stated = {"flavors": {"python_function": flavor}, **mlmodel}
    (folder / "MLmodel").write_text(yaml.safe_dump(stated), "utf-8")
    (folder / "conda.yaml").write_text(yaml.safe_dump({"dependencies": ["python=3.11.7"]}), "utf-8")
    return folder


def lay(path: Path, kind: str) -> Path:
    """Something in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "cycle":
        path.symlink_to(path.name)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 5 << 30)
    else:
        path.write_bytes(TEXTS[kind])
    return path


def _in_place(place: str, kind: str) -> Lay:
    def make(folder: Path) -> list[str]:
        model = make_model(folder / "model")
        if place in ("MLmodel", "conda.yaml", "requirements.txt"):
            lay(model / place, kind)
        elif place == "lock":
            lay(folder / "conda-lock.yml", kind)
        elif place == "kbuild.yml":
            (folder / "pyproject.toml").write_text("[tool.kedro]\npackage_name = 'x'\nproject_name = 'x'\n", "utf-8")
            (folder / "conf/local").mkdir(parents=True)
            lay(folder / "conf/base/kbuild.yml", kind)
        else:
            lay(folder / place, kind)
        return ["render", "./model", "--lockfile", "conda-lock.yml", "-o", "context"]

    return make


def make_tar(*members: tuple[str, bytes, bytes | str]) -> bytes:
    """A tar of (name, type, content or where the link leads)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = content if isinstance(content, str) else ""
            member.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return data.getvalue()


def _blob(layout: Path, data: bytes) -> dict[str, Any]:
    path = layout / "blobs/sha256" / hashlib.sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"digest": f"sha256:{path.name}", "size": len(data)}


def make_layout(
    layout: Path, *, layer: bytes = make_tar(("etc", tarfile.DIRTYPE, "")), packed: str = "", **given: Any
) -> Path:
    """An image layout of one layer; ``config`` adds to the image's config, ``manifest`` and ``index`` are bytes."""
    layout.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', "utf-8")
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config: Any = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config |= given.get("config", {})
    manifest = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **_blob(layout, json.dumps(config).encode()),
        },
        "layers": [{"mediaType": LAYER + packed, **_blob(layout, layer)}],
    }
    described = _blob(layout, given.get("manifest") or json.dumps(manifest).encode())
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **described, **given.get("entry", {})}
    index = given.get("index") or json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    (layout / "index.json").write_bytes(index)
    return layout


def _layout(command: str = "inspect", **given: Any) -> Lay:
    def make(folder: Path) -> list[str]:
        make_layout(folder / "layout", **given)
        return [command, "layout", *(["other"] if command == "diff" and make_layout(folder / "other") else [])]

    return make


def _blob_of(kind: str) -> Lay:
    def make(folder: Path) -> list[str]:
        layout = make_layout(folder / "layout")
        manifest = json.loads((layout / "index.json").read_text("utf-8"))["manifests"][0]["digest"]
        lay(layout / "blobs/sha256" / manifest.removeprefix("sha256:"), kind)
        return ["inspect", "layout"]

    return make


def _fan_out(folder: Path) -> list[str]:
    """An index of 60 entries, each of which is an index of 60 …: 13 million manifests, which are one."""
    layout = make_layout(folder / "layout")
    entry = json.loads((layout / "index.json").read_text("utf-8"))["manifests"][0]
    for _ in range(4):
        inner = json.dumps({"schemaVersion": 2, "manifests": [entry] * 60}).encode()
        entry = {"mediaType": "application/vnd.oci.image.index.v1+json", **_blob(layout, inner)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), "utf-8")
    return ["inspect", "layout"]


def _model(change: Callable[[Path], object], **mlmodel: Any) -> Lay:
    def make(folder: Path) -> list[str]:
        change(make_model(folder / "model", **mlmodel))
        return ["render", "./model", "-o", "context"]

    return make


def _deep(model: Path) -> None:
    held = os.open(model, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=held)
        inner = os.open("d", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = inner
    os.close(held)


def _tar(data: bytes | Callable[[], bytes]) -> Lay:
    def make(folder: Path) -> list[str]:
        (folder / "image.tar").write_bytes(data if isinstance(data, bytes) else data())
        return ["inspect", "image.tar"]

    return make


def _sparse_tar(folder: Path) -> list[str]:
    lay(folder / "image.tar", "sparse")
    return ["inspect", "image.tar"]


def _list(kind: str) -> Lay:
    return lambda folder: ["image", "--from-file", str(lay(folder / "models.txt", kind))]


def _zeros(megabytes: int) -> bytes:
    """A gzipped tar of one file of zeros: a thousandth of what it says."""
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", compresslevel=9, mtime=0) as packed:
        member = tarfile.TarInfo("opt/model/MLmodel")
        member.size = megabytes << 20
        packed.write(member.tobuf())
        for _ in range(megabytes):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    return data.getvalue()


def _many(members: int) -> bytes:
    """A gzipped tar of so many empty files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as archive:
        for number in range(members):
            archive.addfile(tarfile.TarInfo(f"d{number % 500}/f{number}"))
    return data.getvalue()


def _archive(layer: Callable[[], bytes]) -> Lay:
    """Of a gzipped layer that takes seconds to make, which is not to be done where the corpus is only imported."""

    def make(folder: Path) -> list[str]:
        layout = make_layout(folder / "layout", layer=layer(), packed="+gzip")
        with tarfile.open(folder / "image.tar", "w") as archive:
            archive.add(layout, arcname=".")
        return ["inspect", "image.tar"]

    return make


def _long_header(size: int) -> bytes:
    """A tar whose first header is of a name that is ``size`` bytes long."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, size
    return member.tobuf() + bytes(4096)


_PLACES = {"flavor code": "code", "flavor data": "data", "flavor python_model": "python_model"}
_REGULAR, _FOLDER, _LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE
_ESCAPE = "\x1b[31mred\x07"

CORPUS: list[Hostile] = [
    *(
        Hostile(name=f"{place}: {kind}", lay=_in_place(place, kind), code=code, heavy=kind == "many values")
        for place, code in PLACES.items()
        for kind in TEXTS
        # Each parser of ours is the same one; the others are of the place that most read.
        if place == "lock" or kind in ("alias bomb", "deep flow", "one line", "no UTF-8", "no number")
    ),
    *(
        Hostile(name=f"{place}: {kind}", lay=_in_place(place, kind), code=code)
        for place, code in {**PLACES, "requirements.txt": 15, "pyproject.toml": 3}.items()
        for kind in FILES
        if place != "MLmodel" or kind == "sparse"  # a folder without one names no model: InvalidReference
    ),
    *(
        Hostile(name=f"pyproject.toml: {kind}", lay=_in_place("pyproject.toml", kind), code=3)
        for kind in ("deep flow", "one line", "no UTF-8", "NUL", "digits")
    ),
    *(
        Hostile(name=f"requirements.txt: {kind}", lay=_in_place("requirements.txt", kind), code=15)
        for kind in ("no UTF-8", "one line")
    ),
    *(
        Hostile(name=f"models.txt: {kind}", lay=_list(kind), code=3)
        for kind in ("pipe", "device", "sparse", "no UTF-8")
    ),
    Hostile(name="models.txt: many values", lay=_list("many values"), code=10, heavy=True),
    *(
        Hostile(name=f"{name}: an absolute path", lay=_model(lambda _: None, flavor={key: "/etc"}), code=15)
        for name, key in _PLACES.items()
    ),
    Hostile(
        name="artifact: a path out",
        lay=_model(lambda _: None, flavor={"artifacts": {"a": {"path": "../../etc/passwd"}}}),
        code=15,
    ),
    Hostile(name="signature: deep", lay=_model(lambda _: None, signature={"inputs": "[" * 50_000}), code=15),
    Hostile(name="model: 110 folders", lay=_model(lambda m: (m / ("d/" * 110)).mkdir(parents=True)), code=15),
    Hostile(name="model: a pipe", lay=_model(lambda model: os.mkfifo(model / "data")), code=15),
    Hostile(name="model: a device", lay=_model(lambda model: (model / "zero").symlink_to("/dev/zero")), code=15),
    Hostile(name="model: a link to itself", lay=_model(lambda model: (model / "loop").symlink_to("loop")), code=15),
    Hostile(name="model: 1,500 folders", lay=_model(_deep), code=15, heavy=True),
    Hostile(
        name="model: a name of other bytes",
        lay=_model(lambda model: Path(os.fsdecode(os.fsencode(model) + b"/\xff\xfe")).touch()),
        code=15,
    ),
    Hostile(
        name="model: a name that a terminal obeys",
        lay=_model(lambda model: (model / f"{_ESCAPE}\n").symlink_to("/etc/passwd")),
        code=15,
    ),
    *(
        Hostile(name=f"index.json: {kind}", lay=_layout(index=TEXTS[kind]), code=44)
        for kind in ("deep flow", "one line", "no UTF-8", "NUL", "digits")
    ),
    *(
        Hostile(name=f"manifest: {kind}", lay=_layout(manifest=TEXTS[kind]), code=44)
        for kind in ("deep flow", "one line", "no UTF-8")
    ),
    *(Hostile(name=f"blob: {kind}", lay=_blob_of(kind), code=44) for kind in FILES),
    Hostile(name="index.json: a size that lies", lay=_layout(entry={"size": 1 << 60}), code=44),
    Hostile(name="index.json: a digest that is a path", lay=_layout(entry={"digest": "sha256:../../x"}), code=44),
    Hostile(name="index.json: indexes in indexes", lay=_fan_out, code=0),
    *(
        Hostile(name=f"config: {key} {value!r}", lay=_layout(config={"config": {key: value}}), code=44)
        for key, value in (("Env", {"a": "b"}), ("Entrypoint", 5), ("Labels", [1]), ("User", [1]))
    ),
    Hostile(name="config: a list", lay=_layout(config={"config": [1]}), code=44),
    Hostile(
        name="labels: what a terminal obeys", lay=_layout(config={"config": {"Labels": {_ESCAPE: _ESCAPE}}}), code=0
    ),
    Hostile(
        name="layer: a name that a terminal obeys",
        lay=_layout("diff", layer=make_tar((_ESCAPE, _REGULAR, b"x"))),
        code=0,
    ),
    Hostile(
        name="layer: 1,500 folders", lay=_layout("diff", layer=make_tar(("d/" * 1_500 + "x", _REGULAR, b"x"))), code=44
    ),
    Hostile(name="layer: a header of gigabytes", lay=_layout("diff", layer=_long_header(3 << 30)), code=44),
    Hostile(name="layer: no tar", lay=_layout("diff", layer=b"x" * 5_000), code=44),
    Hostile(name="layer: gzip that ends", lay=_layout("diff", layer=_zeros(1)[:500], packed="+gzip"), code=44),
    Hostile(name="layer: a bomb", lay=_archive(lambda: _zeros(1_100)), code=44, heavy=True),
    Hostile(name="layer: 100,000 members", lay=_archive(lambda: _many(100_000)), code=0, heavy=True),
    Hostile(
        name="labels: 20,000",
        lay=_layout(config={"config": {"Labels": {f"k{number}": "v" * 100 for number in range(20_000)}}}),
        code=0,
    ),
    Hostile(name="labels: of megabytes", lay=_layout(config={"config": {"Labels": {"k" * 3_000_000: "v"}}}), code=0),
    Hostile(
        name="labels: what formats obey",
        lay=_layout(config={"config": {"Labels": {"{x}%s": "{0.__class__}%n", "[bold]": "[/]\u202e", "": ""}}}),
        code=0,
    ),
    Hostile(name="labels: numbers", lay=_layout(config={"config": {"Labels": {"a": 5}}}), code=44),
    Hostile(name="tar: a path out", lay=_tar(make_tar(("../../x", _REGULAR, b"x"))), code=44),
    Hostile(name="tar: a link out", lay=_tar(make_tar(("a", _LINK, "/etc"), ("a/x", _REGULAR, b"x"))), code=44),
    Hostile(name="tar: a pipe", lay=_tar(make_tar(("p", tarfile.FIFOTYPE, ""))), code=44),
    Hostile(name="tar: 300 letters", lay=_tar(make_tar(("n" * 300, _REGULAR, b"x"))), code=44),
    Hostile(name="tar: 1,500 folders", lay=_tar(make_tar(("d/" * 1_500 + "x", _REGULAR, b"x"))), code=44),
    Hostile(name="tar: a bomb", lay=_tar(lambda: _zeros(64)), code=44),
    Hostile(name="tar: sparse", lay=_sparse_tar, code=44),
]
