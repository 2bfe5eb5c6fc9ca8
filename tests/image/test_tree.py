from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from kbuild.cache import notes, tree
from kbuild.cache.folder import own_folder, using_cache
from kbuild.cache.linking import check_roots, link_roots, link_tree
from kbuild.cache.notes import read_vouched, reading_all, write_vouched
from kbuild.cache.tree import cached_tree, make_directory, normalise_tree, tree_digest, writing
from kbuild.cli.options import cache_folder
from kbuild.errors import CacheDamaged, ConfigurationError, LockfileInvalid, OutputError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    normalise_tree(root)
    return root


def test_normalised_trees_forget_umask_and_day(tmp_path: Path) -> None:
    digests = []
    for mask, name in ((0o022, "a"), (0o077, "somewhere/else")):
        old = os.umask(mask)
        try:
            root = tmp_path / name
            root.mkdir(parents=True)
            (root / "bin").mkdir()
            (root / "bin/run").write_text("#!/bin/sh")
            (root / "bin/run").chmod(0o700)
            (root / "tmp").mkdir()
            (root / "text").write_text("x")
            (root / "link").symlink_to("text")
        finally:
            os.umask(old)
        normalise_tree(root, sticky=frozenset({"tmp"}))
        digests.append(tree_digest(root))
    assert digests[0] == digests[1]
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("bin", "bin/run", "text", "tmp")}
    assert modes == {"bin": 0o755, "bin/run": 0o755, "text": 0o644, "tmp": 0o1777}
    assert (root / "link").lstat().st_mtime == 0


def test_the_digest_sees_names_contents_modes_and_links(tmp_path: Path) -> None:
    root = write(tmp_path / "t", {"a": "1", "d/b": "2"})
    seen = {tree_digest(root)}
    (root / "a").write_text("2")
    os.utime(root / "a", (0, 0))
    seen.add(tree_digest(root))
    (root / "a").chmod(0o755)
    seen.add(tree_digest(root))
    (root / "a").rename(root / "c")
    os.utime(root, (0, 0))
    seen.add(tree_digest(root))
    (root / "d/l").symlink_to("b")
    os.utime(root / "d", (0, 0))
    seen.add(tree_digest(root))
    assert len(seen) == 5


def test_a_pipe_is_no_part_of_a_package(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OutputError, match="neither a file"):
        normalise_tree(tmp_path)


def test_links_share_the_cached_file(tmp_path: Path) -> None:
    source = write(tmp_path / "s", {"lib/a.py": "1"})
    link_tree(source, tmp_path / "t", {}, "a 1")
    assert (tmp_path / "t/lib/a.py").stat().st_ino == (source / "lib/a.py").stat().st_ino


def test_equal_files_of_two_packages_are_welcome_and_bytecode_follows_the_first(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"ns/__init__.py": "", "ns/__pycache__/__init__.pyc": "first", "ns/a.py": "a"})
    two = write(tmp_path / "2", {"ns/__init__.py": "", "ns/__pycache__/__init__.pyc": "other", "ns/b.py": "b"})
    owners: dict[str, str] = {}
    link_tree(one, tmp_path / "t", owners, "one 1")
    link_tree(two, tmp_path / "t", owners, "two 2")
    assert (tmp_path / "t/ns/__pycache__/__init__.pyc").read_text() == "first"
    assert owners["ns/b.py"] == "two 2"


@pytest.mark.parametrize(
    ("one", "two"), [({"x/y": "1"}, {"x/y": "2"}), ({"x": "1"}, {"x/y": "1"}), ({"x/y": "1"}, {"x": "1"})]
)
def test_different_files_of_two_packages_are_an_error(tmp_path: Path, one: dict[str, str], two: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    link_tree(write(tmp_path / "1", one), tmp_path / "t", owners, "one 1")
    with pytest.raises(LockfileInvalid, match="two 2 both bring /x"):
        link_tree(write(tmp_path / "2", two), tmp_path / "t", owners, "two 2")
    with pytest.raises(LockfileInvalid, match="one 1 and two 2 both bring /x"):
        check_roots({"one 1": tmp_path / "1", "two 2": tmp_path / "2"})


def test_trees_that_fit_together_are_one_when_they_are_linked(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"ns/__init__.py": "", "ns/__pycache__/__init__.pyc": "first", "ns/a.py": "a"})
    two = write(tmp_path / "2", {"ns/__init__.py": "", "ns/__pycache__/__init__.pyc": "other", "b/b.py": "b"})
    for each in (one, two):
        normalise_tree(each)
    check_roots({"one 1": one, "two 2": two})
    link_roots((one, two), tmp_path / "t")
    whole = write(
        tmp_path / "w",
        {"ns/__init__.py": "", "ns/__pycache__/__init__.pyc": "first", "ns/a.py": "a", "b/b.py": "b"},
    )
    normalise_tree(whole)
    assert tree_digest(tmp_path / "t") == tree_digest(whole)


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    source = write(tmp_path / "s", {"a": "1"})
    (source / "l").symlink_to("a")
    normalise_tree(source)
    monkeypatch.setattr(os, "link", refuse)
    link_tree(source, tmp_path / "t", {}, "a 1")
    os.utime(tmp_path / "t", (0, 0))
    assert tree_digest(tmp_path / "t") == tree_digest(source)


