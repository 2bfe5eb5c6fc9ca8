"""What the environment of a command asks for, before anything is done."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from kbuild.api.session import open_session
from kbuild.cli.demo import command as demo_command


@pytest.mark.parametrize(("stated", "trusted"), [("1", True), ("0", False), ("no", False), ("", False), (None, False)])
def test_models_are_trusted_where_that_is_said_outright(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str | None, trusted: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KBUILD_TRUST_MODEL", raising=False)
    if stated is not None:
        monkeypatch.setenv("KBUILD_TRUST_MODEL", stated)
    assert open_session().tools.trust_model is trusted


@pytest.mark.parametrize(("stated", "limit"), [("3 GB", 3_000_000_000), ("0.5GB", 500_000_000), ("", 20_000_000_000)])
def test_what_works_keeps_the_cache_within_the_limit_that_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str, limit: int
) -> None:
    """Every command that builds, and not ``kbuild cache`` alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KBUILD_CACHE_LIMIT", stated)
    given: list[object] = []
    monkeypatch.setattr("kbuild.workflow.tools.using_cache", lambda cache, *, limit: given.append((cache, limit)))
    monkeypatch.setattr("kbuild.cli.demo.run_demo", lambda folder, _, make_tools: make_tools(folder).using_cache())
    open_session().tools.using_cache()
    with suppress(AttributeError):  # there is no result to be told
        demo_command.callback(tmp_path, "auto", False)  # type: ignore[misc]
    assert given == 2 * [(tmp_path / "cache", limit)]


@pytest.mark.parametrize("stated", ["https://registry.example", "", None])
def test_a_registry_of_its_own_is_asked_for_registered_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str | None
) -> None:
    asked: list[object] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://runs.example")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    if stated is not None:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", stated)
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *given, cache: asked.append((*given, cache)))
    open_session()
    assert asked == [("https://runs.example", stated or None, tmp_path / "cache")]


@pytest.mark.parametrize(
    ("stated", "variable", "tag"),
    [("prod", "dev", "of:prod"), (None, "dev", "of:dev"), ("prod", None, "of:prod"), (None, None, "of:local")],
)
def test_the_environment_that_is_asked_for_goes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str | None, variable: str | None, tag: str
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "shop"\nproject_name = "Shop"\n')
    for env in ("local", "dev", "prod"):
        (tmp_path / "conf" / env).mkdir(parents=True)
        (tmp_path / "conf" / env / "kbuild.yml").write_text(f"tag: of:{env}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    if variable is not None:
        monkeypatch.setenv("KEDRO_ENV", variable)
    assert open_session(stated).config.tag == tag
