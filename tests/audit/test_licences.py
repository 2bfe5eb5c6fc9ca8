"""Licences: what is read of what packages state, and what a policy says of it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bare_image import bare_image

from kbuild.audit.base_facts import ImageBase, read_base
from kbuild.audit.checks.licences import LicenceCheck
from kbuild.audit.image_facts import CondaRecord, Distribution
from kbuild.audit.licences import LicencePolicy, parse_licence_policy, read_debian_copyright, read_licence
from kbuild.audit.policy import parse_policy
from kbuild.audit.subject import Subject
from kbuild.errors import ConfigurationError


def policy(**table: Any) -> LicencePolicy:
    faults: list[str] = []
    found = parse_licence_policy(table, faults)
    assert not faults and found is not None
    return found


@pytest.mark.parametrize(
    ("stated", "expression"),
    [
        ("MIT", "MIT"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("BSD 3-Clause License", "BSD-3-Clause"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache Software License", "Apache-2.0"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("ISC License (ISCL)", "ISC"),
        ("GNU Lesser General Public License v3 or later (LGPLv3+)", "LGPL-3.0-or-later"),
        ("Python Software Foundation License", "PSF-2.0"),
        ("MIT License AND Apache Software License", "MIT AND Apache-2.0"),
        ("BSD License", "BSD-2-Clause AND BSD-3-Clause"),
        ("GPL", "GPL-1.0-or-later"),
        ("MIT License", "MIT"),
        ("see LICENSE.txt", None),
        ("Proprietary", None),
        ("MIT AND see LICENSE", None),
        ("(MIT OR", None),
        ("(MIT", None),
        ("(MIT License)", "MIT"),
        ("MIT License or ISC License and Zlib license", "MIT OR (ISC AND Zlib)"),
        ("(MIT OR ISC) AND Zlib", "(MIT OR ISC) AND Zlib"),
        ("MIT WITH MIT", None),
        ("LGPL-3.0-only WITH GPL-3.0-only", None),
        ("GPL-3.0-only WITH unheard-of-exception", None),
        ("Classpath-exception-2.0", None),
    ],
)
def test_what_packages_state(stated: str, expression: str | None) -> None:
    assert read_licence(stated) == expression


@pytest.mark.parametrize(
    "stated",
    [
        "(MIT License OR ISC License) AND Zlib License",
        "(MIT License or ISC License) and Zlib license",
        "Zlib License AND (MIT License OR ISC License)",
        "(MIT OR ISC) AND Zlib License",
        "Zlib License AND (ISC License OR MIT License) AND Apache Software License",
        "(MIT OR Apache Software License) AND Zlib",
        "Zlib license, and MIT License or ISC License",
        '"MIT License or ISC License" and Zlib license',
    ],
)
def test_what_is_needed_beside_an_alternative_is_judged(stated: str) -> None:
    found = read_licence(stated)
    assert found is None or policy(deny=["Zlib"]).judge(found) is False


@pytest.mark.parametrize(
    ("expression", "allow", "deny", "kept"),
    [
        ("MIT", ["MIT"], [], True),
        ("Zlib", ["MIT"], [], False),
        ("MIT OR GPL-3.0-only", ["MIT"], [], True),
        ("MIT AND GPL-3.0-only", ["MIT"], [], False),
        ("MIT AND GPL-3.0-only", [], ["GPL-3.0-only"], False),
        ("MIT OR GPL-3.0-only", [], ["GPL-3.0-only"], True),
        ("GPL-3.0-only WITH GCC-exception-3.1", [], ["GPL-3.0-only"], False),
        ("GPL-3.0-only WITH GCC-exception-3.1", ["GPL-3.0-only WITH GCC-exception-3.1"], ["GPL-3.0-only"], True),
        ("GPL-3.0-only WITH GCC-exception-3.1", ["GPL-3.0-only"], [], True),
        ("LicenseRef-own", ["MIT"], [], None),
        ("LicenseRef-own", [], ["MIT"], None),
        ("LicenseRef-own", ["LicenseRef-own"], [], True),
        ("LicenseRef-own OR MIT", ["MIT"], [], True),
        ("LicenseRef-own AND GPL-3.0-only", ["MIT"], [], False),
    ],
)
def test_what_a_policy_says(expression: str, allow: list[str], deny: list[str], kept: bool | None) -> None:
    assert policy(allow=allow, deny=deny).judge(expression) is kept


def test_debians_copyright_files() -> None:
    """Their short names and their comma are DEP-5's own."""
    text = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: x

