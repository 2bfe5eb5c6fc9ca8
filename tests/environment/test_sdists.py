import io
import json
import os
import shutil
import socket
import sys
import tarfile
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from small_wheels import wheel as small_wheel

from kbuild.digest import digest_file
from kbuild.environment.built.built_wheels import WheelBuilds, parse_side, wheel_url
from kbuild.environment.built.sdists import BuiltWheel, build_wheel, check_rebuild
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BuildFailed, HashMismatch, LockfileInvalid, SourceOnlyPackage
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.progress import Silent

AMD64 = Platform("linux", "amd64")
PYTHON = ".".join(map(str, sys.version_info[:3]))
# A backend that lies in the source tree and needs nothing: it tells in the wheel what it was built under.
BACKEND = """
    import json, os, socket, sys, zipfile

    def build_wheel(into, config_settings=None, metadata_directory=None):
        umask = os.umask(0)
        os.umask(umask)
        try:
            socket.create_connection(("127.0.0.1", {port}), timeout=2).close()
            network = True
        except OSError:
            network = False
        hidden = [name for name in os.environ if name.startswith(("SECRET", "PIP_"))]
        names = ("PYTHONHASHSEED", "SOURCE_DATE_EPOCH", "TZ", "LC_ALL")
        seen = dict(umask=umask, network=network, hidden=hidden, env=[os.environ[name] for name in names])
        name = "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(os.path.join(into, name), "w") as archive:
            for path, text in (
                ("tiny.py", json.dumps(seen)),
                ("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n"),
                ("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"),
                ("tiny-1.0.dist-info/RECORD", ""),
            ):
                archive.writestr(zipfile.ZipInfo(path), text)
        print("a backend may say what it likes")
        return name
"""
TABLE = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def make_sdist(folder: Path, backend: str = BACKEND.format(port=9), **more: str) -> Path:
    texts = {"pyproject.toml": TABLE, "backend.py": textwrap.dedent(backend), **more}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name if name.startswith("/") else f"tiny-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def package_of(sdist: Path) -> LockedPackage:
    return LockedPackage(
        name="tiny",
        version="1.0",
        manager="pip",
        platform=AMD64,
        url=sdist.as_uri(),
        sha256=digest_file(sdist).hex,
    )


def build(sdist: Path, into: Path, environ: Mapping[str, str] | None = None, python: str = PYTHON) -> BuiltWheel:
    given = {"PATH": os.environ["PATH"], **(environ or {})}
    return build_wheel(package_of(sdist), sdist, python=python, into=into, run=run, environ=given, progress=Silent())


@pytest.mark.slow
def test_the_same_wheel_from_two_folders_two_umasks_and_two_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sdist = make_sdist(tmp_path, BACKEND.format(port=server.getsockname()[1]))
        one = build(sdist, tmp_path / "one")
        (tmp_path / "a longer place").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "a longer place"))
        monkeypatch.setattr("tempfile.tempdir", None)
        old = os.umask(0o077)
        try:
            two = build(
                sdist, tmp_path / "two", {"SECRET": "x", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PIP_X": "y"}
            )
        finally:
            os.umask(old)
    assert one == two and one.is_pure and one.requires == ()
    assert (one.sdist_sha256, one.python) == (digest_file(sdist).hex, ".".join(PYTHON.split(".")[:2]))
    wheel = tmp_path / "one" / one.sha256 / "tiny-1.0-py3-none-any.whl"
    assert digest_file(wheel).hex == one.sha256
    with ZipFile(wheel) as archive:
        seen = json.loads(archive.read("tiny.py"))
    cut = run(["unshare", "--map-root-user", "--net", "true"]).returncode == 0 if shutil.which("unshare") else False
    assert seen == {"umask": 0o022, "network": not cut, "hidden": [], "env": ["0", "315532800", "UTC", "C.UTF-8"]}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["variables", "file"])
