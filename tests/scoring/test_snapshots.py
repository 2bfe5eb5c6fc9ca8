"""Delta and Iceberg tables as IN: one version of them, whatever is written or deleted meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scored import Score, table

from kbuild.scoring import snapshots
from kbuild.scoring.__main__ import main
from kbuild.scoring.errors import InputRefused
from kbuild.scoring.parts import find_sources

pytestmark = pytest.mark.filterwarnings("ignore")


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """In a process of its own, as scoring is: Delta's reader has threads, which processes forked later would miss."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *given).result()


def _main(argv: list[str]) -> tuple[int, str, dict[str, Any]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, err.getvalue(), json.loads(out.getvalue()) if code == 0 else {}


@pytest.fixture
def run(score: Score, archive: Path) -> Score:
    """``score`` sets what it needs; this one calls it elsewhere."""
    # What each process would import and load anew.
    import kbuild.scoring.score  # noqa: F401
    from kbuild.scoring.ask import Model

    Model(archive / "model")
    return lambda *argv: apart(_main, ["--workers", "1", *map(str, argv)])


def answers(folder: str) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted(Path(folder).glob("part-*.parquet"))]
    return pd.concat(parts).sort_values("id", ignore_index=True)


def expected(frame: pd.DataFrame) -> pd.DataFrame:
    """What the model of these tests answers, by its definition and the scale of its signature."""
    total = 2 * (frame["a"] + frame["b"].astype(float) + frame["c"])
    return frame.assign(sum=total, big=frame["c"] > 1).sort_values("id", ignore_index=True)


def check(folder: str, frame: pd.DataFrame) -> None:
    found, wanted = answers(folder), expected(frame)
    assert found["id"].tolist() == wanted["id"].tolist()
    pd.testing.assert_frame_equal(found[["sum", "big"]], wanted[["sum", "big"]], check_dtype=False)


def _write_delta(path: str, frame: pd.DataFrame, mode: str) -> None:
    from deltalake import write_deltalake

    write_deltalake(path, pa.Table.from_pandas(frame, preserve_index=False), mode=mode, partition_by=["day"])


def _delete_delta(path: str, what: str) -> None:
    from deltalake import DeltaTable

    DeltaTable(path).delete(what)


@pytest.fixture
def delta(tmp_path: Path) -> tuple[str, pd.DataFrame]:
    """Two days, of which one row was deleted again: a folder of its files has that row still."""
    pytest.importorskip("deltalake")
    frame = table(60).assign(day=["mon" if number < 40 else "tue 1/2" for number in range(60)])
    path = str(tmp_path / "lake")
    apart(_write_delta, path, frame[frame["day"] == "mon"], "append")
    apart(_write_delta, path, frame[frame["day"] != "mon"], "append")
    apart(_delete_delta, path, "id = 'row 3'")
    return path, frame[frame["id"] != "row 3"]


@pytest.mark.slow
def test_delta_is_its_newest_version_without_what_was_deleted(run: Score, delta: tuple[str, pd.DataFrame]) -> None:
    path, frame = delta
    code, err, manifest = run(path, "out")
    assert code == 0, err
    check("out", frame)
    # The partition's column is in no file.
    assert {*answers("out")["day"]} == {"mon", "tue 1/2"}
    (given,) = manifest["input"]
    assert given["path"] == path and given["content"].startswith("Delta version 2 of ") and manifest["rows"] == 59
    assert run(path, "out")[1] == "nothing has changed since this was scored\n"
    assert run(path, "all.csv", "--batch-rows", "7")[0] == 0
    assert len(pd.read_csv("all.csv")) == 59


