"""MLflow's registry as who follows it asks: every version with its tags and aliases, tags of versions, webhooks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kbuild.errors import TrackingUnavailable
from kbuild.model.fetch import MlflowStore
from kbuild.model.find import RegisteredVersion
from kbuild.tracking.mlflow_client import every_version, find_versions
from kbuild.tracking.registry import PROMPT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.entities.webhook import Webhook

_log = logging.getLogger(__name__)
_PAGE = 1000
WEBHOOK_NAME = "kbuild-watch"
"""By this name kbuild finds the webhook that it made."""
EVENTS = (
    "model_version.created",
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.deleted",
)
"""What a webhook is told of: a tag that is gone may be that of a failure, which then is tried again."""

SERVER_NEEDS = (
    "the environment of MLflow's server needs MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY (a Fernet key, without which "
    "secrets are lost when it restarts), for an http:// url MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https, and for a "
    "private address MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"
)
"""Variables of MLflow's ``environment_variables.py`` that decide whether a webhook goes out."""


class Registry(Protocol):
    """The registry of an MLflow server."""

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        """Every version of every model, or of the one of that name, by name and number; prompts are left out."""

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; those that are None are taken away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookDelivery:
    """Whether a webhook was delivered; ``reason`` says why not."""

    url: str
    delivered: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowRegistry:
    """The ``Registry`` of a store. Every method raises TrackingUnavailable or TrackingRefused."""

    store: MlflowStore

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        """See Registry. A model that may not be read, or is gone, has none."""
        with self.store.speaking("the registered models"):
            return list(_versions(self.store.client(), name))

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        """See Registry. Raises ModelNotFound for a version that is gone."""
        with self.store.speaking(str(version)):
            client = self.store.client()
            for key, value in tags.items():
                if value is not None:
                    client.set_model_version_tag(version.name, str(version.version), key, value)
                elif key in version.tags:
                    client.delete_model_version_tag(version.name, str(version.version), key)

    def add_webhook(self, url: str, secret: str) -> WebhookDelivery:
        """Have MLflow tell ``url`` of what is registered, and let it send one delivery now.

        One that is there already for this url gets the secret anew. Raises TrackingUnavailable where the server has no
        webhooks, or refuses this one.
        """
        if not self.store.tracking_uri.startswith(("http://", "https://")):
            raise TrackingUnavailable(
                "webhooks are sent by an MLflow server, and this registry is asked without one",
                hint="MLFLOW_TRACKING_URI=URL of the server; without a webhook kbuild watch asks every few minutes",
            )
        with self.store.speaking("the webhooks"):
            client = _with_webhooks(self.store.client())
            return _test(client, _add(client, url, secret))

    def test_webhooks(self) -> list[WebhookDelivery]:
        """Let MLflow send a delivery to each webhook that kbuild made; what the server has none of is no error."""
        with self.store.speaking("the webhooks"):
            client = self.store.client()
            if not hasattr(client, "list_webhooks"):
                return []
            return [_test(client, each) for each in _webhooks(client) if each.name == WEBHOOK_NAME]


def _versions(client: MlflowClient, name: str | None) -> Iterator[RegisteredVersion]:
    from mlflow.exceptions import MlflowException

    if name is not None:
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        yield from _of_model(model, find_versions(client, name))
        return
    models = list(_models(client))
    known: dict[str, list[ModelVersion]] = {}
    try:
        for version in every_version(client):
            known.setdefault(str(version.name), []).append(version)
        whole = True
    except MlflowException as error:
        _log.debug("all versions at once: %s", error)
        whole = False
    for model in models:
        try:
            yield from _of_model(model, known.get(model.name, []) if whole else find_versions(client, model.name))
        except MlflowException as error:
            # One that may not be read stops no other.
            _log.debug("the versions of %s: %s", model.name, error)


def _models(client: MlflowClient) -> Iterator[RegisteredModel]:
    token = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _of_model(model: RegisteredModel, versions: list[ModelVersion]) -> Iterator[RegisteredVersion]:
    if PROMPT_TAG in (model.tags or {}):
        return
    # A search's versions do not tell their aliases, their models do.
    aliases: dict[str, list[str]] = {}
    for alias, number in (model.aliases or {}).items():
        aliases.setdefault(str(number), []).append(str(alias))
    for version in sorted(versions, key=lambda each: int(each.version)):
        yield RegisteredVersion(
            name=str(version.name),
            version=str(version.version),
            aliases=tuple(sorted(aliases.get(str(version.version), ()))),
            run_id=version.run_id or None,
            tags=dict(version.tags or {}),
            created=(version.creation_timestamp or 0) / 1000,
            ready=str(version.status) == "READY",
        )


def _with_webhooks(client: MlflowClient) -> MlflowClient:
    if not hasattr(client, "create_webhook"):
        import mlflow

        raise TrackingUnavailable(
            f"MLflow {mlflow.__version__} has no webhooks of its registry",
            hint="install MLflow 3.4 or newer here and on the server; without one kbuild watch asks every few minutes",
        )
    return client


def _webhooks(client: MlflowClient) -> Iterator[Webhook]:
    from mlflow.exceptions import MlflowException

    token = None
    while True:
        try:
            page = client.list_webhooks(page_token=token)
        except MlflowException as error:
            if error.error_code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED"):
                return
            raise
        yield from page
        token = page.token
        if not token:
            return


def _add(client: MlflowClient, url: str, secret: str) -> Webhook:
    from mlflow.exceptions import MlflowException

    found = [each for each in _webhooks(client) if each.name == WEBHOOK_NAME and each.url == url]
    try:
        if found:
            return client.update_webhook(found[0].webhook_id, events=list(EVENTS), secret=secret, status="ACTIVE")
        return client.create_webhook(
            name=WEBHOOK_NAME,
            url=url,
            events=list(EVENTS),
            description="kbuild watch builds images of what is registered",
            secret=secret,
        )
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        reason = " ".join(str(error).split()).removeprefix("INVALID_PARAMETER_VALUE: ")
        raise TrackingUnavailable(f"MLflow's server takes no webhook for {url}: {reason}", hint=SERVER_NEEDS) from error


def _test(client: MlflowClient, webhook: Webhook) -> WebhookDelivery:
    result = client.test_webhook(webhook.webhook_id)
    if result.success:
        return WebhookDelivery(url=webhook.url, delivered=True)
    told = result.error_message or f"it answered {result.response_status}: {str(result.response_body)[:200]}"
    return WebhookDelivery(url=webhook.url, delivered=False, reason=" ".join(told.split()))
