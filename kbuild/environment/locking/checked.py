"""A lock that was not made just now, looked at before anything of it is fetched: anybody may have edited it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from kbuild.environment.index.package_indexes import Indexes, find_files
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import LockedPackage, Lockfile, conda_build
from kbuild.environment.locking.wanted import LockRequest
from kbuild.environment.match_spec import other_python
from kbuild.environment.origins import find_gaps, find_misfits, is_below, is_of_channel, is_of_index
from kbuild.environment.requirements import applicable, local_part
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import ConfigurationError, IndexUnavailable, LockfileInvalid, VersionConflict
from kbuild.platform import Platform
from kbuild.process.asking import asking_pool
from kbuild.progress import at_most
from kbuild.urls.credentials import without_credentials

_AT_ONCE = 8
_SHOWN = 5
_ALIAS = "set CONDA_CHANNEL_ALIAS=URL"


def check_lock(
    lockfile: Lockfile,
    spec: EnvironmentSpec,
    request: LockRequest,
    *,
    is_here: Callable[[LockedPackage], bool],
    environ: Mapping[str, str],
    remedy: str,
) -> None:
    """Raises LockfileInvalid for packages from elsewhere than the spec's indexes and channels, or than those that the
    request allows where it names any, and for a lock that lacks what its packages need,
    or has another version than arbitrary equality asks for.

    An index may offer files of another server: whether it does is asked for packages that are not here already.
    """
    platforms, places = request.platforms, (*spec.indexes, *spec.find_links)
    strays, elsewhere = [], []
    for package in (each for platform in platforms for each in lockfile.for_platform(platform)):
        if is_local(package.url):
            continue  # nobody is asked for it; the audit says that no other machine has it
        if package.manager == "conda":
            channels = request.allowed_channels or spec.channels
            fits = is_of_channel(package.url, channels, environ)
        elif request.allowed_indexes:
            fits = package.url.startswith("$") or any(is_below(package.url, place) for place in request.allowed_indexes)
        else:
            fits = is_of_index(package.url, places)
            if not fits and not is_here(package):
                elsewhere.append(package)
                continue
            fits = True
        if not fits:
            strays.append(package)
    strays += _not_offered(elsewhere, spec, environ)
    if strays:
        shown = [f"{each.name} {each.version} from {without_credentials(each.url)}" for each in strays]
        kinds = sorted({"allowed-channels" if each.manager == "conda" else "allowed-indexes" for each in strays})
        if any(each.manager == "conda" for each in strays):
            remedy = f"{_ALIAS} if channels come from a mirror here; {remedy}"
        raise LockfileInvalid(
            f"the lock takes {at_most(shown, _SHOWN)}, which is none of the configured indexes and channels",
            hint=f"{remedy} --force makes the lock again; or name the place in kbuild.yml's audit: {', '.join(kinds)}",
        )
    for other in _others(lockfile, spec, platforms):
        raise LockfileInvalid(f"the lock takes {other}", hint=f"{remedy} --force makes the lock again")
    for misfit in _misfits(lockfile, spec, platforms):
        raise LockfileInvalid(f"the lock takes {misfit}", hint=f"{remedy} --force makes the lock again")
    for platform in platforms:
        asked = applicable(spec.pip, spec.python, platform).values()
        gaps = list(dict.fromkeys(find_gaps(lockfile, platform, asked, spec.names)))
        if gaps:
            raise LockfileInvalid(
                f"the lock lacks {at_most(gaps, _SHOWN, '; ')} ({platform})",
                hint=f"{remedy} --force makes the lock again",
            )


def check_python(lockfile: Lockfile, remedy: str) -> None:
    """Raises LockfileInvalid where conda's packages bring a python that the locked wheels are not made for: another
    program may have made the lock, or a kbuild that did not look at that."""
    for package in lockfile.packages:
        kind = other_python(conda_build(package)) if (package.manager, package.name) == ("conda", "python") else None
        if kind is not None:
            raise LockfileInvalid(
                f"the lock takes python {package.version} {conda_build(package)}, {kind}, which takes other wheels than"
                " models are served with",
                hint=f"{remedy} --force makes the lock again; take out of conda.yaml what asks for it "
                "(python-freethreading, python_abi, pypy) if that takes it too",
            )


def check_versions(lockfile: Lockfile, spec: EnvironmentSpec) -> None:
    """Raises VersionConflict where a lock that a solver just made has a local version of what is asked for by
    arbitrary equality (PEP 440, ``===``): solvers know ``==`` alone, which allows it; and where its packages do not fit
    each other."""
    for other in _others(lockfile, spec, spec.platforms):
        raise VersionConflict(
            f"the solver takes {other}",
            hint=f"ask for {other.name}=={other.asked} if any build of that version will do, or keep the other one off"
            " the indexes and find-links",
        )

    for misfit in _misfits(lockfile, spec, spec.platforms):
        raise VersionConflict(
            f"the solver takes {misfit}",
            hint="ask for a version that fits by name, among the requirements of the model",
        )


def _misfits(lockfile: Lockfile, spec: EnvironmentSpec, platforms: Iterable[Platform]) -> Iterator[str]:
    for platform in platforms:
        # Of a name that is asked for and constrained both count: the second for what is not asked for.
        asked = applicable((*spec.constraints, *spec.pip), spec.python, platform)
        yield from find_misfits(lockfile, platform, asked.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Other:
    """A locked version, and the one that is ``asked`` for by arbitrary equality."""

    name: str
    locked: str
    asked: str

    def __str__(self) -> str:
        return f"{self.name} {self.locked}, where {self.name}==={self.asked} is asked for"


def _others(lockfile: Lockfile, spec: EnvironmentSpec, platforms: Iterable[Platform]) -> Iterator[_Other]:
    """What is locked in another local version than is asked for by arbitrary equality."""
    for platform in platforms:
        asked = applicable((*spec.pip, *spec.constraints), spec.python, platform)
        for package in lockfile.for_platform(platform):
            requirement = asked.get(canonicalize_name(package.name)) if package.manager == "pip" else None
            for part in requirement.specifier if requirement is not None else ():
                if part.operator == "===" and local_part(part.version) != local_part(package.version):
                    yield _Other(name=package.name, locked=package.version, asked=part.version)


def check_channels(
    lockfile: Lockfile, spec: EnvironmentSpec, *, allowed_channels: tuple[str, ...], environ: Mapping[str, str]
) -> None:
    """Raises LockfileInvalid where a lock that a solver just made has packages of other channels than it was asked for:
    ``check_lock`` would refuse it the next time. Solvers read settings of their own (``.condarc``), others do not."""
    channels = allowed_channels or spec.channels
    for package in lockfile.packages:
        if package.manager == "conda" and not is_of_channel(package.url, channels, environ):
            raise LockfileInvalid(
                f"the solver takes {package.name} {package.version} from {without_credentials(package.url)}, which is"
                f" below none of the channels {', '.join(map(without_credentials, channels))}",
                hint=f"{_ALIAS} if the solver's .condarc names a mirror, name the channel by its url (--channel), or "
                "name the place in kbuild.yml's audit: allowed-channels",
            )


def _not_offered(
    packages: list[LockedPackage], spec: EnvironmentSpec, environ: Mapping[str, str]
) -> list[LockedPackage]:
    """Those that no index has at this very place with this very sha256."""
    if not packages:
        return []
    # What is here already needs no client of HTTP.
    from kbuild.environment.index.download import make_session
    from kbuild.http import ThreadSessions

    links = [Indexes(urls=(), find_links=(page,)) for page in spec.find_links]
    places = [*(Indexes(urls=(url,)) for url in spec.indexes), *links]
    with ThreadSessions(lambda: make_session(environ)) as sessions, asking_pool(_AT_ONCE) as pool:

        def is_offered(package: LockedPackage) -> bool:
            unknown, near = None, {package.sha256, package.filename, unquote(package.filename)}
            for place in places:  # the one that has it is enough, though another does not answer
                try:
                    files = find_files(package.name, place, environ=environ, session=sessions.mine(), near=near)
                except (IndexUnavailable, ConfigurationError) as error:
                    unknown = error
                    continue
                url = package.url.partition("#")[0]
                if any(file.url == url and file.sha256 in (None, package.sha256) for file in files):
                    return True
            if unknown is not None:
                raise unknown
            return False

        try:
            offered = list(pool.map(is_offered, packages))
        except IndexUnavailable as error:
            raise IndexUnavailable(
                f"{packages[0].filename} of the lock lies on another server than the package index; whether that offers"
                f" it there is not known: {error.message}",
                hint=error.hint,
            ) from error
    return [package for package, known in zip(packages, offered, strict=True) if not known]
