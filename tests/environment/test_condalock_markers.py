"""Markers in packages' metadata as conda-lock reads them; what they mean is packaging's word.

In a process of its own: conda, which conda-lock carries, changes what JSON writes in the process that imports it.
"""

from __future__ import annotations

import json

from loaded import Loaded
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


READ = """
import json, sys
from conda_lock import pypi_solver
from kbuild.environment.condalock import settled

settled.complete_markers()
settled.turn_comparisons()
answer = []
for python, extra, text in json.load(sys.stdin):
    environment = pypi_solver.PlatformEnv(platform="linux-64", python_version=python).marker_env
    read = settled.Dependency.create_from_pep_508(text)
    answer.append([read.name, str(read.constraint), read.marker.validate({**environment, "extra": extra})])
json.dump(answer, sys.stdout)
"""


def test_a_marker_holds_as_it_is_written(conda_lock: Loaded) -> None:
    """poetry let go of markers that begin with a value: what only Windows needs was needed everywhere."""
    cases = [
        (python, extra, f"other>=1 ; {marker}")
        for marker in WRITTEN
        for python in ("3.11.7", "3.13.0")
        for extra in ("", "dev")
    ]
    done = conda_lock.run(READ, json.dumps(cases))
    assert done.returncode == 0, done.stderr
    for (python, extra, text), read in zip(cases, json.loads(done.stdout), strict=True):
        wanted = Requirement(text).marker
        assert wanted is not None
        values = {**marker_environment(python, Platform.parse("linux/amd64")), "extra": extra}
        assert read == ["other", ">=1", wanted.evaluate(values)], (python, extra, text)
