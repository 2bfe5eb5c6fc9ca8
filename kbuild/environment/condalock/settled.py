"""Markers of dependencies, settled for the platform that is locked.

conda-lock 4 tells its solver neither the processor nor which Python it is (``PlatformEnv.get_marker_env``), and a
marker that asks for these holds everywhere: what only another processor or PyPy needs is in its lock, or there is none.
Here they are told. Format: PyPA's "Dependency specifiers", "Environment markers".

conda-lock's vendored poetry asks of each marker whether it holds on the platform, and carries on with the marker all
the same, since a solve may be for many platforms. Where a package names another one twice (``cuda-toolkit``, for each
of its extras that needs ``nvidia-cublas``) it intersects the markers and their opposites with those of all that was so
before, and solves anew for each of the parts that come of it: minutes for a model with torch, of which all parts but
one are of other platforms. Here a marker that holds is let go of. conda-lock solves for one platform at a time, and
writes no markers into its lock, so the lock is the same.

A comparison with its value first (``"win32" == sys_platform``) poetry takes for no marker: it lets go of the whole one,
so that what only Windows or an extra needs is needed everywhere. Here such a comparison is turned before it is read.

Imported in conda-lock's process alone.
"""

from __future__ import annotations

import re
from functools import wraps
from typing import Any

from conda_lock import pypi_solver
from conda_lock._vendor.poetry.core.packages.dependency import Dependency
from conda_lock._vendor.poetry.core.version.markers import AnyMarker
from conda_lock._vendor.poetry.puzzle.provider import Provider

_CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
_LINUX = "linux_"
_METHOD = "_get_dependencies_with_overrides"
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_VALUE_FIRST = re.compile(r"""("[^"]*"|'[^']*')\s*(<=|>=|==|!=|<|>)\s*([a-z][a-z_.]*)""")


def complete_markers() -> None:
    """Have conda-lock's environments of Linux tell their processor and implementation; raises AttributeError where it
    has other ones."""
    original = pypi_solver.PlatformEnv.get_marker_env

    @wraps(original)
    def complete(self: Any) -> dict[str, str]:
        tags = {tag.platform for tag in self.get_supported_tags()}
        machines = [each.removeprefix(_LINUX) for each in tags if each.startswith(_LINUX)]
        machine = {"platform_machine": machines[0]} if machines else {}
        return {**machine, **_CPYTHON, **original(self)}

    pypi_solver.PlatformEnv.get_marker_env = complete


def turned(requirement: str) -> str:
    """A requirement of a package with each comparison of its marker beginning with the variable.

    ``implementation_version``, whose order poetry does not know, is CPython's own, ``python_full_version``.
    """
    wanted, semicolon, marker = requirement.partition(";")
    marker = _VALUE_FIRST.sub(lambda found: f"{found[3]} {_TURNED[found[2]]} {found[1]}", marker)
    return wanted + semicolon + marker.replace("implementation_version", "python_full_version")


def turn_comparisons() -> None:
    """Have poetry read markers of which comparisons begin with the value."""
    original = Dependency.create_from_pep_508

    def create(name: str, relative_to: Any = None) -> Any:
        return original(turned(name), relative_to)

    Dependency.create_from_pep_508 = staticmethod(create)


def install() -> None:
    """Have poetry's solver settle markers; one that is made otherwise solves as it always did."""
    original = getattr(Provider, _METHOD, None)
    if original is None:
        return

    @wraps(original)
    def settled(self: Any, dependencies: list[Any], package: Any) -> list[Any]:
        known = getattr(self, "_env", None)
        # The root's extras are the solver's own matter; it has none here.
        if known is not None and not package.is_root():
            values = {**known.marker_env, "extra": package.features}
            dependencies = [settle(each, values) for each in dependencies]
        found: list[Any] = original(self, dependencies, package)
        return found

    setattr(Provider, _METHOD, settled)


def settle(dependency: Any, values: dict[str, Any]) -> Any:
    """A dependency of poetry's without its marker, if that holds for these values; else itself.

    ``extra`` of the values are those that were asked for.
    """
    if dependency.marker.is_any() or not dependency.marker.validate(values):
        return dependency
    free = dependency.clone()
    free.marker = AnyMarker()
    return free
