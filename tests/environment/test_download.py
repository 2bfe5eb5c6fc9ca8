import base64
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from listening import listening

from kbuild.environment.index.download import fetch_packages, make_session, resolve_url
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import (
    ConfigurationError,
    HashMismatch,
    IndexUnavailable,
    InterpreterCaptureFailed,
    OutputError,
    PackageNotFound,
)
from kbuild.platform import Platform
from kbuild.progress import Silent
from kbuild.urls.credentials import hide_credentials

WHEEL = "application/octet-stream"


def package(name: str, data: bytes, url: str, **more: Any) -> LockedPackage:
    values: dict[str, Any] = {
        "name": name,
        "version": "1",
        "manager": "pip",
        "platform": Platform("linux", "amd64"),
        "url": url,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return LockedPackage(**(values | more))


def fetch(*packages: LockedPackage, cache: Path, channel: Path | None = None, **more: Any) -> dict[LockedPackage, Path]:
    return fetch_packages(packages, cache=cache, channel=channel, progress=Silent(), environ={}, **more)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_packages_are_fetched_once(site: Any, tmp_path: Path) -> None:
    wanted = []
    for number in range(30):
        data = bytes([number]) * 100_000
        site.pages[f"/p{number}-1-py3-none-any.whl"] = (200, WHEEL, data)
        wanted.append(package(f"p{number}", data, f"{site.url}/p{number}-1-py3-none-any.whl#x"))
    found = fetch(*wanted, wanted[0], cache=tmp_path)
    assert list(found) == wanted
    assert all(path.read_bytes()[0] == number for number, path in enumerate(found.values()))
    assert found[wanted[3]].name == "p3-1-py3-none-any.whl"
    asked = len(site.seen)
    assert fetch(*wanted, cache=tmp_path) == found
    assert len(site.seen) == asked == 30


def test_other_bytes_than_the_locked_ones_leave_nothing(site: Any, tmp_path: Path) -> None:
    site.pages["/x-1-py3-none-any.whl"] = (200, WHEEL, b"other")
    with pytest.raises(HashMismatch) as caught:
        fetch(package("x", b"locked", f"{site.url}/x-1-py3-none-any.whl"), cache=tmp_path)
    assert hashlib.sha256(b"locked").hexdigest() in caught.value.message
    assert hashlib.sha256(b"other").hexdigest() in caught.value.message
    assert caught.value.message.startswith("x-1-py3-none-any.whl: ")
    assert files_below(tmp_path) == []


def test_one_failure_of_many_is_the_one_raised(site: Any, tmp_path: Path) -> None:
    wanted = [package("gone", b"", f"{site.url}/gone.whl")]
    for number in range(20):
        site.pages[f"/{number}.whl"] = (200, WHEEL, b"x")
        wanted.append(package(f"p{number}", b"x", f"{site.url}/{number}.whl"))
    with pytest.raises(PackageNotFound, match=r"gone 1 is gone: 127\.0\.0\.1 does not give gone\.whl: 404"):
        fetch(*wanted, cache=tmp_path)
    assert not [name for name in files_below(tmp_path) if name.startswith(".")]


def test_stopping_does_not_wait_for_what_is_still_to_be_fetched(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Silent):
        def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
            time.sleep(0.02)

    def stopped(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kbuild.environment.index.download.wait", stopped)
    wanted = []
    for number in range(60):
        site.pages[f"/{number}.whl"] = (200, WHEEL, b"x")
        wanted.append(package(f"p{number}", b"x", f"{site.url}/{number}.whl"))
    with pytest.raises(KeyboardInterrupt):
        fetch_packages(wanted, cache=tmp_path, channel=None, progress=Slow(), environ={})
    assert len(files_below(tmp_path)) < 30


def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kbuild.environment.index.download.make_session", lambda _: requests.Session())  # no retries
    with pytest.raises(IndexUnavailable, match=r"does not give x\.whl: Connection refused$"):
        fetch(package("x", b"", "http://127.0.0.1:9/x.whl"), cache=tmp_path)


def test_no_session_is_shared_by_threads(site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    users: dict[int, set[int]] = {}
    kept: list[requests.Session] = []  # so that no address is used twice
    send = requests.Session.send

    def seen(self: requests.Session, *given: Any, **more: Any) -> requests.Response:
        kept.append(self)
        users.setdefault(id(self), set()).add(threading.get_ident())
        time.sleep(0.01)
        return send(self, *given, **more)

    monkeypatch.setattr(requests.Session, "send", seen)
    wanted = [package(f"p{number}", b"x", f"{site.url}/{number}.whl") for number in range(12)]
    site.pages |= {f"/{number}.whl": (200, WHEEL, b"x") for number in range(12)}
    fetch(*wanted, cache=tmp_path)
    assert len(users) > 1
    assert all(len(threads) == 1 for threads in users.values())


def test_credentials_of_an_index_are_used_on_its_host_only(site: Any, tmp_path: Path) -> None:
    site.pages["/f/x.whl"] = (200, WHEEL, b"x")
    host = site.url.removeprefix("http://")
    hidden, values = hide_credentials(f"http://me:pw@{host}/simple", "INDEX")
    indexes = Indexes(urls=(hidden,), environment=values)
    fetch(package("x", b"x", f"{site.url}/f/x.whl"), cache=tmp_path / "a", indexes=indexes)
    fetch(package("x", b"x", f"{site.url}/f/x.whl"), cache=tmp_path / "b")
    assert [authorization for _, authorization in site.seen] == ["Basic bWU6cHc=", None]


def test_a_cache_that_cannot_be_written(site: Any, tmp_path: Path) -> None:
    site.pages["/x.whl"] = (200, WHEEL, b"x")
    (tmp_path / "cache").touch()
    with pytest.raises(OutputError, match="cannot write"):
        fetch(package("x", b"x", f"{site.url}/x.whl"), cache=tmp_path / "cache")


def captured(data: bytes) -> LockedPackage:
    return package("python", data, "$KBUILD_CHANNEL/linux-64/python-1-h0_0_cpython.conda", manager="conda")


def test_a_captured_package_is_found_by_its_sha256_under_any_name(tmp_path: Path) -> None:
    channel = tmp_path / "my channel"
    channel.mkdir()
    (channel / "other.conda").write_bytes(b"other")
    (channel / "renamed.conda").write_bytes(b"interpreter")
    wanted = captured(b"interpreter")
    path = fetch(wanted, cache=tmp_path / "cache", channel=channel)[wanted]
    assert (path.name, path.read_bytes()) == ("python-1-h0_0_cpython.conda", b"interpreter")
    (channel / "renamed.conda").unlink()
    assert fetch(wanted, cache=tmp_path / "cache", channel=None)[wanted] == path


def test_a_package_of_condas_older_format_is_found_too(tmp_path: Path) -> None:
    folder = tmp_path / "channel" / "noarch"
    folder.mkdir(parents=True)
    (folder / "tzdata-2024a-0.tar.bz2").write_bytes(b"zones")
    url = "$KBUILD_CHANNEL/noarch/tzdata-2024a-0.tar.bz2"
    wanted = package("tzdata", b"zones", url, manager="conda")
    assert fetch(wanted, cache=tmp_path / "cache", channel=tmp_path / "channel")[wanted].read_bytes() == b"zones"


@pytest.mark.parametrize("with_channel", [True, False])
def test_a_captured_package_that_is_not_here(tmp_path: Path, with_channel: bool) -> None:
    with pytest.raises(InterpreterCaptureFailed, match="not on this machine"):
        fetch(captured(b"x"), cache=tmp_path / "cache", channel=tmp_path if with_channel else None)


def test_variables_in_urls(tmp_path: Path) -> None:
    variable = "KBUILD_CHANNEL_A_EXAMPLE_TOKEN"
    remote = package("x", b"", f"https://a.example/t/${{{variable}}}/x.conda", manager="conda")
    assert resolve_url(remote, channel=None, environ={variable: "t"}) == "https://a.example/t/t/x.conda"
    with pytest.raises(ConfigurationError, match=variable):
        resolve_url(remote, channel=None, environ={})
    assert resolve_url(captured(b""), channel=tmp_path / "a b", environ={}) == (
        f"{(tmp_path / 'a b').as_uri()}/linux-64/python-1-h0_0_cpython.conda"
    )
    assert resolve_url(captured(b""), channel=None, environ={"KBUILD_CHANNEL": "https://c.example"}).startswith(
        "https://c.example/linux-64/"
    )


def test_a_session_trusts_what_pip_trusts() -> None:
    assert make_session({"REQUESTS_CA_BUNDLE": "/etc/company.pem"}).verify == "/etc/company.pem"
    assert make_session({}).verify is True


def test_a_password_that_no_url_could_hold_is_sent_as_a_header(site: Any, tmp_path: Path) -> None:
    site.pages["/x-1-py3-none-any.whl"] = (200, WHEEL, b"x")
    url, values = hide_credentials(f"{site.url.replace('//', '//me:p%2Fss%23x@')}/x-1-py3-none-any.whl", "INDEX")
    wanted = package("x", b"x", url)
    fetch_packages([wanted], cache=tmp_path, channel=None, progress=Silent(), environ=values)
    assert site.seen == [("/x-1-py3-none-any.whl", f"Basic {base64.b64encode(b'me:p/ss#x').decode()}")]


def test_a_lock_sends_no_variable_of_this_machine_to_a_server(site: Any, tmp_path: Path) -> None:
    environ = {"AWS_SECRET_ACCESS_KEY": "s3cret", "KBUILD_INDEX_ELSEWHERE_ORG_PASSWORD": "s3cret"}
    host = site.url.removeprefix("http://")
    for url in (
        f"{site.url}/$AWS_SECRET_ACCESS_KEY/x.whl",
        f"{site.url}/x.whl?${{AWS_SECRET_ACCESS_KEY}}",
        f"http://a:$AWS_SECRET_ACCESS_KEY@{host}/x.whl",
        f"http://a:${{KBUILD_INDEX_ELSEWHERE_ORG_PASSWORD}}@{host}/x.whl",
    ):
        for manager in ("pip", "conda"):
            wanted = package("x", b"x", url, manager=manager)
            with pytest.raises(ConfigurationError, match="credentials of its own host"):
                fetch_packages([wanted], cache=tmp_path, channel=None, progress=Silent(), environ=environ)
    assert site.seen == []


def pages_of(site: Any, place: str, name: str, links: str) -> None:
    site.pages[f"/{place}/{name}/"] = (200, "text/html", links.encode())


@pytest.mark.parametrize("status", [404, 410, 451, 403, 500])
def test_a_package_gone_from_its_place_is_taken_from_another_index_by_its_hash(
    site: Any, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.environment.index.download._RETRY", 0)
    wanted = package("x", b"right", f"{site.url}/old/x-1-py3-none-any.whl")
    site.pages["/old/x-1-py3-none-any.whl"] = (status, "text/plain", b"no")
    sha256 = hashlib.sha256(b"right").hexdigest()
    pages_of(site, "one", "x", f'<a href="/old/x-1-py3-none-any.whl#sha256={sha256}">x</a>')
    # Of the same name, and another file: never taken.
    pages_of(site, "two", "x", f'<a href="/wrong.whl#sha256={"0" * 64}">x-1-py3-none-any.whl</a>')
    # Without a hash only its bytes tell: these are others.
    pages_of(site, "three", "x", '<a href="/three/x-1-py3-none-any.whl">x</a>')
    site.pages["/three/x-1-py3-none-any.whl"] = (200, WHEEL, b"wrong")
    pages_of(site, "four", "x", f'<a href="/four/x-1-py3-none-any.whl#sha256={sha256}">x</a>')
    site.pages["/four/x-1-py3-none-any.whl"] = (200, WHEEL, b"right")
    urls = tuple(f"{site.url}/{name}" for name in ("one", "nowhere", "two", "three", "four"))
    found = fetch(wanted, cache=tmp_path, indexes=Indexes(urls=urls))
    assert found[wanted].read_bytes() == b"right"
    assert found[wanted].name == "x-1-py3-none-any.whl"
    assert "/wrong.whl" not in [path for path, _ in site.seen]


def test_a_package_that_is_gone_everywhere(site: Any, tmp_path: Path) -> None:
    site.pages["/x-1-py3-none-any.whl"] = (410, "text/plain", b"")
    pages_of(site, "one", "x", f'<a href="/x-2-py3-none-any.whl#sha256={"0" * 64}">x</a>')
    indexes = Indexes(urls=(f"{site.url}/one", "http://127.0.0.1:1/down"))
    with pytest.raises(PackageNotFound) as caught:
        fetch(package("x", b"locked", f"{site.url}/x-1-py3-none-any.whl"), cache=tmp_path, indexes=indexes)
    said = caught.value.message
    assert said.startswith("x 1 is gone: 127.0.0.1 does not give x-1-py3-none-any.whl: 410")
    assert "127.0.0.1 has no file with its sha256" in said and "did not answer" in said and "\n" not in said
    assert caught.value.hint is not None and "kbuild lock --force" in caught.value.hint
    assert files_below(tmp_path) == []


def test_when_a_page_was_changed_last_is_told(tmp_path: Path) -> None:
    class Changed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'<a href="/x-2-py3-none-any.whl">x</a>'
            self.send_response(200 if self.path == "/simple/x/" else 404)
            self.send_header("Last-Modified", "Fri, 20 Nov 2026 10:00:00 GMT")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    told = pytest.raises(PackageNotFound, match="its page there was changed last on Fri, 20 Nov 2026 10:00:00 GMT")
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Changed)) as url, told:
        fetch(
            package("x", b"", f"{url}/x-1-py3-none-any.whl"),
            cache=tmp_path,
            indexes=Indexes(urls=(f"{url}/simple",)),
        )


def test_a_conda_package_is_taken_from_another_channel(site: Any, tmp_path: Path) -> None:
    wanted = package("p", b"right", f"{site.url}/gone/linux-64/p-1-0.conda", manager="conda")
    site.pages["/mirror/linux-64/p-1-0.conda"] = (200, WHEEL, b"right")
    site.pages["/other/linux-64/p-1-0.conda"] = (200, WHEEL, b"rebuilt")
    channels = [f"{site.url}/{name}" for name in ("gone", "other", "mirror")]
    assert fetch(wanted, cache=tmp_path, channels=lambda: channels)[wanted].read_bytes() == b"right"
    with pytest.raises(PackageNotFound, match=r"p 1 is gone: .* has no file with its sha256"):
        fetch(wanted, cache=tmp_path / "other", channels=lambda: channels[:2])


def test_a_wheel_that_left_its_folder_is_found_in_another(site: Any, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/x-1-py3-none-any.whl").write_bytes(b"right")
    wanted = package("x", b"right", (tmp_path / "gone/x-1-py3-none-any.whl").as_uri())
    with pytest.raises(PackageNotFound, match="no other place is configured"):
        fetch(wanted, cache=tmp_path / "cache")
    places = Indexes(urls=(), find_links=((tmp_path / "wheels").as_uri(),))
    assert fetch(wanted, cache=tmp_path / "cache", indexes=places)[wanted].read_bytes() == b"right"
