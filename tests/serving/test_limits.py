from __future__ import annotations

import asyncio
import base64
import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import asgi
import models
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kbuild.serving.answer.limits import Limits, is_deeper, with_line_feeds
from kbuild.serving.answer.reply import Reply

SMALL = Limits(depth=5, rows=4, columns=3)
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")


def status(body: Any, content_type: str = JSON, limits: Limits = SMALL) -> int | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused = limits.check(text, content_type)
    assert refused is None or set(json.loads(refused.body)) == {"error_code", "message"}
    return None if refused is None else refused.status


def nested(depth: int) -> Any:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {']}[{\\"': value}
    return value


def find_depth(value: Any) -> int:
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + max(map(find_depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.slow
@given(
    st.recursive(
        st.text('a"[]{}\\,:') | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"[]{}\\', max_size=3), inner, max_size=3),
        max_leaves=20,
    ),
    st.booleans(),
)
def test_depth_is_counted_as_the_json_has_it(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    depth = find_depth(value)
    assert not is_deeper(body, depth)
    assert depth == 0 or is_deeper(body, depth - 1)


@given(st.binary(max_size=200), st.integers(1, 20))
def test_depth_of_anything_is_answered(body: bytes, depth: int) -> None:
    assert is_deeper(body, depth) in (True, False)


def test_depth_is_counted_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.serving.answer.limits._PART", 3)
    body = json.dumps(nested(40)).encode()
    assert is_deeper(body, 39) and not is_deeper(body, 40)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": nested(4)}, None),
        ({"inputs": nested(5)}, 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]] * 4}}, None),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]] * 5}}, 413),
        ({"dataframe_split": {"columns": ["a"] * 4, "data": []}}, 413),
        ({"dataframe_split": {"columns": ["a"], "data": [[1], [1] * 4]}}, 413),
        ({"dataframe_split": {"columns": ["a"] * 3, "data": [[1] * 3] * 4}}, None),
        ({"dataframe_records": [{"a": 1}] * 5}, 413),
        ({"dataframe_records": [{"a": 1}, dict.fromkeys("abcd", 1)]}, 413),
        ({"inputs": {"a": [1] * 5}}, 413),
        ({"inputs": dict.fromkeys("abcd", 1)}, 413),
        ({"inputs": [[1] * 9] * 4}, None),
        ({"instances": [1] * 5}, 413),
        ({"instances": [1] * 4, "params": {"a": [1] * 9}}, None),
        ({"other": [1] * 9}, None),
        ([1] * 9, None),
        (b'{"inputs": [1,1,1,1,1,1', None),
        # Each name of any record is a column.
        *(({form: [{"abcde"[n]: 1} for n in range(4)]}, 413) for form in ("dataframe_records", "inputs", "instances")),
        ({"dataframe_split": {"data": [{each: 1} for each in "abcd"]}}, 413),
        ({"dataframe_split": {"data": {"a": {str(n): 1 for n in range(5)}}}}, 413),
        # pandas makes a table of names alone.
        ({"dataframe_split": {"columns": ["a"], "index": [1] * 5, "data": None}}, 413),
        ({"dataframe_split": {"columns": [["a"] * 4, ["b"] * 4], "data": []}}, 413),
        # Fields of dataframe_split mean nothing in others.
        ({"inputs": {"data": [1], "b": [1] * 5}}, 413),
        ({"inputs": {"columns": [1] * 4, "data": [1]}}, None),
        # Encodings that Python's JSON reads too, and whose characters hold the bytes of quotes.
        *(((f'{{"inputs": ["\u0122", {"[" * 9}{"]" * 9}]}}').encode(name), 400) for name in ENCODINGS),
        *(('{"inputs": ["\u5b22", "\u5b5b\u5b5b"]}'.encode(name), None) for name in ENCODINGS),
    ],
)
def test_a_table_above_a_limit_is_refused(body: Any, expected: int | None) -> None:
    assert status(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a,b,c\n1,2,3\n", None),
        (b"a,b,c,d\n1,2,3,4\n", 413),
        (b'"a,x","b,x",c\n1,2,3', None),
        (b"a\n" + b"1\n" * 4, None),
        (b"a\n" + b"1\n" * 5, 413),
        (b"a\r" + b"1\r" * 5, 413),
        (b"a\n1\n1\n1\n1\n1", 413),
        (b"", None),
        (b'"' + b"x" * 200_000, None),
        (b"\xff,\xff", None),
        # pandas passes over empty lines, and ends lines both ways at once.
        (b"\n \r\n\na,b,c,d\n1,2,3,4", 413),
        (b"a\n1\r1\n1\r1\n1\r1", 413),
        (b"a\r\n" + b"1\r\n" * 4, None),
        # A first row longer than the header makes an index of what is before.
        (b"a\n\n1,2,3,4\n", 413),
        # Quotes count at the start of a field only, and line breaks in them are text.
        (b'"a\nb",c,d,e\n1,2,3,4', 413),
        (b'a"b,c"d,e"f,g\n1,2,3,4', 413),
        (b'"a"",b,c,d",e\n"1,2,3,4",5', None),
        (b'\xef\xbb\xbf"a,b,c,d",e\n1,2', None),
    ],
)
def test_a_csv_above_a_limit_is_refused(body: bytes, expected: int | None) -> None:
    assert status(body, "text/csv; charset=utf-8") == expected


