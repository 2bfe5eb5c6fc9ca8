"""How often recording runs the pipeline and loads its artifacts: no more than the answers that are compared need."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_datasets.pickle.pickle_dataset import PickleDataset

from kbuild.recording import record
from kbuild.recording.clean_check import RECORDED_PREDICTION, CleanAnswer
from kbuild.training.pipeline_ml import pipeline_ml_factory

pytestmark = pytest.mark.filterwarnings("ignore")
DONE: Counter[str] = Counter()


class Counted(PickleDataset):
    def load(self) -> Any:
        # MLflow 3.1 loads what it saves, to see whether it has type hints.
        by_mlflow = any(each.function == "save_model" and "mlflow" in each.filename for each in inspect.stack())
        DONE["loads by MLflow" if by_mlflow else "loads"] += 1
        return super().load()


class Fitted:
    """Counts how many of it are held at once."""

    held = 0
    most = 0

    def __init__(self, factor: float) -> None:
        self.__setstate__({"factor": factor})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        type(self).held += 1
        type(self).most = max(self.most, self.held)

    def __del__(self) -> None:
        type(self).held -= 1


def fit(x: Any) -> Any:
    return Fitted(2.0)


def score(x: Any, model: Any) -> Any:
    DONE["runs"] += 1
    return x * model.factor


@pytest.mark.slow
def test_three_answers_take_three_runs_and_each_file_is_loaded_twice_here(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of each is the clean process's, for which its recorded answer stands here."""
    catalog = DataCatalog(
        {"x": MemoryDataset(pd.DataFrame({"a": [1.0]})), "model": Counted(filepath=str(tmp_path / "model.pkl"))}
    )
    catalog.save("model", fit(None))
    bound = pipeline_ml_factory(Pipeline([node(fit, "x", "model")]), Pipeline([node(score, ["x", "model"], "y")]), "x")
    held: list[int] = []

    def ask(saved: Path, **_: Any) -> CleanAnswer:
        held.append(Fitted.held)
        return CleanAnswer(response=(saved / RECORDED_PREDICTION).read_text("utf-8"))

    monkeypatch.setattr(record, "ask_in_clean_process", ask)
    DONE.clear()
    Fitted.most = Fitted.held
    record.record_model(bound, catalog, run_id=store.create_run("0").info.run_id)
    more = DONE.pop("loads by MLflow", 0)
    assert DONE == {"runs": 2, "loads": 2}
    # One of it at a time, and none while another process loads its own.
    assert (Fitted.most, held) == (1 + more, [0])
