from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import BaseImageError
from kbuild.image.base.choice import Assembling, default_base, parse_base
from kbuild.image.base.debian.suites import find_suite, known_suites

PIN = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        (f"python:3.11-slim@{PIN}", f"docker.io/library/python:3.11-slim@{PIN}"),
        ("docker.io/library/debian:bookworm", "docker.io/library/debian:bookworm"),
        ("debian:bookworm-slim", "docker.io/library/debian:bookworm-slim"),
        (f"debian:bookworm@{PIN}", f"docker.io/library/debian:bookworm@{PIN}"),
        ("debian:12", "docker.io/library/debian:12"),
        ("localhost:5000/base", "localhost:5000/base"),
    ],
)
def test_references(text: str, full: str) -> None:
    choice = parse_base(text)
    assert (choice.kind, str(choice.reference)) == ("registry", full)


@pytest.mark.parametrize(
    ("text", "path"), [("./x", "x"), ("../x", "../x"), ("/x/y", "/x/y"), ("oci:x", "x"), ("oci:./x", "x")]
)
def test_layouts(text: str, path: str) -> None:
    choice = parse_base(text)
    assert (choice.kind, choice.path) == ("layout", Path(path))


def test_a_suite_is_assembled() -> None:
    choice = parse_base("debian:bookworm")
    assert choice.kind == "debs"
    assert choice.suite is not None
    assert "libc6" in choice.suite.packages


@pytest.mark.parametrize("text", ["", "Not A Name", "oci:", "x\ny", "debian:bookworm@sha256:1", "~no-such-user/x"])
def test_the_rest_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(BaseImageError) as caught:
        parse_base(text)
    assert "debian:bookworm" in (caught.value.hint or "")
    assert "\n" not in caught.value.message


@given(st.text(max_size=30))
def test_any_text_is_a_base_or_refused(text: str) -> None:
    try:
        choice = parse_base(text)
    except BaseImageError:
        return
    assert sum(part is not None for part in (choice.reference, choice.path, choice.suite)) == 1


def test_the_default_is_this_machines_suite_or_the_newest_debian() -> None:
    assert default_base({"ID": "debian", "VERSION_CODENAME": "bookworm"}).text == "debian:bookworm"
    assert default_base({"ID": "ubuntu", "VERSION_CODENAME": "noble"}).text == "ubuntu:noble"
    newest = max((s for s in known_suites() if s.distribution == "debian"), key=lambda s: int(s.version))
    assert default_base({"ID": "fedora"}).suite == newest
    assert default_base({}).suite == newest


def test_the_environment_wins_over_the_project() -> None:
    suite = find_suite("ubuntu", "noble")
    assert suite is not None
    project = Assembling(debian_mirror="http://project/debian")
    mine = {"KBUILD_DEBIAN_MIRROR": "http://me/debian"}
    debian = known_suites()[0]
    assert debian.distribution == "debian"
    assert (project.mirror(debian, {}), project.mirror(debian, mine)) == ("http://project/debian", "http://me/debian")
    assert (project.mirror(suite, {}), project.mirror(suite, mine)) == ("", "")
    assert project.mirror(suite, {"KBUILD_UBUNTU_MIRROR": "http://me/ubuntu"}) == "http://me/ubuntu"


def test_every_suite_has_what_an_interpreter_needs() -> None:
    for suite in known_suites():
        assert {"base-files", "ca-certificates", "libc6", "libgcc-s1", "libstdc++6", "tzdata"} <= set(suite.packages)
        assert len(set(suite.packages)) == len(suite.packages)
