"""Every option, and every setting of a project, by every way to a build: it changes at the end what it names, and
nothing else.

The ends are the calls of ``kbuild.workflow``. The options are asked of the commands themselves: a new one needs a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from readme_reference import commands

from kbuild import ImageOptions, build_images
from kbuild.api.fleet.queueing import build_asked
from kbuild.api.session import Session, open_session
from kbuild.cli.app import cli
from kbuild.errors import ConfigurationError, EngineUnavailable, InvalidReference, LabelError
from kbuild.model.find import RegisteredVersion
from kbuild.platform import Platform, host_platform
from kbuild.project.config import ProjectConfig, read_schema
from kbuild.workflow.queue.asked import Asked

MODEL = "models:/churn/3"
PUSH = "registry.example/{name}:{version}"
PLACE = "registry.example/layers"
AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
# What is typed; at the end the fields that it changes, and to what.
LOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "interpreter": ("--interpreter conda", {"lock.interpreter": "conda"}),
    "channels": ("--channel a --channel b", {"lock.channels": ("a", "b")}),
    "platform": ("--platform linux-aarch64,linux/amd64", {"lock.platforms": (AMD, ARM)}),
    "lockfile": ("--lockfile conda-lock.yml", {"lock.lockfile": Path("conda-lock.yml")}),
    "locked": ("--locked", {"lock.locked": True}),
    "allow_sdist": ("--allow-sdist", {"lock.allow_sdist": True}),
}
BUILD: dict[str, tuple[str, dict[str, Any]]] = {
    **LOCK,
    "base": ("--base debian:trixie", {"base": "debian:trixie"}),
    "allow_unsigned_base": ("--allow-unsigned-base", {"assembling.allow_unsigned": True}),
    "template": ("--template in-container", {"template.name": "in-container.Dockerfile.j2"}),
    "install_base": ("--install-base docker.io/library/x:1", {"template.install_base": "docker.io/library/x:1"}),
    "labels": ("--label a=b --label c=d=e", {"labels": (("a", "b"), ("c", "d=e"))}),
    "slim": ("--slim", {"slim": True}),
}
IMAGE: dict[str, tuple[str, dict[str, Any]]] = {
    **BUILD,
    "engine": ("--engine native", {"engine": "native"}),
    "network": ("--network host", {"network": "host"}),
    "builders": ("--builder mine", {"engine": "buildkit", "builder": "mine"}),
    "compression": ("--compression gzip", {"compression": "gzip"}),
    "cache_from": (f"--cache-from {PLACE}", {"cache_from": PLACE}),
    "cache_to": (f"--cache-to {PLACE}", {"delivery.cache_to": PLACE}),
    "tag": ("--tag x:{run_id}", {"delivery.tag": "x:{run_id}"}),
    "output": ("--output out.tar", {"delivery.output": Path("out.tar")}),
    "load": ("--load", {"delivery.load": True}),
    "push": (f"--push {PUSH}-b", {"delivery.push": f"{PUSH}-b"}),
    "verify": ("--no-verify", {"delivery.verify": False}),
    "verify_timeout": ("--verify-timeout 7", {"delivery.patience": 7.0}),
    "no_cache": ("--no-cache", {"reuse": False}),
    "verify_cache": ("--verify-cache", {"verify_cache": True}),
}
# What a project says, and what it changes; all else of a project is of other work.
SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "base": ("debian:trixie", {"base": "debian:trixie"}),
    "template": ("mine.j2", {"template.name": "model.Dockerfile.j2", "template.file": Path("mine.j2")}),
    "channels": (["a", "b"], {"lock.channels": ("a", "b")}),
    "conda-names": ({"b": "y", "a": "x"}, {"lock.names": (("a", "x"), ("b", "y"))}),
    "interpreter": ("conda", {"lock.interpreter": "conda"}),
    "debian-mirror": ("https://m.example/debian", {"assembling.debian_mirror": "https://m.example/debian"}),
    "compression": ("gzip", {"compression": "gzip"}),
    "slim": (True, {"slim": True}),
    "verify": (False, {"delivery.verify": False}),
    "labels": ({"b": "2", "a": "1"}, {"labels": (("a", "1"), ("b", "2"))}),
    "tag": ("x:{run_id}", {"delivery.tag": "x:{run_id}"}),
    "cache-from": (PLACE, {"cache_from": PLACE}),
    "cache-to": (PLACE, {"delivery.cache_to": PLACE}),
    "audit": (
        {"allowed-indexes": ["https://i.example/"], "allowed-channels": ["https://c.example/"]},
        {"lock.allowed_indexes": ("https://i.example/",), "lock.allowed_channels": ("https://c.example/",)},
    ),
}
OTHER_SETTINGS = {
    "training", "tracking", "push", "trigger", "state_folder", "local", "command", "webhook", "github", "gitlab",
}  # fmt: skip
# Which models, or how they are told of: other tests' matter.
OTHER = {
    "image": "all_registered from_file best jobs shard queue priority wait report kind as_json",
    "lock": "output force as_json",
    "render": "output as_json",
    "pack": "output no_cache as_json",
    "score": "workers on_error keep format params overwrite part_rows batch_rows spark spark_settings as_json",
    "watch": "once every listen secret_env register models aliases since queue",
}


class Done(Exception):
    """Ends the work where it would begin."""


@dataclass
class Ends:
    """What the workflow was last asked for."""

    seen: dict[str, Any] = field(default_factory=dict)
    put: list[Asked] = field(default_factory=list)

    def build(self, request: Any, *rest: Any, **more: Any) -> None:
        self.seen = dict(_flat(request))
        for each in rest:
            if hasattr(each, "patience"):
                self.seen |= {f"delivery.{name}": value for name, value in _flat(each)}
            elif hasattr(each, "verify_cache"):
                self.seen["verify_cache"] = each.verify_cache
        self.seen |= {name: more[name] for name in ("reuse", "base", "force") if name in more}
        raise EngineUnavailable("seen")

    def lock(self, model: str, request: Any, *rest: Any, **more: Any) -> None:
        self.build(SimpleRequest(lock=request), *rest, **more)


@dataclass
class SimpleRequest:
    lock: Any


def _flat(value: Any) -> Iterator[tuple[str, Any]]:
    for each in fields(value):
        inner = getattr(value, each.name)
        if is_dataclass(inner) and each.name in ("lock", "assembling", "template"):
            yield from ((f"{each.name}.{name}", part) for name, part in _flat(inner))
        else:
            yield each.name, str(inner) if each.name.startswith("cache_") and inner is not None else inner


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ends:
    made = Ends()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("KBUILD_QUEUE", "postgresql://h/d")
    for option in (option for command in commands().values() for option in command.params):
        if option.envvar is not None:
            monkeypatch.delenv(str(option.envvar), raising=False)
    for name in ("mine.j2", "conda-lock.yml", "in.csv"):
        (tmp_path / name).write_text("a\n1\n")
    (tmp_path / "models.txt").write_text(f"{MODEL}\n")
    for end in ("api.building.build", "workflow.many.build_image", "api.fleet.queueing.build_image"):
        monkeypatch.setattr(f"kbuild.{end}", made.build)
    for end in ("api.building.render_context", "api.packing.pack_model", "api.packing.score_tables"):
        monkeypatch.setattr(f"kbuild.{end}", made.build)
    monkeypatch.setattr("kbuild.api.building.lock_model", made.lock)
    monkeypatch.setattr("kbuild.cli.extras.check_extra", lambda *_, **__: None)
    version = RegisteredVersion(name="churn", version="3", created=0)
    registry = SimpleNamespace(versions=lambda name=None: [version], tag=lambda *_: None)
    monkeypatch.setattr("kbuild.api.fleet.watching.open_registry", lambda _: registry)
    store = "kbuild.model.store.DirectStore"
    monkeypatch.setattr(f"{store}.registered", lambda _: [MODEL])
    monkeypatch.setattr(f"{store}.pin", lambda _, reference: reference)

    @contextmanager
    def open_queue(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(put=put)

    def put(asked: list[Asked], *, priority: int) -> None:
        made.put = [Asked.from_json(json.loads(json.dumps(each.to_json()))) for each in asked]
        raise Done

    monkeypatch.setattr("kbuild.cli.queued.open_queue", open_queue)
    return made


def _type(*argv: str) -> Callable[[Ends, list[str]], None]:
    def call(ends: Ends, typed: list[str]) -> None:
        done = CliRunner().invoke(cli, [*argv, *typed])
        error = done.exception
        if not ends.seen and isinstance(error, Exception) and not isinstance(error, Done):
            raise error
        assert not isinstance(error, SystemExit) or error.code != 2, done.output

    return call


def _leave_to_a_worker(ends: Ends, typed: list[str]) -> None:
    """Whose own project says something else of everything that comes with the job."""
    _type("image", MODEL, "--queue", "--push", PUSH)(ends, typed)
    [asked] = ends.put
    own = ProjectConfig(
        base="debian:bullseye", tag="w:1", channels=("w",), labels=(("w", "w"),), slim=True, interpreter="captured",
        verify=False, cache_from="w.example/w", cache_to="w.example/w",
    )  # fmt: skip
    session = open_session()
    with suppress(EngineUnavailable):
        build_asked(asked, Session(config=own, tools=session.tools, voice=session.voice), "gates")  # type: ignore[arg-type]


def _ask_in_python(ends: Ends, typed: list[str]) -> None:
    """With what the command line's own options say."""
    context = commands()["image"].make_context("image", [MODEL, *typed])
    stated = {each.name: context.params[each.name] for each in fields(ImageOptions) if each.name in context.params}
    list(build_images([MODEL], ImageOptions(**stated)))


