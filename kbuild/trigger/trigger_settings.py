"""What a project may set for what follows training; the keys are documented in project/kbuild.schema.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from kbuild.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalTrigger:
    """Build in the background on this machine; ``push`` is a reference with placeholders, None pushes nowhere."""

    kind: ClassVar[str] = "local"
    push: str | None = None
    verify: bool = True
    audit: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandTrigger:
    """Start a program; ``argv`` may have placeholders."""

    kind: ClassVar[str] = "command"
    argv: tuple[str, ...]
    wait: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookTrigger:
    """POST a signed body to ``url``; the secret is in the environment variable ``secret_env``. Timeout in seconds."""

    kind: ClassVar[str] = "webhook"
    url: str
    secret_env: str = "KBUILD_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
    retries: int = 3
    timeout: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GithubTrigger:
    """A ``repository_dispatch`` of the repository ``owner/name``."""

    kind: ClassVar[str] = "github"
    repository: str
    event_type: str = "kbuild-model-logged"
    api_url: str = "https://api.github.com"
    token_env: str = "KBUILD_GITHUB_TOKEN"  # noqa: S105 - the variable's name
    retries: int = 3
    timeout: float = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GitlabTrigger:
    """A pipeline of a project (``group/name`` or number), started with a trigger token."""

    kind: ClassVar[str] = "gitlab"
    project: str
    ref: str = "main"
    api_url: str = "https://gitlab.com/api/v4"
    token_env: str = "KBUILD_GITLAB_TOKEN"  # noqa: S105 - the variable's name
    retries: int = 3
    timeout: float = 10.0


RemoteTrigger: TypeAlias = WebhookTrigger | GithubTrigger | GitlabTrigger
Trigger: TypeAlias = LocalTrigger | CommandTrigger | RemoteTrigger

REMOTE: Mapping[str, type[WebhookTrigger] | type[GithubTrigger] | type[GitlabTrigger]] = {
    "webhook": WebhookTrigger,
    "github": GithubTrigger,
    "gitlab": GitlabTrigger,
}
"""The triggers that tell a server, by the name they have in the configuration."""


def make_trigger(table: Mapping[str, Any]) -> Trigger | None:
    """The trigger that a schema-checked configuration asks for, None for none.

    Raises ConfigurationError when the section that the trigger needs is not there.
    """
    kind = table.get("trigger", "none")
    if kind == "none":
        return None
    section = table.get(kind, {})
    if kind == "local":
        return LocalTrigger(push=table.get("push"), **section)
    if kind not in table:
        raise ConfigurationError(
            f"trigger is {kind}, but there is no section {kind}", hint=f"add the section {kind} to kbuild.yml"
        )
    if kind == "command":
        return CommandTrigger(argv=tuple(section["argv"]), wait=section.get("wait", False))
    return REMOTE[kind](**section)


def make_remotes(table: Mapping[str, Any]) -> dict[str, RemoteTrigger]:
    """Every server that a schema-checked configuration has a section for, whatever ``trigger`` says now."""
    return {kind: REMOTE[kind](**table[kind]) for kind in REMOTE if kind in table}
