import gzip
import json
from pathlib import Path

import pytest
from rattler import MatchSpec

from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.virtual import find_lacks, virtual_packages
from kbuild.errors import LockfileInvalid
from kbuild.platform import Platform

AMD64 = Platform("linux", "amd64")
RECORDS = Path(__file__).parents[3] / "shared" / "data" / "conda-forge-records.json.gz"


def package(*dependencies: str, name: str = "python") -> LockedPackage:
    pairs = tuple((spec.partition(" ")[0], spec.partition(" ")[2]) for spec in dependencies)
    return LockedPackage(
        name=name,
        version="3.11.9",
        manager="conda",
        platform=AMD64,
        url=f"https://channel.example/{name}.conda",
        sha256="0" * 64,
        dependencies=pairs,
    )


def lacking(spec: str, glibc: str = "2.36") -> bool:
    return bool(find_lacks([package(spec)], virtual_packages(AMD64, glibc)))


@pytest.mark.parametrize(
    ("spec", "glibc", "lacks"),
    [
        # what conda-forge's CPython says today
        ("__glibc >=2.17,<3.0.a0", "2.36", False),
        ("__glibc >=2.17,<3.0.a0", "2.17", False),
        ("__glibc >=2.17,<3.0.a0", "2.16", True),
        ("__glibc >=2.17,<3.0.a0", "3.0", True),
        ("__glibc >=2.28,<3.0.a0", "2.27", True),
        ("__glibc >=2.28", "2.28", False),
        # 2.4 is older than 2.36: versions, not decimals
        ("__glibc >=2.36", "2.4", True),
        ("__glibc >=2.17,<2.30|>=2.35", "2.31", True),
        ("__glibc >=2.17,<2.30|>=2.35", "2.35", False),
        ("__glibc 2.36", "2.36", False),
        ("__glibc", "2.36", False),
        ("__unix", "2.36", False),
        ("__linux", "2.36", False),
        ("__linux >=3.10", "2.36", False),
        ("__win", "2.36", True),
        ("__osx >=10.13", "2.36", True),
        ("__cuda >=12", "2.36", True),
        ("__archspec 1 x86_64", "2.36", False),
        ("__archspec * x86_64_v3", "2.36", True),
    ],
)
def test_a_virtual_package_is_compared_as_conda_does(spec: str, glibc: str, lacks: bool) -> None:
    assert lacking(spec, glibc) is lacks


def test_what_lacks_is_named_with_what_is_there() -> None:
    (lack,) = find_lacks([package("__glibc >=2.38", "openssl >=3"), package("__unix")], virtual_packages(AMD64, "2.36"))
    assert (lack.package.name, lack.wanted, lack.there) == ("python", "__glibc >=2.38", "2.36")
    (lack,) = find_lacks([package("__cuda >=12")], virtual_packages(AMD64, "2.36"))
    assert lack.there is None


def test_an_ignored_one_is_not_compared() -> None:
    assert not find_lacks([package("__glibc >=9")], virtual_packages(AMD64, None), ignored=["__glibc"])
    assert find_lacks([package("__glibc >=9")], virtual_packages(AMD64, None))


def test_another_architecture_has_another_processor() -> None:
    provided = virtual_packages(Platform("linux", "arm64"), "2.36")
    assert not find_lacks([package("__archspec 1 aarch64")], provided)
    assert find_lacks([package("__archspec 1 x86_64")], provided)


def test_a_dependency_that_cannot_be_read_is_the_locks_fault() -> None:
    with pytest.raises(LockfileInvalid, match=r"python 3\.11\.9 depends on '__glibc' '>>2\.17'"):
        lacking("__glibc >>2.17")


@pytest.mark.skipif(not RECORDS.is_file(), reason="the real records are not beside this repository")
def test_all_real_records_of_linux_run_on_debian_12() -> None:
    records = [each for each in json.loads(gzip.decompress(RECORDS.read_bytes())) if each["subdir"] != "noarch"]
    assert len(records) > 1000
    packages = [package(*each.get("depends") or (), name=each["name"]) for each in records]
    assert not find_lacks(packages, virtual_packages(AMD64, "2.36"))
    # By their own texts (grep the file): two want 2.28, no other one more than 2.17.
    newer = find_lacks(packages, virtual_packages(AMD64, "2.27"))
    assert [each.wanted for each in newer] == ["__glibc >=2.28,<3.0.a0"] * 2
    assert not find_lacks(packages, virtual_packages(AMD64, "2.28"))


def test_records_of_every_shape_that_conda_forge_writes_are_read() -> None:
    # As public lock files of 2026 carry them: globs of builds, alternatives, epochs, pre-releases, three operators.
    path = Path(__file__).parent / "data" / "conda_forge_records.json"
    records = json.loads(path.read_bytes())
    assert {each["version"] for each in records if each["name"] == "python"} >= {"3.11.15", "3.13.13"}
    for each in records:
        for text in (each.get("depends") or []) + (each.get("constrains") or []):
            MatchSpec(text, strict=False)
    packages = [package(*each.get("depends") or (), name=each["name"]) for each in records]
    lacks = find_lacks(packages, virtual_packages(AMD64, "2.36"))
    assert {lack.name for lack in lacks} == {"__win", "__osx"}
    older = find_lacks(packages, virtual_packages(AMD64, "2.16"), ignored=["__win", "__osx"])
    assert {lack.wanted for lack in older} == {"__glibc >=2.17,<3.0.a0", "__glibc >=2.28,<3.0.a0"}
