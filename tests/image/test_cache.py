from __future__ import annotations

import base64
import errno
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kbuild.cache.damage import damaged
from kbuild.cache.entries import list_cache, other_bytes
from kbuild.cache.folder import begin_again, using_cache
from kbuild.cache.limit import parse_limit, parse_size
from kbuild.cache.locks import in_use
from kbuild.cache.notes import write_whole
from kbuild.cache.prune import prune_cache
from kbuild.cache.room import room_for
from kbuild.cache.sessions import CacheSession, live_sessions
from kbuild.cache.tree import cached_tree
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import CacheInUse, CacheTooSmall, ConfigurationError, OutputError
from kbuild.files import mark_used
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.model.kept import is_damaged_model
from kbuild.platform import Platform


def fill(cache: Path, name: str, *, used: int, data: bytes = b"x" * 8192) -> Path:
    """A file of the cache, and the access time of its entry in seconds."""
    path = cache / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path.parent, (used, 0))
    return path


@pytest.mark.parametrize("name", ["work-1", "tar-1", "run-1", "audit-1", "diff-1"])
def test_what_a_killed_command_leaves_goes_with_the_next_pruning(tmp_path: Path, name: str) -> None:
    kept, gone = fill(tmp_path, "wheels/a/file", used=100), fill(tmp_path, f"{name}/layer.tar", used=100)
    assert prune_cache(tmp_path, limit=10**9) == []
    assert kept.exists() and not gone.parent.exists()


def test_the_least_recently_used_goes_first_and_leftovers_go_anyway(tmp_path: Path) -> None:
    old = fill(tmp_path, "wheels/a/file", used=100)
    new = fill(tmp_path, "interpreters/b/file", used=200)
    (tmp_path / "work-1").mkdir()
    (tmp_path / "wheels/.half-made").mkdir()
    entries = list_cache(tmp_path)
    assert [entry.path.name for entry in entries] == ["a", "b"]
    (tmp_path / "work-1").rmdir()
    limit = entries[1].size + other_bytes(tmp_path)
    (tmp_path / "work-1").mkdir()
    removed = prune_cache(tmp_path, limit=limit)
    assert [entry.path.name for entry in removed] == ["a"]
    assert new.exists() and not old.exists()
    assert not (tmp_path / "work-1").exists() and not list((tmp_path / "wheels").iterdir())
    base = fill(tmp_path, "base-records/model.json", used=0)
    assert prune_cache(tmp_path, limit=0) and not list_cache(tmp_path)
    assert base.exists()  # nothing else tells what base a model without a run was built on


@pytest.mark.parametrize("kind", ["package-lists", "base-facts", "registries", "yanked", "slim", "splits"])
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
    assert [entry.path.name for entry in prune_cache(tmp_path, limit=20_000 + other_bytes(tmp_path))] == ["a"]
    assert not tree.exists()
    assert len(prune_cache(tmp_path, limit=0)) == 2


