"""What a job asks for, as it stands in the queue; and the names under which no two of them are done at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kbuild.digest import Digest, digest_json
from kbuild.errors import ConfigurationError, InvalidReference
from kbuild.model.model_reference import ModelReference
from kbuild.untrusted import plain
from kbuild.urls.credentials import holds_credentials

_Value = TypeVar("_Value")
FORMAT = 1
_KEYS = frozenset({"format", "model", "options", "watched", "aliases"})
_PLAN = "plan "


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One model's image: ``options`` are those of ``kbuild image`` by name, as JSON has them. ``watched`` says that the
    registered version is told of it as ``kbuild watch`` tells, and its ``aliases`` of these patterns (none are all)
    name it."""

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    watched: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for whatever asks for the same image under the same name: such a job waits once."""
        return f"image {digest_json([self.model, dict(self.options)])}"

    def to_json(self) -> dict[str, Any]:
        """What the queue keeps, and everybody reads who may read that.

        Raises ConfigurationError for credentials, and for a model of a name that is not text.
        """
        if plain(self.model) != self.model:
            raise ConfigurationError(
                f"{plain(self.model)} holds control characters or bytes that are not UTF-8: no queue keeps such a name",
                hint="rename the folder",
            )
        secret = [name for name, value in self.options.items() if any(map(holds_credentials, _texts(value)))]
        if secret:
            raise ConfigurationError(
                f"credentials in {', '.join(secret)} would stand in the queue",
                hint="leave them out: a worker takes those of servers from its own configuration and variables",
            )
        return {
            "format": FORMAT,
            "model": self.model,
            "options": dict(self.options),
            **({"watched": True} if self.watched else {}),
            **({"aliases": list(self.aliases)} if self.aliases else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Asked:
        """Raises ConfigurationError for what another release, or somebody else, put there."""
        if value.get("format") != FORMAT or not set(value) <= _KEYS:
            raise ConfigurationError(
                "the job was put there by another release of kbuild", hint="workers and those that ask need one release"
            )
        model, options = value.get("model"), value.get("options", {})
        if not isinstance(model, str) or not isinstance(options, dict):
            raise ConfigurationError("the job names no model")
        try:
            ModelReference.parse(model)
        except InvalidReference as error:
            raise ConfigurationError(f"the job names no model: {error.message}") from error
        aliases = tuple(_texts(value.get("aliases", [])))
        return cls(model=model, options=options, watched=value.get("watched") is True, aliases=aliases)


def plan_lock(plan: Digest) -> str:
    """The lock that a job has from when its plan is known: two of one plan are not built at once."""
    return f"{_PLAN}{plan}"


def printable(value: _Value) -> _Value:
    """A text, or a value of JSON, in which what PostgreSQL's jsonb refuses (NUL, lone surrogates) and what a terminal
    obeys is written out."""
    made: Any = value
    if isinstance(value, str):
        made = plain(value)
    elif isinstance(value, Mapping):
        made = {printable(key): printable(each) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        made = [printable(each) for each in value]
    return made  # type: ignore[no-any-return]


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [each for each in value if isinstance(each, str)] if isinstance(
        value, list
    ) else []  # fmt: skip
