"""A conda channel that says what conda-forge says, with stand-ins for contents.

``conda_forge_records.json`` has records of conda-forge's own repodata as public lock files of 2026 carry them: names,
versions, builds, depends, constrains, noarch, formats; what the environments of the tests need, and some that the
solver must pass over. Contents are of this machine and of the package index: CPython's is an interpreter found here,
under whose patch release the record of its minor version is offered; numpy and Pygments are their wheels; all others
are a few small files of the kinds that conda packages have.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from rattler.package_streaming import extract

from kbuild.environment.captured.capture import InterpreterLayout, capture_interpreter
from kbuild.process import run
from kbuild.progress import Silent

RECORDS = Path(__file__).with_name("conda_forge_records.json")
PLACEHOLDER = "/opt/conda_forge_stand_in_prefix" + "_placehold" * 10
_LAYOUT = """
import json, sys, sysconfig, pathlib
name = f"python{sysconfig.get_python_version()}"
executable = (pathlib.Path(sys.base_prefix) / "bin" / name).resolve()
print(json.dumps([".".join(map(str, sys.version_info[:3])), str(executable),
    sysconfig.get_path("stdlib"), sys.base_prefix]))
"""


@dataclass(kw_only=True)
class Content:
    """The files of a package: bytes, or the target of a symbolic link as text; and what holds the placeholder."""

    files: dict[str, bytes | str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    placeholders: dict[str, tuple[str, str]] = field(default_factory=dict)
    info: dict[str, bytes] = field(default_factory=dict)


def find_interpreter(minor: str) -> InterpreterLayout | None:
    """A CPython of that minor version with its own files: this one, one on the PATH or one of pyenv."""
    candidates: list[Path | str] = [sys.executable, f"python{minor}"]
    candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{minor}.*/bin/python{minor}"))
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", _LAYOUT], capture_output=True, text=True, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            version, executable, stdlib, prefix = json.loads(done.stdout)
            if version.startswith(f"{minor}."):
                return InterpreterLayout(
                    version=version, executable=Path(executable), stdlib=Path(stdlib), prefix=Path(prefix)
                )
    return None


def make_channel(folder: Path, layouts: Mapping[str, InterpreterLayout], scratch: Path) -> str:
    """Write the channel; returns its url. ``layouts`` are the interpreters by minor version."""
    repodata: dict[str, dict[str, dict[str, Any]]] = {}
    for record in json.loads(RECORDS.read_bytes()):
        record = dict(record)
        name = record.pop("fn")
        ending = ".conda" if name.endswith(".conda") else ".tar.bz2"
        minor = ".".join(record["version"].split(".")[:2])
        content = Content()
        if record["name"] == "python" and record["subdir"] == "linux-64" and minor in layouts:
            record["version"] = layouts[minor].version
            content = _interpreter(layouts[minor], scratch / f"python{minor}")
        elif record["name"] in ("numpy", "pygments") and _wanted(record, layouts):
            content = _wheel(record, scratch / "wheels")
        else:
            content = _stand_in(record)
        name = f"{record['name']}-{record['version']}-{record['build']}{ending}"
        path = folder / record["subdir"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, record, content)
        data = path.read_bytes()
        described = {
            **{key: value for key, value in record.items() if key != "purls"},
            "md5": hashlib.md5(data).hexdigest(),  # noqa: S324 - the format has it
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
        kind = "packages.conda" if ending == ".conda" else "packages"
        repodata.setdefault(record["subdir"], {"packages": {}, "packages.conda": {}})[kind][name] = described
    for subdir, offered in repodata.items():
        document = {"info": {"subdir": subdir}, **offered, "repodata_version": 1}
        (folder / subdir / "repodata.json").write_text(json.dumps(document))
    return folder.as_uri()


def _wanted(record: Mapping[str, Any], layouts: Mapping[str, InterpreterLayout]) -> bool:
    tags = {f"py{minor.replace('.', '')}" for minor in layouts}
    return record["subdir"] == "noarch" or (
        record["subdir"] == "linux-64" and any(record["build"].startswith(f"{tag}h") for tag in tags)
    )


def _interpreter(layout: InterpreterLayout, scratch: Path) -> Content:
    captured = capture_interpreter(scratch / "channel", run=run, progress=Silent(), layout=layout)
    root = scratch / "files"
    extract(captured.package, root)
    content = Content()
    for entry in json.loads((root / "info/paths.json").read_bytes())["paths"]:
        name, path = entry["_path"], root / entry["_path"]
        content.files[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
        if not path.is_symlink():
            content.modes[name] = path.stat().st_mode & 0o777
        if "prefix_placeholder" in entry:
            content.placeholders[name] = (entry["file_mode"], entry["prefix_placeholder"])
    return content


def _wheel(record: Mapping[str, Any], scratch: Path) -> Content:
    """The files of the release's wheel, where conda puts them; as conda packages are built, with pip."""
    noarch = record.get("noarch") == "python"
    tag = "" if noarch else record["build"].removeprefix("py").partition("h")[0]
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", scratch / tag]
    if tag:
        argv += ["--python-version", tag, "--implementation", "cp"]
        for platform in ("manylinux2014_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64"):
            argv += ["--platform", platform]
    argv.append(f"{record['name']}=={record['version']}")
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (scratch / tag).glob(f"{record['name']}-{record['version']}-*.whl")
    content = Content()
    site = "site-packages" if noarch else f"lib/python{tag[0]}.{tag[1:]}/site-packages"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.is_dir() and ".data/" not in member.filename:
                content.files[f"{site}/{member.filename}"] = archive.read(member)
    (info,) = {name.split("/")[-2] for name in content.files if name.endswith(".dist-info/METADATA")}
    content.files[f"{site}/{info}/INSTALLER"] = b"conda\n"
    if noarch:
        # What the package's recipe says; the installer writes the program for the interpreter that it finds.
        points = ["pygmentize = pygments.cmdline:main"]
        link = {"noarch": {"type": "python", "entry_points": points}, "package_metadata_version": 1}
        content.info["info/link.json"] = json.dumps(link).encode()
    return content


