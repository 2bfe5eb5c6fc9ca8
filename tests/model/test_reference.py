from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kbuild.errors import InvalidReference
from kbuild.model.model_reference import ModelReference

RUN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RUN, {"kind": "run", "run_id": RUN}),
        (f" {RUN}\n", {"kind": "run", "run_id": RUN}),
        (f"runs:/{RUN}", {"kind": "run", "run_id": RUN, "name": None}),
        (f"runs:/{RUN}/model", {"kind": "run", "run_id": RUN, "name": "model"}),
        (f"runs:/{RUN}/models/first", {"kind": "run", "name": "models/first"}),
        (f"models:/m-{RUN}", {"kind": "logged", "model_id": f"m-{RUN}"}),
        (f"m-{RUN}", {"kind": "logged", "model_id": f"m-{RUN}"}),
        ("models:/churn/3", {"kind": "registered", "name": "churn", "version": "3"}),
        ("models:/churn", {"kind": "registered", "name": "churn", "alias": "latest", "text": "models:/churn"}),
        ("models:/churn/latest", {"kind": "registered", "name": "churn", "alias": "latest"}),
        ("models:/a@b@prod", {"kind": "registered", "name": "a@b", "alias": "prod"}),
        ("models:/a@b/2", {"kind": "registered", "name": "a@b", "version": "2", "alias": None}),
        ("models:/churn@champion", {"kind": "registered", "name": "churn", "alias": "champion"}),
    ],
)
def test_forms(text: str, expected: dict[str, object]) -> None:
    reference = ModelReference.parse(text)
    assert {field: getattr(reference, field) for field in expected} == expected


@pytest.mark.parametrize(
    "text",
    ["", "  ", "models:/", "models:/churn/newest", "models:/@x", "models:/churn@", "runs:/", "nope"],
)
def test_what_names_nothing_says_what_would(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        ModelReference.parse(text)
    assert "models:/NAME@ALIAS" in str(caught.value.hint)


def test_a_folder_with_mlmodel_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}")
    assert ModelReference.parse(str(tmp_path)).path == tmp_path
    assert ModelReference.parse(f"file://{tmp_path}").path == tmp_path
    assert ModelReference.parse(str(tmp_path / "MLmodel")).path == tmp_path


def test_a_folder_without_mlmodel_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidReference, match="without an MLmodel"):
        ModelReference.parse(str(tmp_path))


@given(st.text(alphabet=st.characters(exclude_characters="\x00"), max_size=60))
@example("~nobody-of-this-name/model")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except InvalidReference:
        return
    assert reference.kind in ("run", "logged", "registered", "path")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("0123456789abcdef" * 2, "01234567"),
        (f"runs:/{'ab' * 16}/churn", "runs:/abababab/churn"),
        ("models:/churn/3",) * 2,
    ],
)
def test_progress_names_a_run_by_the_beginning_of_its_id(text: str, short: str) -> None:
    assert ModelReference.parse(text).short == short