def test_pips_own_settings_change_neither_where_nor_what_is_installed(by: str, tmp_path: Path) -> None:
    """``pip list`` that is quiet lists nothing, and a target is not the build's environment."""
    links = tmp_path / "links"
    links.mkdir()
    name, data = small_wheel("helper", "1.0")
    (links / name).write_bytes(data)
    settings = {
        "quiet": "2",
        "user": "1",
        "dry-run": "1",
        "no-deps": "1",
        "require-hashes": "1",
        "find-links": str(links),
    }
    settings |= {"no-index": "1"} | {name: str(tmp_path / "elsewhere") for name in ("target", "prefix", "root")}
    config = tmp_path / "pip.conf"
    config.write_text("[global]\n")
    if by == "file":
        whole = "".join(f"{name} = {value}\n" for name, value in settings.items())
        config.write_text(f"[global]\n{whole}[install]\nquiet = 3\n[list]\nquiet = 3\n")
    else:
        settings = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()}
    environ = {"PIP_CONFIG_FILE": str(config), **(settings if by == "variables" else {})}
    sdist = make_sdist(tmp_path, **{"pyproject.toml": TABLE.replace("[]", '["helper"]')})
    assert build(sdist, tmp_path / "into", environ).requires == ("helper==1.0",)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_build_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, "def build_wheel(*_, **__):\n    raise RuntimeError('no such luck')\n")
    with pytest.raises(BuildFailed, match=r"tiny 1\.0 does not build: RuntimeError: no such luck"):
        build(sdist, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("wheel", ["tiny-0.0.0-py3-none-any.whl", "other-1.0-py3-none-any.whl"])
def test_a_wheel_of_another_release_is_refused(wheel: str, tmp_path: Path) -> None:
    backend = BACKEND.format(port=9).replace("tiny-1.0-py3-none-any.whl", wheel)
    with pytest.raises(BuildFailed, match=rf"the build of tiny 1\.0 gave {wheel}"):
        build(make_sdist(tmp_path, backend), tmp_path)
    assert not list(tmp_path.glob("*/*.whl"))


@pytest.mark.slow
def test_a_backend_that_ends_without_an_answer_is_a_failed_build(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, "def build_wheel(*_, **__):\n    print('no wheel today')\n    raise SystemExit(0)\n")
    with pytest.raises(BuildFailed, match=r"tiny 1\.0 does not build: no wheel today"):
        build(sdist, tmp_path)


@pytest.mark.slow
def test_a_build_that_takes_too_long_is_a_failed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.environment.built.sdists._TIMEOUT", 1.0)
    sdist = make_sdist(tmp_path, "import time\ndef build_wheel(*_, **__):\n    time.sleep(60)\n")
    with pytest.raises(BuildFailed, match=r"tiny 1\.0 is not built after 1 s"):
        build(sdist, tmp_path)


@pytest.mark.slow
def test_native_code_without_a_compiler_is_named(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "true", "unshare"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    sdist = make_sdist(tmp_path, "def build_wheel(*_, **__):\n    raise RuntimeError('gcc')\n", **{"tiny.c": "int x;"})
    with pytest.raises(SourceOnlyPackage, match=r"tiny 1\.0 has native code and needs a compiler") as caught:
        build(sdist, tmp_path, {"PATH": str(programs)})
    assert "install gcc" in str(caught.value.hint)


def test_an_archive_that_leads_out_or_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="cannot be unpacked"):
        build(make_sdist(tmp_path / "a", **{"../../out.py": "x = 1"}), tmp_path)
    (tmp_path / "tiny-1.0.tar.gz").write_bytes(b"no archive")
    with pytest.raises(BuildFailed, match="cannot be unpacked"):
        build(tmp_path / "tiny-1.0.tar.gz", tmp_path)


def test_another_python_has_to_be_here(tmp_path: Path) -> None:
    with pytest.raises(SourceOnlyPackage, match=r"built with Python 3\.2, which is not here"):
        build(make_sdist(tmp_path), tmp_path, python="3.2.0")


def builds_of(folder: Path, **more: Any) -> WheelBuilds:
    values: dict[str, Any] = {
        "channel": folder / "channel",
        "downloads": folder / "downloads",
        "run": run,
        "environ": {"PATH": os.environ["PATH"]},
        "indexes": Indexes(urls=()),
        "fetch": lambda wheel, path: None,
    }
    return WheelBuilds(**(values | more))


@pytest.mark.slow
def test_a_wheel_is_built_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(make_sdist(tmp_path))
    first = builds_of(tmp_path)
    wheel = first.wheel_of(package, PYTHON, Silent())
    assert first.wheel_of(replace(package, platform=Platform("linux", "arm64")), PYTHON, Silent()) is wheel
    assert first.made == [wheel]
    known = parse_side(first.side_file(), source="side")
    assert known == (wheel,)
    mark = f"#sdist-sha256={package.sha256}"
    assert wheel_url(wheel) == f"$KBUILD_CHANNEL/wheels/{wheel.sha256}/tiny-1.0-py3-none-any.whl{mark}"
    # Built again where asked: the same; where another comes out, the error names it.
    assert builds_of(tmp_path, known=known, again=True).wheel_of(package, PYTHON, Silent()) == wheel
    other = replace(wheel, sha256="0" * 64)
    with pytest.raises(HashMismatch, match=rf"tiny 1\.0 again gives another wheel.*{wheel.sha256}, not .*{'0' * 64}"):
        builds_of(tmp_path, known=(other,)).wheel_of(package, PYTHON, Silent())
    with pytest.raises(HashMismatch):
        check_rebuild(wheel, other)
    # Known and stored elsewhere: fetched, not built.
    monkeypatch.setattr("kbuild.environment.built.built_wheels.build_wheel", None)
    content = (tmp_path / "channel/wheels" / wheel.sha256 / wheel.filename).read_bytes()

    def fetch(wanted: BuiltWheel, path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    there = builds_of(tmp_path / "elsewhere", known=known, fetch=fetch)
    assert there.wheel_of(package, PYTHON, Silent()) == wheel and there.made == [wheel]


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2, "wheels": []}', '{"version": 1, "wheels": [{}]}'])
def test_a_damaged_side_file_is_named(text: str) -> None:
    with pytest.raises(LockfileInvalid, match="side"):
        parse_side(text.encode(), source="side")
