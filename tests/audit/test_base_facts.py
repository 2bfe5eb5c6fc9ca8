"""The packages of bases, from databases as dpkg and apk write them, and what advisories are asked for them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from bare_image import bare_image

from kbuild.audit.base_facts import ImageBase, InstalledPackage, read_base
from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.severity import read_severity
from kbuild.audit.sources.osv import PackageVersion, fixed_versions, is_affected, is_unimportant
from kbuild.audit.sources.osv_api import Answer
from kbuild.audit.subject import Subject

# As they stand in /var/lib/dpkg/status of Debian 12, shortened.
STATUS = b"""\
Package: bc
Status: install ok installed
Architecture: amd64
Source: bc (1.07.1-3)
Version: 1.07.1-3+b1
Description: GNU bc arbitrary precision calculator language
 GNU bc is an interactive algebraic language.
 .
 Version: none of this is a field

Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u9

Package: libc-bin
Status: hold ok installed
Source: glibc
Version: 2.36-9+deb12u9

Package: bsdutils
Status: install ok installed
Source: util-linux (2.38.1-5+deb12u3)
Version: 1:2.38.1-5+deb12u3

Package: gone
Status: deinstall ok config-files
Version: 1.0-1

Package: tzdata
Status: install ok half-configured
Version: 2025b-0+deb12u1
"""
DEBIAN = b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n# a comment\nbroken="\n'
APK = b"""\
C:Q1hKb
P:libcrypto3
V:3.1.4-r5
A:x86_64
o:openssl
m:Someone <x@example.org>
F:etc
R:openssl.cnf
a:0:0:600
Z:Q1w

