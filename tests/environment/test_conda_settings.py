"""What conda's docs say of each setting ("Settings", "Using the .condarc conda configuration file")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.conda_settings import conda_settings, environment_of, hidden_places
from kbuild.environment.condalock.channels import answers_as_channel, channel_urls, choose_interpreter
from kbuild.environment.index.download import channel_session
from kbuild.environment.origins import is_of_channel
from kbuild.errors import ConfigurationError
from kbuild.urls.credentials import expand_variables


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def write(home: dict[str, str], text: str, name: str = ".condarc") -> Path:
    path = Path(home["HOME"], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_set(home: dict[str, str]) -> None:
    assert conda_settings(home).places(["conda-forge", "defaults", "/srv/a", "pkgs/r", "x/label/dev"]) == [
        "https://conda.anaconda.org/conda-forge",
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
        "/srv/a",
        "https://repo.anaconda.com/pkgs/r",
        "https://conda.anaconda.org/x/label/dev",
    ]


def test_where_named_channels_lie(home: dict[str, str]) -> None:
    write(
        home,
        """
channel_alias: https://alias.example/conda/
custom_channels:
  team: https://own.example/channels
  other/deep: https://deep.example
  folder: file:///srv/mirror
custom_multichannels:
  all: [team, https://more.example/x]
default_channels:
  - https://own.example/mirror/main
  - mirror-r
""",
    )
    assert channel_urls(["conda-forge", "team", "team/label/dev", "other/deep", "other", "all", "defaults"], home) == [
        "https://alias.example/conda/conda-forge",
        "https://own.example/channels/team",
        "https://own.example/channels/team/label/dev",
        "https://deep.example/other/deep",
        "https://alias.example/conda/other",
        "https://own.example/channels/team",
        "https://more.example/x",
        "https://own.example/mirror/main",
        "https://alias.example/conda/mirror-r",
    ]
    assert channel_urls(["folder"], home) == ["file:///srv/mirror/folder"]
    assert is_of_channel("https://own.example/channels/team/noarch/a-1-0.conda", ["team"], home)
    assert not is_of_channel("https://own.example/channels/team/label/dev/noarch/a-1-0.conda", ["team"], home)
    assert not is_of_channel("https://alias.example/conda/team/noarch/a-1-0.conda", ["team"], home)


def test_the_last_file_and_above_it_variables_count(home: dict[str, str], tmp_path: Path) -> None:
    write(home, "channel_alias: https://a.example\ncustom_channels: {x: https://x.example, y: https://y.example}\n")
    write(home, "channel_alias: https://b.example\n", "prefix/.condarc")
    write(home, "custom_channels: {x: https://own.example}\n", "alone.yml")
    write(home, "channel_alias: https://early.example\n", ".config/conda/condarc.d/10-site.yml")
    environ = {**home, "CONDA_PREFIX": str(tmp_path / "prefix"), "CONDARC": str(tmp_path / "alone.yml")}
    assert channel_urls(["n", "x", "y"], environ) == [
        "https://b.example/n",
        "https://own.example/x",
        "https://y.example/y",
    ]
    assert channel_urls(["n"], home) == ["https://a.example/n"]
    environ |= {"CONDA_CHANNEL_ALIAS": "https://v.example", "CONDA_DEFAULT_CHANNELS": "https://d.example/a, b"}
    assert channel_urls(["n", "defaults"], environ) == [
        "https://v.example/n",
        "https://d.example/a",
        "https://v.example/b",
    ]


def test_variables_in_it_are_filled_in(home: dict[str, str]) -> None:
    write(home, "custom_channels:\n  team: https://${WHO}:$SECRET@own.example\nchannel_alias: https://$UNSET_1/x\n")
    assert channel_urls(["team", "n"], {**home, "WHO": "me", "SECRET": "pw"}) == [
        "https://me:pw@own.example/team",
        "https://$UNSET_1/x/n",
    ]


def test_a_file_that_changes_is_read_again(home: dict[str, str]) -> None:
    write(home, "channel_alias: https://a.example\n")
    assert channel_urls(["n"], home) == ["https://a.example/n"]
    write(home, "channel_alias: https://longer.example\n")
    assert channel_urls(["n"], home) == ["https://longer.example/n"]


@pytest.mark.parametrize(
    "text",
    [
        "channel_alias: [a",
        "- a",
        "custom_channels: [a]",
        "default_channels: a",
        "custom_multichannels: {a: b}",
        "channel_alias: {a: b}",
        "\x00",
    ],
)
def test_a_file_that_is_none_is_named_with_what_to_type(text: str, home: dict[str, str]) -> None:
    path = write(home, text)
    with pytest.raises(ConfigurationError, match=r"conda's settings in .*cannot be read") as raised:
        choose_interpreter("auto", ["n"], environ=home)
    assert f"mv {path} {path}.off" in str(raised.value.hint)


@pytest.mark.parametrize("text", ["", "# nothing\n", "channels:\n  - conda-forge\nreport_errors: false\n", "null"])
def test_what_says_nothing_of_places(text: str, home: dict[str, str]) -> None:
    write(home, text)
    assert channel_urls(["n"], home) == ["https://conda.anaconda.org/n"]


def test_how_channels_are_reached(home: dict[str, str]) -> None:
    write(
        home,
        "ssl_verify: /etc/own.pem\nclient_ssl_cert: /c.pem\nclient_ssl_cert_key: /k.pem\n"
        "proxy_servers:\n  https: http://proxy.example:3128\n",
    )
    with channel_session({**home, "PIP_PROXY": "http://pips.example"}) as session:
        merged = session.merge_environment_settings("https://c.example/", {}, None, None, None)
    assert (session.verify, session.cert) == ("/etc/own.pem", ("/c.pem", "/k.pem"))
    assert merged["proxies"]["https"] == "http://proxy.example:3128"
    settings = conda_settings(home)
    assert environment_of(settings, {}) == {
        "https_proxy": "http://proxy.example:3128",
        "SSL_CERT_FILE": "/etc/own.pem",
    }
    assert environment_of(settings, {"HTTPS_PROXY": "http://x", "REQUESTS_CA_BUNDLE": "/b"}) == {"SSL_CERT_FILE": "/b"}


@pytest.mark.parametrize(("text", "expected"), [("false", False), ("no", False), ("true", None), ("<system>", None)])
def test_certificates(text: str, expected: bool | None, home: dict[str, str]) -> None:
    write(home, f"ssl_verify: {text}\n")
    assert conda_settings(home).verify is expected


def test_a_channel_behind_a_proxy_is_asked_by_it(site: Any, home: dict[str, str]) -> None:
    # A proxy is asked for whole urls (RFC 9112, 3.2.2).
    site.pages["http://hidden.example/c/noarch/repodata.json"] = (200, "application/json", b"{}")
    assert not answers_as_channel("http://hidden.example/c", environ=home)
    write(home, f"proxy_servers: {{http: '{site.url}'}}\n")
    assert answers_as_channel("http://hidden.example/c", environ=home)


def test_credentials_of_named_channels_become_variables(home: dict[str, str]) -> None:
    write(
        home,
        "custom_channels:\n  a: https://me:pw@own.example/t/tk-1\n  b: https://you:other@own.example\n"
        "channel_alias: https://plain.example\n",
    )
    found = hidden_places(["a", "b", "c", "https://x.example/y"], home)
    for url, secret in (
        ("https://me:pw@own.example/t/tk-1/a/noarch/x-1-0.conda", ("pw", "tk-1")),
        ("https://you:other@own.example/b/noarch/x-1-0.conda", ("other",)),
    ):
        text = found.hide(url)
        assert not any(each in text for each in secret)
        assert expand_variables(text, found.environment) == url
    assert found.hide("https://plain.example/c/noarch/x-1-0.conda") == "https://plain.example/c/noarch/x-1-0.conda"
    assert not any(secret in repr(found) for secret in ("pw", "tk-1", "other"))
