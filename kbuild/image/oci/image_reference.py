"""Image references: ``[registry/]repository[:tag][@digest]``.

Grammar: OCI distribution-spec "Pulling manifests" and the distribution project's ``reference`` package, whose
rules for familiar names (``python`` is ``docker.io/library/python``) Docker follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kbuild.digest import Digest
from kbuild.errors import InvalidReference

DEFAULT_REGISTRY = "docker.io"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_LAST_PORT = 65535
_COMPONENT = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_HINT = "an image reference is [registry/]repository[:tag][@sha256:…], the repository in lower case"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReference:
    """A parsed reference in full; ``tag`` and ``digest`` may both be there, both absent means no version is named."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        text = f"{self.registry}/{self.repository}"
        host = _REGISTRY.fullmatch(self.registry)
        if not host or not 0 < int(host["port"] or 1) <= _LAST_PORT:
            raise InvalidReference(f"{self.registry!r} is not a registry's host[:port]", hint=_HINT)
        _check_repository(self.repository)
        if len(text) > 255:
            raise InvalidReference(f"the image name is longer than 255 characters: {text[:60]}…", hint=_HINT)
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidReference(
                f"{self.tag!r} is not a tag", hint="a tag has letters, digits, _ . - and at most 128"
            )

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read a reference, familiar or in full; raises InvalidReference."""
        name, at, digest_text = text.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except ValueError as error:
            raise InvalidReference(f"in image reference {text!r}: {error}", hint=_HINT) from error
        tag: str | None = None
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
        if re.fullmatch("[0-9a-f]{64}", name):
            raise InvalidReference(f"{text!r} is an image ID, not a name", hint=_HINT)
        registry, slash, repository = name.partition("/")
        if not slash or not _names_registry(registry):
            registry, repository = DEFAULT_REGISTRY, name
        if registry == "index.docker.io":
            registry = DEFAULT_REGISTRY
        try:
            _check_repository(repository)
            if registry == DEFAULT_REGISTRY and "/" not in repository:
                repository = f"library/{repository}"
            return cls(registry=registry, repository=repository, tag=tag, digest=digest)
        except InvalidReference as error:
            raise InvalidReference(f"not an image reference: {text!r}: {error.message}", hint=error.hint) from error

    @classmethod
    def find(cls, text: str) -> ImageReference | None:
        """As ``parse``; None for what is not a reference."""
        try:
            return cls.parse(text)
        except InvalidReference:
            return None

    def __str__(self) -> str:
        """The reference in full, ``docker.io/library/demo:1``."""
        return f"{self.registry}/{self.repository}{self._version}"

    @property
    def familiar(self) -> str:
        """The short form that ``docker`` shows, ``demo:1``, where it reads back as this reference; else in full."""
        for short in (self.repository.removeprefix("library/"), self.repository):
            text = f"{short}{self._version}"
            if self.registry == DEFAULT_REGISTRY and ImageReference.find(text) == self:
                return text
        return str(self)

    @property
    def name(self) -> str:
        """Registry and repository without tag or digest."""
        return f"{self.registry}/{self.repository}"

    def with_tag(self, tag: str | None) -> ImageReference:
        """The same repository under another tag, without a digest."""
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> ImageReference:
        """The same repository at ``digest``, without a tag."""
        return replace(self, tag=None, digest=digest)

    @property
    def _version(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"


def _check_repository(text: str) -> None:
    if not _REPOSITORY.fullmatch(text):
        raise InvalidReference(f"{text!r} is not a repository name", hint=_HINT)


def _names_registry(first: str) -> bool:
    """Whether the part before the first slash is a host, by the distribution project's ``splitDockerDomain``."""
    return "." in first or ":" in first or first == "localhost" or first.lower() != first
