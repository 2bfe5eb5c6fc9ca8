"""Whether a locked package comes from a place that is configured: an index of pip's, or a conda channel.

Formats: PEP 503 (a page's links may lead to another server); conda's docs, "Managing channels" and "Settings".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.environment.conda_settings import conda_settings
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import LOCAL_URLS, LockedPackage, Lockfile
from kbuild.environment.requirements import allows
from kbuild.managers.conda_names import Names, pip_name
from kbuild.platform import Platform
from kbuild.urls.credentials import is_for, without_user

_TOKEN = re.compile(r"/t/[^/]+(?=/)")


def is_of_channel(url: str, channels: Iterable[str], environ: Mapping[str, str]) -> bool:
    """Whether a conda package lies in one of the channels, which are names or urls, or on a server that stands alone.

    In a channel is what lies at ``SUBDIR/FILE`` below it: ``label/NAME`` makes another channel of it, which anybody who
    may upload there fills (conda's docs, "Channels and generating an index").
    """
    if url.startswith(LOCAL_URLS):
        return True
    places = conda_settings(environ).places(list(channels))
    return any(_is_in_channel(url, f"file://{each}" if each.startswith("/") else each) for each in places)


def _is_in_channel(url: str, channel: str) -> bool:
    path = urlsplit(_bare(channel)).path.rstrip("/")
    inside = urlsplit(_bare(url)).path.removeprefix(f"{path}/")
    return is_below(url, channel) and (not path or unquote(inside).count("/") == 1)


def is_of_index(url: str, indexes: Iterable[str]) -> bool:
    """Whether a wheel lies on the server of one of the indexes, or below one that is a folder.

    False does not mean that none offers it: pages may lead elsewhere.
    """
    if url.startswith(LOCAL_URLS):
        return True
    for index in indexes:
        if is_local(index):
            if is_below(url, index):
                return True
        elif is_for(index, url) or is_for(file_server(index), url):
            return True
    return False


def file_server(index: str) -> str:
    """Where an index's files lie as far as that is known without asking: pip's own index has a server for them."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return index
    return f"https://{PyPI.file_storage_domain}" if urlsplit(index).hostname == PyPI.netloc else index


def is_below(url: str, place: str) -> bool:
    """Whether a url lies below another, on the same server, credentials of both left out."""
    url, place = _bare(url), _bare(place)
    if ".." in unquote(url).split("/"):
        return False
    inside = urlsplit(url).path.startswith(f"{urlsplit(place).path.rstrip('/')}/")
    if is_local(place) or is_local(url):
        return is_local(place) and is_local(url) and not urlsplit(url).netloc and inside
    return is_for(place, url) and inside


def _bare(url: str) -> str:
    return _TOKEN.sub("", without_user(url))


def find_gaps(lockfile: Lockfile, platform: Platform, asked: Iterable[Requirement], names: Names = ()) -> Iterator[str]:
    """What the lock lacks of what its own packages, or the requirements that were ``asked``, depend on.

    What is hidden in another category than ``main`` is lacking: no image has it.
    """
    packages = lockfile.for_platform(platform)
    there = _names(packages, names)
    for requirement in asked:
        if canonicalize_name(requirement.name) not in there:
            yield f"{requirement.name}, which the model asks for"
    for package in packages:
        for name, _ in package.dependencies:
            if not name.startswith("__") and canonicalize_name(name) not in there:
                yield f"{name}, which {package.name} {package.version} depends on"


def find_misfits(lockfile: Lockfile, platform: Platform, asked: Iterable[Requirement]) -> Iterator[str]:
    """The wheels of a lock in another version than its own packages, or the requirements that were ``asked``, allow.

    The lock says itself what its packages ask for; solvers were seen to give another answer (conda-lock 4, where a
    package names another one twice). What conda's side has is conda's to judge.
    """
    packages = lockfile.for_platform(platform)
    wheels = {canonicalize_name(each.name): each for each in packages if each.manager == "pip"}
    for requirement in asked:
        wheel = wheels.get(canonicalize_name(requirement.name))
        if wheel is not None and not allows(str(requirement.specifier), wheel.version):
            yield f"{wheel.name} {wheel.version}, where the model asks for {requirement.specifier}"
    for package in wheels.values():
        for name, constraint in package.dependencies:
            wheel = wheels.get(canonicalize_name(name))
            if wheel is not None and not allows(constraint, wheel.version):
                yield f"{wheel.name} {wheel.version}, where {package.name} {package.version} asks for {constraint}"


def _names(packages: Sequence[LockedPackage], names: Names) -> set[str]:
    own = {canonicalize_name(package.name) for package in packages}
    return own | {canonicalize_name(pip_name(each.name, names)) for each in packages if each.manager == "conda"}