WAYS: dict[str, tuple[str, Callable[[Ends, list[str]], None], Mapping[str, Any]]] = {
    "image": ("image", _type("image", MODEL), IMAGE),
    "many": ("image", _type("image", "--from-file", "models.txt"), IMAGE),
    "all": ("image", _type("image", "--all-registered"), IMAGE),
    "python": ("image", _ask_in_python, IMAGE),
    "queue": ("image", _leave_to_a_worker, IMAGE),
    "render": ("render", _type("render", MODEL, "-o", "new"), BUILD),
    "pack": ("pack", _type("pack", MODEL), BUILD),
    "score": ("score", _type("score", MODEL, "in.csv", "out"), {**LOCK, "base": BUILD["base"]}),
    "lock": ("lock", _type("lock", MODEL), {**LOCK, "base": BUILD["base"]}),
    "watch": ("watch", _type("watch", "--once", "--push", PUSH), IMAGE),
}
# A worker builds elsewhere, and many images are not written to one file.
REFUSED = {
    "queue": {"lockfile", "builders", "output", "load"},
    "many": {"output"},
    "all": {"output"},
}


def options_of(name: str) -> set[str]:
    params = commands()[name].params
    own = {str(each.name) for each in params if isinstance(each, click.Option)}
    return own - {*OTHER[name].split(), "env", "quiet", "verbose", "help"}


