from __future__ import annotations

from pathlib import Path

import pytest

from kbuild.errors import BaseImageError
from kbuild.image.base.debian.sources import find_archives, read_apt_sources
from kbuild.image.base.debian.suites import Suite, find_suite

BOOKWORM = """\
Types: deb deb-src
# the main archive
URIs: http://mirror/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror/security
Suites: bookworm-security
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off/debian
Suites: bookworm
Enabled: no

Types: deb-src
URIs: http://src/debian
Suites: bookworm
"""


def suite(name: str, distribution: str = "debian") -> Suite:
    found = find_suite(distribution, name)
    assert found is not None
    return found


def apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        place = folder / "sources.list" if name == "main" else folder / "sources.list.d" / name.replace("_", ".")
        place.write_text(text)
    return folder


def test_both_styles_are_read(tmp_path: Path) -> None:
    lines = """\
# deb http://commented/debian bookworm main
deb http://one/debian/ bookworm main contrib # the archive
deb [arch=amd64 signed-by=/keys/a.gpg] https://two/debian bookworm-updates main
deb-src http://src/debian bookworm main
deb cdrom:[Debian]/ bookworm main
nonsense
"""
    found = [(s.uri, s.pocket, s.signed_by) for s in read_apt_sources(apt(tmp_path, main=lines, d_sources=BOOKWORM))]
    assert found == [
        ("http://one/debian", "bookworm", None),
        ("https://two/debian", "bookworm-updates", Path("/keys/a.gpg")),
        ("http://mirror/debian", "bookworm", Path("/keys/debian.gpg")),
        ("http://mirror/debian", "bookworm-updates", Path("/keys/debian.gpg")),
        ("http://mirror/security", "bookworm-security", None),
    ]


def test_a_suites_own_sources_with_its_updates(tmp_path: Path) -> None:
    archives = find_archives(suite("bookworm"), mirror="", apt=apt(tmp_path, d_sources=BOOKWORM))
    assert [(a.uri, a.pocket, a.required) for a in archives] == [
        ("http://mirror/debian", "bookworm", True),
        ("http://mirror/debian", "bookworm-updates", False),
        ("http://mirror/security", "bookworm-security", False),
    ]
    assert archives[2].keyring == suite("bookworm").keyring


def test_a_sister_suites_sources_serve_too(tmp_path: Path) -> None:
    archives = find_archives(suite("trixie"), mirror="", apt=apt(tmp_path, d_sources=BOOKWORM))
    assert [(a.uri, a.pocket) for a in archives] == [
        ("http://mirror/debian", "trixie"),
        ("http://mirror/debian", "trixie-updates"),
        ("http://mirror/security", "trixie-security"),
    ]


def test_another_distributions_do_not(tmp_path: Path) -> None:
    with pytest.raises(BaseImageError, match="no mirror is known for ubuntu:noble") as caught:
        find_archives(suite("noble", "ubuntu"), mirror="", apt=apt(tmp_path, d_sources=BOOKWORM))
    assert "KBUILD_UBUNTU_MIRROR" in (caught.value.hint or "")


def test_a_machine_without_apt_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BaseImageError) as caught:
        find_archives(suite("bookworm"), mirror="", apt=tmp_path / "none")
    assert "KBUILD_DEBIAN_MIRROR" in (caught.value.hint or "")


def test_a_configured_mirror_replaces_aptsources(tmp_path: Path) -> None:
    folder = apt(tmp_path, d_sources=BOOKWORM)
    one = find_archives(suite("bookworm"), mirror="https://m/debian/", apt=folder)
    assert [(a.uri, a.pocket) for a in one] == [
        ("https://m/debian", "bookworm"),
        ("https://m/debian", "bookworm-updates"),
    ]
    two = find_archives(suite("bookworm"), mirror="https://m/debian https://m/sec", apt=folder)
    assert (two[2].uri, two[2].pocket) == ("https://m/sec", "bookworm-security")
    ubuntu = find_archives(suite("noble", "ubuntu"), mirror="https://m/ubuntu", apt=folder)
    assert (ubuntu[2].uri, ubuntu[2].pocket) == ("https://m/ubuntu", "noble-security")


@pytest.mark.parametrize("mirror", ["ftp://x/debian", "mirror", "http://a http://b http://c", " "])
def test_a_mirror_that_is_none_is_refused(mirror: str) -> None:
    with pytest.raises(BaseImageError, match="is not a mirror of debian"):
        find_archives(suite("bookworm"), mirror=mirror)
