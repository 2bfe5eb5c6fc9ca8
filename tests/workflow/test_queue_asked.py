"""What is put into a queue, and where that is: nothing of this machine, no password anywhere."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api.fleet import queueing
from kbuild.api.fleet.options import read_carried_names
from kbuild.api.fleet.queueing import ask_for, carry_options, read_options
from kbuild.api.project import ProjectConfig
from kbuild.api.request import ImageOptions, Measure, make_delivery, make_image_request
from kbuild.errors import ConfigurationError, InvalidReference, KbuildError, LabelError
from kbuild.image.base.choice import parse_base
from kbuild.model.model_reference import ModelReference
from kbuild.workflow.queue.address import QueueAddress, read_address
from kbuild.workflow.queue.asked import Asked
from kbuild.workflow.tools import Tools

RUN = "0123456789abcdef0123456789abcdef"


def test_a_url_of_the_variable_may_hold_a_password_that_is_never_shown() -> None:
    url = "postgresql://bob:hunter2@db.example:5433/jobs?sslmode=require"
    address = read_address("", {"KBUILD_QUEUE": url})
    assert address.url == url
    assert str(address) == "postgresql://db.example:5433/jobs" and "hunter2" not in repr(address)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql:///jobs", "postgresql:///jobs"),
        ("postgres://bob@db.example", "postgresql://db.example/"),
        ("postgresql://bob:hunter%402@[::1]:5433/jobs", "postgresql://[::1]:5433/jobs"),
        ("postgresql://bob:hunter2@a.example:1,b.example:2/jobs", "postgresql://a.example,b.example:1,2/jobs"),
        ("postgresql://%2Frun%2Fpostgresql/jobs?user=bob&password=hunter2", "postgresql://%2Frun%2Fpostgresql/jobs"),
        ("postgresql://bob:hunter2#x@db.example/jobs", "postgresql://db.example/jobs"),
    ],
)
def test_host_port_and_database_are_shown_as_libpq_takes_them(url: str, shown: str) -> None:
    pytest.importorskip("psycopg")
    address = read_address(None, {"KBUILD_QUEUE": url})
    assert (address.url, str(address)) == (url, shown)


@pytest.mark.parametrize(
    ("stated", "environ", "says"),
    [
        (None, {}, "no queue is named"),
        ("postgresql://bob:hunter2@db.example/jobs", {}, "everybody on this machine reads"),
        ("postgresql://db.example/jobs?password=hunter2", {}, "everybody on this machine reads"),
        ("redis://:hunter2@db.example/0", {}, "--queue is not a url of PostgreSQL"),
        (None, {"KBUILD_QUEUE": "postgresql+psycopg2://bob:hunter2@db.example/jobs"}, "is not a url of PostgreSQL"),
        (
            None,
            {"KBUILD_QUEUE": "host=db.example user=bob password=hunter2"},
            "KBUILD_QUEUE is not a url of PostgreSQL",
        ),
        ("postgresql://db.example:hunter2/jobs", {}, "its port is not a number"),
        (None, {"KBUILD_QUEUE": "postgresql://bob:hunter2%et@db.example/jobs"}, "libpq does not read it"),
        (None, {"KBUILD_QUEUE": "postgresql://bob:hunter2/x@db.example/jobs"}, "its port is not a number"),
        (None, {"KBUILD_QUEUE": "postgresql://bob:1/hunter2@db.example/jobs"}, "it has an @ more"),
        (None, {"KBUILD_QUEUE": "postgresql://bob:x@hunter2@db.example/jobs"}, "it has an @ more"),
        ("jobs", {}, "--queue is not a url"),
    ],
)
def test_what_is_no_queue_is_said_without_its_password(stated: str | None, environ: dict[str, str], says: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigurationError) as caught:
        read_address(stated, environ)
    assert says in caught.value.message and caught.value.hint
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}" and caught.value.__cause__ is None


def test_the_databases_words_do_not_name_user_and_password() -> None:
    pytest.importorskip("psycopg")
    address = read_address(None, {"KBUILD_QUEUE": "postgresql://bob:hunter%202@bobby.example/jobs"})
    words = 'connection to "bobby.example" failed: FATAL: no role "bob" by »hunter 2« or hunter%202'
    assert address.conceal(words) == 'connection to "bobby.example" failed: FATAL: no role "***" by »***« or ***'
    # Nor those of another server, whose url stands in an error of its own.
    assert "s3cret" not in address.conceal("no route to https://me:s3cret@index.example/simple")


def test_without_psycopg_nothing_more_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert str(read_address(None, {"KBUILD_QUEUE": "postgresql://bob:hunter2@h:5/d?user=x"})) == "postgresql://h:5/d"
    for odd in ("bob:hunter2/x@h/d", "bob:1/hunter2@h/d", "bob:hunter2#x@h/d"):
        with pytest.raises(ConfigurationError) as caught:
            read_address(None, {"KBUILD_QUEUE": f"postgresql://{odd}"})
        assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_a_job_is_what_it_was_when_it_is_read_again() -> None:
    asked = Asked(model="models:/churn/3", options={"push": "registry.example/{name}:{version}"}, watched=True)
    assert Asked.from_json(asked.to_json()) == asked
    assert asked.key == Asked(model=asked.model, options=dict(asked.options)).key
    assert asked.key != Asked(model="models:/churn/4", options=asked.options).key


@pytest.mark.parametrize(
    "value",
    [
        {"format": 2, "model": RUN},
        {"format": 1, "model": RUN, "command": "rm"},
        {"format": 1, "model": 3},
        {"format": 1, "model": "no such thing"},
        {"format": 1, "model": RUN, "options": []},
        {},
    ],
)
def test_what_is_no_job_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Asked.from_json(value)


def test_credentials_are_not_put_into_a_queue() -> None:
    asked = Asked(model=RUN, options={"channels": ["https://bob:hunter2@conda.example/team"]})
    with pytest.raises(ConfigurationError, match="credentials in channels") as caught:
        asked.to_json()
    assert "hunter2" not in caught.value.message


def test_a_folder_whose_name_no_database_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"/models/\\udcff holds control characters or bytes"):
        Asked(model="/models/\udcff").to_json()


def test_a_worker_asks_for_what_the_project_asked_for() -> None:
    """Whatever the worker's own project says."""
    config = ProjectConfig(
        base="debian:bookworm",
        labels=(("team", "churn"),),
        slim=True,
        compression="gzip",
        channels=("conda-forge",),
        cache_to="registry.example/layers",
    )
    options = ImageOptions(labels=("a=b",), push="registry.example/{name}:{version}", interpreter="conda")
    read = read_options(carry_options(config, options))
    assert make_image_request(ProjectConfig(), RUN, read.engine, read) == make_image_request(
        config, RUN, options.engine, options
    )
    assert make_delivery(ProjectConfig(), read) == make_delivery(config, options)


