import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from packaging.version import Version

from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.index.package_indexes import Indexes, find_files, find_releases, package_indexes
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.process import Completed, run
from kbuild.urls.credentials import split_credentials


def pip_says(stdout: str, returncode: int = 0) -> Callable[..., Completed]:
    def run(argv: Sequence[str], **_: Any) -> Completed:
        assert list(argv[1:5]) == ["-m", "pip", "config", "list"]
        return Completed(tuple(argv), returncode, stdout, "")

    return run


def indexes(stdout: str, environ: Mapping[str, str] | None = None, returncode: int = 0) -> Indexes:
    return package_indexes(run=pip_says(stdout, returncode), environ=environ or {})


def test_variables_beat_the_commands_section_beats_the_global_one() -> None:
    listing = [
        "global.index-url='https://global.example/simple/'",
        "install.index-url='https://install.example/simple'",
        ":env:.index-url='https://env.example/simple'",
    ]
    for count, name in enumerate(("global", "install", "env"), 1):
        assert indexes("\n".join(listing[:count])).urls == (f"https://{name}.example/simple",)


def test_extra_indexes_in_order_once_folders_too() -> None:
    listing = (
        "global.index-url='https://a.example/s/'\n"
        r"global.extra-index-url='https://b.example/s\nfile:///srv/simple https://a.example/s /srv/x'"
    )
    assert indexes(listing).urls == (
        "https://a.example/s",
        "https://b.example/s",
        "file:///srv/simple",
        "file:///srv/x",
    )


def test_find_links_beside_indexes_and_in_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    listing = r"global.find-links='wheels ~/w\n/srv/w https://me:p%40ss@b.example/links/'"
    links = (
        f"{tmp_path.as_uri()}/wheels",
        "file:///home/me/w",
        "file:///srv/w",
        "https://${KBUILD_INDEX_B_EXAMPLE_USER}:${KBUILD_INDEX_B_EXAMPLE_PASSWORD}@b.example/links/",
    )
    beside = indexes(f"{listing}\nglobal.index-url='https://a.example/s'")
    assert (beside.urls, beside.find_links) == (("https://a.example/s",), links)
    assert beside.credentials_for("https://b.example/links/x.whl", {}) == ("me", "p@ss")
    instead = indexes(f"{listing}\nglobal.no-index='true'\nglobal.index-url='https://a.example/s'")
    assert (instead.urls, instead.find_links) == ((), links)
    # a variable replaces what a file says, it does not add to it
    assert indexes(f"{listing}\n:env:.find-links='/srv/other'").find_links == ("file:///srv/other",)


