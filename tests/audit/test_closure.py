"""Locks whose edges are silent about what is missing or too much: the wheels themselves tell."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbuild.audit.checks.closure import ClosureCheck
from kbuild.audit.finding import CheckResult
from kbuild.audit.subject import Subject, Trained, read_trained
from kbuild.environment.captured.conda_package import write_package

ASKS = {
    "shop": [
        "numbers >= 1",
        "tables[fast]; python_version >= '3.9'",
        "old; python_version < '3'",
        "win; os_name == 'nt'",
    ],
    "tables": ["numbers", "quick; extra == 'fast'", "slow; extra == 'slow'"],
    "numbers": [],
    "quick": [],
    "more": [],
}
"""What each wheel says, by PEP 508: on Linux with Python 3.11 shop needs numbers, tables and quick."""


class Locks:
    """Locks of these wheels, whose files lie in a cache."""

    def __init__(self, folder: Path, make_lock: Any, make_entry: Any) -> None:
        self.downloads, self._lock, self._entry = folder, make_lock, make_entry
        self.sha256 = {name: self._write(name, asks) for name, asks in ASKS.items()}

    def _write(self, name: str, asks: list[str]) -> str:
        path = self.downloads / "new"
        with zipfile.ZipFile(path, "w") as archive:
            lines = [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                "Version: 1",
                *(f"Requires-Dist: {each}" for each in asks),
            ]
            archive.writestr(f"{name}-1.dist-info/METADATA", "\n".join(lines))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (self.downloads / digest).mkdir()
        path.rename(self.downloads / digest / f"{name}-1-py3-none-any.whl")
        return digest

    def lock(self, *names: str, conda: tuple[dict[str, Any], ...] = ()) -> Any:
        wheels = [self._entry(name, "1", hash={"sha256": self.sha256[name]}) for name in names]
        return self._lock(*wheels, self._entry("python", "3.11.7", "conda"), *conda)


@pytest.fixture
def locks(tmp_path: Path, make_lock: Any, make_entry: Any) -> Locks:
    (tmp_path / "downloads").mkdir()
    return Locks(tmp_path / "downloads", make_lock, make_entry)


def check(locks: Locks, lock: Any, *, downloads: bool = True, **subject: Any) -> CheckResult:
    result = ClosureCheck(downloads=locks.downloads if downloads else None).run(
        Subject(reference="x", kind="lock", lock=lock, **subject)
    )
    assert all(each.evidence and each.remedy for each in result.findings)
    return result


def told(result: CheckResult) -> list[tuple[str, str]]:
    return [(each.id, each.where) for each in result.findings]


def test_what_wheels_ask_for_is_there(locks: Locks) -> None:
    result = check(locks, locks.lock("shop", "numbers", "tables", "quick"))
    assert result.findings == () and result.unchecked == ()


@pytest.mark.parametrize("gone", ["numbers", "tables"])
def test_a_package_that_was_taken_out_with_every_edge_to_it_is_told(locks: Locks, gone: str) -> None:
    rest = [each for each in ("shop", "numbers", "tables", "quick") if each != gone]
    assert told(check(locks, locks.lock(*rest))) == [("lock-gap", f"pip:{gone}")]


def test_one_that_an_extra_brings_is_told(locks: Locks) -> None:
    assert told(check(locks, locks.lock("shop", "numbers", "tables"))) == [("lock-gap", "pip:quick")]
    assert told(check(locks, locks.lock("numbers", "tables"))) == []


def test_an_edge_that_is_there_is_told_elsewhere(locks: Locks, make_entry: Any, make_lock: Any) -> None:
    shop = make_entry("shop", "1", hash={"sha256": locks.sha256["shop"]}, dependencies={"numbers": "", "tables": ""})
    assert (
        told(check(locks, make_lock(shop, make_entry("python", "3.11.7", "conda")))) == [("lock-gap", "pip:quick")][:0]
    )


def test_a_conda_package_counts_as_the_distribution_that_it_brings(locks: Locks, make_entry: Any) -> None:
    numbers = make_entry("numbers", "1", "conda", dependencies={"python": ""})
    assert told(check(locks, locks.lock("shop", "tables", "quick", conda=(numbers,)))) == []


def test_without_the_files_nothing_is_known_unless_training_tells(
    locks: Locks, make_bundle: Callable[..., Any]
) -> None:
    lock = locks.lock("shop", "numbers")
    (unknown,) = check(locks, lock, downloads=False).unchecked
    assert "numbers" in unknown.reason and "kbuild image" in unknown.remedy
    whole = Trained(python="3.11.7", versions={"shop": "1", "numbers": "1"}, direct=frozenset({"shop"}), whole=True)
    assert check(locks, lock, downloads=False, trained=whole).unchecked == ()
    (unknown,) = check(locks, locks.lock("shop"), downloads=False, trained=whole).unchecked
    assert "training had numbers" in unknown.reason
    # What training had for another system is not missed where every file is here, and none asks for it.
    mac = Trained(python="3.11.7", versions={"quick": "1", "appnope": "1"}, direct=frozenset({"quick"}), whole=True)
    assert check(locks, locks.lock("quick"), trained=mac) == CheckResult(check="closure", looked_at=2)


def test_what_nobody_asks_for_is_told(locks: Locks, make_bundle: Callable[..., Any], make_entry: Any) -> None:
    bundle = make_bundle(constraints=None)
    (bundle.root / "conda.yaml").write_text(CONDA)
    from kbuild.model.bundle import read_bundle

    bundle = read_bundle(bundle.root)
    given = {"bundle": bundle, "trained": read_trained(bundle)}
    conda = [make_entry("openssl", "3", "conda"), make_entry("zlib", "1", "conda")]
    conda[0]["dependencies"] = {"zlib": ""}
    lock = locks.lock("shop", "numbers", "tables", "quick", conda=tuple(conda))
    assert told(check(locks, lock, **given)) == []
    curl = make_entry("curl", "8", "conda", dependencies={"zlib": ""})
    lock = locks.lock("shop", "numbers", "tables", "quick", "more", conda=(*conda, curl))
    assert told(check(locks, lock, **given)) == [("lock-extra", "pip:more"), ("lock-extra", "conda:curl")]
    # Of a wheel that training did without drift tells.
    whole = Trained(python="3.11.7", versions={}, direct=frozenset(), whole=True)
    assert told(check(locks, lock, bundle=bundle, trained=whole)) == [("lock-extra", "conda:curl")]
    # Those that ask for each other alone are none of it.
    round_about = [make_entry(one, "8", "conda", dependencies={two: ""}) for one, two in (("a1", "a2"), ("a2", "a1"))]
    lock = locks.lock("shop", "numbers", "tables", "quick", conda=(*conda, *round_about))
    assert told(check(locks, lock, **given)) == [("lock-extra", "conda:a1"), ("lock-extra", "conda:a2")]
    # An edge that the lock alone has makes no wheel a wanted one, whose asker is here.
    evil = make_entry("quick", "1", hash={"sha256": locks.sha256["quick"]}, dependencies={"more": ""})
    others = [
        make_entry(each, "1", hash={"sha256": locks.sha256[each]}) for each in ("shop", "numbers", "tables", "more")
    ]
    lock = locks._lock(evil, *others, make_entry("python", "3.11.7", "conda"), *conda)
    assert told(check(locks, lock, **given)) == [("lock-extra", "pip:more")]


CONDA = """\
channels: [forge]
dependencies: [python=3.11.7, openssl, {pip: [shop==1]}]
"""


def packaged(locks: Locks, make_entry: Any, name: str, needs: list[str], says: list[str] | None = None) -> Any:
    """A conda package in the cache that says that it needs these; the lock says ``says`` of it, or the same."""
    index = {"name": name, "version": "1", "depends": needs, "subdir": "linux-64", "arch": None, "platform": None}
    written = write_package([], index=index, build=lambda _: "0", folder=locks.downloads)
    digest = hashlib.sha256(written.path.read_bytes()).hexdigest()
    (locks.downloads / digest).mkdir()
    written.path.rename(locks.downloads / digest / written.path.name)
    names = [each.split()[0] for each in needs] if says is None else says
    url = f"https://conda.example/forge/linux-64/{written.path.name}"
    return make_entry(name, "1", "conda", url=url, hash={"sha256": digest}, dependencies=dict.fromkeys(names, "*"))


def test_a_wheel_that_a_lock_calls_a_conda_package_is_no_error_here(locks: Locks, make_entry: Any) -> None:
    """The lock's own check tells of it (lock-other-file)."""
    entry = make_entry("shop", "1", hash={"sha256": locks.sha256["shop"]})
    lock = locks.lock("numbers", conda=({**entry, "manager": "conda"},))
    assert told(check(locks, lock)) == []


