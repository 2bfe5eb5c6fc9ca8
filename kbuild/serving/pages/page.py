"""The pages ``/`` (try the model) and ``/docs``: made once, from files beside this one; nothing comes from elsewhere.

What a page's script does is ask ``/invocations``, so that what it shows is what every other client gets.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.pages.about import name_model
from kbuild.serving.pages.docs import describe
from kbuild.serving.pages.form import make_form, make_values
from kbuild.serving.pages.limits import ToldLimits
from kbuild.serving.pages.openapi import make_openapi

_NAV = (("./", "Try it"), ("docs", "Docs"), ("openapi.json", "OpenAPI"))


class ModelPages:
    """The pages of one model; ``headers`` belong to each of them."""

    def __init__(self, facts: Facts, limits: ToldLimits) -> None:
        style, try_script, docs_script = map(_read, ("page.css", "try.js", "docs.js"))
        described = make_openapi(facts)
        policy = (
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(try_script)} {_hash(docs_script)}; "
            "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        self.headers = (("content-security-policy", policy), ("referrer-policy", "no-referrer"))
        self.openapi = json.dumps(described).encode()
        values = f"<script type='application/json' id='facts'>{_in_script(make_values(facts, limits))}</script>"
        self.page = _document("./", facts, style, f"{make_form(facts)}{values}<script>{try_script}</script>")
        self.docs = _document(
            "docs", facts, style, f"{describe(facts, described, limits)}<script>{docs_script}</script>"
        )


def _document(here: str, facts: Facts, style: str, content: str) -> bytes:
    name, version = name_model(facts)
    known = (("model", facts.model_id), ("run", facts.run_id), ("MLflow", facts.mlflow_version))
    numbered = version is not None and version != facts.model_id
    untold = [] if numbered else ["version not told (KBUILD_MODEL_VERSION tells it)"]  # which is in no image
    about = " · ".join([*(f"{what} {value}" for what, value in known if value), *untold])
    links = "".join(
        f"<a href='{path}'{' aria-current=page' if path == here else ''}>{words}</a>" for path, words in _NAV
    )
    heading = escape(name) + (f" <small>version {escape(str(version))}</small>" if numbered else "")
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{escape(name)}: {'docs' if here == 'docs' else 'try it'}</title><style>{style}</style></head><body>"
        f"<header><div><h1>{heading}</h1><p class='soft'>{escape(about)}</p></div><nav aria-label='Pages'>{links}</nav>"
        f"</header><main>{content}</main></body></html>"
    ).encode(errors="replace")


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _hash(text: str) -> str:
    """Of Content Security Policy Level 3, 2.3.1."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _in_script(value: Any) -> str:
    """JSON that no HTML parser takes for the end of its element."""
    text = json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
    return text.encode(errors="backslashreplace").decode()  # half of a pair, which UTF-8 has not, as JSON writes it
