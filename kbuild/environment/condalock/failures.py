"""What conda-lock's last words mean, as one of kbuild's errors.

conda-lock reports through the traceback of its vendored poetry for packages of an index, and through the JSON of the
conda solver for packages of a channel. Real outputs of both are in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from kbuild.errors import (
    EnvironmentSpecError,
    IndexUnavailable,
    KbuildError,
    PackageNotFound,
    ResolverFailed,
    SourceOnlyPackage,
    VersionConflict,
)
from kbuild.urls.credentials import without_credentials

Releases = Callable[[str], Mapping[Version, list[str]]]
"""Looks up the file names of each release of a package on the indexes."""

Unfit = Callable[[str, SpecifierSet], KbuildError | None]
"""Why releases that are there, and that a specifier allows, are of no use; None where that is not why."""

_BY_URL = re.compile(r"^\S*\.NotOfAnIndex: (?P<wanted>.+)$", re.M)
_SOLVER_PROBLEM = re.compile(
    r"^\S*\.(?:SolverProblemError|OtherVersion): (?P<text>.+?)(?=^\S*(?:Error|Exception):|\Z)", re.M | re.S
)
_NO_MATCH = re.compile(
    r"(?:Because |because |and )?(?P<parent>\S+(?: \([^)]*\))?) depends on (?P<name>\S+) \((?P<version>[^)]*)\) "
    r"which doesn't match any versions"
)
_NOT_FOUND = re.compile(r"^\S*\.PackageNotFoundError: Package (?P<name>\S+) \((?P<version>[^)]*)\) not found", re.M)
_REFUSED = re.compile(r"Authorization error accessing (?P<url>\S+)")
_INDEX_DOWN = re.compile(
    r"^(?:requests\.exceptions\.(?:\w*Connection\w*|\w*Timeout|SSLError|ProxyError|RetryError|ChunkedEncodingError|RequestException)"
    r"|\S*\.(?:RepositoryError|CutOff)): (?P<text>.+)$",
    re.M,
)
_HOST = re.compile(r"host='(?P<host>[^']+)'(?:, port=(?P<port>\d+))?|https?://(?P<netloc>[^/\s]+)")
_CAUSE = re.compile(r"(?:\[Errno -?\d+\] (?P<errno>[^'\")]+)|(?P<http>\d{3} (?:Server|Client) Error))")

_CONDA_FAILED = re.compile(
    r"Could not lock the environment for platform (?P<subdir>\S+)\n(?P<text>.*?)\n    Command:", re.S
)
_CONDA_DOWN = re.compile(
    r"CondaHTTPError|CondaSSLError|error sending request|Download error|Could not (?:resolve|connect)|"
    r"Connection (?:refused|failed)|status code 5\d\d|HTTP 5\d\d"
)
_CONDA_REFUSED = re.compile(r"\b40[13] (?:Unauthorized|Forbidden)")
_CONDA_MISSING = re.compile(
    r"No candidates were found for (?P<spec>[^\n]+)"
    r"|(?:nothing provides|does not exist|packages are not available|PackagesNotFoundError)"
)
_CONDA_CONFLICT = re.compile(
    r"Unsatisfiable|Cannot solve|Could not solve|conflict|cannot be installed|is not installable", re.I
)
_ROOT = "-dummy-package-"
_OFFERED = 3
_LONGEST = 600
CHANNEL_CREDENTIALS = "give its user and password in ~/.netrc, or in the url: --channel https://USER:PASSWORD@HOST/NAME"
_CONFLICT_HINT = "loosen one of them in the model's conda environment, and log the model again"


def explain_failure(
    stderr: str, *, releases: Releases, unfit: Unfit = lambda *_: None, conda: Sequence[str] = ()
) -> KbuildError:
    """The error behind the stderr of a conda-lock that failed; ``conda`` are the specs that need a channel anyway."""
    by_url = _BY_URL.search(stderr)
    if by_url is not None:
        return EnvironmentSpecError(
            f"a package of the environment requires {by_url['wanted']}: only packages of an index can be locked, no "
            "urls or version control",
            hint="ask for a release whose requirements are packages of an index",
        )
    failed = _CONDA_FAILED.search(stderr)
    if failed is not None:
        return _conda_error(failed["text"], conda)
    problem = _SOLVER_PROBLEM.search(stderr)
    if problem is not None:
        missing = _NO_MATCH.search(problem["text"])
        if missing is not None:
            return _refused(missing["name"], stderr) or missing_release(
                missing["name"],
                missing["version"],
                wanted_by=_owner(missing["parent"]),
                releases=releases,
                unfit=unfit,
            )
        return VersionConflict(f"the requirements cannot all hold: {_one_line(problem['text'])}", hint=_CONFLICT_HINT)
    absent = _NOT_FOUND.search(stderr)
    if absent is not None:
        return _refused(absent["name"], stderr) or missing_release(
            absent["name"], absent["version"], wanted_by=None, releases=releases, unfit=unfit
        )
    down = _INDEX_DOWN.search(stderr)
    if down is not None:
        return _index_down(down["text"])
    return ResolverFailed(f"conda-lock failed: {_last_words(stderr)}")


def is_channel_failure(stderr: str) -> bool:
    """Whether it was the conda solver that failed: the interpreter, or another package of a channel."""
    return _CONDA_FAILED.search(stderr) is not None


def missing_release(
    name: str, version: str, *, wanted_by: str | None, releases: Releases, unfit: Unfit = lambda *_: None
) -> KbuildError:
    """The error for a package, or a version of it, that the solver did not get: absent, refused, source only, unfit."""
    wanted = name if version in ("*", "") else f"{name} {version.removeprefix('==')}"
    who = f", which {wanted_by} requires" if wanted_by else ""
    try:
        found = releases(name)
        specifier = _specifier(version)
    except IndexUnavailable as error:
        return error
    if not found:
        return PackageNotFound(f"no package index has {name}{who}", hint="check the name, or add the index that has it")
    here = [release for release in found if specifier.contains(release, prereleases=True)]
    if here and all(not file.endswith(".whl") for release in here for file in found[release]):
        return SourceOnlyPackage(
            f"of {wanted}{who}, the package index has only source distributions",
            hint=source_only_hint(name),
        )
    useless = unfit(name, specifier)
    if useless is not None:
        return type(useless)(
            f"{useless.message}{f' ({wanted_by} requires it)' if wanted_by else ''}", hint=useless.hint
        )
    newest = sorted((release for release in found if not release.is_prerelease), reverse=True) or sorted(found)[::-1]
    offer = ", ".join(map(str, newest[:_OFFERED]))
    return PackageNotFound(
        f"the package index has no {wanted}{who}",
        hint=f"the newest it has of {name}: {offer}"
        + (f"; ask for a version of {wanted_by.split()[0]} that takes one of them" if wanted_by else ""),
    )


def source_only_hint(name: str, *, refused: bool = False) -> str:
    """What to do about a package without a wheel, or whose wheels are ``refused``."""
    if refused:
        where = "PIP_NO_BINARY, pip's configuration (pip config list) or the model's requirements"
        return f"take {name} out of no-binary ({where}), or let a wheel be built here (--allow-sdist)"
    return f"build a wheel of {name} here (--allow-sdist), offer one on your package index, or take it from conda"


def lagging_requirement(stderr: str) -> tuple[str, str] | None:
    """Name and version of a release that the index has while it lacks what that release pins."""
    missing = _NO_MATCH.search(stderr)
    parent = re.fullmatch(r"(?P<name>\S+) \((?P<version>[^)<>=!~*|, ]+)\)", missing["parent"]) if missing else None
    return (parent["name"], parent["version"]) if parent else None


def _refused(name: str, stderr: str) -> IndexUnavailable | None:
    # poetry goes on without the package where an index wants a password
    for refused in _REFUSED.finditer(stderr):
        if refused["url"].rstrip("/").endswith(f"/{name}"):
            return IndexUnavailable(
                f"the package index refuses {without_credentials(refused['url'])}",
                hint="give its user and password in the url (PIP_INDEX_URL) or in ~/.netrc",
            )
    return None


def _owner(parent: str) -> str | None:
    return None if parent.startswith(_ROOT) else parent.replace("(", "").replace(")", "")


def _specifier(version: str) -> SpecifierSet:
    text = "" if version in ("*", "") else version
    try:
        return SpecifierSet(text if text[:1] in ("", "=", "<", ">", "!", "~") else f"=={text}")
    except InvalidSpecifier:  # poetry joins ranges with ||, which PEP 440 has no word for
        return SpecifierSet()


def _index_down(text: str) -> IndexUnavailable:
    host = _HOST.search(text)
    where = "asked for"
    if host is not None:
        port = f":{host['port']}" if host["port"] else ""
        where = host["netloc"].rpartition("@")[2] if host["netloc"] else f"{host['host']}{port}"
    cause = _CAUSE.search(text)
    why = (cause["errno"] or cause["http"]).strip() if cause else _one_line(text)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return IndexUnavailable(
            f"the certificate of the package index {where} is not trusted",
            hint="name its authority's certificate as pip takes it: PIP_CERT=FILE, or pip config set global.cert FILE",
        )
    return IndexUnavailable(
        f"the package index {where} does not answer: {why}",
        hint="check the network, PIP_INDEX_URL and pip's configuration",
    )


def _conda_error(text: str, conda: Sequence[str]) -> KbuildError:
    way_out = "take this machine's interpreter (--interpreter captured)"
    if conda:  # of a channel too, whichever interpreter there is
        listed = ", ".join(conda[:_OFFERED]) + (", …" if len(conda) > _OFFERED else "")
        way_out = f"name {listed} under pip: in conda_env, and log the model again, and {way_out}"
    said = re.sub(r"^(UnsatisfiableError|CondaHTTPError|InvalidMatchSpec): ", "", text.strip())
    if _CONDA_DOWN.search(text):
        host = _HOST.search(said)
        causes = said.splitlines()[-1].removeprefix("Caused by: ")
        where = f" at {host['netloc'].rpartition('@')[2]}" if host and host["netloc"] else ""
        if refused := _CONDA_REFUSED.search(causes):
            return IndexUnavailable(
                f"the conda channel{where} refuses: {refused[0]}",
                hint=CHANNEL_CREDENTIALS,
            )
        return IndexUnavailable(
            f"the conda channel{where} does not answer: {_one_line(causes)}",
            hint=f"name a channel that can be reached (--channel), or {way_out}",
        )
    missing = _CONDA_MISSING.search(said)
    if missing is not None and missing["spec"]:
        spec = missing["spec"].strip().removesuffix(".").removesuffix(" *")
        hint = "check the name, the version and the channels"
        if spec.startswith("__"):
            hint = "no channel is to: it is what a base brings (--base); drivers of a host (__cuda) no image has"
        if spec.split()[0] == "python":
            hint = f"name a channel that has it (--channel), or {way_out}"
        return PackageNotFound(f"no conda channel has {spec}", hint=hint)
    if missing is not None:
        return PackageNotFound(f"a conda package is missing: {_one_line(said)}", hint="check names and channels")
    if _CONDA_CONFLICT.search(text):
        return VersionConflict(f"the conda packages cannot all be installed: {_one_line(said)}", hint=_CONFLICT_HINT)
    return ResolverFailed(f"the conda solver failed: {_one_line(said)}")


def _one_line(text: str) -> str:
    words = without_credentials(" ".join(text.replace(_ROOT, "the model").split()))
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


def _last_words(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return _one_line(lines[-1]) if lines else "it said nothing"
