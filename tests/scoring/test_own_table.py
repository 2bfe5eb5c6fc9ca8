"""Training's own table as Parquet: of types that a request brings as text, and those that no request has."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import models
import pandas as pd
import pytest
from scored import Score

from kbuild.recording.input.forms import describe

pytestmark = pytest.mark.filterwarnings("ignore")

TRAINING = pd.DataFrame(
    {
        "at": pd.to_datetime(["2026-01-31T12:00:00.25", "2026-07-01T00:00:00.5", None]).tz_localize("Europe/Warsaw"),
        "day": [datetime.date(2026, 1, 31), None, datetime.date(2026, 2, 1)],
        "clock": [datetime.time(12, 30), datetime.time(0, 0, 1), None],
        "cost": [decimal.Decimal("1.10"), decimal.Decimal("12345678901234.99"), decimal.Decimal("0.00")],
        "took": pd.to_timedelta(["1 days 02:00:00", "00:00:00.5", None]),
        "raw": [b"\xff\x00", None, b""],
        "word": ["a", None, "1"],
    }
)


def tell(table: pd.DataFrame, *params: Any) -> pd.DataFrame:
    """What the first node was given, as text."""
    told = {name: [f"{type(each).__name__} {each!r}" for each in table[name]] for name in table.columns}
    return pd.DataFrame({**told, "dtypes": [" ".join(map(str, table.dtypes))] * len(table)})


@pytest.fixture
def typed(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    import cloudpickle
    import mlflow.pyfunc
    from mlflow.models.signature import ModelSignature

    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    model = models.make_kedro_model(tmp_path / "params", tell)
    model.form = describe(TRAINING)
    columns = [{"name": name, "type": "string", "required": False} for name in TRAINING]
    signature = ModelSignature.from_dict({"inputs": json.dumps(columns)})
    artifacts = model.extract_pipeline_artifacts(tmp_path / "params")
    mlflow.pyfunc.save_model(
        tmp_path / "archive/model",
        python_model=model,
        artifacts=artifacts,
        signature=signature,
        pip_requirements=["mlflow"],
    )
    (tmp_path / "archive/archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
    monkeypatch.setenv("KBUILD_MODEL", str(tmp_path / "archive/model"))
    return score


def test_trainings_own_table_is_answered_as_training_answers_it(typed: Score) -> None:
    TRAINING.to_parquet("in.parquet", index=False)
    code, err, _ = typed("in.parquet", "out.parquet", "--keep", "none")
    assert code == 0, err
    pd.testing.assert_frame_equal(pd.read_parquet("out.parquet"), tell(TRAINING))


def test_a_text_column_takes_nothing_but_text(typed: Score) -> None:
    """A date is no text: what a model makes of "31.01.2026" says nothing of what it makes of a date."""
    for values in ([datetime.date(2026, 1, 31)] * 3, [decimal.Decimal("1.5")] * 3, [b"x"] * 3):
        TRAINING.assign(word=values).to_parquet("in.parquet", index=False)
        code, err, _ = typed("in.parquet", "out.parquet", "--overwrite")
        assert code == 81 and f"word has a value of the type {type(values[0]).__name__}, the model takes text" in err


def test_a_time_with_a_zone_is_refused_by_name_where_the_model_takes_none(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.save_model("dated", tmp_path / "archive/model")
    (tmp_path / "archive/archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
    monkeypatch.setenv("KBUILD_MODEL", str(tmp_path / "archive/model"))
    when = pd.to_datetime(["2026-01-31T12:00:00"]).tz_localize("UTC")
    pd.DataFrame({"x": [1.0], "when": when, "blob": [b"x"], "small": [1]}).to_parquet("in.parquet", index=False)
    code, err, _ = score("in.parquet", "out.parquet")
    assert code == 81 and "when has times of the zone UTC, and the model takes times without one" in err
