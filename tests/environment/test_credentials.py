import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.environment.credentials import expand_variables, hide_credentials, without_credentials
from kbuild.errors import ConfigurationError

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


@pytest.mark.parametrize("url", ["conda-forge", "https://example.org/simple", "https://$USER:${PASS}@example.org/x"])
def test_urls_without_literal_credentials_stay(url: str) -> None:
    assert hide_credentials(url, "INDEX") == (url, {})


def test_unset_variables_are_named_all_at_once() -> None:
    with pytest.raises(ConfigurationError, match="not set: A, B"):
        expand_variables("https://$B:${A}@example.org/$C", {"C": "c"})


def test_a_programs_words_lose_their_credentials() -> None:
    said = "cannot get 'https://me:secret@example.org/t/to-ken/main/x' or http://example.org/y"
    assert without_credentials(said) == "cannot get 'https://***@example.org/t/***/main/x' or http://example.org/y"
