"""Configurations that have something called, or evaluated, by whoever reads them; each is run by its own reader."""

from __future__ import annotations

import configparser
import io
import json
import logging
import logging.config
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    disabled = {
        name: each.disabled for name, each in logging.root.manager.loggerDict.items() if hasattr(each, "disabled")
    }
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in disabled.items():
        logging.getLogger(name).disabled = was


def look(make_bundle: Any, data: bytes, name: str = "x") -> Any:
    bundle = make_bundle(files={f"artifacts/{name}": data})
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle))


def handler(**stated: Any) -> dict[str, Any]:
    return {"version": 1, "disable_existing_loggers": False, "handlers": {"h": stated}, "root": {"handlers": ["h"]}}


@pytest.mark.parametrize(
    "write",
    [
        lambda stated: json.dumps(stated).encode(),
        lambda stated: json.dumps(stated).encode("utf-16"),
        lambda stated: json.dumps(stated).replace("(", "\\u0028").replace("class", "\\u0063lass").encode(),
        lambda stated: yaml.safe_dump(stated).encode(),
        lambda stated: json.dumps(stated).replace("(", "\\x28").replace("clas", "\\x63las").encode(),
    ],
    ids=["json", "json in utf-16", "json with escapes", "yaml", "yaml with escapes"],
)
@pytest.mark.parametrize("key", ["()", "class"])
def test_what_a_configuration_of_logging_calls_is_judged(
    make_bundle: Any, tmp_path: Path, write: Any, key: str
) -> None:
    mark = tmp_path / "mark"
    data = write(handler(**{key: "subprocess.Popen", "args": ["touch", str(mark)]}))
    read = yaml.safe_load(data) if b"\\x" in data or b"{" not in data else json.loads(data)
    with pytest.raises(Exception, match="handler"):  # what it called is none
        logging.config.dictConfig(read)
        logging.getLogger().handlers[0].wait()  # type: ignore[attr-defined]
        raise ValueError("no handler")
    assert mark.exists()
    assert [each.id for each in look(make_bundle, data).findings] == ["pickle-dangerous"]


@pytest.mark.parametrize("stated", ["args", "kwargs", "class"])
def test_what_a_file_of_logging_evaluates_is_told(make_bundle: Any, tmp_path: Path, stated: str) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()"
    values = {"class": "StreamHandler", "args": "()", "kwargs": "{}"}
    values[stated] = {"args": f"({code},)", "kwargs": f"{{'stream': {code}}}", "class": f"[{code}, StreamHandler][1]"}[
        stated
    ]
    lines = "\n".join(f"{key}={value}" for key, value in values.items())
    text = (
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n[logger_root]\nhandlers=h\n"
        f"[handler_h]\n{lines}\n"
    )
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    logging.config.fileConfig(parser, disable_existing_loggers=False)
    assert mark.exists()
    result = look(make_bundle, text.encode())
    assert [each.id for each in result.findings] == ["pickle-unknown"] and "evaluates" in result.findings[0].evidence


def test_what_llama_index_constructs_is_judged(make_bundle: Any) -> None:
    stated = {"_llm": {"object_constructor": "subprocess.Popen", "object_kwargs": {"args": ["id"]}}}
    assert [each.id for each in look(make_bundle, json.dumps(stated).encode()).findings] == ["pickle-dangerous"]


@pytest.mark.parametrize(
    "value",
    ["$__import__('os').system('id')", "$import os", "$open('x', 'w')", "$@model.train(open('x'))", "$[__name__]"],
)
def test_expressions_of_monai_are_told(make_bundle: Any, value: str) -> None:
    for data in (json.dumps({"a": [1, value]}), yaml.safe_dump({"a": value}, default_style='"')):
        assert [each.id for each in look(make_bundle, data.encode()).findings] == ["pickle-unknown"]


def test_arrays_of_zarr_in_an_archive_that_are_pickles_are_told(make_bundle: Any) -> None:
    stated = {"zarr_format": 2, "filters": [{"id": "pickle", "protocol": 5}], "compressor": {"id": "lz4"}}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".zarray", json.dumps(stated))
    references = json.dumps({"version": 1, "refs": {"a/.zarray": json.dumps(stated)}}).encode()
    for data in (packed.getvalue(), references):
        assert [each.id for each in look(make_bundle, data).findings] == ["pickle-unknown"]


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(handler(**{"class": "logging.StreamHandler", "stream": "ext://sys.stdout"})),
        json.dumps(handler(**{"()": "rich.logging.RichHandler", "class": "x"})),
        yaml.safe_dump(handler(**{"class": "logging.handlers.RotatingFileHandler", "filename": "x.log"})),
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[handler_h]\nclass=handlers.SysLogHandler\n"
        "args=('/dev/log', handlers.SysLogHandler.LOG_USER)\n[handler_g]\nclass=StreamHandler\nargs=(sys.stdout,)\n",
        json.dumps({"_llm": {"object_constructor": "llama_index.llms.openai.OpenAI", "object_kwargs": {}}}),
        json.dumps({"$schema": "x", "$ref": "#/a(b)", "price": "$5 (net)", "home": "$HOME/x", "merges": ["$ (", "$("]}),
        json.dumps({"model": {"vocab": {"$(": 1, "$scope": 2}, "merges": ["$scope (", "$ x"]}}),
        json.dumps({"zarr_format": 2, "filters": None, "compressor": {"id": "blosc"}}),
        json.dumps({"class": "org.apache.spark.ml.Pipeline", "version": "4.0"}),
    ],
)
def test_ordinary_configurations_are_clean(make_bundle: Any, data: str) -> None:
    result = look(make_bundle, data.encode())
    assert (result.findings, result.unchecked) == ((), ())
