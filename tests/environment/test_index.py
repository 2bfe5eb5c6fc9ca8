import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from packaging.version import Version

from kbuild.environment.index.package_indexes import Indexes, find_releases, package_indexes
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.process import Completed


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None: ...


def pip_says(stdout: str, returncode: int = 0) -> Callable[..., Completed]:
    def run(
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Completed:
        assert list(argv[1:]) == ["-m", "pip", "config", "list"]
        return Completed(tuple(argv), returncode, stdout, "")

    return run


def indexes(stdout: str, environ: Mapping[str, str] | None = None, returncode: int = 0) -> Indexes:
    return package_indexes(run=pip_says(stdout, returncode), environ=environ or {}, progress=Notes())


def test_variables_beat_the_commands_section_beats_the_global_one() -> None:
    listing = [
        "global.index-url='https://global.example/simple/'",
        "install.index-url='https://install.example/simple'",
        ":env:.index-url='https://env.example/simple'",
    ]
    for count, name in enumerate(("global", "install", "env"), 1):
        assert indexes("\n".join(listing[:count])).urls == (f"https://{name}.example/simple",)


def test_extra_indexes_in_order_once_without_local_folders() -> None:
    notes = Notes()
    listing = (
        "global.index-url='https://a.example/s'\n"
        r"global.extra-index-url='https://b.example/s\nfile:///srv/simple https://a.example/s /srv/x'"
    )
    found = package_indexes(run=pip_says(listing), environ={}, progress=notes)
    assert found.urls == ("https://a.example/s", "https://b.example/s")
    assert len(notes.notes) == 2
    assert "file:///srv/simple" in notes.notes[0]


def test_credentials_and_certificates_go_to_processes_only() -> None:
    found = indexes("global.index-url='https://me:p%40ss@a.example/simple'\nglobal.cert='/ca.pem'")
    assert found.urls == ("https://${KBUILD_INDEX_A_EXAMPLE_USER}:${KBUILD_INDEX_A_EXAMPLE_PASSWORD}@a.example/simple",)
    assert found.environment["REQUESTS_CA_BUNDLE"] == "/ca.pem"
    assert found.credentials_for("https://a.example/files/x.whl", {}) == ("me", "p@ss")
    assert found.credentials_for("https://b.example/files/x.whl", {}) is None
    assert "p@ss" not in repr(found)
    assert "REQUESTS_CA_BUNDLE" not in indexes("global.cert='/ca.pem'", {"REQUESTS_CA_BUNDLE": "/mine"}).environment


def test_without_configuration_pips_own_default_is_taken() -> None:
    (url,) = indexes("").urls
    assert url.startswith("https://")


def test_an_environment_without_pip_is_configured_by_variables() -> None:
    assert indexes("", {"PIP_INDEX_URL": "https://x.example/s"}, returncode=1).urls == ("https://x.example/s",)


@pytest.mark.parametrize("listing", ["global.no-index='true'", "global.index-url='file:///srv/simple'"])
def test_no_index_at_all(listing: str) -> None:
    with pytest.raises(ConfigurationError):
        indexes(listing)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


def test_releases_of_html_and_json_indexes(site: Any, session: requests.Session) -> None:
    html = (
        b'<html><a href="../../f/foo_bar-1.0-py3-none-any.whl#sha256=0">x</a><a>no link</a>'
        b'<a href="/f/foo-bar-1.1%2Blocal.tar.gz">y</a><a href="foo-1.0.win32.exe">z</a></html>'
    )
    site.pages["/a/foo-bar/"] = (200, "text/html", html)
    site.pages["/b/foo-bar/"] = (
        200,
        "application/vnd.pypi.simple.v1+json",
        b'{"files": [{"filename": "foo_bar-1.0.tar.gz"}]}',
    )
    urls = [f"{site.url}/a", "${BASE}/b/", f"{site.url}/c"]
    assert find_releases("Foo.Bar", urls, environ={"BASE": site.url}, session=session) == {
        Version("1.0"): ["foo_bar-1.0-py3-none-any.whl", "foo_bar-1.0.tar.gz"],
        Version("1.1+local"): ["foo-bar-1.1+local.tar.gz"],
    }


@pytest.mark.parametrize("page", [(500, "text/html", b""), (200, "application/json", b"{")])
def test_an_index_that_answers_nonsense(site: Any, session: requests.Session, page: tuple[int, str, bytes]) -> None:
    site.pages["/a/x/"] = page
    with pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1 does not answer"):
        find_releases("x", [f"{site.url}/a"], environ={}, session=session)


def test_two_indexes_of_one_host_keep_their_own_passwords() -> None:
    found = indexes(
        "global.index-url='https://me:A@a.example/1/simple'\n"
        "global.extra-index-url='https://me:B@a.example/2/simple https://a.example/3/simple'"
    )
    assert found.urls[1] == (
        "https://${KBUILD_INDEX_A_EXAMPLE_USER}:${KBUILD_INDEX_A_EXAMPLE_PASSWORD_2}@a.example/2/simple"
    )
    assert found.credentials_for("https://a.example/1/files/x.whl", {}) == ("me", "A")
    assert found.credentials_for("https://a.example/2/files/x.whl", {}) == ("me", "B")
    assert found.credentials_for("https://a.example/3/files/x.whl", {}) is None
    assert found.credentials_for("https://a.example/files/x.whl", {}) == ("me", "A")


def test_a_password_that_no_url_could_hold_is_sent_as_a_header(site: Any, session: requests.Session) -> None:
    site.pages["/s/x/"] = (200, "text/html", b'<a href="x-1.0.tar.gz">x</a>')
    listing = f"global.index-url='{site.url.replace('//', '//me:p%2Fss%23x@')}/s'"
    found = indexes(listing)
    assert list(find_releases("x", found.urls, environ=found.environment, session=session)) == [Version("1.0")]
    expected = base64.b64encode(b"me:p/ss#x").decode()
    assert site.seen == [("/s/x/", f"Basic {expected}")]


def test_an_index_that_fails_is_named_without_its_password(session: requests.Session) -> None:
    found = indexes("global.index-url='http://me:p%2Fss%23x@127.0.0.1:1/s'")
    with pytest.raises(IndexUnavailable) as caught:
        find_releases("x", found.urls, environ=found.environment, session=session)
    assert caught.value.message == "the package index 127.0.0.1 does not answer: Connection refused"