def test_an_answer_that_is_asked_for_counts_as_used(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.py", "")
    package = LockedPackage(
        name="a", version="1", manager="pip", platform=Platform("linux", "amd64"), url="https://x/a-1-py3-none-any.whl",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
    )  # fmt: skip
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


def test_what_a_running_command_has_used_stays(tmp_path: Path) -> None:
    old, used = fill(tmp_path, "wheels/a/file", used=1), fill(tmp_path, "wheels/b/file", used=2)
    with using_cache(tmp_path), using_cache(tmp_path):
        mark_used(used.parent)
        made = cached_tree(tmp_path / "wheels/c", lambda root: (root / "file").touch())
        assert [entry.path.name for entry in prune_cache(tmp_path, limit=0)] == ["a"]
        with pytest.raises(CacheInUse):
            prune_cache(tmp_path, limit=0, also=[used.parent])
        begin_again(tmp_path)
        assert used.exists()  # two parts of this process work with it
    with using_cache(tmp_path):
        mark_used(used.parent)
        begin_again(tmp_path, made)
        assert [entry.path.name for entry in prune_cache(tmp_path, limit=0)] == ["b"]
    assert not old.exists() and made.exists()
    assert [entry.path.name for entry in prune_cache(tmp_path, limit=0)] == ["c"]
    assert not list((tmp_path / "sessions").iterdir()) and not list_cache(tmp_path)


def test_what_is_held_for_a_container_stays_when_its_command_uses_nothing_else(tmp_path: Path) -> None:
    held = fill(tmp_path, "unpacked/layers-1/a/file", used=1)
    fill(tmp_path, "unpacked/layers-1/b/file", used=2)
    fill(tmp_path, "unpacked/rootfs/whole/file", used=3)  # as kbuild unpacked images before
    with in_use([held.parent]):
        assert {entry.path.name for entry in prune_cache(tmp_path, limit=0)} == {"b", "whole"}
    assert [entry.path.name for entry in prune_cache(tmp_path, limit=0)] == ["a"]


def test_what_a_killed_command_left_is_told_by_nobody_holding_it(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from kbuild.cache.folder import using_cache
from kbuild.cache.tree import cached_tree
from kbuild.cache.scratch import scratch_folder
cache = Path(sys.argv[1])
def make(root):
    (root / "half").write_bytes(b"x")
    (cache / "downloads").mkdir(); (cache / "downloads/.partial").touch()
    print("ready", flush=True)
    sys.stdin.read()
with using_cache(cache, limit=10**9), scratch_folder(cache, "work-"), room_for(cache / "x", 7000):
    cached_tree(cache / "wheels/a", make)
""".replace("import os, sys", "import os, sys\nfrom kbuild.cache.room import room_for")
    argv = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    fill(tmp_path, "wheels/old/file", used=1)
    assert [entry.path.name for entry in prune_cache(tmp_path, limit=0)] == ["old"]
    assert [live.reserved for live in live_sessions(tmp_path)] == [7000]
    assert len([*tmp_path.glob("work-*"), *tmp_path.glob("wheels/.a-*"), *tmp_path.glob("downloads/.p*")]) == 3
    process.kill()
    process.communicate()
    assert prune_cache(tmp_path, limit=10**9) == []
    left = [*tmp_path.glob("work-*"), *tmp_path.glob("wheels/.*"), *tmp_path.glob("downloads/.*")]
    assert not left and not live_sessions(tmp_path)


def test_room_is_made_before_anything_is_written(tmp_path: Path) -> None:
    oldest = fill(tmp_path, "layers/sha256/a", used=0, data=bytes(400_000))
    newer = fill(tmp_path, "layers/sha256/b", used=0, data=bytes(400_000))
    tree = fill(tmp_path, "unpacked/layers-1/c/file", used=9, data=bytes(400_000))
    os.utime(oldest, (1, 1))
    os.utime(newer, (2, 2))
    with using_cache(tmp_path, limit=1_300_000):
        with room_for(tmp_path / "wheels/d", 10_000):
            assert tree.exists()
        with room_for(tmp_path / "wheels/d", 200_000):
            assert not tree.exists() and oldest.exists()
        with room_for(tmp_path / "wheels/d", 200_000), room_for(tmp_path / "wheels/e", 200_000) as room:
            assert oldest.exists()
            room.add(300_000)
            assert not oldest.exists() and newer.exists()
        with (
            pytest.raises(CacheTooSmall, match=r"may hold 0\.00 GB, and what runs now needs 0\.00 GB") as caught,
            room_for(tmp_path / "wheels/d", 1_300_000),
        ):
            pass
        assert newer.exists()  # it would not have helped
    assert "KBUILD_CACHE_LIMIT='0.1 GB'" in (caught.value.hint or "")
    with room_for(tmp_path / "wheels/d", 10**12):  # nobody limits it now
        pass
    with using_cache(tmp_path, limit=1), room_for(tmp_path.parent / "elsewhere", 10**12):
        pass


@pytest.mark.parametrize(
    ("limit", "free"), [(300 * 10**6, 294 * 10**6), (10**9, 984 * 10**6), (8 * 10**9, 7920 * 10**6)]
)
def test_some_of_a_limit_is_left_for_what_is_written_without_asking(tmp_path: Path, limit: int, free: int) -> None:
    """Folders and records of an environment take three megabytes, however small the limit."""
    with using_cache(tmp_path, limit=limit):
        with room_for(tmp_path / "wheels/d", free - 100_000):
            pass
        told = pytest.raises(CacheTooSmall, match=rf"may hold {limit / 1e9:.2f} GB")
        with told, room_for(tmp_path / "wheels/d", free + 1):
            pass


def test_what_others_reserved_is_not_given_twice(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir()
    other = CacheSession(tmp_path)
    other.reserved = 900_000
    other.write()
    with using_cache(tmp_path, limit=1_000_000):
        with pytest.raises(CacheTooSmall), room_for(tmp_path / "wheels/d", 200_000):
            pass
        other.close()
        with room_for(tmp_path / "wheels/d", 200_000):
            pass


def test_what_was_written_without_asking_is_seen_to_at_the_end(tmp_path: Path) -> None:
    with using_cache(tmp_path, limit=1_000_000):
        with room_for(tmp_path / "wheels/d", 100_000):
            pass
        written = fill(tmp_path, "wheels/d/file", used=1, data=bytes(1_100_000))
    assert not written.exists()


def test_trees_are_measured_once_and_links_only_where_they_make_room(tmp_path: Path) -> None:
    tree = fill(tmp_path, "wheels/a/file", used=1)
    (size,) = [entry.size for entry in list_cache(tmp_path)]
    (tree.parent / "more").write_bytes(bytes(50_000))
    assert [entry.size for entry in list_cache(tmp_path)] == [size]
    layer = fill(tmp_path, "layers/sha256/l", used=0, data=bytes(100_000))
    os.utime(layer, (1, 1))
    image = tmp_path / "images/i/blob"
    image.parent.mkdir(parents=True)
    os.link(layer, image)
    os.utime(image.parent, (2, 2))
    # The layer goes first, which makes no room: so the image goes too.
    assert [entry.kind for entry in prune_cache(tmp_path, limit=60_000)] == ["layers", "wheels", "images"]
    assert not list(tmp_path.glob("sizes/wheels/*"))


def test_records_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_whole(tmp_path / "record", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "record").stat().st_mode & 0o777 == mode


def test_damage_is_named(tmp_path: Path) -> None:
    good, bad = digest_bytes(b"good").hex, digest_bytes(b"bad").hex
    fill(tmp_path, f"downloads/{good}/a.whl", used=1, data=b"good")
    fill(tmp_path, f"layers/sha256/{good}", used=1, data=b"good")
    record = tmp_path / "wheels/w/opt/env/lib/site-packages/a-1.dist-info/RECORD"
    value = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).rstrip(b"=").decode()
    fill(tmp_path, "wheels/w/opt/env/lib/site-packages/a.py", used=1, data=b"x")
    record.parent.mkdir()
    record.write_text(f"a.py,sha256={value},1\n../b.py,sha256={value},1\na-1.dist-info/RECORD,,\n")
    assert [path.name for path, _ in damaged(tmp_path, is_damaged_model)] == ["b.py"]
    fill(tmp_path, "wheels/w/opt/env/lib/site-packages/a.py", used=1, data=b"y")
    fill(tmp_path, f"downloads/{bad}/a.whl", used=1, data=b"good")
    fill(tmp_path, f"layers/sha256/{bad}", used=1, data=b"good")
    fill(tmp_path, f"images/{good}/blobs/sha256/{bad}", used=1, data=b"good")
    assert len(list(damaged(tmp_path, is_damaged_model))) == 5


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
    assert list(damaged(tmp_path, is_damaged_model)) == []
    (trees[1] / "__pycache__/a.pyc").write_bytes(b"c0de")
    (trees[2] / "more").write_bytes(b"")
    (trees[3] / "__pycache__/a.pyc").chmod(0o755)
    assert {path for path, _ in damaged(tmp_path, is_damaged_model)} == set(trees[1:])
    prune_cache(tmp_path, limit=10**9)
    assert key.exists() and plan.exists()
    prune_cache(tmp_path, limit=10**9, also=trees[1:])
    assert [tree.exists() for tree in trees] == [True, False, False, False]
    assert not key.exists() and not plan.exists()
    assert list(damaged(tmp_path, is_damaged_model)) == []


def test_a_pulled_base_is_one_entry_and_its_blobs_are_read(tmp_path: Path) -> None:
    good, bad = digest_bytes(b"good").hex, digest_bytes(b"bad").hex
    fill(tmp_path, f"pulled/{good}/blobs/sha256/{good}", used=1, data=b"good")
    wrong = fill(tmp_path, f"pulled/{good}/blobs/sha256/{bad}", used=1, data=b"good")
    assert [entry.path.name for entry in list_cache(tmp_path)] == [good]
    assert [path for path, _ in damaged(tmp_path, is_damaged_model)] == [wrong]


@pytest.mark.parametrize(
    ("text", "size"), [("20 GB", 20 * 10**9), ("1.5g", 1_500_000_000), ("0", 0), ("500M", 5 * 10**8), ("7b", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "20", " 500 "])
def test_a_number_alone_is_not_taken_for_so_many_bytes_of_cache(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_limit(text)
    assert caught.value.hint == f"write it as {text.strip()} GB"


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("7b", 7), ("5G", 5 * 10**9), ("1000000", 10**6)])
def test_zero_units_and_many_bytes_are_limits(text: str, size: int) -> None:
    assert parse_limit(text) == size


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
