"""By what MLflow says that a name means nothing: its protocol's codes, and up to 3.1 of prompts words alone."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from kbuild.tracking.mlflow_client import is_absent

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("error", "absent"),
    [
        (MlflowException("no", error_code=codes.RESOURCE_DOES_NOT_EXIST), True),
        (MlflowException("no", error_code=codes.NOT_FOUND), True),
        (MlflowException("no", error_code=codes.INVALID_PARAMETER_VALUE), True),
        (MlflowException("Prompt (name=x, version=1) not found"), True),
        (MlflowException("the disk is full"), False),
        (MlflowException("the host was not found", error_code=codes.TEMPORARILY_UNAVAILABLE), False),
        (MlflowException("you may not", error_code=codes.PERMISSION_DENIED), False),
    ],
)
def test_what_is_not_there_is_known_by_its_code(error: MlflowException, absent: bool) -> None:
    assert is_absent(error) is absent
