import re
from dataclasses import replace

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


def wheel(name: str, version: str) -> LockedPackage:
    return LockedPackage(
        name=name, version=version, manager="pip", platform=AMD64, url="https://f.example/x.whl", sha256="0" * 64
    )


@pytest.mark.parametrize(("glibc", "fits"), [("2.35", False), ("2.36", True), ("2.37", True), ("2.4", False)])
def test_the_c_library_of_the_wheels_is_compared_at_the_border(glibc: str, fits: bool) -> None:
    wheels = {wheel("nccl", "2.27"): (2, 36), wheel("numpy", "2.0"): (2, 17)}
    if fits:
        check_base(base(glibc), wheels, [], AMD64)
        return
    wanted = rf"somebase has glibc {glibc}, but nccl 2\.27 is locked as a wheel for 2\.36"
    with pytest.raises(BaseImageError, match=wanted) as caught:
        check_base(base(glibc), wheels, [], AMD64)
    assert "--base): debian:trixie (glibc 2.41), debian:bookworm (glibc 2.36)" in str(caught.value.hint)


def test_conda_forges_python_runs_on_the_base() -> None:
    check_base(base("2.36"), {}, [python(">=2.17,<3.0.a0")], AMD64)


def test_the_package_what_it_wants_and_what_is_there_are_told() -> None:
    wanted = r"python 3\.12\.7 wants __glibc >=2\.38,<3\.0\.a0, and the image has 2\.36"
    with pytest.raises(BaseImageError, match=wanted) as caught:
        check_base(base("2.36"), {}, [python(">=2.38,<3.0.a0")], AMD64)
    assert caught.value.hint == "choose a newer base with --base"


def test_a_base_of_unknown_c_library_is_not_refused() -> None:
    check_base(base(None), {wheel("x", "1"): (2, 99)}, [python(">=2.99")], AMD64)


def test_what_no_base_can_have_is_to_be_pinned_otherwise() -> None:
    package = replace(python(">=2.17"), dependencies=(("__glibc", ">=2.99"), ("__cuda", ">=12")))
    with pytest.raises(BaseImageError, match=r"wants __cuda >=12, which the image does not have") as caught:
        check_base(base("2.36"), {}, [package], AMD64)
    told = str(caught.value.hint)
    assert (
        told.startswith("pin builds of python that run on every processor and without a driver") and "--force" in told
    )


def test_of_many_that_the_base_lacks_some_are_named() -> None:
    wheels = {wheel(f"p{number}", "1"): (2, 40 + number) for number in range(9)}
    with pytest.raises(BaseImageError, match=r"p8 1 is locked as a wheel for 2\.48, p7 .* and \d more$") as caught:
        check_base(base("2.36"), wheels, [], AMD64)
    named = re.findall(r"p\d 1 is locked", caught.value.message)
    assert caught.value.message.endswith(f"and {9 - len(named)} more")
