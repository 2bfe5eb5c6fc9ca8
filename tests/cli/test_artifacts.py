"""``kbuild deploy``, ``kbuild pack`` and ``kbuild score`` as they are typed: what they hand on, print and say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.api import packing
from kbuild.api.deploying import DeployOptions
from kbuild.api.packing import ScoreOptions
from kbuild.cli.app import cli
from kbuild.deploy.serverless import BEFORE
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError, OutputError
from kbuild.workflow.batch.packing import PackResult
from kbuild.workflow.batch.scoring import ScoreRequest
from kbuild.workflow.prepare import ImageRequest

DIGESTS = {name: Digest(figure * 64) for name, figure in (("", "1"), ("model_", "2"), ("lock_", "3"), ("plan_", "4"))}
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(packing, "take_model", lambda model, *_: model or "the newest")
    return lambda *argv: CliRunner().invoke(cli, [str(each) for each in argv])


@pytest.mark.parametrize(
    ("to", "next"),
    [
        ("kubernetes", "kubectl apply -k out"),
        ("knative", "kubectl apply -k out"),
        ("kserve", "kubectl apply -k out"),
        ("compose", "docker compose --project-directory out up -d"),
    ],
)
def test_the_files_are_printed_and_what_serves_them_is_said(
    call: Call, monkeypatch: pytest.MonkeyPatch, to: str, next: str
) -> None:
    asked: list[Any] = []

    def deploy(subject: str, output: Path, options: DeployOptions, *, session: Any) -> list[Path]:
        asked.append((subject, output, options))
        return [output / "a.yaml", output / "b.yaml"]

    monkeypatch.setattr("kbuild.cli.deploy.deploy", deploy)
    given = ["--name", "churn", "--cpu", "2", "--memory", "1Gi"]
    of_clusters = ["--namespace", "shop", "--pull-secret", "keys", "--replicas", "2..5"] if to != "compose" else []
    done = call("deploy", "models:/churn/3", "--to", to, "-o", "out", *given, *of_clusters)
    assert (done.exit_code, done.stdout) == (0, "out/a.yaml\nout/b.yaml\n"), done.exception
    assert f"  {next}  # serve it" in done.stderr
    ((subject, output, options),) = asked
    assert (subject, output) == ("models:/churn/3", Path("out"))
    assert (options.to, options.name, options.cpu, options.memory) == (to, "churn", "2", "1Gi")
    told = (options.namespace, options.pull_secret, options.replicas)
    assert told == (("shop", "keys", (2, 5)) if of_clusters else (None, None, (2, 10)))
    done = call("deploy", "x", "--to", to, "-o", "out", "--replicas", "many")
    assert isinstance(done.exception, ConfigurationError) and len(asked) == 1


@pytest.mark.parametrize("folder", ["my deployment", "it's"])
@pytest.mark.parametrize(("to", "canary"), [("kubernetes", False), ("kserve", True), ("compose", False)])
def test_a_shell_takes_the_folder_of_what_serves_them_for_one_word(
    call: Call, monkeypatch: pytest.MonkeyPatch, to: str, canary: bool, folder: str
) -> None:
    monkeypatch.setattr("kbuild.cli.deploy.deploy", lambda *_, **__: [])
    before = Path(folder, BEFORE)
    before.mkdir(parents=True)
    done = call("deploy", "x", "--to", to, "-o", folder, *(["--canary", "y"] if canary else []))
    words = [shlex.split(line, comments=True) for line in done.stderr.splitlines()]
    applied = [["kubectl", "apply", "-k", str(each)] for each in (*([before] if canary else []), folder)]
    assert words == ([["docker", "compose", "--project-directory", folder, "up", "-d"]] if to == "compose" else applied)


@pytest.mark.parametrize("reused", [False, True])
def test_an_archive_is_printed_with_its_digest(call: Call, monkeypatch: pytest.MonkeyPatch, reused: bool) -> None:
    asked: list[Any] = []

    def pack_model(request: ImageRequest, tools: Any, *, output: Path, reuse: bool) -> PackResult:
        asked.append((request, output, reuse))
        digests = {f"{name}digest": value for name, value in DIGESTS.items()}
        return PackResult(path=output, size=12_600_000, reused=reused, **digests)

    monkeypatch.setattr(packing, "pack_model", pack_model)
    done = call("pack", "models:/churn/3", "-o", "m.tar.zst", "--label", "team=a", "--base", "debian:trixie")
    assert (done.exit_code, done.stdout) == (0, f"m.tar.zst\tsha256:{'1' * 64}\n"), done.exception
    # Of one that is packed now the phase tells its size.
    assert f"\n{'13 MB; ' * reused}it runs wherever it is unpacked\n" in f"\n{done.stderr}"
    assert (
        "  mkdir m && tar -xf m.tar.zst -C m  # unpack it\n  m/bin/kbuild-score IN OUT          # score tables\n"
        in done.stderr
    )
    assert ("nothing has changed since this was packed" in done.stderr) is reused
    ((request, output, reuse),) = asked
    assert (request.model, request.base, request.labels) == ("models:/churn/3", "debian:trixie", (("team", "a"),))
    assert (output, reuse) == (Path("m.tar.zst"), True)
    done = call("pack", "--no-cache", "--json")
    told = json.loads(done.stdout)
    assert told.pop("seconds") == {}
    assert told == {
        "path": "model.tar.gz", "digest": f"sha256:{'1' * 64}", "size": 12_600_000, "reused": reused,
        "model_digest": f"sha256:{'2' * 64}", "lock_digest": f"sha256:{'3' * 64}", "plan_digest": f"sha256:{'4' * 64}",
    }  # fmt: skip
    assert asked[-1][0].model == "the newest" and asked[-1][2] is False


def test_an_archive_that_no_name_can_be_is_refused_before_a_model_is_looked_for(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object) -> str:
        raise AssertionError("nobody is asked")

    monkeypatch.setattr(packing, "take_model", nobody)
    assert isinstance(call("pack", "-o", "model.zip").exception, OutputError)


def test_a_batch_for_a_cluster_goes_to_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    manifest = {"rows": 9, "parts": [], "failed": 7, "reasons": {f"reason {number}": number for number in range(1, 8)}}
    manifest |= {"job": "j", "input": [], "options": {}, "answered": 2, "rejected": "rejected", "rows_alone": "seen"}

    def score_on_spark(
        request: ImageRequest, batch: ScoreRequest, master: str, settings: dict[str, str], tools: Any
    ) -> dict[str, Any]:
        asked.append((request, batch, master, settings))
        return manifest

    monkeypatch.setattr("kbuild.workflow.batch.spark.score_on_spark", score_on_spark)
    conf = ["--spark-conf", "spark.executor.memory=2g", "--spark-conf", "a=b=c"]
    options = ["--spark", "spark://host:7077", *conf, "--interpreter", "captured", "--overwrite", "--json"]
    done = call("score", "models:/churn/3", "in.csv", "out", *options)
    assert done.exit_code == 0, done.exception
    ((request, batch, master, settings),) = asked
    assert (request.model, request.lock.interpreter) == ("models:/churn/3", "captured")
    assert master == "spark://host:7077" and settings == {"spark.executor.memory": "2g", "a": "b=c"}
    assert (batch.input, batch.output, batch.overwrite, batch.on_error) == ("in.csv", "out", True, "fail")
    told = json.loads(done.stdout)
    assert {name: told[name] for name in manifest} == manifest and "seconds" in told
    # The first five of the reasons are enough for a line each.
    assert [line for line in done.stderr.splitlines() if "reason" in line] == [
        "1 row: reason 1",
        *(f"{number} rows: reason {number}" for number in range(2, 6)),
        "each of these rows with its reason: out/rejected",
    ]
    # As the manifest names it where the answers are one file.
    manifest["rejected"] = "o.csv.rejected.jsonl"
    for out, place in (("o.csv", ""), ("a/o.csv", "a/"), ("/o.csv", "/")):
        said = call("score", "models:/churn/3", "in.csv", out, "--spark", "spark://h").stderr
        assert f"with its reason: {place}o.csv.rejected.jsonl\n" in said


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--params", "{"], "is not JSON"),
        (["--params", "[]"], "is not a JSON object"),
        (["--spark-conf", "a=b", "--spark-conf", "memory"], "memory is not NAME=VALUE"),
        (["--workers", "0"], "--workers"),
        (["--part-rows", "0"], "--part-rows"),
    ],
)
def test_options_of_a_batch_that_cannot_be(call: Call, option: list[str], told: str) -> None:
    done = call("score", "m", "in", "out", *option)
    assert done.exit_code == 2 and told in done.stderr


def test_options_of_a_batch_are_none_unless_they_are_said() -> None:
    """Else the scorer's own defaults, which another archive may have other ones of, would never count."""
    asked = ScoreOptions()
    batch = ScoreRequest(input="in", output="out")
    assert (asked.workers, asked.format, asked.part_rows, asked.batch_rows, asked.params) == (None,) * 5
    assert batch.argv() == ["--on-error=fail", "--keep=all", "--", "in", "out"]
