"""In which order pip installs packages: where two bring one file, what the later one brings stays.

Rule: pip's resolver, ``get_topological_weights``: who needs nothing first, then who needs only those, and so on; of
equals the last by name first. Where packages need each other pip follows paths from what was asked for, which a lock
does not tell: they come as one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packaging.utils import canonicalize_name

from kbuild.environment.lockfile import LockedPackage


def install_order(packages: Iterable[LockedPackage]) -> tuple[LockedPackage, ...]:
    """The wheels of one platform from the first to the last."""
    by_name: dict[str, LockedPackage] = {canonicalize_name(package.name): package for package in packages}
    needs: dict[str, set[str]] = {
        name: {str(canonicalize_name(other)) for other, _ in package.dependencies} & by_name.keys() - {name}
        for name, package in by_name.items()
    }
    order: list[str] = []
    while needs:
        ready = [name for name, others in needs.items() if not others & needs.keys()] or _circle(needs)
        order += sorted(ready, reverse=True)
        for name in ready:
            del needs[name]
    return tuple(by_name[name] for name in order)


def _circle(needs: Mapping[str, set[str]]) -> list[str]:
    """Those that need each other and nothing else that is left."""
    reached = {name: _reach(name, needs) for name in needs}
    return [name for name, others in reached.items() if all(name in reached[other] for other in others)]


def _reach(start: str, needs: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [start]
    while pending:
        further = (needs[pending.pop()] & needs.keys()) - found
        found |= further
        pending += further
    return found
