"""Pages that a process of its own brings: what it tells, what it leaves to conda-lock, and that it ends.

In a process of their own: one that has other threads must not split.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ASK = """
import json, os, sys
from dataclasses import astuple
from pathlib import Path
from kbuild.environment.condalock import ahead

coming = ahead.start(Path())
assert not {"requests", "conda_lock"} & set(sys.modules)  # this process waits for nothing
def page(*key):
    try:
        told = coming.page(*key)
    except ahead.CutOff as error:
        return str(error)
    return told and astuple(told)

told = [page(*key) for key in json.load(sys.stdin)]
coming.stop()
coming.stop()
try:
    os.waitpid(-1, os.WNOHANG)
    left = True
except ChildProcessError:
    left = False
json.dump([told, left], sys.stdout)
"""


def ask(folder: Path, indexes: list[str], packages: dict[str, str | None], keys: list[tuple[str, str]]) -> list[Any]:
    (folder / "places.json").write_text(json.dumps({"indexes": indexes}))
    (folder / "packages.json").write_text(json.dumps(packages))
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(keys),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told, left = json.loads(done.stdout)
    assert not left
    return list(told)


@pytest.mark.slow
def test_pages_are_narrowed_and_failures_left_to_conda_lock(site: Any, tmp_path: Path) -> None:
    one, two = '<a href="x/alpha-1.0.tar.gz">a</a>', '<a href="x/alpha-2.0.tar.gz">b</a>'
    site.pages["/a/alpha/"] = (200, "text/html", f"{one}\n{two}".encode())
    site.pages["/a/open/"] = (200, "text/html", f"{one}\n{two}".encode())
    odd = f"{one}\n{two}<p title='".encode()
    site.pages["/a/odd/"] = (200, "text/html", odd)
    site.pages["/a/broken/"] = (500, "text/html", b"")
    site.pages["/a/closed/"] = (401, "text/html", b"")
    index = f"{site.url}/a"
    packages = {
        "alpha": "1.0.0",
        "open": None,
        "odd": "1.0",
        "broken": "1",
        "closed": "1",
        "absent": "1",
        "wild": "x y",
    }
    site.pages["/a/wild/"] = (200, "text/html", one.encode())
    told = ask(tmp_path, [index, "file:///nowhere"], packages, [(index, name) for name in [*packages, "unasked"]])
    assert told == [
        [f"{index}/alpha/", f"{one}\n ", "1.0.0"],
        [f"{index}/open/", f"{one}\n{two}", None],
        [f"{index}/odd/", odd.decode(), None],
        None,
        None,
        [f"{index}/absent/", None, None],
        None,
        None,
    ]
    assert sorted(path for path, _ in site.seen) == sorted(f"/a/{name}/" for name in packages)


def test_credentials_go_to_their_index(site: Any, tmp_path: Path) -> None:
    site.pages["/b/alpha/"] = (200, "text/html", b"")
    index = f"{site.url.replace('//', '//me:pass@')}/b/"
    assert ask(tmp_path, [index], {"alpha": None}, [(index, "alpha")]) == [[f"{site.url}/b/alpha/", "", None]]
    assert site.seen == [("/b/alpha/", "Basic bWU6cGFzcw==")]


@pytest.mark.slow
@pytest.mark.parametrize("index", ["http://127.0.0.1:1/simple", "https://me:$UNSET_VARIABLE@index.example/simple"])
def test_an_index_that_cannot_be_asked_is_left_to_conda_lock(tmp_path: Path, index: str) -> None:
    assert ask(tmp_path, [index], {"alpha": "1.0", "beta": None}, [(index, "alpha"), (index, "beta")]) == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("others", ["good", "none"])
def test_a_page_without_end_is_told_and_not_asked_for_again(site: Any, tmp_path: Path, others: str) -> None:
    """Of an index of which no page came to its end no more are asked for."""
    names = ["alpha", *(f"more{number}" for number in range(20))]
    endless = b" " * ((32 << 20) + 1)
    for name in names:
        site.pages[f"/a/{name}/"] = (200, "text/html", b"" if others == "good" and name != "alpha" else endless)
    index = f"{site.url}/a"
    alpha, *rest = ask(tmp_path, [index], dict.fromkeys(names, "1.0"), [(index, name) for name in names])
    told = re.compile(rf"the answer has more than 32 MiB \({re.escape(index)}/\w+/\)")
    if others == "good":
        assert alpha == f"the answer has more than 32 MiB ({index}/alpha/)"
        assert rest == [[f"{index}/{name}/", "", "1.0"] for name in names[1:]]
    else:
        assert all(told.fullmatch(each) for each in [alpha, *rest]) and len(site.seen) < len(names)
