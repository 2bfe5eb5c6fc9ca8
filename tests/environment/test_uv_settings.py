"""What uv would ask is as its docs have it: "Configuration files", "Package indexes", "Environment variables"."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbuild.environment.uv_settings import other_indexes

PYPI = "https://index.example/simple"
OWN = "https://own.example/simple"


def told(environ: dict[str, str] | None = None, *, asked: tuple[str, ...] = (PYPI,)) -> list[str]:
    """The indexes that the sentence names."""
    said = other_indexes(asked, {"XDG_CONFIG_HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere", **(environ or {})})
    return [] if said is None else said.removeprefix("uv is told of ").partition(", and pip is not")[0].split(" and ")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work" / "project" / "src"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder.parent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UV_DEFAULT_INDEX", OWN),
        ("UV_INDEX_URL", f"{OWN}/"),
        ("UV_EXTRA_INDEX_URL", f"{PYPI} {OWN}"),
        ("UV_INDEX", f"company=https://me:s3cret@{OWN.removeprefix('https://')} {PYPI}/"),
    ],
)
def test_variables_of_uv(name: str, value: str) -> None:
    assert told() == []
    assert [url.rstrip("/") for url in told({name: value})] == [OWN]
    assert told({name: value}, asked=("https://$INDEX_USER:$INDEX_PASSWORD@own.example/simple/", PYPI)) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("uv.toml", f'[[index]]\nurl = "{OWN}"\ndefault = true'),
        ("uv.toml", f'index-url = "{OWN}"'),
        ("uv.toml", f'[pip]\nextra-index-url = ["{OWN}"]'),
        ("pyproject.toml", f'[[tool.uv.index]]\nname = "torch"\nurl = "{OWN}"\nexplicit = true'),
    ],
)
def test_files_of_the_project_above_this_folder(project: Path, file: str, text: str) -> None:
    (project / file).write_text(text)
    assert told() == [OWN]
    assert told({"UV_NO_CONFIG": "1"}) == []


def test_of_files_the_nearest_counts_and_uv_toml_before_pyproject(project: Path) -> None:
    (project.parent / "uv.toml").write_text('index-url = "https://far.example/simple"')
    (project / "pyproject.toml").write_text("[project]\nname = 'x'")  # without uv's table it is passed over
    assert told() == ["https://far.example/simple"]
    (project / "pyproject.toml").write_text('[tool.uv]\nindex-url = "https://near.example/simple"')
    assert told() == ["https://near.example/simple"]
    (project / "uv.toml").write_text(f'index-url = "{OWN}"')
    assert told() == [OWN]


def test_files_of_the_user_and_the_machine_and_one_that_is_named(tmp_path: Path) -> None:
    for name in ("user", "machine"):
        (tmp_path / name / "uv").mkdir(parents=True)
        (tmp_path / name / "uv" / "uv.toml").write_text(f'index-url = "https://{name}.example/simple"')
    both = {"XDG_CONFIG_HOME": f"{tmp_path}/user", "XDG_CONFIG_DIRS": f"/nowhere:{tmp_path}/machine"}
    assert told(both) == ["https://user.example/simple", "https://machine.example/simple"]
    (tmp_path / "one.toml").write_text(f'index-url = "{OWN}"')
    assert told({**both, "UV_CONFIG_FILE": f"{tmp_path}/one.toml"}) == [OWN]


@pytest.mark.parametrize("text", ["[[index", "index = 3", 'index = [{url = 3}, "x"]', "tool = 3", "\x00"])
def test_files_that_uv_would_refuse_name_none(project: Path, text: str) -> None:
    (project / "uv.toml").write_text(text)
    (project / "pyproject.toml").write_text("tool = 3")
    assert told() == []


def test_a_folder_that_is_gone_has_no_files(project: Path) -> None:
    (project / "src").rmdir()
    assert told({"UV_DEFAULT_INDEX": OWN}) == [OWN]


def test_credentials_are_not_told() -> None:
    said = other_indexes([PYPI], {"UV_DEFAULT_INDEX": "https://me:s3cret@own.example/simple"})
    assert said is not None and "s3cret" not in said and "me" not in said.split()[4]
