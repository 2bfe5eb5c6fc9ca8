"""The starter with which the hour of the tutorial was measured: what it makes trains, and binds as the page says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from cookiecutter.main import cookiecutter
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "integration" / "projects" / "starter"
PAGE = (ROOT / "kbuild" / "docs" / "tutorial.md").read_text(encoding="utf-8")


def test_what_the_hour_types_binds_a_project_of_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cookiecutter(
        str(STARTER),
        no_input=True,
        output_dir=str(tmp_path),
        extra_context={"project_name": "Spaceflights", "kedro_version": "1.7.0"},
        default_config=True,
    )
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(Path(made) / "src")
    part = PAGE[PAGE.index("## The hour, measured") :]
    for path, text in re.findall(
        r"^`(src/spaceflights/\S+)`[^`]*:\n\n```python\n(.*?)```", part, re.DOTALL | re.MULTILINE
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    base = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in Path("conf/base").iterdir()}
    catalog = DataCatalog.from_config(base["catalog"])
    catalog["params:model_options"] = base["parameters_data_science"]["model_options"]
    registered = importlib.import_module("spaceflights.pipeline_registry")
    monkeypatch.setattr(registered, "find_pipelines", _pipelines)
    bound = registered.register_pipelines()["__default__"]
    SequentialRunner().run(bound, catalog)
    prices = SequentialRunner().run(bound.inference, catalog)["prices"].load()
    assert len(prices) == len(catalog["model_input_table"].load()) > 300
    assert abs(prices["price"].mean() - catalog["model_input_table"].load()["price"].mean()) < 20


def _pipelines() -> dict[str, object]:
    """As Kedro's ``find_pipelines``, which needs the project to be this process' one."""
    names = ("data_processing", "data_science", "inference", "reporting")
    return {name: importlib.import_module(f"spaceflights.pipelines.{name}").create_pipeline() for name in names}
