"""How an index is spoken to while a lock is made, by conda-lock's vendored poetry and ahead of it."""

from __future__ import annotations

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

from kbuild.urls.credentials import is_for

THREADS = 8
"""As many as keep connections to one server."""


class HostCredentials(AuthBase):
    """Those of a url are for its own host, where they stand above those of ~/.netrc, as for pip."""

    def __init__(self, index: str, credentials: tuple[str, str]) -> None:
        self._index, self._credentials = index, credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        found = self._credentials if is_for(self._index, url) else get_netrc_auth(url)
        return request if found is None else HTTPBasicAuth(*found)(request)
