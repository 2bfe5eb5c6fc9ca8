import pytest

from kbuild.environment.hashes import check_hashes
from kbuild.environment.lockfile import SDIST_MARK, LockedPackage, Lockfile
from kbuild.environment.spec import EnvironmentSpec, ModelEnvironment, make_spec
from kbuild.errors import HashMismatch
from kbuild.platform import Platform

AMD64 = Platform("linux", "amd64")
# six 1.16.0's wheel and source distribution, as the package index and every lock in the wild name them.
WHEEL = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"
SDIST = "1e61c37477a1626458e36f7b1d82aa5c9b094fa4802892072e49de9c60c4c926"


def spec(*lines: str) -> EnvironmentSpec:
    env = {"dependencies": ["python=3.11.7", {"pip": list(lines)}]}
    return make_spec(
        ModelEnvironment(conda_env=env, files={}, python=None),
        platforms=[AMD64],
        indexes=["https://i.example"],
        interpreter="conda",
    )


def lock(sha256: str, mark: str = "") -> Lockfile:
    package = LockedPackage(
        name="six",
        version="1.16.0",
        manager="pip",
        platform=AMD64,
        url=f"https://i.example/six-1.16.0-py2.py3-none-any.whl{mark}",
        sha256=sha256,
    )
    return Lockfile(content=b"", packages=(package,), platforms=(AMD64,), channels=(), input_digest=None)


def test_a_file_that_is_named_may_be_locked() -> None:
    check_hashes(lock(WHEEL), spec(f"six==1.16.0 --hash=sha256:{WHEEL} --hash=sha256:{SDIST}"))
    check_hashes(lock(WHEEL), spec("six==1.16.0"))
    check_hashes(lock("0" * 64, SDIST_MARK + SDIST), spec(f"six==1.16.0 --hash=sha256:{SDIST}"))


def test_another_file_is_refused_with_both_hashes() -> None:
    with pytest.raises(
        HashMismatch, match=rf"six-1\.16\.0-py2\.py3-none-any\.whl is sha256:{WHEEL}.*allows sha256:{SDIST}"
    ):
        check_hashes(lock(WHEEL), spec(f"six==1.16.0 --hash=sha256:{SDIST}"))


def test_a_hash_for_another_python_says_nothing() -> None:
    check_hashes(lock(WHEEL), spec("six", f"six==1.16.0 ; python_version < '3' --hash=sha256:{SDIST}"))


def test_hashes_are_part_of_what_a_lock_is_made_from() -> None:
    assert spec("six==1.16.0").digest != spec(f"six==1.16.0 --hash=sha256:{WHEEL}").digest
