"""Where jobs install kbuild from, for each form of PyPA's "Recording the Direct URL Origin"."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import kbuild
from kbuild._version import __version__
from kbuild.init.installed import find_install_source, read_direct_url
from kbuild.process import Completed, run

COMMIT = "7921be1537eac1e97bc40179a57f0349c2aee67d"
GIT = {"vcs": "git", "requested_revision": "main", "commit_id": COMMIT}


def none(*_: Any, **__: Any) -> Completed:
    raise AssertionError("nothing is started for it")


@pytest.mark.parametrize(
    ("direct_url", "requirement"),
    [
        (None, f"kbuild[build]=={__version__}"),
        (
            {"url": "https://git.example/team/kbuild.git", "vcs_info": GIT},
            f"kbuild[build] @ git+https://git.example/team/kbuild.git@{COMMIT}",
        ),
        (
            {"url": "https://me:secret@git.example/mono.git", "vcs_info": GIT, "subdirectory": "tools/kbuild"},
            f"kbuild[build] @ git+https://git.example/mono.git@{COMMIT}#subdirectory=tools/kbuild",
        ),
        (
            {"url": "ssh://git@git.example/kbuild.git", "vcs_info": GIT},
            f"kbuild[build] @ git+ssh://git@git.example/kbuild.git@{COMMIT}",
        ),
        (
            {"url": "https://gitlab-ci-token:secret@git.example/kbuild.git", "vcs_info": GIT},
            f"kbuild[build] @ git+https://git.example/kbuild.git@{COMMIT}",
        ),
        (
            {"url": "https://files.example/kbuild-1-py3-none-any.whl", "archive_info": {"hashes": {"sha256": "ab"}}},
            "kbuild[build] @ https://files.example/kbuild-1-py3-none-any.whl#sha256=ab",
        ),
        (
            {"url": "https://files.example/kbuild-1.tar.gz", "archive_info": {"hash": "sha256=cd"}},
            "kbuild[build] @ https://files.example/kbuild-1.tar.gz#sha256=cd",
        ),
        ({"url": "https://files.example/kbuild.zip"}, "kbuild[build] @ https://files.example/kbuild.zip"),
    ],
)
def test_what_other_machines_reach_is_pinned(tmp_path: Path, direct_url: Any, requirement: str) -> None:
    found = find_install_source(tmp_path, run=none, direct_url=direct_url)
    assert (found.requirement, found.local) == (requirement, None)
    assert Requirement(requirement).extras == {"build"}


@pytest.mark.parametrize("info", [{"dir_info": {"editable": True}}, {"dir_info": {}}, {"archive_info": {}}])
def test_a_path_of_this_machine_is_said_with_what_to_write(tmp_path: Path, info: dict[str, Any]) -> None:
    place = tmp_path / "of mine" / "kbuild"
    place.mkdir(parents=True)
    found = find_install_source(tmp_path / "project", run=run, direct_url={"url": place.as_uri(), **info})
    assert found.local == place
    assert Requirement(found.requirement).url == place.as_uri()
    assert found.instead == "kbuild[build] @ git+https://HOST/REPOSITORY@COMMIT"


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://me:secret@git.example/kbuild.git", "git+https://git.example/kbuild.git"),
        ("git@git.example:team/kbuild.git", "git+ssh://git@git.example/team/kbuild.git"),
        ("/srv/kbuild.git", None),
    ],
)
def test_a_checkout_tells_its_repository_and_commit(tmp_path: Path, origin: str, url: str | None) -> None:
    place = tmp_path / "kbuild"
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (
        ["init", "-q", str(place)],
        ["-C", str(place), "remote", "add", "origin", origin],
        ["-C", str(place), *author, "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "-C", str(place), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = head.stdout.strip()
    found = find_install_source(tmp_path / "project", run=run, direct_url={"url": place.as_uri(), "dir_info": {}})
    assert Requirement(found.instead).url == (f"{url}@{commit}" if url else "git+https://HOST/REPOSITORY@COMMIT")


def test_a_path_inside_the_project_travels_with_it(tmp_path: Path) -> None:
    url = (tmp_path / "vendor" / "kbuild").as_uri()
    found = find_install_source(tmp_path, run=none, direct_url={"url": url, "dir_info": {"editable": True}})
    assert (found.requirement, found.local) == ("./vendor/kbuild[build]", None)


def test_what_is_not_installed_is_where_its_sources_are() -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    found = read_direct_url(absent)
    assert found is not None and found["url"] == Path(kbuild.__file__).parents[1].as_uri()
