"""A project in Kedro's standard layout is served without Kedro, with training's answers."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from test_other_cpu import write_tables
from tool import BIN, PROJECT, Tool, copy_project

_FLIGHTS = PROJECT.parent / "flights"


@pytest.fixture(scope="module")
def project(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a trained project, and its model's uri."""
    folder = copy_project(tmp_path_factory.mktemp("layout") / "project", _FLIGHTS)
    write_tables(folder / "data" / "01_raw")
    done = tool.run([BIN / "kedro", "run"], cwd=folder, PYTHONWARNINGS="ignore")
    assert done.code == 0, done.err + done.out
    assert "more packages are in the image" not in done.out
    found = re.search(r"models:/m-[0-9a-f]{32}", "".join((done.out + done.err).split()))
    assert found is not None, done.out + done.err
    return folder, found[0]


def names_in_layers(layout: Path) -> Iterator[str]:
    """The names of all files in an OCI layout's one image."""

    def blob(descriptor: dict[str, Any]) -> Path:
        return layout / "blobs" / descriptor["digest"].replace(":", "/")

    [found] = json.loads((layout / "index.json").read_text())["manifests"]
    for layer in json.loads(blob(found).read_text())["layers"]:
        with blob(layer).open("rb") as raw:
            packed = layer["mediaType"].endswith("zstd")
            stream = zstandard.ZstdDecompressor().stream_reader(raw) if packed else gzip.GzipFile(fileobj=raw)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                yield from (member.name for member in archive)


def test_no_kedro_in_the_image_and_the_same_answers(tool: Tool, project: tuple[Path, str]) -> None:
    folder, model = project
    # Each pipeline's __init__ imports pipeline.py, which imports Kedro, as kedro new writes it.
    for name in ("data_processing", "data_science"):
        home = folder / "src" / "flights" / "pipelines" / name
        assert "from .pipeline import create_pipeline" in (home / "__init__.py").read_text()
        assert "from kedro.pipeline import" in (home / "pipeline.py").read_text()
    tool("image", model, "--tag", "layout:1", cwd=folder)
    report = tool("verify", "layout:1", "--json", cwd=folder).json
    assert report["compared"]
    served = report["prediction"]["predictions"]
    [files] = (folder / "mlartifacts" / "models").glob("*/artifacts")
    recorded = json.loads((files / "recorded_prediction.json").read_text())["predictions"]
    assert [row["price"] for row in served] == pytest.approx([row["price"] for row in recorded], rel=1e-6)
    tool("image", model, "--output", folder / "layout", cwd=folder)
    tops = {name.partition("site-packages/")[2].partition("/")[0] for name in names_in_layers(folder / "layout")}
    assert "sklearn" in tops
    assert not {name for name in tops if name.startswith("kedro")}


def test_a_node_function_in_pipeline_py_brings_kedro_and_a_line(
    tool: Tool, project: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project[0], folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "mlartifacts"))
    file = folder / "src" / "flights" / "pipelines" / "data_science" / "pipeline.py"
    text = file.read_text().replace("from .nodes import fit, predict\n", "from .nodes import fit\n")
    body = "import pandas as pd\n\n\ndef predict(regressor, features, rate):\n"
    body += '    return pd.DataFrame({"price": regressor.predict(features) * rate})\n'
    file.write_text(f"{body}\n\n{text}")
    done = tool.run([BIN / "kedro", "run"], cwd=folder, PYTHONWARNINGS="ignore")
    assert done.code == 0, done.err + done.out
    [line] = [line for line in done.out.splitlines() if "more packages are in the image" in line]
    assert "flights/pipelines/data_science/pipeline.py, line 10, imports kedro.pipeline" in line
