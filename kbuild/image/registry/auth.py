"""Who we are to a registry: credentials from Docker's configuration, and the token a registry asks for.

Distribution's token specification (distribution.github.io/distribution/spec/auth/token and …/oauth); Docker's
config.json with ``auths``, ``credsStore`` and ``credHelpers``, read by the Docker SDK's own ``docker.auth``.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass

import requests
from docker import auth as docker_auth
from docker.errors import DockerException

from kbuild.errors import RegistryError
from kbuild.image.oci.image_reference import DEFAULT_REGISTRY

TIMEOUT = (10.0, 120.0)
"""Seconds to connect to a registry or its token server, and to wait for the next byte."""

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_CLIENT = "kbuild"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Credentials:
    """A user's name and password, or an identity token; never shown."""

    username: str = ""
    password: str = ""
    identity_token: str | None = None


def read_credentials(registry: str) -> Credentials | None:
    """What ``docker login`` left for a registry, or None.

    Raises RegistryError when the configuration cannot be read or a credential helper fails.
    """
    try:
        config = docker_auth.load_config()
        found = config.resolve_authconfig(None if registry == DEFAULT_REGISTRY else registry)
    except (DockerException, OSError, ValueError) as error:
        raise RegistryError(f"Docker's credentials for {registry} cannot be read: {error}") from error
    if not found:
        return None
    token = found.get("IdentityToken") or found.get("identitytoken")
    username = found.get("Username") or found.get("username") or ""
    password = found.get("Password") or found.get("password") or ""
    if token is None and not username:
        return None
    return Credentials(username=username, password=password, identity_token=token)


class RegistryAuth(requests.auth.AuthBase):
    """Puts the header that ``answer`` obtained on each request; setting it also keeps ``.netrc`` out.

    Only the host of ``root`` is sent it: an upload's ``Location`` may name another one.
    """

    def __init__(self, registry: str, root: str, session: requests.Session) -> None:
        self._registry = registry
        self._root = root
        self._session = session
        self._header: str | None = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header is not None and self.is_own(request.url or ""):
            request.headers["Authorization"] = self._header
        return request

    def is_own(self, url: str) -> bool:
        """Whether a url is the registry's own, by the rule that ``requests`` has for redirects."""
        return not self._session.should_strip_auth(self._root, url)  # type: ignore[no-untyped-call]

    def answer(self, challenge: str) -> bool:
        """Take up a ``WWW-Authenticate`` challenge; False where there is nothing (new) to say to it.

        Raises RegistryError when the token server refuses or would have the login in the clear, and ``requests``'
        errors when it cannot be reached.
        """
        scheme, _, rest = challenge.partition(" ")
        credentials = read_credentials(self._registry)
        if scheme.lower() == "basic":
            header = None if credentials is None else _basic(credentials)
        elif scheme.lower() == "bearer":
            parameters: dict[str, str] = {match[1]: match[2] for match in _PARAMETER.finditer(rest)}
            header = f"Bearer {self._fetch_token(parameters, credentials)}"
        else:
            header = None
        changed = header is not None and header != self._header
        self._header = header or self._header
        return changed

    def _fetch_token(self, challenge: dict[str, str], credentials: Credentials | None) -> str:
        realm = challenge.get("realm", "")
        if credentials is not None and self._root.startswith("https:") and not realm.lower().startswith("https:"):
            raise RegistryError(
                f"the token server {realm} wants the login of {self._registry} without TLS, so that anybody on the way "
                "could read it",
                hint=f"docker logout {self._registry}, if it answers without a login; else ask who runs it for https",
            )
        query: dict[str, str] = {key: challenge[key] for key in ("service", "scope") if key in challenge}
        if credentials is not None and credentials.identity_token is not None:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": credentials.identity_token,
            }
            response = self._session.post(realm, data=form, auth=_no_auth, timeout=TIMEOUT)
        elif credentials is not None:
            basic = (credentials.username, credentials.password)
            response = self._session.get(realm, params=query, auth=basic, timeout=TIMEOUT)
        else:
            response = self._session.get(realm, params=query, auth=_no_auth, timeout=TIMEOUT)
        token = _token_in(response)
        if token is None:
            raise RegistryError(
                f"registry {self._registry} refuses the login: its token server answered {response.status_code}",
                hint=f"docker login {self._registry}",
            )
        return token


def _token_in(response: requests.Response) -> str | None:
    if response.status_code != 200:
        return None
    try:
        answer = response.json()
    except ValueError:
        return None
    token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    return token if isinstance(token, str) else None


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _basic(credentials: Credentials) -> str:
    return "Basic " + b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
