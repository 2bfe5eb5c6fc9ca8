"""Tables scored by an archive's own scorer: the server's answers, each row once, and nothing half done."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scored import Score, table

from kbuild.scoring import parts
from kbuild.scoring import score as scoring
from kbuild.scoring.ask import Model, answer_rows
from kbuild.scoring.parts import InputTable, records, split
from kbuild.serving.answer.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore")


def served(archive: Path, body: bytes, kind: str = "application/json") -> pd.DataFrame:
    """The server's own answer."""
    reply, _ = load_model(archive / "model", import_mlflow="lazy").answer(body, kind)
    assert reply.status == 200, reply.body
    return pd.DataFrame(json.loads(reply.body)["predictions"])


def as_request(frame: pd.DataFrame) -> bytes:
    return json.dumps({"dataframe_split": frame[["a", "b", "c"]].to_dict(orient="split", index=False)}).encode()


def read(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def test_parquet_is_answered_as_the_server_answers(score: Score, archive: Path, tmp_path: Path) -> None:
    frame = table(1000)
    frame.to_parquet("in.parquet", row_group_size=100)
    code, err, manifest = score("in.parquet", "out", "--part-rows", 300, "--batch-rows", 70)
    assert code == 0, err
    assert (manifest["rows"], manifest["answered"], manifest["failed"]) == (1000, 1000, 0)
    assert [part["rows"] for part in manifest["parts"]] == [300, 300, 300, 100]
    assert (manifest["model_digest"], manifest["lock_digest"]) == ("sha256:1", "sha256:2")
    found = read(tmp_path / "out")
    assert found.columns.tolist() == ["id", "a", "b", "c", "sum", "big"]
    pd.testing.assert_frame_equal(found[frame.columns.tolist()], frame)
    pd.testing.assert_frame_equal(found[["sum", "big"]], served(archive, as_request(frame)), check_exact=True)
    # The pipeline's own, which knows of no server; its default scale is 2.
    own = frame[["a", "b", "c"]].sum(axis=1) * 2.0
    assert found["sum"].tolist() == own.tolist()


def test_csv_is_answered_as_the_server_answers_csv(score: Score, archive: Path, tmp_path: Path) -> None:
    frame = table(500)
    frame["id"] = [f'a "quoted",\nid {n}' if n % 50 == 3 else f"{n:04d}" for n in range(500)]
    frame.to_csv("in.csv", index=False)
    code, err, manifest = score("in.csv", "out.csv", "--part-rows", 120, "--batch-rows", 33)
    assert code == 0, err
    found = pd.read_csv("out.csv", dtype={"id": str}, float_precision="round_trip")
    assert found["id"].tolist() == frame["id"].tolist(), "texts stay what they are, zeros at their beginning too"
    body = frame[["a", "b", "c"]].to_csv(index=False).encode()
    assert found["sum"].tolist() == served(archive, body, "text/csv")["sum"].tolist()
    assert len(manifest["parts"]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "out.csv.manifest.json"]


@pytest.mark.parametrize("how", ["fail", "null", "reject"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_row_that_fails_is_one_row(score: Score, tmp_path: Path, how: str, kind: str) -> None:
    frame = table(200)
    frame.loc[[20, 21, 150], "a"] = 13.0
    frame["c"] = frame["c"].astype(object)
    frame.loc[77, "c"] = None
    if kind == "parquet":
        frame.assign(c=frame["c"].astype(float)).to_parquet("in.parquet", row_group_size=50)
    else:
        frame = frame.astype({"b": object})
        frame.loc[99, "b"] = "many"
        frame.to_csv("in.csv", index=False)
    bad = [20, 21, 77, 150] if kind == "parquet" else [20, 21, 77, 99, 150]
    code, err, manifest = score(f"in.{kind}", "out", "--on-error", how, "--format", "parquet", "--part-rows", 100)
    if how == "fail":
        assert code == 81
        where = "line 22" if kind == "csv" else "row 21"
        assert f"in.{kind}, {where}: ValueError: 13 is not served" in err
        return
    assert code == 0, err
    assert (manifest["rows"], manifest["failed"]) == (200, len(bad))
    assert manifest["reasons"]["ValueError: 13 is not served"] == 3
    found = read(tmp_path / "out")
    good = [number for number in range(200) if number not in bad]
    if how == "reject":
        assert found["id"].tolist() == [f"row {number}" for number in good]
    else:
        assert found["id"].tolist() == [f"row {number}" for number in range(200)]
        assert found.index[found["sum"].isna()].tolist() == bad
    left = frame.loc[good, ["a", "b", "c"]].astype({"a": float, "b": np.float32, "c": np.int64})
    np.testing.assert_allclose(found["sum"].dropna(), left.sum(axis=1) * 2.0, rtol=1e-6)
    lines = [json.loads(line) for path in sorted(tmp_path.glob("out/_kbuild/rejected/*")) for line in path.open()]
    assert sorted(line.get("row", line.get("line")) for line in lines) == [n + (2 if kind == "csv" else 1) for n in bad]
    assert any("missing" in line["reason"] or "NA" in line["reason"] for line in lines)


def test_a_carriage_return_in_a_row_is_its_error(score: Score, tmp_path: Path) -> None:
    """With one and a blank after it pandas before 3.1 read the row again and again until there was no memory left."""
    frame = table(4).astype({"id": object})
    frame["id"] = ["one", "two", "three", "four"]
    text = frame.to_csv(index=False).replace("two", "t\r w\r\r o").replace("three", '"th\r ree"')
    Path("in.csv").write_bytes(text.encode())
    code, err, manifest = score("in.csv", "out", "--on-error", "reject", "--format", "parquet")
    assert code == 0 and (manifest["rows"], manifest["failed"]) == (4, 1), err
    assert read(tmp_path / "out")["id"].tolist() == ["one", "th\r ree", "four"]
    ((reason, count),) = manifest["reasons"].items()
    assert "carriage return outside of quotes" in reason and count == 1


def test_a_batch_that_was_stopped_goes_on_and_does_nothing_twice(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table(400)
    frame.to_parquet("in.parquet", row_group_size=100)
    asked: list[int] = []
    answer = scoring.answer_rows

    def stop(model: Any, rows: Any, **more: Any) -> Any:
        asked.append(len(rows))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answer(model, rows, **more)

    monkeypatch.setattr(scoring, "answer_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        score("in.parquet", "out", "--part-rows", 100, "--batch-rows", 50)
    # The second part was begun: nothing of it is there.
    assert len(list(tmp_path.glob("out/part-*"))) == 1 and not list(tmp_path.glob("out/_kbuild/.new-*"))
    before = {path: path.stat().st_ino for path in tmp_path.glob("out/part-*")}
    code, err, manifest = score("in.parquet", "out", "--part-rows", 100, "--batch-rows", 50)
    assert code == 0, err
    assert manifest["rows"] == 400 and sum(asked) == 400 + 50 + 50
    assert read(tmp_path / "out")["id"].tolist() == frame["id"].tolist()
    assert {path: path.stat().st_ino for path in before} == before
    count = len(asked)
    assert score("in.parquet", "out", "--part-rows", 100, "--batch-rows", 50)[0] == 0 and len(asked) == count
    for change, word in ((["--on-error", "null"], "--on-error"), ([], "input")):
        if not change:
            frame.iloc[::-1].to_parquet("in.parquet", row_group_size=100)
        code, err, _ = score("in.parquet", "out", "--part-rows", 100, "--batch-rows", 50, *change)
        assert code == 82 and word in err and "--overwrite" in err
    code, err, _ = score("in.parquet", "out", "--part-rows", 200, "--overwrite")
    assert code == 0 and read(tmp_path / "out")["id"].tolist() == frame["id"].tolist()[::-1]


def test_what_cannot_be_scored_is_said_before_anything_is_written(score: Score, tmp_path: Path) -> None:
    table(3).drop(columns="b").to_parquet("lacks.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not")
    (tmp_path / "empty.csv").write_text("a,b,c\n")
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/letter.txt").write_text("mine")
    table(3).to_parquet("good.parquet")
    for given, code, word in (
        (("lacks.parquet", "out"), 80, "lacks columns that the model reads: b"),
        (("broken.parquet", "out"), 80, "not a Parquet file"),
        (("empty.csv", "out"), 80, "has no rows"),
        (("letter.txt", "out"), 80, "not a table"),
        (("nowhere/*.csv", "out"), 80, "fits no table"),
        (("good.parquet", "out", "--keep", "nothing"), 80, "--keep"),
        (("good.parquet", "out", "--params", "["), 3, "not JSON"),
        (("good.parquet", "taken"), 82, "letter.txt"),
        (("unheard://of/it", "out"), 80, "unheard"),
    ):
        found = score(*given)
        assert (found[0], word in found[1]) == (code, True), (given, found)
        assert not list(tmp_path.glob("out/part*"))


def test_columns_are_cast_where_no_bit_is_lost_and_clash_with_nothing(score: Score, tmp_path: Path) -> None:
    frame = table(50).assign(sum="mine")
    frame["a"] = np.arange(50) + 100
    frame["c"] = frame["c"].astype("int8")
    (tmp_path / "folder").mkdir()
    frame.iloc[:20].to_parquet("folder/one.parquet")
    frame.iloc[20:].to_csv("folder/two.csv", index=False)
    (tmp_path / "folder/_SUCCESS").write_text("")
    code, err, manifest = score("folder", "out", "--keep", "id,sum", "--format", "parquet", "--params", '{"scale": 3}')
    assert code == 0, err
    found = read(tmp_path / "out")
    assert found.columns.tolist() == ["id", "sum", "prediction_sum", "big"]
    np.testing.assert_allclose(found["prediction_sum"], frame[["a", "b", "c"]].sum(axis=1) * 3, rtol=1e-6)
    assert [Path(each["path"]).name for each in manifest["input"]] == ["one.parquet", "two.csv"]


def test_processes_share_the_work(score: Score) -> None:
    frame = table(600)
    frame.to_parquet("in.parquet", row_group_size=100)
    code, err, manifest = score("in.parquet", "out.parquet", "--part-rows", 100, "--workers", 2)
    assert code == 0, err
    assert manifest["rows"] == 600 and pd.read_parquet("out.parquet")["id"].tolist() == frame["id"].tolist()
    assert pq.ParquetFile("out.parquet").metadata.num_row_groups == 6
    assert score("in.parquet", "out.parquet", "--part-rows", 100)[0] == 0, "nothing has changed"
    assert score("in.parquet", "out.parquet", "--part-rows", 50)[0] == 82


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (b'a,b\n1,"x\ny"\n2,z\n', [1, 2, 1]),
        (b'a,b\n1,5" pipe\n2,"a ""b"" c"\n', [1, 1, 1]),
        (b'a,b\r\n"1\r\n\r\n",2\r\n3,4', [1, 3, 1]),
        (b'a,b\n1,"never closed\n2,3\n', [1, 2]),
    ],
)
def test_records_end_where_pandas_ends_them(text: bytes, counts: list[int]) -> None:
    found = list(records(iter(text.splitlines(keepends=True))))
    assert [len(record) for record in found] == counts
    assert b"".join(b"".join(record) for record in found) == text


def test_a_quote_that_is_never_closed_is_one_line_of_an_error_and_not_all_of_memory(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.scoring.parts.RECORD_BYTES", 1000)
    looked: list[int] = []
    ends = parts._ends_inside
    monkeypatch.setattr(parts, "_ends_inside", lambda line, inside: looked.append(len(line)) or ends(line, inside))
    (tmp_path / "in.csv").write_text('a,b,c\n1,2,3\n1,"2,3\n' + "1,2,3\n" * 10_000)
    code, err, _ = score("in.csv", "out")
    assert code == 80 and "in.csv: line 3 begins a record" in err and "is a quote not closed?" in err
    # Each line once, and no further than the limit.
    assert sum(looked) < 1100


def test_parts_are_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n" + b"".join(b'%d,"x\n%d"\n' % (n, n) for n in range(95)))
    parts = split([InputTable(path=str(path), kind="csv", content="", stamp="")], 10)
    data = path.read_bytes()
    assert b"".join(data[part.start : part.end] for part in parts) == data[7:]
    assert [part.rows for part in parts] == [10] * 9 + [5]
    assert [part.first for part in parts] == list(range(2, 192, 20)) and parts[0].header == "a,b"


@pytest.mark.slow
def test_a_batch_is_gone_when_it_is_answered(score: Score, archive: Path) -> None:
    """Not only when the collector comes round, which it seldom does among a few large objects."""
    model = Model(archive / "model")
    frame = table(100)
    frame.loc[7, "a"] = 13.0
    gone = weakref.ref(frame)
    gc.collect()
    gc.disable()
    try:
        good, answers, unfit = answer_rows(model, frame)
        del frame
        assert gone() is None
    finally:
        gc.enable()
    assert (sorted(good), list(unfit), len(answers)) == ([n for n in range(100) if n != 7], [7], 99)


@pytest.mark.parametrize("kept", ["numpy", "nullable", "arrow"])
def test_numbers_with_gaps_are_asked_as_a_request_would_ask_them(kept: str, archive: Path) -> None:
    """Parquet of pandas says which of its types a column had; the request has 2 and null, whichever it was."""
    model = Model(archive / "model")
    frame = pd.DataFrame({"a": [2, None, 4], "b": [0.5, 1.5, None], "c": [1, 2, 3]})
    if kept != "numpy":
        frame = frame.convert_dtypes(dtype_backend="numpy_nullable" if kept == "nullable" else "pyarrow")
        assert not isinstance(frame["a"].dtype, np.dtype)
    good, answers, unfit = answer_rows(model, frame)
    assert (good, unfit) == ([0, 1, 2], {})
    # What the model does: what is there of a row, twice.
    assert answers["sum"].to_pylist() == [7.0, 7.0, 14.0]


def test_whole_numbers_that_no_double_has_are_left_to_mlflow(archive: Path) -> None:
    frame = pd.DataFrame({"a": pd.array([2**53 + 1, None], "Int64"), "b": [0.5, 0.5], "c": [1, 1]})
    assert list(answer_rows(Model(archive / "model"), frame)[2]) == [0]


@pytest.mark.parametrize("missing", [None, 3])
def test_no_row_is_asked_after_the_first_that_fails_where_that_ends_all(missing: int | None, archive: Path) -> None:
    """A column of a wrong type fails in all rows, and to ask each of them takes minutes."""
    model = Model(archive / "model")
    asked: list[int] = []
    model.ask = lambda table: asked.append(len(table)) or {}["no"]  # type: ignore[method-assign, func-returns-value]
    frame = table(1024)
    if missing is not None:
        frame["c"] = frame["c"].astype("Int64")
        frame.loc[missing, "c"] = pd.NA
    good, answers, unfit = answer_rows(model, frame, to_first=True)
    assert (good, answers, min(unfit)) == ([], None, 0)
    assert asked == ([1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1] if missing is None else [3, 1])