NAME = b"n" * 5_000_000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (NAME + b"\n1\n", 413),
        (b"\n \r\na," + NAME + b"\n1,2\n", 413),
        (b'"n\n' + NAME + b'"\n1\n', 413),
        (NAME, 413),
        # Texts of a row, and lines that are empty, are none of its names.
        (b"a\n" + NAME + b"\n", None),
        (b"\n" * 3 + b" " * 5_000_000 + b"\na\n1\n", None),
    ],
)
def test_names_of_megabytes_are_refused_before_pandas_reads_them(body: bytes, expected: int | None) -> None:
    reply = Limits().check(body, CSV)
    assert (reply and reply.status) == expected
    assert Limits().is_large(body, CSV)  # so that the short way is not tried before


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"dataframe_records": [{str(n): 1} for n in range(9000)]}, JSON),
        ({"dataframe_split": {"columns": [*range(9000)], "index": [*range(9000)], "data": None}}, JSON),
        ({"dataframe_split": {"data": {str(n): {str(n): 1} for n in range(9000)}}}, JSON),
        (b'{"inputs":[' + b"[]," * 4_200_000 + b"1]}", JSON),
        (",".join(map(str, range(9000))).encode() + b"\n1" * 9000, CSV),
    ],
)
def test_a_sparse_table_is_refused_by_the_memory_it_would_take(body: Any, kind: str) -> None:
    body = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    refused = Limits().check(body, kind)
    assert refused is not None and refused.status == 413 and b"bytes of memory" in refused.body
    assert kind == JSON or Limits().is_large(body, kind)


def _parquet(table: Any, **how: Any) -> bytes:
    from pyarrow.parquet import write_table

    write_table(table, file := io.BytesIO(), **how)
    return file.getvalue()


@pytest.mark.slow
def test_a_parquet_file_is_measured_before_it_is_made() -> None:
    arrow = pytest.importorskip("pyarrow")
    text, small = "x" * 10_000, Limits(memory=8 * 2**20)
    many = arrow.table({"a": [text] * 2000})
    for how in (
        {"compression": "zstd"},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}, "compression": "zstd"},
    ):
        body = _parquet(many, **how)
        assert len(body) < 20_000
        assert status(body, PARQUET, small) == 413
        assert status(body, PARQUET, Limits()) is None
    assert status(_parquet(arrow.table({"a": [[text] * 2000]})), PARQUET, small) == 413
    zeros = arrow.array([[0] * 2_000_000], arrow.list_(arrow.int8()))
    assert status(_parquet(arrow.table({"a": zeros})), PARQUET, small) == 413
    # What the footer says of sizes is nobody's word: the page does.
    plain = _parquet(arrow.table({"a": ["x" * 20_000_000]}), compression="zstd", use_dictionary=False)
    assert len(plain) < 20_000 and status(plain, PARQUET, small) == 413