def seen_by(way: str, ends: Ends, typed: list[str]) -> dict[str, Any]:
    ends.seen = {}
    WAYS[way][1](ends, typed)
    assert ends.seen, "nothing was asked for"
    return ends.seen


USUAL: dict[str, dict[str, Any]] = {}


def usual(way: str, ends: Ends) -> dict[str, Any]:
    """What is asked for where nothing is said: nothing in it is of a test's own folder."""
    if way not in USUAL:
        USUAL[way] = seen_by(way, ends, [])
    return USUAL[way]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if value != before[name]}


def test_every_option_and_every_setting_has_a_row() -> None:
    for name, _, known in WAYS.values():
        assert options_of(name) <= known.keys(), name
    assert {*read_schema()["properties"]} == {*SETTINGS, *OTHER_SETTINGS}


@pytest.mark.parametrize(
    ("way", "option"), [(way, option) for way, (name, *_) in WAYS.items() for option in sorted(options_of(name))]
)
def test_an_option_changes_what_it_names(ends: Ends, way: str, option: str) -> None:
    before = usual(way, ends)
    typed, expected = WAYS[way][2][option]
    if option in REFUSED.get(way, ()):
        with pytest.raises((ConfigurationError, AssertionError)):
            seen_by(way, ends, typed.split())
        return
    assert changes(before, seen_by(way, ends, typed.split())) == expected
    assert before["lock.platforms"] == (host_platform(),)


