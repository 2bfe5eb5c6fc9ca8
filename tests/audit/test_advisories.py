from __future__ import annotations

import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from listening import listening

from kbuild.audit.sources.advisories import read_advisories
from kbuild.audit.sources.osv import PackageVersion
from kbuild.errors import ConfigurationError, IndexUnavailable

RECORDS = [
    {
        "id": f"X-{number}",
        "modified": f"2026-0{number}-02T03:04:05Z",
        "affected": [{"package": {"ecosystem": "PyPI", "name": "Some_Package"}, "versions": ["1"]}],
    }
    for number in (1, 3, 2)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "advisories"
    (root / "vulns" / "x").mkdir(parents=True)
    (root / "LICENSE").write_text("CC-BY")
    (root / "config.yaml").write_text("name: not a record\n")
    (root / "vulns" / "x" / "1.json").write_text(json.dumps(RECORDS[0]))
    (root / "vulns" / "x" / "2.yaml").write_text(yaml.safe_dump(RECORDS[1]))
    (root / "vulns" / "x" / "3.yml").write_text(yaml.safe_dump(RECORDS[2]))
    return root


def pack_tar(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, "data")
    return target


def pack_zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, str(path.relative_to(folder)))
    return target


@pytest.fixture
def url(folder: Path, tmp_path: Path) -> Iterator[str]:
    pack_tar(folder, tmp_path / "all.tar.gz")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    with listening(server) as url:
        yield url


def test_every_form_holds_the_same(folder: Path, tmp_path: Path, url: str) -> None:
    as_list = tmp_path / "all.json"
    as_list.write_text(json.dumps(RECORDS))
    for source in (
        folder,
        pack_tar(folder, tmp_path / "a.tar.gz"),
        pack_zip(folder, tmp_path / "a.zip"),
        as_list,
        f"{url}/all.tar.gz",
    ):
        database = read_advisories(str(source))
        assert (database.size, database.date) == (3, "2026-03-02"), source
        found = database.records(PackageVersion(ecosystem="PyPI", name="some-package", version="1"))
        assert {each["id"] for each in found} == {"X-1", "X-2", "X-3"}
        assert database.knows_ecosystem("PyPI")
        assert not database.knows_ecosystem("Bitnami")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("absent.json", None, "cannot be read"),
        ("x.txt", b"{}", "is not a file of advisories"),
        ("x.json", b"{", "damaged"),
        ("x.yaml", b"a: [", "damaged"),
        ("x.json", b"{}", "no advisory in"),
        ("x.tar.gz", b"no tar", "cannot be read"),
        ("x.zip", b"no zip", "cannot be read"),
    ],
)
def test_what_is_no_database_is_said(tmp_path: Path, name: str, content: bytes | None, fault: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=fault):
        read_advisories(str(tmp_path / name))


def test_a_cut_archive_is_told(folder: Path, tmp_path: Path) -> None:
    whole = pack_tar(folder, tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_advisories(str(tmp_path / "cut.tar.gz"))
    assert io.BytesIO(whole).read(2) == b"\x1f\x8b"


def test_a_server_that_is_down_or_has_nothing(url: str) -> None:
    for source in ("http://127.0.0.1:9/x.tar.gz", f"{url}/absent.tar.gz"):
        with pytest.raises(IndexUnavailable, match="cannot be fetched"):
            read_advisories(source)