@pytest.mark.slow
def test_a_batch_goes_on_with_the_version_that_it_began_with(run: Score, delta: tuple[str, pd.DataFrame]) -> None:
    path, frame = delta
    assert run(path, "out", "--part-rows", "1")[0] == 0
    # As one that was killed after its first part.
    Path("out/_manifest.json").unlink()
    first, *others = sorted(Path("out").glob("part-*.parquet"))
    assert others
    for part in others:
        part.unlink()
    kept = first.stat().st_mtime_ns
    apart(_write_delta, path, table(3).assign(id=["x", "y", "z"], day="wed"), "append")
    code, err, manifest = run(path, "out", "--part-rows", "1")
    assert code == 0 and manifest["input"][0]["content"].startswith("Delta version 2 of "), err
    check("out", frame)
    assert first.stat().st_mtime_ns == kept
    # It is finished: the newest is another input.
    code, err, _ = run(path, "out", "--part-rows", "1")
    assert code == 82 and "other input" in err
    code, err, manifest = run(path, "out", "--part-rows", "1", "--overwrite")
    assert code == 0 and manifest["rows"] == 62 and "Delta version 3 of " in manifest["input"][0]["content"]


@pytest.mark.slow
def test_what_cannot_be_read_of_delta_is_told(run: Score, delta: tuple[str, pd.DataFrame]) -> None:
    path, _ = delta
    for file in Path(path).rglob("day=mon/*.parquet"):
        file.unlink()
    code, err, _ = run(path, "out")
    assert code == 80 and f"{path} cannot be read as Delta" in err and len(err.splitlines()) == 1
    shutil.rmtree(Path(path, "_delta_log"))
    Path(path, "_delta_log").mkdir()
    Path(path, "_delta_log", "00000000000000000000.json").write_text("{broken", encoding="utf-8")
    code, err, _ = run(path, "out")
    assert code == 80 and f"{path} cannot be read as Delta" in err


def _catalog(folder: str) -> Any:
    from pyiceberg.catalog import load_catalog

    return load_catalog("lake", type="sql", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")


def _make_iceberg(folder: str, frames: list[pd.DataFrame]) -> str:
    from pyiceberg.schema import Schema
    from pyiceberg.types import DoubleType, FloatType, LongType, NestedField, StringType

    types = {"id": StringType(), "a": DoubleType(), "b": FloatType(), "was_c": LongType()}
    fields = [NestedField(number, name, kind) for number, (name, kind) in enumerate(types.items(), 1)]
    catalog = _catalog(folder)
    catalog.create_namespace("sales")
    made = catalog.create_table("sales.rows", Schema(*fields))
    for frame in frames[:1]:
        made.append(pa.Table.from_pandas(frame.rename(columns={"c": "was_c"}), preserve_index=False))
    with made.update_schema() as update:
        update.rename_column("was_c", "c")
    for frame in frames[1:]:
        made.append(pa.Table.from_pandas(frame, preserve_index=False))
    made.delete("id == 'row 3'")
    return str(made.metadata_location)


def _append_iceberg(folder: str, frame: pd.DataFrame) -> None:
    _catalog(folder).load_table("sales.rows").append(pa.Table.from_pandas(frame, preserve_index=False))


@pytest.fixture(scope="module")
def iceberg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, pd.DataFrame]]:
    """A column that has another name in the older file, and a deleted row. Yields the metadata's file."""
    folder, frame = tmp_path_factory.mktemp("warehouse"), table(50)
    with pytest.MonkeyPatch.context() as patch:
        given = {"TYPE": "sql", "URI": f"sqlite:///{folder}/catalog.db", "WAREHOUSE": f"file://{folder}"}
        for name, value in given.items():
            patch.setenv(f"PYICEBERG_CATALOG__LAKE__{name}", value)
        # It reads its configuration when it is imported.
        pytest.importorskip("pyiceberg.catalog.sql")
        pytest.importorskip("pyiceberg.io.pyarrow")
        yield apart(_make_iceberg, str(folder), [frame[:30], frame[30:]]), frame[frame["id"] != "row 3"]