@pytest.mark.parametrize(("way", "setting"), [(way, setting) for way in WAYS for setting in SETTINGS])
def test_a_setting_changes_what_it_names(ends: Ends, way: str, setting: str, tmp_path: Path) -> None:
    before = usual(way, ends)
    value, expected = SETTINGS[setting]
    (tmp_path / "pyproject.toml").write_text(f"[tool.kbuild]\n{setting} = {_toml(value)}\n")
    # The policy and the mirror are the worker's own; some ways make no image.
    if way == "queue" and setting in ("debian-mirror", "audit"):
        expected = {}
    expected = {name: value for name, value in expected.items() if name in before}
    found = changes(before, seen_by(way, ends, []))
    assert {name: _below(each, tmp_path) for name, each in found.items()} == {
        name: each for name, each in expected.items() if each != before[name]
    }


def _toml(value: Any) -> str:
    inner = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) if isinstance(value, dict) else None
    return json.dumps(value) if inner is None else f"{{{inner}}}"


def _below(value: Any, folder: Path) -> Any:
    return value.relative_to(folder) if isinstance(value, Path) and value.is_absolute() else value


@pytest.mark.parametrize("way", ["image", "many", "python", "queue", "watch"])
@pytest.mark.parametrize("option", ["cache_from", "cache_to"])
def test_what_the_project_shares_can_be_left_out_for_once(ends: Ends, way: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.kbuild]\n{option.replace("_", "-")} = "{PLACE}"\n')
    assert [each for each in seen_by(way, ends, []).values() if each == PLACE] == [PLACE]
    found = seen_by(way, ends, [f"--{option.replace('_', '-')}", ""])
    assert [each for each in found.values() if each == PLACE] == []


@pytest.mark.parametrize("way", WAYS)
def test_what_is_typed_counts_more_than_what_the_project_says(ends: Ends, way: str, tmp_path: Path) -> None:
    lines = ['base = "debian:bookworm"', 'channels = ["p"]', 'interpreter = "captured"', 'compression = "zstd"']
    lines += [
        'template = "mine.j2"',
        'tag = "p:1"',
        "verify = false",
        f'cache-from = "{PLACE}/p"',
        'labels = {a = "p"}',
    ]
    (tmp_path / "pyproject.toml").write_text("\n".join(["[tool.kbuild]", *lines]))
    both = {"base", "channels", "interpreter", "compression", "template", "tag", "cache_from"}
    options = sorted(both & options_of(WAYS[way][0]))
    typed = [word for option in options for word in WAYS[way][2][option][0].split()]
    found = seen_by(way, ends, typed)
    for option in options:
        expected = {**WAYS[way][2][option][1], **({"template.file": None} if option == "template" else {})}
        assert {name: found[name] for name in expected} == expected
    if "delivery.verify" in found:
        assert found["delivery.verify"] is False
        assert seen_by(way, ends, ["--verify"])["delivery.verify"] is True
    if "labels" in options_of(WAYS[way][0]):
        assert seen_by(way, ends, ["--label", "a=t"])["labels"] == (("a", "p"), ("a", "t"))


@pytest.mark.parametrize("typed", ["--label team", "--builder x --engine native", "--tag No", "--cache-to !"])
def test_what_no_worker_could_build_is_told_before_it_is_put(ends: Ends, typed: str) -> None:
    with pytest.raises((ConfigurationError, LabelError, InvalidReference)):
        _leave_to_a_worker(ends, typed.split())
    assert ends.put == []


def test_of_no_models_nothing_is_built(ends: Ends) -> None:
    assert list(build_images([])) == [] and ends.seen == {}
    list(build_images())
    assert ends.seen["model"] == MODEL


def test_of_one_image_one_platform_is_asked_for(ends: Ends) -> None:
    """click would take the last and say nothing."""
    for name, command in commands().items():
        if any(each.name == "platform" for each in command.params) and name not in OTHER:
            needed = ["--to", "compose", "-o", "o"] if name == "deploy" else []
            typed = [name, "i", *needed, "--platform", "linux/amd64", "--platform", "linux/arm64"]
            done = CliRunner().invoke(cli, typed)
            assert done.exit_code == 2 and "linux/amd64 and linux/arm64 are several" in " ".join(done.stderr.split())


def test_a_platform_that_is_typed_twice_is_both(ends: Ends) -> None:
    for way, (name, *_) in WAYS.items():
        found = seen_by(way, ends, ["--platform", "linux/arm64", "--platform", "linux/amd64"])
        assert found["lock.platforms"] == (AMD, ARM), name
