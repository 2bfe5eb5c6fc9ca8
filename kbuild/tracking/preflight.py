"""What is wrong with a tracking server, asked in seconds and told with what to type.

MLflow's own client asks a server that is not there for minutes, and tells of a refusal as of any other failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from kbuild.errors import ConfigurationError, TrackingRefused, TrackingUnavailable

_TIMEOUT = 10
_OK = 200
_UNSURE, _FORBIDDEN = 401, 403
# Logged models, which a training run makes, came with MLflow 3.
_OLDEST = 3
_NAMES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
_SERVER = re.compile(r"https?://[^/\s'\"]+")
_CERTIFICATE = re.compile("certificate[ _]verify[ _]failed", re.IGNORECASE)


def check_server(uri: str, *, logs_models: bool = False) -> None:
    """Ask a server at an http uri whether it answers; with ``logs_models`` also whether it is new enough for that.

    A server that is busy is asked again for a minute. Any other uri is left to MLflow.

    Raises TrackingRefused or TrackingUnavailable.
    """
    if not uri.startswith(("http://", "https://")):
        return
    version = _ask(uri, "/version")
    number = re.match(r"(\d+)\.\d+", version.text) if version.status_code == _OK else None
    if logs_models and number is not None and int(number[1]) < _OLDEST:
        raise TrackingUnavailable(
            f"the MLflow tracking server {without_userinfo(uri)} is MLflow {version.text.strip()[:20]}, "
            "which keeps no logged models",
            hint=f"it must be MLflow {_OLDEST} or newer; MLFLOW_TRACKING_URI chooses another server",
        )
    from kbuild.bounded.answers import full_of  # brings requests

    answer = _ask(uri, "/api/2.0/mlflow/experiments/search", params={"max_results": "1"})
    if answer.status_code in (_UNSURE, _FORBIDDEN):
        raise make_refusal(uri, answer.status_code)
    if answer.status_code != _OK:
        full = full_of(answer.content)
        raise make_unavailable(uri, f"it answers {answer.status_code} {answer.reason}{f': {full}' if full else ''}")


def check_uri(uri: str) -> None:
    """Raises ConfigurationError for an http uri whose password has a character that ends the host: what asks it takes
    the rest of the password for a part of the address, and shows it in its errors."""
    scheme, _, rest = uri.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme not in ("http", "https") or "@" not in rest[len(authority) :]:
        return
    if not _HOST.fullmatch(authority.rpartition("@")[2]):
        raise ConfigurationError(
            "the user or the password in MLFLOW_TRACKING_URI has a character that no url can have there",
            hint="leave them out of it and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; or write @ as "
            "%40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25",
        )


def reach_server(uri: str) -> None:
    """Ask a server at an http uri for anything: whoever answers is there. Raises TrackingUnavailable."""
    if uri.startswith(("http://", "https://")):
        _ask(uri, "/version")


def _ask(uri: str, path: str, params: Mapping[str, str] | None = None) -> Any:
    """The answer, whatever its status, with the credentials and certificates that MLflow uses."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    from kbuild.http import ask_patiently
    from kbuild.tracking.bounded_client import bound_answers

    check_uri(uri)
    bound_answers()

    def ask() -> Any:
        return http_request(
            get_default_host_creds(uri),
            path,
            "GET",
            max_retries=0,
            timeout=_TIMEOUT,
            raise_on_status=False,
            params=params,
        )

    try:
        return ask_patiently(ask)
    except (MlflowException, OSError) as error:
        raise make_error(uri, error) from error


ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"
"""What newer MLflows name where their store is a folder."""


def make_error(uri: str, error: BaseException) -> TrackingUnavailable | TrackingRefused:
    """What MLflow's client, or requests, says of a server, by its cause."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    status = find_refusal(error)
    if status is not None:
        return make_refusal(uri, status)
    if _CERTIFICATE.search(text):
        return TrackingUnavailable(
            f"the certificate of the MLflow tracking server {without_userinfo(uri)} is not trusted",
            hint="MLFLOW_TRACKING_SERVER_CERT_PATH=FILE names the certificate of the authority that signed it",
        )
    if ALLOW_FOLDER in text:
        return TrackingUnavailable(
            f"MLflow takes no folder as its tracking store, unless it is told to: {without_userinfo(uri)}",
            hint="name a database, MLFLOW_TRACKING_URI=sqlite:///mlflow.db (mlflow migrate-filestore copies what a"
            f" folder has), or set {ALLOW_FOLDER}=true",
        )
    from kbuild.http import is_of_transport, reason_of  # brings requests, which builds of what is there do without

    return make_unavailable(uri, reason_of(error) if is_of_transport(error) else text)


def find_refusal(error: BaseException) -> int | None:
    """401 or 403 where an error of MLflow's client is about credentials or permissions."""
    code = str(getattr(error, "error_code", ""))
    text = str(error)
    found = re.search(r"error code (401|403)\b|\b(401|403) Client Error", text)
    if found is not None:
        return int(found[1] or found[2])
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return _UNSURE
    return _FORBIDDEN if code == "PERMISSION_DENIED" else None


def make_refusal(uri: str, status: int) -> TrackingRefused:
    """The error for an answer of 401 or 403."""
    where = f"the MLflow tracking server {without_userinfo(uri)}"
    given = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD", "TOKEN"))
    if status == _FORBIDDEN:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        who = f" of {user}" if user else ""
        return TrackingRefused(
            f"{where} refuses this (403): permissions{who} are missing",
            hint=f"ask for the permission, or use other credentials: {_NAMES}",
        )
    return TrackingRefused(
        f"{where} does not take the credentials (401)" if given else f"{where} asks for credentials (401)",
        hint=f"set {_NAMES}",
    )


def make_unavailable(uri: str, why: object) -> TrackingUnavailable:
    """The error for a server that does not answer, or answers as something else."""
    return TrackingUnavailable(
        f"the MLflow tracking server {without_userinfo(uri)} does not answer as one: {one_line(why)}",
        hint="check MLFLOW_TRACKING_URI and that the server runs",
    )


def one_line(said: object) -> str:
    """What an error of MLflow's says, or any text, as one line without anybody's credentials."""
    if isinstance(said, BaseException):
        from kbuild.http import is_of_transport, reason_of

        if is_of_transport(said):  # of which MLflow tells urls, retries and objects
            server = _SERVER.search(without_userinfo(str(said)))
            return f"{server[0] if server else 'the server'} does not answer: {reason_of(said)}"
    return without_userinfo(" ".join(str(getattr(said, "message", None) or said).split()))[:300]


def without_userinfo(text: str) -> str:
    """The text without what uris in it say before an ``@``."""
    return re.sub(r"//[^/\s]+@", "//", text)
