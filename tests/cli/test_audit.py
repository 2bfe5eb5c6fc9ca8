from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from kbuild.api.project import read_project_config
from kbuild.cache.prune import prune_cache
from kbuild.cli.audit import FORMATS, command
from kbuild.cli.audit_formats import REPORTS
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import INPUT_DIGEST_KEY
from kbuild.environment.locking.wanted import LockRequest, fresh_inputs
from kbuild.errors import (
    AuditFindings,
    AuditIncomplete,
    CacheInUse,
    ConfigurationError,
    InvalidReference,
    KbuildError,
    OutputError,
)
from kbuild.model.bundle import read_bundle
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.request import Audited, AuditRequest

LOCK = """\
version: 1
metadata:
  channels: []
  platforms: [linux-64]
package:
- name: jinja2
  version: 2.4.1
  manager: pip
  platform: linux-64
  url: https://files.example/jinja2-2.4.1-py3-none-any.whl
  hash: {sha256: '0000000000000000000000000000000000000000000000000000000000000000'}
"""
RECORD = {
    "id": "PYSEC-2014-8",
    "modified": "2026-11-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "versions": ["2.4.1"]}],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network is asked: pip has an index, and the commands are told to be offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    (tmp_path / "conda-lock.yml").write_text(LOCK)
    (tmp_path / "advisories.json").write_text(json.dumps(RECORD))
    return tmp_path


def audit(*argv: str) -> Result:
    return CliRunner().invoke(command, ["conda-lock.yml", "--offline", "--today", "2026-11-22", *argv])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_names_the_finding_and_the_verdict(form: str) -> None:
    done = audit("--advisories", "advisories.json", "--format", form)
    assert isinstance(done.exception, AuditFindings)
    assert "PYSEC-2014-8" in done.stdout
    assert "findings" in done.stdout or form == "openvex"  # knows statements only


@pytest.mark.parametrize("form", sorted({*FORMATS} - {"openvex"}))
def test_every_format_names_what_was_not_checked(form: str, folder: Path) -> None:
    done = audit("--format", form, "--output", "report")
    assert isinstance(done.exception, AuditIncomplete)
    assert done.stdout == ""
    assert "incomplete" in (folder / "report").read_text()


def test_all_that_a_job_shows_is_written_at_once(folder: Path) -> None:
    done = audit("--advisories", "advisories.json", "--reports", "made/reports")
    assert isinstance(done.exception, AuditFindings) and "PYSEC-2014-8" in done.stdout
    for name, form in REPORTS.items():
        again = audit("--advisories", "advisories.json", "--format", form)
        assert (folder / "made" / "reports" / name).read_text() == again.stdout, name


def test_openvex_of_nothing_leaves_no_document_of_before(folder: Path) -> None:
    (folder / "report").write_text("of yesterday")
    done = audit("--format", "openvex", "--output", "report")
    assert isinstance(done.exception, AuditIncomplete)
    assert not (folder / "report").exists()
    assert "nothing that OpenVEX could state" in done.stderr


def test_fail_on_lets_lesser_findings_pass(folder: Path) -> None:
    policy = '[tool.kbuild.audit]\nallowed-indexes = ["https://files.example/"]\n'
    policy += '[[tool.kbuild.audit.ignore]]\nid = "unchecked"\nreason = "offline"\nexpires = 2099-01-01\n'
    (folder / "pyproject.toml").write_text(policy)
    failing = audit("--advisories", "advisories.json", "--fail-on", "high", "--format", "json")
    assert isinstance(failing.exception, AuditFindings)
    passing = audit("--advisories", "advisories.json", "--fail-on", "critical", "--format", "json")
    assert passing.exit_code == 0, passing.exception
    report = json.loads(passing.stdout)
    assert (report["verdict"], report["counts"]["high"], len(report["accepted"])) == ("clean", 1, 2)


def test_an_ignore_that_has_expired_is_told_with_the_verdict(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.kedro]\n")
    (folder / "conf" / "base").mkdir(parents=True)
    kept = "audit:\n  ignore:\n    - {id: PYSEC-2014-8, package: [jinja2], reason: looked at, expires: 2026-11-21}\n"
    (folder / "conf/base/kbuild.yml").write_text(kept)
    done = audit("--advisories", "advisories.json")
    assert isinstance(done.exception, AuditFindings)
    assert "the ignore of PYSEC-2014-8 of jinja2 expired on 2026-11-21" in done.exception.message
    assert "conf/base/kbuild.yml" in str(done.exception.hint)
    (folder / "conf/base/kbuild.yml").write_text(kept.replace("11-21", "11-22"))
    assert isinstance(audit("--advisories", "advisories.json").exception, AuditIncomplete)  # releases were not asked


def test_what_is_wrong_in_a_policy_names_its_file_and_key(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.kedro]\n[[tool.kbuild.audit.ignore]]\nid = "X"\nreason = "r"\n')
    for name in ("base", "local"):
        (folder / "conf" / name).mkdir(parents=True)
    done = audit()
    assert isinstance(done.exception, ConfigurationError)
    assert done.exception.message.startswith("pyproject.toml, [tool.kbuild.audit]: ignore[0].expires has to be a date")
    (folder / "conf/local/kbuild.yml").write_text("audit: {fail-on: bad, ignored: []}\n")
    done = audit()
    assert isinstance(done.exception, ConfigurationError)
    assert done.exception.message == (
        "conf/local/kbuild.yml, audit: ignored is unknown; fail-on has to be one of low, medium, high, critical"
    )


def test_the_report_keeps_to_the_schema_that_it_shows() -> None:
    schema = json.loads(CliRunner().invoke(command, ["--schema"]).stdout)
    report = json.loads(audit("--advisories", "advisories.json", "--format", "json").stdout)
    Draft202012Validator(schema).validate(report)
    assert not Draft202012Validator(schema).is_valid({**report, "verdict": "fine"})


def test_one_reference_or_all() -> None:
    done = CliRunner().invoke(command, ["conda-lock.yml", "--all-registered"])
    assert done.exit_code == 2
    assert "--all-registered" in done.stderr


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["~nobody-of-this-name/image"], InvalidReference),
        (["conda-lock.yml", "--advisories", "~nobody-of-this-name/osv"], ConfigurationError),
    ],
)
def test_the_home_of_a_user_that_is_not_there_is_no_defect(argv: list[str], error: type[KbuildError]) -> None:
    done = CliRunner().invoke(command, [*argv, "--no-record"])
    assert isinstance(done.exception, error) and "~nobody-of-this-name" in done.exception.message