@pytest.mark.parametrize(
    "openssl, zlib, told_of",
    [
        (None, None, []),
        (["zlib", "evil"], None, ["conda:evil"]),  # an edge that somebody put in, so that it seems to be asked for
        (["zlib"], ["evil"], ["conda:evil"]),
        ([], None, ["conda:zlib"]),  # both the edge and the package are gone
    ],
)
def test_edges_of_conda_packages_are_compared_with_the_files(
    locks: Locks,
    make_bundle: Callable[..., Any],
    make_entry: Any,
    openssl: list[str] | None,
    zlib: list[str] | None,
    told_of: list[str],
) -> None:
    from kbuild.model.bundle import read_bundle

    bundle = make_bundle(constraints=None)
    (bundle.root / "conda.yaml").write_text(CONDA)
    needs = ["zlib >=1,<2", "__glibc >=2.17", "python_abi 3.11.* *_cp311"]
    conda = [
        packaged(locks, make_entry, "openssl", needs, None if openssl is None else [*openssl, "__glibc", "python_abi"]),
        packaged(locks, make_entry, "python_abi", []),
    ]
    if openssl != []:
        conda.append(packaged(locks, make_entry, "zlib", [], zlib))
    if "evil" in (openssl or []) or zlib:
        conda.append(packaged(locks, make_entry, "evil", []))
    lock = locks.lock("shop", "numbers", "tables", "quick", conda=tuple(conda))
    result = check(locks, lock, bundle=read_bundle(bundle.root))
    assert result.findings == () and [each.where for each in result.unchecked] == told_of
    assert all("make the lock again" in each.remedy for each in result.unchecked)
