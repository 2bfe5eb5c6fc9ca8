"""IN and options: what is wrong with them is told in a line, and nothing secret is written down."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored import Score, table

from kbuild.scoring import ask, places
from kbuild.scoring.errors import InputRefused
from kbuild.scoring.places import Place

pytestmark = pytest.mark.filterwarnings("ignore")


class Web:
    """fsspec's http filesystem as far as it is asked: one file, and its headers."""

    protocol = ("http", "https")

    def __init__(self) -> None:
        self.data, self.headers = b"one", {"ETag": '"1"'}

    def ukey(self, path: str) -> str:
        return path

    def info(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": len(self.data), **self.headers}

    def open(self, path: str, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)

    def isdir(self, path: str) -> bool:
        raise RuntimeError(f"Cannot connect to host of {path.partition(':')[0]}")

    cat_file = isdir


def test_a_urls_content_changes_when_its_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web()
    monkeypatch.setattr(places, "_filesystem", lambda url: (web, url))
    place = Place("https://data.example/a.csv")
    seen = [place.content()]
    web.headers = {"ETag": '"2"'}
    seen.append(place.content())
    web.headers = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    seen.append(place.content())
    web.data = b"two"
    seen.append(place.content())
    assert len({*seen}) == 4
    web.headers = {"Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}
    assert place.content() == seen[-1], "the same bytes, by their sha256"
    before = place.stamp()
    web.data = b"three"
    assert place.stamp() != before


def test_a_url_that_nobody_answers_is_named(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_filesystem", lambda url: (Web(), url))
    table(3).to_csv("in.csv")
    code, err, _ = score("in.csv", "https://data.example/out")
    assert code == 42 and "https://data.example/out cannot be read: Cannot connect to host of https" in err
    code, err, _ = score("https://data.example/in", "out")
    assert code == 80 and "https://data.example/in cannot be read: Cannot connect to host of https" in err


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@data.example/a.csv",
        "https://secret@data.example/a.csv",
        "HTTP://me:sec@ret@data.example/a.csv",
        "sftp://me:secret@data.example/a.csv",
        "simplecache::https://me:secret@data.example/a.csv",
    ],
)
def test_credentials_in_a_url_are_written_nowhere(score: Score, tmp_path: Path, url: str) -> None:
    table(3).to_csv("in.csv")
    for given, out in ((url, "out"), ("in.csv", url)):
        code, err, _ = score(given, out)
        assert code == 80 and "given with credentials" in err and "data.example" in err
        assert "sec" not in err and "ret@" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_user_whose_name_is_no_secret_may_stand_in_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_filesystem", lambda url: (Web(), url))
    for url in ("abfs://box@account.example/a.csv", "sftp://me@host.example/a", "s3://bucket/mail/me:x@y.csv"):
        assert Place(url).text == url


def test_columns_that_are_there_or_named_twice(score: Score) -> None:
    columns = [pa.array([1.0]), pa.array([1.0]), pa.array([1.0]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a", "b", "c", "id"]), "twice.parquet")
    code, err, _ = score("twice.parquet", "out")
    assert code == 80 and "twice.parquet has columns twice: a" in err
    table(3).to_parquet("in.parquet")
    assert score("in.parquet", "kept.csv", "--keep", "id,a,id")[0] == 0
    assert pd.read_csv("kept.csv").columns.tolist() == ["id", "a", "sum", "big"]


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5", "٣", "9" * 5000])
def test_a_number_of_rows_is_a_number(score: Score, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score("in", "out", f"--part-rows={text}")
    assert "is not a whole number of 1 or more" in capsys.readouterr().err


def test_a_model_that_does_not_answer_its_example_is_no_traceback(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ask.Model(archive / "model")

    def fail(_self: object, _frame: object) -> None:
        raise ValueError("not today")

    lean: Any = model._lean
    monkeypatch.setattr(ask.Model, "ask", fail)
    monkeypatch.setattr(type(lean.fast), "read", lambda *_: (pd.DataFrame({"a": [1, 2]}), None))
    monkeypatch.setattr(model, "facts", replace(model.facts, example=b"{}"))
    told = model.check_rows_alone()
    assert told is not None and told.startswith("its example is not answered: ValueError: not today")


def test_other_errors_of_places_are_the_inputs() -> None:
    with pytest.raises(InputRefused, match="unheard"):
        Place("unheard://of/it")
