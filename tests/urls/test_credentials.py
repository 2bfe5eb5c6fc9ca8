import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.index.session import HostCredentials
from kbuild.errors import ConfigurationError
from kbuild.urls.credentials import (
    expand_variables,
    hide_credentials,
    hide_in_text,
    holds_credentials,
    is_for,
    own_variables,
    split_credentials,
    without_credentials,
    without_user,
)

WORDS = st.text("abcXYZ019-_.~%", min_size=1, max_size=12).map(lambda text: f"s3{text}")


@given(user=WORDS, password=WORDS, token=WORDS)
def test_a_channels_credentials_leave_the_url_and_come_back(user: str, password: str, token: str) -> None:
    url = f"https://{user}:{password}@conda.example.org:8443/t/{token}/team/label/main"
    hidden, values = hide_credentials(url, "CHANNEL")
    assert sorted(values.values()) == sorted([user, password, token])
    assert hidden == (
        "https://${KBUILD_CHANNEL_CONDA_EXAMPLE_ORG_8443_USER}:${KBUILD_CHANNEL_CONDA_EXAMPLE_ORG_8443_PASSWORD}"
        "@conda.example.org:8443/t/${KBUILD_CHANNEL_CONDA_EXAMPLE_ORG_8443_TOKEN}/team/label/main"
    )
    assert expand_variables(hidden, values) == url


def test_an_indexs_credentials_are_decoded_for_request_headers() -> None:
    _, values = hide_credentials("https://me:p%40ss@index.example.org/simple", "INDEX")
    assert list(values.values()) == ["me", "p@ss"]


@pytest.mark.parametrize(
    "url",
    [
        "conda-forge",
        "https://example.org/simple",
        "https://${KBUILD_INDEX_EXAMPLE_ORG_USER}:${KBUILD_INDEX_EXAMPLE_ORG_PASSWORD_2}@example.org/x",
    ],
)
def test_urls_without_literal_credentials_stay(url: str) -> None:
    assert hide_credentials(url, "INDEX") == (url, {})


