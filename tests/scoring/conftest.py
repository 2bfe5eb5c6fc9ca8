"""Makes the serving tests' models importable: pytest's importlib mode leaves the folder off sys.path."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kbuild.scoring.__main__ import main

sys.path[:0] = [str(Path(__file__).parents[1] / "serving"), str(Path(__file__).parent)]

import models  # noqa: E402
from scored import Score  # noqa: E402

OUTPUTS = '[{"type": "double", "name": "sum", "required": true}, {"type": "boolean", "name": "big", "required": true}]'


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``kbuild pack`` lays beside each other: a model and what the archive says of itself."""

    def add_up(table: Any, scale: float, times: int, word: str) -> Any:
        if (table["a"] == 13).any():
            raise ValueError("13 is not served")
        return table[[]].assign(sum=table.sum(axis=1) * scale, big=table["c"] > 1)

    folder = tmp_path_factory.mktemp("archive")
    models.save_model("scored", folder / "model", func=add_up)
    mlmodel = (folder / "model/MLmodel").read_text()
    (folder / "model/MLmodel").write_text(mlmodel.replace("  outputs: null", f"  outputs: '{OUTPUTS}'"))
    (folder / "archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
    return folder


@pytest.fixture
def score(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Score:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("KBUILD_MODEL", str(archive / "model"))
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, str, dict[str, Any]]:
        code = main(["--workers", "1", *map(str, argv)])
        said = capsys.readouterr()
        return code, said.err, json.loads(said.out) if code == 0 else {}

    return call
