from __future__ import annotations

import os
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.cache.tree import is_damaged
from kbuild.digest import Digest, digest_file
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import CacheDamaged, LockfileInvalid, SourceOnlyPackage
from kbuild.image.packages.wheels import WheelTarget, cached_wheels, promised_glibc, wheel_filename
from kbuild.platform import Platform
from kbuild.process import run

AMD64 = Platform.parse("linux/amd64")
TARGET = WheelTarget(python="3.11.7", platform=AMD64, prefix="/opt/env")
SITE = "opt/env/lib/python3.11/site-packages"


def package(filename: str, name: str = "demo", version: str = "1") -> LockedPackage:
    return LockedPackage(
        name=name, version=version, manager="pip", platform=AMD64, url=f"https://index/{filename}", sha256="0" * 64
    )


@pytest.fixture(autouse=True)
def _any_sha256(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What most tests install is locked with no digest of its own."""
    if "poisoned" not in request.node.name:
        monkeypatch.setattr("kbuild.image.packages.wheels.check_download", lambda *_: None)


def test_a_poisoned_download_is_not_unpacked(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "demo-1-py3-none-any.whl", {"demo.py": "x = 1"})
    locked = replace(package(wheel.name), sha256=digest_file(wheel).hex)
    target = WheelTarget(python="3.11.7", platform=AMD64, prefix="/opt/env")
    make_wheel(wheel, {"demo.py": "x = 2"})
    with pytest.raises(CacheDamaged, match="demo"):
        cached_wheels({locked: wheel}, target=target, compiler=None, cache=tmp_path / "cache", run=run)
    assert not [each for each in (tmp_path / "cache/wheels").iterdir() if not each.name.startswith(".")]


def make_wheel(path: Path, files: dict[str, str], name: str = "demo", version: str = "1") -> Path:
    info = f"{name}-{version}.dist-info"
    base = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    base[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    names = [*base, *files, f"{info}/RECORD"]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in {**base, **files}.items():
            kind = zipfile.ZipInfo(entry)
            kind.external_attr = (0o100755 if entry.endswith(".sh") else 0o100600) << 16
            archive.writestr(kind, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{entry},,\n" for entry in names))
    return path


def lay(tmp_path: Path, wheels: dict[LockedPackage, Path]) -> dict[LockedPackage, Path]:
    return cached_wheels(wheels, target=TARGET, compiler=None, cache=tmp_path / "cache", run=run)


def install(tmp_path: Path, files: dict[str, str]) -> Path:
    # The file's own name is the download cache's affair: the lock knows the real one.
    wheel = make_wheel(tmp_path / "3f2a", files)
    locked = package("demo-1-py3-none-any.whl")
    return lay(tmp_path, {locked: wheel})[locked]


def test_every_scheme_finds_its_place(tmp_path: Path) -> None:
    root = install(
        tmp_path,
        {
            "demo/__init__.py": "",
            "demo/__pycache__/__init__.cpython-311.pyc": "stale",
            "demo/tool.sh": "",
            "demo-1.data/scripts/demo-script": "#!python\nprint()\n",
            "demo-1.data/data/share/demo/x.txt": "x",
            "demo-1.data/headers/demo.h": "h",
            "demo-1.data/platlib/demo_native.py": "",
            "demo-1.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
        },
    )
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {
        f"{SITE}/demo/__init__.py",
        f"{SITE}/demo/tool.sh",
        f"{SITE}/demo_native.py",
        *(f"{SITE}/demo-1.dist-info/{n}" for n in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "entry_points.txt")),
        "opt/env/bin/demo",
        "opt/env/bin/demo-script",
        "opt/env/share/demo/x.txt",
        "opt/env/include/python3.11/demo/demo.h",
    }
    assert (root / "opt/env/bin/demo").read_text().startswith("#!/opt/env/bin/python\n")
    assert (root / "opt/env/bin/demo-script").read_text() == "#!/opt/env/bin/python\nprint()\n"
    assert (root / f"{SITE}/demo-1.dist-info/INSTALLER").read_text() == "kbuild\n"
    record = (root / f"{SITE}/demo-1.dist-info/RECORD").read_text()
    assert "../../../bin/demo,sha256=" in record
    assert str(tmp_path) not in record
    assert (root / f"{SITE}/demo/tool.sh").stat().st_mode & 0o777 == 0o755
    assert (root / f"{SITE}/demo/__init__.py").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("folder", ["Demo-1.data", "demo-1.data"])
def test_a_data_folder_may_be_spelled_otherwise_than_the_file(tmp_path: Path, folder: str) -> None:
    """pip takes whatever folder ends in ``.data``; one of another project or release is a folder as any other here."""
    root = install(tmp_path, {f"{folder}/purelib/demo.py": "x = 1\n", "other-1.data/a.py": "", "demo-2.data/b.py": ""})
    assert (root / f"{SITE}/demo.py").read_text() == "x = 1\n"
    assert (root / f"{SITE}/other-1.data/a.py").is_file() and (root / f"{SITE}/demo-2.data/b.py").is_file()


def test_a_cache_may_be_named_by_a_path_through_its_parent(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    root = install(tmp_path / "a" / "..", {"demo.py": "x = 1\n"})
    assert (root / f"{SITE}/demo.py").read_text() == "x = 1\n"


def test_a_wheel_is_installed_once_a_cache(tmp_path: Path) -> None:
    first = install(tmp_path, {"demo.py": ""})
    (tmp_path / "3f2a").unlink()
    locked = package("demo-1-py3-none-any.whl")
    assert lay(tmp_path, {locked: tmp_path / "3f2a"})[locked] == first


def test_what_was_hashed_while_it_was_written_is_not_read_for_the_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def noted(path: Path | str) -> Digest:
        read.append(path)
        return digest_file(path)

    monkeypatch.setattr("kbuild.cache.tree.digest_file", noted)
    files = {
        "demo.py": "x = 1\n",
        "demo-1.data/scripts/demo-script": "#!python\nprint()\n",
        "demo-1.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
    }
    root = install(tmp_path, files)
    assert read == []
    assert is_damaged(root) is False and len(read) == len([path for path in root.rglob("*") if path.is_file()])
    (root / f"{SITE}/demo.py").write_text("x = 2\n")
    assert is_damaged(root) is True


@pytest.mark.parametrize(
    "files",
    [
        {"demo-1.dist-info/entry_points.txt": "[console_scripts]\nx = not an entry point!\n"},
        {"../../../../../../etc/passwd": "x"},
        {"demo-1.data/elsewhere/x": "x"},
        {"other-2.dist-info/METADATA": ""},
    ],
)
def test_a_wheel_that_breaks_its_format_is_named(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(LockfileInvalid, match=r"demo-1-py3-none-any\.whl cannot be installed: \S"):
        install(tmp_path, files)
    assert not list((tmp_path / "cache/wheels").iterdir())


def _spoil(data: bytes, at: int, value: int) -> bytes:
    """The zip with two bytes of every header changed: ``at`` in local headers, two further in the directory's."""
    for mark, place in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
        start = 0
        while (start := data.find(mark, start)) >= 0:
            data = data[: start + place] + value.to_bytes(2, "little") + data[start + place + 2 :]
            start += 4
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("demo", "1"),
        ("Demo", "1.0.0"),
        ("other", "1"),
        ("demo", "2"),
        ("demo", "1+local"),
        ("demo", "no version"),
        ("", "1"),
        ("demo", ""),
    ],
)
def test_whose_metadata_a_wheel_may_have_is_as_pip_has_it(tmp_path: Path, name: str, version: str) -> None:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    wheel = make_wheel(tmp_path / "demo-1-py3-none-any.whl", {"demo.py": "x = 1", "demo-1.dist-info/METADATA": text})
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", str(tmp_path), "demo==1"]
    done = run([*pip, "--target", str(tmp_path / "there"), "--disable-pip-version-check"], env={**os.environ})
    takes = done.returncode == 0
    assert takes is (version in ("1", "1.0.0") and name.lower() == "demo"), done.stderr
    try:
        cached_wheels({package(wheel.name): wheel}, target=TARGET, compiler=None, cache=tmp_path / "cache", run=run)
    except LockfileInvalid as error:
        assert not takes and wheel.name in error.message
    else:
        assert takes


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("row", "its RECORD is no table of paths, hashes and sizes"),
        ("twice", r"it brings demo\.py twice"),
        ("folder", r"it brings demo/a twice"),
        ("scheme", r"demo-1\.data/elsewhere/x is not contained in a valid \.data subdirectory"),
        ("encrypted", "encrypted"),
        ("method", "compression"),
        ("deflate", "decompressing"),
    ],
)
def test_a_broken_archive_is_told_in_the_words_of_its_author(tmp_path: Path, kind: str, reason: str) -> None:
    """APPNOTE.TXT of the zip format, 4.4.4 (flag 0: encrypted) and 4.4.5 (methods); "Recording installed projects"."""
    files = {"demo.py": "x = 1", **({"demo-1.data/elsewhere/x": ""} if kind == "scheme" else {})}
    wheel = make_wheel(tmp_path / "demo", files)
    if kind in ("row", "twice", "folder"):
        name = {"row": "demo-1.dist-info/RECORD", "twice": "demo.py", "folder": "demo/a"}[kind]
        with zipfile.ZipFile(wheel, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile tells that the name is there
            archive.writestr(name, "one\n")
            if kind == "folder":
                archive.writestr("demo/a/b", "")
    values = {"encrypted": (6, 1), "method": (8, 99), "deflate": (8, 8)}
    if kind in values:
        wheel.write_bytes(_spoil(wheel.read_bytes(), *values[kind]))
    with pytest.raises(LockfileInvalid, match=rf"demo-1-py3-none-any\.whl cannot be installed: .*{reason}") as caught:
        lay(tmp_path, {package("demo-1-py3-none-any.whl"): wheel})
    assert caught.value.hint is not None
    assert not [each for each in (" object at 0x", "[Errno", str(tmp_path)) if each in caught.value.message]


def test_a_file_that_is_no_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"<html>")
    with pytest.raises(LockfileInvalid, match="not a zip file"):
        lay(tmp_path, {package("demo-1-py3-none-any.whl"): tmp_path / "x"})


