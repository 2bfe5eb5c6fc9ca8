"""An audit as a whole: what is gathered, which verdict it comes to, and what is written back."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from world import HOST, MODEL, RUN_ID, VERSION, World

from kbuild.audit.policy import Policy
from kbuild.audit.subject import Subject
from kbuild.environment.lockfile import read_lockfile
from kbuild.errors import KbuildError, ModelNotFound, TrackingUnavailable
from kbuild.image.engine import BuiltImage
from kbuild.image.store.listing import list_here
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.workflow.audit import auditor
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.recorded import recorded_digests
from kbuild.workflow.audit.request import Audited, AuditRequest
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery

REPORT, SBOM = "kbuild/audit.json", "kbuild/sbom.cdx.json"


def audit(
    world: World, *, record: bool = True, image: BuiltImage | None = None, platform: Platform | None = None
) -> Audited:
    """With no network: what only a service knows stays unchecked."""
    request = AuditRequest(
        policy=Policy(),
        today=date(2026, 11, 1),
        fail_on="high",
        lock=world.lock_request(),
        lockfile=world.lockfile,
        offline=True,
        record=record,
        platform=platform,
    )
    return Auditor(request, world.tools, environ={}).audit_model(ModelReference.parse(world.model), image=image)


@pytest.mark.slow
def test_an_audit_writes_report_sbom_and_tags_to_the_run(world: World) -> None:
    audited = audit(world)
    assert audited.recorded_in == RUN_ID
    written = {path.rpartition("/")[2]: data for (run, path), data in world.store.files.items() if run == RUN_ID}
    reports = [json.loads(data) for name, data in written.items() if "audit" in name or "report" in name]
    assert [report["verdict"] for report in reports] == [str(audited.report.verdict)]
    (tags,) = [tags for run, tags, _ in world.store.tags if run == RUN_ID]
    assert tags["kbuild.audit"] == str(audited.report.verdict)
    assert tags["kbuild.audit_date"] == "2026-11-01"
    assert tags["kbuild.audited_lock"] == f"sha256:{hashlib.sha256(world.lockfile.read_bytes()).hexdigest()}"


@pytest.mark.slow
def test_what_makes_its_image_large_is_drawn_for_the_run(world: World) -> None:
    build_image(world.request(), Delivery(), world.tools)
    audited = audit(world)
    picture = world.store.files[RUN_ID, "kbuild/image.svg"].decode()
    image = dict(audited.report.digests)["image"]
    [told] = re.findall(r'<desc id="image-told">(.+)</desc>', picture)
    weights = len(MODEL["artifacts/weights.bin"])
    assert f"weights.bin {weights / 1000:.1f} kB, two 1 " in told and image[:19] in picture and image not in picture


def test_a_report_that_the_run_has_is_not_written_again(world: World) -> None:
    audit(world)
    assert audit(world).recorded_in == RUN_ID and len(world.store.tags) == 1
    [(_, tags, _)] = world.store.tags
    tags["kbuild.audit_report"] = "sha256:of another"
    assert audit(world).recorded_in == RUN_ID and len(world.store.tags) == 2


def test_without_record_nothing_is_written(world: World) -> None:
    audited = audit(world, record=False)
    assert (world.store.files, world.store.tags, audited.recorded_in) == ({}, [], None)


def test_what_nobody_was_asked_about_is_never_clean(world: World) -> None:
    audited = audit(world, record=False)
    assert str(audited.report.verdict) != "clean"
    checks = {entry["check"] for entry in audited.report.to_json()["unchecked"]}
    assert {"vulnerabilities", "releases"} & checks
    components = {entry["name"]: entry["version"] for entry in json.loads(audited.sbom)["components"]}
    assert {"one": "1", "two": "1", "python": VERSION}.items() <= components.items()


def test_a_store_that_takes_no_tags_is_told_and_the_verdict_stays(world: World) -> None:
    world.store.refuses_tags = True
    audited = audit(world)
    assert any("could not be tagged: read only" in note for note in world.heard.notes)
    assert audited.report.to_json() == audit(world, record=False).report.to_json()


def test_the_image_of_the_run_is_looked_into_too(world: World) -> None:
    """A file of a wheel that was changed in the image is drift."""
    result = build_image(world.request(), Delivery(), world.tools)
    audited = audit(world, record=False)
    assert json.dumps(audited.report.to_json()).find(str(result.image.digest)) > 0
    assert "is not here and not audited" not in " ".join(world.heard.notes)


@pytest.mark.parametrize("record", [True, False])
def test_what_an_audit_said_of_an_image_is_remembered_here(world: World, record: bool) -> None:
    build_image(world.request(), Delivery(), world.tools)
    audited = audit(world, record=record)
    (listed,) = list_here(world.tools.cache / "images")
    expected = (str(audited.report.verdict), "2026-11-01") if record else (None, None)
    assert (listed.said.audit, listed.said.audit_date) == expected


def test_the_image_that_is_named_is_audited_whatever_the_run_says_was_built(world: World) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools)
    build_image(world.request(labels=(("team", "till"),)), Delivery(), world.tools)
    report = audit(world, record=False, image=first.image).report
    assert dict(report.digests)["image"] == str(first.image.digest)


@pytest.mark.parametrize("platform", [None, Platform("linux", "arm64")])
def test_of_an_index_the_image_of_the_platform_is_audited(
    world: World, monkeypatch: pytest.MonkeyPatch, platform: Platform | None
) -> None:
    build_image(world.request(), Delivery(), world.tools)
    asked: list[Platform | None] = []
    monkeypatch.setattr(auditor.LocalImages, "by_digest", lambda _, digest, *, platform: asked.append(platform))
    audit(world, record=False, platform=platform)
    assert asked == [platform]


def test_a_secret_among_the_parameters_of_the_run_is_found(world: World) -> None:
    world.store.parameters = {"rate": "0.1", "db_password": "hunter22"}
    found = [finding.where for finding in audit(world, record=False).report.findings]
    assert [where for where in found if "parameter" in where] == ["parameter db_password"]


@pytest.mark.parametrize(("verdict", "again"), [("same", True), ("repacked", True), ("differs", False), (None, False)])
def test_a_rebuilt_digest_counts_where_the_rebuild_gave_the_same(
    world: World, verdict: str | None, again: bool
) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    told = {"kbuild.rebuilt_digest": str(image.digest), **({} if verdict is None else {"kbuild.rebuild": verdict})}
    assert recorded_digests(told, image, world.tools) == ({"kbuild.rebuilt_digest": str(image.digest)}, again)
    other = {**told, "kbuild.rebuilt_digest": f"sha256:{'e' * 64}"}
    assert recorded_digests(other, image, world.tools)[1] is False


def test_conda_packages_are_known_by_the_projects_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Subject] = []
    monkeypatch.setattr(auditor, "run_checks", lambda checks, subject, progress: seen.append(subject) or [])
    names = (("torch", "pytorch-cpu"),)
    lock = replace(world.lock_request(), names=names)
    policy, today = Policy(), date(2026, 11, 1)
    request = AuditRequest(policy=policy, today=today, fail_on="low", lock=lock, offline=True, record=False)
    made = Auditor(request, world.tools, environ={})
    made.audit_lock(world.lockfile)
    made.audit_model(ModelReference.parse(world.model))
    assert [each.names for each in seen] == [names, names]
    # The indexes that a model's lock is made from are known of the model alone.
    assert [len(each.own) for each in seen] == [0, 1] and seen[1].own[0].urls


def test_each_digest_that_the_run_names_counts(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    local, pushed = f"sha256:{'d' * 64}", f"sha256:{'e' * 64}"
    told = {
        "kbuild.image_digest": local,
        "kbuild.pushed": f"registry.example/till@{pushed}",
        "kbuild.verified_digest": f"sha256:{'f' * 64}",
        "kbuild.rebuilt_digest": "no digest",
    }
    found = {"kbuild.image_digest": local, "kbuild.pushed": pushed}
    assert recorded_digests(told, image, world.tools) == (found, False)


def test_an_image_by_itself_is_audited_with_the_lock_that_it_names(world: World) -> None:
    """It names its packages, not the file: the lock is found among those that were made here."""
    result = build_image(world.request(), Delivery(record=False), world.tools)
    kept = world.tools.cache / "locks" / "any" / "conda-lock.yml"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(world.lockfile.read_bytes())
    other = kept.parents[1] / "before-it" / "conda-lock.yml"
    other.parent.mkdir()
    other.write_bytes(kept.read_bytes().replace(b"name: two", b"name: three").replace(b"two-1-", b"three-1-"))
    (kept.parents[1] / "a-before-it").mkdir()
    (kept.parents[1] / "a-before-it" / "conda-lock.yml").write_bytes(other.read_bytes())
    request = AuditRequest(
        policy=Policy(), today=date(2026, 11, 1), fail_on="high", lock=world.lock_request(), offline=True, record=False
    )
    audited = Auditor(request, world.tools, environ={}).audit_image(result.image, "model")
    purls = {entry.get("purl", "").partition("?")[0] for entry in json.loads(audited.sbom)["components"]}
    assert {f"pkg:conda/python@{VERSION}", "pkg:pypi/one@1", "pkg:pypi/two@1"} <= purls
    assert "pkg:pypi/three@1" not in purls


def test_of_an_image_that_is_elsewhere_the_runs_tags_tell_what_it_was_built_from(world: World) -> None:
    def drifted() -> list[str]:
        return [f.where for f in audit(world, record=False).report.findings if "registry.example/till:1" in str(f)]

    lock = read_lockfile(world.lockfile)
    image = {"kbuild.image": "registry.example/till:1", "kbuild.image_digest": f"sha256:{'e' * 64}"}
    world.store.set_tags(RUN_ID, {**image, "kbuild.lock_digest": str(lock.packages_digest(HOST))})
    assert drifted() == []
    assert "its image registry.example/till:1 is not here" in " ".join(world.heard.notes)
    world.store.set_tags(RUN_ID, {"kbuild.lock_digest": f"sha256:{'d' * 64}"})
    assert drifted()


@pytest.mark.parametrize("what", ["sha256", "url"])
def test_a_lock_that_was_edited_by_hand_is_found(world: World, what: str) -> None:
    clean = audit(world, record=False)
    text = world.lockfile.read_text("utf-8")
    if what == "sha256":
        first = re.search(r"sha256: ([0-9a-f]{64})", text)
        assert first is not None
        text = text.replace(f"sha256: {first[1]}", "md5: abc", 1)
    else:
        text = text.replace("file:///", "http://mirror.example/", 1)
    world.lockfile.write_text(text, "utf-8")
    changed = audit(world, record=False)
    before, after = ({(f.id, f.where) for f in each.report.findings} for each in (clean, changed))
    assert after - before


def audit_image(world: World, image: BuiltImage, *, lockfile: Path | None = None) -> Audited:
    request = AuditRequest(
        policy=Policy(),
        today=date(2026, 11, 1),
        fail_on="high",
        lock=world.lock_request(),
        lockfile=lockfile,
        offline=True,
        record=False,
    )
    return Auditor(request, world.tools, environ={}).audit_image(image, "model")


def packages(audited: Audited) -> set[str]:
    components = json.loads(audited.sbom)["components"]
    return {name for each in components if (name := each["name"]) in ("one", "two", "three")}


@pytest.mark.slow
def test_of_the_locks_that_are_there_an_image_is_audited_with_the_one_it_names(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    own = world.lockfile.read_bytes()
    other = own.replace(b"name: two", b"name: three").replace(b"two-1-", b"three-1-")
    world.store.files[RUN_ID, "kbuild/conda-lock.yml"] = own
    assert packages(audit_image(world, image)) == {"one", "two"}
    # The run has another one since; the image's own is still here.
    world.store.files[RUN_ID, "kbuild/conda-lock.yml"] = other
    kept = world.tools.cache / "locks" / "any" / "conda-lock.yml"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(own)
    assert packages(audit_image(world, image)) == {"one", "two"}
    world.store.files[RUN_ID, "kbuild/conda-lock.yml"] = own
    kept.write_bytes(other)
    assert packages(audit_image(world, image)) == {"one", "two"}


def test_an_image_without_a_model_is_audited_with_the_lock_that_is_given(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lock it names: who gives one says that it counts."""
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    given = tmp_path / "conda-lock.yml"
    given.write_bytes(world.lockfile.read_bytes().replace(b"name: two", b"name: three").replace(b"two-1-", b"three-1-"))
    read = auditor.read_image
    monkeypatch.setattr(auditor, "read_image", lambda *asked, **more: (read(*asked, **more)[0], None))
    audited = audit_image(world, image, lockfile=given)
    assert packages(audited) >= {"one", "three"}
    assert [each.reason for each in audited.report.unchecked if each.where == "model"] == [
        "there is no model in the image"
    ]