def test_unset_variables_are_named_all_at_once() -> None:
    own = "KBUILD_INDEX_EXAMPLE_ORG"
    with pytest.raises(ConfigurationError, match=f"not set: {own}_PASSWORD, {own}_USER"):
        expand_variables(f"https://${own}_USER:${{{own}_PASSWORD}}@example.org/", {})


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3cret",
    "KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD": "s3cret",
    "KBUILD_INDEX_GOOD__EXAMPLE_ORG_PASSWORD": "s3cret",
    "KBUILD_TOKEN": "s3cret",
    "KBUILD_CHANNEL": "file:///s3cret",
}


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/$AWS_SECRET_ACCESS_KEY/x.whl",
        "https://evil.example/x.whl?k=${AWS_SECRET_ACCESS_KEY}",
        "https://${AWS_SECRET_ACCESS_KEY}.evil.example/x.whl",
        "https://a:$AWS_SECRET_ACCESS_KEY@evil.example/x.whl",
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@evil.example/x.whl",
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good-example.org/x.whl",
        "https://a:${KBUILD_INDEX_GOOD__EXAMPLE_ORG_PASSWORD}@good.example.org/x.whl",
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.org@evil.example/x.whl",
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.org:8443/x.whl",
        "https://evil.example/$KBUILD_TOKEN/x.whl",
        "https://evil.example/$KBUILD_CHANNEL/x.whl",
        "$KBUILD_CHANNEL/$AWS_SECRET_ACCESS_KEY/x.whl",
        "${AWS_SECRET_ACCESS_KEY}/x.whl",
        "https://evil.example/a$/x.whl",
        "https://evil.example/${AWS_SECRET_ACCESS_KEY:-x}/x.whl",
        "https://evil.example/$(cat /etc/passwd)/x.whl",
        # Letters beyond ASCII, and a backslash, where urllib3 ends the host and urllib does not.
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good\u00fcexample.org/x.whl",
        "https://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.or\u0261/x.whl",
        "https://evil.example\\a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.org/x.whl",
        # In clear, where nothing configured says so.
        "http://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.org/x.whl",
        "ftp://a:${KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD}@good.example.org/x.whl",
        "http://good.example.org/t/$KBUILD_INDEX_GOOD_EXAMPLE_ORG_PASSWORD/x.conda",
    ],
)
def test_no_variable_but_those_of_the_urls_own_host_is_filled_in(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        expand_variables(url, SECRETS)
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(ConfigurationError):
        split_credentials(url, SECRETS)


def test_credentials_of_an_index_by_http_are_sent_as_they_are_configured() -> None:
    hidden, values = hide_credentials("http://me:pw@pypi.corp/simple", "INDEX")
    assert split_credentials(hidden, values) == ("http://pypi.corp/simple", ("me", "pw"))
    assert expand_variables(hidden, values) == "http://me:pw@pypi.corp/simple"
    assert {*own_variables(hidden)} == {*values}
    # An index by https leaves no such permission, and this machine needs none.
    _, by_tls = hide_credentials("https://me:pw@pypi.corp/simple", "INDEX")
    with pytest.raises(ConfigurationError, match="unencrypted"):
        split_credentials(hidden, by_tls)
    here, values = hide_credentials("http://me:pw@127.0.0.1:8/simple", "INDEX")
    assert split_credentials(here, {**values, "KBUILD_INDEX_127_0_0_1_8_HTTP": ""})[1] == ("me", "pw")


def test_a_password_with_a_dollar_sign_is_a_password() -> None:
    hidden, values = hide_credentials("https://me:$ecret@index.example.org/simple", "INDEX")
    assert "$ecret" not in hidden and "$ecret" in values.values()
    assert split_credentials(hidden, values) == ("https://index.example.org/simple", ("me", "$ecret"))


def test_a_url_loses_user_and_password_alone() -> None:
    assert without_user("https://me:secret@m:8/debian/x?a=b#c") == "https://m:8/debian/x?a=b#c"


def test_a_programs_words_lose_their_credentials() -> None:
    said = "cannot get 'https://me:secret@example.org/t/to-ken/main/x' or http://example.org/y"
    assert without_credentials(said) == "cannot get 'https://***@example.org/t/***/main/x' or http://example.org/y"


def test_a_folder_called_t_is_no_token() -> None:
    """conda's documentation has tokens in urls of servers; those of files name what everybody here can read."""
    said = "'file:///srv/t/wheels/a.whl' is gone, as is FILE:/srv/t/x; conda.example.org/t/to-ken/x is not"
    assert without_credentials(said) == said.replace("to-ken", "***")
    assert (
        without_credentials("file://me:pw@host/t/x and https://h/t/s3/x") == "file://***@host/t/x and https://h/t/***/x"
    )


@pytest.mark.parametrize(
    ("place", "url", "may"),
    [
        ("https://u:p@pypi.corp/simple", "https://pypi.corp/x.whl", True),
        ("https://u:p@PyPI.corp/simple", "https://pypi.corp/x.whl", True),
        ("https://u:p@pypi.corp/simple", "http://pypi.corp/x.whl", False),
        ("http://u:p@pypi.corp/simple", "https://pypi.corp/x.whl", True),
        ("http://u:p@127.0.0.1:8/simple", "http://127.0.0.1:8/x.whl", True),
        ("https://u:p@pypi.corp/simple", "https://pypi.corp:8443/x.whl", False),
        ("https://u:p@pypi.corp/simple", "https://pypi.corp.example/x.whl", False),
        ("https://u:p@pypi.corp/simple", "https://pypi.corp@elsewhere.example/x.whl", False),
        ("https://u:p@pypi.corp/simple", "https://elsewhere.example\\@pypi.corp/x.whl", False),
    ],
)
def test_credentials_go_to_their_own_server_and_never_in_clear(place: str, url: str, may: bool) -> None:
    assert is_for(place, url) is may
    indexes = Indexes(urls=(place,))
    assert indexes.credentials_for(url, {}) == (("u", "p") if may else None)
    asked = HostCredentials(place, ("u", "p"))(requests.Request("GET", url).prepare())
    assert ("Authorization" in asked.headers) is may


LEAKS = [
    "--extra-index-url https://robot:hunter2@pypi.corp:8/simple",
    "-i 'HTTPS://hunter2@pypi.corp/simple'",
    "--find-links=http://robot:hunter2@pypi.corp/links.html",
    "https://robot:x#hunter2@pypi.corp/simple",
    "a @ git+https://hunter2:x-oauth-basic@git.corp/a.git",
    "https://pypi.corp/a https://robot:hunter2@pypi.corp/b",
]


@pytest.mark.parametrize("line", LEAKS)
def test_credentials_in_any_text_are_found_and_replaced(line: str) -> None:
    hidden = hide_in_text(line)
    assert "hunter2" not in hidden and "pypi.corp" in hidden.replace("git.corp", "pypi.corp")
    assert holds_credentials(line) and not holds_credentials(hidden)


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url https://${KBUILD_INDEX_PYPI_CORP_USER}:${KBUILD_INDEX_PYPI_CORP_PASSWORD}@pypi.corp/simple",
        "https://pypi.corp:8080/a@1.0",
        "six==1.17.0  # by me@pypi.corp",
        "",
    ],
)
def test_a_text_without_credentials_stays(line: str) -> None:
    assert hide_in_text(line) == line and not holds_credentials(line)
