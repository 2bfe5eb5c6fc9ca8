"""What is typed after verify, run, worker, watch, deploy, measure and score arrives where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.answers import DEFAULT, Difference, Tolerance
from kbuild.api.deploying import DeployOptions
from kbuild.api.fleet.audits import Auditing
from kbuild.api.measuring import MeasureOptions
from kbuild.api.packing import ScoreOptions
from kbuild.api.rebuilding import RebuildOptions
from kbuild.api.running import RunOptions
from kbuild.api.verifying import VerifiedImage, VerifyOptions
from kbuild.cli.app import cli
from kbuild.deploy.canary import Gateway
from kbuild.deploy.serverless import BEFORE
from kbuild.digest import Digest
from kbuild.errors import NothingToAsk
from kbuild.platform import Platform
from kbuild.verify.golden import VerificationReport

ARM = Platform("linux", "arm64")
URL = "postgresql://bob@127.0.0.1:9/queue"


class Done(Exception):
    """Ends a command where its work would begin."""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "model").mkdir()
    (tmp_path / "lock.yml").touch()
    for command in ("worker", "watch"):
        monkeypatch.setattr(f"kbuild.cli.{command}.check_extra", lambda *_, **__: None)

    def run(*argv: str) -> Result:
        done = CliRunner().invoke(cli, list(argv))
        if done.exception is not None and not isinstance(done.exception, Done | SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def stop(name: str) -> Callable[..., None]:
        def call(*given: Any, session: Any = None, **more: Any) -> None:
            seen.append((name, *given, more))
            raise Done

        return call

    for place in ("cli.verify.verify", "api.rebuilding.rebuild", "cli.run.run", "cli.worker.work"):
        monkeypatch.setattr(f"kbuild.{place}", stop(place.rpartition(".")[2]))
    return seen


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", VerifyOptions()),
        ("--timeout 7", VerifyOptions(timeout=7.0)),
        ("--rtol 0.5", VerifyOptions(rtol=0.5)),
        ("--atol 0.5", VerifyOptions(atol=0.5)),
        ("--rtol 0 --atol 0", VerifyOptions(rtol=0.0, atol=0.0)),
        ("--exact", VerifyOptions(exact=True)),
        ("--platform linux/arm64", VerifyOptions(platform=ARM)),
    ],
)
def test_options_of_verify(call: Any, asked: list[Any], typed: str, options: VerifyOptions) -> None:
    call("verify", "churn:1", *typed.split())
    assert asked == [("verify", "churn:1", options, {})]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", RebuildOptions()),
        ("--reuse-downloads", RebuildOptions(reuse_downloads=True)),
        ("--model model", RebuildOptions(model=Path("model"))),
        ("--lockfile lock.yml", RebuildOptions(lockfile=Path("lock.yml"))),
        ("--platform linux/arm64", RebuildOptions(platform=ARM)),
    ],
)
def test_options_of_building_again(call: Any, asked: list[Any], typed: str, options: RebuildOptions) -> None:
    call("verify", "churn:1", "--rebuild", *typed.split())
    assert asked == [("rebuild", "churn:1", options, {})]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", RunOptions()),
        ("--port 8123", RunOptions(port=8123)),
        ("--timeout 7", RunOptions(timeout=7.0)),
        ("--platform linux/arm64", RunOptions(platform=ARM)),
        (
            "--variable KBUILD_TIMEOUT=5 --variable KBUILD_CORS_ORIGINS=https://a=b --variable EMPTY=",
            RunOptions(variables={"KBUILD_TIMEOUT": "5", "KBUILD_CORS_ORIGINS": "https://a=b", "EMPTY": ""}),
        ),
    ],
)
def test_options_of_run(call: Any, asked: list[Any], typed: str, options: RunOptions) -> None:
    call("run", *typed.split())
    assert asked == [("run", None, options, {})]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", {}),
        ("--jobs 5", {"jobs": 5}),
        ("--once", {"once": True}),
        ("--lease 90", {"lease": 90.0}),
        ("--name mine", {"name": "mine"}),
        ("--no-audit", {"audit": None}),
        ("--fail-on high", {"audit": Auditing(fail_on="high")}),
    ],
)
def test_options_of_a_worker(call: Any, asked: list[Any], typed: str, options: dict[str, Any]) -> None:
    done = call("worker", "--queue", URL, *typed.split())
    ((_, address, given),) = asked
    given.pop("watcher")
    default = {"jobs": 1, "once": False, "lease": 30.0, "name": None, "audit": Auditing(fail_on=None)}
    assert address.url == URL and given == default | options
    assert "working on " in done.stderr


def test_a_watch_leaves_the_work_to_the_queue_that_is_named(
    call: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def open_queue(url: str) -> Iterator[str]:
        asked.append(url)
        yield "the board"

    def open_watch(options: Any, *, session: Any, board: Any) -> Any:
        asked.append((options.models, options.aliases, options.image.push, board))
        return SimpleNamespace(run_once=list)

    monkeypatch.setattr("kbuild.api.fleet.queueing.open_queue", open_queue)
    monkeypatch.setattr("kbuild.cli.watch.open_watch", open_watch)
    push = "registry.example/{name}:{version}"
    done = call("watch", "--once", "--push", push, "--queue", URL, "--model", "a*", "--model", "b", "--alias", "prod")
    assert done.exit_code == 0 and asked == [URL, (("a*", "b"), ("prod",), push, "the board")]
    asked.clear()
    call("watch", "--once", "--push", push)
    assert asked == [((), (), push, None)]


WIDE = Tolerance(relative=0.5)


@pytest.mark.parametrize(
    ("report", "told", "untold"),
    [
        ({}, ["largest difference: none, every value"], "does not keep"),
        ({"largest": Difference(path="[0]", expected=1.0, got=1.25)}, ["largest difference: "], "none, every value"),
        ({"kept": False, "tolerance": WIDE}, ["does not keep: its run is tagged 'tolerated: within"], "nothing"),
        ({"compared": False, "expected": None}, ["recorded no prediction to compare with"], "largest difference"),
    ],
    ids=["equal", "near", "tolerated", "answered"],
)
def test_what_an_image_answered_is_said(
    call: Any, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], told: list[str], untold: str
) -> None:
    facts = {"url": "", "runtime": "", "prediction": [1.0], "expected": [1.0], "compared": True, "largest": None}
    whole = VerificationReport(**{**facts, "tolerance": DEFAULT, **report})
    found = VerifiedImage(image="churn:1", digest=Digest("a1" * 32), report=whole)
    monkeypatch.setattr("kbuild.cli.verify.verify", lambda *_, **__: found)
    done = call("verify", "churn:1")
    assert (done.exit_code, done.stdout) == (0, f"sha256:{'a1' * 32}\n")
    assert all(each in done.stderr for each in told) and untold not in done.stderr, done.stderr
    assert "kbuild run churn:1  " in done.stderr and "kbuild verify churn:1 --rebuild" in done.stderr
    # Without a name, or with a platform, of which the name alone says nothing.
    for typed in ([], ["churn:1", "--platform", "linux/amd64"]):
        assert f"kbuild run sha256:{'a1' * 6}  " in call("verify", *typed).stderr


def test_what_goes_with_rebuild_alone_and_what_nobody_can_ask(
    call: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for typed in (["--lockfile", "lock.yml"], ["--model", "model"], ["--exact", "--rtol", "1"]):
        assert call("verify", "churn:1", *typed).exit_code == 2
    assert asked == []

    def nothing(*_: object, **__: object) -> None:
        raise NothingToAsk("no example")

    monkeypatch.setattr("kbuild.cli.verify.verify", nothing)
    with pytest.raises(NothingToAsk):
        call("verify", "churn:1")


DEPLOYED: list[tuple[str, dict[str, Any]]] = [
    (
        "deploy i --to kubernetes -o o --name n --namespace s --pull-secret p --cpu 2 --memory 1Gi --replicas 2..5 "
        "--profile p.json --canary j=10 --gateway g/w --hostname h.example",
        {
            "to": "kubernetes", "name": "n", "namespace": "s", "pull_secret": "p", "cpu": "2", "memory": "1Gi",
            "replicas": (2, 5), "profile": Path("p.json"), "canary": ("j", 10),
            "gateway": Gateway(name="w", namespace="g", hostname="h.example"),
        },
    ),
    ("deploy i --to kserve -o o --serverless --canary j", {"to": "kserve", "serverless": True, "canary": ("j", 10)}),
    ("deploy i --to compose -o o --port 81", {"to": "compose", "port": 81}),
    ("deploy i --to kubernetes -o o --gateway w", {"to": "kubernetes", "gateway": Gateway(name="w", hostname=None)}),
    ("deploy i --to knative -o o", {"to": "knative"}),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "options"), DEPLOYED, ids=[typed for typed, _ in DEPLOYED])
def test_options_of_deploy(
    call: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch, typed: str, options: dict[str, Any]
) -> None:
    def deploy(subject: str, output: Path, options: DeployOptions, *, session: Any) -> list[Path]:
        asked.append((subject, output, options))
        return [Path("o/one.yaml")]

    monkeypatch.setattr("kbuild.cli.deploy.deploy", deploy)
    done = call(*typed.split())
    assert (done.exit_code, done.stdout) == (0, "o/one.yaml\n"), done.stderr
    assert asked == [("i", Path("o"), DeployOptions(**options))]
    apply = "docker compose --project-directory o up -d" if options["to"] == "compose" else "kubectl apply -k o "
    assert apply in done.stderr and ("kubectl" in done.stderr) is (options["to"] != "compose")


@pytest.mark.parametrize(("canary", "there"), [(True, True), (False, True), (True, False)])
def test_what_is_compared_with_is_applied_first(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: bool, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o" / (BEFORE if there else "")).mkdir(parents=True)
    monkeypatch.setattr("kbuild.cli.deploy.deploy", lambda *_, **__: [])
    done = call("deploy", "i", "--to", "kserve", "-o", "o", *(["--canary", "j"] if canary else []))
    lines = [line.split("#")[0].strip() for line in done.stderr.splitlines()]
    assert lines == [f"kubectl apply -k o/{BEFORE}"] * (canary and there) + ["kubectl apply -k o"]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", MeasureOptions(cpu="1", connections=(1, 8), seconds=5.0, run=RunOptions(timeout=120.0))),
        (
            "--cpu 2 --connections 4,1,4 --seconds 2.5 --request r.json --timeout 9 --platform linux/arm64",
            MeasureOptions(
                cpu="2", connections=(4, 1), seconds=2.5, request=Path("r.json"),
                run=RunOptions(timeout=9.0, platform=Platform("linux", "arm64")),
            ),
        ),
    ],
)  # fmt: skip
def test_options_of_measure(
    call: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch, typed: str, options: MeasureOptions
) -> None:
    def measure(image: str, options: MeasureOptions, *, session: Any) -> None:
        asked.append((image, options))
        raise NothingToAsk("seen")

    monkeypatch.setattr("kbuild.cli.measure.measure", measure)
    with pytest.raises(NothingToAsk):
        call("measure", "i", *typed.split())
    assert asked == [("i", options)]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", ScoreOptions()),
        (
            "--on-error null --keep a,b --format csv --params {"
            '"k":1} --overwrite --part-rows 7 --batch-rows 5 --spark spark://h --spark-conf a=b=c --spark-conf d=',
            ScoreOptions(
                on_error="null", keep="a,b", format="csv", params={"k": 1}, overwrite=True, part_rows=7, batch_rows=5,
                spark="spark://h", spark_settings={"a": "b=c", "d": ""},
            ),
        ),
        ("-j 3", ScoreOptions(workers=3)),
        ("--base debian:trixie --locked", ScoreOptions(base="debian:trixie", locked=True)),
    ],
)  # fmt: skip
def test_options_of_score(
    call: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch, typed: str, options: ScoreOptions
) -> None:
    reasons = {f"reason {number}": 9 - number for number in range(7)}
    manifest = {"reasons": {**reasons, "reason 0": 12_345}, "rows": 1}

    def score(model: str, input: str, output: str, options: ScoreOptions, *, session: Any) -> dict[str, Any]:
        asked.append((model, input, output, options))
        return manifest

    monkeypatch.setattr("kbuild.cli.score.score", score)
    done = call("score", "m", "in.csv", "out", *typed.split())
    assert done.stdout == "out\n" and asked == [("m", "in.csv", "out", options)]
    lines = [line for line in done.stderr.splitlines() if " rows: " in line]
    assert lines[0] == "12,345 rows: reason 0" and len(lines) == 5
