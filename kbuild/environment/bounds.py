"""The constraints of pip's own configuration (``constraint``, ``PIP_CONSTRAINT``): which versions a company allows.

What training pinned is what a model was seen to work with, and stays; a bound counts for everything else. Bounds are no
part of what makes a lock stale, or each line of a company's file would: a lock is, where a package of it is outside.

Format: pip's docs, "Constraints Files".
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.environment.lockfile import Lockfile
from kbuild.environment.requirements import applicable, exact_version, read_requirements
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import ConfigurationError
from kbuild.files import expand_home
from kbuild.platform import Platform
from kbuild.progress import Progress, at_most
from kbuild.untrusted import BrokenText, read_text
from kbuild.urls.credentials import without_credentials

_SHOWN = 3


def read_bounds(places: Iterable[str], progress: Progress) -> tuple[str, ...]:
    """The requirements of constraints files, sorted. What of them says no version is told and left out. Raises
    ConfigurationError for a file that cannot be read."""
    found: set[str] = set()
    for place in places:
        if "://" in place:
            shown = without_credentials(place.partition("?")[0])
            progress.tell(f"pip's constraint names {shown}, a url, which is not read")
            continue
        try:
            text = read_text(expand_home(place))
        except (OSError, BrokenText) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"cannot read {place}, which pip's constraint names: {reason}",
                hint="mend it (pip config list, PIP_CONSTRAINT)",
            ) from error
        read = read_requirements([f"-c {shlex.quote(place)}"], source="", files={place: text})
        for problem in read.problems:
            progress.tell(f"of pip's constraint this is not followed: {problem}")
        found |= {str(each) for each in read.constraints if each.specifier}
    return tuple(sorted(found))


def applicable_bounds(bounds: Iterable[str], spec: EnvironmentSpec, platform: Platform) -> dict[str, Requirement]:
    """The bounds that hold on a platform, by normalised name, of packages that the model itself does not pin."""
    pip = applicable(spec.pip, spec.python, platform)
    pinned = {name for name, each in pip.items() if exact_version(each.specifier) is not None}
    pinned |= applicable(spec.constraints, spec.python, platform).keys()
    return {name: each for name, each in applicable(bounds, spec.python, platform).items() if name not in pinned}


def outside(lockfile: Lockfile, spec: EnvironmentSpec, bounds: Iterable[str]) -> Iterator[str]:
    """Each package of a lock that a bound does not allow, and which one."""
    bounds = tuple(bounds)
    for platform in spec.platforms if bounds else ():
        allowed: Mapping[str, Requirement] = applicable_bounds(bounds, spec, platform)
        for package in lockfile.for_platform(platform):
            bound = allowed.get(canonicalize_name(package.name)) if package.manager == "pip" else None
            if bound is not None and not bound.specifier.contains(package.version, prereleases=True):
                yield f"{package.name} {package.version}, where {bound} is to hold"


def is_within(lockfile: Lockfile, spec: EnvironmentSpec, bounds: Iterable[str], progress: Progress) -> bool:
    """Whether a lock that is there keeps to the bounds; tells what of it does not."""
    found = list(dict.fromkeys(outside(lockfile, spec, bounds)))
    if found:
        progress.tell(f"the lock does not keep to pip's constraint: it has {at_most(found, _SHOWN, '; ')}")
    return not found