def test_columns_that_are_encrypted_are_refused_and_end_no_process() -> None:
    """pyarrow 25 calls std::terminate where it is asked for the metadata of such a column."""
    arrow = pytest.importorskip("pyarrow")
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):  # type: ignore[misc, name-defined]
        def __init__(self, _: Any) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

    table = arrow.table({"a": [1, 2], "b": [[{"x": "y"}], None], "c": [datetime.datetime(2026, 1, 1)] * 2})
    for plain in (True, False):
        how = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["a"]}, plaintext_footer=plain)
        factory = encryption.CryptoFactory(Keys)
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), how)
        body = _parquet(table, encryption_properties=properties)
        assert status(body, PARQUET) == (400 if plain else None)  # of the other kind MLflow says what is wrong
        if plain:
            # The column alone says so: field 8 of the footer, a struct in a struct, is called 22, which nobody knows.
            place = body.rindex(b"\x1c\x1c\x28")
            assert status(body[:place] + b"\xfc" + body[place + 1 :], PARQUET) == 400
    assert status(_parquet(table), PARQUET) is None


@pytest.mark.slow
def test_no_bit_of_a_footer_ends_the_process_or_is_an_error() -> None:
    """What pyarrow 25 makes of statistics that do not fit is std::terminate, too."""
    arrow = pytest.importorskip("pyarrow")
    body = _parquet(arrow.table({"a": ["x", "y", None], "b": [[1, 2], None, [3]]}))
    footer = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    for place in range(footer, footer + 500):
        for bit in range(0, 8, 2):
            broken = bytearray(body)
            broken[place] ^= 1 << bit
            assert status(bytes(broken), PARQUET, Limits()) in (None, 400, 413)
    for place in (footer, footer + 50, footer + 200):
        assert status(body[:place] + body[place + 1 :], PARQUET) in (None, 400, 413)


@pytest.mark.slow
def test_texts_in_lists_and_structs_are_counted_as_they_are() -> None:
    arrow = pytest.importorskip("pyarrow")
    words, rows = [f"word {number}" for number in range(50)], 20_000
    lists = [[words[(row + n) % 50] for n in range(10)] for row in range(rows)]
    nested = {
        "a": arrow.array(lists),
        "b": arrow.array([{"x": words[row % 50], "y": [row]} for row in range(rows)]),
        "c": arrow.array([[("key", "value")]] * rows, arrow.map_(arrow.string(), arrow.string())),
        "d": arrow.array([[["x"], None]] * rows),
        "e": arrow.array([None] * rows, arrow.list_(arrow.string())),
    }
    for name, column in nested.items():
        assert status(_parquet(arrow.table({name: column})), PARQUET, Limits()) is None, name
    assert status(_parquet(arrow.table(nested)), PARQUET, Limits()) is None
    # A few bytes that would be many, in whatever they are wrapped.
    text, small = "x" * 2000, Limits(memory=8 * 2**20)
    for value in ([text] * 5, {"x": text}, [[text] * 5], [("k", text)], [{"x": [text] * 5}]):
        kind = arrow.map_(arrow.string(), arrow.string()) if value == [("k", text)] else None
        table = arrow.table({"a": arrow.array([value] * 6000, kind)})
        for how in ({}, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}):
            body = _parquet(table, compression="zstd", **how)
            assert len(body) < 100_000 and status(body, PARQUET, small) == 413, (value, how)


def test_an_ordinary_parquet_file_is_let_through() -> None:
    arrow = pytest.importorskip("pyarrow")
    count = 10_000
    table = arrow.table(
        {
            "number": arrow.array(range(count), arrow.int32()),
            "kind": [f"{'kind' * 100} {n % 70}" for n in range(count)],
            "day": arrow.array([n % 900 for n in range(count)], arrow.date32()),
            "vector": [[1.0, 2.0]] * count,
        }
    )
    for compression in ("snappy", "gzip", "zstd", "none"):
        body = _parquet(table, compression=compression, row_group_size=5000)
        assert status(body, PARQUET, Limits()) is None
        assert status(body, PARQUET, Limits(memory=12 * 2**20)) is None  # what is doubtful is decoded
        assert status(body, PARQUET, Limits(memory=6 * 2**20)) == 413


