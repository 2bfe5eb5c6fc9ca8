"""Secrets in what travels: the model's files and parameters, the lock, the image's config and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kbuild.audit.checks.packed_secrets import Fits, find_in_packed
from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.pickled.effort import TooMuch, read_whole
from kbuild.audit.secrets import (
    find_in_file,
    find_in_values,
    find_secrets,
    has_own_name,
    is_key_store,
)
from kbuild.audit.subject import Subject
from kbuild.model.bundle import ModelBundle

_REVOKE = "revoke it, for whoever has it can use it; then"
_MODEL = f"{_REVOKE} keep it out of the project's files and parameters, log the model again and build its image again"
_IMAGE = f"{_REVOKE} build the image without it, and give it to the container when it starts"
_LEAVE_OUT = "keep it out of the model, or see by yourself that it holds no secret and accept it with an ignore"
_URL = "password in a url"


class SecretCheck:
    """A ``Check`` of every text that others get with the model or its image; ``fits`` as ``find_in_packed`` has it."""

    id = "secrets"

    def __init__(self, *, fits: Fits | None = None) -> None:
        self._fits = fits

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        found: list[tuple[str, str, str]] = []
        unchecked: list[Unchecked] = []
        looked_at = 0
        if subject.bundle is not None:
            looked_at += len(subject.bundle.files)
            found += _in_model(subject.bundle, unchecked, self._fits)
        if subject.parameters:
            looked_at += len(subject.parameters)
            found += [(f"parameter {name}", kind, _MODEL) for name, kind in find_in_values(subject.parameters)]
        if subject.lock is not None:
            looked_at += 1
            kinds = find_secrets(subject.lock.content.decode("utf-8", errors="replace"))
            kinds.pop(_URL, None)  # a finding of the lock's own check
            found += [("conda-lock.yml", told, f"{_REVOKE} make the lock again") for told in _told(kinds)]
        if subject.image is not None:
            inside = frozenset() if subject.bundle is None else {file.digest for file in subject.bundle.files}
            found += _in_config(subject.image)
            for layer in subject.image.layers:
                for member in layer.members:
                    published = member.path in subject.image.brought and not has_own_name(member.path)
                    if member.secrets is None or member.digest in inside or published:
                        continue
                    looked_at += 1
                    kinds = dict(member.secrets)
                    if is_key_store(member.path):
                        kinds["key store"] = 1
                    found += [(f"/{member.path}", told, _IMAGE) for told in _told(kinds)]
        findings = tuple(dict.fromkeys(_finding(where, evidence, remedy) for where, evidence, remedy in found))
        return CheckResult(check=self.id, findings=findings, unchecked=tuple(unchecked), looked_at=looked_at)


def _in_model(bundle: ModelBundle, unchecked: list[Unchecked], fits: Fits | None) -> Iterator[tuple[str, str, str]]:
    for file in bundle.files:
        try:
            data = read_whole(bundle.root / file.path)
            kinds = find_in_file(bundle.root / file.path, name=file.path)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror}"
            unchecked.append(Unchecked(check="secrets", where=file.path, reason=reason, remedy="see its rights"))
            continue
        except TooMuch as error:
            unchecked.append(Unchecked(check="secrets", where=file.path, reason=str(error), remedy=_LEAVE_OUT))
            continue
        if is_key_store(file.path):
            kinds["key store"] = 1
        packed: dict[str, str] = {}
        try:
            for place, inner in find_in_packed(data, name=file.path, fits=fits):
                packed |= {kind: place for kind in inner if kind not in {*kinds, *packed}}
        except TooMuch as error:
            unchecked.append(Unchecked(check="secrets", where=file.path, reason=str(error), remedy=_LEAVE_OUT))
        told = [*_told(kinds), *(f"{kind} (packed, at {place or 'a pickle'})" for kind, place in packed.items())]
        if told:
            yield file.path, ", ".join(told), _MODEL


def _in_config(image: ImageFacts) -> Iterator[tuple[str, str, str]]:
    config = (image.config or {}).get("config") or {}
    env = dict(str(pair).partition("=")[::2] for pair in config.get("Env") or ())
    for what, values in (("env", env), ("label", image.labels), ("annotation", _others(image))):
        for name, kind in find_in_values(values):
            yield f"{what} {name}", kind, _IMAGE
    for number, step in enumerate((image.config or {}).get("history") or ()):
        text = str(step.get("created_by", "")) if isinstance(step, Mapping) else ""
        for told in _told(find_secrets(text, name="history.env")):
            yield f"history {number}", told, _IMAGE


def _others(image: ImageFacts) -> dict[str, str]:
    return {key: value for key, value in image.annotations.items() if image.labels.get(key) != value}


def _told(kinds: Mapping[str, int]) -> Iterator[str]:
    """One sentence for all secrets of a file."""
    if kinds:
        yield ", ".join(f"{kind} (line {line})" for kind, line in sorted(kinds.items()))


def _finding(where: str, evidence: str, remedy: str) -> Finding:
    return Finding(
        id="secret",
        check="secrets",
        severity="high",
        where=where,
        evidence=f"it holds a secret: {evidence}",
        remedy=remedy,
    )
