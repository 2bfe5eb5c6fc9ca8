"""TrainingEvent: what is told of a training run whose model was logged. Its JSON form is event.schema.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kbuild.digest import canonical_json, digest_json
from kbuild.errors import TriggerFailed
from kbuild.tracking.preflight import without_userinfo

EVENT_NAME = "model.logged"
EVENT_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingEvent:
    """A logged model and where it came from; ``tracking_uri`` has no credentials in it.

    ``git_commit`` is 40 hexadecimal characters, ``git_dirty`` whether files differ from it; ``env`` is the Kedro
    environment.
    """

    run_id: str
    model_id: str
    model_uri: str
    model_name: str
    tracking_uri: str
    project: str
    env: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None

    def __post_init__(self) -> None:
        """Nobody's credentials are told to anybody."""
        object.__setattr__(self, "tracking_uri", without_userinfo(self.tracking_uri))

    @property
    def id(self) -> str:
        """The idempotency key: the same for the same model, however often it is told."""
        return digest_json([EVENT_NAME, self.run_id, self.model_id]).hex[:32]

    def to_json(self) -> dict[str, Any]:
        """The body's value, after event.schema.json."""
        return {"format": EVENT_FORMAT, "event": EVENT_NAME, "id": self.id, **asdict(self)}

    @property
    def body(self) -> bytes:
        """The JSON text that is sent and signed."""
        return canonical_json(self.to_json())

    def fill(self, text: str) -> str:
        """``text`` with ``{run_id}``, ``{model_id}``, ``{model_uri}``, ``{model_name}``, ``{tracking_uri}`` filled in.

        Other braces stay as they are: a program's arguments may well have some.
        """
        names = ("run_id", "model_id", "model_uri", "model_name", "tracking_uri")
        return re.sub(r"\{(" + "|".join(names) + r")\}", lambda match: str(getattr(self, match[1])), text)


def parse_event(value: object, source: str) -> TrainingEvent:
    """Read what ``to_json`` made; raises TriggerFailed naming ``source`` for anything else."""
    if not isinstance(value, Mapping) or value.get("event") != EVENT_NAME or value.get("format") != EVENT_FORMAT:
        raise TriggerFailed(f"{source} holds no training event that this kbuild knows")
    fields = TrainingEvent.__dataclass_fields__
    required = ("run_id", "model_id", "model_uri", "model_name", "tracking_uri", "project")
    wrong = [name for name in required if not isinstance(value.get(name), str)]
    if wrong:
        raise TriggerFailed(f"{source}: {', '.join(wrong)} missing or no text")
    return TrainingEvent(**{name: value[name] for name in fields if name in value})