def test_what_is_audited_is_not_removed_from_the_cache_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def audit_model(auditor: object, reference: object) -> None:
        for name, used in (("mine", time.time()), ("old", 1.0)):
            (folder / "cache/wheels" / name).mkdir(parents=True)
            os.utime(folder / "cache/wheels" / name, (used, 0))
        assert [entry.path.name for entry in prune_cache(folder / "cache", limit=0)] == ["old"]
        raise CacheInUse("seen")

    monkeypatch.setattr(Auditor, "audit_model", audit_model)
    (folder / "model").mkdir()
    (folder / "model/MLmodel").touch()
    assert isinstance(CliRunner().invoke(command, ["model"]).exception, CacheInUse)


@pytest.mark.parametrize(
    ("recorded", "stale"), [(["$KBUILD_CHANNEL", "https://conda.example/own"], []), (["other"], ["lock-stale"])]
)
def test_a_lock_of_channels_asked_for_by_name_is_fresh(folder: Path, recorded: list[str], stale: list[str]) -> None:
    """``kbuild lock --channel``: neither the model nor the configuration has heard of the channel."""
    model = folder / "model"
    model.mkdir()
    (model / "MLmodel").write_text("flavors: {python_function: {loader_module: six, env: {conda: conda.yaml}}}\n")
    (model / "conda.yaml").write_text("{channels: [conda-forge], dependencies: [python=3.11.7, {pip: [six==1.17.0]}]}")
    inputs = fresh_inputs(
        read_bundle(model),
        LockRequest(platforms=(Platform("linux", "amd64"),), channels=("https://conda.example/own",)),
        Indexes(urls=("http://127.0.0.1:9/simple",)),
        cache=folder / "cache",
        run=run,
        environ={},
    )
    lock = yaml.safe_load(LOCK)
    lock["metadata"]["channels"] = [{"url": url, "used_env_vars": []} for url in recorded]
    # Of nearly two hundred some: in the set that the audit compares with, one is as another.
    for each in sorted(inputs, key=str)[::40]:
        lock["metadata"]["custom_metadata"] = {INPUT_DIGEST_KEY: str(each)}
        (folder / "conda-lock.yml").write_text(yaml.safe_dump(lock))
        done = CliRunner().invoke(
            command, ["model", "--lockfile", "conda-lock.yml", "--offline", "--no-record", "--format", "json"]
        )
        found = json.loads(done.stdout)
        assert [each["id"] for each in found["findings"] if each["id"] == "lock-stale"] == stale
        assert not [each for each in found["unchecked"] if "fresh" in each["reason"]]


def test_a_policy_that_is_none_is_told_by_every_command(folder: Path) -> None:
    """Not after minutes of locking and building, where the audit would be the first to read it."""
    (folder / "pyproject.toml").write_text('[tool.kedro]\n[tool.kbuild.audit]\nfail-on = "bad"\n')
    with pytest.raises(ConfigurationError, match=r"^pyproject.toml, \[tool.kbuild.audit\]: fail-on"):
        read_project_config(folder)