@given(st.binary(max_size=80), st.integers(0, 10**6), st.booleans())
@example(b"\x15\x00\x18\x00\x15\x00\x00", 4, True)  # the first page's size is a text
def test_a_parquet_file_that_is_broken_is_refused_or_measured(junk: bytes, place: int, cut: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    body = _parquet(arrow.table({"a": ["x", "y"] * 20, "b": [1.5] * 40}))
    place %= len(body)
    body = body[:place] + junk + body[place + (len(junk) if cut else 0) :]
    assert status(body, PARQUET, Limits()) in (None, 400, 413)


def test_a_parquet_file_is_measured_by_its_footer() -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    for rows, columns, expected in ((4, 3, None), (5, 1, 413), (1, 4, 413)):
        file = io.BytesIO()
        write_table(arrow.table({str(n): [1] * rows for n in range(columns)}), file)
        assert status(file.getvalue(), "application/vnd.apache.parquet") == expected
    write_table(arrow.table({"a": [1] * 50}), file := io.BytesIO())
    # In Thrift's compact form: the field num_rows, 50, and the head of row_groups; now it says 1.
    lying = file.getvalue().replace(b"\x16\x64\x19\x1c", b"\x16\x02\x19\x1c")
    assert len(pd.read_parquet(io.BytesIO(lying))) == 50 and lying != file.getvalue()
    assert status(lying, "application/vnd.apache.parquet") == 413
    assert status(b"PAR1 no parquet", "application/vnd.apache.parquet") is None


def test_ordinary_parquet_files_are_taken() -> None:
    """Names with dots are no structs, names that begin with another one are others, and tables may be empty."""
    pytest.importorskip("pyarrow")
    texts = [f"v{number % 50}" for number in range(20_000)]
    for table in (
        pd.DataFrame({f"sepal.{number}": [0.5] * 100_000 for number in range(12)}),
        pd.DataFrame({"a": texts, "a.b": texts, "a.b.c": texts}),
        pd.DataFrame({"a": [0.5][:0]}),
        pd.DataFrame({"a": texts[:0], "b": pd.to_datetime([])}),
        pd.DataFrame(index=range(3)),
    ):
        assert status(table.to_parquet(), PARQUET, Limits()) is None, table.columns


@given(st.text('ab",\n\r ', max_size=20))
def test_fields_of_csv_are_those_of_pandas(text: str) -> None:
    table_text = with_line_feeds(text.encode())
    try:  # in one piece: pandas 2 warns of parts that differ
        table = pd.read_csv(io.BytesIO(table_text), low_memory=False)
    except ValueError as error:
        assert "memory" not in str(error) and "overflow" not in str(error)
        return  # nothing in it, or rows that are too long; pandas stops there
    wide = len(table.columns) + (0 if isinstance(table.index, pd.RangeIndex) else table.index.nlevels)
    assert status(table_text, CSV, Limits(rows=99, columns=wide)) is None
    assert status(table_text, CSV, Limits(rows=99, columns=wide - 1)) == 413


@given(st.lists(st.lists(st.text('a",\n\r ', max_size=6), min_size=2, max_size=4), min_size=1, max_size=4))
def test_lone_carriage_returns_end_lines_but_in_quotes(rows: list[list[str]]) -> None:
    """What Python's csv module writes with them is what it writes with line feeds, and quoted fields keep theirs."""

    def written(end: str) -> bytes:
        csv.writer(file := io.StringIO(newline=""), lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
        return file.getvalue().encode()

    assert with_line_feeds(written("\r")) == written("\n")
    assert with_line_feeds(written("\n")) == written("\n") and with_line_feeds(written("\r\n")) == written("\r\n")


def test_lines_are_ended_before_the_answer_is_asked() -> None:
    """pandas before 3.1 took all memory for this: each time it came to the last blank it began the line again."""
    asked: list[bytes] = []

    def answer(body: bytes, content_type: str) -> Reply:
        asked.append(body)
        return Reply(status=200, body=b"")

    for kind in (CSV, f"{CSV}; charset=utf-8", JSON):
        Limits().guard(answer)(b'ba\n" ba a\r",\r""\r\r a', kind)
    assert asked == [*[b'ba\n" ba a\r",\n""\n\n a'] * 2, b'ba\n" ba a\r",\r""\r\r a']


def test_json_deeper_than_python_reads_is_refused_where_the_limit_is_not() -> None:
    limits = Limits(depth=100_000, rows=4, columns=3)
    assert status(b'{"inputs": [1,1,1,' + b"[" * 50_000 + b"]" * 50_000 + b"]}", limits=limits) == 400


def test_wide_csv_is_measured_before_it_is_read() -> None:
    wide = b",".join(b"%d" % n for n in range(9))
    assert SMALL.is_large(wide, CSV) and Limits(rows=100, columns=3).is_large(wide, CSV)
    assert not Limits(rows=100, columns=3).is_large(wide, JSON)


@pytest.mark.parametrize("path", ["short", "long"])
def test_the_server_refuses_before_the_model_is_asked(tmp_path: Path, path: str) -> None:
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path, max_rows=3, max_depth=10)
    row: dict[str, Any] = {"a": 1.5, "b": 2.5, "c": 3}
    # A long is no float for the short way.
    body = {"dataframe_records": [row if path == "short" else {**row, "b": 2}] * 3}

    async def ask(request: Any) -> asgi.Answer:
        return await asgi.call(
            app, "POST", "/invocations", json.dumps(request).encode(), {"content-type": "application/json"}
        )

    fits, above = (asyncio.run(ask(each)) for each in (body, {"dataframe_records": body["dataframe_records"] * 2}))
    assert (fits[0], above[0]) == (200, 413)
    assert json.loads(above[2]) == {
        "error_code": "REQUEST_LIMIT_EXCEEDED",
        "message": "The request has more than 3 rows.",
    }
    assert asyncio.run(ask({"inputs": nested(10)}))[0] == 400


def test_an_error_does_not_repeat_all_that_was_sent(tmp_path: Path) -> None:
    """MLflow's tells the names of columns five times over."""
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    body = json.dumps({"dataframe_split": {"columns": ["a" * 1_000_000], "data": [[1]]}}).encode()
    asked = asgi.call(app, "POST", "/invocations", body, {"content-type": "application/json"})
    answer = asyncio.run(asked)
    assert answer[0] == 400 and len(answer[2]) < 200_000
    assert "Model is missing inputs" in json.loads(answer[2])["message"] or "aaa" in json.loads(answer[2])["message"]


TABLES = {
    "split": lambda rows: {"dataframe_split": {"columns": ["a"], "data": [[1]] * rows}},
    "records": lambda rows: {"dataframe_records": [{"a": 1}] * rows},
    "instances": lambda rows: {"instances": [{"a": 1}] * rows},
    "inputs": lambda rows: {"inputs": {"a": [1] * rows}},
}


@pytest.mark.parametrize("form", TABLES)
def test_as_many_rows_as_the_limit_are_taken_and_one_more_is_not(form: str) -> None:
    assert status(TABLES[form](SMALL.rows)) is None
    assert status(TABLES[form](SMALL.rows + 1)) == 413


@pytest.mark.parametrize("end", ["", "\n"])
def test_as_many_lines_as_the_limit_are_taken_and_one_more_is_not(end: str) -> None:
    assert status(("a,b\n" + "\n".join(["1,2"] * SMALL.rows) + end).encode(), CSV) is None
    assert status(("a,b\n" + "\n".join(["1,2"] * (SMALL.rows + 1)) + end).encode(), CSV) == 413