@pytest.mark.parametrize("kind", ["pairs", "a file"])
def test_a_projects_conda_names_travel_with_the_job(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that the worker makes joins both sides of a mixed environment by them, as one made here would."""
    table = tmp_path / "names.json"
    table.write_text('{"torch": {"conda_name": "pytorch-own", "pypi_name": "torch"}}')
    config = ProjectConfig(conda_names=table if kind == "a file" else (("pytorch-own", "torch"),))
    carried = json.loads(json.dumps(carry_options(config, ImageOptions(push="registry.example/a:b"))))
    read_options(carried)
    taken: list[Any] = []
    monkeypatch.setattr(queueing, "build_image", lambda request, *_, **__: taken.append(request))
    own = ProjectConfig(conda_names=(("of-the-worker", "x"),))
    session: Any = SimpleNamespace(config=own, tools=Tools(**dict.fromkeys(("store", "run", "phases")), cache=tmp_path))
    queueing.build_asked(Asked(model=RUN, options=carried), session, lambda *_: None)
    assert taken[0].lock.names == (("pytorch-own", "torch"),)


@pytest.mark.parametrize("names", ["x", [["a"]], [["a", 1]], [["a", ""]], {"a": "b"}])
def test_names_that_are_none_are_refused(names: object) -> None:
    with pytest.raises(ConfigurationError, match="conda_names"):
        read_carried_names({"conda_names": names})


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "of the project"])
def test_files_are_named_as_others_find_them(stated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is started in another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    base, template = "oci:./base", "mine.j2"
    (tmp_path / template).write_text("FROM scratch")
    options = ImageOptions(install_base="./python")
    config = ProjectConfig()
    if stated:
        options = replace(options, base=base, template=template)
    else:
        config = replace(config, base=base, template=Path(template))
    carried = carry_options(config, options)
    assert carried["template"] == str(tmp_path / "mine.j2")
    assert parse_base(carried["base"]).path == tmp_path / "base"
    assert parse_base(carried["install_base"]).path == tmp_path / "python"
    assert parse_base(carry_options(config, replace(options, base="~/base"))["base"]).path == tmp_path / "home/base"


@pytest.mark.parametrize("base", ["debian:bookworm", "registry.example/python:3.12", "python:3.12-slim"])
def test_what_is_no_file_is_named_as_it_was(base: str) -> None:
    carried = carry_options(ProjectConfig(), ImageOptions(base=base, template="in-container", install_base=base))
    assert (carried["base"], carried["template"], carried["install_base"]) == (base, "in-container", base)


@pytest.mark.parametrize(
    "options",
    [
        ImageOptions(output=Path("image")),
        ImageOptions(load=True),
        ImageOptions(builders=("mine",)),
        ImageOptions(lockfile=Path("conda-lock.yml")),
    ],
)
def test_what_only_this_machine_can_do_is_not_asked_of_others(options: ImageOptions) -> None:
    with pytest.raises(ConfigurationError, match="a worker builds elsewhere"):
        carry_options(ProjectConfig(), options)


@pytest.mark.parametrize("carried", [{"output": "/etc/passwd"}, {"slim": "yes"}, {"labels": [1]}, {"push": 3}])
def test_options_of_another_kind_are_refused(carried: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="the job's option"):
        read_options(carried)


def test_an_alias_is_the_version_that_it_names_now() -> None:
    class Store:
        def pin(self, reference: ModelReference) -> ModelReference:
            return ModelReference.parse("models:/churn/3") if reference.alias else reference

    session: Any = SimpleNamespace(config=ProjectConfig(), tools=SimpleNamespace(store=Store()), voice=None)
    asked = ask_for(["models:/churn@champion", RUN], ImageOptions(), session)
    assert [each.model for each in asked] == ["models:/churn/3", RUN]
    twice = ask_for(["models:/churn@champion", "models:/churn/3", RUN], ImageOptions(), session)
    assert twice == asked, "one job for each model, however it is named"


@pytest.mark.parametrize("models", [[], [RUN]])
@pytest.mark.parametrize(
    ("options", "error"),
    [(ImageOptions(labels=("a",)), LabelError), (ImageOptions(push="registry.example/UPPER:1"), InvalidReference)],
)
def test_what_no_worker_can_build_is_told_who_asks_for_it(
    models: list[str], options: ImageOptions, error: type[KbuildError]
) -> None:
    session: Any = SimpleNamespace(config=ProjectConfig(), tools=None, voice=None)
    with pytest.raises(error):
        ask_for(models, options, session)


def test_a_folder_is_named_as_others_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").touch()
    monkeypatch.chdir(tmp_path)
    store = SimpleNamespace(pin=lambda reference: reference)
    session: Any = SimpleNamespace(config=ProjectConfig(), tools=SimpleNamespace(store=store), voice=None)
    (asked,) = ask_for(["./model"], ImageOptions(), session)
    assert asked.model == str(tmp_path / "model")


def test_best_of_a_run_is_named_before_it_waits() -> None:
    with pytest.raises(ConfigurationError, match="--best names no model that could wait") as caught:
        carry_options(ProjectConfig(), ImageOptions(best=Measure(metric="f1")))
    assert caught.value.hint == "give the run that it takes"


@pytest.mark.parametrize("url", ["postgresql://h:x/d", "postgresql://u:p@w@h/d"])
def test_what_libpq_does_not_read_is_not_shown(url: str) -> None:
    address = QueueAddress(url)
    assert str(address) == "postgresql://"
    assert "p@w" not in address.conceal(f"cannot reach {url}") and "cannot reach" in address.conceal(
        f"cannot reach {url}"
    )


@pytest.mark.parametrize(
    ("configured", "stated", "taken"),
    [
        ("registry.example/a", None, "registry.example/a"),
        ("registry.example/a", "registry.example/b", "registry.example/b"),
        ("registry.example/a", "", None),
        (None, "registry.example/b", "registry.example/b"),
        (None, None, None),
    ],
)
def test_what_an_option_says_counts_before_the_project(
    configured: str | None, stated: str | None, taken: str | None
) -> None:
    """Also that it says nothing: an empty --cache-from takes no layers from anywhere."""
    config = ProjectConfig(cache_from=configured, cache_to=configured)
    options = ImageOptions(cache_from=stated, cache_to=stated)
    request, delivery = make_image_request(config, RUN, options.engine, options), make_delivery(config, options)
    for place in (request.cache_from, delivery.cache_to):
        assert (None if place is None else place.name) == taken
