"""What saving a model does to the data that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.models import ModelSignature

from kbuild.recording.input.signature import make_carried
from kbuild.recording.saving import copy_example


class Constant(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> list[int]:
        return [1]


@pytest.mark.filterwarnings("ignore")
def test_cells_of_the_users_data_stay_as_they_are(tmp_path: Path) -> None:
    data = pd.DataFrame({"cell": [{"a": 1}, {"a": 2}], "number": [1, 2]})
    carried = make_carried(data, data)
    copied = copy_example((carried.example, {"p": 1}))
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"),
        python_model=Constant(),
        signature=ModelSignature(inputs=carried.schema),
        input_example=copied[0],
        pip_requirements=["mlflow"],
    )
    assert [type(each["a"]) for each in data["cell"]] == [int, int]
    pd.testing.assert_frame_equal(copy_example(data), data)


def test_columns_of_one_name_and_none_are_copied() -> None:
    data = pd.DataFrame([[[1], [2]], [None, [3]]], columns=["a", "a"], index=[5, 6])
    copied = copy_example(data)
    pd.testing.assert_frame_equal(copied, data)
    copied.iloc[0, 0].append(9)
    assert data.iloc[0, 0] == [1]
    assert copy_example(None) is None
