"""Keeping images in step with MLflow's registry: what is registered is built, what an alias names is tagged.

Two things go on at once: the registry is asked, and aliases become tags, in a thread of its own, so that an alias that
moves waits for no build; builds run in the main thread one at a time, where signals end them.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from kbuild.errors import KbuildError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.find import RegisteredVersion
from kbuild.model.registry import Registry
from kbuild.progress import Teller
from kbuild.refused import known_error
from kbuild.tracking.image_tags import Tag
from kbuild.workflow.delivery import ImageResult
from kbuild.workflow.fleet.failed import CLEARED, make_failed, pause, read_failed
from kbuild.workflow.fleet.retag import retag
from kbuild.workflow.fleet.wanted import (
    Retag,
    Rules,
    Wanted,
    add_named,
    expected_name,
    find_wanted,
    is_wanted,
    key_of,
    with_tags,
)

_LONGEST = 450  # signs of a message in a tag
_MANY = 100  # hints at once: from here on the whole registry is asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What one version came to; ``error`` is None where it has its image."""

    version: RegisteredVersion
    error: KbuildError | None = None


@dataclass(kw_only=True)
class Watch:
    """``build`` makes the image of a version's reference and pushes it. ``every`` in seconds. Safe for threads."""

    registry: Registry
    rules: Rules
    build: Callable[[str], ImageResult]
    teller: Teller
    every: float = 300.0
    clock: Callable[[], float] = time.time
    retag: Callable[[ImageReference, ImageReference], bool] = retag
    building: str | None = None
    problem: str | None = None
    _known: dict[str, list[RegisteredVersion]] = field(default_factory=dict)
    # Tags as we wrote them, or would have: whoever may only read has the same patience.
    _written: dict[tuple[str, str | None, float], dict[str, str | None]] = field(default_factory=dict)
    _waiting: list[RegisteredVersion] = field(default_factory=list)
    _hints: set[str] = field(default_factory=set)
    _asked_all: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _asking: threading.Thread | None = None

    def hint(self, name: str | None) -> None:
        """Somebody says that a registered model has changed, or, with None, that some have. It may be wrong."""
        with self._changed:
            if name is None or len(self._hints) >= _MANY:
                self._asked_all = True
            else:
                self._hints.add(name)
            self._changed.notify_all()

    def reconcile(self, names: Collection[str] | None = None) -> Wanted:
        """Ask the registry, for these models or for all; tag what aliases name; returns what is to be built.

        Raises TrackingUnavailable or TrackingRefused.
        """
        if names is None or not self._known:
            known: dict[str, list[RegisteredVersion]] = {}
            for version in self.registry.versions():
                known.setdefault(version.name, []).append(version)
            names = None
        else:
            # With all others as they were: two models' images must not get one name.
            known = {**self._known, **{name: self.registry.versions(name) for name in names}}
        self._known = {name: several for name, several in known.items() if several}
        for version in [each for several in self._known.values() for each in several]:
            if key_of(version) in self._written:
                self._write(version, {})  # the server was away when it was to be told
        versions = [self._as_written(each) for several in self._known.values() for each in several]
        wanted = find_wanted(versions, self.rules, now=self.clock())
        for version, error in wanted.refused:
            self._fail(version, error)
        for version, alias, error in wanted.unnamed:
            self._tell_unnamed(version, alias, error)
        unnamed = {
            str(each.version)
            for each in wanted.retags
            # Of others nothing was heard: their tags are looked at when all are.
            if (names is None or each.version.name in names) and not self._retag(each)
        }
        for version in wanted.mended:
            if str(version) not in unnamed:
                self._write(version, CLEARED)
        return wanted

    def make(self, version: RegisteredVersion) -> Done:
        """Build one version's image; whatever becomes of it stands in the version's tags afterwards."""
        self.building = str(version)
        try:
            result = self.build(str(version))
        except Exception as unknown:  # noqa: BLE001  a defect that one model meets must not take the others' images
            error = known_error(unknown)
            self._fail(version, error)
            return Done(version=version, error=error)
        finally:
            self.building = None
        told: dict[str, str | None] = {
            Tag.IMAGE: result.reference,
            Tag.IMAGE_DIGEST: str(result.digest),
            **({} if result.pushed is None else {Tag.PUSHED: result.pushed}),
            **self._named(version, result),
        }
        self._write(version, {**CLEARED, **told})
        return Done(version=version)

    def tag_aliases(self, version: RegisteredVersion) -> None:
        """Have what was just built be named by the version's aliases too, as they are now."""
        now = self._find(version) if self.rules.followed(version) else None
        for each in find_wanted([now] if now else [], self.rules, now=self.clock()).retags:
            self._retag(each)

    def _named(self, version: RegisteredVersion, result: ImageResult) -> dict[str, str | None]:
        name = expected_name(version, self.rules)
        if name is None or result.pushed is None:
            return {}
        # As it is now: another that watches, and pushes elsewhere, may have told of its image meanwhile.
        now = self._find(version) or version
        digest = result.pushed.partition("@")[2]
        return {Tag.NAMED: add_named(now.tags.get(Tag.NAMED), name, digest)}

    def _find(self, version: RegisteredVersion) -> RegisteredVersion | None:
        """The version as it is now, None where it is no more or nobody answers."""
        try:
            found = [each for each in self.registry.versions(version.name) if key_of(each) == key_of(version)]
        except KbuildError:
            return None  # told by who asks for all
        return self._as_written(found[0]) if found else None

    def run_once(self) -> list[Done]:
        """Build and tag all that is wanted now; raises what asking the registry raises."""
        wanted = self.reconcile()
        if wanted.again is not None:
            when = datetime.datetime.fromtimestamp(wanted.again, datetime.UTC).isoformat(timespec="seconds")
            self.teller.say(f"what failed before is tried again from {when} on")
        done = [self.make(version) for version in wanted.builds]
        if done:
            self.reconcile({each.version.name for each in done})
        return done

    def run(self) -> None:
        """Go on until the process ends; what goes wrong is told and tried again."""
        self._asking = threading.Thread(target=self._ask_on, name="registry", daemon=True)
        self._asking.start()
        try:
            while True:
                with self._changed:
                    while not self._waiting:
                        self._changed.wait()
                    version = self._waiting.pop(0)
                try:
                    if (now := self._still_wanted(version)) is not None:
                        self.make(now)
                        self.hint(version.name)
                except Exception as unknown:  # noqa: BLE001  told, and wanted again when all are asked for
                    self.teller.complain(f"{version} was not built: {known_error(unknown).message}")
        finally:
            self._stopped.set()
            with self._changed:
                self._changed.notify_all()

    def state(self) -> Mapping[str, object]:
        """For who asks whether we are well."""
        with self._changed:
            waiting = len(self._waiting)
        if self._asking is not None and not self._asking.is_alive():
            problem = "the registry is no longer asked: start kbuild watch again"
            return {"status": "failed", "building": self.building, "waiting": waiting, "problem": problem}
        return {"status": "ok", "building": self.building, "waiting": waiting, "problem": self.problem}

    def _still_wanted(self, version: RegisteredVersion) -> RegisteredVersion | None:
        """The version as it is now: meanwhile somebody else may have built it, or taken it away."""
        now = self._find(version)
        return now if now is not None and is_wanted(now, self.rules, now=self.clock()) else None

    def _ask_on(self) -> None:
        names: Collection[str] | None = None
        last_all, failures = 0.0, 0
        while not self._stopped.is_set():
            until = time.monotonic() + self.every
            try:
                wanted = self.reconcile(names)
            except Exception as unknown:  # noqa: BLE001  told, and asked again: nobody else would
                error = known_error(unknown)
                if self.problem != error.message:
                    self.teller.complain(error.message)
                self.problem = error.message
                until = time.monotonic() + min(self.every, pause(failures))
                failures += 1
            else:
                if self.problem is not None:
                    self.teller.say("the registry answers again")
                self.problem, failures = None, 0
                if names is None:
                    last_all = time.monotonic()
                until = last_all + self.every
                if wanted.again is not None:
                    until = min(until, time.monotonic() + max(1.0, wanted.again - self.clock()))
                with self._changed:
                    self._waiting = [each for each in wanted.builds if str(each) != self.building]
                    self._changed.notify_all()
            names = self._await(until, retry=self.problem is not None)

    def _await(self, until: float, *, retry: bool) -> Collection[str] | None:
        """The models that were heard of, None for all when it is time for that, or was asked for."""
        with self._changed:
            while not self._stopped.is_set():
                left = until - time.monotonic()
                if left <= 0 or self._asked_all:
                    self._asked_all = False
                    self._hints.clear()
                    return None
                if self._hints and not retry:
                    names = set(self._hints)
                    self._hints.clear()
                    return names
                self._changed.wait(left)
        return None

    def _retag(self, wanted: Retag) -> bool:
        try:
            if self.retag(wanted.source, wanted.target):
                self.teller.say(f"{wanted.target.familiar} is {wanted.version}: {wanted.source.familiar}")
        except KbuildError as error:
            self._tell_unnamed(wanted.version, wanted.target.familiar, error)
            return False
        return True

    def _tell_unnamed(self, version: RegisteredVersion, name: str, error: KbuildError) -> None:
        told = f"{name} does not name {version}: {error.message}"[:_LONGEST]
        if version.tags.get(Tag.ERROR) != told:
            self.teller.complain(told)
            self._write(version, {Tag.ERROR: told})

    def _fail(self, version: RegisteredVersion, error: KbuildError) -> None:
        failed = make_failed(error, read_failed(version.tags), now=self.clock())
        tags = failed.tags()
        self.teller.complain(f"{version} has no image: {error.message}; attempt {failed.attempts}, {failed.when()}")
        self._write(version, tags)

    def _write(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        with self._writing:
            waiting = self._written.get(key_of(version))
            told = {**(waiting or {}), **tags}
            if not told:
                return
            self._written[key_of(version)] = told
        try:
            self.registry.tag(version, told)
        except KbuildError as error:
            if waiting is None:
                self.teller.complain(f"{version} is not told of it yet: {error.message}", style="yellow")
        else:
            with self._writing:
                # Where the other thread wrote meanwhile, all of this is among what that tells.
                if self._written.get(key_of(version)) is told:
                    self._written.pop(key_of(version), None)
                self._remember(version, told)

    def _remember(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        several = self._known.get(version.name, [])
        self._known = {
            **self._known,
            version.name: [with_tags(each, tags) if key_of(each) == key_of(version) else each for each in several],
        }

    def _as_written(self, version: RegisteredVersion) -> RegisteredVersion:
        """With the tags that could not be written."""
        unwritten = self._written.get(key_of(version))
        return version if unwritten is None else with_tags(version, unwritten)
