"""What the pages promise of command lines: an option means the argument of its name in Python, and nothing typed what
Python has by default; variables of the configuration page stand for the options that it names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from readme_reference import DOCS, commands

import kbuild
from kbuild.api.deploying import DeployOptions
from kbuild.api.fleet.watching import WatchOptions
from kbuild.api.measuring import MeasureOptions
from kbuild.api.request import Measure
from kbuild.cli.app import cli
from kbuild.deploy.canary import Gateway
from kbuild.platform import Platform

CONFIGURATION = (DOCS / "configuration.md").read_text("utf-8")
# Each command: the function that does the work, its options' class, and what has to be typed.
CALLS: dict[str, tuple[str, type[Any], list[str]]] = {
    "image": ("image.build_image", kbuild.ImageOptions, ["M"]),
    "lock": ("lock.lock", kbuild.LockOptions, ["M"]),
    "render": ("render.render", kbuild.BuildOptions, ["M", "-o", "out"]),
    "pack": ("pack.pack", kbuild.BuildOptions, ["M"]),
    "score": ("score.score", kbuild.ScoreOptions, ["M", "in.csv", "out"]),
    "audit": ("audit.audit", kbuild.AuditOptions, ["M"]),
    "verify": ("verify.verify", kbuild.VerifyOptions, ["M"]),
    "run": ("run.run", kbuild.RunOptions, ["M"]),
    "measure": ("measure.measure", MeasureOptions, ["M"]),
    "deploy": ("deploy.deploy", DeployOptions, ["M", "--to", "kubernetes", "-o", "out"]),
    "watch": ("watch.open_watch", WatchOptions, ["--once"]),
}
# Of another name in Python, or no argument of the work.
RENAMED = {"as_json": None, "everything": None, "env": None, "quiet": None, "verbose": None, "help": None}
# Options of other work, which tests of their own show.
OTHER_WORK = {
    "image": "all_registered from_file jobs shard queue priority wait report kind",
    "audit": "all_registered affected_by form output reports schema",
    "verify": "rebuild reuse_downloads proof model lockfile",
    "watch": "listen secret_env register queue once",
    "deploy": "output to hostname",
    "pack": "output",
}
WORDS: dict[str, tuple[str, Any]] = {
    "platform": ("linux/arm64", None),
    "best": ("rmse:min", Measure(metric="rmse", lowest=True)),
    "builders": (" x ,", ("x",)),
    "replicas": ("2..5", (2, 5)),
    "canary": ("churn:2=20", ("churn:2", 20)),
    "gateway": ("infra/web", Gateway(name="web", namespace="infra")),
    "connections": ("2,16", (2, 16)),
    "variables": ("KBUILD_TIMEOUT=5", {"KBUILD_TIMEOUT": "5"}),
    "params": ('{"a": 1}', {"a": 1}),
    "spark_settings": ("spark.a=b=c", {"spark.a": "b=c"}),
    "base": ("scratch-base:1", "scratch-base:1"),
    "every": ("90s", 90.0),
    "since": ("2026-11-01", 1793491200.0),  # date -u -d 2026-11-01 +%s
}
ONLY_FOR = {("deploy", "serverless"): "kserve", ("deploy", "port"): "compose"}


class Stop(Exception):
    """Ends a command where its work would begin."""


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The arguments of the work that a command line asks for, those of its options beside the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("kbuild.cli.watch.check_extra", lambda *_, **__: None)
    monkeypatch.setattr("kbuild.cli.lock.pin_model", lambda model, _: model)
    for name in re.findall(r"`(KBUILD_\w+)`", CONFIGURATION):
        if name != "KBUILD_CACHE_DIR":
            monkeypatch.delenv(name, raising=False)

    def flat(value: Any) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield from (
                flat(inner)
                if dataclasses.is_dataclass(inner) and field.name in ("run", "image")
                else [(field.name, inner)]
            )

    def call(name: str, *typed: str) -> dict[str, Any]:
        work, options, needed = CALLS[name]
        seen: dict[str, Any] = {}

        def stop(*arguments: Any, session: Any = None, **named: Any) -> None:
            for each in (*arguments, *named.values()):
                if isinstance(each, options):
                    seen.update(flat(each))
            seen.update({key: each for key, each in named.items() if not isinstance(each, options)})
            raise Stop

        monkeypatch.setattr(f"kbuild.cli.{work}", stop)
        result: Result = CliRunner().invoke(cli, [name, *needed, *typed])
        assert isinstance(result.exception, Stop), result.output
        assert seen.keys() >= dict(flat(options())).keys()
        return seen

    return call


def cases() -> Iterator[tuple[str, str]]:
    for name in CALLS:
        other = OTHER_WORK.get(name, "").split()
        for option in commands()[name].params:
            if isinstance(option, click.Option) and option.name not in (*other, *RENAMED):
                yield name, str(option.name)


def sample(option: click.Option, folder: Path) -> tuple[list[str], Any]:
    """Something to type that is not the default, and what it means by the option's kind."""
    kind, flag = option.type, option.opts[0]
    if option.is_flag:
        return ([option.secondary_opts[0]], False) if option.secondary_opts else ([flag], True)
    if option.name in WORDS:
        return [flag, WORDS[option.name][0]], WORDS[option.name][1]
    if isinstance(kind, click.Choice):
        text = next(each for each in reversed(kind.choices) if each != option.default)
        value: Any = text
    elif isinstance(kind, click.IntRange | click.FloatRange):
        text, value = "7", 7
    elif isinstance(kind, click.Path):
        (folder / "x").touch()
        text, value = "x", Path("x")
    else:
        text, value = "a=b", "a=b"
    return [flag, text], (value,) if option.multiple else value


