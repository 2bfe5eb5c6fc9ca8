"""The same image, whoever builds it, wherever and however often; and nothing corrupt after a kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from debian import install_tools
from engines import require
from tool import BIN, INSTALLED, SHARED, Tool, Trained, cold

# test_killed.py does it 30 times to a smaller model.
KILLS = int(os.environ.get("KBUILD_KILLS", "3"))
USER = 4711
# Of root's rights this user keeps that of reading alone. Without the bit, access(2), which some libraries ask, denies
# what reading is then given: below a checkout that only root may enter, MLflow missed its own migrations.
READING = "-all,+dac_read_search"
BECOME = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--securebits=+no_setuid_fixup",
    f"--inh-caps={READING}", f"--ambient-caps={READING}", f"--bounding-set={READING}", "--no-new-privs",
)  # fmt: skip
LOCALE = "tr_TR.ISO-8859-9"
SHUFFLED = """
import os, random

_scandir, _listdir, _random = os.scandir, os.listdir, random.Random(7)


class _Entries(list):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __next__(self):
        if not self:
            raise StopIteration
        return self.pop()

    def __iter__(self):
        return self

    def close(self):
        self.clear()


def shuffled(path="."):
    with _scandir(path) as found:
        entries = _Entries(list.__iter__(list(found)))
    _random.shuffle(entries)
    return entries


def _names(path="."):
    names = _listdir(path)
    _random.shuffle(names)
    return names


os.scandir, os.listdir = shuffled, _names
"""


@pytest.fixture(scope="module")
def digest(tool: Tool, trained: Trained) -> str:
    """The digest that every build has to give."""
    return image(tool, trained)


@pytest.fixture
def same(digest: str, record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Compares what a build gave with the digest that it has to give, and has it shown when all tests are done."""

    def check(found: str, how: str) -> None:
        record_property(how, found)
        assert found == digest

    return check


def image(tool: Tool, trained: Trained, *options: str, **environment: str) -> str:
    """The digest of one build."""
    return str(tool("image", trained.run_id, *options, "--json", cwd=trained.folder, **environment).json["digest"])


