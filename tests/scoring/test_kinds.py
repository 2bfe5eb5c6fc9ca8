"""Tensors as columns of lists, lists in CSV, tables of no rows, and files that are nearly CSV."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored import Score, table

mlflow_pyfunc = pytest.importorskip("mlflow.pyfunc")

pytestmark = pytest.mark.filterwarnings("ignore")


class Sums(mlflow_pyfunc.PythonModel):
    """Weighs the places of a tensor, so that another order of its numbers is another answer."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        if isinstance(model_input, dict):
            return model_input["image"].sum(axis=(1, 2)) + model_input["age"]
        flat = model_input.reshape(len(model_input), -1)
        return flat @ np.arange(1, flat.shape[1] + 1) + (model_input.dtype == np.float32)


class Doubles(mlflow_pyfunc.PythonModel):
    """Answers with tensors."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input * 2


def saved(folder: Path, model: Any, *tensors: dict[str, Any]) -> Path:
    import cloudpickle
    from mlflow.models.signature import ModelSignature

    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    signature = ModelSignature.from_dict({"inputs": json.dumps(tensors)})
    mlflow_pyfunc.save_model(folder / "model", python_model=model, signature=signature, pip_requirements=["mlflow"])
    (folder / "archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
    return folder / "model"


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}} | named


@pytest.fixture
def asked(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(model: Any, *tensors: dict[str, Any]) -> Score:
        monkeypatch.setenv("KBUILD_MODEL", str(saved(tmp_path / "archive", model, *tensors)))
        return score

    (tmp_path / "archive").mkdir()
    return call


def test_a_tensor_is_a_column_of_lists(asked: Any) -> None:
    score = asked(Sums(), tensor("float32", -1, 2, 2))
    nested = pa.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]])
    pq.write_table(pa.table({"id": ["x", "y"], "image": nested}), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "id")
    assert code == 0, err
    # 1 + 4 + 9 + 16, and 4; 1 more for the type that the signature says.
    assert pd.read_parquet("out.parquet").to_dict("list") == {"id": ["x", "y"], "prediction": [31.0, 5.0]}


class Lengths(mlflow_pyfunc.PythonModel):
    """Counts letters."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        texts = model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input
        return [len(each) for each in texts]


def test_a_list_of_texts_is_the_only_column_of_texts(asked: Any) -> None:
    score = asked(Lengths(), {"type": "string", "required": True})
    pd.DataFrame({"id": [1, 2], "t": ["abc", "é"], "x": [0.5, 1]}).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "id")
    assert code == 0, err
    assert pd.read_parquet("out.parquet").to_dict("list") == {"id": [1, 2], "prediction": [3, 1]}
    pd.DataFrame({"t": ["abc", "é"], "u": ["", "x"]}).to_parquet("two.parquet")
    code, err, _ = score("two.parquet", "out2.parquet")
    assert code == 80 and "the model takes one column of the type string" in err and "it has t, u" in err


def test_a_row_whose_list_does_not_fit_is_a_row_without_an_answer(asked: Any) -> None:
    score = asked(Sums(), tensor("float64", -1, 2))
    lists = pa.array([[1.0, 2.0], [1.0, 2.0, 3.0], None, [0.0, 1.0]])
    pq.write_table(pa.table({"image": lists}), "in.parquet")
    code, err, told = score("in.parquet", "out.parquet", "--on-error", "null", "--keep", "none")
    assert code == 0, err
    answers = pd.read_parquet("out.parquet")["prediction"]
    assert answers.dropna().tolist() == [5.0, 2.0] and answers.isna().tolist() == [False, True, True, False]
    reasons = list(told["reasons"])
    assert any("image" in each and "3 values" in each for each in reasons), reasons
    assert any("image is missing" in each for each in reasons), reasons


def test_a_flat_tensor_is_as_many_columns_of_numbers(asked: Any) -> None:
    score = asked(Sums(), tensor("float64", -1, 2))
    Path("in.csv").write_text("a,b\n1,2\n0.5,1\n", encoding="utf-8")
    code, err, _ = score("in.csv", "out.csv", "--keep", "none")
    assert code == 0, err
    assert pd.read_csv("out.csv")["prediction"].tolist() == [5.0, 2.5]