def test_files_of_folders_and_pages(site: Any, session: requests.Session, tmp_path: Path) -> None:
    for name in ("flat", "simple/foo-bar", "bare/foo-bar"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("foo_bar-1.0+cpu-py3-none-any.whl", "other-1.0-py3-none-any.whl", "foo_bar-9.txt"):
        (tmp_path / "flat" / name).touch()
    (tmp_path / "simple/foo-bar/index.html").write_text('<a href="../../f/foo-bar-1.1.tar.gz">x</a>')
    (tmp_path / "bare/foo-bar/foo_bar-1.2-py3-none-any.whl").touch()
    page = b'<a href="foo_bar-1.3-py3-none-any.whl"></a><a href="/other-2.0.tar.gz"></a>'
    site.pages["/links/"] = (200, "text/html", page)
    places = Indexes(
        urls=(f"{tmp_path.as_uri()}/simple", f"{tmp_path.as_uri()}/bare"),
        find_links=(f"{tmp_path.as_uri()}/flat", f"{site.url}/links/"),
    )
    assert find_releases("foo.bar", places, environ={}, session=session) == {
        Version("1.0+cpu"): ["foo_bar-1.0+cpu-py3-none-any.whl"],
        Version("1.1"): ["foo-bar-1.1.tar.gz"],
        Version("1.2"): ["foo_bar-1.2-py3-none-any.whl"],
        Version("1.3"): ["foo_bar-1.3-py3-none-any.whl"],
    }
    # As for pip: an index must be there, a place of links may be gone.
    assert find_releases("x", Indexes(urls=(), find_links=("file:///no/such",)), environ={}, session=session) == {}
    (tmp_path / "page.html").write_bytes(b"\xff")
    damaged = Indexes(urls=(), find_links=((tmp_path / "page.html").as_uri(),))
    for wrong in (Indexes(urls=("file:///no/such",)), damaged):
        with pytest.raises(ConfigurationError, match=r"/no/such|page\.html"):
            find_releases("foo.bar", wrong, environ={}, session=session)


@pytest.mark.parametrize(
    ("stdout", "sdists"),
    [
        ("", {"a": True, "c-d": True}),
        ("global.only-binary=':all:'", {"a": False, "c-d": False}),
        ("global.only-binary='a,C_d'", {"a": False, "b": True, "c-d": False}),
        ("global.only-binary=':all:'\nglobal.no-binary='a b'", {"a": True, "b": True, "c-d": False}),
        ("global.only-binary='a,:none:,b'", {"a": True, "b": False}),
        ("global.only-binary='a'\ninstall.no-binary='a'", {"a": True}),
    ],
)
def test_what_pip_makes_of_source_distributions(stdout: str, sdists: dict[str, bool]) -> None:
    choice = indexes(f"global.index-url='https://i/simple'\n{stdout}\n").binary
    assert {name: choice.allows_sdist(name) for name in sdists} == sdists
    assert not choice.prefer
    assert indexes("global.index-url='https://i/simple'\ninstall.prefer-binary='true'\n").binary.prefer


@pytest.mark.parametrize(
    ("stdout", "wheels"),
    [
        ("", {"a": True}),
        ("global.no-binary='a,C_d'", {"a": False, "b": True, "c-d": False}),
        ("global.no-binary='a,:none:,b'", {"a": True, "b": False}),
        ("global.no-binary=':all:'", {"a": True, "b": True}),
    ],
)
def test_what_pip_makes_of_wheels(stdout: str, wheels: dict[str, bool]) -> None:
    choice = indexes(f"global.index-url='https://i/simple'\n{stdout}\n").binary
    assert {name: choice.allows_wheel(name) for name in wheels} == wheels
    assert choice.every == (":all:" in stdout)


@pytest.mark.parametrize(("said", "pre"), [("", False), ("install.pre='true'", True), ("global.pre='0'", False)])
def test_whether_pip_takes_prereleases(said: str, pre: bool) -> None:
    assert indexes(f"global.index-url='https://i/simple'\n{said}\n").binary.pre is pre


def test_the_models_own_options_come_after_the_configurations() -> None:
    """pip's FormatControl: each option takes a name out of the other one's."""
    choice = BinaryChoice().told([("only-binary", "a,b"), ("no-binary", "a"), ("pre", "")])
    assert (choice.allows_wheel("a"), choice.allows_sdist("a"), choice.allows_sdist("b")) == (False, True, False)
    assert choice.pre and not choice.prefer
    again = choice.told([("only-binary", ":all:")])
    assert (again.allows_wheel("a"), again.allows_sdist("a"), again.allows_sdist("z")) == (True, False, False)


def test_credentials_and_certificates_go_to_processes_only() -> None:
    found = indexes("global.index-url='https://me:p%40ss@a.example/simple'\nglobal.cert='/ca.pem'")
    assert found.urls == ("https://${KBUILD_INDEX_A_EXAMPLE_USER}:${KBUILD_INDEX_A_EXAMPLE_PASSWORD}@a.example/simple",)
    assert found.environment["REQUESTS_CA_BUNDLE"] == "/ca.pem"
    assert found.credentials_for("https://a.example/files/x.whl", {}) == ("me", "p@ss")
    assert found.credentials_for("https://b.example/files/x.whl", {}) is None
    assert "p@ss" not in repr(found)
    assert "REQUESTS_CA_BUNDLE" not in indexes("global.cert='/ca.pem'", {"REQUESTS_CA_BUNDLE": "/mine"}).environment


def test_a_user_without_password_is_looked_up_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine i.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    urls = "https://me@i.example/a https://you@i.example/b https://me:x@i.example/c https://me@other.example/d"
    found = indexes(f"global.index-url='https://i/simple'\nglobal.extra-index-url='{urls}'\n").urls
    assert found[1] == "https://i.example/a"
    assert [url.count("@") for url in found[2:]] == [1, 1, 1]


def test_how_the_indexes_are_reached_goes_to_processes_too() -> None:
    lines = "global.proxy='http://me:word@proxy.example:3128'\nglobal.trusted-host='a.example'\nglobal.client-cert='/c'"
    found = indexes(lines)
    assert found.environment == {
        "PIP_PROXY": "http://me:word@proxy.example:3128",
        "PIP_TRUSTED_HOST": "a.example",
        "PIP_CLIENT_CERT": "/c",
    }
    assert "word" not in repr(found)


def test_without_configuration_pips_own_default_is_taken() -> None:
    (url,) = indexes("").urls
    assert url.startswith("https://")


def test_an_environment_without_pip_is_configured_by_variables() -> None:
    assert indexes("", {"PIP_INDEX_URL": "https://x.example/s"}, returncode=1).urls == ("https://x.example/s",)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"[global\nindex-url = https://own.example/simple\n", b"\xff\xfe[global]\n"])