def test_a_cached_tree_is_made_once_and_never_seen_half_made(tmp_path: Path) -> None:
    calls = []

    def make(root: Path) -> None:
        calls.append(root)
        assert not (tmp_path / "c/x").exists()
        (root / "f").write_text("1")

    def fail(root: Path) -> None:
        (root / "f").write_text("1")
        raise OSError(28, "No space left on device", str(root / "f"))

    with pytest.raises(OutputError, match="cannot write it: No space left"), writing("it"):
        cached_tree(tmp_path / "c/x", fail)
    assert list((tmp_path / "c").iterdir()) == []
    assert cached_tree(tmp_path / "c/x", make) == cached_tree(tmp_path / "c/x", make)
    assert len(calls) == 1


def test_whoever_finishes_second_takes_the_first_ones_tree(tmp_path: Path) -> None:
    def make(root: Path) -> None:
        (root / "f").write_text("second")
        make_directory(tmp_path / "x")
        (tmp_path / "x/f").write_text("first")

    assert (cached_tree(tmp_path / "x", make) / "f").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def _make_one(root: Path) -> None:
    (root / "a").write_text("a")


def _grown(root: Path) -> None:
    (root / "one/a.py").write_text("x = 1; import os\n")


def _dated_back(root: Path) -> None:
    path = root / "one/a.py"
    before = path.stat()
    path.write_text("x = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(root: Path) -> None:
    (root / "new").write_text("x = 2\n")
    os.utime(root / "new", (0, 0))
    (root / "new").replace(root / "one/a.py")


def _bytecode(root: Path) -> None:
    (root / "one/__pycache__/a.cpython-311.pyc").write_bytes(b"OTHER")
    os.utime(root / "one/__pycache__/a.cpython-311.pyc", (0, 0))


def _added(root: Path) -> None:
    (root / "sitecustomize.py").touch()
    os.utime(root / "sitecustomize.py", (0, 0))


def _elsewhere(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/passwd")


CHANGES = [
    _grown,
    _dated_back,
    _replaced,
    _bytecode,
    _added,
    _elsewhere,
    lambda root: (root / "one/a.py").unlink(),
    lambda root: (root / "one/a.py").chmod(0o4755),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_somebody_changed_is_not_taken_but_made_again(
    tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(root: Path) -> None:
        made.append(root)
        (root / "one/__pycache__").mkdir(parents=True)
        (root / "one/a.py").write_text("x = 1\n")
        (root / "one/__pycache__/a.cpython-311.pyc").write_bytes(b"CODED")
        (root / "link").symlink_to("one/a.py")
        normalise_tree(root)

    path = tmp_path / "wheels/key"
    for _ in range(3):
        assert cached_tree(path, make) == path
        link_tree(path, tmp_path / f"staged-{len(list(tmp_path.iterdir()))}", {}, "one")  # which changes no content
    assert len(made) == 1 and caplog.messages == []
    change(path)
    assert cached_tree(path, make) == path and len(made) == 2
    assert tree.is_damaged(path) is False and len(caplog.messages) == 1 and "wheels/key" in caplog.text
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    change(path)
    monkeypatch.setattr(tree.shutil, "rmtree", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(CacheDamaged, match=r"wheels/key.*Permission denied") as caught:
        cached_tree(path, make)
    assert "cache verify --remove" in str(caught.value.hint)


def test_a_tree_is_read_again_only_where_somebody_may_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digest = tree.tree_digest
    monkeypatch.setattr(tree, "tree_digest", lambda root, **more: read.append(root) or digest(root, **more))
    path = tmp_path / "wheels/key"
    for _ in range(3):
        cached_tree(path, _make_one)
    assert len(read) == 1
    with reading_all():
        cached_tree(path, Mock(side_effect=AssertionError))
    assert len(read) == 2
    read.pop()
    # As a cache that a job restores: other inodes, other times of change.
    shutil.copytree(tmp_path / "wheels", tmp_path / "other/wheels", symlinks=True)
    shutil.copytree(tmp_path / "seals", tmp_path / "other/seals")
    for _ in range(2):
        cached_tree(tmp_path / "other/wheels/key", Mock(side_effect=AssertionError))
    assert len(read) == 2


def test_a_tree_of_which_nobody_wrote_down_what_it_was_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "wheels/key"
    path.mkdir(parents=True)
    (path / "evil").touch()
    cached_tree(path, _make_one)
    assert [each.name for each in path.iterdir()] == ["a"]


def test_a_cache_that_everybody_may_write_to_is_refused_and_a_new_one_is_ones_own(tmp_path: Path) -> None:
    with using_cache(tmp_path / "new"):
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "new").chmod(0o777)
    with pytest.raises(OutputError, match="everybody"), using_cache(tmp_path / "new"):
        pass


def test_a_home_that_no_shell_filled_in_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a variable of a CI job or of a .env file holds it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KBUILD_CACHE_DIR", "~/.cache/kbuild")
    assert cache_folder() == tmp_path / ".cache/kbuild"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_in_a_cache_that_everybody_may_write_to_each_user_has_a_folder(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Kubernetes' emptyDir, Docker's volumes and GitLab's docker executor mount them."""
    cache, own = tmp_path / "mount", tmp_path / "mount" / f"uid-{os.geteuid()}"
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(cache))
    assert cache_folder() == cache  # it is not there yet
    cache.mkdir()
    cache.chmod(mode)
    assert cache_folder() == own and stat.S_IMODE(own.stat().st_mode) == 0o700
    with using_cache(own):
        (own / "wheels/key").mkdir(parents=True)
    own.chmod(0o777)
    assert cache_folder() == own and stat.S_IMODE(own.stat().st_mode) == 0o700
    assert capsys.readouterr().err.count("others may write") == 1
    monkeypatch.setattr("kbuild.cache.folder.os.geteuid", lambda: 4321)
    (cache / "uid-4321").mkdir()
    with pytest.raises(OutputError, match="uid-4321 is not a folder of this user's"):
        cache_folder()
    (cache / "uid-4321").rmdir()
    (cache / "uid-4321").symlink_to(own)
    with pytest.raises(OutputError, match="uid-4321 is not a folder of this user's"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to others")
def test_a_cache_of_a_group_or_of_another_user_gets_a_folder_of_ones_own(tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    cache.mkdir(mode=0o700)
    own = cache / "uid-0"
    for owner, group, mode, expected in (
        (0, 4321, 0o770, own),  # a group of nobody's name, as Kubernetes' fsGroup
        (0, 0, 0o770, cache),  # the user's own group
        (0, 4321, 0o750, cache),  # who may only read
        (4321, 4321, 0o700, own),
    ):
        os.chown(cache, owner, group)
        cache.chmod(mode)
        assert own_folder(cache)[0] == expected, (owner, group, oct(mode))
    os.chown(cache, 0, 4321)
    cache.chmod(0o770)
    with pytest.raises(OutputError, match="the group 4321 may write to the cache"), using_cache(cache):
        pass


def test_the_key_of_the_cache_is_its_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_vouched(tmp_path / "a/b", b"x\ny")
    key = tmp_path / "state/kbuild/cache-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert read_vouched(tmp_path / "a/b") == b"x\ny" and key.read_bytes() not in (tmp_path / "a/b").read_bytes()
    # Neither under another name, nor changed, nor by another key.
    (tmp_path / "a/c").write_bytes((tmp_path / "a/b").read_bytes())
    for path, content in (("a/c", None), ("a/b", b"z\ny" + (tmp_path / "a/b").read_bytes()[3:]), ("a/b", b"")):
        if content is not None:
            (tmp_path / path).write_bytes(content)
        with pytest.raises(FileNotFoundError):
            read_vouched(tmp_path / path)
    key.chmod(0o644)
    notes._own_key.cache_clear()
    write_vouched(tmp_path / "a/b", b"x")
    notes._own_key.cache_clear()
    with pytest.raises(FileNotFoundError):
        read_vouched(tmp_path / "a/b")
    assert any("KBUILD_CACHE_KEY" in message and "0600" in message for message in caplog.messages)
    monkeypatch.setenv("KBUILD_CACHE_KEY", "a text of sixteen")
    write_vouched(tmp_path / "a/b", b"x")
    notes._own_key.cache_clear()
    assert read_vouched(tmp_path / "a/b") == b"x"


@pytest.mark.parametrize("key", ["1", "fifteen letters"])
def test_a_key_of_the_cache_that_can_be_guessed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("KBUILD_CACHE_KEY", key)
    with pytest.raises(ConfigurationError, match=f"KBUILD_CACHE_KEY has {len(key)} characters"):
        write_vouched(tmp_path / "a/b", b"x")


def test_the_threads_of_a_process_have_one_key_where_none_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("KBUILD_CACHE_KEY", raising=False)
    draw, together = notes.secrets.token_bytes, threading.Barrier(2)

    def slowly(length: int) -> bytes:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.1)
        return draw(length)

    monkeypatch.setattr(notes.secrets, "token_bytes", slowly)
    notes._own_key.cache_clear()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: write_vouched(tmp_path / f"a/{name}", b"x"), "bc"))
    assert [read_vouched(tmp_path / f"a/{name}") for name in "bc"] == [b"x", b"x"]
    notes._own_key.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to others")
def test_a_tree_of_another_owner_in_ones_own_folder_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    own, _ = own_folder(tmp_path)
    (own / "wheels/key").mkdir(parents=True)
    os.chown(own / "wheels/key", 4321, -1)
    for _ in range(2):
        with pytest.raises(OutputError, match="wheels/key is not a folder of this user's"):
            own_folder(tmp_path)
