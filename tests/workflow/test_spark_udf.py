"""``spark_udf``: what Spark is told of the function, by Spark's own names, without a Spark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from world import World

import kbuild
from kbuild.api import spark
from kbuild.api.project import ProjectConfig
from kbuild.api.session import Logged, Session
from kbuild.errors import ConfigurationError, ExtraNotInstalled, InvalidModel
from kbuild.scoring import udf

NAME = f"kbuild-{'e' * 16}"
SIGNATURE = {
    "inputs": [{"name": "size", "type": "double"}, {"name": "day", "type": "datetime"}],
    "outputs": [{"name": "price", "type": "long"}, {"name": "sure", "type": "boolean"}],
}


class Context:
    """As SparkContext: which Python its functions are for is asked when one of them is made."""

    pythonExec, pythonVer = "python3", "3.14"

    def __init__(self, folder: Path, master: str) -> None:
        self._temp_dir, self.master = str(folder), master
        self.archives: list[str] = []

    def addArchive(self, path: str) -> None:
        self.archives.append(path)


class Made:
    def __init__(self, context: Context, function: Any, returned: str) -> None:
        self.context, self.function, self.returned = context, function, returned
        self.python: tuple[str, str] | None = None
        self._unwrapped = self

    @property
    def _judf(self) -> None:
        self.python = self.context.pythonExec, self.context.pythonVer

    def __call__(self, column: Any) -> Any:
        return "asked", column


@pytest.fixture
def spark_of(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session of that master, and what was made in it; the model has this signature."""
    archive = tmp_path / f"{'e' * 64}.tar.gz"
    archive.write_bytes(b"the archive")
    made: list[Made] = []
    asked: list[Any] = []

    def call(master: str, signature: Any = SIGNATURE, **more: Any) -> Any:
        context = Context(tmp_path / "spark", master)
        (tmp_path / "spark").mkdir(exist_ok=True)

        def pandas_udf(function: Any, returned: str) -> Made:
            made.append(Made(context, function, returned))
            return made[-1]

        functions = {"col": lambda name: f"col {name}", "pandas_udf": pandas_udf, "struct": lambda *each: [*each]}
        for name, values in (
            ("pyspark", {"SparkFiles": SimpleNamespace(getRootDirectory=lambda: "/spark/files")}),
            ("pyspark.sql", {}),
            ("pyspark.sql.functions", functions),
        ):
            module = ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)

        @contextmanager
        def unpacked(request: Any, tools: Any) -> Iterator[Any]:
            asked.append(request)
            facts = SimpleNamespace(signature=signature)
            spec = SimpleNamespace(spec=SimpleNamespace(python="3.11.7"))
            prepared = SimpleNamespace(bundle=SimpleNamespace(facts=facts), locked=spec)
            yield SimpleNamespace(made=SimpleNamespace(prepared=prepared), archive=lambda: archive)

        monkeypatch.setattr(spark, "unpacked_model", unpacked)
        session = given.session and Session(config=ProjectConfig(), tools=world.tools, voice=Logged())
        spark_session = SimpleNamespace(sparkContext=context, _jsparkSession=object())
        return kbuild.spark_udf(spark_session, world.model, session=session, **more), context

    given = SimpleNamespace(call=call, made=made, asked=asked, session="here")
    return given


@pytest.mark.parametrize(
    ("master", "python"),
    [
        ("spark://host:7077", f"./{NAME}/bin/python"),  # executors unpack archives into their working folder
        ("local[4]", f"/spark/files/{NAME}/bin/python"),  # the driver's own files
        ("local", f"/spark/files/{NAME}/bin/python"),
    ],
)
def test_executors_answer_with_the_python_of_the_archive(
    spark_of: Any, tmp_path: Path, world: World, master: str, python: str
) -> None:
    function, context = spark_of.call(master)
    (made,) = spark_of.made
    assert context.archives == [f"{tmp_path}/spark/{'e' * 64}.tar.gz#{NAME}"]
    assert Path(context.archives[0].partition("#")[0]).read_bytes() == b"the archive"
    assert made.python == (python, "3.11")
    assert (context.pythonExec, context.pythonVer) == ("python3", "3.14"), "other functions keep theirs"
    # Spark's DDL, by the types of MLflow's schema.
    assert made.returned == "struct<`price`: bigint, `sure`: boolean>"
    assert made.function is udf.answer_or_fail
    assert function() == ("asked", ["col `size`", "col `day`"])
    assert function("a", "b") == ("asked", ["a", "b"])
    (request,) = spark_of.asked
    assert request.model == world.model
    function, _ = spark_of.call(master, on_error="null")
    assert spark_of.made[-1].function is udf.answer_or_null


def test_without_a_session_it_is_the_folders_own(spark_of: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spark, "open_session", lambda: Session(config=ProjectConfig(base="x"), tools=world.tools, voice=Logged())
    )
    monkeypatch.setattr(spark_of, "session", None)
    spark_of.call("local")
    assert [request.base for request in spark_of.asked] == ["x"]


def test_an_output_without_a_name_is_the_prediction(spark_of: Any) -> None:
    spark_of.call("local", {**SIGNATURE, "outputs": [{"type": "double"}]})
    assert spark_of.made[-1].returned == "struct<`prediction`: double>"


@pytest.mark.parametrize(
    ("signature", "side"),
    [
        ({**SIGNATURE, "outputs": [{"name": "x", "type": "object"}]}, "outputs"),
        ({**SIGNATURE, "inputs": [{"type": "tensor"}]}, "inputs"),
        ({**SIGNATURE, "inputs": None}, "inputs"),
        ({**SIGNATURE, "outputs": []}, "outputs"),
        (None, "inputs"),
    ],
)
def test_what_is_no_table_of_columns_is_told(spark_of: Any, signature: Any, side: str) -> None:
    with pytest.raises(InvalidModel, match=f"does not say its {side}") as caught:
        spark_of.call("local", signature)
    assert caught.value.hint == "kbuild score can"


def test_what_cannot_be_is_said_before_anything_is_packed(spark_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="'stop' is neither fail nor null"):
        spark_of.call("local", on_error="stop")
    with pytest.raises(ConfigurationError, match="Spark Connect"):
        kbuild.spark_udf(SimpleNamespace(), "models:/m/1")
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(ExtraNotInstalled, match="PySpark"):
        kbuild.spark_udf(SimpleNamespace(), "models:/m/1")
    assert spark_of.asked == []
