"""pip's settings as pip itself has them, and kept for as long as pip would say the same."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.index import pip_settings
from kbuild.environment.index.pip_settings import kept_pip_settings, read_pip_settings
from kbuild.process import Completed, run

OLD = "[global]\nindex-url = https://old.example/simple\n"
NEW = "[global]\nindex-url = https://new.example/simple\n"


class Counting:
    """pip itself, and how often it was started."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, argv: Sequence[str], **given: Any) -> Completed:
        self.times += 1
        return run(argv, **given)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Of a user who has a file of settings; nobody's own settings or state."""
    monkeypatch.setattr(pip_settings, "_JUST_NOW", -3600.0)  # what is written here may be kept at once
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = tmp_path / "config" / "pip"
    config.mkdir(parents=True)
    (config / "pip.conf").write_text(OLD)
    given = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    yield given | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CONFIG_DIRS": "/nowhere"}


def kept_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "state").rglob("*") if path.parent.name == "pip-settings"]


@pytest.mark.slow
def test_pip_is_asked_once_while_nothing_changes(environ: Mapping[str, str], tmp_path: Path) -> None:
    pip = Counting()
    first = kept_pip_settings(pip, environ)
    assert first["index-url"] == "https://old.example/simple" and first == read_pip_settings(run, environ)
    assert kept_pip_settings(pip, environ) == first and pip.times == 1
    assert [path.parent.stat().st_mode & 0o777 for path in kept_files(tmp_path)] == [0o700]


@pytest.mark.slow
def test_each_key_of_the_cache_has_its_own(
    environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shell with a stated key beside one without: neither is told that somebody else wrote it, nor asks anew."""
    pip = Counting()
    for _ in range(2):
        for key in ("", "a stated key of enough letters, of one", "a stated key of enough letters, of another"):
            monkeypatch.setenv("KBUILD_CACHE_KEY", key)
            assert kept_pip_settings(pip, environ)["index-url"] == "https://old.example/simple"
    assert pip.times == 3 and caplog.messages == []


@pytest.mark.slow
@pytest.mark.parametrize("change", ["edited", "removed", "another file", "a variable", "a file of one", "tampered"])
def test_whatever_changes_pip_is_asked_again(change: str, environ: dict[str, str], tmp_path: Path) -> None:
    """What pip says then is the answer."""
    pip, file = Counting(), tmp_path / "config" / "pip" / "pip.conf"
    named = tmp_path / "named.conf"
    if change == "a file of one":
        named.write_text(OLD)
        environ["PIP_CONFIG_FILE"] = str(named)
    kept_pip_settings(pip, environ)
    if change == "edited":
        status = file.stat()
        file.write_text(NEW)  # of the same length
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "removed":
        file.unlink()
    elif change == "another file":
        (tmp_path / ".pip").mkdir()
        (tmp_path / ".pip" / "pip.conf").write_text("[install]\nindex-url = https://new.example/simple\n")
    elif change == "a variable":
        environ["PIP_NO_BINARY"] = "lxml"
    elif change == "a file of one":
        named.write_text(NEW)
    elif change == "tampered":
        for path in kept_files(tmp_path):
            path.write_bytes(path.read_bytes().replace(b"old.example", b"bad.example"))
    said = read_pip_settings(run, environ)
    assert kept_pip_settings(pip, environ).items() >= {name: said[name] for name in {*said} & {"index-url"}}.items()
    assert pip.times == 2 and ("new.example" in str(said) or change in ("removed", "a variable", "tampered"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "variables"),
    [
        ("[global]\nindex-url = https://me:secret@old.example/simple\n", {}),
        (OLD, {"PIP_INDEX_URL": "https://old.example/secret/simple"}),
        (OLD, {"PIP_EXTRA_INDEX_URL": "https://me:secret@old.example/simple"}),
    ],
)
def test_secrets_are_not_kept(config: str, variables: dict[str, str], environ: dict[str, str], tmp_path: Path) -> None:
    pip = Counting()
    (tmp_path / "config" / "pip" / "pip.conf").write_text(config)
    for _ in range(2):
        assert "secret" in str(kept_pip_settings(pip, environ | variables))
    assert pip.times == 2 and kept_files(tmp_path) == []


@pytest.mark.slow
def test_what_changed_just_now_is_not_kept(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second edit within one tick of the clock would look like the first."""
    monkeypatch.setattr(pip_settings, "_JUST_NOW", 3600.0)
    pip = Counting()
    assert kept_pip_settings(pip, environ) == kept_pip_settings(pip, environ)
    assert pip.times == 2 and kept_files(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("file", "variable"), [("quiet = 1", None), ("quiet = 2", None), ("", "1"), ("", "3")])
def test_a_quiet_pip_lists_its_settings_too(
    file: str, variable: str | None, environ: dict[str, str], tmp_path: Path
) -> None:
    """Without them the company's index would be left for the default one, without a word."""
    (tmp_path / "config" / "pip" / "pip.conf").write_text(f"{OLD}{file}\n")
    given = environ if variable is None else environ | {"PIP_QUIET": variable}
    assert read_pip_settings(run, given)["index-url"] == "https://old.example/simple"


def test_an_environment_without_pip_has_its_variables(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(argv: Sequence[str], **_: Any) -> Completed:
        return Completed(tuple(argv), 1, "", f"{sys.executable}: No module named pip")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    given = environ | {"PIP_INDEX_URL": "https://new.example/simple", "PIP_PRE": "1"}
    assert kept_pip_settings(lacks, given) == {"index-url": "https://new.example/simple", "pre": "1"}