@pytest.mark.parametrize(("name", "option"), list(cases()))
def test_an_option_is_the_argument_of_its_name(
    given: Callable[..., dict[str, Any]], name: str, option: str, tmp_path: Path
) -> None:
    [stated] = [each for each in commands()[name].params if each.name == option]
    assert isinstance(stated, click.Option)
    typed, value = sample(stated, tmp_path)
    only = ONLY_FOR.get((name, option))
    before = given(name, *(["--to", only] if only else []))
    after = given(name, *(["--to", only] if only else []), *typed)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {option}
    if option == "platform":  # a text for what is built, which may be several
        value = "linux/arm64" if name in ("image", "lock", "render", "pack", "score", "watch") else Platform.parse(
            "linux/arm64"
        )  # fmt: skip
    assert after[option] == value


@pytest.mark.parametrize("name", CALLS)
def test_nothing_typed_is_what_python_has_by_default(given: Callable[..., dict[str, Any]], name: str) -> None:
    options: Any = CALLS[name][1]()
    found = given(name)
    for field in dataclasses.fields(options):
        stated = getattr(options, field.name)
        if field.name not in ("run", "image") or stated is None:
            assert found[field.name] == stated, field.name


def test_variables_stand_for_the_options_that_the_page_names() -> None:
    found = {
        (str(option.envvar), option.opts[0])
        for command in commands().values()
        for option in command.params
        if option.envvar is not None
    }
    rows = [row for row in CONFIGURATION.splitlines() if row.startswith("| `KBUILD_")]
    named = {name for row in rows for name in re.findall(r"`(KBUILD_\w+)`", row.split("|")[1])}
    found.remove(("KEDRO_ENV", "--env"))  # Kedro's own
    assert {variable for variable, _ in found} <= named
    # Variable and option have one name.
    alike = found - {("KBUILD_BUILD_NETWORK", "--network")}
    assert [each for each in alike if each[0] != f"KBUILD_{each[1][2:].replace('-', '_').upper()}"] == []
    assert {option for _, option in found} >= {"--cache-from", "--cache-to", "--verify", "--verify-cache", "--network"}
