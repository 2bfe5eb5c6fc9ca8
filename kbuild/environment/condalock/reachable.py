"""Whether an index answers at all, asked once, before conda-lock would stop at one that does not."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from kbuild.environment.condalock.index_session import HostCredentials
from kbuild.environment.index.package_indexes import network_reason
from kbuild.environment.index.pip_network import configure
from kbuild.environment.links import is_local, local_path
from kbuild.errors import ConfigurationError
from kbuild.urls.credentials import split_credentials

_TIMEOUT = 5.0


def find_silence(index: str, environ: Mapping[str, str]) -> str | None:
    """Why an index gives nothing: it is not there, or its credentials are not known here. None where it answers."""
    if is_local(index):
        return None if local_path(index).is_dir() else "there is no such folder"
    try:
        bare, credentials = split_credentials(index, environ)
    except ConfigurationError as error:
        return error.message
    with requests.Session() as session:
        configure(session, environ)
        if credentials is not None:
            session.auth = HostCredentials(bare, credentials)
        try:
            # The root may list every package there is: its status is all that counts.
            with session.get(f"{bare.rstrip('/')}/", stream=True, timeout=_TIMEOUT) as response:
                busy = response.status_code >= requests.codes.server_error
                return f"it answers {response.status_code}" if busy else None
        except requests.RequestException as error:
            return network_reason(error)