@pytest.fixture
def fresh(tool: Tool, tmp_path: Path) -> Iterator[Tool]:
    """A cache with installed packages but without a single packed layer or image."""
    yield cold(tool, tmp_path / "cache", keep=(*SHARED, *INSTALLED))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_reproducible_from_nothing_under_another_umask_zone_and_seed(
    tool: Tool, trained: Trained, digest: str, same: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Every wheel is installed and compiled again, in another folder; the verdict is a report."""
    report = tmp_path / "report.json"
    old = os.umask(0o077)
    try:
        tool(
            "verify", "--rebuild", "--reuse-downloads", "--report", report, f"model@{digest}",
            cwd=trained.folder, TZ="Pacific/Kiritimati", LC_ALL="C", PYTHONHASHSEED="4711",
        )  # fmt: skip
    finally:
        os.umask(old)
    found = json.loads(report.read_text())
    assert found["same"] is True
    same(found["rebuilt"], "from nothing in another folder; umask 077, Kiritimati, hash seed 4711")


def test_reproducible_with_touched_files_and_from_packed_layers(
    trained: Trained, same: Callable[[str, str], None], fresh: Tool
) -> None:
    touched = [*(fresh.cache / "downloads").rglob("*.whl"), *trained.model.rglob("*"), *trained.folder.rglob("*.py")]
    assert len(touched) > 50
    for path in touched:
        os.utime(path, (1, 1))
    same(image(fresh, trained, "--no-cache", PYTHONHASHSEED="1"), "touched files, hash seed 1, nothing packed yet")
    same(image(fresh, trained), "touched files, nothing to do")
    (warm,) = list((fresh.cache / "images/plans").iterdir())
    warm.unlink()
    shutil.rmtree(fresh.cache / "wheels")
    same(image(fresh, trained), "from packed layers")
    assert not (fresh.cache / "wheels").exists()


def test_reproducible_though_the_cache_was_written_to(tool: Tool, trained: Trained, digest: str, fresh: Tool) -> None:
    """A planted leak: a file of a cached package that names the builder, and another mode."""
    (leak,) = (fresh.cache / "wheels").glob("*/opt/env/lib/python3*/site-packages/cloudpickle/__init__.py")
    text = leak.read_bytes()
    leak.unlink()
    leak.write_bytes(text + b"# built in /home/me\n")
    leak.chmod(0o755)
    assert fresh("cache", "verify", code=49).out.count("cloudpickle/__init__.py") == 1
    shutil.rmtree(fresh.cache / "layers", ignore_errors=True)  # so that what was written there would be packed
    done = fresh("image", trained.run_id, "--no-cache", "--json", cwd=trained.folder)
    assert done.json["digest"] == digest and "is not what was made, and is made again" in done.err
    assert leak.read_bytes() == text
    # Bytecode is in no RECORD, but was sealed with the rest of what was installed.
    pyc = next((fresh.cache / "interpreters").glob("[!.]*/**/__pycache__/os.cpython-*.pyc"))
    data = pyc.read_bytes()
    pyc.unlink()
    pyc.write_bytes(data[:-1] + b"!")
    (found,) = fresh("cache", "verify", "--json", code=49).json["damaged"]
    assert str(pyc).startswith(found["path"])
    fresh("cache", "verify", "--remove")
    assert image(fresh, trained) == digest


def test_reproducible_after_being_killed_at_any_moment(
    trained: Trained, digest: str, same: Callable[[str, str], None], fresh: Tool
) -> None:
    """KBUILD_KILLS says how often. Installed packages of the smaller wheels are made again each time."""
    moments = random.Random(4)  # noqa: S311 - a seed, so that a failure can be had again
    begin = time.monotonic()
    assert image(fresh, trained) == digest
    whole = time.monotonic() - begin
    for number in range(KILLS):
        for name in ("layers", "images", "splits"):
            shutil.rmtree(fresh.cache / name, ignore_errors=True)
        # What a killed build left is not touched: a compiler that it had started may still write there.
        trees = sorted(path for path in (fresh.cache / "wheels").iterdir() if not path.name.startswith("."))
        for path in trees[number::10]:
            shutil.rmtree(path)
        process = subprocess.Popen(
            [str(BIN / "kbuild"), "image", trained.run_id],
            cwd=trained.folder, env=fresh.environ(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(whole * moments.uniform(0.2, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if number % 5 == 4:
            assert image(fresh, trained) == digest
    same(image(fresh, trained), f"killed {KILLS} times before")
    assert fresh("cache", "verify", "--json").json == {"damaged": []}
    fresh("cache", "prune")
    assert not list(fresh.cache.glob("work-*"))


def test_reproducible_by_two_builds_at_once(trained: Trained, same: Callable[[str, str], None], fresh: Tool) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda seed: image(fresh, trained, "--no-cache", PYTHONHASHSEED=seed), "12"))
    same(found[0], "two at once, hash seed 1")
    same(found[1], "two at once, hash seed 2")


def test_reproducible_on_another_day_in_any_listing_order(
    trained: Trained, same: Callable[[str, str], None], fresh: Tool, tmp_path: Path
) -> None:
    """Directories list their files as the file system likes: here in another order at each look.

    And a locale whose texts are not UTF-8, and whose I is not that of English.
    """
    install_tools("libfaketime", "locales")
    subprocess.run(["localedef", "-i", "tr_TR", "-f", "ISO-8859-9", tmp_path / LOCALE], check=True)
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    (tmp_path / "sitecustomize.py").write_text(SHUFFLED)
    odd = {
        "LD_PRELOAD": str(library), "FAKETIME": "+400d", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(tmp_path), "TZ": "America/St_Johns",
        "LC_ALL": LOCALE, "LOCPATH": str(tmp_path),
    }  # fmt: skip
    look = "import locale, os, time; print(os.scandir.__name__, locale.getencoding(), time.time())"
    name, encoding, now = fresh.run([BIN / "python", "-c", look], **odd).out.split()
    assert (name, encoding) == ("shuffled", "ISO-8859-9") and float(now) > time.time() + 300 * 86400
    for path in sorted((fresh.cache / "wheels").iterdir())[::12]:
        shutil.rmtree(path)
    same(image(fresh, trained, "--no-cache", **odd), f"400 days later, files listed in any order, St John's, {LOCALE}")


def test_reproducible_by_another_user(
    trained: Trained, same: Callable[[str, str], None], fresh: Tool, tmp_path: Path
) -> None:
    """Not root, another umask and home. Of root's rights it has that of reading alone, for the test's folders."""
    require(os.geteuid() == 0 and shutil.which("setpriv"), "becoming another user takes root")
    for path in sorted((fresh.cache / "wheels").iterdir())[::12]:
        shutil.rmtree(path)
    home = tmp_path / "home"
    home.mkdir()
    for folder in (home, *(path for path in [fresh.cache, *fresh.cache.rglob("*")] if path.is_dir())):
        os.chown(folder, USER, USER, follow_symlinks=False)
    asked: list[str | Path] = [
        *BECOME,
        BIN / "python",
        "-c",
        "import os; print(os.getuid(), os.access('/etc', os.W_OK))",
    ]
    assert fresh.run(asked).out.split() == [str(USER), "False"]
    old = os.umask(0o027)
    try:
        words: list[str | Path] = [*BECOME, BIN / "kbuild", "image", trained.run_id, "--no-cache", "--json"]
        done = fresh.run(words, cwd=trained.folder, HOME=str(home), USER="somebody")
    finally:
        os.umask(old)
    assert done.code == 0, done.err[-3000:]
    same(done.json["digest"], "by another user, umask 027")
