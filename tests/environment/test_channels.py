from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.condalock.channels import answers_as_channel, channel_urls, choose_interpreter
from kbuild.errors import ConfigurationError


@pytest.mark.parametrize(
    ("requested", "answering", "chosen"),
    [
        ("auto", {"https://x.example/b"}, "conda"),
        ("auto", set(), "captured"),
        ("conda", set(), "conda"),
        ("captured", {"https://x.example/b"}, "captured"),
    ],
)
def test_the_interpreter(requested: str, answering: set[str], chosen: str) -> None:
    channels = ["https://x.example/a", "https://x.example/b/"]
    assert choose_interpreter(requested, channels, environ={}, probe=answering.__contains__) == chosen


def test_another_word() -> None:
    with pytest.raises(ConfigurationError, match="unknown interpreter 'system'"):
        choose_interpreter("system", [], environ={})


def test_urls_of_channels() -> None:
    environ = {"CONDA_CHANNEL_ALIAS": "https://alias.example/", "KBUILD_CHANNEL_X_EXAMPLE_TOKEN": "t0"}
    assert channel_urls(
        ["conda-forge", "https://x.example/t/$KBUILD_CHANNEL_X_EXAMPLE_TOKEN/y/", "/srv/a b"], environ
    ) == [
        "https://alias.example/conda-forge",
        "https://x.example/t/t0/y",
        "file:///srv/a%20b",
    ]


def test_what_answers_as_a_channel(site: Any, tmp_path: Path) -> None:
    site.pages["/good/noarch/repodata.json"] = (200, "application/json", b"{}")
    assert answers_as_channel(f"{site.url}/good")
    assert not answers_as_channel(f"{site.url}/bad")
    assert not answers_as_channel("http://127.0.0.1:9/closed")
    assert not answers_as_channel(tmp_path.as_uri())
    (tmp_path / "a b" / "noarch").mkdir(parents=True)
    (tmp_path / "a b" / "noarch" / "repodata.json").touch()
    assert answers_as_channel((tmp_path / "a b").as_uri())


def test_a_channel_that_wants_credentials_is_no_reason_to_take_another_interpreter(site: Any) -> None:
    site.pages["/team/noarch/repodata.json.zst"] = (401, "text/plain", b"who are you?")
    with pytest.raises(ConfigurationError, match=r"/team wants other credentials than it is given \(401\)") as refused:
        choose_interpreter("auto", [f"{site.url}/team"], environ={})
    assert "~/.netrc" in (refused.value.hint or "")
