"""Secrets in texts and files: tokens and keys by their form, and whatever stands behind a name such as ``password``.

By detect-secrets, the one scanner that is kept as a Python library (trufflehog and gitleaks are programs of other
languages, that no index of Python packages keeps). Its plugins are asked one by one: those that count entropy are left
out, since digests and weights look like keys to them. A secret itself is never told, only its kind and its line.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from kbuild.urls.secret_names import names_secret

_PLUGINS = {
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
}
# Tokens with a prefix of their own that detect-secrets 1.5 does not know, by what their makers' documentation says.
_OTHERS = {
    "Anthropic API key": re.compile(r"\bsk-ant-[\w-]{24,}"),
    "AWS secret access key": re.compile(
        r"(?i:aws_?secret_?access_?key)[\"']?\s{0,3}[:=]\s{0,3}[A-Za-z0-9/+]{40}(?![\w/+=])"
    ),
    "Azure shared access signature": re.compile(r"[?&;]sig=[A-Za-z0-9%/+]{43,64}(?:%3[Dd]|=)"),
    "Databricks token": re.compile(r"\bdapi[0-9a-f]{32}\b"),
    "Docker Hub token": re.compile(r"dckr_[po]at_[\w-]{27,}"),
    "GitHub fine-grained token": re.compile(r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
    "Google API key": re.compile(r"\bAIza[\w-]{35}\b"),
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z]{34}\b"),
    "OpenAI project key": re.compile(r"sk-(?:proj|svcacct|admin)-(?=[\w-]{0,60}\d)[\w-]{40,}"),
    "Telegram bot token": re.compile(r"(?<![\w:])\d{8,10}:AA[\w-]{33}(?![\w-])"),
    "Vault token": re.compile(r"hv[sb]\.[\w-]{90,}"),
    "header with credentials": re.compile(
        r"(?i:authorization)[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?i:bearer|basic) {1,3}(?=[\w.~+/-]{0,60}\d)[\w.~+/-]{16,}"
    ),
    "npm access token": re.compile(r"npm_(?=[A-Za-z]{0,35}\d)[A-Za-z0-9]{36}\b"),
    "encrypted private key": re.compile(r"-----BEGIN (ENCRYPTED|[A-Z0-9 ]*OPENSSH) PRIVATE KEY-----"),
}
_USERINFO = re.compile(r"[^/\s:@'\"<>{}$]{0,100}:([^/\s:@'\"<>]{1,200})@")
# What the forms above begin with or hold.
_MARKS = (
    "A3T", "ABIA", "ACCA", "AKIA", "ASIA", "aws", "AWS", "AccountKey=", "ghp_", "gho_", "ghu_", "ghs_", "ghr_",
    "glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "eyJ", "-us", "_authToken", "T3BlbkFJ", "PRIVATE KEY",
    "pypi-Ag", "SG.", "xoxa-", "xoxb-", "xoxp-", "xoxo-", "xoxs-", "xoxr-", "hooks.slack.com", "sq0csp-", "k_live_",
    "sk-ant-", "dapi", "AIza", "hf_", "sig=", "dckr_", "github_pat_", "sk-proj-", "sk-svcacct-", "sk-admin-", "hvs.",
    "hvb.", "uthorization", "UTHORIZATION", "npm_", "Aws", ":AA",
)  # fmt: skip
_WINDOW, _OVERLAP, _BEFORE, _LINE, _CHUNK = 4096, 1024, 256, 4096, 8 << 20
_PLACES = ("root/", "home/", "app/", "srv/", "tmp/", "mnt/", "run/", "data/", "workspace/", "var/run/")
# Names under which a person keeps secrets, and no package publishes anything.
_OWN_FILE = re.compile(
    r"\.env(\..*)?|.*\.env|\.netrc|\.pypirc|\.npmrc|\.git-credentials|\.pgpass|\.htpasswd|\.dockercfg|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(kdbx|ppk|tfstate)|(credentials|secrets?)(\.(ya?ml|json|toml|ini))?|service[-_]?account.*\.json|kubeconfig"
)
# Those that packages have too: certificates, keys of their tests, modules.
_SECRET_FILE = re.compile(r".*\.(pem|key|p12|pfx|jks|keystore)|credentials\.\w+|config\.json|pip\.conf|secrets?\.\w+")
_DISTRIBUTED = ("usr/lib/", "usr/share/", "etc/ssl/")
# KEY=VALUE and "key: value" of .env files, YAML, TOML and INI.
_ASSIGNED = re.compile(r"""^\s*(?:export\s+)?["']?([\w.\-]{2,64})["']?\s*[:=]\s*(.*?)\s*,?$""")
_CONFIGURING = (
    ".env",
    ".yml",
    ".yaml",
    ".json",
    ".toml",
    ".ini",
    ".cfg",
    ".conf",
    ".properties",
    ".netrc",
    ".pypirc",
    ".sh",
)
# Names and texts of JSON wherever they stand in a line, and what .netrc says.
_IN_JSON = re.compile(r'"([\w.\-]{2,64})"\s{0,8}:\s{0,8}"([^"\\]{6,4096})"')
# What sources and notebooks assign: names and marks are words, and what a person keeps to himself has figures too.
_IN_CODE = re.compile(r"""\b(\w{2,64})\s{0,3}=\s{0,3}["'](?=[^"'\s]{0,60}\d)([^"'\\\s]{8,200})["']""")
_CODE = (".py", ".ipynb", ".R", ".sh")
# Elements and attributes of XML.
_IN_XML = re.compile(
    r"""<(?:[\w\-]{1,64}:)?([\w.\-]{2,64})(?:\s[^<>]{0,512})?>\s{0,256}([^<>\s]{6,4096})\s{0,256}</"""
    r"""|\b([\w.\-]{2,64})\s?=\s?["']([^"'<>\s]{6,4096})["']"""
)
_MARKUP = (".xml", ".config")
_IN_NETRC = re.compile(r"\bpassword\s+(\S{6,})")
# Words of texts stand behind these names, too.
_OF_TEXT = re.compile(r"(?:.*[_.\-])?token", re.I)
_OF_TOKEN = re.compile(r"(?=.*\d)\S{16,}")
# What stands where a secret will be: nothing, a reference, a placeholder, a name of a type, a number of tokens.
_PLACEHOLDER = re.compile(
    r"(?:none|null|nil|true|false|yes|no|\d+(?:\.\d+)?|\*+|x{3,}|\.{3,}|<.*>|\[.*\]|\{.*\}|\$.*|%.*|.*\$\{.*|!.*|[|>][+-]?|str"
    r"|string|changeme|change[_-]me|example.*|your[_-].*|/\S*|\S+\(.*)?",
    re.I | re.S,
)
_SHORTEST = 6
_PRINTED = re.compile(rb"[\t\n\r\x20-\x7e]{8,}")
# Without their first letter: what begins with a zero is looked for quickly.
_WIDELY = re.compile(rb"\0[\x20-\x7e](?:\0[\x20-\x7e]){6,}|\0\0\0[\x20-\x7e](?:\0\0\0[\x20-\x7e]){6,}")
# Kedro's catalog names an entry of credentials.yml; tokenizers call the marks of their texts so.
_CREDENTIALS_BY_NAME = re.compile(r"(.*[_.\-/ ])?credentials?=[a-z_]\w*", re.I)


def find_secrets(text: str, *, name: str = "") -> dict[str, int]:
    """The kinds of secrets in a text, each with the number of its first line; ``name`` is that of its file."""
    found: dict[str, int] = {}
    for kind, place in _by_form(text):
        found.setdefault(kind, text.count("\n", 0, place) + 1)
    if name.endswith(_CONFIGURING) or name.rpartition("/")[2].startswith(".env"):
        for number, line in enumerate(text.splitlines(), 1):
            match = _ASSIGNED.match(line[:_LINE])
            if match is not None and is_secret(match[1], match[2].strip("\"'")):
                found.setdefault(f"value of {match[1]}", number)
    for kind, place in _by_name(text, name):
        if kind not in found:
            found[kind] = text.count("\n", 0, place) + 1
    return found


def _by_name(text: str, name: str) -> Iterator[tuple[str, int]]:
    if name.rpartition("/")[2] in (".netrc", "_netrc"):
        for match in _IN_NETRC.finditer(text):
            if _PLACEHOLDER.fullmatch(match[1]) is None:
                yield "password of a machine", match.start()
    for match in _IN_CODE.finditer(text) if name.endswith(_CODE) else ():
        if is_secret(*match.groups()):
            yield f"value of {match[1]}", match.start()
    for match in _IN_XML.finditer(text) if name.endswith(_MARKUP) else ():
        key, value = match[1] or match[3], match[2] or match[4]
        if is_secret(key, value):
            yield f"value of {key}", match.start(1 if match[1] else 3)
    if not name.endswith((".json", ".dockercfg")):
        return
    for match in _IN_JSON.finditer(text):
        key, value = match.groups()
        if (key == "auth" and _is_userinfo(value)) or is_named_secret(key, value):
            yield f"value of {key}", match.start()


def _is_userinfo(value: str) -> bool:
    """As Docker writes user and password (docker's docs, "docker login")."""
    try:
        user, found, _ = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return False
    return bool(found) and user.isprintable()


def find_in_file(path: Path, *, name: str) -> dict[str, int]:
    """As ``find_secrets`` for a file of any size; raises OSError."""
    with path.open("rb") as file:
        return find_in_chunks(iter(lambda: file.read(_CHUNK), b""), name=name)


def find_in_chunks(chunks: Iterator[bytes], *, name: str) -> dict[str, int]:
    """As ``find_secrets`` for a stream. Of what is no text the number of a line says little."""
    found: dict[str, int] = {}
    lines, before, binary, wide = 0, b"", None, False
    for chunk in chunks:
        if binary is None:
            wide = chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            binary = not wide and b"\0" in chunk[:8192]
        # Of UTF-16 the letters that secrets are written in: what else there is does not matter.
        chunk = chunk.translate(None, b"\0") if wide else chunk
        text = _printed(before + chunk) if binary else (before + chunk).decode("utf-8", errors="replace")
        for kind, line in find_secrets(text, name="" if binary else name).items():
            found.setdefault(kind, lines + line)
        lines += chunk.count(b"\n")
        before = chunk[-_OVERLAP:]
    return found


def _printed(data: bytes) -> str:
    """The texts in what is none: a secret is of printed characters, one byte each, or two or four as numpy has them."""
    found = _PRINTED.findall(data)
    wide = (data[max(match.start() - 1, 0) : match.end()] for match in _WIDELY.finditer(data))
    found += (each.translate(None, b"\0") for each in wide)
    return b"\n".join(found).decode("latin-1")


def may_hold_secrets(path: str) -> bool:
    """Whether a file of an image is looked into: by its name wherever it lies, or by its folder."""
    if has_own_name(path) or (path.startswith(_PLACES) and "/lib/python" not in path):
        return True
    return not path.startswith(_DISTRIBUTED) and _SECRET_FILE.fullmatch(path.rpartition("/")[2]) is not None


def has_own_name(path: str) -> bool:
    """Whether a file is called as only a person's own secrets are, so that it counts even where a package has it."""
    return _OWN_FILE.fullmatch(path.rpartition("/")[2]) is not None


def is_key_store(path: str) -> bool:
    """Whether a file holds keys in a form that is not looked into."""
    return path.endswith((".p12", ".pfx", ".jks", ".keystore", ".kdbx"))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable, label or parameter of that name holds a secret, and no placeholder for one."""
    if _CREDENTIALS_BY_NAME.fullmatch(f"{name}={value}"):
        return False
    return names_secret(name) and len(value) >= _SHORTEST and _PLACEHOLDER.fullmatch(value) is None


def is_named_secret(name: str, value: str) -> bool:
    """As ``is_secret`` of names that stand in data, where texts have tokens."""
    worded = _OF_TEXT.fullmatch(name) is not None and _OF_TOKEN.fullmatch(value) is None
    return not worded and is_secret(name, value)


def find_in_values(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of variables, labels or parameters that hold secrets, and the kind of each."""
    for name, value in values.items():
        kinds = [*find_secrets(value)] or (["value of such a name"] if is_secret(name, value) else [])
        if kinds:
            yield name, ", ".join(kinds)


def _by_form(text: str) -> Iterator[tuple[str, int]]:
    """Kinds with the places that they begin at, looked for around what such a secret cannot be without.

    The patterns are not made for megabytes: each window is short, whatever the text is.
    """
    done = 0
    for place in sorted(_marks(text)):
        if place < done:
            continue
        done = place + _WINDOW - _OVERLAP
        start = max(place - _BEFORE, 0)
        window = text[start : place + _WINDOW]
        for kind, value in _in_window(window):
            yield kind, start + max(window.find(value), 0)
    place = text.find("://")
    while place >= 0:
        match = _USERINFO.match(text, place + 3)
        if match is not None and _PLACEHOLDER.fullmatch(match[1]) is None and not match[1].lower().startswith("pass"):
            yield "password in a url", place
        place = text.find("://", place + 3)


def _marks(text: str) -> Iterator[int]:
    for mark in _MARKS:
        place = text.find(mark)
        while place >= 0:
            yield place
            place = text.find(mark, place + _WINDOW - _OVERLAP)


def _in_window(text: str) -> Iterator[tuple[str, str]]:
    for plugin in _plugins():
        for value in plugin.analyze_string(text):
            yield str(plugin.secret_type), value
    for kind, pattern in _OTHERS.items():
        for match in pattern.finditer(text):
            yield kind, match[0]


@cache
def _plugins() -> tuple[Any, ...]:
    return tuple(
        getattr(import_module(f"detect_secrets.plugins.{module}"), name)() for module, name in _PLUGINS.items()
    )