C:Q1
P:musl
V:1.2.4-r2
o:musl
"""


def pairs(facts: ImageBase) -> dict[str, str]:
    return {each.where: each.version for each in facts.packages}


def test_debian_is_asked_by_source_package_and_its_version() -> None:
    facts = read_base({"var/lib/dpkg/status": STATUS, "usr/lib/os-release": DEBIAN})
    assert (facts.ecosystem, facts.fault) == ("Debian:12", None)
    assert pairs(facts) == {
        "deb:bc": "1.07.1-3",  # the rebuild +b1 is of the binary alone
        "deb:glibc": "2.36-9+deb12u9",
        "deb:tzdata": "2025b-0+deb12u1",
        "deb:util-linux": "2.38.1-5+deb12u3",  # and so is the epoch
    }
    assert next(each.parts for each in facts.packages if each.name == "glibc") == ("libc-bin", "libc6")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="only dpkg knows what dpkg has installed")
def test_this_machines_packages_are_those_that_dpkg_names() -> None:
    format = "${source:Package} ${source:Version} ${db:Status-Status}\n"
    told = subprocess.run(["dpkg-query", "-W", "-f", format], capture_output=True, text=True, check=True).stdout
    status = Path("/var/lib/dpkg/status").read_bytes()
    found = {(each.name, each.version) for each in read_base({"var/lib/dpkg/status": status}).packages}
    assert found == {tuple(line.split()[:2]) for line in told.splitlines() if line.endswith(" installed")}


def test_distroless_images_keep_a_file_a_package() -> None:
    files = {
        "var/lib/dpkg/status.d/libc6": b"Package: libc6\nSource: glibc\nVersion: 2.36-9\n",
        "var/lib/dpkg/status.d/libc6.md5sums": b"0123  usr/lib/libc.so.6\n",
        "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12.4\n\n\n",
        "etc/os-release": DEBIAN,
    }
    assert pairs(read_base(files)) == {"deb:glibc": "2.36-9", "deb:base-files": "12.4"}


def test_alpine_is_asked_by_origin() -> None:
    facts = read_base({"lib/apk/db/installed": APK, "etc/os-release": b"ID=alpine\nVERSION_ID=3.19.1\n"})
    assert (facts.ecosystem, facts.fault) == ("Alpine:v3.19", None)
    assert pairs(facts) == {"apk:openssl": "3.1.4-r5", "apk:musl": "1.2.4-r2"}


@pytest.mark.parametrize(
    ("kind", "release", "ecosystem"),
    [
        ("deb", 'ID=ubuntu\nVERSION_ID="22.04"\n', "Ubuntu:22.04"),
        ("deb", "ID='debian'\nVERSION_ID=13\n", "Debian:13"),
        ("deb", "ID=debian\nVERSION_CODENAME=sid\n", None),
        ("deb", "ID=raspbian\nID_LIKE=debian\nVERSION_ID=12\n", None),
        ("deb", "", None),
        ("apk", "ID=wolfi\n", "Wolfi"),
        ("apk", "ID=chainguard\nVERSION_ID=20230214\n", "Chainguard"),
        ("apk", "ID=alpine\nVERSION_ID=3.21_alpha20240807\n", "Alpine:v3.21"),
        ("apk", "ID=debian\nVERSION_ID=12\n", None),
    ],
)
def test_the_release_is_named_as_osv_does_or_the_base_is_unchecked(
    kind: str, release: str, ecosystem: str | None
) -> None:
    database = {"deb": ("var/lib/dpkg/status", STATUS), "apk": ("lib/apk/db/installed", APK)}[kind]
    facts = read_base(dict([database]) | {"etc/os-release": release.encode()})
    assert facts.ecosystem == ecosystem
    assert (facts.fault is None) == (ecosystem is not None)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({}, "no list of its base's packages"),
        ({"etc/os-release": DEBIAN}, "no list of its base's packages"),
        ({"var/lib/rpm/rpmdb.sqlite": b"x", "etc/os-release": b"ID=rocky\nVERSION_ID=9.3\n"}, "RPM database"),
        ({"var/lib/dpkg/status": b"Package: x\nStatus: install ok installed\n", "etc/os-release": DEBIAN}, "an entry"),
        ({"var/lib/dpkg/status": b"\xff\x00garbage", "etc/os-release": DEBIAN}, "an entry"),
        ({"lib/apk/db/installed": b"P:x\n"}, "an entry"),
        ({"var/lib/dpkg/status": STATUS, "lib/apk/db/installed": APK, "etc/os-release": DEBIAN}, "no advisories"),
    ],
)
def test_what_cannot_be_read_is_a_fault_and_never_an_empty_list(files: dict[str, bytes], fault: str) -> None:
    assert fault in (read_base(files).fault or "")


def test_a_base_without_os_release_is_what_its_builder_says() -> None:
    facts = read_base({"var/lib/dpkg/status": STATUS}, known={"ID": "ubuntu", "VERSION_ID": "24.04"})
    assert facts.ecosystem == "Ubuntu:24.04"


# The shapes of OSV's converter for Debian's tracker and of Debian's own advisories; the words are not theirs.
UNFIXED = {
    "id": "DEBIAN-CVE-2010-4756",
    "upstream": ["CVE-2010-4756"],
    "details": "a glob",
    "affected": [
        {
            "package": {"ecosystem": release, "name": "glibc"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
            "ecosystem_specific": {"urgency": "unimportant"},
        }
        for release in ("Debian:11", "Debian:12")
    ],
}
FIXED = {
    "id": "DEBIAN-CVE-2025-4802",
    "upstream": ["CVE-2025-4802"],
    "details": "setuid",
    "affected": [
        {
            "package": {"ecosystem": release, "name": "glibc"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fix}]}],
            "ecosystem_specific": {"urgency": urgency},
        }
        for release, fix, urgency in (
            ("Debian:11", "2.31-13+deb11u13", "unimportant"),
            ("Debian:12", "2.36-9+deb12u11", "low**"),
        )
    ],
}
GLIBC = PackageVersion(ecosystem="Debian:12", name="glibc", version="2.36-9+deb12u9")


def test_a_record_is_read_for_the_release_that_is_asked() -> None:
    assert is_unimportant(UNFIXED, GLIBC) and not is_unimportant(FIXED, GLIBC)
    assert fixed_versions(FIXED, GLIBC) == ("2.36-9+deb12u11",)
    assert read_severity(FIXED) == "low"
    assert read_severity({**UNFIXED, "severity": [{"type": "Ubuntu", "score": "medium"}]}) == "medium"


@pytest.mark.parametrize(
    ("version", "affected"),
    [("2.36-9+deb12u9", True), ("2.36-9+deb12u11", False), ("2.36-9+deb12u11~bpo1", True), ("1:2.0-1", False)],
)
def test_an_offline_record_is_evaluated_by_dpkgs_order(version: str, affected: bool) -> None:
    assert is_affected(FIXED, replace(GLIBC, version=version)) is affected
    assert not is_affected(FIXED, replace(GLIBC, ecosystem="Debian:13", version=version))


class Osv:
    name = "the service"

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers, self.asked = answers, []

    def query(self, packages: list[PackageVersion]) -> dict[PackageVersion, Answer]:
        self.asked = packages
        return {each: self.answers.get(each.name, ()) for each in packages}


def check(base: ImageBase, osv: Any, lock: Any) -> Any:
    image = bare_image(base=base)
    made = VulnerabilityCheck(database=None, services=(), osv=osv, today=date(2026, 1, 1), max_age=90)
    return made.run(Subject(reference="x", kind="image", lock=lock, image=image))


def base(*packages: InstalledPackage, fault: str | None = None) -> ImageBase:
    return ImageBase(ecosystem="Debian:12", packages=packages, fault=fault)


LIBC = InstalledPackage(kind="deb", name="glibc", version="2.36-9+deb12u9", parts=("libc-bin", "libc6"))


def test_the_base_is_asked_with_the_lock_and_told_by_its_source(make_lock: Any, make_entry: Any) -> None:
    osv = Osv({"glibc": (UNFIXED, FIXED)})
    lock = make_lock(make_entry("python", "3.11.4", "conda"), make_entry("torch", "2.5.1+cpu"))
    result = check(base(LIBC), osv, lock)
    assert {(each.ecosystem, each.name, each.version) for each in osv.asked} == {
        ("Bitnami", "python", "3.11.4"),
        ("PyPI", "torch", "2.5.1"),
        ("Debian:12", "glibc", "2.36-9+deb12u9"),
    }
    [finding] = result.findings
    assert (finding.where, finding.id, finding.aliases) == ("deb:glibc", "DEBIAN-CVE-2025-4802", ("CVE-2025-4802",))
    assert "libc-bin, libc6" in finding.evidence and "glibc 2.36-9+deb12u11 or later" in finding.remedy
    assert not finding.unfixed
    assert result.unchecked == () and result.looked_at == 3
    [note] = result.notes
    assert "DEBIAN-CVE-2010-4756" in note and "unimportant" in note


def test_what_the_distribution_has_not_mended_is_told_and_can_be_accepted(make_lock: Any, make_entry: Any) -> None:
    open_one = {**UNFIXED, "id": "DEBIAN-CVE-1", "affected": [{**UNFIXED["affected"][1], "ecosystem_specific": {}}]}
    [finding] = check(base(LIBC), Osv({"glibc": (open_one,)}), make_lock(make_entry("six", "1"))).findings
    assert finding.unfixed and "ignore of id unfixed" in finding.remedy


def test_a_base_that_cannot_be_read_is_unchecked(make_lock: Any, make_entry: Any) -> None:
    result = check(base(LIBC, fault="half of it is damaged"), Osv({}), make_lock(make_entry("six", "1")))
    assert [(each.where, each.reason) for each in result.unchecked] == [("base", "half of it is damaged")]


def test_conda_packages_are_asked_by_repository_where_osv_has_it(make_lock: Any, make_entry: Any) -> None:
    osv = Osv({})
    lock = make_lock(make_entry("openssl", "3.5.4", "conda"), make_entry("libffi", "3.4.6", "conda"))
    result = check(base(LIBC), osv, lock)
    assert ("GIT", "https://github.com/openssl/openssl", "3.5.4") in {
        (each.ecosystem, each.name, each.version) for each in osv.asked
    }
    assert [each.where for each in result.unchecked] == ["conda:libffi"]
