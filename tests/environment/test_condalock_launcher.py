"""conda-lock, as the launcher leaves it, against packaging's own reading of the tags.

In processes of their own: conda-lock says on import what is deprecated in it.
"""

import json

from loaded import Loaded
from packaging.tags import compatible_tags, cpython_tags

from kbuild.environment.condalock.launcher import manylinux_tags

MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
LEGACY = {17: "2014", 12: "2010", 5: "1"}
SUPPORTED = """
import json, sys
from conda_lock import conda_lock, pypi_solver
from kbuild.environment.condalock import launcher

conda_lock.main = lambda **_: None
launcher.main()
answer = {}
for platform, newest in json.load(sys.stdin):
    glibc = {"a": {"name": "__glibc", "version": f"2.{newest}"}}
    env = pypi_solver.PlatformEnv(platform=platform, platform_virtual_packages=glibc, python_version="3.11.7")
    answer[f"{platform} {newest}"] = [str(tag) for tag in env.get_supported_tags()]
json.dump(answer, sys.stdout)
"""
OTHER_LIST = """
from conda_lock import pypi_solver
from kbuild.environment.condalock import launcher

pypi_solver.MANYLINUX_TAGS = ["_3_1"]
launcher.main()
"""
DEFERRED = """
import sys
from kbuild.environment.condalock import launcher

kept = "conda_lock._vendor.poetry.vcs.git"
whole = sys.modules.pop(f"{kept}.backend"), sys.modules.pop(kept)
launcher.defer_git()
from conda_lock._vendor.poetry.vcs.git import Git
assert f"{kept}.backend" not in sys.modules
assert Git.clone.__code__ == whole[0].Git.clone.__code__ and f"{kept}.backend" in sys.modules
assert Git.clone.__func__ is not whole[0].Git.clone.__func__
"""


def test_every_tag_up_to_the_c_library_is_a_candidate_in_packagings_order(conda_lock: Loaded) -> None:
    cases = [(platform, newest) for platform in MACHINES for newest in (17, 26, 27, 28, 36, 41)]
    done = conda_lock.run(SUPPORTED, json.dumps(cases))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    for platform, newest in cases:
        machine = MACHINES[platform]
        numbers = [
            tag
            for number in range(newest, 4, -1)
            for tag in (f"manylinux_2_{number}", *([f"manylinux{LEGACY[number]}"] if number in LEGACY else []))
        ]
        platforms = [f"{tag}_{machine}" for tag in numbers] + [f"linux_{machine}"]
        expected = [*cpython_tags((3, 11, 7), platforms=platforms), *compatible_tags((3, 11, 7), platforms=platforms)]
        assert answer[f"{platform} {newest}"] == [str(tag) for tag in expected]
        # that of today's nvidia-nccl-cu12, at the border
        assert (f"py3-none-manylinux_2_27_{machine}" in answer[f"{platform} {newest}"]) is (newest >= 27)


def test_a_conda_lock_with_another_list_stops(conda_lock: Loaded) -> None:
    done = conda_lock.run(OTHER_LIST)
    assert done.returncode == 1
    assert "does not know this version of conda-lock" in done.stderr


def test_git_is_imported_when_something_comes_from_one(conda_lock: Loaded) -> None:
    done = conda_lock.run(DEFERRED)
    assert done.returncode == 0, done.stderr


def test_tags_ascend() -> None:
    assert manylinux_tags()[:3] == ["1", "_2_5", "_2_6"]
    assert manylinux_tags().index("2014") == manylinux_tags().index("_2_17") - 1
