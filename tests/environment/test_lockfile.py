import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kbuild.audit.lockview import view_lock
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import parse_lockfile, read_lockfile
from kbuild.errors import LockfileInvalid
from kbuild.platform import Platform

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "metadata": {
        "content_hash": {"linux-64": "0" * 64},
        "channels": [{"url": "$KBUILD_CHANNEL", "used_env_vars": []}],
        "platforms": ["linux-64", "osx-arm64"],
        "sources": ["environment.yml"],
        "custom_metadata": {"kbuild_input_digest": f"sha256:{'1' * 64}"},
    },
    "package": [
        {
            "name": "python",
            "version": "3.11.7",
            "manager": "conda",
            "platform": "linux-64",
            "dependencies": {"__glibc": ">=2.36"},
            "url": "$KBUILD_CHANNEL/linux-64/python-3.11.7-h0_0_cpython.conda",
            "hash": {"md5": "0" * 32, "sha256": "a" * 64},
            "category": "main",
            "optional": False,
        },
        {
            "name": "six",
            "version": "1.16.0",
            "manager": "pip",
            "platform": "linux-64",
            "dependencies": {},
            "url": "https://files.example/six-1.16.0-py2.py3-none-any.whl?x=1#y",
            "hash": {"sha256": "b" * 64},
            "category": "main",
            "optional": False,
        },
    ],
}


def content(document: Any) -> bytes:
    return str(yaml.safe_dump(document)).encode()


def changed(**path_values: Any) -> bytes:
    document = copy.deepcopy(DOCUMENT)
    for dotted, value in path_values.items():
        *parents, last = dotted.split("__")
        target: Any = document
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    return content(document)


def test_a_lock_as_a_value() -> None:
    data = content(DOCUMENT)
    lock = parse_lockfile(data, source="x")
    assert lock.content == data
    assert lock.digest == digest_bytes(data)
    assert lock.platforms == (Platform("linux", "amd64"),)
    assert lock.channels == ("$KBUILD_CHANNEL",)
    assert str(lock.input_digest) == f"sha256:{'1' * 64}"
    python, six = lock.for_platform(Platform("linux", "amd64"))
    assert python.dependencies == (("__glibc", ">=2.36"),)
    assert six.filename == "six-1.16.0-py2.py3-none-any.whl"


def test_what_images_record_of_a_lock_is_what_its_packages_are() -> None:
    amd64 = Platform("linux", "amd64")
    lock = parse_lockfile(content(DOCUMENT), source="x")
    recorded = lock.packages_digest(amd64)
    moved = parse_lockfile(
        changed(
            package__0__url="https://conda.example/linux-64/python-3.11.7-h0_0_cpython.conda",
            package__1__url="https://mirror.example/six-1.16.0-py2.py3-none-any.whl",
            package__1__name="Six",
            metadata__channels=[{"url": "https://conda.example", "used_env_vars": []}],
        ),
        source="x",
    )
    assert moved.packages_digest(amd64) == recorded
    assert moved.digest != lock.digest
    assert lock.is_named(str(recorded)) and moved.is_named(str(recorded)) and lock.is_named(str(lock.digest))
    assert not lock.is_named(str(moved.digest)) and not lock.is_named(None)
    view = view_lock(lock.content, source="x")
    assert view.is_named(str(recorded)) and view.is_named(str(lock.digest)) and not view.is_named(str(moved.digest))
    for path, value in (("version", "1.16.1"), ("hash", {"sha256": "c" * 64}), ("name", "seven"), ("manager", "conda")):
        other = parse_lockfile(changed(**{f"package__1__{path}": value}), source="x")
        assert other.packages_digest(amd64) != recorded
        assert not other.is_named(str(recorded))


def test_other_platforms_and_categories_are_left_out() -> None:
    document = copy.deepcopy(DOCUMENT)
    for field, value in (("platform", "osx-arm64"), ("category", "dev")):
        document["package"].append(copy.deepcopy(DOCUMENT["package"][1]) | {"name": field, field: value})
    assert {package.name for package in parse_lockfile(content(document), source="x").packages} == {"python", "six"}


def test_every_fault_is_named_by_its_path_at_once() -> None:
    data = changed(
        package__0__hash={"md5": "0"},
        package__1__hash__sha256="B" * 64,
        package__1__url="git+https://example.org/x",
        package__1__manager="npm",
        metadata__custom_metadata__kbuild_input_digest="sha256:1",
    )
    with pytest.raises(LockfileInvalid) as caught:
        parse_lockfile(data, source="conda-lock.yml")
    for path in (
        "package[0].hash.sha256 is missing",
        "package[1].hash.sha256 is not",
        "package[1].url is not",
        "package[1].manager is 'npm'",
        "metadata.custom_metadata.kbuild_input_digest",
    ):
        assert path in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"- a", "not a mapping"),
        (b"version: 2", "version is 2"),
        (b"a: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"version: 1", "metadata is missing; metadata.platforms is missing; package is missing"),
        (changed(package=[DOCUMENT["package"][1]] * 2), "six of pip is there twice"),
        (changed(package__0__version=3.1), "package[0].version is not text: 3.1"),
        (changed(package__0__hash="x"), "package[0].hash is not a mapping"),
    ],
)
def test_what_is_no_lock(data: bytes, said: str) -> None:
    with pytest.raises(LockfileInvalid) as caught:
        parse_lockfile(data, source="x")
    assert said in caught.value.message


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_lock_or_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(LockfileInvalid):
        parse_lockfile(data, source="x")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
PATHS = ["metadata", "package", "package__0", "package__0__hash", "package__0__url", "package__1__dependencies"]


@pytest.mark.slow
@given(path=st.sampled_from([*PATHS, "package__1__platform", "metadata__channels", "metadata__platforms"]), value=JUNK)
def test_any_value_anywhere_parses_or_is_an_error_of_ours(path: str, value: Any) -> None:
    parts = path.split("__")
    document = copy.deepcopy(DOCUMENT)
    target: Any = document
    for part in parts[:-1]:
        target = target[int(part) if part.isdigit() else part]
    target[int(parts[-1]) if parts[-1].isdigit() else parts[-1]] = value
    with contextlib.suppress(LockfileInvalid):
        parse_lockfile(content(document), source="x")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LockfileInvalid, match="cannot read"):
        read_lockfile(tmp_path / "gone.yml")
