"""Whether the indexes that a model itself names answer, asked once, before a lock is made without one of them.

Names that only such an index has would be locked from a public one, where anybody may have taken them. So a lock is
made with all indexes or not at all. The one exception is a server of this very machine that nothing listens for: it
holds nothing for anybody, and the lock is then this command's alone.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

import requests

from kbuild.environment.index.package_indexes import network_reason
from kbuild.environment.index.pip_network import configure
from kbuild.environment.index.session import HostCredentials
from kbuild.environment.links import is_local, local_path
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.http import patient_session
from kbuild.progress import Progress
from kbuild.urls.credentials import is_loopback, split_credentials, without_credentials

_TIMEOUT = 30.0
_PORTS = {"http": 80, "https": 443}
_LEAVE_OUT = (
    "or lock it where that index answers (kbuild lock there stores the lock with the run); to leave the index out, log "
    "the model again without its --extra-index-url"
)


def answering(
    indexes: Sequence[str], own: Collection[str], environ: Mapping[str, str], progress: Progress
) -> tuple[str, ...]:
    """The indexes to lock with: all, but those of the model's ``own`` that this machine would serve and does not.

    Raises ConfigurationError for one that needs credentials which are not set here or is a folder that is not here,
    IndexUnavailable for one that does not answer, after it was asked for a minute.
    """
    kept = []
    for index in indexes:
        if index in own:
            if _is_nobodys(index):
                progress.tell(
                    f"the model's requirements name {without_credentials(index)}, which is passed over: nothing listens"
                    " there on this machine. The lock made without it is neither kept nor stored with the run"
                )
                continue
            _check_answer(index, environ)
        kept.append(index)
    return tuple(kept)


def _is_nobodys(index: str) -> bool:
    parts = urlsplit(index)
    if is_local(index) or not is_loopback(index):
        return False
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORTS.get(parts.scheme, 443)), timeout=_TIMEOUT):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _check_answer(index: str, environ: Mapping[str, str]) -> None:
    named = f"{without_credentials(index)}, an index that the model's requirements name,"
    if is_local(index):
        if not local_path(index).is_dir():
            raise ConfigurationError(
                f"{named} is not a folder of this machine", hint=f"bring the folder here, {_LEAVE_OUT}"
            )
        return
    try:
        bare, credentials = split_credentials(index, environ)
    except ConfigurationError as error:
        raise ConfigurationError(error.message, hint=f"{error.hint}, {_LEAVE_OUT}") from error
    with patient_session() as session:
        session.verify = environ.get("REQUESTS_CA_BUNDLE") or True
        configure(session, environ)
        if credentials is not None:
            session.auth = HostCredentials(bare, credentials)
        try:
            # The root may list every package there is: its status is all that counts.
            with session.get(f"{bare.rstrip('/')}/", stream=True, timeout=_TIMEOUT) as response:
                status = response.status_code
        except requests.RequestException as error:
            raise IndexUnavailable(
                f"{named} does not answer: {network_reason(error)}", hint=f"try again later, {_LEAVE_OUT}"
            ) from error
    if status == requests.codes.unauthorized:
        host = urlsplit(bare).hostname
        raise ConfigurationError(
            f"{named} wants other credentials than it is given here (401)",
            hint=f"give those of {host} in ~/.netrc or in the variables that its url names, {_LEAVE_OUT}",
        )
    if status == requests.codes.too_many_requests or status >= requests.codes.server_error:
        raise IndexUnavailable(f"{named} answers {status}", hint=f"try again later, {_LEAVE_OUT}")
