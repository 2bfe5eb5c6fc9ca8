"""Answers of several tables, whole numbers beside nothing, and names that clash: nothing is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored import Score, table

from kbuild.scoring import __main__ as scorer
from kbuild.scoring import ask, udf
from kbuild.scoring.errors import InputRefused
from kbuild.scoring.job import Job
from kbuild.scoring.tables import _to_pandas

pytestmark = pytest.mark.filterwarnings("ignore")
BIG = 2**53 + 1


def test_columns_in_another_order_land_under_their_names_in_one_file(score: Score, tmp_path: Path) -> None:
    frame = table(20)
    (tmp_path / "in").mkdir()
    frame.iloc[:10].to_parquet("in/1.parquet")
    frame.iloc[10:][["c", "b", "a", "id"]].to_parquet("in/2.parquet")
    for out, read in (("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)):
        code, err, _ = score("in", out, "--format", out[4:])
        assert code == 0, err
        found = read(out)
        assert found["id"].tolist() == frame["id"].tolist()
        np.testing.assert_allclose(found["a"], frame["a"])
        np.testing.assert_allclose(found["sum"], frame[["a", "b", "c"]].sum(axis=1) * 2, rtol=1e-6)


def test_tables_that_do_not_fit_into_one_file_are_told_before_they_are_scored(score: Score, tmp_path: Path) -> None:
    frame = table(20)
    (tmp_path / "in").mkdir()
    frame.to_parquet("in/1.parquet")
    frame.assign(more=1).to_parquet("in/2.parquet")
    code, err, _ = score("in", "out.parquet")
    assert code == 80 and "in/1.parquet and " in err and "in/2.parquet do not have the same columns: more" in err
    assert not (tmp_path / ".out.parquet.kbuild").exists()
    assert score("in", "out.parquet", "--keep", "id")[0] == 0
    frame.assign(id=range(20)).to_parquet("in/2.parquet")
    code, err, _ = score("in", "types.parquet")
    assert code == 80 and "id is " in err and "and int64 in" in err
    assert not (tmp_path / ".types.parquet.kbuild").exists()
    assert score("in", "types.csv", "--format", "csv")[0] == 0


def test_whole_numbers_keep_all_bits_beside_nothing(score: Score, archive: Path) -> None:
    ids = pa.array([BIG, None, 3], pa.int64())
    pq.write_table(
        pa.table({"id": ids, "a": [1.0, 2, 3], "b": pa.array([1, 2, 3], pa.float32()), "c": ids}), "in.parquet"
    )
    code, err, _ = score("in.parquet", "out.csv", "--on-error", "null", "--format", "csv")
    assert code == 0, err
    lines = Path("out.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", str(BIG), "", "3"]
    asked: list[Any] = []
    model = ask.Model(archive / "model")
    frame = _to_pandas(pq.read_table("in.parquet").select(["a", "b", "c"]), model.types)
    fast = model._fast
    assert fast is not None
    model._fast = lambda rows: asked.append(rows["c"]) or fast(rows)
    assert ask.answer_rows(model, frame)[0] == [0, 2]
    assert asked[0].dtype == np.int64 and asked[0].tolist() == [BIG, 3]
    unread = _to_pandas(pa.table({"x": ids}), {})["x"]
    assert unread.dtype == np.float64, "as pandas gives it where the signature does not say whole numbers"


def test_whole_answers_keep_all_bits_in_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = pa.table({"y": [BIG, 7]})
    monkeypatch.setattr(udf, "_model", lambda: SimpleNamespace(check_columns=lambda *_: None))
    monkeypatch.setattr(udf, "answer_rows", lambda _model, _frame, **_: ([2, 0], answers, {1: "no"}))
    (found,) = udf.answer_or_null(iter([pd.DataFrame({"x": [1, 2, 3]})]))
    assert pa.array(found["y"], pa.int64(), from_pandas=True).to_pylist() == [7, None, BIG]


@pytest.mark.parametrize(
    ("answers", "kept", "names"),
    [
        (["y"], ["x"], ["y"]),
        (["y", "z"], ["y"], ["prediction_y", "z"]),
        (["y", "z"], ["y", "prediction_y"], ["prediction_prediction_y", "z"]),
        (["y", "prediction_y"], ["y"], ["prediction_prediction_y", "prediction_y"]),
        (
            ["y", "prediction_y"],
            ["y", "prediction_y"],
            ["prediction_prediction_y", "prediction_prediction_prediction_y"],
        ),
    ],
)
def test_no_column_is_replaced_by_another_of_its_name(answers: list[str], kept: list[str], names: list[str]) -> None:
    assert Job.answer_names(answers, kept) == names


@pytest.mark.slow
def test_rows_that_all_fail_are_a_part_and_not_the_end(score: Score) -> None:
    frame = table(2400).astype({"c": float}).assign(b=np.inf)
    frame.loc[:1199, "c"] = np.nan
    frame.to_parquet("in.parquet", row_group_size=1200)
    good = frame["id"].tolist()[1200:]
    for out, read in (("out.parquet", pd.read_parquet), ("out.csv", pd.read_csv)):
        more = ["--part-rows", 1200, "--batch-rows", 1000, "--format", out[4:], "--on-error", "reject"]
        code, err, manifest = score("in.parquet", out, *more)
        assert code == 0, err
        assert (manifest["failed"], manifest["answered"]) == (1200, 1200)
        assert read(out)["id"].tolist() == good and "sum" in read(out).columns
    lines = Path("out.csv.rejected.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert len(told) == 1200 and told[0]["row"] == 1 and told[0]["values"]["b"] == "inf"
    frame.iloc[:1200].to_parquet("bad.parquet")
    code, err, _ = score("bad.parquet", "none", "--on-error", "null", "--batch-rows", 1000)
    assert code == 81 and "answers none of 1,200 rows: c is missing" in err


def test_a_part_of_empty_lines_has_no_rows(score: Score) -> None:
    Path("in.csv").write_text("a,b,c,id\n" + "\n" * 4 + "1,2,3,x\n1,2,3,4,5,6\n", encoding="utf-8")
    for how, answered in (("reject", 1), ("null", 1)):
        code, err, manifest = score("in.csv", f"{how}.csv", "--part-rows", 2, "--on-error", how)
        assert code == 0, err
        assert manifest["answered"] == answered and pd.read_csv(f"{how}.csv")["sum"].tolist() == [12.0]
    Path("in.csv").write_text("a,b,c,id\n" + "\n" * 4, encoding="utf-8")
    assert score("in.csv", "nothing", "--part-rows", 2)[0] == 81


def test_what_a_model_prints_is_not_among_the_records(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_records", None)
    scorer._keep_stdout()
    os.write(1, b"from a library\n")
    scorer._tell({"rows": 1})
    said = capfd.readouterr()
    assert (said.out, said.err) == ('{"rows": 1}\n', "from a library\n")


def test_how_far_it_is_is_told_once_and_no_rate_where_none_is_known(score: Score) -> None:
    table(3).to_parquet("in.parquet")
    assert score("in.parquet", "out")[1].splitlines() == ["3/3 rows"]


def test_a_full_disk_is_told_with_what_could_not_be_written(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's own words, which have neither a number nor a file."""

    def write(*_: object) -> None:
        raise OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr("kbuild.scoring.score._Writer.write", write)
    table(3).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out.parquet")
    assert code == 42 and "kbuild-score: No space left on device (out.parquet)" in err


def test_a_function_of_too_few_columns_names_those_that_lack(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udf, "_model", lambda: ask.Model(archive / "model"))
    with pytest.raises(InputRefused, match=r"what the function is given lacks columns that the model reads: b, c$"):
        next(udf.answer_or_fail(iter([pd.DataFrame({"a": [1.0]})])))
