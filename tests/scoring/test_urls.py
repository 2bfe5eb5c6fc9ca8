"""IN as a url with a query, such as one that is signed for an hour: read by it, and written down without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from listening import listening
from scored import Score, table

from kbuild.scoring.errors import not_parquet
from kbuild.scoring.places import Place

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.filterwarnings("ignore")


class Store(BaseHTTPRequestHandler):
    """As object stores do: a signature of GET is none of HEAD, ranges are served, one ETag for all queries."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = parse_qs(asked.query)
        if not query.get("X-Amz-Signature", [""])[0].startswith("s3cr3t"):
            self.send_error(403)
            return
        data = self.files[query.get("version", [asked.path])[0]]
        first, last, status = 0, len(data) - 1, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last, status = int(wanted[1]), min(int(wanted[2] or last), last), 206
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"same"')
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def store() -> Iterator[str]:
    frame = table(40)
    frame.loc[7, "a"] = 13.0  # which the model refuses
    other = frame.assign(a=1.0)
    Store.files = {
        "/in.csv": frame.to_csv(index=False).encode(),
        "/in.parquet": frame.to_parquet(index=False),
        "2": other.to_csv(index=False).encode(),
    }
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Store)) as url:
        yield url


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_signed_url_is_read_and_its_signature_written_nowhere(
    score: Score, store: str, tmp_path: Path, kind: str
) -> None:
    url = f"{store}/in.{kind}"
    code, err, manifest = score(f"{url}?X-Amz-Signature=s3cr3t%2Fone", "out", "--on-error", "reject")
    assert code == 0, err
    assert manifest["input"][0]["path"] == url and (manifest["rows"], manifest["failed"]) == (40, 1)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 5 and not any(b"s3cr3t" in path.read_bytes() for path in files)
    (tmp_path / f"in.{kind}").write_bytes(Store.files[f"/in.{kind}"])
    assert score(f"in.{kind}", "alike", "--on-error", "reject")[0] == 0
    read = pd.read_csv if kind == "csv" else pd.read_parquet
    here, there = (read(next((tmp_path / name).glob(f"part-*.{kind}"))) for name in ("alike", "out"))
    pd.testing.assert_frame_equal(here, there)
    # Signed anew it is the same input.
    code, err, again = score(f"{url}?X-Amz-Signature=s3cr3ttwo", "out", "--on-error", "reject")
    assert code == 0 and "nothing has changed" in err and again == manifest


def test_another_query_is_another_table_whatever_its_etag_says(score: Score, store: str) -> None:
    url = f"{store}/in.csv?X-Amz-Signature=s3cr3t"
    assert score(url, "out", "--on-error", "reject")[0] == 0
    code, err, _ = score(f"{url}&version=2", "out", "--on-error", "reject")
    assert code == 82 and "other input" in err


def test_a_signature_that_is_refused_is_named_without_it(score: Score, store: str) -> None:
    code, err, _ = score(f"{store}/in.csv?X-Amz-Signature=expired", "out")
    assert code == 80 and f"{store}/in.csv cannot be read: 403" in err and "expired" not in err


def test_a_question_mark_is_a_pattern_everywhere_else(tmp_path: Path) -> None:
    for name in ("a1.csv", "a2.csv", "b1.csv"):
        (tmp_path / name).write_text("a\n1\n")
    assert [Path(each).name for each in Place(f"{tmp_path}/a?.csv").tables((".csv",))] == ["a1.csv", "a2.csv"]


def test_parquet_of_a_server_without_ranges_is_to_be_downloaded() -> None:
    # fsspec 2026.9's words, in implementations/http.py.
    told = "The HTTP server doesn't appear to support range requests."
    assert "curl -LO" in str(not_parquet("in.parquet", told).hint)
    assert not_parquet("in.parquet", "Parquet magic bytes not found in footer").hint is None