def test_of_wheels_laid_out_together_one_that_is_damaged_leaves_nothing(tmp_path: Path) -> None:
    whole = package("demo-1-py3-none-any.whl")
    (tmp_path / "x").write_bytes(b"<html>")
    damaged = replace(package("other-1-py3-none-any.whl", "other"), sha256="9" * 64)
    wheels = {whole: make_wheel(tmp_path / "3f2a", {"demo.py": "x = 1\n"}), damaged: tmp_path / "x"}
    with pytest.raises(LockfileInvalid, match="other-1-py3-none-any"):
        lay(tmp_path, wheels)
    assert not list((tmp_path / "cache/wheels").iterdir())
    make_wheel(tmp_path / "x", {"other.py": ""}, name="other")
    trees = lay(tmp_path, wheels)
    assert (trees[whole] / f"{SITE}/demo.py").read_text() == "x = 1\n" and (
        trees[damaged] / f"{SITE}/other.py"
    ).is_file()


@pytest.mark.parametrize(
    ("filename", "glibc"),
    [
        ("demo-1-py3-none-any.whl", None),
        ("demo-1-py2.py3-none-any.whl", None),
        ("demo-1-cp311-cp311-linux_x86_64.whl", None),
        ("demo-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", (2, 27)),
        ("demo-1-cp39-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", (2, 17)),
        ("demo-1-cp311-cp311-manylinux1_x86_64.whl", (2, 5)),
    ],
)
def test_fitting_wheels_tell_their_c_library(filename: str, glibc: tuple[int, int] | None) -> None:
    assert promised_glibc(filename, TARGET.supported()) == glibc


