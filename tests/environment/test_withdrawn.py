from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from kbuild.bounded import answers
from kbuild.environment.index import withdrawn
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.index.withdrawn import Withdrawn, find_withdrawn
from kbuild.environment.lockfile import LockedPackage
from kbuild.platform import Platform


def package(name: str, **more: Any) -> LockedPackage:
    values: dict[str, Any] = {
        "name": name,
        "version": "1.0",
        "manager": "pip",
        "platform": Platform("linux", "amd64"),
        "url": f"https://index.example/{name}-1.0-py3-none-any.whl",
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
    }
    return LockedPackage(**(values | more))


def find(*packages: LockedPackage, indexes: Indexes, cache: Path, stopped: bool = False) -> Withdrawn:
    stop = threading.Event()
    if stopped:
        stop.set()
    return find_withdrawn(packages, indexes, environ={}, cache=cache, stop=stop)


def link(each: LockedPackage, attributes: str = "") -> bytes:
    return f'<a href="/{each.filename}#sha256={each.sha256}" {attributes}>{each.filename}</a>'.encode()


def test_a_yanked_release_is_named_with_its_reason(site: Any, tmp_path: Path) -> None:
    good, bad, silent = package("good"), package("bad"), package("silent")
    newer = package("newer")
    site.pages["/simple/good/"] = (200, "text/html", link(good))
    site.pages["/simple/bad/"] = (200, "text/html", link(bad, 'data-yanked="deletes\nfiles &amp; more"'))
    files = [{"filename": silent.filename, "hashes": {"sha256": silent.sha256}, "url": "x", "yanked": True}]
    answer = json.dumps({"files": files}).encode()
    site.pages["/simple/silent/"] = (200, "application/vnd.pypi.simple.v1+json", answer)
    # Another file of that name is not the locked one.
    site.pages["/simple/newer/"] = (200, "text/html", link(package("newer", sha256="1" * 64), 'data-yanked="x"'))
    captured = package("captured", url="$KBUILD_CHANNEL/wheels/captured-1.0-py3-none-any.whl")
    conda = package("python", manager="conda")
    indexes = Indexes(urls=(f"{site.url}/simple",))
    found = find(good, bad, silent, newer, captured, conda, indexes=indexes, cache=tmp_path)
    assert found.releases == (
        "bad 1.0 was yanked by its authors: deletes files & more",
        "silent 1.0 was yanked by its authors: they give no reason",
    )
    assert found.unasked is None
    assert len(site.seen) == 4
    # Kept for a day.
    assert find(good, bad, silent, newer, captured, conda, indexes=indexes, cache=tmp_path) == found
    assert len(site.seen) == 4
    (note,) = (tmp_path / "yanked").iterdir()
    os.utime(note, (0, 0))
    assert find(good, bad, silent, newer, captured, conda, indexes=indexes, cache=tmp_path) == found
    assert len(site.seen) == 8
    note.write_text("[]")  # by who wrote the cache, and has it that nothing is yanked
    assert find(good, bad, silent, newer, captured, conda, indexes=indexes, cache=tmp_path) == found


def test_an_index_that_does_not_answer_is_no_error(tmp_path: Path) -> None:
    down = Indexes(urls=("http://127.0.0.1:1/simple",))
    found = find(package("x"), package("y"), indexes=down, cache=tmp_path)
    assert found.releases == () and found.unasked is not None and "does not answer" in found.unasked
    assert not (tmp_path / "yanked").exists()


def test_a_page_without_end_is_cut_off(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LARGEST", 1 << 20)
    site.pages["/simple/x/"] = (200, "text/html", b" " * (2 << 20))
    found = find(package("x"), indexes=Indexes(urls=(f"{site.url}/simple",)), cache=tmp_path)
    assert found.unasked is not None and "more than 1 MiB" in found.unasked


def test_nobody_waits_for_a_slow_index(site: Any, tmp_path: Path) -> None:
    found = find(package("x"), indexes=Indexes(urls=(f"{site.url}/simple",)), cache=tmp_path, stopped=True)
    assert found.unasked is not None and "takes longer" in found.unasked
    assert site.seen == [] and withdrawn._DAY == 86400


def test_without_packages_nobody_is_asked(tmp_path: Path) -> None:
    assert find(indexes=Indexes(urls=("http://127.0.0.1:1/simple",)), cache=tmp_path) == Withdrawn()