def test_a_configuration_that_pip_cannot_read_is_not_passed_over(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what it names would be asked of everybody's index."""
    (tmp_path / "pip.conf").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"pip cannot read its configuration: .*pip\.conf"):
        package_indexes(run=run, environ={"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})


def test_no_index_at_all() -> None:
    with pytest.raises(ConfigurationError, match="no-index") as caught:
        indexes("global.no-index='true'")
    assert "PIP_FIND_LINKS" in str(caught.value.hint)


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
    urls = [f"{site.url}/a", f"{site.url}/b/", f"{site.url}/c"]
    assert find_releases("Foo.Bar", Indexes(urls=tuple(urls)), environ={}, session=session) == {
        Version("1.0"): ["foo_bar-1.0-py3-none-any.whl", "foo_bar-1.0.tar.gz"],
        Version("1.1+local"): ["foo-bar-1.1+local.tar.gz"],
    }


def test_of_a_page_only_the_links_near_a_file_are_read(site: Any, session: requests.Session) -> None:
    names = [f"x-1.{number}-py3-none-any.whl" for number in range(4)]
    tags = ['data-yanked=""', 'data-yanked="a > b"', "", 'data-yanked="d"']
    links = [
        f'<A\n {tag} href="/{name}#sha256={name[4] * 64}">{name}</A><br>' for tag, name in zip(tags, names, strict=True)
    ]
    site.pages["/a/x/"] = (200, "text/html", f"<!DOCTYPE html><p>{''.join(links)}<!--SERIAL 1--></p>".encode())
    files = [{"filename": name, "hashes": {"sha256": name[4] * 64}, "yanked": name[4] == "1"} for name in names]
    site.pages["/b/x/"] = (200, "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode())
    for place, reasons in (("a", ["", "a > b", None, "d"]), ("b", [None, "", None, None])):
        index = Indexes(urls=(f"{site.url}/{place}",))
        whole = find_files("x", index, environ={}, session=session)
        assert [file.yanked for file in whole] == reasons
        for number, name in enumerate(names):
            for near in (name, str(number) * 64):
                assert find_files("x", index, environ={}, session=session, near=[near]) == whole[number : number + 1]
    # A name that is written otherwise stands nowhere: then the page is read whole.
    site.pages["/a/y/"] = (200, "text/html", b'<a href="y%2dz-1-py3-none-any.whl">y</a>')
    index = Indexes(urls=(f"{site.url}/a",))
    assert len(find_files("y", index, environ={}, session=session, near=["y-z-1-py3-none-any.whl"])) == 1


@pytest.mark.parametrize(
    ("head", "place"),
    [
        ('<base href="{site}/store/">', "/store/"),
        ('<base href="/store/deep/">', "/store/deep/"),
        ('<base target="t"><BASE href="../../store/page"><base href="/other/">', "/store/"),
        ('<!-- <base href="/other/"> -->', "/a/x/"),
        ("<base>", "/a/x/"),
    ],
)
def test_links_are_relative_to_the_base_of_a_page(site: Any, session: requests.Session, head: str, place: str) -> None:
    name = "x-1.0-py3-none-any.whl"
    html = f'<html>{head.format(site=site.url)}<a href="{name}#sha256={"0" * 64}">{name}</a></html>'
    site.pages["/a/x/"] = (200, "text/html", html.encode())
    for near in ((), (name,)):
        [file] = find_files("x", Indexes(urls=(f"{site.url}/a",)), environ={}, session=session, near=near)
        assert file.url == f"{site.url}{place}{name}"


@pytest.mark.parametrize("page", [(500, "text/html", b""), (200, "application/json", b"{")])
def test_an_index_that_answers_nonsense(site: Any, session: requests.Session, page: tuple[int, str, bytes]) -> None:
    site.pages["/a/x/"] = page
    with pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1 does not answer"):
        find_releases("x", Indexes(urls=(f"{site.url}/a",)), environ={}, session=session)


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
    assert list(find_releases("x", found, environ=found.environment, session=session)) == [Version("1.0")]
    expected = base64.b64encode(b"me:p/ss#x").decode()
    assert site.seen == [("/s/x/", f"Basic {expected}")]


def test_an_index_that_fails_is_named_without_its_password(session: requests.Session) -> None:
    found = indexes("global.index-url='http://me:p%2Fss%23x@127.0.0.1:1/s'")
    with pytest.raises(IndexUnavailable) as caught:
        find_releases("x", found, environ=found.environment, session=session)
    assert caught.value.message == "the package index 127.0.0.1 does not answer: Connection refused"


def test_an_index_by_http_that_pips_configuration_names_gets_its_credentials() -> None:
    own = "KBUILD_INDEX_PYPI_CORP"
    url = f"http://${{{own}_USER}}:${{{own}_PASSWORD}}@pypi.corp/simple"
    found = indexes(f"global.index-url='{url}'")
    assert found.urls == (url,)
    secrets = {f"{own}_USER": "me", f"{own}_PASSWORD": "pw"}
    assert split_credentials(url, {**secrets, **found.environment}) == ("http://pypi.corp/simple", ("me", "pw"))
    assert indexes("global.index-url='http://pypi.corp/simple'").environment == {}
