"""Releases that are there and of no use. Tags are read with packaging; the C libraries of suites are Debian's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.environment.condalock.conda_lock import CondaLockResolver
from kbuild.environment.condalock.lacking import WantedFiles, WithoutWheel, unfit_error, withdrawn_error
from kbuild.environment.index.package_indexes import IndexFile
from kbuild.environment.spec import EnvironmentSpec
from kbuild.environment.target import Target, known_bases
from kbuild.errors import BaseImageError, KbuildError, PackageNotFound
from kbuild.platform import Platform
from kbuild.process import Completed
from kbuild.progress import Silent

AMD64 = Platform("linux", "amd64")
OUTPUTS = Path(__file__).parent / "condalock_outputs"


@pytest.fixture(autouse=True)
def on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("conda_lock", "one_platform", "lacking"):
        monkeypatch.setattr(f"kbuild.environment.condalock.{module}.host_platform", lambda: AMD64)


def files_of(*names: str, python: str | None = None) -> list[IndexFile]:
    return [IndexFile(filename=name, sha256=None, yanked=None, requires_python=python) for name in names]


def judge(*files: IndexFile, specifier: str = "", glibc: str = "2.36") -> WithoutWheel | None:
    return WantedFiles(python="3.11.7", platform=AMD64, glibc=glibc).judge("x", files, SpecifierSet(specifier))


def wheel(version: str, platform: str, python: str = "cp311-cp311") -> str:
    return f"x-{version}-{python}-{platform}.whl"


@pytest.mark.parametrize(
    ("platforms", "glibc", "wants"),
    [
        (["manylinux_2_37_x86_64"], "2.36", "2.37"),
        (["manylinux_2_37_x86_64"], "2.37", None),
        (["manylinux_2_34_x86_64", "manylinux_2_28_x86_64"], "2.27", "2.28"),
        (["manylinux_2_17_x86_64.manylinux2014_x86_64"], "2.12", "2.17"),
        (["manylinux2010_x86_64", "manylinux_2_34_x86_64"], "2.12", None),
        (["linux_x86_64"], "2.12", None),
        (["manylinux_2_17_aarch64", "manylinux_2_39_x86_64", "win_amd64"], "2.36", "2.39"),
    ],
)
def test_the_c_library_that_stands_in_the_way(platforms: list[str], glibc: str, wants: str | None) -> None:
    found = judge(*files_of(*(wheel("1.0", platform) for platform in platforms)), glibc=glibc)
    assert (None if found is None else found.glibc) == wants
    assert (found is None) == (wants is None)


def test_other_reasons_and_the_newest_release_that_does() -> None:
    old = files_of(
        wheel("0.9", "manylinux_2_28_x86_64"), wheel("0.8", "any", "py3-none"), wheel("0.95rc1", "any", "py3-none")
    )
    windows = judge(*files_of(wheel("1.0", "win_amd64")), *old, specifier=">=1")
    assert windows is not None and (windows.glibc, windows.python, windows.older) == (None, None, Version("0.9"))
    newer = judge(*files_of(wheel("1.0", "any", "py3-none"), python=">=3.12"), *old, specifier="==1.0")
    assert newer is not None and (newer.python, newer.older) == (">=3.12", Version("0.9"))
    assert "for Python >=3.12 only" in str(newer)
    source = judge(*files_of("x-1.0.tar.gz"), specifier="==1.0")
    assert source is not None and source.sdist
    # Nothing that is allowed is there, or something that is allowed does: no fault of wheels.
    assert judge(*old, specifier=">=2") is None
    assert judge(*files_of(wheel("1.0", "win_amd64")), *old) is None


def error_of(target: Target, *files: IndexFile) -> KbuildError:
    wanted = WantedFiles(python="3.11.7", platform=AMD64, glibc=target.glibc)
    found = wanted.judge("nccl", files, SpecifierSet(">=2"))
    assert found is not None
    return unfit_error((found,), wanted, target)


def test_the_base_is_named_and_which_ones_have_it() -> None:
    bookworm = Target(base="debian:bookworm", glibc="2.36")
    files = files_of("nccl-2.0-py3-none-manylinux_2_39_x86_64.whl", "nccl-1.0-py3-none-any.whl")
    error = error_of(bookworm, *files)
    assert isinstance(error, BaseImageError)
    expected = "nccl 2.0 has wheels for glibc 2.39 or newer only, and the base debian:bookworm has glibc 2.36"
    assert error.message == expected
    assert error.hint == (
        "choose a base that has it (--base): debian:trixie (glibc 2.41), ubuntu:noble (glibc 2.39); "
        "or an older version (nccl 1.0), and log the model with it"
    )
    far = error_of(bookworm, *files_of("nccl-2.0-py3-none-manylinux_2_50_x86_64.whl"))
    assert far.hint == "choose a base with glibc 2.50 or newer (--base)"
    other = error_of(bookworm, *files_of("nccl-2.0-py3-none-win_amd64.whl"))
    assert isinstance(other, PackageNotFound) and "nccl 2.0 (no wheel)" in other.message


def test_bases_and_the_locks_that_are_fresh_for_them() -> None:
    assert dict(known_bases()) == {
        "debian:trixie": "2.41",
        "debian:bookworm": "2.36",
        "ubuntu:noble": "2.39",
        "ubuntu:jammy": "2.35",
    }
    chosen = Target(base="x", glibc="2.35", chosen=True).accepted()
    assert chosen[0] == "2.35" and "2.28" in chosen and "2.36" not in chosen
    assert {"2.31", "2.36", "2.41"} < set(Target().accepted()) and Target().accepted()[0] == "2.36"


def test_a_release_that_the_solver_does_not_see_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conda-lock says that no version matches; the pages say that there is one, for a newer C library."""

    def run(argv: Any, **_: Any) -> Completed:
        return Completed(tuple(argv), 1, "", (OUTPUTS / "no_such_version.txt").read_text())

    offered = {
        "six": files_of("six-99.0-cp311-cp311-manylinux_2_38_x86_64.whl", "six-1.17.0-py3-none-any.whl"),
        "torch": files_of("torch-3.0-cp311-cp311-manylinux_2_39_x86_64.whl"),
        "made": files_of("made-1.0.tar.gz"),
    }
    monkeypatch.setattr("kbuild.environment.condalock.one_platform.find_files", lambda name, *_, **__: offered[name])
    spec = EnvironmentSpec(
        python="3.11.7",
        conda=(),
        pip=("six==99.0",),
        # That one is built here, if anybody allows it; the other stands in the way as much as the first.
        constraints=("torch==3.0", "made==1.0"),
        channels=("https://conda.example/main",),
        indexes=("https://index.example/simple",),
        platforms=(AMD64,),
        interpreter="conda",
    )
    resolver = CondaLockResolver(run=run, channel=tmp_path, environ={}, solver=Path("conda"))
    with pytest.raises(BaseImageError) as caught:
        resolver.resolve(spec, progress=Silent())
    assert caught.value.message == (
        "six 99.0 has wheels for glibc 2.38 or newer only; torch 3.0 has wheels for glibc 2.39 or newer only,"
        " and the base of the image has glibc 2.36"
    )
    assert "debian:trixie (glibc 2.41)" in str(caught.value.hint)


def test_what_was_withdrawn_whole_is_said_to_be_that() -> None:
    """PEP 592: installers pass over such files unless a release is named exactly."""
    files = [
        IndexFile(filename=wheel(version, "manylinux_2_17_x86_64"), sha256=None, yanked=yanked)
        for version, yanked in (("1.0", ""), ("2.0", "broken"), ("3.0", None))
    ]
    error = withdrawn_error("x", files, SpecifierSet("<3"))
    assert error is not None and error.message.endswith("was withdrawn (yanked) by its authors: broken")
    assert "x==2.0" in str(error.hint)
    assert withdrawn_error("x", files, SpecifierSet()) is None
    assert withdrawn_error("x", files, SpecifierSet(">3")) is None