@pytest.mark.parametrize(
    ("verdicts", "error"),
    [
        (["clean", "clean"], None),
        (["clean", "incomplete"], AuditIncomplete),
        (["clean", None], AuditIncomplete),
        (["clean", None, "findings"], AuditFindings),
        ([], None),
    ],
)
def test_of_many_models_the_worst_verdict_counts(
    folder: Path, verdicts: list[str | None], error: type[KbuildError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = '[[tool.kbuild.audit.ignore]]\nid = "unchecked"\nreason = "offline"\nexpires = 2099-01-01\n'
    (folder / "pyproject.toml").write_text(policy)
    made: dict[str, Audited] = {}
    real = Auditor.audit_lock

    def keep(self: Auditor, path: Path) -> Audited:
        made["last"] = real(self, path)
        return made["last"]

    monkeypatch.setattr(Auditor, "audit_lock", keep)
    audit("--advisories", "advisories.json", "--fail-on", "critical")
    assert made["last"].report.verdict == "clean"
    by_verdict: dict[str | None, Audited | KbuildError] = {"clean": made["last"], None: InvalidReference("gone")}
    audit("--advisories", "advisories.json")
    by_verdict["findings"] = made["last"]
    (folder / "pyproject.toml").unlink()
    (folder / "advisories.json").write_text(json.dumps(RECORD | {"id": "X-1", "affected": []}))
    audit("--advisories", "advisories.json")
    by_verdict["incomplete"] = made["last"]
    assert {key: each.report.verdict for key, each in by_verdict.items() if isinstance(each, Audited)} == {
        each: each for each in ("clean", "findings", "incomplete")
    }
    results = [(f"models:/m/{number}", by_verdict[each]) for number, each in enumerate(verdicts)]
    monkeypatch.setattr(Auditor, "audit_registered", lambda self: iter(results))
    done = CliRunner().invoke(command, ["--all-registered", "--offline", "--format", "json"])
    assert (type(done.exception) if done.exception else None) is error
    told = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    worst = {None: "clean", AuditIncomplete: "incomplete", AuditFindings: "findings"}[error]
    assert (told["verdict"], len(told["errors"])) == (worst, verdicts.count(None))


@pytest.mark.parametrize(
    ("typed", "said"), [([], "osv"), (["--service", "none"], "none"), (["--service", "all"], "all")]
)
def test_what_is_typed_is_stronger_than_the_policy(
    folder: Path, typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text('[tool.kbuild.audit]\nservice = "osv"\n')
    asked: list[AuditRequest] = []

    def made(request: AuditRequest, *_: object, **__: object) -> None:
        asked.append(request)
        raise ConfigurationError("seen")

    monkeypatch.setattr("kbuild.api.auditing.Auditor", made)
    assert isinstance(audit(*typed).exception, ConfigurationError)
    (request,) = asked
    assert (request.policy.service, request.offline, request.record, str(request.today)) == (
        said, True, True, "2026-11-22"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["x", "--all-registered"], "give a REFERENCE or --all-registered"),
        (["--all-registered", "--format", "openvex"], "--format openvex is of one model"),
        (["--affected-by", "numpy<2"], "--affected-by goes with --all-registered"),
        (["--all-registered", "--affected-by", "numpy<2", "--format", "sarif"], "has the formats table and json"),
    ],
)
def test_what_does_not_go_together_is_refused(argv: list[str], told: str) -> None:
    done = CliRunner().invoke(command, argv)
    assert done.exit_code == 2 and told in " ".join(done.stderr.replace("\n", " ").split())


def test_where_nothing_is_registered_a_question_to_all_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.cli.audit.ask_fleet", lambda *_: iter(()))
    done = CliRunner().invoke(command, ["--all-registered", "--affected-by", "jinja2<3"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "no model is registered here" in said and "written rightly" not in said


def test_an_audit_of_all_of_no_models_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.cli.audit.audit_registered", lambda *_: [])
    done = CliRunner().invoke(command, ["--all-registered"])
    assert (done.exit_code, done.stderr) == (0, "no model is registered\n"), done.output


def test_a_report_that_cannot_be_written_and_a_day_that_is_none_are_told(folder: Path) -> None:
    (folder / "report").mkdir()
    done = audit("--advisories", "advisories.json", "--output", "report")
    assert isinstance(done.exception, OutputError) and "cannot write report" in done.exception.message
    done = CliRunner().invoke(command, ["conda-lock.yml", "--offline", "--today", "tomorrow"])
    assert isinstance(done.exception, ConfigurationError) and "'tomorrow'" in done.exception.message
    schema = CliRunner().invoke(command, ["--schema", "--output", "schema.json"])
    assert schema.exit_code == 0 and json.loads((folder / "schema.json").read_text())["$schema"]