def _stand_in(record: Mapping[str, Any]) -> Content:
    name, version = record["name"], record["version"]
    content = Content()
    if record.get("noarch") == "python":
        module = name.replace("-", "_")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        content.files[f"site-packages/{module}/__init__.py"] = f"__version__ = {version!r}\n".encode()
        content.files[f"site-packages/{module}-{version}.dist-info/METADATA"] = metadata
        content.files[f"site-packages/{module}-{version}.dist-info/INSTALLER"] = b"conda\n"
        content.info["info/link.json"] = json.dumps(
            {"noarch": {"type": "python"}, "package_metadata_version": 1}
        ).encode()
        return content
    content.files[f"share/stand-in/{name}"] = f"{name} {version} {record['build']}\n".encode()
    if name == "openssl":
        text, binary = f"#!{PLACEHOLDER}/bin/sh\n# openssl of {PLACEHOLDER}\n", f"\0dir={PLACEHOLDER}/ssl\0end\n"
        content.files |= {"bin/openssl": text.encode(), "lib/stand-in.so.3": binary.encode()}
        content.files["lib/stand-in.so"] = "stand-in.so.3"
        content.modes["bin/openssl"] = 0o755
        content.placeholders |= {
            "bin/openssl": ("text", PLACEHOLDER),
            "lib/stand-in.so.3": ("binary", PLACEHOLDER),
        }
        content.files["bin/.openssl-post-link.sh"] = b'#!/bin/sh\ntouch "$PREFIX/ran-post-link"\n'
        content.modes["bin/.openssl-post-link.sh"] = 0o755
    return content


def _write(path: Path, record: Mapping[str, Any], content: Content) -> None:
    index = {key: value for key, value in record.items() if key != "purls"}
    paths = []
    for name, data in sorted(content.files.items()):
        link = isinstance(data, str)
        raw = b"" if isinstance(data, str) else data
        entry = {
            "_path": name,
            "path_type": "softlink" if link else "hardlink",
            "sha256": hashlib.sha256(raw).hexdigest(),
            "size_in_bytes": len(raw),
        }
        if name in content.placeholders:
            mode, placeholder = content.placeholders[name]
            entry |= {"file_mode": mode, "prefix_placeholder": placeholder}
        paths.append(entry)
    info: dict[str, bytes | str] = {
        "info/index.json": json.dumps(index).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        "info/files": "".join(f"{name}\n" for name in sorted(content.files)).encode(),
        **content.info,
    }
    if path.name.endswith(".tar.bz2"):
        with tarfile.open(path, "w:bz2") as tar:
            _add(tar, {**info, **content.files}, content.modes)
        return
    stem = path.name.removesuffix(".conda")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
        archive.writestr(f"pkg-{stem}.tar.zst", _packed(content.files, content.modes))
        archive.writestr(f"info-{stem}.tar.zst", _packed(info, {}))


def _packed(files: Mapping[str, bytes | str], modes: Mapping[str, int]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, files, modes)
    return zstandard.ZstdCompressor(level=1).compress(buffer.getvalue())


def _add(tar: tarfile.TarFile, files: Mapping[str, bytes | str], modes: Mapping[str, int]) -> None:
    for entry, data in _entries(files, modes):
        tar.addfile(entry, io.BytesIO(data))


def _entries(files: Mapping[str, bytes | str], modes: Mapping[str, int]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for name, data in sorted(files.items()):
        entry = tarfile.TarInfo(name)
        if isinstance(data, str):
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, data, 0o777
            yield entry, b""
        else:
            entry.size, entry.mode = len(data), modes.get(name, 0o644)
            yield entry, data
