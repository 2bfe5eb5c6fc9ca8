"""What a registry says where it does not do what it was asked, and what to do about it.

The distribution-spec's "Error Codes"; the statuses of RFC 9110, 6585 (429) and 4918 (507).
"""

from __future__ import annotations

import json

import requests

from kbuild.errors import RegistryError
from kbuild.image.oci.image_reference import ImageReference

NO_REGISTRY = "check the name and the port; a proxy or a page to log in may stand before it"


def refusal(reference: ImageReference, response: requests.Response) -> RegistryError:
    """The error that an answer is, with the registry's own words."""
    registry, code = reference.registry, response.status_code
    match code:
        case 401 | 403:
            text = f"registry {registry} refuses access to {reference}: {_words(response)}"
            return RegistryError(text, hint=f"docker login {registry}")
        case 404:
            return RegistryError(f"registry {registry} has no {reference}", hint="check the name and the tag")
        case _ if code < 400:
            kind = response.headers.get("Content-Type", "").partition(";")[0] or "nothing"
            text = f"{registry} does not answer {reference} as a registry does: {code} with {kind}"
            return RegistryError(text, hint=NO_REGISTRY)
        case _:
            text = f"registry {registry} answered {code} for {reference}: {_words(response)}"
            return RegistryError(text, hint=_remedy(registry, response))


def _remedy(registry: str, response: requests.Response) -> str:
    match response.status_code:
        case 413:
            return "raise the size of a request that a proxy before the registry takes (nginx: client_max_body_size)"
        case 429:
            after = response.headers.get("Retry-After", "")
            wait = f"try again in {after} s" if after.isdecimal() else "try again later"
            return f"{wait}; who is logged in may ask more often: docker login {registry}"
        case 507:
            return "make room in the registry's storage, or raise its quota, and try again"
        case _:
            return f"try again; if it stays, look at the log of registry {registry}"


def _words(response: requests.Response) -> str:
    """The registry's own message, or the status line's."""
    try:
        errors = json.loads(response.content)["errors"]
        return "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):
        return response.reason or str(response.status_code)