@pytest.mark.parametrize(
    "filename",
    [
        "demo-1-cp312-cp312-manylinux_2_17_x86_64.whl",
        "demo-1-cp311-cp311-manylinux_2_17_aarch64.whl",
        "demo-1-cp311-cp311-musllinux_1_2_x86_64.whl",
        "demo-1-cp311-cp311-macosx_11_0_arm64.whl",
        "demo-1-py3-none-win_amd64.whl",
        "demo.whl",
    ],
)
def test_other_wheels_are_refused(filename: str) -> None:
    with pytest.raises(LockfileInvalid, match="demo"):
        promised_glibc(filename, TARGET.supported())


def test_a_source_distribution_is_refused_by_name() -> None:
    with pytest.raises(SourceOnlyPackage, match=r"demo 1 is locked as demo-1\.tar\.gz"):
        wheel_filename(package("demo-1.tar.gz"))


def test_a_local_version_is_unquoted() -> None:
    assert wheel_filename(package("torch-2.1%2Bcpu-py3-none-any.whl#sha256=0")) == "torch-2.1+cpu-py3-none-any.whl"


@given(st.text(max_size=40))
def test_any_name_is_a_wheel_or_refused(text: str) -> None:
    try:
        promised_glibc(f"{text}.whl", TARGET.supported())
    except LockfileInvalid as error:
        assert error.message
