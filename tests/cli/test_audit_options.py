"""What is typed after ``kbuild audit`` arrives at the audit, and what is audited is what was named."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.api import auditing
from kbuild.cli.app import cli
from kbuild.errors import ConfigurationError, InvalidReference, ModelNotFound
from kbuild.platform import Platform
from kbuild.workflow.audit.request import AuditRequest

MODEL = "models:/churn/3"


class Done(Exception):
    """Ends the command where the audit would begin."""


class World:
    """What there is: images by name; and what was to be audited."""

    def __init__(self) -> None:
        self.request: AuditRequest | None = None
        self.audited: list[Any] = []
        self.images: dict[str, Any] = {}
        self.platforms: list[Platform | None] = []
        self.refuses: Exception | None = None

    def auditor(self, request: AuditRequest, tools: Any) -> Any:
        self.request = request

        def done(kind: str) -> Callable[..., None]:
            def call(*what: Any, **more: Any) -> None:
                self.audited.append((kind, *map(str, what), *more.values()))
                raise Done

            return call

        names = ("audit_lock", "audit_model", "audit_image", "audit_registered")
        return SimpleNamespace(**{name: done(name) for name in names})

    @contextmanager
    def existing(self, text: str, tools: Any, platform: Platform | None = None) -> Iterator[Any]:
        self.platforms.append(platform)
        yield (self.images[text], None) if text in self.images else None

    def take(self, text: str | None, *_: Any) -> str:
        if self.refuses is not None:
            raise self.refuses
        return text or MODEL


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(auditing, "Auditor", made.auditor)
    monkeypatch.setattr(auditing, "existing_image", made.existing)
    monkeypatch.setattr(auditing, "take_model", made.take)
    return made


@pytest.fixture
def call(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def run(*argv: str) -> Result:
        done = CliRunner().invoke(cli, ["audit", *argv])
        if done.exception is not None and not isinstance(done.exception, Done):
            raise done.exception
        return done

    return run


REQUEST: dict[str, tuple[str, Any]] = {
    "--fail-on high": ("fail_on", "high"),
    "--offline": ("offline", True),
    "--lockfile here.yml": ("lockfile", Path("here.yml")),
    "--no-record": ("record", False),
    "--platform linux/arm64": ("platform", Platform("linux", "arm64")),
    "--today 2027-01-31": ("today", datetime.date(2027, 1, 31)),
}


@pytest.mark.parametrize("typed", REQUEST)
def test_each_option_by_itself(call: Any, world: World, typed: str) -> None:
    before = datetime.datetime.now(datetime.UTC).date()
    call(MODEL, *typed.split())
    name, value = REQUEST[typed]
    assert world.request is not None and getattr(world.request, name) == value
    default = {"fail_on": "low", "offline": False, "lockfile": None, "record": True, "platform": None}
    assert {key: getattr(world.request, key) for key in default if key != name} == {
        key: value for key, value in default.items() if key != name
    }
    if name != "today":
        assert before <= world.request.today <= datetime.datetime.now(datetime.UTC).date()
    assert world.audited == [("audit_model", MODEL)]


def test_the_policy_counts_where_nothing_is_typed(call: Any, world: World, tmp_path: Path) -> None:
    policy = '[tool.kbuild.audit]\nfail-on = "critical"\nadvisories = "mine"\nservice = "osv"\nosv-url = "https://o.example"\n'
    (tmp_path / "pyproject.toml").write_text(f'[tool.kbuild]\nlabels = {{team = "a"}}\ntemplate = "m.j2"\n{policy}')
    call(MODEL)
    assert world.request is not None
    asked = world.request.policy
    assert (asked.fail_on, asked.service, asked.osv_url) == ("critical", "osv", "https://o.example")
    assert str(asked.advisories).endswith("mine") and world.request.fail_on == "critical"
    assert dict(world.request.labels) == {"team": "a"} and world.request.template.file == tmp_path / "m.j2"
    call(MODEL, "--fail-on", "medium", "--advisories", "https://a.example/x.zip", "--service", "none")
    asked = world.request.policy
    assert (asked.fail_on, asked.service, asked.advisories) == ("medium", "none", "https://a.example/x.zip")
    assert (world.request.fail_on, asked.osv_url) == ("medium", "https://o.example")


def test_a_lock_an_image_or_a_model_is_what_is_named(call: Any, world: World, tmp_path: Path) -> None:
    for name in ("lock.yml", "lock.yaml", "lock.txt"):
        (tmp_path / name).touch()
    world.images = {"churn:1": "the image", "lock.txt": "an image of that name"}
    for named in ("lock.yml", "lock.yaml", "lock.txt", "churn:1", MODEL):
        call(named)
    assert world.audited == [
        ("audit_lock", "lock.yml"), ("audit_lock", "lock.yaml"), ("audit_image", "an image of that name", "lock.txt"),
        ("audit_image", "the image", "churn:1"), ("audit_model", MODEL),
    ]  # fmt: skip


@pytest.mark.parametrize("typed", ["--image churn:1", "--lockfile other.yml"])
def test_a_lock_alone_goes_with_nothing_else(call: Any, world: World, tmp_path: Path, typed: str) -> None:
    (tmp_path / "lock.yml").touch()
    with pytest.raises(InvalidReference, match=r"'lock\.yml' is a lock, and --image and --lockfile go") as caught:
        call("lock.yml", *typed.split())
    assert caught.value.hint == "name the model before it: kbuild audit MODEL --lockfile lock.yml"
    assert world.audited == []


def test_a_model_is_audited_with_the_image_that_is_named(call: Any, world: World) -> None:
    world.images = {"churn:1": "the image"}
    call(MODEL, "--image", "churn:1", "--platform", "linux/arm64")
    assert world.audited == [("audit_model", MODEL, "the image")]
    assert world.platforms == [Platform("linux", "arm64")] * 2
    with pytest.raises(InvalidReference, match="'gone:1' is neither an image built here nor"):
        call(MODEL, "--image", "gone:1")
    with pytest.raises(InvalidReference, match="'churn:1' is an image, and --image is another one") as caught:
        call("churn:1", "--image", "gone:1")
    assert caught.value.hint == "name the model before it: kbuild audit MODEL --image gone:1"
    call("churn:1")
    assert world.audited[-1] == ("audit_image", "the image", "churn:1") and world.platforms[-1] is None


def test_without_a_reference_it_is_the_newest_model(call: Any, world: World) -> None:
    call()
    assert world.audited == [("audit_model", MODEL)]


@pytest.mark.parametrize("refusal", [InvalidReference("no", hint="say it"), ModelNotFound("none", hint="say it")])
def test_what_is_nothing_to_audit_is_told_with_all_that_could_be(call: Any, world: World, refusal: Exception) -> None:
    world.refuses = refusal
    with pytest.raises(InvalidReference, match=r"'x' is not a model, an image .* or a conda-lock\.yml") as caught:
        call("x")
    assert caught.value.hint == "say it" and world.audited == []


def test_a_lock_that_is_misspelt_is_told_with_the_one_beside_it(call: Any, world: World, tmp_path: Path) -> None:
    world.refuses = ModelNotFound("none", hint="say it")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "conda-lock.yml").touch()
    with pytest.raises(InvalidReference) as caught:
        call("locks/conda-lok.yml")
    assert caught.value.hint == "did you mean locks/conda-lock.yml?" and world.audited == []


def test_a_day_that_is_none_is_refused(call: Any, world: World) -> None:
    with pytest.raises(ConfigurationError, match="'tomorrow' is not a date"):
        call(MODEL, "--today", "tomorrow")
    assert world.audited == []


def test_all_that_is_registered(call: Any, world: World) -> None:
    call("--all-registered", "--offline")
    assert world.audited == [("audit_registered",)] and world.request is not None and world.request.offline