@pytest.mark.slow
def test_iceberg_is_what_its_catalog_says(run: Score, iceberg: tuple[str, pd.DataFrame]) -> None:
    metadata, frame = iceberg
    metadata = metadata.removeprefix("file://")
    code, err, manifest = run("iceberg://lake/sales.rows", "out", "--part-rows", "1", "--batch-rows", "8")
    assert code == 0, err
    check("out", frame)
    (given,) = manifest["input"]
    assert given["path"] == "iceberg://lake/sales.rows" and given["content"].startswith("Iceberg snapshot ")
    # It goes on with the snapshot that it began with.
    Path("out/_manifest.json").unlink()
    sorted(Path("out").glob("part-*.parquet"))[0].unlink()
    apart(_append_iceberg, str(Path(metadata).parents[3]), table(3).assign(id=["x", "y", "z"]))
    code, err, again = run("iceberg://lake/sales.rows", "out", "--part-rows", "1", "--batch-rows", "8")
    assert code == 0 and again["input"] == manifest["input"], err
    check("out", frame)
    # One version of it by its file.
    code, err, _ = run(metadata, "other")
    assert code == 0, err
    check("other", frame)


@pytest.mark.slow
def test_an_iceberg_table_is_not_scored_as_a_folder_of_files(run: Score, iceberg: tuple[str, pd.DataFrame]) -> None:
    folder = Path(iceberg[0].removeprefix("file://")).parents[1]
    code, err, _ = run(folder, "out")
    assert code == 80 and "is an Iceberg table" in err and "iceberg://CATALOG/NAMESPACE.TABLE" in err
    for wrong in ("iceberg://lake/rows", "iceberg://lake/sales.none", "iceberg://nowhere/sales.rows"):
        code, err, _ = run(wrong, "out")
        assert code == 80 and wrong in err and not Path("out").exists()


@pytest.mark.slow
def test_a_reader_that_the_model_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg.table", None)
    (tmp_path / "lake/_delta_log").mkdir(parents=True)
    (tmp_path / "lake/_delta_log/00000000000000000000.json").touch()
    for text, name in ((str(tmp_path / "lake"), "deltalake"), ("iceberg://lake/a.b", "pyiceberg")):
        with pytest.raises(InputRefused, match=f"have no {name}") as caught:
            snapshots.find_snapshot(text, dict)
        assert f"add {name}[pyarrow] to the model's requirements" in str(caught.value.hint)


def test_data_files_of_a_table_are_not_scored_beside_what_it_deleted(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    apart(_rewrite, str(lake / "delta"), pd.DataFrame({"a": [1.0, 2.0]}))
    assert len(list((lake / "delta").glob("*.parquet"))) == 2, "the file of before lies there still"
    for text in (f"{lake}/delta/*.parquet", f"{lake}/**/*.parquet", f"{lake}", f"file://{lake}/delta/*.parquet"):
        with pytest.raises(InputRefused, match=r"Delta table .*/lake/delta, which may have") as caught:
            find_sources(text)
        assert caught.value.hint == f"name the table: {lake}/delta"
    one = next((lake / "delta").glob("*.parquet"))
    assert [each.path for each in find_sources(str(one))] == [str(one)], "who names one file means it"


def _rewrite(path: str, rows: Any) -> None:
    from deltalake import write_deltalake

    write_deltalake(path, rows)
    write_deltalake(path, rows, mode="overwrite")


def test_data_files_in_partitions_and_of_iceberg_tables_are_found_to_be_such(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for folder in ("delta/year=2024/month=1", "ice/data/year=2024", "plain/year=2024"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"a": [1.0]}), tmp_path / folder / "x.parquet")
    (tmp_path / "delta/_delta_log").mkdir()
    (tmp_path / "delta/_delta_log/00000000000000000000.json").touch()
    (tmp_path / "ice/metadata").mkdir()
    (tmp_path / "ice/metadata/00001-a.metadata.json").touch()
    with pytest.raises(InputRefused, match=r"data files of the Delta table .*/delta, "):
        find_sources(f"{tmp_path}/delta/year=2024")
    with pytest.raises(InputRefused, match=r"data files of the Iceberg table .*/ice, ") as caught:
        find_sources(f"{tmp_path}/ice/data/**/*.parquet")
    assert caught.value.hint == "name the table: iceberg://CATALOG/NAMESPACE.TABLE"
    assert len(find_sources(f"{tmp_path}/plain/*/*.parquet")) == 1
