"""Auditor: gathers lock, model and image of what a user names, runs the checks, and writes the report back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbuild.audit.finding import CheckResult, Unchecked
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.lockview import LockView, view_lock
from kbuild.audit.planned import Planned
from kbuild.audit.report.report import make_report
from kbuild.audit.subject import KnownDigest, Subject, read_trained
from kbuild.audit.vex import read_vex
from kbuild.cache.scratch import work_folder
from kbuild.digest import Digest
from kbuild.environment.lockfile import CHANNEL_VARIABLE, RUN_FOLDER, lock_bytes
from kbuild.environment.locking.kept import LOCKFILE_NAME, cached_locks
from kbuild.environment.locking.wanted import fresh_inputs
from kbuild.errors import ConfigurationError, KbuildError, ModelNotFound
from kbuild.image.engine import BuiltImage
from kbuild.image.store.local import LocalImages
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.model_reference import ModelReference
from kbuild.progress import Progress, how_many
from kbuild.refused import known_error
from kbuild.tracking.image_tags import Tag
from kbuild.workflow import Tools
from kbuild.workflow.audit.images import ReadImage, read_image
from kbuild.workflow.audit.planned import find_planned
from kbuild.workflow.audit.recorded import note_verdict, write_back
from kbuild.workflow.audit.replanning import Sources
from kbuild.workflow.audit.request import Audited, AuditRequest
from kbuild.workflow.audit.run_checks import find_network, make_checks, run_checks


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gathered:
    """A subject, and what was meant to be part of it but could not be had."""

    subject: Subject
    missing: tuple[Unchecked, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    model_uri: str | None = None


class Auditor:
    """Audits one thing after another with the same advisories and services, each read once."""

    def __init__(self, request: AuditRequest, tools: Tools, *, environ: Mapping[str, str] = os.environ) -> None:
        """Reads advisories and VEX documents; raises ConfigurationError when they are none."""
        self._request = request
        self._vex = read_vex(request.policy.vex)
        self._tools = tools
        with tools.phases("prepare") as progress:
            self._network = find_network(tools, environ)
            self._checks = make_checks(request, self._network, progress, downloads=tools.cache / "downloads")
            progress.made("indexes and advisories")

    def audit_lock(self, path: Path) -> Audited:
        """A lockfile by itself: nothing is known of a model or an image. Raises LockfileInvalid."""
        lock = view_lock(lock_bytes(path), source=str(path))
        return self._audit(_Gathered(subject=Subject(reference=str(path), kind="lock", lock=lock)))

    def audit_model(self, reference: ModelReference, *, image: BuiltImage | None = None) -> Audited:
        """A model with its stored lock and, where it is on this machine, its image (or the one given).

        Raises what fetching the model does.
        """
        with self._workdir() as workdir:
            with self._tools.phases("fetch") as progress:
                bundle = self._tools.store.fetch(reference, workdir / "model")
                progress.made(reference.short)
                gathered = self._gather(str(reference), "model", bundle, workdir, progress)
                gathered, tags = self._with_run(gathered, bundle)
                image = image or self._built_here(tags, progress)
            if image is None:
                return self._audit(_recall(gathered, tags))
            with self._tools.phases("image") as progress:
                read, _ = read_image(image, None, progress, cache=self._tools.cache)
                progress.made(_told(read.facts))
                planned = self._planned(image, read, gathered.subject, tags, progress)
            known = KnownDigest(place=str(reference), digest=str(bundle.digest))
            return self._audit(_with_image(gathered, read.facts, (known,), planned))

    def audit_image(self, image: BuiltImage, reference: str) -> Audited:
        """An image with the model inside it and the lock that it names. Raises InvalidImage or InvalidModel."""
        with self._workdir() as workdir:
            with self._tools.phases("image") as progress:
                read, model = read_image(image, workdir / "model", progress, cache=self._tools.cache)
                facts = read.facts
                progress.made(_told(facts))
            with self._tools.phases("fetch") as progress:
                if model is None:
                    missing = Unchecked(
                        check="model",
                        where="model",
                        reason="there is no model in the image",
                        remedy="audit an image of kbuild",
                    )
                    lock = self._lock_by_digest(facts)
                    subject = Subject(reference=reference, kind="image", lock=lock)
                    gathered = _Gathered(subject=subject, missing=(missing,))
                else:
                    bundle = read_bundle(model)
                    gathered = self._gather(reference, "image", bundle, workdir, progress, facts)
                gathered, tags = self._with_run(gathered, gathered.subject.bundle)
                planned = self._planned(image, read, gathered.subject, tags, progress)
                progress.made("the model in the image, and its lock" if model else "its lock")
            return self._audit(_with_image(gathered, facts, (), planned))

    def audit_registered(self) -> Iterator[tuple[str, Audited | KbuildError]]:
        """Every registered model's newest and aliased versions; what cannot be audited is told by its error."""
        for text in self._tools.store.registered():
            try:
                yield text, self.audit_model(ModelReference.parse(text))
            except Exception as error:  # noqa: BLE001  a defect that one model meets must not take the others' audits
                yield text, known_error(error)

    def _audit(self, gathered: _Gathered) -> Audited:
        request = self._request
        gathered = replace(gathered, subject=replace(gathered.subject, names=request.lock.names))
        results = [CheckResult(check="gather", unchecked=gathered.missing)] if gathered.missing else []
        with self._tools.phases("audit") as progress:
            results += run_checks(self._checks, gathered.subject, progress)
            progress.made(f"{len(self._checks)} checks")
            subject, on, fail_on = gathered.subject, request.today, request.fail_on
            report = make_report(subject, results, request.policy, today=on, fail_on=fail_on, vex=self._vex)
            audited = Audited(report=report, subject=subject)
            if request.record:
                note_verdict(audited, self._tools.cache)
            if not request.record or gathered.run_id is None:
                return audited
            into = gathered.run_id, gathered.model_uri, self._tools, progress
            return write_back(audited, *into, tags=gathered.tags)

    def _gather(
        self,
        reference: str,
        kind: str,
        bundle: ModelBundle,
        workdir: Path,
        progress: Progress,
        image: ImageFacts | None = None,
    ) -> _Gathered:
        facts = bundle.facts
        missing: list[Unchecked] = []
        stored = self._stored_lock(bundle, workdir, progress, missing)
        lock = stored
        kept: tuple[KnownDigest, ...] = ()
        if self._request.lockfile is not None:
            lock = view_lock(lock_bytes(self._request.lockfile), source=str(self._request.lockfile))
            if stored is not None:
                kept = (KnownDigest(place=f"the lock stored with run {facts.run_id}", digest=str(stored.digest)),)
        elif image is not None and (stored is None or not stored.is_named(image.labels.get(_LOCK_LABEL, ""))):
            lock = self._lock_by_digest(image) or stored
        subject = Subject(
            reference=reference,
            kind="image" if kind == "image" else "model",
            lock=lock,
            bundle=bundle,
            trained=read_trained(bundle),
            stored_locks=kept,
            fresh_inputs=self._fresh(bundle, lock, missing),
            own=self._network.of_model(bundle, self._request.lock),
            remake=f"kbuild lock {facts.run_id or reference}",
        )
        return _Gathered(subject=subject, missing=tuple(missing), run_id=facts.run_id, model_uri=facts.uri)

    def _stored_lock(
        self, bundle: ModelBundle, workdir: Path, progress: Progress, missing: list[Unchecked]
    ) -> LockView | None:
        run_id = bundle.facts.run_id
        if run_id is None:
            return None
        try:
            path = self._tools.store.download(run_id, f"{RUN_FOLDER}/{LOCKFILE_NAME}", workdir / "lock")
            source = f"the lock of run {run_id}"
            return None if path is None else view_lock(lock_bytes(path, source=source), source=source)
        except ModelNotFound:
            progress.tell(f"run {run_id} is not on this tracking server")
        except KbuildError as error:
            missing.append(
                Unchecked(
                    check="lock", where="lock", reason=error.message, remedy=error.hint or "see the tracking server"
                )
            )
        return None

    def _lock_by_digest(self, image: ImageFacts) -> LockView | None:
        """The lock with the digest that the image names, among those given or made here."""
        wanted, given = image.labels.get(_LOCK_LABEL, ""), [each for each in (self._request.lockfile,) if each]
        for path in [*given, *cached_locks(self._tools.cache)]:
            view = view_lock(lock_bytes(path), source=str(path))
            if path in given or view.is_named(wanted):
                return view
        return None

    def _fresh(self, bundle: ModelBundle, lock: LockView | None, missing: list[Unchecked]) -> frozenset[Digest] | None:
        if lock is None or lock.input_digest is None:
            return None if lock is None else frozenset()
        try:
            if self._network.indexes is None:
                raise ConfigurationError(self._network.reason)
            subdirs = {entry.subdir for entry in lock.entries}
            platforms = tuple(each for each in self._request.lock.platforms if each.conda_subdir in subdirs)
            request = replace(self._request.lock, platforms=platforms or self._request.lock.platforms)
            # Where nobody says which channels, the lock names those it was asked for with; whether they are allowed is
            # another check.
            own = tuple(channel for channel in lock.channels if channel != f"${CHANNEL_VARIABLE}")
            found: set[Digest] = set()
            for channels in [request.channels] if request.channels else dict.fromkeys(((), own, lock.channels)):
                found |= fresh_inputs(
                    bundle,
                    replace(request, channels=channels),
                    self._network.indexes,
                    cache=self._tools.cache,
                    run=self._tools.run,
                    environ=self._network.environ,
                )
            return frozenset(found)
        except KbuildError as error:
            reason = f"whether the lock is fresh cannot be told: {error.message}"
            missing.append(Unchecked(check="lock", where="conda-lock.yml", reason=reason, remedy=error.hint or _ASK))
            return None

    def _with_run(self, gathered: _Gathered, bundle: ModelBundle | None) -> tuple[_Gathered, Mapping[str, str]]:
        """With the parameters of the model's run; and the run's tags."""
        run_id = None if bundle is None else bundle.facts.run_id
        if run_id is None:
            return gathered, {}
        try:
            run = self._tools.store.read_run(run_id)
        except KbuildError as error:
            unread = Unchecked(
                check="run",
                where=f"run {run_id}",
                reason=f"neither its parameters nor what it says of the image was looked at: {error.message}",
                remedy=error.hint or "name the tracking server that has it (MLFLOW_TRACKING_URI), and audit again",
            )
            return replace(gathered, missing=(*gathered.missing, unread)), {}
        subject = replace(gathered.subject, parameters=run.parameters)
        return replace(gathered, subject=subject, tags=run.tags), run.tags

    def _planned(
        self, image: BuiltImage, read: ReadImage, subject: Subject, tags: Mapping[str, str], progress: Progress
    ) -> Planned:
        request = self._request
        sources = Sources(
            bundle=subject.bundle, lock=subject.lock, tags=tags, template=request.template, labels=dict(request.labels)
        )
        return find_planned(image, read.facts.layers, sources, self._tools, progress, read=read.read)

    def _built_here(self, tags: Mapping[str, str], progress: Progress) -> BuiltImage | None:
        """The image that the run says was built of it, if it is on this machine."""
        stated = tags.get(Tag.IMAGE_DIGEST)
        if stated is None:
            return None
        images, platform = LocalImages(self._tools.cache / "images"), self._request.platform
        try:
            image = images.by_digest(Digest.parse(stated), platform=platform)
        except ValueError:
            image = None
        if image is None:
            progress.tell(f"its image {tags.get(Tag.IMAGE, stated)} is not here and not audited; name it to audit it")
        return image

    @contextmanager
    def _workdir(self) -> Iterator[Path]:
        with work_folder(self._tools.cache, "audit-") as folder:
            yield folder


_LOCK_LABEL = "io.kbuild.lock.digest"
_ASK = "see that pip's index is configured (pip config list), and audit again"


def _told(facts: ImageFacts) -> str:
    packages = len(facts.distributions) + len(facts.conda) + len(facts.base.packages)
    return f"{how_many(len(facts.layers), 'layer')}, {how_many(packages, 'package')}"


def _with_image(gathered: _Gathered, facts: ImageFacts, models: tuple[KnownDigest, ...], planned: Planned) -> _Gathered:
    label = facts.labels.get(_LOCK_LABEL)
    built_from = () if label is None else (KnownDigest(place=f"the image {facts.digest}", digest=label),)
    subject = replace(gathered.subject, image=facts, built_from=built_from, known_models=models, planned=planned)
    return replace(gathered, subject=subject)


def _recall(gathered: _Gathered, tags: Mapping[str, str]) -> _Gathered:
    """Without the image itself, what the run's tags say of it."""
    stated = tags.get(Tag.LOCK_DIGEST)
    if stated is None:
        return gathered
    known = KnownDigest(place=f"the image {tags.get(Tag.IMAGE, 'of this run')}", digest=stated)
    return replace(gathered, subject=replace(gathered.subject, built_from=(known,)))
