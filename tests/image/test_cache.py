from __future__ import annotations

import base64
import errno
import hashlib
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kbuild.cache.folder import damaged, keep_within, list_cache, parse_size, prune_cache, using_cache
from kbuild.cache.tree import cached_tree
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import CacheInUse, ConfigurationError, OutputError
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.platform import Platform


def fill(cache: Path, name: str, *, used: int, data: bytes = b"x" * 8192) -> Path:
    """A file of the cache, and the access time of its entry in seconds."""
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path.parent, (used, 0))
    return path


def test_the_least_recently_used_goes_first_and_leftovers_go_anyway(tmp_path: Path) -> None:
    old = fill(tmp_path, "wheels/a/file", used=100)
    new = fill(tmp_path, "interpreters/b/file", used=200)
    (tmp_path / "work-1").mkdir()
    (tmp_path / "wheels/.half-made").mkdir()
    entries = list_cache(tmp_path)
    assert [entry.path.name for entry in entries] == ["a", "b"]
    removed = prune_cache(tmp_path, limit=entries[1].size)
    assert [entry.path.name for entry in removed] == ["a"]
    assert new.exists() and not old.exists()
    assert not (tmp_path / "work-1").exists() and not list((tmp_path / "wheels").iterdir())
    base = fill(tmp_path, "base-records/model.json", used=0)
    assert prune_cache(tmp_path, limit=0) and not list_cache(tmp_path)
    assert base.exists()  # nothing else tells what base a model without a run was built on


@pytest.mark.parametrize("kind", ["package-lists", "base-facts", "registries", "slim", "splits"])
def test_answers_go_last_or_when_nobody_asked_for_a_year(tmp_path: Path, kind: str) -> None:
    now = time.time()
    names = {"forgotten": now - 366 * 86400, "old": now - 360 * 86400, "new": now}
    for name, used in names.items():
        answer = fill(tmp_path, f"{kind}/{name}.json", used=0)
        os.utime(answer, (used, 0))
    fill(tmp_path, f"{kind}/.new.json-half", used=0)
    tree = fill(tmp_path, "wheels/a/file", used=int(now - 86400))
    assert [(entry.kind, entry.path.stem) for entry in list_cache(tmp_path)] == [
        (kind, "forgotten"), (kind, "old"), ("wheels", "a"), (kind, "new")
    ]  # fmt: skip
    assert [entry.path.stem for entry in prune_cache(tmp_path, limit=10**9)] == ["forgotten"]
    assert sorted(path.name for path in (tmp_path / kind).iterdir()) == ["new.json", "old.json"]
    assert [entry.path.name for entry in prune_cache(tmp_path, limit=20_000)] == ["a"]
    assert not tree.exists()
    with using_cache(tmp_path), pytest.raises(CacheInUse):
        prune_cache(tmp_path, limit=0)
    assert len(list_cache(tmp_path)) == 2
    assert len(prune_cache(tmp_path, limit=0)) == 2


def test_an_answer_that_is_asked_for_counts_as_used(tmp_path: Path) -> None:
    package = LockedPackage(
        name="a", version="1", manager="pip", platform=Platform("linux", "amd64"), url="https://x/a-1-py3-none-any.whl",
        sha256="0" * 64,
    )  # fmt: skip
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.py", "")
    split_wheels((package,), cache=tmp_path, download=lambda: {package: wheel})
    (entry,) = list_cache(tmp_path)
    os.utime(entry.path, (100, 0))
    assert split_wheels((package,), cache=tmp_path, download=lambda: pytest.fail("it is known"))
    (again,) = list_cache(tmp_path)
    assert again.kind == "splits" and again.used > 10**9 * 10**9


def test_linked_files_count_once(tmp_path: Path) -> None:
    blob = fill(tmp_path, "images/one/blob", used=1)
    alone = list_cache(tmp_path)[0].size
    (tmp_path / "layers/sha256").mkdir(parents=True)
    os.link(blob, tmp_path / "layers/sha256/blob")
    assert sum(entry.size for entry in list_cache(tmp_path)) == alone


def test_nothing_is_removed_while_somebody_works(tmp_path: Path) -> None:
    path = fill(tmp_path, "wheels/a/file", used=1)
    with using_cache(tmp_path), using_cache(tmp_path):
        with pytest.raises(CacheInUse):
            prune_cache(tmp_path, limit=0)
        keep_within(tmp_path, limit=0)
    assert path.exists()
    keep_within(tmp_path, limit=0)
    assert not path.exists()


def test_what_was_just_used_stays_and_measuring_waits(tmp_path: Path) -> None:
    path = fill(tmp_path, "images/new/file", used=2**33)
    keep_within(tmp_path, limit=0)
    assert path.exists()
    os.utime(path.parent, (1, 1))
    keep_within(tmp_path, limit=0)
    assert path.exists()
    keep_within(tmp_path, limit=0, every=0)
    assert not path.exists()


