"""Markers in packages' metadata as conda-lock reads them; what they mean is packaging's word."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from kbuild.environment.requirements import marker_environment
from kbuild.platform import Platform

WRITTEN = [
    '"win32" == sys_platform',
    "'win32'!=sys_platform",
    '"3.8" > python_version',
    '"3.8" <= python_version and "nt" == os_name',
    '"3.11.9" > python_full_version or "dev" == extra',
    '("dev" == extra) and python_version < "4"',
    'sys_platform == "linux" and "3.11" >= python_version',
    '"3.12" < implementation_version',
    'implementation_version < "3.2"',
    '"arm" in platform_machine',
    'sys_platform not in "win32 darwin"',
    'os_name == "nt" or "3.13.0" != implementation_version',
]


@pytest.mark.parametrize("marker", WRITTEN)
@pytest.mark.parametrize("python", ["3.11.7", "3.13.0"])
def test_a_marker_holds_as_it_is_written(marker: str, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """poetry let go of markers that begin with a value: what only Windows needs was needed everywhere."""
    settled = pytest.importorskip("kbuild.environment.condalock.settled")
    from conda_lock import pypi_solver

    for place, name in ((settled.Dependency, "create_from_pep_508"), (pypi_solver.PlatformEnv, "get_marker_env")):
        monkeypatch.setattr(place, name, vars(place)[name])
    settled.complete_markers()
    settled.turn_comparisons()
    environment = pypi_solver.PlatformEnv(platform="linux-64", python_version=python).marker_env
    for extra in ("", "dev"):
        text = f"other>=1 ; {marker}"
        wanted = Requirement(text).marker
        assert wanted is not None
        values = {**marker_environment(python, Platform.parse("linux/amd64")), "extra": extra}
        read = settled.Dependency.create_from_pep_508(text)
        asked = {**environment, "extra": extra}
        assert read.marker.validate(asked) == wanted.evaluate(values), (extra, asked)
        assert (read.name, str(read.constraint)) == ("other", ">=1")
