"""An audit as a whole: what is gathered, which verdict it comes to, and what is written back."""

import hashlib
import json
import re
from datetime import date

import pytest
from world import HOST, RUN_ID, VERSION, World

from kbuild.audit.policy import Policy
from kbuild.environment.lockfile import read_lockfile
from kbuild.model.model_reference import ModelReference
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.request import Audited, AuditRequest
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery

REPORT, SBOM = "kbuild/audit.json", "kbuild/sbom.cdx.json"


def audit(world: World, *, record: bool = True) -> Audited:
    """With no network: what only a service knows stays unchecked."""
    request = AuditRequest(
        policy=Policy(),
        today=date(2026, 11, 1),
        fail_on="high",
        lock=world.lock_request(),
        lockfile=world.lockfile,
        offline=True,
        record=record,
    )
    return Auditor(request, world.tools, environ={}).audit_model(ModelReference.parse(world.model))


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