def test_damage_is_named(tmp_path: Path) -> None:
    good, bad = digest_bytes(b"good").hex, digest_bytes(b"bad").hex
    fill(tmp_path, f"downloads/{good}/a.whl", used=1, data=b"good")
    fill(tmp_path, f"layers/sha256/{good}", used=1, data=b"good")
    record = tmp_path / "wheels/w/opt/env/lib/site-packages/a-1.dist-info/RECORD"
    value = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).rstrip(b"=").decode()
    fill(tmp_path, "wheels/w/opt/env/lib/site-packages/a.py", used=1, data=b"x")
    record.parent.mkdir()
    record.write_text(f"a.py,sha256={value},1\n../b.py,sha256={value},1\na-1.dist-info/RECORD,,\n")
    assert [path.name for path, _ in damaged(tmp_path)] == ["b.py"]
    fill(tmp_path, "wheels/w/opt/env/lib/site-packages/a.py", used=1, data=b"y")
    fill(tmp_path, f"downloads/{bad}/a.whl", used=1, data=b"good")
    fill(tmp_path, f"layers/sha256/{bad}", used=1, data=b"good")
    fill(tmp_path, f"images/{good}/blobs/sha256/{bad}", used=1, data=b"good")
    assert len(list(damaged(tmp_path))) == 5


@pytest.mark.parametrize("kind", ["wheels", "interpreters", "bases"])
def test_a_tree_that_is_not_what_was_made_is_found_and_what_came_of_it_forgotten(tmp_path: Path, kind: str) -> None:
    def make(root: Path) -> None:
        (root / "__pycache__").mkdir()
        (root / "__pycache__/a.pyc").write_bytes(b"code")
        (root / "link").symlink_to("a")

    trees = [cached_tree(tmp_path / kind / name, make) for name in ("one", "two", "three", "four")]
    key = fill(tmp_path, "layers/keys/key", used=1)
    plan = fill(tmp_path, "images/plans/plan", used=1)
    for path in trees[0].rglob("*.pyc"):
        os.utime(path, (7, 7))  # an engine stamps files that it shares with the cache
    assert list(damaged(tmp_path)) == []
    (trees[1] / "__pycache__/a.pyc").write_bytes(b"c0de")
    (trees[2] / "more").write_bytes(b"")
    (trees[3] / "__pycache__/a.pyc").chmod(0o755)
    assert {path for path, _ in damaged(tmp_path)} == set(trees[1:])
    prune_cache(tmp_path, limit=10**9)
    assert key.exists() and plan.exists()
    prune_cache(tmp_path, limit=10**9, also=trees[1:])
    assert [tree.exists() for tree in trees] == [True, False, False, False]
    assert not key.exists() and not plan.exists()
    assert list(damaged(tmp_path)) == []


def test_a_pulled_base_is_one_entry_and_its_blobs_are_read(tmp_path: Path) -> None:
    good, bad = digest_bytes(b"good").hex, digest_bytes(b"bad").hex
    fill(tmp_path, f"pulled/{good}/blobs/sha256/{good}", used=1, data=b"good")
    wrong = fill(tmp_path, f"pulled/{good}/blobs/sha256/{bad}", used=1, data=b"good")
    assert [entry.path.name for entry in list_cache(tmp_path)] == [good]
    assert [path for path, _ in damaged(tmp_path)] == [wrong]


@pytest.mark.parametrize(
    ("text", "size"), [("20 GB", 20 * 10**9), ("1.5g", 1_500_000_000), ("0", 0), ("500M", 5 * 10**8), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "5 parsecs", "1e99", "nan"])
def test_other_text_is_no_size(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_size(text)


def test_a_cache_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match=r"^the cache .*: File exists$") as caught, using_cache(tmp_path / "cache"):
        pass
    assert "KBUILD_CACHE_DIR" in (caught.value.hint or "")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("lock", [True, False])
def test_a_cache_that_may_only_be_read_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lock: bool
) -> None:
    if lock:
        (tmp_path / ".lock").touch()
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    with using_cache(tmp_path):
        pass
    with pytest.raises(OutputError, match=r"KBUILD_CACHE_DIR|the cache") as caught:
        prune_cache(tmp_path, limit=0)
    assert os.strerror(number) in caught.value.message


def test_a_full_disk_names_the_cache_its_size_and_the_remedy(tmp_path: Path) -> None:
    fill(tmp_path, "wheels/a/file", used=100, data=bytes(20_000_000))
    with (
        pytest.raises(OutputError, match=r"it holds 0\.02 GB\): No space left on device") as caught,
        using_cache(tmp_path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "kbuild cache prune" in (caught.value.hint or "") and str(tmp_path) in caught.value.message


def test_what_is_made_again_soonest_goes_first(tmp_path: Path) -> None:
    names = ["downloads/a", "debs/b", "bases/c", "pulled/d", "images/e", "layers/sha256/f", "unpacked/rootfs/g"]
    for used, name in enumerate(names):
        fill(tmp_path, f"{name}/file", used=100 + used)
    gone = [entry.kind for entry in prune_cache(tmp_path, limit=0)]
    assert gone == ["unpacked", "images", "layers", "downloads", "debs", "bases", "pulled"]
