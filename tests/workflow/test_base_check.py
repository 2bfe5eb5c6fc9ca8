import pytest

from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BaseImageError
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.workflow.base_check import check_base

AMD64 = Platform("linux", "amd64")


def base(glibc: str | None) -> ResolvedBase:
    return ResolvedBase(kind="registry", name="somebase", digest=digest_bytes(b""), reference="somebase", glibc=glibc)


def python(depends: str) -> LockedPackage:
    return LockedPackage(
        name="python",
        version="3.12.7",
        manager="conda",
        platform=AMD64,
        url="https://channel.example/python.conda",
        sha256="0" * 64,
        dependencies=(("__glibc", depends),),
    )


@pytest.mark.parametrize(("glibc", "fits"), [("2.35", False), ("2.36", True), ("2.37", True), ("2.4", False)])
def test_the_c_library_of_the_wheels_is_compared_at_the_border(glibc: str, fits: bool) -> None:
    if fits:
        check_base(base(glibc), (2, 36), [], AMD64)
        return
    with pytest.raises(BaseImageError, match=rf"somebase has glibc {glibc}, but a wheel of the lock needs 2\.36"):
        check_base(base(glibc), (2, 36), [], AMD64)


def test_conda_forges_python_runs_on_the_base() -> None:
    check_base(base("2.36"), None, [python(">=2.17,<3.0.a0")], AMD64)


def test_the_package_what_it_wants_and_what_is_there_are_told() -> None:
    wanted = r"python 3\.12\.7 wants __glibc >=2\.38,<3\.0\.a0, and the image has 2\.36"
    with pytest.raises(BaseImageError, match=wanted) as caught:
        check_base(base("2.36"), None, [python(">=2.38,<3.0.a0")], AMD64)
    assert caught.value.hint == "choose a newer base with --base"


def test_a_base_of_unknown_c_library_is_not_refused() -> None:
    check_base(base(None), (2, 99), [python(">=2.99")], AMD64)