def test_an_image_with_another_model_than_the_one_that_is_audited_is_found(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    assert "drift-model" not in {each.id for each in audit(world, record=False, image=image).report.findings}
    weights = world.store.models[world.model] / "artifacts/weights.bin"
    weights.write_bytes(b"of a later training")
    (found,) = [each for each in audit(world, record=False, image=image).report.findings if each.id == "drift-model"]
    assert (found.severity, found.where) == ("critical", "model") and world.model in found.evidence


@pytest.mark.parametrize("same", [True, False])
def test_a_given_lock_is_compared_with_the_runs_own(world: World, same: bool) -> None:
    own = world.lockfile.read_bytes()
    world.store.files[RUN_ID, "kbuild/conda-lock.yml"] = own if same else own.replace(b"version: '1'", b"version: '2'")
    told = [str(each) for each in audit(world, record=False).report.findings]
    assert any(f"the lock stored with run {RUN_ID}" in each for each in told) is not same


def test_a_store_that_takes_no_report_is_told_and_the_run_gets_no_tags(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TrackingUnavailable("read only")

    monkeypatch.setattr(world.store, "upload", refuse)
    audited = audit(world)
    assert (audited.recorded_in, world.store.tags) == (None, [])
    assert any("the report could not be written" in note and "read only" in note for note in world.heard.notes)


@pytest.mark.parametrize(
    ("error", "incomplete"), [(ModelNotFound("no run"), False), (TrackingUnavailable("the server is down"), True)]
)
def test_a_lock_that_cannot_be_had_is_unchecked_and_a_run_of_another_server_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, incomplete: bool
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(world.store, "download", refuse)
    reasons = [each.reason for each in audit(world, record=False).report.unchecked]
    assert ("the server is down" in reasons) is incomplete
    assert any(f"run {RUN_ID} is not on this tracking server" in note for note in world.heard.notes) is not incomplete


@pytest.mark.parametrize("error", [ModelNotFound("no such run"), TrackingUnavailable("the server is down")])
def test_a_run_that_cannot_be_read_is_unchecked(
    world: World, monkeypatch: pytest.MonkeyPatch, error: KbuildError
) -> None:
    """Its parameters may hold secrets, and its tags name another image."""
    image = build_image(world.request(), Delivery(record=False), world.tools).image

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(world.store, "read_run", refuse)
    for audited in (audit(world, record=False), audit_image(world, image)):
        told = [each for each in audited.report.unchecked if each.where == f"run {RUN_ID}"]
        assert [error.message in each.reason for each in told] == [True]


def test_of_all_registered_models_one_that_breaks_does_not_take_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.store.models[world.model]
    names = [f"models:/{name}/1" for name in ("a", "b", "c", "d")]
    world.store.models |= {name: model for name in names if not name.startswith("models:/b")}
    monkeypatch.setattr(world.store, "registered", lambda: names)
    fetch = world.store.fetch

    def odd(reference: ModelReference, into: Path, **given: bool) -> ModelBundle:
        if "/c/" in str(reference):
            raise ZeroDivisionError
        return fetch(reference, into, **given)

    monkeypatch.setattr(world.store, "fetch", odd)
    request = AuditRequest(
        policy=Policy(), today=date(2026, 11, 1), fail_on="high", lock=world.lock_request(), offline=True, record=False
    )
    found = dict(Auditor(request, world.tools, environ={}).audit_registered())
    assert list(found) == names
    assert [isinstance(each, Audited) for each in found.values()] == [True, False, False, True]
    assert isinstance(found[names[1]], ModelNotFound)
    assert isinstance(found[names[2]], KbuildError)
