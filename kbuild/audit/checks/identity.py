"""Under which names a locked package is looked up in advisories, and when nobody can say.

A conda package is looked up as a Python distribution only where that is certain: the image shows that it brought that
distribution, training had a distribution of that name and version, or kbuild's own table names it.
"""

from __future__ import annotations

from packaging.utils import canonicalize_name

from kbuild.audit.lockview import LockEntry
from kbuild.audit.sources.osv import PYPI, PackageVersion
from kbuild.audit.subject import Subject
from kbuild.environment.condalock.source import pip_name

# The one ecosystem of OSV that has releases of the interpreter by version.
_INTERPRETER = ("Bitnami", "python")


def identify(entry: LockEntry, subject: Subject) -> PackageVersion | None:
    """The package in OSV's words, None where no certain name is known."""
    if entry.manager == "pip":
        return PackageVersion(ecosystem=PYPI, name=entry.canonical, version=entry.version)
    if entry.name == "python":
        return PackageVersion(ecosystem=_INTERPRETER[0], name=_INTERPRETER[1], version=entry.version)
    name = _brought(entry, subject) or _trained(entry, subject) or _listed(entry)
    return None if name is None else PackageVersion(ecosystem=PYPI, name=name, version=entry.version)


def distribution_of(entry: LockEntry) -> str | None:
    """The Python distribution that a locked package is; None for a library or program that only shares a name.

    conda-forge's tzdata, which its CPython needs, is no PyPI's tzdata: what has Python modules depends on python.
    """
    if entry.manager != "conda":
        return entry.canonical
    return canonicalize_name(pip_name(entry.name)) if "python" in entry.dependencies else None


def _brought(entry: LockEntry, subject: Subject) -> str | None:
    """The only distribution of that version among the files of the conda package in the image."""
    if subject.image is None:
        return None
    files = next((record.files for record in subject.image.conda if record.name == entry.name), frozenset())
    folders = {file.split("/")[-2] for file in files if file.endswith(".dist-info/METADATA")}
    named = {folder.removesuffix(".dist-info").partition("-")[0] for folder in folders}
    return canonicalize_name(named.pop()) if len(named) == 1 else None


def _trained(entry: LockEntry, subject: Subject) -> str | None:
    """The distribution that drift compares it with, where training had it at the same version."""
    name = distribution_of(entry)
    if subject.trained is None or name is None:
        return None
    return name if subject.trained.versions.get(name) == entry.version else None


def _listed(entry: LockEntry) -> str | None:
    name = pip_name(entry.name)
    return canonicalize_name(name) if name != entry.name else None