def test_a_tensor_of_one_number_a_row_is_the_column_of_numbers(asked: Any) -> None:
    score = asked(Doubles(), tensor("float64", -1))
    pd.DataFrame({"id": ["x", "y"], "n": [1, 2]}).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "id")
    assert code == 0, err
    assert pd.read_parquet("out.parquet").to_dict("list") == {"id": ["x", "y"], "prediction": [2.0, 4.0]}
    pd.DataFrame({"n": [1, 2], "m": [1, 2]}).to_parquet("two.parquet")
    code, err, _ = score("two.parquet", "out2.parquet")
    assert code == 80 and "the model takes 1 column of numbers" in err and "lists" not in err


def test_columns_of_numbers_beside_others_are_the_tensor(asked: Any) -> None:
    score = asked(Sums(), tensor("float64", -1, 2))
    Path("in.csv").write_text("id,a,b\nx,1,2\ny,0.5,1\n", encoding="utf-8")
    code, err, _ = score("in.csv", "out.csv", "--keep", "id")
    assert code == 0, err
    assert pd.read_csv("out.csv").to_dict("list") == {"id": ["x", "y"], "prediction": [5.0, 2.5]}


def test_named_tensors_are_columns_of_these_names(asked: Any) -> None:
    score = asked(Sums(), tensor("int64", -1, 2, 2, name="image"), tensor("float64", -1, name="age"))
    nested = pa.array([[[1, 2], [3, 4]], [[0, 0], [0, 1]]])
    pq.write_table(pa.table({"age": [0.5, 0.25], "image": nested, "other": ["x", "y"]}), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "other")
    assert code == 0, err
    assert pd.read_parquet("out.parquet")["prediction"].tolist() == [10.5, 1.25]
    pq.write_table(pa.table({"age": [0.5]}), "less.parquet")
    code, err, _ = score("less.parquet", "out2.parquet")
    assert code == 80 and "lacks columns that the model reads: image" in err


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["x", "y"]}, "it has text"),
        ({"a": [[1.0, 2.0]] * 2, "b": [[1.0, 2.0]] * 2}, "a and b are both columns of lists"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "it has a, b, c"),
    ],
)
def test_a_table_without_a_tensor_is_refused_in_words(asked: Any, columns: Any, words: str) -> None:
    score = asked(Sums(), tensor("float64", -1, 2))
    pq.write_table(pa.table(columns), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--on-error", "null")
    assert code == 80 and words in err and "one column of lists" in err
    assert not Path("out.parquet").exists()


class Same(mlflow_pyfunc.PythonModel):
    """Answers with what it is given, wider."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input.astype("int64").reshape(len(model_input), -1).sum(axis=1)


def test_a_tensor_of_one_value_a_row_is_a_column_of_values(asked: Any) -> None:
    score = asked(Same(), tensor("int8", -1))
    pq.write_table(pa.table({"n": pa.array([1, -2, 127], pa.int64())}), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet")
    assert code == 0, err
    assert pq.read_table("out.parquet").to_pydict() == {"n": [1, -2, 127], "prediction": [1, -2, 127]}
    pq.write_table(pa.table({"id": [1], "n": [2]}), "two.parquet")
    code, err, _ = score("two.parquet", "out2.parquet")
    assert code == 80 and "it has id, n" in err and "the model takes 1 column of numbers" in err


@pytest.mark.parametrize(
    ("dtype", "kind", "value"),
    [
        ("int8", pa.int64(), 300),
        ("uint8", pa.int16(), -1),
        ("int64", pa.uint64(), 2**63),
        ("int32", pa.int64(), -(2**40)),
    ],
)
def test_a_whole_number_that_the_tensor_has_no_room_for_is_no_other_number(
    asked: Any, dtype: str, kind: Any, value: int
) -> None:
    """MLflow's server refuses it too; NumPy's own cast goes round the corner, 300 is 44."""
    score = asked(Same(), tensor(dtype, -1, 2))
    pq.write_table(pa.table({"x": pa.array([[1, 2], [1, value], [3, 4]], pa.list_(kind))}), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet")
    assert code == 81 and f"row 2: ValueError: x has {value}, which {dtype} has not" in err
    code, err, _ = score("in.parquet", "kept.parquet", "--on-error", "reject")
    assert code == 0 and pq.read_table("kept.parquet").column("prediction").to_pylist() == [3, 7]


def test_pictures_of_bytes_are_whole_numbers_of_any_type(asked: Any) -> None:
    score = asked(Same(), tensor("uint8", -1, 2))
    pq.write_table(pa.table({"x": pa.array([[0, 255], [7, 8]], pa.list_(pa.int64()))}), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "none")
    assert code == 0, err
    assert pq.read_table("out.parquet").to_pydict() == {"prediction": [255, 15]}


def test_answers_that_are_tensors_are_lists(asked: Any) -> None:
    score = asked(Doubles(), tensor("float64", -1, 2, 2))
    pq.write_table(pa.table({"image": [[[1.0, 2.0], [3.0, 4.0]]]}), "in.parquet")
    for name in ("out.parquet", "out.csv"):
        code, err, _ = score("in.parquet", name, "--keep", "none")
        assert code == 0, err
    assert pq.read_table("out.parquet").to_pylist() == [{"prediction": [[2.0, 4.0], [6.0, 8.0]]}]
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        assert [json.loads(row["prediction"]) for row in csv.DictReader(file)] == [[[2.0, 4.0], [6.0, 8.0]]]


def test_lists_and_structs_in_csv_are_json(score: Score) -> None:
    rows = table(3).assign(tags=[["ä", 'b"'], [], None], place=[{"x": 1.5}, {"x": None}, None])
    rows.to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out.csv", "--keep", "tags,place")
    assert code == 0, err
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["tags"] and json.loads(row["tags"]) for row in read] == [["ä", 'b"'], [], ""]
    assert [row["place"] and json.loads(row["place"]) for row in read] == [{"x": 1.5}, {"x": None}, ""]


def test_a_table_of_no_rows_is_told_as_that(score: Score) -> None:
    nothing = pa.table({"a": pa.nulls(0), "b": pa.array([], pa.float32()), "c": pa.array([], pa.int64())})
    pq.write_table(nothing, "in.parquet")
    code, err, _ = score("in.parquet", "out")
    assert code == 80 and "in.parquet has no rows" in err
    # pandas writes a row group of none.
    table(0).assign(a=None).to_parquet("pandas.parquet")
    code, err, _ = score("pandas.parquet", "out")
    assert code == 80 and "pandas.parquet has no rows" in err


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("a,b,c,größe\n1,2,3,4\n".encode("latin-1"), "iconv -f ISO-8859-1 -t UTF-8 '{folder}/my table.csv'"),
        ("a,b,c\n1,2,3\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8 '{folder}/my table.csv'"),
        ("a,b,c\n1,2,3\n".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 '{folder}/my table.csv'"),
        (b"a;b;c\n1;2;3\n", "its fields are parted by ';'"),
        (b"a\tb\tc\n1\t2\t3\n", "its fields are parted by tabs"),
    ],
)
def test_what_is_nearly_csv_is_told_with_what_to_do(score: Score, tmp_path: Path, written: bytes, words: str) -> None:
    Path("my table.csv").write_bytes(written)
    code, err, _ = score("my table.csv", "out")
    assert code == 80 and words.format(folder=tmp_path) in err


def test_a_row_of_another_encoding_is_told_with_what_makes_utf8_of_the_file(score: Score, tmp_path: Path) -> None:
    Path("my table.csv").write_bytes("id,a,b,c\nx,1,2,3\nSüd,1,2,3\n".encode("latin-1"))
    code, err, _ = score("my table.csv", "out")
    assert code == 81 and "my table.csv, line 3: the row is not UTF-8: it has the byte 0xfc" in err
    assert f"iconv -f ISO-8859-1 -t UTF-8 '{tmp_path}/my table.csv'" in err and "--on-error null" in err


@pytest.mark.parametrize("written", [b"", b"\n", b"\r\na,b,c\n1,2,3\n"])
def test_a_csv_without_a_header_is_told_as_that(score: Score, written: bytes) -> None:
    Path("in.csv").write_bytes(written)
    code, err, _ = score("in.csv", "out")
    assert code == 80 and "in.csv has no header: its first line is empty" in err


def test_a_value_that_is_none_of_its_columns_type_is_told_by_the_columns_name(score: Score) -> None:
    Path("in.csv").write_text("id,a,b,c\nx,1,2,3\ny,1,2,many\nz,few,2,3\nu,1,2,\n", encoding="utf-8")
    code, err, _ = score("in.csv", "out", "--on-error", "reject")
    assert code == 0, err
    reasons = [json.loads(line) for path in Path("out/_kbuild/rejected").iterdir() for line in path.open()]
    named = {each["line"]: each["reason"].partition(":")[0] for each in reasons}
    assert named == {3: "c is not long", 4: "a is not double", 5: "c is not long"}


@pytest.mark.parametrize(
    ("name", "words"), [("in.csv.gz", "gunzip -k {folder}/in.csv.gz"), ("in.csv.zst", "unpack it first")]
)
def test_a_packed_csv_is_told_with_how_to_unpack_it(score: Score, tmp_path: Path, name: str, words: str) -> None:
    Path(name).write_bytes(gzip.compress(b"a,b,c\n1,2,3\n"))
    code, err, _ = score(name, "out")
    assert code == 80 and words.format(folder=tmp_path) in err


@pytest.mark.slow
def test_the_first_row_without_an_answer_is_told_whoever_finds_one_first(score: Score) -> None:
    rows = table(4000)
    # The later part fails at once, the earlier one at its end.
    rows.loc[[999, 1001], "a"] = 13
    rows.to_csv("in.csv", index=False)
    for _ in range(3):
        code, err, _ = score("in.csv", "out", "--workers", "2", "--part-rows", "1000", "--batch-rows", "20")
        assert code == 81 and "line 1001:" in err, err


ORDERS = {"orders": [{"kind": "a", "count": 5}, {"kind": "b", "count": 2}], "rates": [{"kind": "a", "rate": 3.0}]}


@pytest.fixture
def several(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of two tables, whose answer to a request has one row, or one for each order."""
    import models
    from mlflow.models.signature import infer_signature

    from kbuild.recording.input.forms import carry, describe

    tables = {name: pd.DataFrame(rows) for name, rows in ORDERS.items()}
    form = describe(tables)

    def make(answer: Any) -> Score:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        model = models.make_kedro_model(tmp_path / "params", lambda table, scale, times, word: answer(table))
        model.form = form
        mlflow_pyfunc.save_model(
            folder / "model", python_model=model, pip_requirements=["mlflow"],
            artifacts=model.extract_pipeline_artifacts(tmp_path / "params"),
            signature=infer_signature(carry(form, tables), pd.DataFrame({"worth": [1.0]})),
        )  # fmt: skip
        (folder / "archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
        monkeypatch.setenv("KBUILD_MODEL", str(folder / "model"))
        return score

    return make


def worth(tables: Any) -> pd.DataFrame:
    joined = tables["orders"].merge(tables["rates"], on="kind")
    return pd.DataFrame({"worth": [(joined["count"] * joined["rate"]).sum()]})


def test_a_row_of_lists_of_rows_is_a_request_of_several_tables(several: Any) -> None:
    score = several(worth)
    pq.write_table(pa.Table.from_pylist([ORDERS, {**ORDERS, "rates": [{"kind": "b", "rate": 7.0}]}]), "in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--keep", "none")
    assert code == 0, err
    assert pd.read_parquet("out.parquet").to_dict("list") == {"worth": [15.0, 14.0]}


def test_a_model_of_several_tables_says_what_a_row_is(several: Any) -> None:
    score = several(worth)
    pd.DataFrame(ORDERS["orders"]).to_csv("orders.csv", index=False)
    code, err, _ = score("orders.csv", "out")
    assert code == 80 and "orders.csv lacks columns that the model reads: orders, rates" in err
    assert "several tables in a request: a row is such a request" in err and "it has kind, count" in err
    pq.write_table(pa.Table.from_pylist([ORDERS]), "in.parquet")
    code, err, _ = several(lambda tables: tables["orders"][[]].assign(worth=1.0))("in.parquet", "out")
    assert code == 15 and "one row for each: 2 rows to 1" in err and "ask such a model by requests" in err
