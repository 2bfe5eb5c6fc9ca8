"""IN and options: what is wrong with them is told in a line, and nothing secret is written down."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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


def in_folders(ending: str, names: dict[str, int], folder: str = "in") -> None:
    for name, rows in names.items():
        path = Path(folder, name, f"x{ending}")
        path.parent.mkdir(parents=True)
        frame = table(rows).drop(columns="c")
        frame.to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)


def written(folder: str) -> pd.DataFrame:
    files = [path for path in sorted(Path(folder).iterdir()) if path.name.startswith("part")]
    return pd.concat(pd.read_parquet(each) if each.suffix == ".parquet" else pd.read_csv(each) for each in files)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_columns_that_only_the_names_of_folders_have_are_columns(score: Score, ending: str) -> None:
    """As Hive, Spark and Arrow lay out tables: https://spark.apache.org/docs/latest/sql-data-sources-parquet.html"""
    in_folders(ending, {"c=7/place=north%2Feast": 3, "c=1/place=__HIVE_DEFAULT_PARTITION__": 2})
    code, err, _ = score("in", "out")
    assert code == 0, err
    found = written("out")
    assert found.columns.tolist() == ["id", "a", "b", "c", "place", "sum", "big"]
    assert found["c"].tolist() == [1, 1, 7, 7, 7] and found["big"].tolist() == [False, False, True, True, True]
    assert found["place"].fillna("").tolist() == ["", "", *["north/east"] * 3]
    table(3)[["a", "b", "c"]].assign(c=7).to_parquet("flat.parquet")
    assert score("flat.parquet", "flat")[0] == 0
    assert np.allclose(written("flat")["sum"], found["sum"].iloc[2:], rtol=1e-6)
    code, err, _ = score("in/c=*/*/*", "named.csv", "--keep", "place,c")
    assert code == 0, err
    assert pd.read_csv("named.csv")[["place", "c"]].iloc[-1].tolist() == ["north/east", 7]


def test_a_folder_of_an_empty_text_is_that_value(score: Score) -> None:
    """So pyarrow writes it, and reads it; Spark writes null in its place."""
    pq.write_to_dataset(pa.table({"place": ["", "x"], "a": [1.0, 2.0], "b": [1.0, 1.0], "c": [1, 2]}), "in", ["place"])
    assert Path("in/place=").is_dir()
    code, err, _ = score("in", "out.csv", "--keep", "place")
    assert code == 0, err
    assert pd.read_csv("out.csv", keep_default_na=False)["place"].tolist() == ["", "x"]


def test_a_folder_that_is_no_value_of_its_column_is_named(score: Score) -> None:
    in_folders(".parquet", {"c=many": 2})
    code, err, _ = score("in", "out")
    assert code == 80 and "in/c=many/x.parquet" in err and "c=many is not long" in err


def test_a_column_of_the_file_itself_goes_before_that_of_its_folder(score: Score) -> None:
    Path("in/c=9").mkdir(parents=True)
    table(3).to_parquet("in/c=9/x.parquet")
    assert score("in", "out")[0] == 0
    assert written("out")["c"].tolist() == table(3)["c"].tolist()


def test_what_is_named_itself_has_no_columns_of_folders(score: Score) -> None:
    Path("in/place=here").mkdir(parents=True)
    table(3).to_parquet("in/place=here/x.parquet")
    for number, given in enumerate(("in/place=here/x.parquet", "in/place=here", "in/place=here/*.parquet")):
        assert score(given, f"out{number}")[0] == 0
        assert "place" not in written(f"out{number}").columns


def test_folders_that_are_links_are_read_once_each(score: Score) -> None:
    Path("else").mkdir()
    Path("in/deep").mkdir(parents=True)
    table(3).to_parquet("else/a.parquet")
    table(2).to_parquet("in/b.parquet")
    Path("in/linked").symlink_to(Path("else").resolve())
    Path("in/deep/round").symlink_to(Path("in").resolve())
    code, err, manifest = score("in", "out")
    assert code == 0, err
    assert manifest["rows"] == 5


def test_a_folder_that_nobody_may_list_is_not_passed_over(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows would lack in a batch that ends well."""
    in_folders(".parquet", {"c=1": 2, "c=2": 2})
    scan = os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path).endswith("c=2"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, err, _ = score("in", "out")
    assert code == 80 and "c=2: Permission denied" in err


@pytest.mark.parametrize(("given", "said"), [("nix.csv", "is not there"), ("nix*.csv", "fits no"), ("-", "not there")])
def test_what_is_not_there_is_said_to_be_not_there(score: Score, given: str, said: str) -> None:
    code, err, _ = score(given, "out")
    assert code == 80 and said in err and "a file, folder or pattern" in err


def test_a_name_that_is_misspelt_is_told_with_that_of_the_file_beside_it(score: Score, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    table(3).to_csv("raw/orders.csv")
    code, err, _ = score("raw/order.csv", "out")
    assert code == 80 and "did you mean " in err and "/raw/orders.csv?" in err


def test_answers_are_not_written_to_a_folder_called_dash(score: Score, tmp_path: Path) -> None:
    table(3).to_csv("in.csv")
    code, err, _ = score("in.csv", "-")
    assert code == 80 and "./-" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert score("in.csv", "./-")[0] == 0


def test_what_mlflow_refuses_is_told_in_its_own_words_and_whole(score: Score) -> None:
    """Of its message the data and the schema come first, and as long as the table is wide."""
    table(3).assign(c=0.5).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out")
    assert code == 81 and "in.parquet, row 1: " in err
    assert "Incompatible input types for column c. Can not safely convert float64 to int64." in err
    assert "Failed to enforce schema" not in err


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("gopher://a/b.csv", "s3://, gs://"),
        ("htps://a/b.csv", "did you mean https://?"),
        ("S3://a/b.csv", "did you mean s3://?"),
    ],
)
def test_a_scheme_that_nobody_knows_is_told_with_those_that_are_known(url: str, hint: str) -> None:
    with pytest.raises(InputRefused, match="Protocol not known") as caught:
        Place(url)
    assert hint in str(caught.value.hint)