Files: *
Copyright: 1995 A
License: GPL-2+ or Artistic, and Expat
 The text: of it
 .
 License: GPL-3

Files: y/*
Copyright: B
License: LGPL-2.1+ with OpenSSL exception

License: GPL-2+
 On Debian systems …
"""
    found = read_debian_copyright(text.encode())
    assert found is not None
    assert policy(allow=["GPL-2.0-or-later", "LGPL-2.1-or-later", "MIT"]).judge(found) is True
    assert policy(allow=["Artistic-1.0", "LGPL-2.1-or-later", "MIT"]).judge(found) is True
    assert policy(allow=["GPL-2.0-or-later", "LGPL-2.1-or-later"]).judge(found) is False
    assert policy(deny=["LGPL-2.1-or-later"]).judge(found) is False
    odd = text.replace("License: LGPL-2.1+ with OpenSSL exception", "License: as is")
    assert policy(deny=["GPL-3.0-only"]).judge(str(read_debian_copyright(odd.encode()))) is None
    assert read_debian_copyright(b"This package was debianized by C. License: MIT") is None
    assert read_debian_copyright(text.replace("\nLicense: LGPL", "\nComment: LGPL").encode()) is None


def test_the_bases_packages_have_the_licences_of_their_parts() -> None:
    status = (
        b"Package: liba1\nSource: a\nVersion: 1\n\nPackage: a-doc\nSource: a\nVersion: 1\n\nPackage: b\nVersion: 1\n"
    )
    form = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Zlib\n"
    base = read_base(
        {
            "var/lib/dpkg/status": status,
            "etc/os-release": b"ID=debian\nVERSION_ID=12\n",
            "usr/share/doc/liba1/copyright": form,
            "usr/share/doc/b/changelog": form,
        }
    )
    assert [(each.name, each.license) for each in base.packages] == [("a", "(Zlib)"), ("b", None)]
    apk = read_base({"lib/apk/db/installed": b"P:musl\nV:1\nL:MIT\n", "etc/os-release": b"ID=wolfi\n"})
    assert [(each.name, each.license) for each in apk.packages] == [("musl", "MIT")]


def wheel(folder: Path, name: str, metadata: str, **more: str) -> dict[str, Any]:
    """A wheel in the cache of downloads, and what the lock says of it; ``more`` is written before its own metadata."""
    path = folder / f"{name}-1-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in more.items():
            archive.writestr(place, text)
        if metadata:
            archive.writestr(f"{name}-1.dist-info/METADATA", f"Name: {name}\nVersion: 1\n{metadata}\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / digest).mkdir()
    path.rename(folder / digest / path.name)
    return {"hash": {"sha256": digest}, "url": f"https://files.example/{path.name}"}


def test_locked_wheels_say_it_and_what_nobody_says_is_unchecked(
    make_lock: Any, make_entry: Any, tmp_path: Path
) -> None:
    downloads = tmp_path / "downloads"
    changed = wheel(downloads, "changed", "License: MIT")
    next((downloads / changed["hash"]["sha256"]).iterdir()).write_bytes(b"another")
    lock = make_lock(
        make_entry("good", "1", **wheel(downloads, "good", "License-Expression: MIT OR GPL-3.0-only")),
        make_entry("bad", "1", **wheel(downloads, "bad", "License: GPLv3")),
        make_entry("old", "1", **wheel(downloads, "old", "Classifier: License :: OSI Approved :: MIT License")),
        make_entry("none", "1", **wheel(downloads, "none", "Summary: x")),
        make_entry("read_by_us", "1"),
        make_entry("changed", "1", **changed),
        make_entry("away", "1", "conda"),
    )
    rules = policy(allow=["MIT"], packages={"Read-by.us": "MIT"})
    result = LicenceCheck(rules, downloads=downloads).run(Subject(reference="l", kind="lock", lock=lock))
    assert [(each.id, each.where) for each in result.findings] == [("licence", "pip:bad")]
    assert "GPL-3.0-only" in result.findings[0].evidence
    assert {each.where for each in result.unchecked} == {"pip:none", "pip:changed", "conda:away"}
    assert result.looked_at == 7


def test_faults_of_the_policy_are_told() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy({"licences": {"allow": ["MIT License"], "deny": "GPL", "packages": {"x": "("}, "forbid": []}})
    for fault in (
        "licences.forbid is unknown",
        "licences.allow: 'MIT License' is not an SPDX expression",
        "licences.deny has to be a list of SPDX expressions",
        "licences.packages.x: '(' is not an SPDX expression",
    ):
        assert fault in caught.value.message
    assert parse_policy({}).licences is None
    for odd in ({"packages": {1: "MIT"}}, {"packages": {"x": 1}}, {"allow": [1]}, {"deny": None}, {1: "x"}):
        faults: list[str] = []
        parse_licence_policy(odd, faults)
        assert len(faults) == 1, odd


def test_only_its_own_metadata_speaks_for_a_wheel(make_lock: Any, make_entry: Any, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    mit = "Name: {}\nVersion: {}\nLicense: MIT\n"
    within: dict[str, str] = {"_kit/kit-1.dist-info/METADATA": mit.format("kit", 1)}
    locked = wheel(downloads, "locked", "License: MIT")
    path = next((downloads / locked["hash"]["sha256"]).iterdir())
    # The flag of encryption in the two headers of its one member (PKWARE's APPNOTE, 4.3.7 and 4.3.12).
    data = bytearray(path.read_bytes())
    for start, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + flag] |= 1
    digest = hashlib.sha256(data).hexdigest()
    (downloads / digest).mkdir()
    (downloads / digest / path.name).write_bytes(data)
    lock = make_lock(
        make_entry("kit_around", "1", **wheel(downloads, "kit_around", "License: GPLv3", **within)),
        make_entry("hollow", "1", **wheel(downloads, "hollow", "", **within)),
        make_entry("other", "1", **wheel(downloads, "other", "", **{"kit-1.dist-info/METADATA": mit.format("kit", 1)})),
        make_entry(
            "newer", "1", **wheel(downloads, "newer", "", **{"newer-2.dist-info/METADATA": mit.format("newer", 2)})
        ),
        make_entry("locked", "1", **{**locked, "hash": {"sha256": digest}}),
        make_entry("Own.Name", "1.0", **wheel(downloads, "own_name", "License: MIT")),
    )
    result = LicenceCheck(policy(allow=["MIT"]), downloads=downloads).run(
        Subject(reference="l", kind="lock", lock=lock)
    )
    assert [each.where for each in result.findings] == ["pip:kit_around"]
    assert {each.where for each in result.unchecked} == {"pip:hollow", "pip:other", "pip:newer", "pip:locked"}


def installed(name: str, version: str, licence: str | None) -> Distribution:
    site = "opt/env/lib/python3.11/site-packages"
    return Distribution(
        name=name, version=version, path=f"{site}/{name}-{version}.dist-info", license=licence, changed=(), missing=()
    )


def record(name: str, licence: str | None, *files: str) -> CondaRecord:
    return CondaRecord(
        name=name, version="1", build="h", subdir="linux-64", sha256=None, license=licence, files=frozenset(files)
    )


def test_what_only_the_image_holds_is_judged(make_lock: Any, make_entry: Any) -> None:
    image = bare_image(
        distributions=(
            installed("met", "1.0", "MIT"),
            installed("extra", "1", "GPLv3"),
            installed("silent", "1", None),
            installed("moved", "2", "GPLv3"),
            installed("byconda", "1", "GPLv3"),
        ),
        conda=(
            record("met", "MIT"),
            record("added", "GPL-3.0-only"),
            record("byconda", "MIT", "lib/python3.11/site-packages/byconda-1.dist-info/METADATA"),
        ),
        base=ImageBase(ecosystem=None, packages=(), fault="its packages are in an RPM database"),
    )
    lock = make_lock(make_entry("met", "1"), make_entry("moved", "1"), make_entry("met", "1", "conda"))
    for known in (lock, None):
        result = LicenceCheck(policy(allow=["MIT"])).run(Subject(reference="i", kind="image", lock=known, image=image))
        assert {(each.where, each.version) for each in result.findings} == {
            ("pip:extra", "1"),
            ("pip:moved", "2"),
            ("conda:added", "1"),
        }
        missed = {each.where for each in result.unchecked}
        assert missed == {"pip:silent", "base", *(("packages",) if known is None else ("pip:moved",))}
