"""``--affected-by`` over a registry: which versions, and what is not known of the others."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from world import World

from kbuild.audit.lockview import LockEntry
from kbuild.audit.policy import Policy
from kbuild.audit.sources.services import NotKnown
from kbuild.cli.audit_fleet import raise_for_fleet, render_fleet
from kbuild.errors import AuditFindings, AuditIncomplete, ConfigurationError, IndexUnavailable
from kbuild.model.find import RegisteredVersion
from kbuild.workflow.audit.fleet import FleetRow, ask_fleet, make_question
from kbuild.workflow.audit.request import AuditRequest

LOCK = """\
version: 1
metadata: {{channels: [], platforms: [linux-64]}}
package:
- {{name: Jinja2, version: {version}, manager: pip, platform: linux-64}}
- {{name: libodd, version: '1', manager: conda, platform: linux-64}}
"""
RECORD = {
    "id": "PYSEC-1",
    "aliases": ["CVE-2014-1402"],
    "modified": "2026-11-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "versions": ["2.4.1"]}],
}


@pytest.fixture
def request_of(world: World, tmp_path: Path) -> AuditRequest:
    (tmp_path / "records.json").write_text(json.dumps(RECORD))
    policy = Policy(advisories=str(tmp_path / "records.json"))
    lock = world.lock_request()
    return AuditRequest(policy=policy, today=date(2026, 11, 1), fail_on="low", lock=lock, offline=True, record=False)


@pytest.fixture
def fleet(world: World, monkeypatch: pytest.MonkeyPatch) -> list[RegisteredVersion]:
    versions = [
        RegisteredVersion(
            name="old\n\x1b[2J", version="3", aliases=("a", "b"), run_id="1", tags={"kbuild.pushed": "r@sha256:1"}
        ),
        RegisteredVersion(name="new", version="1", run_id="2"),
    ]
    locks = {"1": "2.4.1", "2": "3.1.6"}
    world.store.files |= {(run, "kbuild/conda-lock.yml"): LOCK.format(version=it).encode() for run, it in locks.items()}
    monkeypatch.setattr(world.store, "fleet", lambda: versions, raising=False)
    return versions


@pytest.mark.parametrize("asked", ["CVE-2014-1402", "PYSEC-1", "jinja2<3"])
def test_the_affected_versions_with_aliases_and_images(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest, asked: str
) -> None:
    question = make_question(asked, request_of)
    rows = list(ask_fleet(question, world.tools))
    assert [(row.version.name, row.affected, row.unknown) for row in rows] == [
        ("old\n\x1b[2J", ("pip:Jinja2 2.4.1",), None),
        ("new", (), None),
    ]
    assert question.met
    assert list(ask_fleet(make_question(asked, request_of), world.tools)) == rows  # what the cache says
    told = json.loads(render_fleet(rows, asked, "json"))
    assert [(each["aliases"], each["image"]) for each in told["models"]] == [(["a", "b"], "r@sha256:1"), ([], None)]
    lines = render_fleet(rows, asked, "table")
    assert "\x1b" not in lines and len(lines.splitlines()) == 2 and "@a @b" in lines and "r@sha256:1" in lines
    with pytest.raises(AuditFindings):
        raise_for_fleet(rows, asked)


@pytest.mark.parametrize("asked", ["odd", "odd<2", "PYSEC-2"])
def test_a_conda_package_is_asked_for_by_the_name_that_the_project_gives_it(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest, tmp_path: Path, asked: str
) -> None:
    affected = [{"package": {"ecosystem": "PyPI", "name": "odd"}, "versions": ["1"]}]
    (tmp_path / "records.json").write_text(json.dumps({**RECORD, "id": "PYSEC-2", "affected": affected}))
    lock = replace(request_of.lock, names=(("libodd", "odd"),))
    for request, packages in ((request_of, ()), (replace(request_of, lock=lock), ("conda:libodd 1",))):
        rows = list(ask_fleet(make_question(asked, request), world.tools))
        assert [row.affected for row in rows] == [packages, packages]


def test_what_the_cache_says_of_a_lock_is_of_its_bytes(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest
) -> None:
    question = make_question("jinja2<3", request_of)
    list(ask_fleet(question, world.tools))
    for kept in (world.tools.cache / "lock-packages").iterdir():
        kept.write_bytes(b"[]\n" + kept.read_bytes()[-64:])  # by somebody else
    assert [bool(row.affected) for row in ask_fleet(question, world.tools)] == [True, False]
    world.store.files["2", "kbuild/conda-lock.yml"] = LOCK.format(version="2.0").encode()
    assert [bool(row.affected) for row in ask_fleet(question, world.tools)] == [True, True]


def test_what_is_not_known_is_not_clean(world: World, fleet: list[RegisteredVersion], request_of: AuditRequest) -> None:
    del world.store.files["1", "kbuild/conda-lock.yml"]
    fleet += [RegisteredVersion(name="hidden", version=None), RegisteredVersion(name="odd", version="1", run_id="3")]
    world.store.files["3", "kbuild/conda-lock.yml"] = b"{"
    rows: list[Any] = list(ask_fleet(make_question("jinja2<3", request_of), world.tools))
    assert [row.unknown is None for row in rows] == [False, True, False, False]
    with pytest.raises(AuditIncomplete, match="of 3 of 4 registered versions it is not known"):
        raise_for_fleet(rows, "jinja2<3")


def test_of_very_many_locks_only_those_that_are_looked_at_are_here(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest
) -> None:
    rows = ask_fleet(make_question("jinja2<3", request_of), world.tools)
    assert [next(rows).version.name for _ in fleet] == ["old\n\x1b[2J", "new"]
    assert list(world.tools.cache.rglob("audit-*")) and not list(world.tools.cache.rglob("conda-lock.yml"))


def test_a_version_that_cannot_be_compared_is_not_known(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest
) -> None:
    world.store.files["2", "kbuild/conda-lock.yml"] = LOCK.format(version="of-the-day").encode()
    rows: list[Any] = list(ask_fleet(make_question("jinja2<3", request_of), world.tools))
    assert rows[0].unknown is None
    assert (
        rows[1].affected == () and "nobody can say it of" in str(rows[1].unknown) and "Jinja2" in str(rows[1].unknown)
    )


def test_a_name_that_no_lock_has_is_told(
    world: World, fleet: list[RegisteredVersion], request_of: AuditRequest
) -> None:
    question = make_question("jinja3<2", request_of)
    assert not any(row.affected for row in ask_fleet(question, world.tools))
    assert not question.met


def test_an_advisory_that_nobody_has(request_of: AuditRequest) -> None:
    with pytest.raises(ConfigurationError, match="there is no CVE-1999-1 in"):
        make_question("CVE-1999-1", request_of)


@pytest.mark.parametrize("service", [None, "osv"])
def test_without_advisories_of_ones_own_osv_is_asked(
    request_of: AuditRequest, monkeypatch: pytest.MonkeyPatch, service: Any
) -> None:
    asked: list[tuple[str | None, str]] = []

    class Osv:
        def __init__(self, url: str | None = None) -> None:
            self.url = url

        def advisory(self, id: str) -> Any:
            asked.append((self.url, id))
            return NotKnown(reason="no answer") if id.endswith("-2") else [RECORD]

    monkeypatch.setattr("kbuild.workflow.audit.fleet.OsvApi", Osv)
    online = replace(request_of, offline=False, policy=Policy(osv_url="https://osv.example", service=service))
    question = make_question("CVE-2014-1", online)
    assert asked == [("https://osv.example", "CVE-2014-1")]
    entries = [
        LockEntry(place="", name="jinja2", version=it, manager="pip", subdir="", url=None, sha256=None)
        for it in ("2.4.1", "3.1.6")
    ]
    assert question.ask(entries).packages == ("pip:jinja2 2.4.1",)
    with pytest.raises(IndexUnavailable, match="CVE-2014-2 cannot be had: no answer") as caught:
        make_question("CVE-2014-2", online)
    assert "--advisories FILE" in str(caught.value.hint)


@pytest.mark.parametrize("service", ["pypi", "none"])
def test_who_forbade_osv_does_not_ask_it(request_of: AuditRequest, service: Any) -> None:
    online = replace(request_of, offline=False, policy=Policy(service=service))
    with pytest.raises(ConfigurationError, match="cannot be looked up without OSV"):
        make_question("CVE-2014-1", online)


@pytest.mark.parametrize(
    ("tags", "image"),
    [
        ({}, None),
        ({"kbuild.image_digest": "sha256:1"}, "sha256:1"),
        ({"kbuild.pushed": "r@sha256:1"}, "r@sha256:1"),
        ({"kbuild.pushed": "r@sha256:1", "kbuild.image_digest": "sha256:1"}, "r@sha256:1"),
    ],
)
def test_the_image_is_named_where_everybody_has_it(tags: dict[str, str], image: str | None) -> None:
    assert FleetRow(version=RegisteredVersion(name="m", version="1", tags=tags)).image == image
