"""What stands with a model's run: the audit's report, which is written there, and the digests of its images."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kbuild.audit.sizes.treemap import draw
from kbuild.cache.scratch import work_folder
from kbuild.digest import Digest
from kbuild.environment.lockfile import RUN_FOLDER
from kbuild.errors import KbuildError
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.model.store import write_tags
from kbuild.offered.change import short_digests
from kbuild.progress import Progress
from kbuild.tracking.image_tags import Tag
from kbuild.workflow import Tools
from kbuild.workflow.audit.request import Audited

REPORT_NAME = "audit.json"
SBOM_NAME = "sbom.cdx.json"
PICTURE_NAME = "image.svg"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}$")


def write_back(
    audited: Audited,
    run_id: str,
    model_uri: str | None,
    tools: Tools,
    progress: Progress,
    *,
    tags: Mapping[str, str],
) -> Audited:
    """Write the report, the SBOM and the picture of the image's packages to the run, unless its ``tags`` say that it
    has them; a store that refuses is told in a note."""
    report = audited.report
    identity = str(report.identity)
    if tags.get(Tag.AUDIT_REPORT) == identity:
        return replace(audited, recorded_in=run_id)
    with work_folder(tools.cache, "audit-") as workdir:
        texts = {REPORT_NAME: json.dumps(report.to_json(), indent=2) + "\n", SBOM_NAME: audited.sbom}
        if report.image_sizes is not None:
            name = short_digests(dict(report.digests)["image"])
            texts[PICTURE_NAME] = draw(report.image_sizes, name=f"image {name}")
        for name, text in texts.items():
            (workdir / name).write_text(text, encoding="utf-8")
        try:
            tools.store.upload(run_id, [workdir / name for name in texts], RUN_FOLDER)
        except KbuildError as error:
            progress.tell(f"the report could not be written to run {run_id}: {error.message}")
            return audited
    lock = dict(report.digests).get("lock")
    stated = {Tag.AUDIT: str(report.verdict), Tag.AUDIT_DATE: report.date.isoformat(), Tag.AUDIT_REPORT: identity}
    stated |= {} if lock is None else {Tag.AUDITED_LOCK: lock}
    refused = write_tags(stated, run_id, model_uri, tools.store).refused
    if refused is not None:
        progress.tell(f"run {run_id} could not be tagged: {refused}")
    return replace(audited, recorded_in=run_id)


def note_verdict(audited: Audited, cache: Path) -> None:
    """Remember on this machine what was said of an image."""
    report, image = audited.report, audited.subject.image
    if image is not None:
        date = report.date.isoformat()
        Verdicts(cache / "images").write_audit(Digest.parse(str(image.digest)), str(report.verdict), date)


def recorded_digests(tags: Mapping[str, str], image: BuiltImage, tools: Tools) -> tuple[dict[str, str], bool]:
    """The digests of images that the run names, by tag, and whether it says that building this one again gave it.

    An index stands for the image of it that is meant.
    """
    found: dict[str, str] = {}
    for tag in (Tag.IMAGE_DIGEST, Tag.PUSHED, Tag.REBUILT_DIGEST):
        match = _DIGEST.search(tags.get(tag, ""))
        if match is None:
            continue
        index = LocalImages(tools.cache / "images").root / match[0].removeprefix("sha256:")
        inside = layouts.list_images(index, Digest.parse(match[0])) if layouts.is_layout(index) else ()
        found[str(tag)] = str(image.digest) if image.digest in {each.digest for each in inside} else match[0]
    again = tags.get(Tag.REBUILD) in ("same", "repacked") and found.get(Tag.REBUILT_DIGEST) == str(image.digest)
    return found, again
