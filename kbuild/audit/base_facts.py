"""The distribution's packages in an image, from the databases of its package manager, and OSV's name of its release.

Formats: os-release(5); dpkg's ``status`` (deb-control(5), dpkg-query(1)) and distroless images' ``status.d``; apk's
``installed`` (Alpine's wiki, "Apk spec"). Security data of all of these is by *source* package and its version. Names
of releases: https://ossf.github.io/osv-schema/#defined-ecosystems.
"""

from __future__ import annotations

import email.parser
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kbuild.audit.licences import read_debian_copyright

Kind = Literal["deb", "apk"]
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_DPKG = "var/lib/dpkg/status"
_DPKG_FOLDER = "var/lib/dpkg/status.d"
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_DOC = "usr/share/doc"
_RPM = ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm")
# By os-release's ID: OSV's name and what of VERSION_ID its releases are called by, None for those without releases.
_ECOSYSTEMS: dict[tuple[Kind, str], tuple[str, str | None]] = {
    ("deb", "debian"): ("Debian", r"\d+"),
    ("deb", "ubuntu"): ("Ubuntu", r"\d+\.\d+"),
    ("apk", "alpine"): ("Alpine", r"\d+\.\d+"),
    ("apk", "alpaquita"): ("Alpaquita", r"\S+"),
    ("apk", "bellsoft-hardened-containers"): ("BellSoft Hardened Containers", r"\S+"),
    ("apk", "chainguard"): ("Chainguard", None),
    ("apk", "minimos"): ("MinimOS", None),
    ("apk", "wolfi"): ("Wolfi", None),
}
_SOURCE = re.compile(r"(?P<name>\S+)(?:\s+\((?P<version>[^()\s]+)\))?")
_Entry = tuple[Kind, str, str, str, str | None]
"""Of an installed package: source name, source version, binary name, and the licence where the database has it."""
BASE_FILES = (*_OS_RELEASE, _DPKG, _DPKG_FOLDER, _DOC, *_APK, *_RPM)
"""What ``read_base`` looks at: files, and folders with all below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledPackage:
    """A source package of the distribution; ``parts`` are its binary packages that are installed.

    ``license`` is an SPDX expression, as far as their copyright files (or apk's database) can be read.
    """

    kind: Kind
    name: str
    version: str
    parts: tuple[str, ...]
    license: str | None = None

    @property
    def where(self) -> str:
        """``deb:glibc``: what findings call it."""
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBase:
    """``ecosystem`` is OSV's name of the release, ``Debian:12``; None where there is none, and ``fault`` says why.

    With a fault the packages may be incomplete or unknown.
    """

    ecosystem: str | None
    packages: tuple[InstalledPackage, ...]
    fault: str | None = None


def wants_base_bytes(path: str) -> bool:
    """Whether ``read_base`` needs the content of this file."""
    return path in (*_OS_RELEASE, _DPKG, *_APK) or _is_part(path) or _documented(path) is not None


def read_base(files: Mapping[str, bytes | None], *, known: Mapping[str, str] | None = None) -> ImageBase:
    """From the files below ``BASE_FILES`` (relative paths).

    ``known`` holds os-release's fields as the image's builder knows them, for a base without that file.
    """
    packages: list[tuple[Kind, str, str, str]] = []
    licences = {
        name: read_debian_copyright(data) for path, data in files.items() if data and (name := _documented(path))
    }
    faults: list[str] = []
    for path in sorted(files):
        read = _dpkg if path == _DPKG or _is_part(path) else _apk if path in _APK else None
        if read is None:
            continue
        for found in read((files[path] or b"").decode("utf-8", errors="replace")):
            if found is None:
                faults.append(f"/{path} has an entry without a name or version")
            else:
                packages.append(found[:4])
                licences |= {found[3]: found[4]} if found[4] is not None else {}
    if any(path.startswith(tuple(f"{folder}/" for folder in _RPM)) for path in files):
        faults.append("its packages are in an RPM database, which kbuild does not read")
    elif not packages and not faults:
        faults.append("the image has no list of its base's packages (of dpkg or apk)")
    release = next((_release(data) for path in _OS_RELEASE if (data := files.get(path))), known or {})
    kinds = {kind for kind, *_ in packages}
    ecosystem = _ecosystem(kinds.pop(), release) if len(kinds) == 1 else None
    if packages and ecosystem is None:
        named = " ".join(filter(None, (release.get("ID"), release.get("VERSION_ID")))) or "no release"
        faults.append(f"its os-release names {named}, for which OSV has no advisories that kbuild knows")
    return ImageBase(ecosystem=ecosystem, packages=_by_source(packages, licences), fault="; ".join(faults) or None)


def _is_part(path: str) -> bool:
    """Distroless images keep one file a package, and beside it NAME.md5sums."""
    folder, name = posixpath.split(path)
    return folder == _DPKG_FOLDER and not name.endswith(".md5sums")


def _documented(path: str) -> str | None:
    """The package whose copyright file this is (Debian's policy, 12.5)."""
    folder, name = posixpath.split(path)
    parent, package = posixpath.split(folder)
    return package if name == "copyright" and parent == _DOC else None


def _license(parts: set[str], licences: Mapping[str, str | None]) -> str | None:
    """Of all parts that say anything: the documents of some are a link to those of another one."""
    stated = [licences[part] for part in sorted(parts) if part in licences]
    if not stated or None in stated:
        return None
    different = list(dict.fromkeys(map(str, stated)))
    return different[0] if len(different) == 1 else " AND ".join(f"({each})" for each in different)


def _by_source(
    packages: list[tuple[Kind, str, str, str]], licences: Mapping[str, str | None]
) -> tuple[InstalledPackage, ...]:
    parts: dict[tuple[Kind, str, str], set[str]] = {}
    for kind, name, version, part in packages:
        parts.setdefault((kind, name, version), set()).add(part)
    return tuple(
        InstalledPackage(
            kind=kind, name=name, version=version, parts=tuple(sorted(found)), license=_license(found, licences)
        )
        for (kind, name, version), found in sorted(parts.items())
    )


def _dpkg(text: str) -> Iterator[_Entry | None]:
    """Each package that is installed, None for what is no entry."""
    for paragraph in re.split(r"\n[ \t]*\n", text.strip()):
        if not paragraph.strip():
            continue
        fields = email.parser.HeaderParser().parsestr(paragraph.lstrip("\n"))
        # "want flag status"; status.d has no such field, for all of it is there.
        status = str(fields.get("Status", "install ok installed")).split()
        if status[-1:] in (["not-installed"], ["config-files"]):
            continue
        name, version = fields.get("Package"), fields.get("Version")
        source = _SOURCE.fullmatch(str(fields.get("Source") or name or "").strip())
        if not name or not version or source is None:
            yield None
        else:
            yield "deb", source["name"], source["version"] or str(version).strip(), str(name), None


def _apk(text: str) -> Iterator[_Entry | None]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        # Letters are case-sensitive fields; those of files (F, R, a, Z …) repeat and are of no interest.
        fields = {line[:1]: line[2:] for line in reversed(paragraph.splitlines()) if line[1:2] == ":"}
        name, version = fields.get("P"), fields.get("V")
        if not name or not version:
            if paragraph.strip():
                yield None
        else:
            yield "apk", fields.get("o") or name, version, name, fields.get("L")


def _release(data: bytes) -> dict[str, str]:
    """os-release(5): shell-like assignments; what is none is left out, as the man page says."""
    found: dict[str, str] = {}
    for line in data.decode("utf-8", errors="replace").splitlines():
        name, equal, value = line.strip().partition("=")
        if equal and re.fullmatch(r"[A-Z0-9_]+", name):
            try:
                found[name] = "".join(shlex.split(value))
            except ValueError:
                continue
    return found


def _ecosystem(kind: Kind, release: Mapping[str, str]) -> str | None:
    name, pattern = _ECOSYSTEMS.get((kind, release.get("ID", "")), (None, None))
    if name is None or pattern is None:
        return name
    version = re.match(pattern, release.get("VERSION_ID", ""))
    if version is None:
        return None
    return f"{name}:{'v' if name == 'Alpine' else ''}{version[0]}"
