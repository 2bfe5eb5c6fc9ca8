"""Under which names a package of the lock or the base is looked up in advisories, and when nobody can say.

A conda package is looked up as a Python distribution only where that is certain: the image shows that it brought that
distribution, training had a distribution of that name and version, or a table names it, kbuild's own or the
project's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packageurl import PackageURL
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.audit.lockview import LockEntry
from kbuild.audit.sources.osv import PYPI, PackageVersion
from kbuild.audit.subject import Subject
from kbuild.managers.conda_names import Names, pip_name

# The one ecosystem of OSV that has releases of the interpreter by version.
_INTERPRETER = ("Bitnami", "python")
# OSV has no releases of conda packages, but takes the repository and the tag of programs whose advisories it has from
# the NVD (its docs, "Queries for Git records"). One that it has nothing of would be answered with "nothing known", so
# only repositories that its records name are asked.
_REPOSITORIES = {
    "curl": "https://github.com/curl/curl.git",
    "expat": "https://github.com/libexpat/libexpat",
    "libcurl": "https://github.com/curl/curl.git",
    "libexpat": "https://github.com/libexpat/libexpat",
    "libzlib": "https://github.com/madler/zlib",
    "openssl": "https://github.com/openssl/openssl",
    "zlib": "https://github.com/madler/zlib",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageLookup:
    """A package to look up; ``package`` is None where no certain name is known, ``based`` for one of the base image.

    ``parts`` are the installed parts of it where they have other names.
    """

    where: str
    name: str
    version: str
    package: PackageVersion | None
    based: bool = False
    parts: tuple[str, ...] = ()


def asked_packages(subject: Subject) -> list[PackageLookup]:
    """Every package of the lock, and of the distribution below it where the image is part of the audit."""
    entries = () if subject.lock is None else subject.lock.unique()
    asked = [
        PackageLookup(where=each.where, name=each.name, version=each.version, package=identify(each, subject))
        for each in entries
    ]
    base = None if subject.image is None else subject.image.base
    if base is None or base.ecosystem is None:
        return asked
    for each in base.packages:
        package = PackageVersion(ecosystem=base.ecosystem, name=each.name, version=each.version)
        parts = tuple(part for part in each.parts if part != each.name)
        asked.append(
            PackageLookup(
                where=each.where, name=each.name, version=each.version, package=package, based=True, parts=parts
            )
        )
    return asked


def identify(entry: LockEntry, subject: Subject) -> PackageVersion | None:
    """The package in OSV's words, None where no certain name is known."""
    if entry.manager == "pip":
        return PackageVersion(ecosystem=PYPI, name=entry.canonical, version=_public(entry.version))
    if entry.name == "python":
        return PackageVersion(ecosystem=_INTERPRETER[0], name=_INTERPRETER[1], version=entry.version)
    name = _brought(entry, subject) or _trained(entry, subject) or _listed(entry, subject.names)
    if name is not None:
        return PackageVersion(ecosystem=PYPI, name=name, version=entry.version)
    repository = _REPOSITORIES.get(entry.name)
    return None if repository is None else PackageVersion(ecosystem="GIT", name=repository, version=entry.version)


def _public(version: str) -> str:
    """Without what an index of one's own adds (2.5.1+cpu): advisories are of the release that it was made from."""
    try:
        return Version(version).public if "+" in version else version
    except InvalidVersion:
        return version


def distribution_of(entry: LockEntry, names: Names = ()) -> str | None:
    """The Python distribution that a locked package is; None for a library or program that only shares a name.

    conda-forge's tzdata, which its CPython needs, is no PyPI's tzdata: what has Python modules depends on python.
    """
    if entry.manager != "conda":
        return entry.canonical
    return canonicalize_name(pip_name(entry.name, names)) if "python" in entry.dependencies else None


def _brought(entry: LockEntry, subject: Subject) -> str | None:
    """The only distribution among the files of the conda package in the image, or that its package url names."""
    if subject.image is None:
        return None
    record = next((each for each in subject.image.conda if each.name == entry.name), None)
    if record is None:
        return None
    folders = {file.split("/")[-2] for file in record.files if file.endswith(".dist-info/METADATA")}
    named = {canonicalize_name(folder.removesuffix(".dist-info").partition("-")[0]) for folder in folders}
    named = named or set(_pypi_names(record.purls))
    return named.pop() if len(named) == 1 else None


def _pypi_names(purls: tuple[str, ...]) -> Iterator[NormalizedName]:
    for text in purls:
        try:
            purl = PackageURL.from_string(text)
        except ValueError:
            continue
        if purl.type == "pypi":
            yield canonicalize_name(purl.name)


def _trained(entry: LockEntry, subject: Subject) -> str | None:
    """The distribution that drift compares it with, where training had it at the same version."""
    name = distribution_of(entry, subject.names)
    if subject.trained is None or name is None:
        return None
    return name if subject.trained.versions.get(name) == entry.version else None


def _listed(entry: LockEntry, names: Names) -> str | None:
    name = pip_name(entry.name, names)
    return canonicalize_name(name) if name != entry.name or entry.name in dict(names) else None
